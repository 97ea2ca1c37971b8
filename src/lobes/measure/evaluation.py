"""Evaluate a model on its tasks under many lesions: the hot loop.

The unit is a batch, and every lesion visits it before the next batch comes. Texts are tokenized
once, sorted by length and cut into batches of a fixed number of tokens, pictures are decoded once
for all lesions; an input that several tasks share is run once, since one pass of the encoder
serves all classifiers; a lesioned run plays back what the one before had in common with it
(`replay.py`). A model whose answers depend on padding gets batches without any. Logits are kept
for each lesion and example, so every statistic comes later and costs no run of the model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from lobes import limits
from lobes.ablation import HeadMeans, means_over
from lobes.data.batching import Inputs, token_batches
from lobes.discovery import layout_of
from lobes.errors import ConfigError, DataError, ModelError
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
from lobes.measure.measuring import measuring
from lobes.metrics import get_metric
from lobes.modeling import EncodedContinuations, TaskModel
from lobes.modeling.task_model import Readable, check_task_model, device_of
from lobes.progress import Progress, counted, part_of, shown_progress
from lobes.tasks.examples import Examples
from lobes.tasks.task import Task, TaskSpec, as_tasks
from lobes.transfers import Transfers

# So many examples show whether a model's answers depend on padding.
_TRIED = 4

# So many examples are named where something is wrong with them.
_SHOWN = 5


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
    chosen = as_tasks(tasks, BatchTask)
    report = shown_progress(progress, "evaluation")
    limits.check_choice("value", value, limits.VALUE)
    limits.check_number("seed", seed, limits.SEED)
    layout = layout_for_tasks(model, chosen, layout, split, tokens_per_batch)
    sets = tuple(HeadSet.of(lesion, layout) for lesion in lesions)
    share = share_layers and sum(map(bool, sets)) > 1
    if are_batch_tasks(chosen):
        given = partial(values_under, sets=sets, split=split, value=value, seed=seed, share=share)
        return _of_batches(model, chosen, sets, layout, given, value, means, precision, report)
    model = check_task_model(model)
    check_generation(model, chosen, value)
    measure = partial(
        _measured,
        model,
        sets=sets,
        layout=layout,
        split=split,
        value=value,
        means=means,
        seed=seed,
        precision=precision,
        share=share,
    )
    whole = () if value == "zero" else _all_examples(chosen, reference)
    # tasks that share runs together, and each task whose answers are texts by itself
    parts = [[task for task in chosen if not model.generates(task.name)]]
    parts += [[task] for task in chosen if model.generates(task.name)]
    parts = [part for part in parts if part]
    found = []
    for number, part in enumerate(parts):
        names = {task.name for task in part}
        run = partial(
            measure,
            part,
            whole=[task for task in whole if task.name in names],
            progress=part_of(report, number, len(parts)),
        )
        found.append(within_memory(model, tokens_in_a_batch(model, tokens_per_batch), run))
    return found[0] if len(found) == 1 else _together(chosen, found)


def _of_batches(
    model: nn.Module,
    tasks: Sequence[BatchTask],
    sets: Sequence[HeadSet],
    layout: HeadLayout,
    values_of: Callable[..., Float[np.ndarray, "lesions _"]],
    value: str,
    means: Mapping[str, HeadMeans] | None,
    precision: str,
    progress: Progress | None,
) -> Evaluation:
    """Evaluate tasks that are batches; see `evaluate`."""
    found = {}
    with measuring(model, precision) as measured, torch.no_grad():
        for number, task in enumerate(tasks):
            mean = None
            if value != "zero":
                mean = means[task.name] if means else means_of(measured, task, layout)
            done = part_of(progress, number, len(tasks))
            values = values_of(measured, task, layout=layout, means=mean, progress=done)
            for heads, row in zip(sets, values, strict=True):
                lesion = f" with the heads {heads} ablated" if heads else ""
                what = f"The values of task {task.name!r}{lesion}"
                check_finite(row, np.arange(len(row)), what)
            found[task.name] = values[..., None]
    labels = {name: np.zeros(each.shape[1]) for name, each in found.items()}
    return Evaluation(tuple(tasks), tuple(sets), found, labels)


def _measured(
    model: TaskModel,
    tasks: Sequence[Task],
    tokens: int,
    *,
    sets: Sequence[HeadSet],
    layout: HeadLayout,
    split: str,
    value: str,
    whole: Sequence[Task],
    means: Mapping[str, HeadMeans] | None,
    seed: int,
    precision: str,
    share: bool,
    progress: Progress | None,
) -> Evaluation:
    """Evaluate with so many tokens in a batch; see `evaluate`."""
    if model.generates(tasks[0].name):
        if value != "zero" and means is None:
            with measuring(model, precision) as measured, torch.no_grad():
                means = _means(measured, whole, split, tokens, layout)
        (task,) = tasks
        examples, mean = examples_of(task, split), means[task.name] if means else None
        values = values_of_texts(
            model, task, examples, sets, layout, tokens, mean, precision, progress
        )
        specs, labels = (spec_of(model, task),), {task.name: examples.labels}
        return Evaluation(specs, tuple(sets), {task.name: values[..., None]}, labels)
    parts = [tasks] if value == "zero" else [[task] for task in tasks]
    room, narrow = room_for_copies(device_of(model), tokens, len(sets))
    workloads = [prepare(model, part, split=split, tokens_per_batch=narrow) for part in parts]
    logits = {
        spec.name: np.empty((len(sets), len(work.places[spec.name]), spec.n_outputs), "f4")
        for work in workloads
        for spec in work.specs
    }
    with measuring(model, precision) as measured, torch.no_grad():
        if value == "zero":
            runs = [SharedRuns(measured, layout, work, share, room) for work in workloads]
        else:
            means = means or _means(measured, whole, split, tokens, layout)
            sites = sorted({site for heads in sets for site, _ in heads})
            runs = []
            for task, work in zip(whole, workloads, strict=True):
                resampled = value == "resample"
                partners = _partners(measured, work, task, split, seed) if resampled else None
                own = means[task.name]
                runs.append(OwnRuns(measured, layout, work, share, own, partners, sites, room))
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


def _together(tasks: Sequence[Task], parts: Sequence[Evaluation]) -> Evaluation:
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
    tasks: Sequence[Task], reference: AnyTask | Sequence[AnyTask] | None
) -> list[Task]:
    """The tasks with the examples that means and contexts are taken from."""
    known = {task.name: task for task in (tasks if reference is None else as_tasks(reference))}
    for task in tasks:
        if task.name not in known:
            raise ConfigError(
                f"reference has no task {task.name!r}: expected every task that is evaluated, "
                f"with all its examples."
            )
    return [known[task.name] for task in tasks]


def _partners(
    model: TaskModel, workload: "Workload", whole: Task, split: str, seed: int
) -> Partners:
    """Whose contexts stand in for those of a task's inputs."""
    inputs, _ = model.encode(whole.name, examples_of(whole, split)).distinct()
    alike = _reads_padding(model, whole.name, inputs)
    return Partners.among(workload.inputs, inputs, seed, alike=alike)


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


