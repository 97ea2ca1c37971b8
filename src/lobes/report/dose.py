"""Dose and response: each task's score as more heads are ablated.

A task's own lesion, the mean of the other tasks' lesions, and random lesions, whose band holds
their middle 90 %. Random lesions are pooled over the lesions that they match.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lobes.report import formatting as fmt
from lobes.report.charts import Chart, Points, chart, in_words
from lobes.report.findings import Results, control_bases, divisor
from lobes.report.tabular import Table

BAND = (5, 95)
AXES = ("heads ablated, %", "% of the base score")


@dataclass(frozen=True)
class DoseResponse:
    """A chart for each task (None where nothing may be divided by its base), and all numbers.

    `sampled`: random lesions were measured on a sample whose own base score is not known.
    """

    charts: tuple[Chart | None, ...]
    left_out: tuple[str, ...]
    has_others: bool
    has_controls: bool
    sampled: bool
    table: Table


@dataclass(frozen=True)
class _Dose:
    """One task at one fraction, in percent of its base score; nan = undefined."""

    percent: float
    own: float
    others: float
    controls: float
    low: float
    high: float


def dose_response(results: Results, entries: Sequence[Results]) -> DoseResponse | None:
    """The curves of every task over the fractions, ascending; None where no lesion was measured."""
    if not entries:
        return None
    charts, rows, left_out = [], [], []
    control_base = control_bases(results)
    random = [control_scores(entry, len(results["tasks"])) for entry in entries]
    controls = results.get("controls") or {}
    for task, found in enumerate(results["tasks"]):
        doses = [
            _dose(entry, drawn[:, task], task, divisor(found), control_base[task])
            for entry, drawn in zip(entries, random, strict=True)
        ]
        charts.append(_chart(found["name"], doses))
        if charts[-1] is None:
            left_out.append(found["name"])
        rows += [(found["name"], *_texts(dose)) for dose in doses]
    return DoseResponse(
        charts=tuple(charts),
        left_out=tuple(left_out),
        has_others=len(results["tasks"]) > 1,
        has_controls=any(entry["control_scores"] for entry in entries),
        sampled=bool(controls.get("sample")) and not controls.get("base"),
        table=Table(
            name="dose",
            caption="Every task’s score under lesions of every size, in percent of its base score",
            header=("Task", "Heads", "Own lesion", "Others’ lesions", "Random", "Their 5 to 95 %"),
            rows=tuple(rows),
        ),
    )


def control_scores(entry: Results, n_tasks: int) -> Float[np.ndarray, "lesions tasks"]:
    """Every task's score under every random lesion, whichever lesion it matches; nan = undefined.

    Raises `ValueError` where a score is no number.
    """
    rows = np.array(entry["control_scores"], dtype=np.float64).reshape(-1, n_tasks)
    return np.where(np.isfinite(rows), rows, np.nan)


def _dose(
    entry: Results,
    drawn: Float[np.ndarray, " lesions"],
    task: int,
    base: float,
    control_base: float,
) -> _Dose:
    percent = 100 * fmt.number(entry["fraction"])
    if math.isnan(base) or math.isnan(control_base):
        return _Dose(percent, *[math.nan] * 5)
    scores = [100 * fmt.number(row[task]) / base for row in entry["scores"]]
    others = [score for row, score in enumerate(scores) if row != task]
    random = 100 * drawn[np.isfinite(drawn)] / control_base
    low, high = np.percentile(random, BAND) if len(random) else (math.nan, math.nan)
    middle = float(random.mean()) if len(random) else math.nan
    return _Dose(percent, scores[task], _mean(others), middle, float(low), float(high))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _chart(name: str, doses: Sequence[_Dose]) -> Chart | None:
    if not any(math.isfinite(dose.own) for dose in doses):
        return None
    xs = [0.0, *(dose.percent for dose in doses)]

    def curve(kind: str, label: str, values: Sequence[float], mark: str) -> Points:
        return Points(kind, label, xs, [100.0, *values], mark=mark)  # type: ignore[arg-type]

    random = Points(
        "random",
        "random lesions",
        xs,
        [100.0, *(dose.controls for dose in doses)],
        lows=[100.0, *(dose.low for dose in doses)],
        highs=[100.0, *(dose.high for dose in doses)],
        band=True,
    )
    others = curve("others", "others’ lesions", [dose.others for dose in doses], "square")
    own = curve("own", "own lesion", [dose.own for dose in doses], "diamond")
    shown = [points for points in (random, others, own) if any(map(math.isfinite, points.ys[1:]))]
    return chart(
        shown,
        f"{name}: score against the share of heads ablated",
        axes=AXES,
        description=" ".join(
            in_words(points, lambda y: fmt.fixed(y, 1), lambda x: f"{x:.4g} %")
            for points in reversed(shown)
        ),
    )


def _texts(dose: _Dose) -> tuple[str, ...]:
    def show(value: float) -> str:
        return fmt.fixed(value, 1)

    return (
        fmt.percent(dose.percent / 100),
        show(dose.own),
        show(dose.others),
        show(dose.controls),
        fmt.interval(dose.low, dose.high, show),
    )
