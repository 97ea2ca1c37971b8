"""Batches of labeled examples with each example's own loss, as importance is computed from them.

`TaskBatches` are those of a task on a model of lobes; `GivenBatches` those that a user brings for
any model, with a loss function.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from lobes.ablation import checked_batches, on_model
from lobes.discovery.positions import decoder_sites, real_positions
from lobes.errors import ConfigError, DataError
from lobes.heads import HeadLayout
from lobes.measure.batch_task import Loss, each_example
from lobes.measure.workload import check_finite, cut, examples_of, spec_of
from lobes.modeling import TaskModel
from lobes.progress import Progress, counted
from lobes.tasks.task import Task
from lobes.transfers import moved


@dataclass(frozen=True)
class Batch:
    """One batch: how to compute its examples' losses [batch], and its real positions at a site.

    The model may read several sequences for each example, `copies`, one after the other. `places`
    are those of the examples among all, counted over batches where None, and `of` says whose they
    are. `halves(before, n)` says of each of the batch's n examples, with so many in the batches
    before, in which of two random halves of all examples it is, 0 or 1.
    """

    losses: Callable[[], Tensor]
    real: Callable[[int], Tensor | None]
    halves: Callable[[int, int], Int[np.ndarray, " batch"]]
    copies: int = 1
    places: Int[np.ndarray, " batch"] | None = None
    of: str = ""

    def check(
        self, values: Tensor | np.ndarray, what: str, before: int = 0, ablated: str = ""
    ) -> None:
        """Raise `ModelError` where an example's numbers [batch, …] are not finite.

        `before` is how many examples came in the batches before. Tensors are waited for.
        """
        if isinstance(values, Tensor):
            values = values.detach().float().cpu().numpy()
        places = np.arange(before, before + len(values)) if self.places is None else self.places
        lesion = f" with the head {ablated} ablated" if ablated else ""
        check_finite(values, places, f"{what}{self.of}{lesion}")


class TaskBatches:
    """The batches of a task's examples, sorted by length."""

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        split: str,
        max_examples: int | None,
        seed: int,
        tokens_per_batch: int | None,
    ) -> None:
        if not isinstance(model, TaskModel):
            raise ConfigError(
                f"A task is scored on a lobes MultiTaskModel, not on a {type(model).__name__}: "
                f"for any other model give batches=… and loss=… instead of a task."
            )
        examples = examples_of(task, split)
        self.places = np.arange(len(examples))
        if max_examples is not None and max_examples < len(examples):
            generator = np.random.default_rng(seed)
            chosen = generator.choice(len(examples), size=max_examples, replace=False)
            self.places = np.sort(chosen)
            examples = examples.select(self.places)
        self.halves = _random_halves(len(examples), seed)
        self.of = f" of task {task.name!r} ({split} data)"
        self.model, self.spec, self.labels = model, spec_of(model, task), examples.labels
        self.device = model.device
        self.encoded = model.encode(task.name, examples)
        self.batches = cut(model, task.name, self.encoded, tokens_per_batch, gradients=True)
        self.tokens: int | None = int(self.encoded.lengths.sum())

    def __len__(self) -> int:
        return len(self.batches)

    def batches_with_inputs(self) -> Iterator[tuple[Int[np.ndarray, " batch"], dict[str, Tensor]]]:
        """Yield each batch as positions among the examples, and its inputs."""
        for batch in self.batches:
            yield batch, self.encoded.collate(batch, self.device)

    def __iter__(self) -> Iterator[Batch]:
        for batch, inputs in self.batches_with_inputs():
            gold = moved(torch.as_tensor(self.labels[batch]), self.device)
            yield Batch(
                lambda inputs=inputs, gold=gold: self.model.losses(  # type: ignore[misc]
                    self.spec.name, gold, **inputs
                ),
                lambda site, inputs=inputs: self.model.real(  # type: ignore[misc]
                    self.spec.name, inputs
                ),
                lambda _before, _n, batch=batch: self.halves[batch],  # type: ignore[misc]
                self.model.copies(self.spec.name, inputs),
                self.places[batch],
                self.of,
            )


class GivenBatches:
    """The batches that the user brings, with their own loss function."""

    def __init__(
        self,
        model: nn.Module,
        layout: HeadLayout,
        batches: Iterable[Mapping[str, Any]],
        loss: Loss,
        seed: int,
        targets: Sequence[str] = (),
    ) -> None:
        self.model, self.layout, self.batches, self.loss = model, layout, batches, loss
        self.seed, self.passed, self.targets = seed, False, targets
        self.tokens: int | None = 0

    def __len__(self) -> int:
        return len(self.batches) if isinstance(self.batches, Sized) else 0

    def __iter__(self) -> Iterator[Batch]:
        if self.passed and isinstance(self.batches, Iterator):
            raise DataError(
                "The batches can be passed over only once, and these settings need them more than "
                "once: give a list of batches."
            )
        decoding: frozenset[int] | None = None
        self.tokens, self.passed = 0, True
        for batch in checked_batches(self.batches):
            moved_batch = on_model(batch, self.model, rounded=False)
            inputs = {k: value for k, value in moved_batch.items() if k not in self.targets}
            inputs = on_model(inputs, self.model)
            if decoding is None:
                decoding = decoder_sites(self.model, self.layout, inputs)

            def losses(
                batch: Mapping[str, Any] = moved_batch, inputs: Mapping[str, Any] = inputs
            ) -> Tensor:
                return each_example(self.loss, self.model(**inputs), batch, "loss")

            def real(
                site: int, inputs: Mapping[str, Any] = inputs, decoding: frozenset[int] = decoding
            ) -> Tensor | None:
                return real_positions(inputs, decoder=site in decoding)

            number = _tokens(inputs)
            known = number is not None and self.tokens is not None
            self.tokens = self.tokens + number if known else None  # type: ignore[operator]
            yield Batch(losses, real, partial(_coins, self.seed))


def check_task(task: object) -> None:
    """Raise `ConfigError` for what is no task of texts or images, such as the name of one."""
    if not isinstance(task, Task):
        given = f"the text {task!r}" if isinstance(task, str) else f"a {type(task).__name__}"
        raise ConfigError(f"task is a lobes.Task, with examples of its own, not {given}.")


def _tokens(inputs: Mapping[str, Any]) -> int | None:
    """How many real tokens a batch has: all where there is no mask; None where it has no tokens."""
    mask = real_positions(inputs)
    if mask is not None:
        return int(mask.sum())
    for name in ("input_ids", "inputs_embeds"):
        if isinstance(inputs.get(name), Tensor):
            return int(inputs[name].shape[:2].numel())
    return None


def _random_halves(n: int, seed: int) -> Int[np.ndarray, " examples"]:
    """In which of two random halves, as large as can be, each of n examples is: 0 or 1."""
    halves = np.arange(n) % 2
    np.random.default_rng([seed, n]).shuffle(halves)
    return halves


def _coins(seed: int, before: int, n: int) -> Int[np.ndarray, " batch"]:
    """The same for n examples of unknown number, after so many others: a coin for each.

    An example's coin depends on its number alone, so that the size of the batches has no say.
    """
    generator = np.random.Generator(np.random.PCG64(seed).advance(before))
    return (generator.random(n) < 0.5).astype(np.int64)


Batches = TaskBatches | GivenBatches


def counted_batches(batches: Batches, progress: Progress | None) -> Iterator[Batch]:
    """Yield the batches and report each; raise `DataError` where there is none."""
    empty = True
    for batch in counted(batches, progress):
        empty = False
        yield batch
    if empty:
        raise DataError("There is not one batch to compute the importance from.")
