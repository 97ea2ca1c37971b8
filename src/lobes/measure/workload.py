"""What is run under lesions: the inputs of tasks, each distinct one once, in batches by length."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from lobes.data.batching import Inputs, token_batches
from lobes.errors import ConfigError, DataError, ModelError
from lobes.heads import HeadSet
from lobes.measure.batch_size import tokens_in_a_batch
from lobes.measure.measuring import measuring
from lobes.modeling import EncodedContinuations, TaskModel
from lobes.modeling.task_model import device_of
from lobes.tasks.examples import Examples
from lobes.tasks.task import Task, TaskSpec

R = TypeVar("R")

# So many examples show whether a model's answers depend on padding.
_TRIED = 4

# So many examples are named where something is wrong with them.
_SHOWN = 5


class Tried:
    """What was found out about a model or made for it: each thing once."""

    def __init__(self) -> None:
        self._found: dict[Hashable, Any] = {}

    def once(self, key: Hashable, find: Callable[[], R]) -> R:
        """Return what `find` returned when it was first called for this key."""
        if key not in self._found:
            self._found[key] = find()
        return self._found[key]


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


def tokens_of(inputs: Inputs) -> Int[np.ndarray, " examples"]:
    """Return how many tokens the model reads for each example, in all of its sequences."""
    sequences = inputs.sequences if isinstance(inputs, EncodedContinuations) else 1
    return inputs.lengths * sequences


def prepare(
    model: TaskModel,
    tasks: Sequence[Task],
    *,
    split: str,
    tokens_per_batch: int | None = None,
) -> Workload:
    """Encode one split of the tasks and cut it into batches, inputs shared by tasks once."""
    for task in tasks:
        spec_of(model, task)
    encoded = [model.encode(task.name, examples_of(task, split)) for task in tasks]
    return workload_of(model, tasks, encoded, split=split, tokens_per_batch=tokens_per_batch)


def workload_of(
    model: TaskModel,
    tasks: Sequence[Task],
    encoded: Sequence[Inputs],
    *,
    split: str,
    tokens_per_batch: int | None = None,
    tried: Tried | None = None,
) -> Workload:
    """Return the workload of tasks whose examples are encoded already; see `prepare`."""
    inputs, inverse = type(encoded[0]).concatenate(encoded).distinct()
    places, members, start = {}, {}, 0
    for task, part in zip(tasks, encoded, strict=True):
        rows = inverse[start : start + len(part)]
        places[task.name], members[task.name] = np.unique(rows, return_inverse=True)
        start += len(part)
    return Workload(
        specs=tuple(spec_of(model, task) for task in tasks),
        inputs=inputs,
        places=places,
        examples=members,
        labels={task.name: examples_of(task, split).labels for task in tasks},
        batches=cut(model, tasks[0].name, inputs, tokens_per_batch, tried=tried),
    )


def cut(
    model: TaskModel,
    task: str,
    inputs: Inputs,
    tokens_per_batch: int | None,
    *,
    gradients: bool = False,
    tried: Tried | None = None,
) -> list[Int[np.ndarray, " batch"]]:
    """Cut inputs into batches of similar length, as places among them.

    All have one length in each batch of a model whose answers depend on the padding, as those of a
    model that pools or convolves over all positions may.
    """
    budget = tokens_in_a_batch(model, tokens_per_batch, gradients=gradients)
    padding = not reads_padding(model, task, inputs, tried or Tried())
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


def reads_padding(model: TaskModel, task: str, inputs: Inputs, tried: Tried) -> bool:
    """Return whether a task's logits change with padding: tried on a few lengths, once."""
    if np.ptp(inputs.lengths) == 0:
        return False
    return tried.once(("padding", task), lambda: _changes_with_padding(model, task, inputs))


def _changes_with_padding(model: TaskModel, task: str, inputs: Inputs) -> bool:
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
