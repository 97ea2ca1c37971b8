"""Run the batches of a workload under lesions, with what stands in for ablated heads."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from lobes.ablation import HeadMeans, Real, Run, samples_of
from lobes.data.batching import Inputs
from lobes.errors import DataError
from lobes.heads import HeadLayout, HeadSet
from lobes.measure.resampling import partners_of
from lobes.measure.workload import Tried, Workload
from lobes.modeling import TaskModel
from lobes.replay import Copies, Replay

Outputs = Mapping[str, Tensor]
Examples = Int[np.ndarray, " _"]


@dataclass(eq=False)
class SharedRuns:
    """The runs of a workload's batches under lesions: one pass for all its tasks.

    Where a batch has fewer tokens than `room`, a run holds several copies of it, each with a lesion
    of its own, if the model allows that.
    """

    model: TaskModel
    layout: HeadLayout
    workload: Workload
    share: bool
    room: int
    tried: Tried

    def __post_init__(self) -> None:
        several = self.room > 0

        def trial() -> tuple[Replay, bool]:
            # on two examples: whether layers can be shared does not depend on the batch
            probe = self.workload.collate(self.workload.batches[0][:2], self.model)
            replay = Replay(self.model, self.layout, self._run(probe), share=self.share)
            return replay, several and replay.packs(self._run(probe), self._copies(probe))

        self._replay, packs = self.tried.once(("replay", self._task, self.share, several), trial)
        self._room = self.room if packs else 0

    @property
    def shares(self) -> bool:
        """Whether lesions share layers."""
        return self._replay.sharing

    @property
    def _task(self) -> str:
        """The task that a run is of, where it is not of all."""
        return ""

    def outputs(self, batch: Examples, lesions: Sequence[HeadSet]) -> Iterator[tuple[int, Outputs]]:
        """Yield every lesion's number and the logits of each task under it."""
        return self._outputs(batch, self.workload.collate(batch, self.model), lesions)

    def _outputs(
        self,
        batch: Examples,
        inputs: Mapping[str, Tensor],
        lesions: Sequence[HeadSet],
        **instead: Any,
    ) -> Iterator[tuple[int, Outputs]]:
        tokens = len(batch) * int(self.workload.inputs.lengths[batch].max())
        tokens *= self.model.copies(self.workload.specs[0].name, inputs)
        return self._replay.runs_packed(
            self._copies(inputs), lesions, self._room // tokens, **instead
        )

    def _copies(self, inputs: Mapping[str, Tensor]) -> Copies:
        """How to run several copies of a batch at once; they are made once for each number."""

        @cache
        def copies(number: int) -> Run:
            if number == 1:
                return self._run(inputs)
            return self._run(
                {name: torch.cat([values] * number) for name, values in inputs.items()}
            )

        return copies

    def _run(self, inputs: Mapping[str, Tensor]) -> Run:
        return partial(self.model.logits, **inputs)


@dataclass(eq=False)
class OwnRuns(SharedRuns):
    """The runs of one task, with its own means or contexts in the place of zeros.

    The contexts are those of `partners`, or the means where there are none.
    """

    means: HeadMeans
    partners: "Partners | None"

    @property
    def _task(self) -> str:
        return self.workload.specs[0].name

    def outputs(self, batch: Examples, lesions: Sequence[HeadSet]) -> Iterator[tuple[int, Outputs]]:
        """Yield every lesion's number and the logits of the task under it."""
        if self.partners is None:
            inputs = self.workload.collate(batch, self.model)
            return self._outputs(batch, inputs, lesions, value="mean", data=self.means)
        inputs, others, places = self.partners.collate(batch, self.model)
        samples = samples_of(
            self.model,
            self.layout,
            self._run(others),
            places,
            _real(self.model, self._task, inputs),
            _real(self.model, self._task, others),
            self.means,
            sorted({site for heads in lesions for site, _ in heads}),
        )
        return self._outputs(batch, inputs, lesions, value="resample", data=samples)

    def _run(self, inputs: Mapping[str, Tensor]) -> Run:
        return lambda: {self._task: self.model.task_logits(self._task, **inputs)}


@dataclass(frozen=True)
class Partners:
    """A task's distinct inputs, and whose contexts stand in for those of each.

    `inputs` may go on with those of other examples; `places[i]` is the place of input i's partner
    among all of them, -1 for none.
    """

    inputs: Inputs
    places: Examples

    @classmethod
    def among(cls, inputs: Inputs, whole: Inputs, seed: int, *, alike: bool) -> "Partners":
        """Find partners of `inputs` among `whole`, which holds each of them and perhaps more.

        Which one it is depends on `whole` and the seed alone. Raises `DataError` for an input that
        `whole` does not hold.
        """
        _, number = type(whole).concatenate([whole, inputs]).distinct()
        own = number[len(whole) :]
        if own.max() >= len(whole):
            raise DataError(
                "There are examples that the reference does not hold: expected the same tasks "
                "with all their examples."
            )
        partners = partners_of(whole.lengths, seed, alike=alike)[own]
        both = type(whole).concatenate([inputs, whole])
        return cls(both, np.where(partners < 0, -1, len(inputs) + partners))

    def collate(
        self, batch: Examples, model: TaskModel
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """Return the tensors of a batch and of its partners, of one width, and who has which.

        That is the place among the partners, or -1.
        """
        partners = self.places[batch]
        rows = np.concatenate([batch, np.where(partners < 0, batch, partners)])
        tensors = self.inputs.collate(rows, model.device)
        own = {name: values[: len(batch)] for name, values in tensors.items()}
        others = {name: values[len(batch) :] for name, values in tensors.items()}
        places = np.where(partners < 0, -1, np.arange(len(batch)))
        return own, others, torch.from_numpy(places)


def task_runs(
    model: TaskModel, task: str, inputs: Inputs, batches: Iterable[Examples]
) -> Iterator[tuple[Run, Real]]:
    """Yield how to run each batch of a task, and its real positions at each site."""
    for batch in batches:
        tensors = inputs.collate(batch, model.device)
        yield partial(model.task_logits, task, **tensors), _real(model, task, tensors)


def _real(model: TaskModel, task: str, inputs: Mapping[str, Tensor]) -> Real:
    """The real positions of every sequence that the model reads for a batch, at any site."""
    real = model.real_rows(task, inputs)
    return lambda site: real
