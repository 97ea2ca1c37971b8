"""The D-scores of every fraction against those of exchanged heads."""

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from lobes.dissociation.verdict import smallest_p
from lobes.report import formatting as fmt
from lobes.report import phrases
from lobes.report.charts import Strip, strip_plot
from lobes.report.glossary import formula
from lobes.report.lesion_words import words_of
from lobes.report.phrases import HEADLINE
from lobes.report.run.lesions import title_of
from lobes.report.sections import (
    Alternatives,
    Beside,
    Block,
    Figure,
    InTerminal,
    Panel,
    Panels,
    Prose,
    Section,
)
from lobes.report.tables import (
    Cell,
    Column,
    Row,
    Table,
    Value,
    marked,
    stacked,
)
from lobes.results import RunResults
from lobes.results.fractions import Dissociation, DScore, Fraction

_SDS = Markup('<abbr title="above the exchanges’ mean, in their standard deviations">SDs</abbr>')
_READING = Markup(
    "A D-score says, in percent of {}, how much {} a task loses by its own lesion than by "
    "the lesions of others; 0 means no dissociation. Three definitions are in use; "
    "<strong>column</strong> is the one to trust, since it compares a task only with itself. {} "
    "Gray dots are the D-scores of exchanged heads: the observed value (diamond, with its "
    "interval) must stand clear of them, not only of 0."
)
ALL_FRACTIONS = "all fractions"
_ON_TASKS = (
    "The p of single tasks describe and do not test: they are too small where one task’s "
    "importance is noisier than another’s, and they are not corrected for their number."
)
_ACROSS = (
    Column("D", "points", strong=True),
    Column("Interval", "interval"),
    Column("SDs above exchanges", "points"),
    Column("p (exchange)", "p"),
    Column("Exchangeable heads", "count"),
    Column("SDs above random lesions", "points", head=Markup("SDs above random")),
    Column("p (random lesions)", "p", head=Markup("p (random)")),
)


def section(results: RunResults) -> Section | None:
    """The D-scores of every fraction; None unless every fraction has them."""
    found = dissociations(results)
    if not found:
        return None
    panels = []
    for place, (entry, dissociation) in enumerate(zip(results.fractions, found, strict=True)):
        shown = tuple(
            _panel(results, place, name, score, k)
            for k, (name, score) in enumerate(dissociation.by_definition.items())
        )
        title = f"{title_of(entry)}, {phrases.exchanges(entry.n_controls)}"
        panels.append(Panel(title, (Panels(shown), Prose(_on_p(entry), "quiet"))))
    words = words_of(results.lesioning)
    possible = any(entry.exchangeable for entry in results.fractions)
    exchange = phrases.EXCHANGE if possible else phrases.NOTHING_TO_EXCHANGE
    blocks: list[Block] = [
        Prose(_READING.format(phrases.unit_of(results.tasks), words.costs, exchange))
    ]
    blocks += [Prose(note, "note") for note in _control_notes(results)]
    blocks += [_across(results, found), Prose(_on_across(results), "quiet")]
    blocks.append(Alternatives("fraction", tuple(panels)))
    blocks.append(InTerminal((_in_terminal(results),)))
    title = "Dissociation scores"
    return Section(
        "dissociation",
        title,
        tuple(blocks),
        contents="Dissociation",
        asks="Is it more than exchanged heads would show?",
    )


def dissociations(results: RunResults) -> list[Dissociation]:
    """The D-scores of each fraction; empty unless every fraction has them."""
    found = [each.dissociation for each in results.fractions if each.dissociation is not None]
    return found if len(found) == len(results.fractions) else []


def _control_notes(results: RunResults) -> list[str]:
    """How the exchanges were measured, where not each one on all validation examples."""
    controls, notes = results.controls, []
    if controls.sample:
        sizes = sorted(controls.sample.values())
        size = " to ".join(fmt.thousands(end) for end in sorted({sizes[0], sizes[-1]}))
        notes.append(
            f"Exchanged heads and random lesions were measured on a sample of {size} validation "
            f"examples of each task; p compares them with the D-score on these same examples "
            f"(hollow diamond)."
        )
    return notes


def _on_p(entry: Fraction) -> str:
    least = smallest_p(entry.n_controls)
    floor = (
        f"; {fmt.plural(entry.n_controls, 'exchange')} allow no p below {fmt.p_value(least)}"
        if math.isfinite(least)
        else ""
    )
    return (
        f"p: the share of exchanges that dissociate at least as much, counting the observed "
        f"one{floor}. {_ON_TASKS} Each panel has its own scale."
    )


def _across(results: RunResults, found: Sequence[Dissociation]) -> Table:
    """The model's D-scores at every fraction, and p over all fractions."""
    rows = []
    for definition in found[0].by_definition:
        for entry, dissociation in zip(results.fractions, found, strict=True):
            score = dissociation.by_definition[definition]
            cells: tuple[Value | Cell, ...] = (
                *(definition, fmt.percent(entry.fraction), score.mean, score.mean_interval),
                *(score.mean_standardized, results.p_at(entry, score), entry.exchangeable),
                *(marked(each, "quiet") for each in (score.random_standardized, score.random_p)),
            )
            rows.append(Row(cells))
        if definition == HEADLINE and len(found) > 1 and results.over_fractions is not None:
            over = results.over_fractions
            most = max((each.exchangeable for each in results.fractions), default=0)
            distance = float(np.nanmax([-math.inf, *over.standardized]))
            p = phrases.tested(over.p)
            tests: tuple[Value | Cell, ...] = (distance, p, most, None, None)
            rows.append(Row((definition, ALL_FRACTIONS, None, None, *tests), "mean"))
    caption = (
        "The model’s D-score (mean over tasks) at every fraction, in percent: against exchanged "
        "heads, which tests whether heads belong to tasks, and against random lesions, a weaker "
        "reading"
    )
    title = (
        f"D-scores in percent (mean over tasks), against "
        f"{phrases.exchanges(results.fractions[-1].n_controls)} of the tasks’ heads and "
        f"{phrases.random_of(results.fractions[-1])}"
    )
    columns = (Column("Definition"), Column(words_of(results.lesioning).heads), *_ACROSS)
    return Table("across", caption, columns, tuple(rows), terminal=title)


