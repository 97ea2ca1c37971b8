"""A task as batches with a loss or a score of its own: for any model.

Importance comes from the losses on `train`, and the scores under lesions from `validation`. The
batches are read once and kept, so that every lesion meets the same examples in the same order. What
a batch task cannot do: share runs with another task, and be measured on a sample of its examples.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from functools import partial
from inspect import Parameter, signature
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lobes.ablation import HeadMeans, checked_batches, mean_contexts, on_model, resampled_contexts
from lobes.discovery import find_heads, layout_of
from lobes.discovery.wrappers import check_model
from lobes.errors import ConfigError, DataError, ModelError, at
from lobes.heads import HeadLayout, HeadSet
from lobes.limits import short
from lobes.measure.settings import IapSettings
from lobes.measure.workload import Tried
from lobes.modeling.task_model import check_task_model
from lobes.progress import Progress, counted
from lobes.replay import Replay
from lobes.tasks.arguments import names_of
from lobes.tasks.columns import listed
from lobes.tasks.task import Task, check_name

Batch = Mapping[str, Any]
Loss = Callable[[Any, Any], Tensor]


@dataclass(frozen=True, eq=False)
class BatchTask:
    """A task of any model: batches of keyword inputs, and each example's own loss or score.

    `loss(outputs, batch) -> [batch]` is each example's loss, from what the model returned; head
    importance comes from it. The task's metric is the mean of `score(outputs, batch) -> [batch]`,
    where more is better, or without a score the negated mean loss (`neg_mean_loss`). Neither has a
    chance level; docs/method.md#means-of-losses-and-scores says what their D-scores are.

    `train` are the batches that importance comes from, `validation` those that are measured under
    lesions; they must be different ones. Any iterable of dictionaries will do: it is read once, and
    the batches are kept. `targets` are the entries of a batch that only loss and score read, and
    not the model.

    Raises `DataError` for batches that are none, or the same in both splits, and `ConfigError` for
    what is no function.
    """

    name: str
    _: KW_ONLY
    loss: Loss
    train: Iterable[Batch] | None = None
    validation: Iterable[Batch] | None = None
    score: Loss | None = None
    targets: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_name(self.name)
        with at(f"Task {self.name!r}"):
            for name in ("loss", "score"):
                function = getattr(self, name)
                if not (callable(function) or (name == "score" and function is None)):
                    raise ConfigError(
                        f"{name} is a function {name}(outputs, batch) -> [batch], not "
                        f"{short(function)}."
                    )
            object.__setattr__(self, "targets", names_of("targets", self.targets))
            if self.train is not None and self.train is self.validation:
                raise DataError(_SAME)
            for split in ("train", "validation"):
                given = getattr(self, split)
                if given is not None:
                    object.__setattr__(self, split, self._kept(split, given))
            if {*map(_identity, self.train or ())} & {*map(_identity, self.validation or ())}:
                raise DataError(_SAME)

    def _kept(self, split: str, batches: Iterable[Batch]) -> tuple[Batch, ...]:
        kept = tuple(checked_batches(batches))
        if not kept:
            raise DataError(f"has no batch in {split}: expected one or more.")
        for batch in kept:
            for name in self.targets:
                if name not in batch:
                    raise DataError(
                        f"has the target {name!r}, which a batch of {split} lacks: it has "
                        f"{', '.join(map(repr, batch))}."
                    )
        if len({*map(_identity, kept)}) < len(kept):
            raise DataError(
                f"has the same batch twice in {split}, in the same memory: give each once; an "
                f"iterable that fills one batch again and again must make new tensors."
            )
        return kept

    def __repr__(self) -> str:
        numbers = [
            f"{len(getattr(self, split))} batches of {split}"
            for split in ("train", "validation")
            if getattr(self, split) is not None
        ]
        return f"BatchTask({', '.join([self.name, self.metric, *numbers])})"

    @property
    def metric(self) -> str:
        """The metric, of `lobes.metrics.MEANS`."""
        return "neg_mean_loss" if self.score is None else "mean_score"

    is_regression, is_multi_label = True, False  # as `TaskSpec` says it: predictions are numbers

    def batches(self, split: str) -> tuple[Batch, ...]:
        """Return the batches of a split; `DataError` if there is none."""
        if split not in ("train", "validation"):
            raise ConfigError(f'A split is "train" or "validation", not {split!r}.')
        found = getattr(self, split)
        if found is None:
            raise DataError(f"Task {self.name!r} has no {split} data: give {split}=[batches].")
        return found

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """Return what the model reads of a batch."""
        return {name: value for name, value in batch.items() if name not in self.targets}

    def values(self, model: nn.Module, inputs: Batch, batch: Batch) -> Float[Tensor, " batch"]:
        """Return the values [batch] whose mean is the metric, from a run of the model on inputs."""
        outputs = model(**inputs)
        if self.score is None:
            return -each_example(self.loss, outputs, batch, "loss")
        return each_example(self.score, outputs, batch, "score")


AnyTask = Task | BatchTask


def _identity(batch: Batch) -> tuple[Any, ...]:
    """What is equal for two batches that hold the same objects, or tensors in the same memory."""

    def of(value: Any) -> Any:
        if isinstance(value, Mapping):
            return _identity(value)
        if isinstance(value, Tensor) and value.layout == torch.strided:
            return value.data_ptr(), value.shape, value.stride(), value.dtype
        return id(value)

    return tuple((name, of(value)) for name, value in batch.items())


_SAME = (
    "has the same batches in train and validation, but importance must come from other examples "
    "than those that are measured: divide them, as in train=batches[::2], "
    "validation=batches[1::2]."
)


def each_example(function: Loss, outputs: Any, batch: Batch, what: str) -> Float[Tensor, " batch"]:
    """Return each example's own loss or score; `ConfigError` for anything but a tensor [batch].

    The function gets a dictionary of its own, which it may change.
    """
    found = function(outputs, dict(batch))
    sizes = _sizes(batch)
    shape: Any = type(found).__name__
    if isinstance(found, Tensor):
        shape = f"complex numbers {list(found.shape)}" if found.is_complex() else list(found.shape)
        if found.dim() == 1 and not found.is_complex() and (not sizes or len(found) in sizes):
            _check_gradient(found, what)
            return found if found.is_floating_point() else found.double()
    raise ConfigError(
        f"The {what} function returned {shape}: expected a tensor [batch] with each example's "
        f"own {what} (with torch's losses: reduction='none')."
    )


def _check_gradient(found: Tensor, what: str) -> None:
    """Raise `ConfigError` for losses that importance is to come from, and that have no gradient."""
    if what == "loss" and torch.is_grad_enabled() and not found.requires_grad:
        raise ConfigError(
            "The loss function returned a tensor without a gradient, which importance needs: "
            "compute it from the model's outputs by torch's operations, without detach, numpy or "
            "no_grad."
        )


def _sizes(batch: Batch) -> set[int]:
    """How many examples a batch may have: sizes of its tensors, of which the second may be it."""
    found = set()
    for value in batch.values():
        if isinstance(value, Mapping):
            found |= _sizes(value)
        elif isinstance(value, Tensor):
            found |= {*value.shape[:2]}
        elif isinstance(value, list | tuple):
            found.add(len(value))
    return found


def are_batch_tasks(tasks: Sequence[Any]) -> bool:
    """Return whether the tasks are batch tasks; `ConfigError` where only some are."""
    kinds = {isinstance(task, BatchTask) for task in tasks}
    if len(kinds) > 1:
        raise ConfigError(
            "Some of the tasks are lobes.BatchTask and some are not: give tasks of one kind, which "
            "one model can be measured on."
        )
    return kinds == {True}


def layout_for_tasks(
    model: nn.Module,
    tasks: Sequence[AnyTask],
    layout: HeadLayout | None,
    split: str,
    tokens_per_batch: int | None,
) -> HeadLayout:
    """Return the heads of a model, and check that it can do the tasks.

    Raises `ModelError` for tasks of texts or images on a model without them, and `ConfigError` for
    a size of batches where the batches are given.
    """
    if are_batch_tasks(tasks):
        check_model(model)
        for task in tasks:
            assert isinstance(task, BatchTask)
            with at(f"Task {task.name!r}"):
                check_entries(model, task.batches(split)[0], task.targets)
        check_no_texts(tokens_per_batch)
        return layout_of(model, layout or layout_for(model, tasks[0], split))
    return layout_of(check_task_model(model), layout)


def check_entries(model: nn.Module, batch: Batch, targets: Sequence[str]) -> None:
    """Raise `ConfigError` for an entry of a batch that the model does not read, and no target is.

    A model that takes any argument decides itself.
    """
    try:
        parameters = signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters):
        return
    read = {parameter.name for parameter in parameters}
    for name in batch:
        if name not in read and name not in targets:
            raise ConfigError(
                f"A batch has the entry {name!r}, which {type(model).__name__} does not read: it "
                f"reads {listed(sorted(read))}. Name what only loss and score read, as in "
                f"targets=[{name!r}]."
            )


def check_no_texts(tokens_per_batch: int | None) -> None:
    """Raise `ConfigError` for a size of batches where the batches are given."""
    if tokens_per_batch is not None:
        raise ConfigError(
            f"tokens_per_batch = {short(tokens_per_batch)} is for tasks of texts or images: the "
            f"batches of a lobes.BatchTask are taken as they are; leave it out."
        )


def check_settings(settings: IapSettings) -> None:
    """Raise `ConfigError` for settings that take some of the examples of a task."""
    usual = {field.name: field.default for field in fields(IapSettings)}
    for name in ("control_examples", "importance_examples"):
        if getattr(settings, name) != usual[name]:
            raise ConfigError(
                f"{name} = {getattr(settings, name)} takes some of the examples of a task, and the "
                f"batches of a lobes.BatchTask are taken whole: leave it out, and give fewer "
                f"batches."
            )


def layout_for(model: nn.Module, task: AnyTask, split: str) -> HeadLayout:
    """Return the heads of a model: by its own description, or run on a batch of the task."""
    assert isinstance(task, BatchTask)
    try:
        return find_heads(model)
    except ModelError:
        batch = on_model(task.batches(split)[0], model)
        return find_heads(model, example_inputs=task.inputs(batch))


def means_of(
    model: nn.Module, task: BatchTask, layout: HeadLayout, *, split: str = "validation"
) -> HeadMeans:
    """Return the mean contexts of the heads over the batches of a split."""
    batches = (task.inputs(batch) for batch in task.batches(split))
    return mean_contexts(model, batches, layout=layout)


def values_under(
    model: nn.Module,
    task: BatchTask,
    sets: Sequence[HeadSet],
    layout: HeadLayout,
    *,
    split: str,
    value: str,
    means: HeadMeans | None,
    seed: int,
    share: bool,
    tried: Tried,
    progress: Progress | None,
) -> Float[np.ndarray, "lesions examples"]:
    """Return the values of every example under every lesion, in the order of the batches.

    Raises `ModelError` where a loss or score gives other numbers of values for the same batch.
    """
    parts = []
    for batch in counted(task.batches(split), progress):
        moved = on_model(batch, model, rounded=False)
        inputs = on_model(task.inputs(moved), model)
        run = partial(task.values, model, inputs, moved)
        replay = tried.once(
            ("replay", task.name, share), partial(Replay, model, layout, run, share=share)
        )
        instead: dict[str, Any] = {}
        if value == "mean":
            instead = {"value": value, "data": means}
        elif value == "resample":
            samples = resampled_contexts(model, inputs, seed=seed, means=means, layout=layout)
            instead = {"value": value, "data": samples}
        found = dict(replay.runs(run, sets, **instead))
        each = [found[number].detach() for number in range(len(sets))]
        if len({len(values) for values in each}) > 1:
            raise ModelError(
                f"Task {task.name!r}: a batch has {len(each[0])} values under one lesion and "
                f"{len(each[-1])} under another: loss and score give one for each example."
            )
        parts.append(torch.stack(each).double().cpu().numpy())
    return np.concatenate(parts, axis=1)
