"""Evaluate a model on its tasks under many lesions: the hot loop.

The unit is a batch, and every lesion visits it before the next batch comes. Texts are tokenized
once, sorted by length and cut into batches of a fixed number of tokens, pictures are decoded once
for all lesions; an input that several tasks share is run once, since one pass of the encoder
serves all classifiers; a lesioned run plays back what the one before had in common with it
(`replay.py`). A model whose answers depend on padding gets batches without any. Logits are kept
for each lesion and example, so every statistic comes later and costs no run of the model.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

from lobes import limits
from lobes.ablation import HeadMeans, means_over
from lobes.data.batching import Inputs
from lobes.discovery import layout_of
from lobes.errors import ConfigError
from lobes.heads import HeadLayout, Heads, HeadSet
from lobes.measure.batch_size import room_for_copies, tokens_in_a_batch, within_memory
from lobes.measure.batch_task import (
    AnyTask,
    BatchTask,
    are_batch_tasks,
    layout_for_tasks,
    means_of,
    values_under,
)
from lobes.measure.generation import check_generation, values_of_texts
from lobes.measure.lesioned_runs import OwnRuns, Partners, SharedRuns, task_runs
from lobes.measure.measuring import at_precision, measuring
from lobes.measure.workload import (
    Tried,
    Workload,
    check_finite,
    cut,
    examples_of,
    reads_padding,
    spec_of,
    workload_of,
)
from lobes.metrics import get_metric
from lobes.modeling import TaskModel
from lobes.modeling.task_model import Readable, check_task_model, device_of
from lobes.progress import Progress, counted, part_of, shown_progress
from lobes.tasks.task import Task, TaskSpec, as_tasks
from lobes.transfers import Transfers


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured: every task's logits under every lesion.

    `logits[task]` has the shape [lesions, examples, outputs], in the order of the task's
    examples, in float32; of a `BatchTask` each example's score or negated loss, as its one output;
    of a task that generates text the metric's value of each text, both in float64.
    `labels[task]` are those examples' class indices or target values, or
    [examples, classes] of 0 and 1 where an example may have several labels.
    """

    specs: tuple[TaskSpec | BatchTask, ...]
    lesions: tuple[HeadSet, ...]
    logits: Mapping[str, Float[np.ndarray, "lesions _ _"]]
    labels: Mapping[str, np.ndarray]

    def __repr__(self) -> str:
        tasks = ", ".join(f"{name} {list(found.shape)}" for name, found in self.logits.items())
        return f"Evaluation(logits [lesions, examples, outputs]: {tasks})"

    def predictions(self, task: str) -> np.ndarray:
        """Return predictions [lesions, examples]: the index of the most likely class, or the value.

        With several labels [lesions, examples, classes]: 1 for each that is predicted, else 0.
        """
        return predictions_of(self.logits[task], self.spec(task))

    def spec(self, task: str) -> TaskSpec | BatchTask:
        """Return the description of the task called `task`."""
        return next(spec for spec in self.specs if spec.name == task)

    def scores(self) -> Float[np.ndarray, "lesions tasks"]:
        """Return the main metric of every task under every lesion."""
        columns = [
            [
                get_metric(spec.metric)(self.labels[spec.name], row)
                for row in self.predictions(spec.name)
            ]
            for spec in self.specs
        ]
        return np.array(columns, dtype=np.float64).T


def evaluate(
    model: nn.Module,
    tasks: AnyTask | Sequence[AnyTask],
    lesions: Sequence[Heads] = (HeadSet(),),
    *,
    split: str = "validation",
    value: str = "zero",
    reference: AnyTask | Sequence[AnyTask] | None = None,
    means: Mapping[str, HeadMeans] | None = None,
    seed: int = 0,
    precision: str = "fp32",
    tokens_per_batch: int | None = None,
    share_layers: bool = True,
    layout: HeadLayout | None = None,
    progress: Progress | bool | None = None,
) -> Evaluation:
    """Run every task's examples under every lesion; an empty `HeadSet` is the plain model.

    `tasks` are those that the model was made for, or some of them, or one; or, for any model, one
    or more `BatchTask`.

    A lesion has any form that `HeadSet.of` reads.

    `value` stands in for the contexts of ablated heads (docs/method.md#values): "zero"; "mean",
    the head's mean context over the task's examples; or "resample", its context in the plain
    model for another of the task's examples of about the same length, which `seed` decides. For
    the last two every task has runs of its own, also for inputs that tasks share. `reference` are
    the same tasks with all their examples, where `tasks` have only some of them: means and
    contexts are then theirs. `means` are the means where they are known (`task_means`).

    `precision` is "fp32" (repeatable to the bit on a CPU), "bf16", or "auto": bf16 where the
    hardware multiplies it natively. `progress(done, total)` is called as things go; True shows a
    line on stderr. `share_layers=False` runs every lesion from the bottom up,
    which gives the same numbers and takes longer. The model's modes, flags and weights are as
    before afterwards. Raises `HeadError` for heads that the model does not have, `DataError` for
    a task without this split or that the model was not made for; `ModelError` for logits that are
    not finite, naming the lesion, the task and the examples.
    """
    evaluator = Evaluator(
        model,
        tasks,
        split=split,
        value=value,
        reference=reference,
        means=means,
        seed=seed,
        precision=precision,
        tokens_per_batch=tokens_per_batch,
        share_layers=share_layers,
        layout=layout,
    )
    return evaluator.run(lesions, shown_progress(progress, "evaluation"))


