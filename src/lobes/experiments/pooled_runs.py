"""Several runs of one study as one: other seeds, or other models, on the same tasks.

Everything comes from the runs' `results.json`, `predictions.parquet` and `importance.parquet`; no
model is loaded.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from lobes import __version__
from lobes.dissociation import Lesion, LesionMatrix
from lobes.dissociation.dscores import FORMULAS
from lobes.dissociation.matrix import Sampled
from lobes.dissociation.over_runs import (
    RunsDissociation,
    RunsDScore,
    RunsEstimate,
    RunsPair,
    dissociation_over_runs,
)
from lobes.errors import ConfigError, RunError
from lobes.experiments.manifest import check_files
from lobes.files import first_line, plain
from lobes.heads import HeadScores, HeadSet
from lobes.metrics import get_metric
from lobes.report.reading import damage_named, read_results

SCHEMA = {"schema": "lobes-runs", "version": 1}

Results = dict[str, Any]


def runs_results(
    runs: Sequence[Path], *, resamples: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """What several finished runs say together, for JSON and for the report.

    The D-scores at every fraction that all runs have, with intervals over runs and examples and
    the verdict on each pair of tasks (`dissociation_over_runs`). `resamples` and the level of the
    intervals are the first run's. Raises `RunError` for a run that is not finished, and for runs
    that cannot be taken together.
    """
    if len({run.resolve() for run in runs}) < len(runs):
        raise RunError("A run is named twice: expected the folders of different runs.")
    for run in runs:
        check_files(run, "results.json")
    results = [read_results(run) for run in runs]
    matrices = [stored_matrix(run, each) for run, each in zip(runs, results, strict=True)]
    first = results[0]
    level = float(first["iap"].get("level") or 0.95)
    number = resamples or int(first["iap"].get("resamples") or 1000)
    shared = [
        fraction
        for fraction in matrices[0].fractions
        if all(any(math.isclose(fraction, f) for f in m.fractions) for m in matrices)
    ]
    if not shared:
        raise RunError("The runs have no fraction of lesioned heads in common.")
    if any(len(m.importance) < len(m.tasks) for m in matrices) or len(matrices[0].tasks) < 2:
        raise RunError(
            "D-scores over runs need two tasks or more and a lesion of each: expected runs without "
            "iap.lesion_tasks."
        )
    try:
        found = [
            dissociation_over_runs(matrices, fraction, resamples=number, seed=seed, level=level)
            for fraction in shared
        ]
    except ConfigError as error:
        raise RunError(f"These runs cannot be taken together. {error}") from error
    content = {
        **SCHEMA,
        "name": str(first.get("name") or runs[0].name),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "lobes": __version__,
        "level": level,
        "resamples": number,
        "runs": [_run(run, each) for run, each in zip(runs, results, strict=True)],
        "tasks": [
            {
                **{key: task[key] for key in ("name", "metric", "labels")},
                "n_validation": task["n_validation"],
                "chance": task["chance"],
                "multi_label": bool(task.get("multi_label")),
            }
            for task in first["tasks"]
        ],
        "base": [matrix.base for matrix in matrices],
        "base_intervals": [matrix.base_intervals(level) for matrix in matrices],
        "fractions": [
            _fraction(each, matrices, [len(m.control_scores(each.fraction)) for m in matrices])
            for each in found
        ],
    }
    return plain(content)


def stored_matrix(run: Path, results: Results | None = None) -> LesionMatrix:
    """The lesion matrix that a finished run measured, from its tables.

    `results` are its `results.json` where it was read before. Raises `RunError` where the tables
    are missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_files(run, "results.json", "predictions.parquet", "importance.parquet")
    results = results or read_results(run)
    path = run / "predictions.parquet"
    try:
        table = pq.read_table(path)
        importance = pq.read_table(run / "importance.parquet").to_pydict()
    except (OSError, pa.ArrowException) as error:
        raise RunError(f"The tables of {run} cannot be read: {first_line(error)}") from error
    with damage_named():
        classes = {
            task["name"]: len(task["labels"]) if task.get("multi_label") else None
            for task in results["tasks"]
        }
        return _matrix(table, importance, results, classes)


