"""The stages of a study, each done once: train, measure, report.

`run_study` goes through them in a run's folder and skips what is there already, so the same call
after an interruption continues, and ends with the same numbers.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from lobes.discovery import find_heads
from lobes.errors import ConfigError, RunError
from lobes.heads import HeadLayout
from lobes.iap import IapSettings, check_lesions, lesion_matrix
from lobes.modeling import MultiTaskModel, TaskModel, is_saved_model, load_task_model
from lobes.precision import resolve_precision
from lobes.report.html import render
from lobes.report.source import read_results
from lobes.study.config import StudyConfig
from lobes.study.disk import fingerprint
from lobes.study.results import (
    describe_environment,
    describe_model,
    study_results,
    write_importance,
    write_predictions,
)
from lobes.study.store import RunFolder
from lobes.study.training import train
from lobes.tasks.sources import load_task
from lobes.tasks.task import Task

Progress = Callable[[str, int, int], None]

STAGES = ("train", "iap", "report")
LONGEST_BY_DEFAULT = 256


def run_study(
    study: StudyConfig,
    *,
    stages: Sequence[str] = STAGES,
    fresh: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Go through the stages of a study that are not done yet, in the folder `study.output`.

    Returns the content of `results.json`, or with `stages=("train",)` what the training recorded.
    `fresh` starts again where the folder holds a run. `progress(stage, done, total)` is called
    as things go. Raises `LobesError` of every kind; what was measured by then is kept.
    """
    if stages == ("train",) and not study.training.enabled:
        raise ConfigError(
            "training.enabled is false, so there is nothing to train; expected true, or `lobes "
            "iap` for a model that was trained elsewhere."
        )
    with RunFolder(study.output, study.to_dict(), fresh=fresh) as folder:
        tasks = load_tasks(study, progress)
        fingerprints = {f"data of {task.name}": _task_fingerprint(task) for task in tasks}
        model, training = _trained_model(study, folder, tasks, fingerprints, stages, progress)
        if training is not None and "iap" not in stages:
            return training
        results = _finished(folder)
        if results is None:
            model = model or load_task_model(
                folder.path / "model", tasks, trust_remote_code=study.trust_remote_code
            )
            results = _measure(study, folder, model, tasks, training, progress)
        if "report" in stages:
            with folder.writing("report.html") as file:
                file.write(render(results).encode())
        return results


def load_tasks(study: StudyConfig, progress: Progress | None = None) -> list[Task]:
    """The tasks of a study with their data; `DataError` for what cannot be read or used."""
    tasks = []
    for number, task in enumerate(study.tasks):
        if progress:
            progress("reading data", number, len(study.tasks))
        settings = task.model_dump()
        tasks.append(load_task(settings.pop("name"), **settings, seed=study.seed))
    if progress:
        progress("reading data", len(study.tasks), len(study.tasks))
    return tasks


def find_model_heads(name_or_folder: str, *, trust_remote_code: bool = False) -> HeadLayout:
    """Where the heads of a model of the hub, or in a folder, are."""
    from lobes.modeling.pretrained import load_model

    if is_saved_model(name_or_folder):
        return find_heads(
            MultiTaskModel.from_pretrained(name_or_folder, trust_remote_code=trust_remote_code)
        )
    return find_heads(load_model(name_or_folder, trust_remote_code=trust_remote_code)[0])


def _trained_model(
    study: StudyConfig,
    folder: RunFolder,
    tasks: list[Task],
    fingerprints: dict[str, str],
    stages: Sequence[str],
    progress: Progress | None,
) -> tuple[TaskModel | None, dict[str, Any] | None]:
    """The model to measure, or None for the one in the run's folder; what its training recorded.

    Nothing is written before it is known that the model can be loaded, trained and measured.
    """
    if not study.training.enabled:
        model = load_task_model(study.model, tasks, trust_remote_code=study.trust_remote_code)
        check_lesions(_settings(study), find_heads(model))
        folder.begin(fingerprints)
        return model, None
    record = None if folder.fresh else folder.model_record()
    if record is None:
        if "train" not in stages:
            raise RunError(
                f"There is no trained model in {folder.path} yet: run `lobes train` or `lobes "
                f"run` with this study first, or name a model with --model."
            )
        new = _new_model(study, tasks)
        # before hours are spent on the training
        check_lesions(_settings(study), find_heads(new))
        folder.begin(fingerprints)
        return None, train(study, folder, new, tasks, progress)
    folder.begin(fingerprints)
    folder.remove_checkpoints()  # still there where the run was killed right after the training
    return None, record


def _new_model(study: StudyConfig, tasks: Sequence[Task]) -> MultiTaskModel:
    model = MultiTaskModel.from_pretrained(
        study.model,
        tasks,
        trust_remote_code=study.trust_remote_code,
        pooling=study.pooling,
        dropout=study.training.dropout,
        max_length=study.max_length,
        seed=study.seed,
    )
    if study.max_length is None:
        model.max_length = min(model.max_length, LONGEST_BY_DEFAULT)
    return model


def _settings(study: StudyConfig) -> IapSettings:
    settings = study.iap.model_dump(exclude={"resamples", "level"})
    return IapSettings(**{**settings, "seed": study.iap_seed})


def _finished(folder: RunFolder) -> dict[str, Any] | None:
    """The results of a run that has measured everything, or None."""
    if not all(
        (folder.path / f"{name}.parquet").is_file() for name in ("importance", "predictions")
    ):
        return None
    try:
        return read_results(folder.path)
    except RunError:
        return None


def _measure(
    study: StudyConfig,
    folder: RunFolder,
    model: TaskModel,
    tasks: list[Task],
    training: dict[str, Any] | None,
    progress: Progress | None,
) -> dict[str, Any]:
    """Importance, lesions, controls and their statistics; `results.json` and the tables."""
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    precision = resolve_precision(study.precision, model.device)
    measurements = folder.measurements(_scope(model, tasks, precision))
    matrix = lesion_matrix(
        model,
        tasks,
        _settings(study),
        precision=precision,
        progress=progress,
        remember=measurements.remember,
    )
    results = study_results(
        study,
        tasks,
        matrix,
        model=describe_model(
            study.model,
            getattr(model, "pooling", None),
            sum(parameter.numel() for parameter in model.parameters()),
            find_heads(model),
        ),
        training=training,
        seconds=measurements.seconds,
        environment=describe_environment(precision),
    )
    with folder.writing("importance.parquet") as file:
        write_importance(matrix, file)
    with folder.writing("predictions.parquet") as file:
        write_predictions(matrix, file)
    folder.write_json("results.json", results)
    return read_results(folder.path)


def _task_fingerprint(task: Task) -> str:
    parts: list[str | np.ndarray] = [json.dumps(task.spec.to_dict())]
    for examples in (task.train, task.validation):
        if examples is not None:
            parts += [json.dumps(examples.texts), examples.labels]
    return fingerprint(*parts)


def _scope(model: TaskModel, tasks: Sequence[Task], precision: str) -> str:
    """What a measurement depends on besides its key: weights, data and precision."""
    parts: list[str | np.ndarray] = [precision]
    for name, tensor in model.state_dict().items():
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        parts += [f"{name} {tensor.dtype} {tuple(tensor.shape)}", raw.numpy()]
    parts += [_task_fingerprint(task) for task in tasks]
    return fingerprint(*parts)