def check_finite(
    values: Shaped[np.ndarray, "examples *shape"], examples: Int[np.ndarray, " examples"], what: str
) -> None:
    """Raise `ModelError` where some examples' numbers are not finite; `what` begins the sentence.

    `examples` are the places of the examples among those of their task.
    """
    if np.isfinite(values).all():
        return
    fine = np.isfinite(values.reshape(len(values), -1))
    wrong = np.flatnonzero(~fine.all(axis=1))
    value = values[wrong[0]].flat[int(fine[wrong[0]].argmin())]
    places = sorted(examples[wrong].tolist())
    more = ", …" if len(places) > _SHOWN else ""
    raise ModelError(
        f"{what} are not finite ({value:g}) for {'example' if len(places) == 1 else 'examples'} "
        f"{', '.join(map(str, places[:_SHOWN]))}{more}: expected numbers. Check the model's "
        f'weights and what these examples hold, or try precision="fp32".'
    )


@dataclass(frozen=True)
class Workload:
    """The inputs of one or more tasks, each distinct input once, in length-sorted batches.

    `places[task]` are the distinct inputs (rows of `inputs`) that a task uses, ascending, and
    `examples[task]` the position among those of each example of the task.
    """

    specs: tuple[TaskSpec, ...]
    inputs: Inputs
    places: Mapping[str, Int[np.ndarray, " _"]]
    examples: Mapping[str, Int[np.ndarray, " _"]]
    labels: Mapping[str, np.ndarray]
    batches: Sequence[Int[np.ndarray, " _"]]

    @property
    def tokens(self) -> int:
        """How many tokens the distinct inputs have together, padding not counted."""
        return int(self.inputs.lengths.sum())

    def collate(self, batch: Int[np.ndarray, " batch"], model: TaskModel) -> dict[str, Tensor]:
        """Return a batch's inputs as tensors on the model's device, padded to its longest."""
        return self.inputs.collate(batch, model.device)

    def scatter(
        self,
        logits: Mapping[str, Float[np.ndarray, "lesions _ _"]],
        batch: Int[np.ndarray, " batch"],
        lesions: Sequence[HeadSet],
        *outputs: Float[np.ndarray, "lesions batch _"],
    ) -> None:
        """Put a batch's logits where they belong: those of a task whose inputs they are.

        `outputs` are in the order of the tasks. Raises `ModelError` where one is not finite,
        naming the lesion.
        """
        for (task, places), values in zip(self.places.items(), outputs, strict=True):
            slots = np.searchsorted(places, batch)
            found = slots < len(places)
            found[found] = places[slots[found]] == batch[found]
            logits[task][:, slots[found]] = values[:, found]
            finite = np.isfinite(values[:, found]).all((1, 2))
            if not finite.all():
                lesion = int(finite.argmin())
                self._refuse(task, logits[task][lesion], slots[found], lesions[lesion])

    def _refuse(
        self,
        task: str,
        logits: Float[np.ndarray, "_ _"],
        slots: Int[np.ndarray, " _"],
        ablated: HeadSet,
    ) -> None:
        """Name the task's examples whose inputs, at `slots`, gave logits that are not finite."""
        members = self.examples[task]
        examples = np.flatnonzero(np.isin(members, slots))
        lesion = f" with the heads {ablated} ablated" if ablated else ""
        check_finite(logits[members[examples]], examples, f"The logits of task {task!r}{lesion}")


