"""What every two tasks lose by their own lesion more than by the other's."""

import math
from collections.abc import Sequence

from markupsafe import Markup

from lobes.report import formatting as fmt
from lobes.report import phrases
from lobes.report.lesion_words import words_of
from lobes.report.run.dissociation import dissociations
from lobes.report.run.lesions import is_large, title_of
from lobes.report.sections import Alternatives, Block, Panel, Prose, Section
from lobes.report.tables import MOST_PAIRS, Column, Row, Table, marked
from lobes.results import RunResults
from lobes.results.fractions import Fraction, Pair

_READING = Markup(
    "A <em>double dissociation</em>: the first task loses {0} by its own lesion than by the "
    "second’s, <strong>and</strong> the second {0} by its own than by the first’s. Both "
    "differences are tested on the same validation examples (paired, one-sided); the larger p "
    "counts, corrected for the number of pairs after Holm: it says that other examples would show "
    "the same of these two lesions. Two lesions may differ in how severe they are without any "
    "specialization, so the smaller of the two differences must also stand out from the same with "
    "heads exchanged between these two tasks, again corrected: that says that the heads belong to "
    "the tasks. It takes two tasks that the model does clearly better than chance."
)
ONLY_LARGEST = (
    "Of three tasks or more, heads are exchanged between two tasks at the largest fraction only: "
    "here is the test over the examples alone."
)
_TESTS = (
    Column("p (Holm)", "p"),
    Column("p (exchange)", "p"),
    Column("p (exchange, Holm)", "p", under=True, lead=f"Holm{fmt.GAP}"),
    Column("Double dissociation"),
)


def section(results: RunResults, *, whole: bool = False) -> Section | None:
    """Every pair of tasks, or of many tasks the strongest unless `whole`."""
    if not dissociations(results):
        return None
    panels, costs = [], words_of(results.lesioning).costs
    for place, entry in enumerate(results.fractions):
        cut = not whole and is_large(results)
        pairs = strongest(entry.pairs) if cut else entry.pairs
        double = sum(pair.double_dissociation for pair in entry.pairs)
        blocks: list[Block] = []
        if len(pairs) < len(entry.pairs):
            blocks.append(
                Prose(
                    f"The {len(pairs)} pairs that dissociate most; all are in the exported table "
                    f"pairs-{place}.csv.",
                    "note",
                )
            )
        lacking = ONLY_LARGEST if _left_out(results, entry) else phrases.pair_caveat(entry)
        if lacking:
            blocks.append(Prose(lacking, "note"))
        title = f"{title_of(entry)}: {double} of {fmt.plural(len(entry.pairs), 'pair')}"
        panels.append(Panel(title, (*blocks, _pairs(results, place, pairs))))
    return Section(
        "pairs",
        "Pairs of tasks",
        (Prose(_READING.format(costs)), Alternatives("fraction", tuple(panels))),
        contents="Pairs",
        asks="Which pairs of tasks dissociate in both directions?",
    )


def strongest(pairs: Sequence[Pair]) -> list[Pair]:
    """The `MOST_PAIRS` pairs of tasks that dissociate most, the most first."""

    def order(pair: Pair) -> tuple[bool, float, float]:
        least = min(pair.effects)
        p = pair.p_holm
        return (
            not pair.double_dissociation,
            p if math.isfinite(p) else math.inf,
            -least if math.isfinite(least) else math.inf,
        )

    return sorted(pairs, key=order)[:MOST_PAIRS]


def _left_out(results: RunResults, entry: Fraction) -> bool:
    """Whether pairs were tested by exchange, but not at this fraction."""
    assert results.largest is not None
    return not entry.n_pair_controls and results.largest.n_pair_controls > 0


def _pairs(results: RunResults, place: int, pairs: Sequence[Pair]) -> Table:
    entry = results.fractions[place]
    lacking = "not tested" if _left_out(results, entry) else "too few exchanges"
    rows = []
    for pair in pairs:
        effects = zip(
            pair.effects, pair.effect_intervals, pair.relative_effects, pair.p_values, strict=True
        )
        double = phrases.double_of(pair, entry, results.standings, lacking)
        rows.append(
            Row(
                (
                    *(pair.first, pair.second),
                    *(value for effect in effects for value in effect),
                    *(pair.p_holm, pair.p_controls, pair.p_controls_holm),
                    marked(double, "chip", "good") if double == "yes" else marked(double, "quiet"),
                )
            )
        )
    costs = words_of(results.lesioning).costs
    exchanges = phrases.exchanges_between(entry.n_pair_controls)
    caption = (
        f"How much {costs} each task of a pair loses by its own lesion, in units of its metric, "
        f"{fmt.percent(entry.fraction)}; p and p (Holm) are over the examples, p (exchange) is "
        f"against {exchanges}"
    )
    unit = "% of the SD" if phrases.in_spreads(results.tasks) else "% of base"
    effect = (
        Column("Interval", "interval", ends="signed", under=True),
        Column("Share", "points", unit, under=True),
        Column("p", "p"),
    )
    columns = (
        *(Column("First"), Column("Second")),
        *(Column(f"First loses {costs}", "signed"), *effect),
        *(Column(f"Second loses {costs}", "signed"), *effect),
        *_TESTS,
    )
    return Table(f"pairs-{place}", caption, columns, tuple(rows))
