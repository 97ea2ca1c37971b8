"""The D-scores of every fraction against those of random lesions."""

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from lobes.dissociation.verdict import ALPHA, is_significant, smallest_p
from lobes.report import formatting as fmt
from lobes.report import phrases
from lobes.report.charts import Strip, strip_plot
from lobes.report.glossary import FORMULAS
from lobes.report.phrases import HEADLINE
from lobes.report.run.findings import controls_of
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
from lobes.results.run import Dissociation, DScore, Fraction

_SDS = Markup(
    '<abbr title="distance from the random lesions’ mean, in their standard deviations">SDs</abbr>'
)
_READING = Markup(
    "A D-score says, in percent of the base score, how much more a task’s own lesion costs than it "
    "does otherwise; 0 means no dissociation. Three definitions are in use; "
    "<strong>column</strong> is the one to trust, since it compares a task only with itself. Gray "
    "dots are the D-scores of random lesions: the observed value (diamond, with its interval) must "
    "stand clear of them, not only of 0."
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
        title = f"{title_of(entry)}, {controls_of(entry)}"
        panels.append(Panel(title, (Panels(shown), Prose(_on_p(entry), "quiet"))))
    blocks: list[Block] = [Prose(_READING)]
    blocks += [Prose(note, "note") for note in _control_notes(results)]
    if len(found) > 1:
        blocks.append(_across(results, found))
    blocks.append(Alternatives("fraction", tuple(panels)))
    blocks.append(InTerminal((_in_terminal(results, found[-1]),)))
    title = "Dissociation scores"
    return Section("dissociation", title, tuple(blocks), contents="Dissociation")


def dissociations(results: RunResults) -> list[Dissociation]:
    """The D-scores of each fraction; empty unless every fraction has them."""
    found = [each.dissociation for each in results.fractions if each.dissociation is not None]
    return found if len(found) == len(results.fractions) else []


def _control_notes(results: RunResults) -> list[str]:
    """How the random lesions were measured, where not each one on all validation examples."""
    controls, notes = results.controls, []
    if controls.sample:
        sizes = sorted(controls.sample.values())
        size = " to ".join(fmt.thousands(end) for end in sorted({sizes[0], sizes[-1]}))
        notes.append(
            f"Random lesions were measured on a sample of {size} validation examples of each task; "
            f"p compares them with the D-score on these same examples (hollow diamond)."
        )
    if controls.stopped:
        wrong = f", wrong in at most {fmt.percent(controls.error)} of cases"
        notes.append(
            f"The drawing of random lesions stopped before the {fmt.thousands(controls.most)} "
            f"planned, as soon as it was decided on which side of {ALPHA} p lies"
            f"{wrong if math.isfinite(controls.error) else ''}: p says no more than that."
        )
    return notes


def _on_p(entry: Fraction) -> str:
    least = smallest_p(entry.n_controls)
    floor = (
        f"; {controls_of(entry)} allow no p below {fmt.p_value(least)}" if least == least else ""
    )
    return (
        f"p: the share of random lesions that dissociate at least as much, counting the observed "
        f"one{floor}. The p of single tasks are not corrected for their number. Each panel has its "
        f"own scale."
    )


def _across(results: RunResults, found: Sequence[Dissociation]) -> Table:
    columns = [Column("Definition")]
    for place, entry in enumerate(results.fractions):
        columns += [
            Column(fmt.percent(entry.fraction), "points", option=place),
            Column("Interval", "interval", under=True),
            Column("p", "p", under=True, lead=f"p{fmt.GAP}"),
        ]
    rows = []
    for definition in found[0].by_definition:
        cells: list[Value] = [definition]
        for dissociation in found:
            score = dissociation.by_definition[definition]
            cells += [score.mean, score.mean_interval, score.mean_p]
        rows.append(Row(tuple(cells)))
    caption = (
        "The model’s D-score (mean over tasks) at every fraction, in percent, with its interval "
        "and p"
    )
    return Table("across", caption, tuple(columns), tuple(rows), look="across")


def _panel(results: RunResults, place: int, name: str, score: DScore, k: int) -> Panel:
    size = phrases.size_of(results.fractions[place].fraction)
    drawing = strip_plot(
        _strips(results, score), f"{name} D-scores at {size}, in percent, against random lesions"
    )
    figure = () if drawing is None else (Figure(f"strip-{place}-{k}", drawing),)
    table = _scores(results, place, name, k, score)
    note = (Prose(score.note, "note"),) if score.note else ()
    return Panel(
        name,
        (Prose(FORMULAS[name], "formula"), *note, Beside((*figure, table), "pair")),
        chip="headline" if name == HEADLINE else "",
        headline=name == HEADLINE,
    )


def _strips(results: RunResults, score: DScore) -> list[Strip]:
    """The model and each task: the observed value, its interval, those of random lesions."""
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
    strips = _strips(results, score)
    p_values = [score.mean_p, *score.p_values.tolist()]
    distances = [score.mean_standardized, *score.standardized.tolist()]
    sampled = results.controls.sample is not None
    columns = [
        Column("Task"),
        Column("D", "points", strong=True),
        Column("Interval", "interval"),
        Column("D on the sample", "points", under=True, lead="on the sample ", in_terminal=False),
        Column("Random lesions", "interval"),
        Column("p", "p"),
        Column("SDs", "points", head=_SDS, in_terminal=False),
    ]
    kept = [c for c in columns if c.title != "D on the sample" or sampled]
    # not by the distances themselves: the terminal stacks the tables of all definitions
    kept = [c for c in kept if c.title != "SDs" or results.fractions[place].n_controls > 1]
    rows = []
    for strip, p, distance in zip(strips, p_values, distances, strict=True):
        cells: dict[str, Value | Cell] = {
            "Task": strip.label,
            "D": strip.value,
            "Interval": (strip.low, strip.high),
            "D on the sample": strip.on_sample,
            "Random lesions": (min(strip.controls), max(strip.controls))
            if strip.controls
            else None,
            "p": marked(p, "beyond") if is_significant(p) else p,
            "SDs": distance,
        }
        rows.append(Row(tuple(cells[c.title] for c in kept), "mean" if strip.is_mean else ""))
    caption = f"{name} D-scores in percent, {fmt.percent(results.fractions[place].fraction)}"
    return Table(f"scores-{place}-{k}", caption, tuple(kept), tuple(rows))


def _in_terminal(results: RunResults, found: Dissociation) -> Table:
    """The D-scores of the largest fraction by all definitions, as one table."""
    entry, place = results.fractions[-1], len(results.fractions) - 1
    tables = {
        name: _scores(results, place, name, k, score)
        for k, (name, score) in enumerate(found.by_definition.items())
    }
    title = f"D-scores in percent at {title_of(entry)}, against {controls_of(entry)}"
    return stacked("Definition", tables, "d-scores", title)
