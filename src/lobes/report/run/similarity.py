"""How alike the tasks are, against how far each pair dissociates (claim 2)."""

import math
from collections.abc import Sequence
from itertools import combinations

from lobes.dissociation.verdict import Trend, deciding
from lobes.report import formatting as fmt
from lobes.report.charts import Points, chart
from lobes.report.phrases import measure_in_words as in_words
from lobes.report.phrases import size_of
from lobes.report.sections import Block, Details, Figure, Panel, Panels, Prose, Section
from lobes.report.tables import MOST_PAIRS, MOST_TASKS, Column, Row, Table
from lobes.results import RunResults
from lobes.results.beside_lesions import Measure, Similarity

Pairs = Sequence[tuple[int, int]]


def section(results: RunResults, *, whole: bool = False) -> Section | None:
    """The section; None where similarity was not measured.

    Of many tasks, charts and tables hold some of the pairs, evenly chosen; all of them if `whole`.
    """
    found = results.similarity
    if found is None:
        return None
    pairs: Pairs = list(combinations(range(len(results.tasks)), 2))
    n_pairs, is_large = len(pairs), len(results.tasks) > MOST_TASKS
    if is_large and not whole:
        pairs = pairs[:: math.ceil(n_pairs / MOST_PAIRS)]
    text = (
        f"Claim 2 says: the less alike two tasks are, the more they dissociate. Each point is a "
        f"pair of tasks at {size_of(found.fraction)}; under the claim the points fall from left to "
        f"right (its height is the D-score of the pair, in percent). Pairs share tasks, so p comes "
        f"from exchanging whole tasks; it is one-sided. Measures made from the heads of the "
        f"lesions themselves go with the D-scores partly by construction."
    )
    panels = tuple(
        _panel(place, measure, trend, found, pairs, results.names)
        for place, (measure, trend) in enumerate(zip(found.measures, found.evidence, strict=True))
    )
    summary = f"{'Pairs' if is_large else 'Every pair'} of tasks"
    return Section(
        "likeness",
        "Similarity of tasks",
        (
            Prose(text),
            *([Panels(panels, "charts wide")] if n_pairs > 2 else ()),
            _trend_table(found),
            Details(summary, (_pair_table(found, pairs, n_pairs, results.names),)),
        ),
        contents="Similarity",
        asks="Do tasks that are less alike dissociate more?",
    )


def how_sure(results: RunResults) -> str:
    """The numbers beside the verdict on claim 2, of the measure that it speaks of."""
    found = results.similarity
    trend = deciding(found.evidence) if found is not None else None
    if found is None or trend is None:
        return fmt.UNDEFINED
    measure = next(each for each in found.measures if each.name == trend.measure)
    n_defined = sum(math.isfinite(each.correlation) for each in found.evidence)
    return (
        f"{in_words(measure.name, corrected=measure.corrected)}: correlation "
        f"{fmt.fixed(trend.correlation, 2, sign=True)} (interval {_span(trend)}), "
        f"{fmt.p_equals(measure.trend.p)} by exchanging tasks, "
        f"{fmt.p_equals(trend.p)} corrected for {fmt.plural(n_defined, 'measure')}"
    )


def _panel(
    place: int,
    measure: Measure,
    trend: Trend,
    found: Similarity,
    pairs: Pairs,
    names: Sequence[str],
) -> Panel:
    text = trend.note or "no trend"
    if math.isfinite(trend.correlation):
        text = (
            f"correlation {fmt.fixed(trend.correlation, 2, sign=True)} ({_span(trend)}), "
            f"{fmt.p_equals(measure.trend.p)}"
        )
    drawn = chart(
        [
            Points(
                "pairs",
                "pairs",
                [float(measure.values[pair]) for pair in pairs],
                [float(found.pair_d_scores[pair]) for pair in pairs],
                names=[f"{names[i]}, {names[j]}" for i, j in pairs],
                joined=False,
            )
        ],
        f"D-score of each pair of tasks against their similarity, by {measure.name}",
        axes=("similarity", "pair D-score, %"),
        description=f"{fmt.plural(len(pairs), 'pair')} of tasks; {text.rstrip('.')}.",
    )
    blocks: list[Block] = [Prose(in_words(measure.name, corrected=measure.corrected), "axis")]
    if drawn is not None:
        blocks.append(Figure(f"likeness-{place}", drawn))
    blocks.append(Prose(text, "axis"))
    chip = "independent of the lesions" if trend.is_independent else ""
    return Panel(measure.name, tuple(blocks), chip=chip)


def _span(trend: Trend) -> str:
    return fmt.interval(trend.low, trend.high, lambda end: fmt.fixed(end, 2, sign=True))


def _trend_table(found: Similarity) -> Table:
    rows = tuple(
        Row(
            (
                one.name,
                in_words(one.name, corrected=one.corrected),
                one.trend.correlation,
                one.trend.interval,
                one.trend.p,
                one.trend.p_holm,
                one.n_examples,
            )
        )
        for one in found.measures
    )
    return Table(
        "trends",
        "Spearman’s correlation of similarity with the D-score over the pairs of tasks; negative: "
        "less alike tasks dissociate more",
        (
            Column("Measure"),
            Column("What it is"),
            Column("Correlation", "signed", digits=2),
            Column("Interval", "interval", ends="signed", digits=2),
            Column("p", "p"),
            Column("p (Holm)", "p"),
            Column("Examples", "count"),
        ),
        rows,
    )


def _pair_table(found: Similarity, pairs: Pairs, n_pairs: int, names: Sequence[str]) -> Table:
    which = "Every pair of tasks"
    if len(pairs) < n_pairs:
        shown, everything = fmt.thousands(len(pairs)), fmt.thousands(n_pairs)
        which = f"{shown} of {everything} pairs of tasks, evenly chosen"
    return Table(
        "likeness",
        f"{which}: its D-score in percent, and how alike the two are by each measure",
        (
            Column("First"),
            Column("Second"),
            Column("Pair D-score", "points"),
            *(Column(one.name, "signed") for one in found.measures),
        ),
        tuple(
            Row(
                (
                    *(names[i], names[j], found.pair_d_scores[i, j]),
                    *(one.values[i, j] for one in found.measures),
                )
            )
            for i, j in pairs
        ),
    )
