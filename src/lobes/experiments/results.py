"""From what a study measured to the types of `lobes.results`, the statistics included."""

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lobes.config.study import StudyConfig
from lobes.dissociation import LesionMatrix
from lobes.dissociation.verdict import Verdict, less_alike, more_specialized
from lobes.heads import HeadLayout
from lobes.measure.workload import examples_of
from lobes.metrics import get_metric
from lobes.results.base import Lesioning, ModelRecord
from lobes.results.beside_lesions import Agreement, Growth, Similarity
from lobes.results.of_matrix import importance_record, of_matrix, opening, site_records
from lobes.results.run import MeasuredTask, RunResults
from lobes.results.training import Training
from lobes.tasks.task import Task

STAGES = ("training", "importance", "evaluation", "agreement", "similarity", "growth")


def study_results(
    study: StudyConfig,
    tasks: Sequence[Task],
    matrix: LesionMatrix,
    *,
    model: ModelRecord,
    training: Training | None,
    agreement: Sequence[Mapping[str, Any]] | None,
    similarity: Mapping[str, Any] | None,
    growth: Mapping[str, Any] | None,
    seconds: Mapping[str, float],
    importance_seconds: Mapping[str, float],
    environment: Mapping[str, Any],
) -> RunResults:
    """Everything for `results.json`, the statistics included.

    `training` is what the training recorded (None for a model that was trained elsewhere),
    `agreement`, `similarity` and `growth` what `agreement.py` and `growth.py` measured. `seconds`
    are how long each stage took, `importance_seconds` the importance of each task.
    """
    times = {stage: seconds.get(stage, 0.0) for stage in STAGES}
    alike = None if similarity is None else Similarity.model_validate(similarity)
    grown = None if growth is None else Growth.model_validate(growth)
    iap = {**study.to_dict()["iap"], "seed": study.iap_seed}
    return RunResults(
        **opening(study.name),
        **of_matrix(matrix, iap, further_verdicts(grown, alike, matrix.above_chance)),
        model=model,
        tasks=_tasks(tasks, matrix, study.iap.level),
        training=training,
        importance=tuple(
            importance_record(
                task.name,
                scores,
                n_available=len(examples_of(task, str(scores.settings["split"]))),
                seconds=importance_seconds[task.name],
            )
            for task in tasks
            if (scores := matrix.importance.get(task.name)) is not None
        ),
        agreement=None
        if agreement is None
        else tuple(Agreement.model_validate(each) for each in agreement),
        similarity=alike,
        growth=grown,
        iap=iap,
        environment=dict(environment),
        times={**times, "total": sum(times.values())},
        config=study.to_dict(),
    )


def lesioning_of(study: StudyConfig) -> Lesioning:
    """What the lesions of a study do to heads."""
    return Lesioning(lesion=study.iap.lesion, value=study.iap.value)  # type: ignore[arg-type]


def describe_model(
    name: str, pooling: str | None, n_parameters: int, layout: HeadLayout
) -> ModelRecord:
    """The model's part of the results; of a folder only its own name is kept."""
    return ModelRecord(
        name=os.path.basename(name) if Path(name).is_absolute() else name,
        pooling=pooling,
        n_parameters=n_parameters,
        sites=site_records(layout),
    )


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


def _tasks(tasks: Sequence[Task], matrix: LesionMatrix, level: float) -> tuple[MeasuredTask, ...]:
    bases = zip(tasks, matrix.base, matrix.base_intervals(level), strict=True)
    return tuple(
        MeasuredTask(
            name=task.name,
            metric=task.metric,
            source_metric=task.source_metric,
            metric_range=get_metric(task.metric).own_range,
            labels=None if task.labels is None else tuple(task.labels),
            multi_label=task.is_multi_label,
            n_train=len(task.train) if task.train is not None else 0,
            n_validation=len(matrix.labels[task.name]),
            chance=get_metric(task.metric).chance(matrix.labels[task.name]),
            base=base,
            base_interval=tuple(interval),
        )
        for task, base, interval in bases
    )


def further_verdicts(
    growth: Growth | None, similarity: Similarity | None, above_chance: Sequence[bool]
) -> list[Verdict]:
    """The verdicts on the claims beside the first, as far as they were measured.

    `above_chance` says of each task whether the model does it clearly better than chance.
    """
    found = []
    if growth is not None:
        change, end = growth.change["column"], growth.points[-1].dissociation["column"]
        found.append(
            more_specialized(
                change.mean,
                *change.mean_interval,
                after=end.shared_mean,
                above_chance=sum(above_chance),
            )
        )
    if similarity is not None:
        found.append(less_alike(similarity.evidence, len(above_chance)))
    return found
