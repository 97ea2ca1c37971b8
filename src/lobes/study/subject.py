"""What a study is about: its tasks and its model, loaded, and fingerprints of them."""

import json
from collections.abc import Callable, Sequence

import numpy as np
import torch

from lobes.disk import fingerprint
from lobes.errors import DataError
from lobes.iap import IapSettings
from lobes.modeling import MultiTaskModel, TaskModel
from lobes.study.config import StudyConfig
from lobes.tasks.sources import load_task
from lobes.tasks.task import Task
from lobes.texts import digest

Progress = Callable[[str, int, int], None]

LONGEST_BY_DEFAULT = 256


def load_tasks(study: StudyConfig, progress: Progress | None = None) -> list[Task]:
    """The tasks of a study with their data; `DataError` for what cannot be read or used."""
    tasks = []
    for number, task in enumerate(study.tasks):
        if progress:
            progress("reading data", number, len(study.tasks))
        loaded = load_task(
            **task.source(),
            train_size=task.train_size,
            validation_size=task.validation_size,
            stratified=task.stratified,
            seed=study.seed,
            data_dir=study.data_dir,
        )
        if loaded.train is None and _needs_training_data(study):
            raise DataError(
                f"Task {task.name!r} has no training data in {study.data_dir!r}: name it with "
                f"train=…, or measure a model that is trained with "
                f'iap.importance_split="validation".'
            )
        tasks.append(loaded)
    if progress:
        progress("reading data", len(study.tasks), len(study.tasks))
    return tasks


def _needs_training_data(study: StudyConfig) -> bool:
    return study.training.enabled or study.iap.importance_split == "train"


def new_model(study: StudyConfig, tasks: Sequence[Task]) -> MultiTaskModel:
    """The study's pre-trained encoder with new classifiers, ready to be trained."""
    model = MultiTaskModel.from_pretrained(
        study.model,
        tasks,
        trust_remote_code=study.trust_remote_code,
        pooling=study.pooling,
        dropout=study.training.dropout,
        max_length=study.max_length,
        seed=study.seed,
    )
    if study.max_length is None and model.image_processor is None:
        model.max_length = min(model.max_length, LONGEST_BY_DEFAULT)
    return model


def iap_settings(study: StudyConfig) -> IapSettings:
    """What the study says about lesions, as `lesion_matrix` takes it."""
    others = {"resamples", "level", "agreement_examples", "similarity_examples"}
    settings = study.iap.model_dump(exclude=others)
    return IapSettings(**{**settings, "seed": study.iap_seed})


def task_fingerprint(task: Task) -> str:
    """A fingerprint of a task's labels and of all its examples."""
    parts: list[str | np.ndarray] = [json.dumps(task.spec.to_dict())]
    for examples in (task.train, task.validation):
        if examples is not None:
            parts += [digest(examples.texts), examples.labels]
            parts += [picture.digest.hex() for picture in examples.images or ()]
    return fingerprint(*parts)


def scope_of(model: TaskModel, tasks: Sequence[Task], precision: str) -> str:
    """What a measurement depends on besides its key: weights, data and precision."""
    parts: list[str | np.ndarray] = [precision]
    for name, tensor in model.state_dict().items():
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        parts += [f"{name} {tensor.dtype} {tuple(tensor.shape)}", raw.numpy()]
    parts += [task_fingerprint(task) for task in tasks]
    return fingerprint(*parts)
