"""How specialization grows over the training: checkpoints from step 0 to the end.

At step 0, before multi-task training, linear probes stand in for the classifiers. Every mean over
tasks is over those with a D-score at the first and at the last checkpoint.
"""

import math
from collections.abc import Sequence

from lobes.dissociation.dscores import DScoreName
from lobes.report import formatting as fmt
from lobes.report.charts import Points, chart, in_words
from lobes.report.drawing import Drawing
from lobes.report.lesion_words import words_of
from lobes.report.phrases import HEADLINE, size_of, some
from lobes.report.sections import Details, Figure, Key, Keys, Panel, Panels, Prose, Section
from lobes.report.tables import Cell, Column, Row, Table
from lobes.results import RunResults
from lobes.results.beside_lesions import Growth, GrowthPoint

DEFINITIONS: tuple[DScoreName, ...] = ("column", "row", "relative")


def section(results: RunResults) -> Section | None:
    """The section; None where growth was not measured."""
    found = results.growth
    if found is None:
        return None
    done = words_of(results.lesioning).lesioned
    text = (
        f"{_sentence(found, results.names)} Measured at checkpoints, with "
        f"{size_of(found.fraction)} {done}; before multi-task training linear probes stand in "
        f"for the classifiers. Where a base score is near chance, the D-score there means little."
    )
    stability = (
        "Stability: rank correlation of a task’s importance map with its map at the last checkpoint"
    )
    base = [point.base.tolist() for point in found.points]
    stable = [[point.stability_of(name) for name in results.names] for point in found.points]
    return Section(
        "growth",
        "Growth over the training",
        (
            Prose(text),
            Panels(_panels(found, results.names), "charts"),
            _d_table(found),
            Details(
                "Base scores at every checkpoint",
                (
                    _task_table(
                        "growth-base",
                        "Base score of every task at every checkpoint",
                        found,
                        results.names,
                        base,
                    ),
                ),
            ),
            Details(
                "Stability of importance at every checkpoint",
                (_task_table("growth-stability", stability, found, results.names, stable),),
            ),
        ),
        contents="Growth",
        asks="Was it there before the training?",
    )


def how_sure(results: RunResults) -> str:
    """The numbers beside the verdict that the heads are more specialized than before."""
    found = results.growth
    if found is None or not math.isfinite(found.change["column"].mean):
        return fmt.UNDEFINED
    change = found.change["column"]
    (first, at_first), (last, at_last) = _ends(found)
    left_out = _left_out(found, results.names)
    return (
        f"{fmt.points(first)} % at step {at_first}, {fmt.points(last)} % at step {at_last}: "
        f"{fmt.points(change.mean)} (interval {fmt.interval(*change.mean_interval)}, paired "
        f"bootstrap){f', without {some(left_out)}' if left_out else ''}"
    )


def _ends(found: Growth) -> list[tuple[float, str]]:
    """The D-score at the first and at the last checkpoint, each with its step."""
    return [
        (point.dissociation["column"].shared_mean, fmt.thousands(point.step))
        for point in (found.points[0], found.points[-1])
    ]


def _left_out(found: Growth, names: Sequence[str]) -> list[str]:
    """The tasks without a D-score at one of the two ends."""
    values = found.change["column"].values
    return [name for name, value in zip(names, values, strict=True) if math.isnan(value)]


def _sentence(found: Growth, names: Sequence[str]) -> str:
    change, (low, high) = found.change["column"].mean, found.change["column"].mean_interval
    if not math.isfinite(change):
        return "How much the D-score changed over the training is not defined here."
    (first, at_first), (last, at_last) = _ends(found)
    way = "rose" if change > 0 else "fell" if change < 0 else "stayed"
    text = (
        f"The {HEADLINE} D-score {way} from {fmt.points(first)} % at step {at_first} to "
        f"{fmt.points(last)} % at step {at_last}: a change of {fmt.points(change)} (interval "
        f"{fmt.interval(low, high)})"
    )
    if low <= 0 <= high:
        text += ", which is not distinguishable from zero with these validation examples"
    left_out = _left_out(found, names)
    if left_out:
        text += f". The means leave out {some(left_out)}, without a D-score at one of the two steps"
    return text + "."


def _panels(found: Growth, names: Sequence[str]) -> tuple[Panel, ...]:
    """The model's D-score, and each task's base score and stability; without what is undefined."""
    panels = []
    drawn = _d_chart(found)
    if drawn is not None:
        axis = Prose("column, %, with its interval", "axis")
        panels.append(Panel("D-score of the model", (axis, Figure("growth-0", drawn))))
    key = Keys(
        (
            Key("own", "base score", "circle"),
            Key("others", "stability of importance", "square"),
        ),
        "axis",
    )
    for task, name in enumerate(names):
        drawn = _task_chart(found.points, task, name)
        if drawn is not None:
            panels.append(Panel(name, (key, Figure(f"growth-task-{task}", drawn))))
    return tuple(panels)


def _d_chart(found: Growth) -> Drawing | None:
    scores = [point.dissociation["column"] for point in found.points]
    shown = Points(
        "own",
        "D-score",
        [point.step for point in found.points],
        [score.shared_mean for score in scores],
        lows=[score.shared_interval[0] for score in scores],
        highs=[score.shared_interval[1] for score in scores],
        mark="diamond",
    )
    return chart(
        [shown],
        f"{HEADLINE} D-score of the model over the training",
        axes=("step", "D-score, %"),
        description=in_words(shown, fmt.points, _at_step),
        hold=(0.0,),
    )


def _task_chart(points: Sequence[GrowthPoint], task: int, name: str) -> Drawing | None:
    steps = [point.step for point in points]
    base = [float(point.base[task]) for point in points]
    stable = [point.stability_of(name) for point in points]
    shown = [
        Points("own", "base score", steps, base, mark="circle"),
        Points("others", "stability of importance", steps, stable, mark="square"),
    ]
    shown = [curve for curve in shown if any(map(math.isfinite, curve.ys))]
    return chart(
        shown,
        f"{name}: base score, and stability of its importance map",
        axes=("step", ""),
        description=" ".join(in_words(curve, fmt.fixed, _at_step) for curve in shown),
        hold=(0.0, 1.0),
    )


def _at_step(step: float) -> str:
    return f"step {fmt.thousands(step)}"


def _step(point: GrowthPoint) -> Cell:
    """The head of a row."""
    return Cell(point.step, text=fmt.thousands(point.step))


def _d_table(found: Growth) -> Table:
    columns = [Column("Step"), Column("Classifiers")]
    for name in DEFINITIONS:
        columns += [Column(name, "points"), Column("Interval", "interval")]
    rows = []
    for point in found.points:
        scores = [point.dissociation[name] for name in DEFINITIONS]
        means = [value for each in scores for value in (each.shared_mean, each.shared_interval)]
        rows.append(Row((_step(point), point.classifiers, *means)))
    return Table(
        "growth",
        "The model’s D-score at every checkpoint, in percent, by all definitions",
        tuple(columns),
        tuple(rows),
    )


def _task_table(
    name: str,
    caption: str,
    found: Growth,
    names: Sequence[str],
    values: Sequence[Sequence[float]],
) -> Table:
    """A column for each task, a row for each checkpoint."""
    rows = tuple(Row((_step(point), *row)) for point, row in zip(found.points, values, strict=True))
    columns = (Column("Step"), *(Column(task, "number") for task in names))
    return Table(name, caption, columns, rows)
