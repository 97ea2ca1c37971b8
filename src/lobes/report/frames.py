"""Values as pandas data frames: one row for each thing that was measured, numbers as they are."""

from functools import singledispatch
from typing import Any

import numpy as np

from lobes.dissociation import Dissociation, LesionMatrix
from lobes.heads import HeadLayout
from lobes.results import (
    ComparisonResults,
    PooledResults,
    RunResults,
    SweepResults,
    TransferResults,
)
from lobes.scores import HeadScores

_FLAGS = ("prunable", "gateable")


@singledispatch
def _rows(value: object) -> list[dict[str, Any]]:
    raise TypeError(f"a {type(value).__name__} is no data frame")


def frame_of(value: object) -> Any:
    """The value as a pandas data frame."""
    import pandas as pd

    return pd.DataFrame(_rows(value))


@_rows.register
def _(value: HeadLayout) -> list[dict[str, Any]]:
    return [
        {
            "site": site.index,
            "name": site.name,
            "heads": site.n_heads,
            "head_dim": site.head_dim,
            "kind": site.kind,
            "attention": site.attention,
            **{name: getattr(site, name) for name in _FLAGS},
        }
        for site in value
    ]


@_rows.register
def _(value: HeadScores) -> list[dict[str, Any]]:
    return [
        {"site": site, "head": head, "score": value[site, head], "rank": rank}
        for rank, (site, head) in enumerate(value.ranked(), start=1)
    ]


@_rows.register
def _(value: LesionMatrix) -> list[dict[str, Any]]:
    matrix = value.reference
    kinds = [(value, ("none", "task")), (matrix, ("exchanged", "random"))]
    return [
        {
            "lesion": item.kind,
            "fraction": item.fraction,
            "heads_of": item.task,
            "replicate": item.replicate,
            "n_heads": len(item.heads),
            "task": task,
            "metric": metric,
            "score": score,
            "change": score - base,
        }
        for source, wanted in kinds
        for item, scores in zip(source.lesions, source.all_scores, strict=True)
        if item.kind in wanted
        for task, metric, score, base in zip(
            source.tasks, source.metrics, scores.tolist(), source.base.tolist(), strict=True
        )
    ]


@_rows.register
def _(value: Dissociation) -> list[dict[str, Any]]:
    rows = []
    for score in (value.column, value.row, value.relative):
        tasks = zip(value.tasks, score.values, score.interval, score.p_values, strict=True)
        means = ("mean", score.mean, score.mean_interval, score.mean_p)
        for task, d, (low, high), p in (*tasks, means):
            row = {"definition": score.name, "task": task, "d_score": float(d)}
            rows.append({**row, "low": float(low), "high": float(high), "p": float(p)})
    return rows


@_rows.register
def _(value: RunResults) -> list[dict[str, Any]]:
    names, base = value.names, value.bases
    rows = [
        {"lesion": "none", "fraction": 0.0, "heads_of": "", "task": name, "score": float(score)}
        for name, score in zip(names, base, strict=True)
    ]
    for entry in value.fractions:
        for i, j in np.ndindex(entry.scores.shape):
            row = {"lesion": "task", "fraction": entry.fraction, "heads_of": names[i]}
            rows.append({**row, "task": names[j], "score": float(entry.scores[i, j])})
    return rows


@_rows.register
def _(value: ComparisonResults) -> list[dict[str, Any]]:
    names = [task.name for task in value.tasks]
    return [
        {"method": method, "seed": seed, "task": names[j], "score": float(score)}
        for method, scores in value.scores.items()
        for seed, row in zip(value.seeds, scores, strict=True)
        for j, score in enumerate(row)
    ]


@_rows.register
def _(value: TransferResults) -> list[dict[str, Any]]:
    return [
        {"start": start, "seed": seed, "examples": size, "score": float(score)}
        for start, scores in value.scores.items()
        for seed, row in zip(value.seeds, scores, strict=True)
        for size, score in zip(value.sizes, row, strict=True)
    ]


@_rows.register
def _(value: PooledResults) -> list[dict[str, Any]]:
    names = [task.name for task in value.tasks]
    return [
        {
            "run": run.name,
            "fraction": entry.fraction,
            "heads_of": names[i],
            "task": names[j],
            "score": float(scores[i, j]),
        }
        for entry in value.fractions
        for run, scores in zip(value.runs, entry.scores, strict=True)
        for i, j in np.ndindex(scores.shape)
    ]


@_rows.register
def _(value: SweepResults) -> list[dict[str, Any]]:
    rows = []
    for run in value.runs:
        found = run.specialized
        numbers = {} if found is None else found.numbers
        rows.append(
            {
                "run": run.name,
                **run.values,
                "d_score": numbers.get("mean", np.nan),
                **{name: numbers.get(name, np.nan) for name in ("low", "high", "p")},
                "answer": None if found is None else found.answer,
                **{f"base {task}": score for task, score in run.base.items()},
                "error": run.error,
            }
        )
    return rows