def prepare(
    model: TaskModel,
    tasks: Sequence[Task],
    *,
    split: str,
    tokens_per_batch: int | None = None,
) -> Workload:
    """Encode one split of the tasks and cut it into batches, inputs shared by tasks once."""
    specs = tuple(spec_of(model, task) for task in tasks)
    encoded, labels = [], {}
    for task in tasks:
        examples = examples_of(task, split)
        encoded.append(model.encode(task.name, examples))
        labels[task.name] = examples.labels
    inputs, inverse = type(encoded[0]).concatenate(encoded).distinct()
    places, members, start = {}, {}, 0
    for task, part in zip(tasks, encoded, strict=True):
        rows = inverse[start : start + len(part)]
        places[task.name], members[task.name] = np.unique(rows, return_inverse=True)
        start += len(part)
    return Workload(
        specs=specs,
        inputs=inputs,
        places=places,
        examples=members,
        labels=labels,
        batches=cut(model, tasks[0].name, inputs, tokens_per_batch),
    )


def cut(
    model: TaskModel,
    task: str,
    inputs: Inputs,
    tokens_per_batch: int | None,
    *,
    gradients: bool = False,
) -> list[Int[np.ndarray, " batch"]]:
    """Cut inputs into batches of similar length, as places among them.

    All have one length in each batch of a model whose answers depend on the padding, as those of a
    model that pools or convolves over all positions may.
    """
    budget = tokens_in_a_batch(model, tokens_per_batch, gradients=gradients)
    padding = not _reads_padding(model, task, inputs)
    if not isinstance(inputs, EncodedContinuations):
        return token_batches(inputs.lengths, budget, padding=padding)
    # as many sequences for each example of a batch, so that none is made up
    batches = []
    for number in np.unique(inputs.sequences):
        chosen = np.flatnonzero(inputs.sequences == number)
        found = token_batches(
            inputs.lengths[chosen], max(1, budget // int(number)), padding=padding
        )
        batches += [chosen[batch] for batch in found]
    return batches


def _reads_padding(model: TaskModel, task: str, inputs: Inputs) -> bool:
    """Whether an example's logits change with the padding beside it: tried on a few lengths."""
    order = np.argsort(inputs.lengths, kind="stable")
    chosen = order[np.unique(np.linspace(0, len(order) - 1, _TRIED).astype(np.int64))]
    if np.ptp(inputs.lengths[chosen]) == 0:
        return False
    device = device_of(model)
    exact = torch.autocast(device.type, enabled=False)
    with measuring(model, "fp32") as measured, torch.no_grad(), exact:
        together, *alone = (
            measured.task_logits(task, **inputs.collate(some, device)).float()
            for some in (chosen, *chosen[:, None])
        )
    difference = (together - torch.cat(alone)).abs().max()
    precise = next(model.parameters()).dtype in (torch.float32, torch.float64)
    # not a number where the model is broken, which is said of all examples later
    return bool(difference > (2e-4 if precise else 0.05) * together.abs().max())


def spec_of(model: TaskModel, task: Task) -> TaskSpec:
    """Return the model's own description of a task; `DataError` if it was not made for the task."""
    for spec in model.tasks:
        if spec.name == task.name:
            return spec
    known = ", ".join(repr(spec.name) for spec in model.tasks)
    raise DataError(f"The model was not made for task {task.name!r}: it knows {known}.")


def examples_of(task: Task, split: str) -> Examples:
    """Return one split of a task; `DataError` if the task has none."""
    if split not in ("train", "validation"):
        raise ConfigError(f'A split is "train" or "validation", not {split!r}.')
    examples = task.train if split == "train" else task.validation
    if examples is None:
        raise DataError(f"Task {task.name!r} has no {split} data: give {split}=… to its Task.")
    return examples