def _on_across(results: RunResults) -> str:
    entry = results.fractions[-1]
    text = (
        "p (exchange) is the test: of the exchanges and the observed arrangement, the share that "
        "dissociate at least as much."
    )
    if len(results.fractions) > 1:
        text += (
            " That over all fractions compares the D-score that stands out most with the same of "
            "each exchange, so that no fraction is chosen; the verdict follows it."
        )
    if entry.n_random:
        lesions, verb = phrases.random_of(entry), "says" if entry.n_random == 1 else "say"
        text += (
            f" {lesions[0].upper()}{lesions[1:]} {verb} how harmful any lesion is: "
            f"standing out from them shows that important heads are unlike other heads, not that "
            f"they belong to tasks."
        )
    return f"{text} {phrases.IN_COLOR}"


def _panel(results: RunResults, place: int, name: str, score: DScore, k: int) -> Panel:
    size = phrases.size_of(results.fractions[place].fraction)
    drawing = strip_plot(
        strips(results, score), f"{name} D-scores at {size}, in percent, against exchanged heads"
    )
    figure = () if drawing is None else (Figure(f"strip-{place}-{k}", drawing),)
    table = _scores(results, place, name, k, score)
    note = (Prose(score.note, "note"),) if score.note else ()
    shown = formula(name, results.lesioning, in_spreads=phrases.in_spreads(results.tasks))
    return Panel(
        name,
        (
            Prose(shown, "formula"),
            *note,
            Beside((*figure, table), "pair"),
        ),
        chip="headline" if name == HEADLINE else "",
        headline=name == HEADLINE,
    )


def strips(results: RunResults, score: DScore) -> list[Strip]:
    """The model and each task: the observed value, its interval, those of exchanges."""
    sampled = results.controls.sample is not None

    def strip(
        label: str,
        value: float,
        interval: Sequence[float],
        controls: np.ndarray,
        compared: float,
        is_mean: bool = False,
    ) -> Strip:
        low, high = interval
        known = controls[np.isfinite(controls)].tolist()
        on_sample = compared if sampled else math.nan
        return Strip(label, value, low, high, known, is_mean, on_sample)

    mean = strip(
        "all tasks",
        score.mean,
        score.mean_interval,
        score.control_means,
        score.compared_mean,
        is_mean=True,
    )
    tasks = zip(
        results.names,
        score.values.tolist(),
        score.interval.tolist(),
        score.control_values.T,
        score.compared.tolist(),
        strict=True,
    )
    return [mean, *(strip(*each) for each in tasks)]


def _scores(results: RunResults, place: int, name: str, k: int, score: DScore) -> Table:
    lines = strips(results, score)
    p_values = [score.mean_p, *score.p_values.tolist()]
    distances = [score.mean_standardized, *score.standardized.tolist()]
    sampled = results.controls.sample is not None
    columns = [
        Column("Task"),
        Column("D", "points", strong=True),
        Column("Interval", "interval"),
        Column("D on the sample", "points", under=True, lead="on the sample ", in_terminal=False),
        Column("Exchanges", "interval"),
        Column("SDs above exchanges", "points", head=_SDS),
        Column("p", "p"),
    ]
    kept = [c for c in columns if c.title != "D on the sample" or sampled]
    rows = []
    for strip, p, distance in zip(lines, p_values, distances, strict=True):
        cells: dict[str, Value | Cell] = {
            "Task": strip.label,
            "D": strip.value,
            "Interval": (strip.low, strip.high),
            "D on the sample": strip.on_sample,
            "Exchanges": (min(strip.controls), max(strip.controls)) if strip.controls else None,
            "SDs above exchanges": distance,
            "p": phrases.tested(p) if strip.is_mean else marked(p, "quiet"),
        }
        rows.append(Row(tuple(cells[c.title] for c in kept), "mean" if strip.is_mean else ""))
    caption = (
        f"{name} D-scores in percent, {fmt.percent(results.fractions[place].fraction)}; p of "
        f"single tasks: a description, not a test"
    )
    return Table(f"scores-{place}-{k}", caption, tuple(kept), tuple(rows))


def _in_terminal(results: RunResults) -> Table:
    """The D-scores of the fraction that stands out most by all definitions, as one table."""
    entry = results.strongest
    assert entry is not None
    assert entry.dissociation is not None
    place = results.fractions.index(entry)
    tables = {
        name: _scores(results, place, name, k, score)
        for k, (name, score) in enumerate(entry.dissociation.by_definition.items())
    }
    title = (
        f"D-scores of the tasks in percent at {title_of(entry)}; p of single tasks: a description, "
        f"not a test"
    )
    return stacked("Definition", tables, "d-scores", title)
