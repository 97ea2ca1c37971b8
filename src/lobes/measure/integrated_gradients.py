"""Importance by integrated gradients (docs/method.md#integrated-gradients).

Sundararajan, Taly and Yan 2017, with the contexts of all heads of the model as the input.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lobes.ablation import record_contexts
from lobes.discovery.contexts import argument_with
from lobes.discovery.scope import Hook, Scope
from lobes.heads import HeadLayout
from lobes.measure.batches import Batches, counted_batches
from lobes.measure.estimates import Estimate, HalvedMeans, Options, batch_means, head_terms
from lobes.progress import Progress
from lobes.sites import Site
from lobes.transfers import moved

Calls = list[list[Tensor]]  # at every site a tensor for each call, as in `ContextRecord.calls`


def integrated_gradients(
    model: nn.Module,
    batches: Batches,
    layout: HeadLayout,
    options: Options,
    progress: Progress | None = None,
) -> Estimate:
    """Σ_d (c − c0) · mean over k of ∂L/∂c at c0 + (k − ½)/m · (c − c0).

    c are the contexts of the plain run. At a step every site reads its own so placed, whatever the
    sites before made of theirs: the path is a straight line in the contexts of all heads at once.
    It takes m + 1 forward and m backward passes, and one more forward pass where c0 is the mean.
    """
    means, placed = HalvedMeans(layout), _Placed(model, layout)
    start = _start(model, batches, layout, options.value)
    with (
        record_contexts(model, layout=layout, gradients=True) as record,
        placed.scope.entered(),
    ):
        for batch in counted_batches(batches, progress):
            record.clear()
            placed.contexts = None  # the plain run first
            with torch.no_grad():
                losses = batch.losses()
            path = [
                [call.detach() - moved(zero, call.device, call.dtype) for call in calls]
                for calls, zero in zip(record.calls, start, strict=True)
            ]
            mean = [[torch.zeros(())] * len(calls) for calls in path]
            for k in range(options.steps):
                record.clear()
                placed.put(start, path, (k + 0.5) / options.steps)
                with torch.enable_grad():
                    found = record.gradients(batch.losses().sum())
                mean = _sums(mean, found, 1 / options.steps)
            terms = head_terms(batch, len(losses), layout, path, mean)
            means.add_terms(losses, terms, batch, options.aggregate)
    return means.estimate()


def _start(
    model: nn.Module, batches: Batches, layout: HeadLayout, value: str
) -> list[Float[Tensor, " width"]]:
    """c0 of every site: 0, or the mean of its contexts over the real positions of all batches."""
    if value == "zero":
        return [torch.zeros(site.width) for site in layout.sites]
    return [mean.flatten() for mean in batch_means(model, batches, layout).values]


def _sums(sofar: Calls, found: Calls, share: float) -> Calls:
    """The sums of what was found so far and a share of what is found now, in float32."""
    return [
        [one + share * other.float() for one, other in zip(*calls, strict=True)]
        for calls in zip(sofar, found, strict=True)
    ]


class _Placed:
    """Lets every site read given contexts, in the order of its calls, in the place of its own."""

    def __init__(self, model: nn.Module, layout: HeadLayout) -> None:
        self.contexts: Calls | None = None
        hooks = {site.index: self._hook(site) for site in layout.sites}
        # First among the modules' hooks: a recorder sees what is placed.
        self.scope = Scope(model, layout, hooks, what="integrated gradients", first=True)

    def put(self, start: list[Tensor], path: Calls, share: float) -> None:
        """Place what lies at this share of the path from the start in the next run."""
        self.contexts = [
            [moved(zero, call.device, call.dtype) + share * call for call in reversed(calls)]
            for zero, calls in zip(start, path, strict=True)
        ]

    def _hook(self, site: Site) -> Hook:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if self.contexts is None:
                return None
            instead = self.contexts[site.index].pop()
            return argument_with(site, module, args[0], instead), *args[1:]

        return hook
