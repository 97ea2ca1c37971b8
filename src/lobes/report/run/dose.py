"""Dose and response: each task's score as more heads are ablated, or kept."""

import math
from collections.abc import Sequence

import numpy as np

from lobes.dissociation.dose import dose
from lobes.report import formatting as fmt
from lobes.report import phrases
from lobes.report.charts import Points, chart, in_words
from lobes.report.drawing import Drawing
from lobes.report.lesion_words import words_of
from lobes.report.sections import Block, Details, Figure, Key, Keys, Panel, Panels, Prose, Section
from lobes.report.tables import Column, Row, Table
from lobes.results import RunResults
from lobes.results.base import Lesioning

COLUMNS = (
    Column("Task"),
    Column("Heads", "percent"),
    Column("Own lesion", "number", digits=1),
    Column("Others’ lesions", "number", digits=1),
    Column("Random", "number", digits=1),
    Column("Their 5 to 95 %", "interval", ends="number", digits=1),
)
Curve = Sequence[Sequence[float]]  # at each fraction: own, others, random, low, high


def section(results: RunResults) -> Section | None:
    """A chart for each task and all numbers; None where no lesion was measured.

    None either where the metrics have no zero, so that nothing is a share of a base score.
    """
    if not results.fractions or phrases.in_spreads(results.tasks):
        return None
    found = [
        dose(entry.scores, entry.random_scores).percent_of(
            results.divisors, results.control_divisors
        )
        for entry in results.fractions
    ]
    shares = [entry.fraction for entry in results.fractions]
    each = np.array([[d.own, d.others, d.random, d.low, d.high] for d in found])
    curves = {name: each[:, :, task].tolist() for task, name in enumerate(results.names)}
    drawn = {name: _chart(name, shares, curve, results.lesioning) for name, curve in curves.items()}
    charts = tuple(
        Panel(name, (Figure(f"dose-{k}", drawing),))
        for k, (name, drawing) in enumerate(drawn.items())
        if drawing is not None
    )
    blocks: list[Block] = [Prose(_reading(results)), _keys(results), Panels(charts, "charts")]
    left_out = [name for name, drawing in drawn.items() if drawing is None]
    if left_out:
        blocks.append(
            Prose(
                f"No curve for {', '.join(left_out)}: the interval of the base score includes 0, "
                f"or the score is too near it, so that a share of it means nothing.",
                "note",
            )
        )
    blocks.append(Details("The numbers of these curves", (_table(shares, curves),)))
    return Section(
        "dose",
        "Dose and response",
        tuple(blocks),
        contents="Dose",
        asks="Does it depend on the size of the lesions?",
    )


def _reading(results: RunResults) -> str:
    words = words_of(results.lesioning)
    text = f"Each task’s score, in percent of its base score, as more heads are {words.done}. "
    if len(results.tasks) > 1:
        text += (
            f"Where a task’s heads are specialized, its own lesion runs {words.side} the others’ "
            f"lesions. "
        )
    if _has_random(results):
        text += (
            "The band holds the middle 90 % of the random lesions, whichever lesion they match: a "
            "curve inside it shows nothing. "
        )
    return text + "Each chart has its own scale."


def _has_random(results: RunResults) -> bool:
    return any(entry.n_random for entry in results.fractions)


def _keys(results: RunResults) -> Keys:
    keys = [Key("own", "own lesion", "diamond")]
    if len(results.tasks) > 1:
        keys.append(Key("others", "others’ lesions, mean", "square"))
    if _has_random(results):
        keys.append(Key("random", "random lesions, mean and 5 to 95 %", band=True))
    return Keys(tuple(keys))


def _chart(
    name: str, shares: Sequence[float], curve: Curve, lesioning: Lesioning
) -> Drawing | None:
    own, others, random, low, high = zip(*curve, strict=True)
    if not any(map(math.isfinite, own)):
        return None
    # the whole model is there already: none of its heads ablated, or all kept
    done, keeps = words_of(lesioning).done, lesioning.keeps

    def whole(values: Sequence[float], end: float = 100.0) -> list[float]:
        return [*values, end] if keeps else [end, *values]

    xs = whole([100 * share for share in shares], 100.0 if keeps else 0.0)
    curves = (
        Points("random", "random lesions", xs, whole(random), whole(low), whole(high), band=True),
        Points("others", "others’ lesions", xs, whole(others), mark="square"),
        Points("own", "own lesion", xs, whole(own), mark="diamond"),
    )
    measured = zip(curves, (random, others, own), strict=True)
    shown = [points for points, values in measured if any(map(math.isfinite, values))]
    return chart(
        shown,
        f"{name}: score against the share of heads {done}",
        axes=(f"heads {done}, %", "% of the base score"),
        description=" ".join(
            in_words(points, lambda y: fmt.fixed(y, 1), lambda x: f"{x:.4g} %")
            for points in reversed(shown)
        ),
    )


def _table(shares: Sequence[float], curves: dict[str, Curve]) -> Table:
    rows = tuple(
        Row((name, share, own, others, random, (low, high)))
        for name, curve in curves.items()
        for share, (own, others, random, low, high) in zip(shares, curve, strict=True)
    )
    caption = "Every task’s score under lesions of every size, in percent of its base score"
    return Table("dose", caption, COLUMNS, rows)
