"""Interventions on attention heads: ablate them, record their contexts.

Both work at the input of the output projection, where the concatenated contexts of the heads can
be seen, whatever computes the attention (eager, SDPA, flash attention). Each is a context manager
that leaves nothing behind, whichever way its block ends.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lobes.discovery import find_heads
from lobes.discovery.functional import opened
from lobes.errors import HeadError
from lobes.heads import HeadLayout, HeadSet, Site


@contextmanager
def ablate(
    model: nn.Module,
    heads: HeadSet | Sequence[HeadSet],
    *,
    layout: HeadLayout | None = None,
) -> Iterator[None]:
    """Ablate heads for the time of the block: their contexts are multiplied by 0.

    `heads` is one set for the whole batch, or one `HeadSet` for each example of every batch that
    runs inside the block. Equal to multiplying the heads' attention probabilities by 0. Calls can
    be nested: a head is ablated while any of the blocks around it says so.

    `layout` spares the search for the heads where it is already known (`find_heads`).
    Raises `HeadError` for a head that the model does not have, and when the number of sets and
    the size of a batch differ.
    """
    layout = layout or find_heads(model)
    sets = [heads] if isinstance(heads, HeadSet) else list(heads)
    for one in sets:
        layout.check(one)
    touched = sorted({site for one in sets for site, _ in one})
    with ExitStack() as stack:
        if touched:  # all sites, so that an example's numbers do not depend on the others' sets
            stack.enter_context(opened(model, [site.projection for site in layout.sites]))
        for index in touched:
            site = layout.sites[index]
            hook = _masking_hook(site, site_mask(site, sets))
            module = model.get_submodule(site.projection)
            # First among the module's hooks: a recorder inside the block sees the lesioned input.
            handle = module.register_forward_pre_hook(hook, prepend=True)
            stack.callback(handle.remove)
        yield


def site_mask(site: Site, sets: Sequence[HeadSet]) -> Float[Tensor, "sets width"]:
    """What a site's contexts are multiplied by: 0 at the channels of ablated heads, else 1."""
    mask = torch.ones(len(sets), site.n_heads, site.head_dim)
    for row, heads in enumerate(sets):
        mask[row, list(heads.by_site().get(site.index, ()))] = 0
    return mask.flatten(1)


def _masking_hook(site: Site, mask: Tensor) -> Callable[[nn.Module, Any], Any]:
    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        nonlocal mask
        contexts = args[0]
        if mask.device != contexts.device or mask.dtype != contexts.dtype:
            mask = mask.to(contexts)
        return contexts * _for_batch(mask, contexts, site), *args[1:]

    return hook


def _for_batch(mask: Tensor, contexts: Tensor, site: Site) -> Tensor:
    """The mask in a shape that multiplies `contexts`: [batch, 1, …, width], or [width]."""
    if len(mask) == 1:
        return mask[0]
    # Windows (Swin) and flattened positions multiply the leading dimension, example by example.
    repeats, rest = divmod(contexts.shape[0], len(mask))
    if rest or not repeats:
        raise HeadError(
            f"{len(mask)} head sets were given for a batch whose contexts at site {site.index} "
            f"({site.name}) have {contexts.shape[0]} rows: give one set for the whole batch, or "
            f"one for each example."
        )
    rows = mask.repeat_interleave(repeats, dim=0)
    return rows.view(len(rows), *[1] * (contexts.dim() - 2), -1)


class ContextRecord:
    """What `record_contexts` saw: the contexts of every site, for each call of its projection.

    `calls[site]` holds one tensor [batch, length, heads * head_dim] for each time the site ran
    in the block; a layer shared by several depths (ALBERT) runs several times in one pass.
    """

    def __init__(self, layout: HeadLayout) -> None:
        self.layout = layout
        self.calls: list[list[Tensor]] = [[] for _ in layout.sites]

    def contexts(self, site: int) -> Float[Tensor, "*positions heads head_dim"]:
        """The contexts of a site in its latest call, split by head."""
        if not self.calls[site]:
            raise HeadError(
                f"Site {site} ({self.layout.sites[site].name}) has not run inside the block yet."
            )
        return self.split(site, self.calls[site][-1])

    def split(
        self, site: int, contexts: Float[Tensor, "*positions width"]
    ) -> Float[Tensor, "*positions heads head_dim"]:
        """A tensor shaped as a site's concatenated contexts, split by head."""
        return contexts.unflatten(-1, (self.layout.sites[site].n_heads, -1))

    def gradients(self, loss: Float[Tensor, ""]) -> list[list[Tensor]]:
        """∂loss/∂context in the form of `calls`; zeros where the loss does not depend on it."""
        flat = [context for calls in self.calls for context in calls]
        found = iter(torch.autograd.grad(loss, flat, allow_unused=True, materialize_grads=True))
        return [[next(found) for _ in calls] for calls in self.calls]

    def clear(self) -> None:
        """Forget what was recorded so far."""
        self.calls = [[] for _ in self.layout.sites]


@contextmanager
def record_contexts(
    model: nn.Module, *, layout: HeadLayout | None = None, gradients: bool = False
) -> Iterator[ContextRecord]:
    """Record the contexts of all heads for the time of the block.

    With `gradients=True` the autograd graph begins at the contexts: where one does not depend on
    a parameter that requires a gradient, it becomes a leaf of the graph. So with all parameters
    frozen, the first site starts the graph and no weight gradient is ever computed.
    """
    record = ContextRecord(layout or find_heads(model))

    def hook_of(index: int) -> Callable[[nn.Module, Any], Any]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            contexts = args[0]
            if gradients and not contexts.requires_grad:
                contexts = contexts.detach().requires_grad_()
            record.calls[index].append(contexts)
            return contexts, *args[1:]

        return hook

    with ExitStack() as stack:
        stack.enter_context(opened(model, [site.projection for site in record.layout.sites]))
        for site in record.layout.sites:
            module = model.get_submodule(site.projection)
            stack.callback(module.register_forward_pre_hook(hook_of(site.index)).remove)
        yield record
