"""How specialisation grows over the training: checkpoints from step 0 to the end.

At step 0, before multi-task training, linear probes stand in for the classifiers. The change is
the last checkpoint minus the first, on the same validation examples (paired bootstrap). Every mean
over tasks is over those with a D-score at the first and at the last checkpoint.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from lobes.dissociation.dscores import mean_where, shared_tasks
from lobes.dissociation.verdict import Answer
from lobes.report import formatting as fmt
from lobes.report.charts import Chart, Points, chart, in_words
from lobes.report.findings import DEFINITIONS, HEADLINE, Results, some
from lobes.report.tabular import Table


@dataclass(frozen=True)
class Growth:
    """The checkpoints: the D-score as a chart, a chart for each task, and all numbers."""

    sentence: str
    fraction: str
    charts: tuple[Chart | None, ...]
    task_charts: tuple[Chart | None, ...]
    tables: tuple[Table, ...]


@dataclass(frozen=True)
class Change:
    """A D-score at the first and the last checkpoint and its change; nan = undefined.

    `left_out` are the tasks without a D-score at one of the two.
    """

    first_step: str
    last_step: str
    first: float
    last: float
    change: float
    low: float
    high: float
    left_out: tuple[str, ...]


def growth(results: Results) -> Growth | None:
    """The growth part of a report; None where no checkpoint was measured."""
    found = results.get("growth")
    if not found or not found["points"]:
        return None
    points = _points(found)
    names = [task["name"] for task in results["tasks"]]
    return Growth(
        sentence=_sentence(change_of(results)),
        fraction=fmt.percent(fmt.number(found["fraction"])),
        charts=(_d_chart(points),),
        task_charts=tuple(_task_chart(points, k, name) for k, name in enumerate(names)),
        tables=(_d_table(points), *_task_tables(points, names)),
    )


def change_of(results: Results, definition: str = HEADLINE) -> Change | None:
    """How the model's D-score changed over the training; None where that was not measured."""
    found = results.get("growth")
    if not found or len(found["points"]) < 2 or not found.get("change"):
        return None
    points = _points(found)
    change = found["change"][definition]
    low, high = (fmt.number(end) for end in change["mean_interval"] or (None, None))
    first, last = (scores[0] for scores in _means([points[0], points[-1]], definition))
    shared = _shared(points, definition)
    names = [task["name"] for task in results["tasks"]]
    return Change(
        first_step=fmt.thousands(points[0]["step"]),
        last_step=fmt.thousands(points[-1]["step"]),
        first=first,
        last=last,
        change=fmt.number(change["mean"]),
        low=low,
        high=high,
        left_out=tuple(name for name, kept in zip(names, shared, strict=True) if not kept),
    )


def verdict(results: Results) -> tuple[Answer, str, str] | None:
    """Whether training made the heads more specialised: answer, headline, how sure it is."""
    change = change_of(results)
    if change is None:
        return None
    if not math.isfinite(change.change):
        return (
            "open",
            "Inconclusive: the D-score is undefined before or after the training.",
            fmt.UNDEFINED,
        )
    sure = (
        f"{fmt.points(change.first)} % at step {change.first_step}, "
        f"{fmt.points(change.last)} % at step {change.last_step}: {fmt.points(change.change)} "
        f"(interval {fmt.interval(change.low, change.high)}, paired bootstrap)"
        f"{f', without {some(change.left_out)}' if change.left_out else ''}"
    )
    if change.low > 0:
        return "yes", "Yes: the D-score is larger than before multi-task training.", sure
    if change.high < 0:
        return "no", "No: the D-score is smaller than before multi-task training.", sure
    return "open", "Inconclusive: the interval of the change includes 0.", sure


def _sentence(change: Change | None) -> str:
    if change is None or not math.isfinite(change.change):
        return "How much the D-score changed over the training is not defined here."
    span = fmt.interval(change.low, change.high)
    way = "rose" if change.change > 0 else "fell" if change.change < 0 else "stayed"
    text = (
        f"The {HEADLINE} D-score {way} from {fmt.points(change.first)} % at step "
        f"{change.first_step} to {fmt.points(change.last)} % at step {change.last_step}: a "
        f"change of {fmt.points(change.change)} (interval {span})"
    )
    if change.low <= 0 <= change.high:
        text += ", which the validation examples cannot tell from no change"
    if change.left_out:
        text += (
            f". The means leave out {some(change.left_out)}, without a D-score at one of the two "
            f"steps"
        )
    return text + "."


def _points(found: Results) -> list[Results]:
    return sorted(found["points"], key=lambda point: point["step"])