class Evaluator:
    """Evaluates tasks under group after group of lesions: `evaluate`, with what it prepares kept.

    Kept are the encoded examples and their batches, a bf16 copy of the model, the means of the
    heads, and what was tried out of the model: whether its runs share layers, whether its answers
    depend on padding. So the model must not change. The arguments are those of `evaluate`.
    """

    def __init__(
        self,
        model: nn.Module,
        tasks: AnyTask | Sequence[AnyTask],
        *,
        split: str = "validation",
        value: str = "zero",
        reference: AnyTask | Sequence[AnyTask] | None = None,
        means: Mapping[str, HeadMeans] | None = None,
        seed: int = 0,
        precision: str = "fp32",
        tokens_per_batch: int | None = None,
        share_layers: bool = True,
        layout: HeadLayout | None = None,
    ) -> None:
        self.tasks: Sequence[AnyTask] = as_tasks(tasks, BatchTask)
        limits.check_choice("value", value, limits.VALUE)
        limits.check_number("seed", seed, limits.SEED)
        self.layout = layout_for_tasks(model, self.tasks, layout, split, tokens_per_batch)
        self.split, self.value, self.seed, self.share = split, value, seed, share_layers
        self.tokens_per_batch, self.precision = tokens_per_batch, precision
        self._given, self._means = model, means
        self._whole: Sequence[AnyTask] = ()
        if not are_batch_tasks(self.tasks):
            check_generation(check_task_model(model), self.tasks, value)
            self._whole = () if value == "zero" else _all_examples(self.tasks, reference)
        self._tried = Tried()
        self._all = {task.name: task for task in self.tasks}
        self._places: Mapping[str, Int[np.ndarray, " _"]] = {}
        self._runs: dict[tuple[int, int, bool], list[SharedRuns]] = {}

    @cached_property
    def model(self) -> Any:
        """The model that is run: the one that was given, or its copy in bf16."""
        return at_precision(self._given, self.precision)

    def some(
        self, tasks: Sequence[AnyTask], places: Mapping[str, Int[np.ndarray, " _"]] | None = None
    ) -> "Evaluator":
        """Return an evaluator of some of the tasks that shares what is kept.

        `places` are those of their examples among all, by the task, where they have fewer.
        """
        part = copy(self)
        part.__dict__["model"] = self.model
        part.tasks, part._places, part._runs = tasks, places or {}, {}
        names = [task.name for task in tasks]
        part._whole = [task for task in self._whole if task.name in names]
        return part

    @property
    def shares(self) -> bool:
        """Whether the lesions that were run shared layers."""
        return all(each.shares for runs in self._runs.values() for each in runs)

    def run(self, lesions: Sequence[Heads], progress: Progress | None = None) -> Evaluation:
        """Return every task's logits under every lesion; see `evaluate`."""
        sets = tuple(HeadSet.of(lesion, self.layout) for lesion in lesions)
        share = self.share and sum(map(bool, sets)) > 1
        with measuring(self.model, "fp32"), torch.no_grad():
            if are_batch_tasks(self.tasks):
                return self._of_batches(sets, share, progress)
            # tasks that share runs together, and each task whose answers are texts by itself
            texts = [task for task in self.tasks if self.model.generates(task.name)]
            others = [task for task in self.tasks if task not in texts]
            runs = [partial(self._measured, others, sets, share)] if others else []
            runs += [partial(self._generated, task, sets) for task in texts]
            found = []
            for number, run in enumerate(runs):
                measure = partial(run, part_of(progress, number, len(runs)))
                tokens = tokens_in_a_batch(self.model, self.tokens_per_batch)
                found.append(within_memory(self.model, tokens, measure))
            return found[0] if len(found) == 1 else _together(self.tasks, found)

    def _of_batches(
        self, sets: Sequence[HeadSet], share: bool, progress: Progress | None
    ) -> Evaluation:
        """Evaluate tasks that are batches."""
        found = {}
        for number, task in enumerate(self.tasks):
            assert isinstance(task, BatchTask)
            values = values_under(
                self.model,
                task,
                sets,
                self.layout,
                split=self.split,
                value=self.value,
                means=None if self.value == "zero" else self._means_of(None)[task.name],
                seed=self.seed,
                share=share,
                tried=self._tried,
                progress=part_of(progress, number, len(self.tasks)),
            )
            for heads, row in zip(sets, values, strict=True):
                lesion = f" with the heads {heads} ablated" if heads else ""
                what = f"The values of task {task.name!r}{lesion}"
                check_finite(row, np.arange(len(row)), what)
            found[task.name] = values[..., None]
        labels = {name: np.zeros(each.shape[1]) for name, each in found.items()}
        return Evaluation(tuple(self.tasks), tuple(sets), found, labels)

    def _means_of(self, tokens: int | None) -> Mapping[str, HeadMeans]:
        """Every task's mean contexts, over all its examples."""
        if self._means is None:
            self._means = task_means(
                self.model,
                self._whole or self.tasks,
                split=self.split if self._whole else "validation",
                tokens_per_batch=tokens,
                layout=self.layout,
            )
        return self._means

    def _generated(
        self, task: AnyTask, sets: Sequence[HeadSet], progress: Progress | None, tokens: int
    ) -> Evaluation:
        """Evaluate a task that generates text, with so many tokens in a batch."""
        assert isinstance(task, Task)
        examples = examples_of(task, self.split)
        mean = None if self.value == "zero" else self._means_of(tokens)[task.name]
        how = self.layout, tokens, mean, "fp32", progress
        values = values_of_texts(self.model, task, examples, sets, *how)
        specs, labels = (spec_of(self.model, task),), {task.name: examples.labels}
        return Evaluation(specs, tuple(sets), {task.name: values[..., None]}, labels)

    def _measured(
        self,
        tasks: Sequence[AnyTask],
        sets: Sequence[HeadSet],
        share: bool,
        progress: Progress | None,
        tokens: int,
    ) -> Evaluation:
        """Evaluate with so many tokens in a batch."""
        room, narrow = room_for_copies(device_of(self.model), tokens, len(sets))
        key = narrow, room, share
        if key not in self._runs:
            self._runs[key] = self._prepared(tasks, narrow, room, share)
        runs = self._runs[key]
        workloads = [each.workload for each in runs]
        logits = {
            spec.name: np.empty((len(sets), len(work.places[spec.name]), spec.n_outputs), "f4")
            for work in workloads
            for spec in work.specs
        }
        steps = [(run, batch) for run in runs for batch in run.workload.batches]
        transfers = Transfers()
        for run, batch in counted(steps, progress):
            found = dict(run.outputs(batch, sets))
            each = [
                torch.stack([found[index][task] for index in range(len(sets))])
                for task in run.workload.places
            ]
            transfers.send(each, partial(run.workload.scatter, logits, batch, sets))
        transfers.finish()
        return Evaluation(
            specs=tuple(spec for work in workloads for spec in work.specs),
            lesions=tuple(sets),
            logits={
                task: logits[task][:, members]
                for work in workloads
                for task, members in work.examples.items()
            },
            labels={task: labels for work in workloads for task, labels in work.labels.items()},
        )

    def _prepared(
        self, tasks: Sequence[AnyTask], tokens: int, room: int, share: bool
    ) -> list[SharedRuns]:
        """Encode the examples, cut them into batches, and try the model out."""
        together = self.value == "zero"
        parts = [tasks] if together else [[task] for task in tasks]
        workloads = [
            workload_of(
                self.model,
                part,  # type: ignore[arg-type]
                [self._encoded(task) for task in part],
                split=self.split,
                tokens_per_batch=tokens,
                tried=self._tried,
            )
            for part in parts
        ]
        how = self.model, self.layout
        if together:
            return [SharedRuns(*how, work, share, room, self._tried) for work in workloads]
        means = self._means_of(tokens)
        whole = {task.name: task for task in self._whole}
        return [
            OwnRuns(*how, work, share, room, self._tried, means[task.name], partners)
            for work in workloads
            for task in [whole[work.specs[0].name]]
            for partners in [self._partners(work, task) if self.value == "resample" else None]
        ]

    def _encoded(self, task: AnyTask) -> Inputs:
        """A task's encoded examples, chosen from all of its examples where it has some of them."""
        found = self._encoded_whole(self._all[task.name])
        places = self._places.get(task.name)
        return found if places is None else found.select(places)

    def _encoded_whole(self, whole: AnyTask) -> Inputs:
        assert isinstance(whole, Task)
        examples = examples_of(whole, self.split)
        return self._tried.once(
            ("encoded", id(whole)), lambda: self.model.encode(whole.name, examples)
        )

    def _partners(self, workload: Workload, whole: AnyTask) -> Partners:
        """Whose contexts stand in for those of a task's inputs."""
        inputs, _ = self._encoded_whole(whole).distinct()
        alike = reads_padding(self.model, whole.name, inputs, self._tried)
        return Partners.among(workload.inputs, inputs, self.seed, alike=alike)


