"""Run the batches of a workload under lesions, with what stands in for ablated heads."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lobes.ablation import HeadMeans, Real, Run, samples_of
from lobes.data.batching import Inputs
from lobes.heads import HeadLayout, HeadSet
from lobes.measure.resampling import Examples, within
from lobes.modeling import TaskModel
from lobes.replay import Replay

if TYPE_CHECKING:
    from lobes.measure.evaluation import Workload

Outputs = Mapping[str, Tensor]


class SharedRuns:
    """The runs of a workload's batches under lesions: one pass for all its tasks."""

    def __init__(
        self, model: TaskModel, layout: HeadLayout, workload: "Workload", share: bool
    ) -> None:
        self.model, self.layout, self.workload = model, layout, workload
        # Tried out on two examples: whether layers can be shared does not depend on the batch.
        probe = self._run(workload.collate(workload.batches[0][:2], model))
        self._replay = Replay(model, layout, probe, share=share)

    def outputs(self, batch: Examples, lesions: Sequence[HeadSet]) -> Iterator[tuple[int, Outputs]]:
        """Yield every lesion's number and the logits of each task under it."""
        inputs = self.workload.collate(batch, self.model)
        run = self._run(inputs)
        return self._replay.runs(run, lesions, **self._instead(batch, inputs, run))

    def _run(self, inputs: Mapping[str, Tensor]) -> Run:
        return partial(self.model.logits, **inputs)

    def _instead(self, batch: Examples, inputs: Mapping[str, Tensor], run: Run) -> dict[str, Any]:
        """What stands in for ablated contexts, as arguments of `ablate`."""
        return {}


class OwnRuns(SharedRuns):
    """The runs of one task, with its own means or contexts in the place of zeros.

    The contexts are those of the workload's `partners`, or the means where it has none. `sites`
    are those that the lesions ablate.
    """

    def __init__(
        self,
        model: TaskModel,
        layout: HeadLayout,
        workload: "Workload",
        share: bool,
        means: HeadMeans,
        sites: Sequence[int],
    ) -> None:
        self.task, self.means, self.sites = workload.specs[0].name, means, sites
        super().__init__(model, layout, workload, share)

    def _run(self, inputs: Mapping[str, Tensor]) -> Run:
        return lambda: {self.task: self.model.task_logits(self.task, **inputs)}

    def _instead(self, batch: Examples, inputs: Mapping[str, Tensor], run: Run) -> dict[str, Any]:
        if self.workload.partners is None:
            return {"value": "mean", "data": self.means}
        partners = torch.from_numpy(within(batch, self.workload.partners))
        real = _real(self.model, self.task, inputs)
        samples = samples_of(self.model, self.layout, run, real, partners, self.means, self.sites)
        return {"value": "resample", "data": samples}


def task_runs(
    model: TaskModel, task: str, inputs: Inputs, batches: Iterable[Examples]
) -> Iterator[tuple[Run, Real]]:
    """Yield how to run each batch of a task, and its real positions at each site."""
    for batch in batches:
        tensors = inputs.collate(batch, model.device)
        yield partial(model.task_logits, task, **tensors), _real(model, task, tensors)


def _real(model: TaskModel, task: str, inputs: Mapping[str, Tensor]) -> Real:
    """The real positions of every sequence that the model reads for a batch, at any site."""
    real, copies = model.real(task, inputs), model.copies(task)
    repeated = None if real is None else real.repeat_interleave(copies, 0)
    return lambda site: repeated
