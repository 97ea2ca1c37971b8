"""Load a study's tasks and model, and compute fingerprints of them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lobes.config.settings import TaskConfig
from lobes.config.study import StudyConfig
from lobes.custom_metrics import try_out
from lobes.data.batching import tokenizer_state
from lobes.data.texts import digest
from lobes.discovery import find_heads
from lobes.errors import DataError, RunError, at
from lobes.files import fingerprint
from lobes.metrics import get_metric
from lobes.modeling import MultiTaskModel, TaskModel
from lobes.modeling.head_lora import head_lora
from lobes.progress import StageProgress
from lobes.tasks.harness import harness_task
from lobes.tasks.sources import load_task
from lobes.tasks.task import Task

LONGEST_BY_DEFAULT = 256

# What progress calls the time before a run in which its own is estimated.
ESTIMATING = "estimate"

# How measurements are made, as a number that is part of what names them: those of an earlier
# version, which other code made in another way, are never mixed with new ones.
# 2: classifiers in fp32 beside a bf16 encoder; T of the importance from the mask.
# 3: importance has halves; estimates with their sign are compared with exact ablation, too.
MEASUREMENT_VERSION = 3


@dataclass(frozen=True)
class Loaded:
    """A study with its tasks and its model, and the precision in which the model is measured."""

    study: StudyConfig
    tasks: Sequence[Task]
    model: TaskModel
    precision: str


def load_tasks(study: StudyConfig, progress: StageProgress | None = None) -> list[Task]:
    """Return the tasks of a study with their data; `DataError` if they cannot be used."""
    tasks = []
    for number, task in enumerate(study.tasks):
        if progress:
            progress("reading data", number, len(study.tasks))
        loaded = _load_task(study, task)
        if loaded.train is None and _needs_training_data(study):
            raise DataError(
                f"Task {task.name!r} has no training data in {study.data_dir!r}: name it with "
                f"train=…, or measure a model that is trained with "
                f'iap.importance_split="validation".'
            )
        examples = loaded.validation or loaded.train
        if examples is not None:
            with at(f"Task {task.name!r}"):
                try_out(get_metric(loaded.metric), examples.labels)
        tasks.append(loaded)
    if progress:
        progress("reading data", len(study.tasks), len(study.tasks))
    return tasks


def _load_task(study: StudyConfig, task: TaskConfig) -> Task:
    if task.lm_eval is not None:
        return harness_task(
            task.lm_eval,
            name=task.name,
            metric=task.metric,
            limit=task.limit,
            fewshot=task.fewshot,
            include=task.include,
            train_size=task.train_size,
            train=_needs_training_data(study),
            seed=study.seed,
        )
    return load_task(
        task.source(study.data_dir),
        train_size=task.train_size,
        validation_size=task.validation_size,
        stratified=task.stratified,
        seed=study.seed,
    )


def _needs_training_data(study: StudyConfig) -> bool:
    return study.training.enabled or study.iap.importance_split == "train"


def new_model(study: StudyConfig, tasks: Sequence[Task]) -> MultiTaskModel:
    """Return the study's pre-trained encoder with new classifiers, ready to be trained."""
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


def with_adapters(study: StudyConfig, model: MultiTaskModel) -> MultiTaskModel:
    """Return the model, with adapters on all its heads where the study trains those alone."""
    settings = study.training
    if settings.lora_rank is None:
        return model
    return head_lora(
        model,
        find_heads(model).all_heads(),
        r=settings.lora_rank,
        alpha=settings.lora_alpha,
        dropout=settings.lora_dropout,
        seed=study.seed,
    )


def measuring_device() -> str:
    """Return where a study's model is measured: an accelerator where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def several_gpus() -> bool:
    """Return whether this process sees several GPUs, as a worker does that gets several."""
    return torch.cuda.device_count() > 1


def check_inputs(model: TaskModel, tasks: Sequence[Task]) -> None:
    """Raise `DataError` for a text of which the tokenizer makes no token.

    Only a tokenizer that adds no token of its own can: with others nothing is read.
    """
    if model.image_processor is not None or model.tokenizer("")["input_ids"]:
        return
    for task in tasks:
        for examples in filter(None, (task.train, task.validation)):
            model.encode(task.name, examples)


def task_fingerprint(task: Task) -> str:
    """Return a fingerprint of a task's labels and of all its examples."""
    parts: list[str | np.ndarray] = [json.dumps(task.spec.to_dict())]
    for examples in (task.train, task.validation):
        if examples is not None:
            parts += [digest(examples.texts), examples.labels]
            parts += [picture.digest.hex() for picture in examples.images or ()]
    return fingerprint(*parts)


def fingerprints_of(tasks: Sequence[Task]) -> dict[str, str]:
    """Return fingerprints of the data of all tasks, and of metrics of the user's own, by name."""
    found = {f"data of {task.name}": task_fingerprint(task) for task in tasks}
    for task in tasks:
        metric = get_metric(task.metric)
        if metric.fingerprint:
            found[f"metric of {task.name}"] = fingerprint(metric.fingerprint)
    return found


def scope_of(model: TaskModel, tasks: Sequence[Task], precision: str) -> str:
    """Return a fingerprint of what all measurements depend on: method, model, data, precision."""
    return fingerprint(
        f"version {MEASUREMENT_VERSION}",
        precision,
        model_fingerprint(model),
        *fingerprints_of(tasks).values(),
    )


def model_fingerprint(model: TaskModel) -> str:
    """Return a fingerprint of a model: weights, configuration, preparation of its inputs."""
    pooling = getattr(model, "pooling", None)
    parts = [json.dumps([spec.to_dict() for spec in model.tasks]), f"{pooling} {model.max_length}"]
    return fingerprint(*parts, *_reading(model), *_weights(model.state_dict()))


def base_fingerprint(model: MultiTaskModel) -> str:
    """Return a fingerprint of a new model's pre-trained encoder, without newly drawn weights."""
    state = model.encoder.state_dict()
    loaded = {name: state[name] for name in state.keys() - model.new_weights}
    return fingerprint(*_reading(model), *_weights(loaded))


def check_base(model: MultiTaskModel, base: str, name: str) -> None:
    """Raise `RunError` where a new model is not of the encoder that a run began with."""
    if base_fingerprint(model) != base:
        raise RunError(
            f"The model {name} has changed since this run began: put back the one that it began "
            f"with, or start again with --fresh."
        )


def _reading(model: TaskModel) -> list[str]:
    """A model's configuration, and what makes its inputs."""
    if model.image_processor is None:
        reader = tokenizer_state(model.tokenizer)
    else:
        reader = model.image_processor.processor.to_dict()
    return [_as_json(_lasting(each)) for each in (model.config.to_dict(), reader)]


def _as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _lasting(settings: Any) -> Any:
    """Settings without those that say where a model lies, and which library saved it."""
    if not isinstance(settings, Mapping):
        return settings
    passing = {"transformers_version", "dtype", "torch_dtype", "architectures", "use_cache"}
    return {
        str(key): _lasting(value)
        for key, value in settings.items()
        if key not in passing and not str(key).startswith("_")
    }


def _weights(state: Mapping[str, Tensor]) -> list[str | np.ndarray]:
    parts: list[str | np.ndarray] = []
    for name, tensor in sorted(state.items()):
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        parts += [f"{name} {tensor.dtype} {tuple(tensor.shape)}", raw.numpy()]
    return parts