def _together(tasks: Sequence[AnyTask], parts: Sequence[Evaluation]) -> Evaluation:
    """One evaluation of several, the tasks in their order."""
    specs = {spec.name: spec for part in parts for spec in part.specs}
    logits = {name: part.logits[name] for part in parts for name in part.logits}
    labels = {name: part.labels[name] for part in parts for name in part.labels}
    names = [task.name for task in tasks]
    return Evaluation(
        tuple(specs[name] for name in names),
        parts[0].lesions,
        {name: logits[name] for name in names},
        {name: labels[name] for name in names},
    )


def _all_examples(
    tasks: Sequence[AnyTask], reference: AnyTask | Sequence[AnyTask] | None
) -> list[AnyTask]:
    """The tasks with the examples that means and contexts are taken from."""
    known = {task.name: task for task in (tasks if reference is None else as_tasks(reference))}
    for task in tasks:
        if task.name not in known:
            raise ConfigError(
                f"reference has no task {task.name!r}: expected every task that is evaluated, "
                f"with all its examples."
            )
    return [known[task.name] for task in tasks]


def task_means(
    model: nn.Module,
    tasks: AnyTask | Sequence[AnyTask],
    *,
    split: str = "validation",
    precision: str = "fp32",
    tokens_per_batch: int | None = None,
    layout: HeadLayout | None = None,
) -> dict[str, HeadMeans]:
    """Return, for each task, the mean contexts of the heads over the real positions of a split.

    The settings are those of `evaluate`, which takes the result as `means`.
    """
    chosen = as_tasks(tasks, BatchTask)
    layout = layout_of(model, layout)
    with measuring(model, precision) as measured, torch.no_grad():
        if are_batch_tasks(chosen):
            return {task.name: means_of(measured, task, layout, split=split) for task in chosen}
        return _means(check_task_model(measured), chosen, split, tokens_per_batch, layout)