def _values(point: Results, definition: str) -> np.ndarray:
    """Each task's D-score at a checkpoint, nan = undefined; [tasks]."""
    found = (point.get("dissociation") or {}).get(definition)
    values = found["values"] if found else [None] * len(point["base"])
    return np.array([fmt.number(value) for value in values])


def _shared(points: Sequence[Results], definition: str) -> Bool[np.ndarray, " tasks"]:
    """Which tasks have a D-score at the first and at the last checkpoint."""
    return shared_tasks(_values(points[0], definition), _values(points[-1], definition))


def _means(
    points: Sequence[Results], definition: str = HEADLINE
) -> list[tuple[float, float, float]]:
    """The model's D-score at each checkpoint with its interval, all over the same tasks."""
    shared = _shared(points, definition)
    return [
        (
            float(mean_where(shared, _values(point, definition))),
            *_interval(point, definition, shared),
        )
        for point in points
    ]


def _interval(
    point: Results, definition: str, shared: Bool[np.ndarray, " tasks"]
) -> tuple[float, float]:
    """That of the mean over the shared tasks; nan where the results do not have it."""
    found = (point.get("dissociation") or {}).get(definition) or {}
    is_own = (np.isfinite(_values(point, definition)) == shared).all()
    low, high = found.get("mean_interval" if is_own else "shared_interval") or (None, None)
    return fmt.number(low), fmt.number(high)


def _d_chart(points: Sequence[Results]) -> Chart | None:
    values = _means(points)
    shown = Points(
        "own",
        "D-score",
        [fmt.number(point["step"]) for point in points],
        [value for value, _, _ in values],
        lows=[low for _, low, _ in values],
        highs=[high for _, _, high in values],
        mark="diamond",
    )
    return chart(
        [shown],
        f"{HEADLINE} D-score of the model over the training",
        axes=("step", "D-score, %"),
        description=in_words(shown, fmt.points, lambda x: f"step {fmt.thousands(x)}"),
        hold=(0.0,),
    )


def _task_chart(points: Sequence[Results], task: int, name: str) -> Chart | None:
    steps = [fmt.number(point["step"]) for point in points]
    base = [fmt.number(point["base"][task]) for point in points]
    stable = [_stability(point, name) for point in points]
    shown = [
        Points("own", "base score", steps, base, mark="circle"),
        Points("others", "stability of importance", steps, stable, mark="square"),
    ]
    shown = [curve for curve in shown if any(map(math.isfinite, curve.ys))]
    return chart(
        shown,
        f"{name}: base score, and stability of its importance map",
        axes=("step", ""),
        description=" ".join(
            in_words(curve, fmt.fixed, lambda x: f"step {fmt.thousands(x)}") for curve in shown
        ),
        hold=(0.0, 1.0),
    )


def _stability(point: Results, name: str) -> float:
    """How alike a task's map is to its last one; nan where its importance was not measured."""
    measured = [entry["task"] for entry in point["importance"]]
    found = dict(zip(measured, point["stability"], strict=True))
    return fmt.number(found.get(name))


def _d_table(points: Sequence[Results]) -> Table:
    by_definition = [_means(points, definition) for definition in DEFINITIONS]
    rows = []
    for point, *found in zip(points, *by_definition, strict=True):
        cells = []
        for value, low, high in found:
            cells += [fmt.points(value), fmt.interval(low, high)]
        rows.append((fmt.thousands(point["step"]), str(point["classifiers"]), *cells))
    header: tuple[str, ...] = ("Step", "Classifiers")
    for definition in DEFINITIONS:
        header += (definition, "interval")
    return Table(
        "growth",
        "The model’s D-score at every checkpoint, in percent, by all definitions",
        header,
        tuple(rows),
        left=2,
    )


def _task_tables(points: Sequence[Results], names: Sequence[str]) -> tuple[Table, Table]:
    steps = [fmt.thousands(point["step"]) for point in points]
    base = [[fmt.fixed(fmt.number(value)) for value in point["base"]] for point in points]
    stable = [[fmt.fixed(_stability(point, name)) for name in names] for point in points]
    return (
        Table(
            "growth-base",
            "Base score of every task at every checkpoint",
            ("Step", *names),
            tuple((step, *row) for step, row in zip(steps, base, strict=True)),
        ),
        Table(
            "growth-stability",
            "Stability: rank correlation of a task’s importance map with its map at the last "
            "checkpoint",
            ("Step", *names),
            tuple((step, *row) for step, row in zip(steps, stable, strict=True)),
        ),
    )