def _matrix(
    table: Any,
    importance: Mapping[str, Sequence[Any]],
    results: Results,
    classes: Mapping[str, int | None],
) -> LesionMatrix:
    table = table.combine_chunks()
    lesion = _plain(table["lesion"]).to_numpy(zero_copy_only=False)
    task = _plain(table["task"]).to_numpy(zero_copy_only=False)
    starts = np.flatnonzero((lesion[1:] != lesion[:-1]) | (task[1:] != task[:-1])) + 1
    bounds = [0, *starts.tolist(), len(lesion)]
    metrics = {task["name"]: task["metric"] for task in results["tasks"]}
    lesions: list[Lesion] = []
    labels: dict[str, np.ndarray] = {}
    places: dict[str, np.ndarray] = {}
    predictions: dict[str, list[np.ndarray]] = {name: [] for name in classes}
    for start, stop in pairwise(bounds):
        name, part = str(task[start]), table.slice(start, stop - start)
        if int(lesion[start]) == len(lesions):
            first = part.slice(0, 1).to_pylist()[0]
            about = (first["lesioned_task"], float(first["fraction"]), int(first["replicate"]))
            lesions.append(Lesion(HeadSet.parse(first["heads"]), first["kind"], *about))
        whole = not get_metric(metrics[name]).for_regression
        if name not in labels:
            labels[name] = _answers(part, "label", classes[name], whole)
        elif len(part) < len(labels[name]):
            places[name] = part["example"].to_numpy()
        predictions[name].append(_answers(part, "prediction", classes[name], whole))

    def matrix(
        chosen: Sequence[int], examples: Mapping[str, np.ndarray], **others: Any
    ) -> LesionMatrix:
        def within(name: str, values: np.ndarray) -> np.ndarray:
            some = examples.get(name)
            return values if some is None or len(values) == len(some) else values[some]

        return LesionMatrix(
            tuple(classes),
            tuple(metrics.values()),
            {name: within(name, each) for name, each in labels.items()},
            tuple(lesions[row] for row in chosen),
            {
                name: np.array([within(name, rows[row]) for row in chosen])
                for name, rows in predictions.items()
            },
            **others,
        )

    everything = range(len(lesions))
    scores = _importance(importance, list(classes))
    if not places:
        return matrix(everything, {}, importance=scores)
    for name, each in labels.items():  # a task with no more examples than the sample
        places.setdefault(name, np.arange(len(each)))
    fixed = [row for row in everything if lesions[row].kind != "control"]
    sampled = Sampled(matrix(everything, places), places)
    return matrix(fixed, {}, importance=scores, sampled=sampled)


def _plain(column: Any) -> Any:
    """A column without its dictionary."""
    import pyarrow as pa

    chunk = column.combine_chunks()
    chunk = chunk.chunk(0) if isinstance(chunk, pa.ChunkedArray) else chunk
    return chunk.dictionary_decode() if pa.types.is_dictionary(chunk.type) else chunk


def _answers(part: Any, name: str, classes: int | None, whole: bool) -> np.ndarray:
    """Labels or predictions [examples], or [examples, classes] of several labels."""
    if classes is None:
        values = part[name].to_numpy()
        return values.astype(np.int64) if whole else values
    found = np.zeros((len(part), classes), dtype=np.int64)
    for row, chosen in enumerate(part[f"{name}s"].to_pylist()):
        found[row, chosen] = 1
    return found


def _importance(table: Mapping[str, Sequence[Any]], tasks: Sequence[str]) -> dict[str, HeadScores]:
    shape = max(table["site"]) + 1, max(table["head"]) + 1
    values = {name: np.full(shape, np.nan) for name in tasks if name in set(table["task"])}
    rows = zip(table["task"], table["site"], table["head"], table["importance"], strict=True)
    for name, site, head, value in rows:
        values[name][site, head] = value
    return {name: HeadScores(each) for name, each in values.items()}


def _run(path: Path, results: Results) -> dict[str, Any]:
    training = results.get("training") or {}
    return {
        "name": path.name,
        "model": results["model"].get("name"),
        "seed": training.get("seed", (results.get("config") or {}).get("seed")),
        "steps": training.get("steps"),
        "created": results.get("created"),
        "lobes": results.get("lobes"),
    }


def _fraction(
    found: RunsDissociation, matrices: Sequence[LesionMatrix], controls: Sequence[int]
) -> dict[str, Any]:
    return {
        "fraction": found.fraction,
        "n_controls": min(controls),
        "scores": [matrix.scores(found.fraction) for matrix in matrices],
        "dissociation": {name: _d_score(getattr(found, name)) for name in FORMULAS},
        "pairs": [_pair(pair) for pair in found.pairs],
    }


def _d_score(score: RunsDScore) -> dict[str, Any]:
    return {
        "values": score.values,
        "means": score.means,
        "tasks": [_estimate(each) for each in score.tasks],
        "mean": _estimate(score.mean),
        "control_means": score.control_means,
        "p_controls": score.p_controls,
    }


def _estimate(estimate: RunsEstimate) -> dict[str, Any]:
    return {
        "mean": estimate.mean,
        "low": estimate.low,
        "high": estimate.high,
        "p": estimate.p,
        "over_runs": estimate.over_runs,
        "over_examples": estimate.over_examples,
    }


def _pair(pair: RunsPair) -> dict[str, Any]:
    return {
        "first": pair.first,
        "second": pair.second,
        "effects": [_estimate(effect) for effect in pair.effects],
        "p_holm": pair.p_holm,
        "p_controls": pair.p_controls,
        "p_controls_holm": pair.p_controls_holm,
        "double_dissociation": pair.is_double_dissociation,
    }