def _means(
    model: TaskModel,
    tasks: Sequence[Task],
    split: str,
    tokens_per_batch: int | None,
    layout: HeadLayout,
) -> dict[str, HeadMeans]:
    means = {}
    for task in tasks:
        inputs = model.encode(task.name, examples_of(task, split))
        batches = cut(model, task.name, inputs, tokens_per_batch)
        means[task.name] = means_over(model, layout, task_runs(model, task.name, inputs, batches))
    return means


def predict_logits(
    model: TaskModel,
    task: str,
    examples: Readable,
    *,
    precision: str = "fp32",
    tokens_per_batch: int | None = None,
    progress: Progress | None = None,
) -> Float[np.ndarray, "examples outputs"]:
    """Return one task's logits in float32 for examples in their order; labels are not read.

    The settings are those of `evaluate`.
    """
    spec, inputs = model.spec(task), model.encode(task, examples)
    batches = cut(model, task, inputs, tokens_per_batch)
    logits = np.empty((len(inputs), spec.n_outputs), dtype=np.float32)

    def receive(batch: Int[np.ndarray, " batch"], values: np.ndarray) -> None:
        logits[batch] = values
        check_finite(logits[batch], batch, f"The logits of task {task!r}")

    transfers = Transfers()
    with measuring(model, precision) as measured, torch.no_grad():
        for batch in counted(batches, progress):
            tensors = inputs.collate(batch, model.device)
            found = measured.task_logits(task, **tensors).float()
            transfers.send([found], partial(receive, batch))
        transfers.finish()
    return logits


def predictions_of(logits: np.ndarray, spec: TaskSpec | BatchTask) -> np.ndarray:
    """Return the predicted class indices [...] or values [...] of logits [..., outputs].

    With several labels [..., outputs], int8: 1 where the logit is above 0, a probability of 1/2.
    Raises `ModelError` for logits that are not finite, which say nothing.
    """
    each = np.moveaxis(logits, -2, 0) if logits.ndim > 1 else logits[None]
    check_finite(each, np.arange(len(each)), f"The logits of task {spec.name!r}")
    if spec.is_multi_label:
        return (logits > 0).astype(np.int8)
    return logits[..., 0].astype(np.float64) if spec.is_regression else logits.argmax(-1)
