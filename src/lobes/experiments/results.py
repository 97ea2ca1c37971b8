"""From what a study measured to `results.json` and the tables beside it.

`results.json` has a schema with a version, holds every number that a report shows, and is the
only thing that a report reads.
"""

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import numpy as np

from lobes import __version__
from lobes.config.study import StudyConfig
from lobes.dissociation import LesionMatrix, PairVerdict
from lobes.dissociation.dscores import Dissociation, DScore
from lobes.heads import HeadLayout, HeadScores
from lobes.metrics import get_metric
from lobes.tasks.task import Task

SCHEMA = {"schema": "lobes-results", "version": 1}
ROWS_IN_A_GROUP = 2**18  # of predictions.parquet: what is in memory at once
ROWS_OF_TEXTS = 10_000  # the same of texts.parquet


def study_results(
    study: StudyConfig,
    tasks: Sequence[Task],
    matrix: LesionMatrix,
    *,
    model: Mapping[str, Any],
    training: Mapping[str, Any] | None,
    agreement: Sequence[Mapping[str, Any]] | None,
    similarity: Mapping[str, Any] | None,
    growth: Mapping[str, Any] | None,
    seconds: Mapping[str, float],
    environment: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything for `results.json`, the statistics included.

    `model` is what `describe_model` says, `training` what the training recorded (None for a model
    that was trained elsewhere), `agreement`, `similarity` and `growth` what `agreement.py` and
    `growth.py` measured, `seconds` how long each measurement took.
    """
    times = {
        "training": training["seconds"] if training else 0.0,
        "importance": sum(v for key, v in seconds.items() if key.startswith("importance")),
        "evaluation": sum(v for key, v in seconds.items() if key.startswith("predictions")),
        "agreement": sum(
            v for key, v in seconds.items() if key.startswith(("ablation", "estimates"))
        ),
        "similarity": sum(v for key, v in seconds.items() if key.startswith(("gradients", "cka"))),
    }
    return {
        **SCHEMA,
        "name": study.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "lobes": __version__,
        "model": dict(model),
        "tasks": _tasks(tasks, matrix, study.iap.level),
        "training": dict(training) if training else None,
        "importance": [
            _importance(task, scores, seconds) for task, scores in matrix.importance.items()
        ],
        "fractions": [_fraction(study, matrix, fraction) for fraction in matrix.fractions],
        "controls": _controls(study, matrix),
        "agreement": agreement,
        "similarity": similarity,
        "growth": growth,
        "iap": {**study.to_dict()["iap"], "seed": study.iap_seed},
        "environment": dict(environment),
        "times": {**times, "total": sum(times.values())},
        "config": study.to_dict(),
    }


def describe_model(
    name: str, pooling: str | None, n_parameters: int, layout: HeadLayout
) -> dict[str, Any]:
    """The model's part of the results; of a folder only its own name is kept."""
    return {
        "name": os.path.basename(name) if Path(name).is_absolute() else name,
        "pooling": pooling,
        "n_parameters": n_parameters,
        "sites": [
            {
                "index": site.index,
                "name": site.name,
                "n_heads": site.n_heads,
                "head_dim": site.head_dim,
                "kind": site.kind,
            }
            for site in layout.sites
        ],
    }


def describe_environment(precision: str) -> dict[str, Any]:
    """Versions and machine; `precision` is the one that was used, never "auto"."""
    import torch
    import transformers

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "precision": precision,
    }


