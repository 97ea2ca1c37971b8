"""Record the contexts of attention heads, and their gradients, while a model runs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lobes.ablation.entering import warns_unentered
from lobes.discovery import layout_of
from lobes.discovery.contexts import argument_with, contexts_of
from lobes.discovery.recomputation import switched_off
from lobes.discovery.scope import Hook, Scope
from lobes.discovery.shared import measurements
from lobes.discovery.wrappers import unreduced
from lobes.errors import DataError, HeadError
from lobes.heads import HeadLayout
from lobes.sites import Site


class ContextRecord:
    """The contexts that `record_contexts` recorded at every site, for each call of its projection.

    `calls[site]` holds one tensor [batch, …, heads * head_dim] for each time the site ran in the
    block, whatever layout the model runs in; a layer shared by several depths (ALBERT) runs
    several times in one pass.
    """

    def __init__(self, layout: HeadLayout) -> None:
        self.layout = layout
        self.calls: list[list[Tensor]] = [[] for _ in layout.sites]

    def contexts(self, site: int) -> Float[Tensor, "*positions heads head_dim"]:
        """Return the contexts of a site in its latest call, split by head."""
        if not self.calls[site]:
            raise HeadError(
                f"Site {site} ({self.layout.sites[site].name}) has not run inside the block yet."
            )
        return self.split(site, self.calls[site][-1])

    def split(
        self, site: int, contexts: Float[Tensor, "*positions width"]
    ) -> Float[Tensor, "*positions heads head_dim"]:
        """Split a tensor with the shape of a site's concatenated contexts by head."""
        return contexts.unflatten(-1, (self.layout.sites[site].n_heads, -1))

    def gradients(self, loss: Float[Tensor, ""]) -> list[list[Tensor]]:
        """Return ∂loss/∂context in the form of `calls`; zeros if the loss does not depend on it.

        Those of contexts in fp16 are in float32.
        """
        flat = [context for calls in self.calls for context in calls]
        found = iter(_gradients(loss, flat))
        return [[next(found) for _ in calls] for calls in self.calls]

    def clear(self) -> None:
        """Forget what was recorded so far."""
        self.calls = [[] for _ in self.layout.sites]


# What fp16 gradients are multiplied by on their way, the largest first that does not overflow.
_SCALES = (2.0**14, 2.0**9, 2.0**4, 1.0)


def _gradients(loss: Float[Tensor, ""], contexts: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return ∂loss/∂context; in fp16, where 6e-8 is the least number, by way of scaled ones."""
    grad = partial(torch.autograd.grad, allow_unused=True, materialize_grads=True)
    if not any(context.dtype == torch.float16 for context in contexts):
        return grad(loss, contexts)
    for scale in _SCALES:
        found = grad(loss, contexts, loss.new_tensor(scale), retain_graph=scale > 1)
        if all(bool(each.isfinite().all()) for each in found):
            break
    return [each.float() / scale for each in found]


@warns_unentered
def record_contexts(
    model: nn.Module, *, layout: HeadLayout | None = None, gradients: bool = False
) -> Iterator[ContextRecord]:
    """Record the contexts of all heads for the time of the block.

    With `gradients=True` the autograd graph begins at the contexts: where one does not depend on
    a parameter that requires a gradient, it becomes a leaf of the graph. So with all parameters
    frozen, the first site starts the graph and no weight gradient is ever computed. Gradient
    checkpointing rests inside the block: contexts that are computed anew have no gradient.

    Runs of the thread that entered the block are recorded; see `ablate`.
    """
    record = ContextRecord(layout_of(model, layout))

    def hook_of(site: Site) -> Hook:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            contexts = contexts_of(site, module, args[0])
            if gradients and not contexts.requires_grad:
                contexts = contexts.detach().requires_grad_()
            record.calls[site.index].append(contexts)
            return argument_with(site, module, args[0], contexts), *args[1:]

        return hook

    hooks = {site.index: hook_of(site) for site in record.layout.sites}
    scope = Scope(model, record.layout, hooks, what="record_contexts", once=gradients)
    with ExitStack() as stack:
        if gradients:
            stack.enter_context(unreduced(model))
            stack.enter_context(switched_off(model))
        stack.enter_context(scope.entered())
        yield record


def checked_batches(batches: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield the batches; raise `DataError` for an item that is no batch, or one of no example."""
    if isinstance(batches, Mapping):
        raise DataError(
            "One batch was given where a list of batches is expected: put it in a list, [batch]."
        )
    if isinstance(batches, str | bytes) or not isinstance(batches, Iterable):
        raise DataError(
            f"Batches are an iterable of keyword inputs such as [{{'input_ids': …}}], not "
            f"{type(batches).__name__}."
        )
    for batch in batches:
        if not isinstance(batch, Mapping):
            raise DataError(
                f"A batch is a dictionary of keyword inputs such as {{'input_ids': …}}, not a "
                f"{type(batch).__name__}."
            )
        given = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
        if given and not any(value.numel() for value in given.values()):
            name, value = next(iter(given.items()))
            raise DataError(
                f"A batch is empty: its {name} has the shape {list(value.shape)}; expected one or "
                f"more examples of one or more positions."
            )
        yield batch


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode inside the block, and restore each module's mode on exit.

    One thread at a time is inside such a block.
    """
    with measurements:
        training = {module: module.training for module in model.modules()}
        try:
            model.eval()
            yield
        finally:
            for module, mode in training.items():
                module.training = mode


def on_model(batch: Mapping[str, Any], model: nn.Module, *, rounded: bool = True) -> dict[str, Any]:
    """Move a batch to the model's device, and its floating-point numbers to its precision.

    Where they are not to be `rounded`, as what a loss compares the outputs with, to float32 at
    least.
    """
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    dtype = like.dtype if rounded else torch.promote_types(like.dtype, torch.float32)

    def placed(value: Any) -> Any:
        if isinstance(value, Tensor):
            if value.is_inference() and not torch.is_inference_mode_enabled():
                value = value.clone()  # one that gradients can take part in
            return value.to(like.device, dtype if value.is_floating_point() else None)
        if isinstance(value, Mapping):  # models of sentence-transformers take one dictionary
            return {name: placed(part) for name, part in value.items()}
        return value

    return {name: placed(value) for name, value in batch.items()}
