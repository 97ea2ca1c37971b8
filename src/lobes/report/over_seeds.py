"""The tables and figures that comparisons and transfer studies share: means and differences."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.text import Text

from lobes.dissociation.verdict import is_significant
from lobes.report import figures
from lobes.report import formatting as fmt
from lobes.report.findings import Results
from lobes.report.parts import (
    ComparedTask,
    DifferencePanel,
    DifferenceRow,
    MeanRow,
    ScoreCell,
    SeedTable,
)
from lobes.report.terminal import plain_table, title_line

# What stands at the head of a column.
NAMES = {
    "single": "single-task",
    "multi": "multi-task",
    "iat": "IAT",
    "frozen": "frozen encoder",
    "probe": "linear probe",
    "pretrained": "pre-trained",
}

Show = Callable[[float], str]


def score_cell(estimate: Mapping[str, Any], show: Show = fmt.fixed) -> ScoreCell:
    """A mean with its interval, written by `show`."""
    low, high = (fmt.number(estimate[end]) for end in ("low", "high"))
    return ScoreCell(show(fmt.number(estimate["mean"])), fmt.interval(low, high, show))


def panel(
    entry: Results,
    labels: Sequence[str],
    found: Sequence[Mapping[str, Any]],
    singles: Sequence[Sequence[float]],
    *,
    axis: str,
    show: Show = fmt.difference,
    headline: bool = False,
) -> DifferencePanel:
    """One way to train against another: rows labeled `labels` with the estimates `found`.

    `singles` are the differences of the single seeds, for each row. A row without "p_holm" is the
    mean over the others.
    """
    title = f"{NAMES[entry['first']]} − {NAMES[entry['second']]}"
    strips = [
        figures.Strip(
            label=label,
            value=fmt.number(each["mean"]),
            low=fmt.number(each["low"]),
            high=fmt.number(each["high"]),
            controls=[value for value in single if math.isfinite(value)],
            is_mean="p_holm" not in each,
        )
        for label, each, single in zip(labels, found, singles, strict=True)
    ]

    def in_words(strip: figures.Strip) -> str:
        text = f"{strip.label}: {show(strip.value)}"
        if math.isfinite(strip.low):
            text += f", interval {fmt.interval(strip.low, strip.high, show)}"
        if strip.controls:
            spread = fmt.interval(min(strip.controls), max(strip.controls), show)
            text += f", single seeds {spread}"
        return text + "."

    rows = [_difference_row(s, e, show) for s, e in zip(strips, found, strict=True)]
    plot = figures.strip_plot(strips, f"{title}: {axis}, over seeds", axis, in_words)
    return DifferencePanel(title=title, is_headline=headline, plot=plot, rows=tuple(rows))


def difference_row(label: str, estimate: Mapping[str, Any], show: Show) -> DifferenceRow:
    """A row by itself, of the mean over tasks."""
    low, high = (fmt.number(estimate[end]) for end in ("low", "high"))
    strip = figures.Strip(label, fmt.number(estimate["mean"]), low, high, (), is_mean=True)
    return _difference_row(strip, estimate, show)


def _difference_row(strip: figures.Strip, estimate: Mapping[str, Any], show: Show) -> DifferenceRow:
    p, p_holm = (fmt.number(estimate.get(key)) for key in ("p", "p_holm"))
    return DifferenceRow(
        label=strip.label,
        value=show(strip.value),
        interval=fmt.interval(strip.low, strip.high, show),
        p=fmt.p_value(p),
        p_holm=fmt.p_value(p_holm),
        beyond=is_significant(p if strip.is_mean else p_holm),
        is_mean=strip.is_mean,
    )


def best(estimates: Sequence[Mapping[str, Any]]) -> float:
    """The highest of the means that are defined; nan without any."""
    means = [fmt.number(each["mean"]) for each in estimates]
    return max((value for value in means if math.isfinite(value)), default=math.nan)


def numbers(rows: Sequence[Sequence[object]]) -> list[list[float]]:
    """[seeds][columns] as floats, nan for null."""
    return [[fmt.number(value) for value in row] for row in rows]


def mean(values: Sequence[float]) -> float:
    """The plain mean; nan without values, or with an undefined one."""
    return sum(values) / len(values) if values else math.nan


def compared_tasks(tasks: Sequence[Results]) -> tuple[ComparedTask, ...]:
    """The tasks with the sizes of their data."""
    return tuple(
        ComparedTask(
            name=task["name"],
            metric=task["metric"],
            outputs=fmt.outputs(task),
            n_train=fmt.thousands(task.get("n_train")),
            n_held_out=fmt.thousands(task.get("n_held_out")),
            n_validation=fmt.thousands(task.get("n_validation")),
        )
        for task in tasks
    )


def level_of(study: Results) -> str:
    """`95 %`."""
    return fmt.percent(fmt.number(study.get("level", 0.95)))


def means_table(title: str, first: str, columns: Sequence[str], rows: Sequence[MeanRow]) -> Group:
    """The scores for the terminal: means, with their intervals under them."""
    shown = plain_table(first, *columns, "chance")
    for row in rows:
        name = Text(row.label, "bold" if row.is_mean else "")
        if row.warning:
            name.append(f" ({row.warning})", style="yellow")
        shown.add_row(name, *(_mean_cell(cell) for cell in row.cells), Text(row.chance, "dim"))
    return Group(title_line(title), shown)


def _mean_cell(cell: ScoreCell) -> Text:
    text = Text(cell.value, "bold")
    if cell.interval != fmt.UNDEFINED:
        text.append(f"\n{cell.interval}", style="not bold dim")
    return text


def difference_table(title: str, first: str, panels: Sequence[DifferencePanel]) -> Group:
    """The differences for the terminal, all pairs in one table."""
    shown = plain_table("difference", first, "mean", "interval", "p", "p (Holm)", left=2)
    for each in panels:
        for number, row in enumerate(each.rows):
            shown.add_row(
                Text(each.title if number == 0 else "", "bold"),
                Text(row.label, "bold" if row.is_mean else ""),
                Text(row.value, "bold" if row.is_mean else ""),
                Text(row.interval),
                Text(row.p, "green" if row.beyond and row.is_mean else ""),
                Text(row.p_holm, "green" if row.beyond and not row.is_mean else ""),
            )
    return Group(title_line(title), shown)


def seed_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> SeedTable:
    """Frozen, for the page."""
    return SeedTable(tuple(header), tuple(tuple(row) for row in rows))