def _cpu() -> str:
    """The processor's own name where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except (OSError, UnicodeDecodeError):
        pass
    return platform.processor() or platform.machine()


def _tasks(tasks: Sequence[Task], matrix: LesionMatrix, level: float) -> list[dict[str, Any]]:
    return [
        {
            "name": task.name,
            "metric": task.metric,
            "labels": task.labels,
            "multi_label": task.is_multi_label,
            "n_train": len(task.train) if task.train is not None else 0,
            "n_validation": len(matrix.labels[task.name]),
            "chance": get_metric(task.metric).chance(matrix.labels[task.name]),
            "base": base,
            "base_interval": interval,
        }
        for task, base, interval in zip(
            tasks, matrix.base, matrix.base_intervals(level), strict=True
        )
    ]


def _importance(task: str, scores: HeadScores, seconds: Mapping[str, float]) -> dict[str, Any]:
    own = f"importance-{task}"
    return {
        "task": task,
        "method": scores.settings["method"],
        "aggregate": scores.settings["aggregate"],
        "normalize": scores.settings["normalize"],
        "n_examples": scores.settings["examples"],
        "n_tokens": scores.settings["tokens"],
        "seconds": sum(
            value
            for key, value in seconds.items()
            if key == own or key.startswith(f"{own}-without-")
        ),
        "values": scores.values,
    }


def _fraction(study: StudyConfig, matrix: LesionMatrix, fraction: float) -> dict[str, Any]:
    lesions = {
        lesion.task: lesion.heads
        for lesion in matrix.lesions
        if lesion.kind == "task" and lesion.fraction == fraction
    }
    dissociation = None
    # A D-score compares every task with the others: it needs two tasks, and a lesion of each.
    if len(matrix.tasks) > 1 and len(lesions) == len(matrix.tasks):
        dissociation = matrix.dissociation(
            fraction, resamples=study.iap.resamples, seed=study.iap_seed, level=study.iap.level
        )
    return {
        "fraction": fraction,
        "n_heads": max(len(heads) for heads in lesions.values()),
        "lesions": {task: str(heads) for task, heads in lesions.items()},
        "n_controls": len(matrix.control_scores(fraction)),
        "matched": study.iap.matched,
        "scores": matrix.scores(fraction),
        "control_scores": matrix.control_scores(fraction),
        "dissociation": _dissociation(dissociation, matrix.sampled is not None)
        if dissociation
        else None,
        "pairs": [
            {
                "first": pair.first,
                "second": pair.second,
                "effects": pair.effects,
                "effect_intervals": pair.intervals,
                "relative_effects": _relative(pair, matrix, study.iap.level),
                "p_values": pair.p_values,
                "p_holm": pair.p_holm,
                "p_controls": pair.p_controls,
                "p_controls_holm": pair.p_controls_holm,
                "double_dissociation": pair.is_double_dissociation,
            }
            for pair in (dissociation.pairs if dissociation else ())
        ],
    }


def _relative(pair: PairVerdict, matrix: LesionMatrix, level: float) -> list[float]:
    """Each effect in percent of its task's base score; NaN where nothing may be divided by it."""
    bases = dict(zip(matrix.tasks, matrix.divisors(level), strict=True))
    tasks = pair.first, pair.second
    return [100 * effect / bases[task] for effect, task in zip(pair.effects, tasks, strict=True)]


def _controls(study: StudyConfig, matrix: LesionMatrix) -> dict[str, Any]:
    """How the random lesions were measured: how many at most, and on how many examples."""
    measured = len(matrix.control_scores()) if matrix.fractions else 0
    sample = matrix.sampled
    return {
        "most": study.iap.controls,
        "stopped": measured < study.iap.controls,
        "error": study.iap.stop_error or None,
        "sample": None
        if sample is None
        else {task: len(places) for task, places in sample.examples.items()},
        "base": None
        if sample is None
        else dict(zip(matrix.tasks, sample.matrix.base, strict=True)),
    }


def _dissociation(found: Dissociation, sampled: bool) -> dict[str, Any]:
    return {
        score.name: _d_score(score, sampled) for score in (found.row, found.column, found.relative)
    }


def _d_score(score: DScore, sampled: bool) -> dict[str, Any]:
    on_sample = {"on_sample": {"values": score.compared, "mean": score.compared_mean}}
    return {
        **(on_sample if sampled else {}),
        "values": score.values,
        "mean": score.mean,
        "interval": score.interval,
        "mean_interval": score.mean_interval,
        "control_values": score.control_values,
        "control_means": score.control_means,
        "p_values": score.p_values,
        "mean_p": score.mean_p,
        "standardized": {"values": score.standardized, "mean": score.mean_standardized},
        "note": score.note,
    }


def write_importance(matrix: LesionMatrix, file: IO[bytes]) -> None:
    """All importance scores as Parquet: task, site, head, importance; one row for each head."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"task": task, "site": site, "head": head, "importance": scores[site, head]}
        for task, scores in matrix.importance.items()
        for site, head in sorted(scores.ranked())
    ]
    schema = pa.schema(
        [
            ("task", pa.string()),
            ("site", pa.int32()),
            ("head", pa.int32()),
            ("importance", pa.float64()),
        ]
    )
    pq.write_table(pa.Table.from_pylist(rows, schema), file, compression="zstd")


def write_texts(tasks: Sequence[Task], file: IO[bytes]) -> None:
    """What the validation examples say, as Parquet: task, example, texts (a list of strings).

    Of images, the names of their files.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [("task", pa.string()), ("example", pa.int32()), ("texts", pa.list_(pa.string()))]
    )
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for task in tasks:
            assert task.validation is not None
            examples = task.validation
            for start in range(0, len(examples), ROWS_OF_TEXTS):
                stop = min(start + ROWS_OF_TEXTS, len(examples))
                if examples.images is None:
                    texts = [list(each) for each in examples.texts[start:stop]]
                else:
                    texts = [[picture.name] for picture in examples.images[start:stop]]
                rows = [[task.name] * (stop - start), list(range(start, stop)), texts]
                columns = [
                    pa.array(values, field.type) for values, field in zip(rows, schema, strict=True)
                ]
                writer.write_table(pa.table(columns, schema=schema))


def write_predictions(matrix: LesionMatrix, file: IO[bytes]) -> None:
    """All predictions as Parquet, one row for each lesion, task and example.

    Columns: lesion (its number, 0 is the base), kind, lesioned_task, fraction, replicate, heads;
    task, example (its place in the validation data), label and prediction (class indices, or
    values of a regression). Of a task with several labels for one example these two are null, and
    labels and predictions hold lists of class indices, which are null for the other tasks.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer, waiting = None, []
    written = _lesions_of(matrix)
    for number, (source, row, examples) in enumerate(written):
        waiting += [
            _predictions(source, row, number, task, None if examples is None else examples[task])
            for task in matrix.tasks
        ]
        if number == len(written) - 1 or sum(map(len, waiting)) >= ROWS_IN_A_GROUP:
            group = pa.concat_tables(waiting).unify_dictionaries()
            writer = writer or pq.ParquetWriter(file, group.schema, compression="zstd")
            writer.write_table(group)
            waiting = []
    if writer is not None:
        writer.close()


def _lesions_of(
    matrix: LesionMatrix,
) -> list[tuple[LesionMatrix, int, Mapping[str, np.ndarray] | None]]:
    """Every lesion as (matrix, row in it, places of its examples): of a sample, the controls."""
    found: list[tuple[LesionMatrix, int, Mapping[str, np.ndarray] | None]] = [
        (matrix, row, None) for row in range(len(matrix.lesions))
    ]
    if matrix.sampled is not None:
        within, examples = matrix.sampled.matrix, matrix.sampled.examples
        found += [
            (within, row, examples)
            for row, lesion in enumerate(within.lesions)
            if lesion.kind == "control"
        ]
    return found


def _predictions(
    matrix: LesionMatrix, row: int, number: int, task: str, examples: np.ndarray | None
) -> Any:
    """One task's predictions under one lesion, as a table; what all rows share is stored once."""
    import pyarrow as pa

    labels, predictions = matrix.labels[task], matrix.predictions[task][row]
    lesion, n = matrix.lesions[row], len(matrix.labels[task])

    def same(value: Any, kind: Any) -> Any:
        dictionary = pa.array([value], kind)
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, "int32")), dictionary)

    return pa.table(
        {
            "lesion": same(number, pa.int32()),
            "kind": same(lesion.kind, pa.string()),
            "lesioned_task": same(lesion.task, pa.string()),
            "fraction": same(lesion.fraction, pa.float64()),
            "replicate": same(lesion.replicate, pa.int32()),
            "heads": same(str(lesion.heads), pa.string()),
            "task": same(task, pa.string()),
            "example": pa.array(np.arange(n) if examples is None else examples, pa.int32()),
            **_answers("label", labels),
            **_answers("prediction", predictions),
        }
    )


def _answers(name: str, values: np.ndarray) -> dict[str, Any]:
    """Two columns: one answer for each example, and several; one of the two is null."""
    import pyarrow as pa

    nothing = pa.nulls(len(values), pa.float64())
    if values.ndim == 1:
        lists = pa.nulls(len(values), pa.list_(pa.int32()))
        return {name: pa.array(values, pa.float64()), f"{name}s": lists}
    ends = np.cumsum([0, *values.sum(axis=1, dtype=np.int64)])
    lists = pa.ListArray.from_arrays(
        pa.array(ends, pa.int32()), pa.array(np.nonzero(values)[1], pa.int32())
    )
    return {name: nothing, f"{name}s": lists}
