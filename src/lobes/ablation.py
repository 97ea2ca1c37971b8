"""Interventions on attention heads: ablate them, record their contexts.

All work at the input of the output projection, where the concatenated contexts of the heads can
be seen, whatever computes the attention (eager, SDPA, flash attention). Each is a context manager
that removes its hooks and restores modes and flags on exit, also after an exception.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lobes.discovery import layout_of
from lobes.discovery.contexts import argument_with, contexts_of
from lobes.discovery.examples import batch_running, counted
from lobes.discovery.positions import decoder_sites, real_positions
from lobes.discovery.recomputation import repeating, switched_off
from lobes.discovery.scope import Hook, Scope
from lobes.discovery.shared import measurements
from lobes.discovery.wrappers import unreduced
from lobes.errors import ConfigError, DataError, HeadError
from lobes.heads import HeadLayout, Heads, HeadSet, Site, head_sets


@dataclass(frozen=True, slots=True, eq=False)
class HeadMeans:
    """The mean context of every head over the real positions of a data set.

    `values[site]` is [heads, head_dim], in float64; `positions[site]` is how many it is the mean
    of. `ablate(model, heads, value="mean", data=means)` puts them in the place of contexts.
    """

    values: tuple[Float[Tensor, "_ _"], ...]
    positions: tuple[int, ...]


@contextmanager
def ablate(
    model: nn.Module,
    heads: Heads,
    *,
    layout: HeadLayout | None = None,
    value: str = "zero",
    data: HeadMeans | Iterable[Mapping[str, Any]] | None = None,
) -> Iterator[None]:
    """Ablate heads for the time of the block: their contexts are multiplied by 0.

    `heads` is one set for the whole batch, in any form that `HeadSet.of` reads, or a list of sets,
    one for each example of every batch that runs inside the block. Equal to multiplying the
    heads' attention probabilities by 0, but where a site says that its contexts hold more than
    attention (`Site.beside_attention`): that goes too. Calls can be nested: a head is ablated
    while any of the blocks around it says so.

    `value="mean"` puts the head's mean context over a data set there instead, at every position:
    what the head does for any text at all stays, what it says about this one goes. `data` are
    batches of keyword inputs, run through the model when the block is entered, or, to run them
    once for many blocks, what `mean_contexts` made of them.

    The block acts in the runs of the thread that entered it. In a thread that has entered none a
    run of the model is refused. What gradient checkpointing computes again of a run inside the
    block is ablated as that run was, also after the block.

    `layout` spares the search for the heads where it is already known (`find_heads`). What
    `torch.compile` compiled runs uncompiled inside the block.
    Raises `HeadError` for a head that the model does not have, and when the number of sets and of
    a batch's examples differ; `ConfigError` for another `value`, or a mean without data.
    """
    layout = layout_of(model, layout)
    sets = head_sets(heads, layout)
    means = _means(model, layout, value, data)
    touched = sorted({site for one in sets for site, _ in one})
    hooks = {
        index: _masking_hook(
            layout.sites[index],
            site_mask(layout.sites[index], sets),
            None if means is None else means.values[index],
        )
        for index in touched
    }
    # First among the modules' hooks: a recorder inside the block sees the lesioned input.
    scope = Scope(model, layout, hooks, what="ablate", first=True, repeats=True)
    with scope.entered(), counted(model, layout) if len(sets) > 1 else nullcontext():
        yield


def _means(
    model: nn.Module,
    layout: HeadLayout,
    value: str,
    data: HeadMeans | Iterable[Mapping[str, Any]] | None,
) -> HeadMeans | None:
    """What stands for ablated contexts; None for zeros."""
    if value not in ("zero", "mean"):
        raise ConfigError(f'value is "zero" or "mean", not {value!r}.')
    if value == "zero":
        if data is not None:
            raise ConfigError('data are for value="mean": ablating to zero takes none.')
        return None
    if data is None:
        raise ConfigError(
            'value="mean" puts the heads\' mean contexts over a data set in their place: give '
            "data=batches of keyword inputs, or data=lobes.mean_contexts(model, batches) to run "
            "them only once."
        )
    means = data if isinstance(data, HeadMeans) else mean_contexts(model, data, layout=layout)
    shapes = [(site.n_heads, site.head_dim) for site in layout.sites]
    if [tuple(mean.shape) for mean in means.values] != shapes:
        raise ConfigError(
            f"The mean contexts are those of another model: they have the shapes "
            f"{[tuple(mean.shape) for mean in means.values]}, where this model's sites have "
            f"{shapes} (heads, size)."
        )
    return means


def site_mask(site: Site, sets: Sequence[HeadSet]) -> Float[Tensor, "sets width"]:
    """Return the factors of a site's contexts: 0 at the channels of ablated heads, else 1."""
    mask = torch.ones(len(sets), site.n_heads, site.head_dim)
    for row, heads in enumerate(sets):
        mask[row, list(heads.by_site().get(site.index, ()))] = 0
    return mask.flatten(1)


def _masking_hook(site: Site, mask: Tensor, mean: Float[Tensor, "heads head_dim"] | None) -> Hook:
    fill = None if mean is None else mean.flatten()
    placed: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor | None]] = {}

    def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        contexts = contexts_of(site, module, args[0])
        key = contexts.device, contexts.dtype
        if key not in placed:
            placed[key] = mask.to(contexts), None if fill is None else fill.to(contexts)
        here, instead = placed[key]
        rows = _for_batch(here, contexts, site)
        # not a product: 0 times what is not a number is not 0
        left = torch.where(rows > 0, contexts, 0 if instead is None else instead)
        return argument_with(site, module, args[0], left), *args[1:]

    return hook


def _for_batch(mask: Tensor, contexts: Tensor, site: Site) -> Tensor:
    """The mask in a shape that multiplies `contexts`: [batch, 1, …, width], or [width]."""
    if len(mask) == 1:
        return mask[0]
    if site.batch_axis is None:
        raise HeadError(
            f"The contexts at site {site.index} ({site.name}) are not laid out example by "
            f"example: give one head set for the whole batch."
        )
    # Windows (Swin), flattened positions and beams multiply the first axis, example by example.
    repeats, rest = divmod(len(contexts), len(mask))
    batch = batch_running()
    if batch is not None and not repeating():  # what is computed again has passed this once
        if batch.certain and len(mask) != batch.examples:
            raise HeadError(
                f"{len(mask)} head sets were given for a batch of {batch.examples} examples: give "
                f"one set for the whole batch, or one for each example."
            )
        rest = rest or len(mask) not in (batch.examples, len(contexts))
        rest = rest or (not batch.even and repeats != 1)
    if rest or not repeats:
        raise HeadError(
            f"{len(mask)} head sets were given for a batch whose contexts at site {site.index} "
            f"({site.name}) have {len(contexts)} rows, which cannot be dealt out to its examples: "
            f"give one set for the whole batch."
        )
    rows = mask.repeat_interleave(repeats, dim=0)
    return rows.view(len(rows), *[1] * (contexts.dim() - 2), -1)


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
        """Return ∂loss/∂context in the form of `calls`; zeros if the loss does not depend on it."""
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


def mean_contexts(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    *,
    layout: HeadLayout | None = None,
) -> HeadMeans:
    """Return the mean context of every head over the real positions of `batches` of keyword inputs.

    The model runs on each batch in evaluation mode, without gradients, and is as before
    afterwards. Padding is left out (see `real_positions`), so the result depends neither on the
    size of the batches nor on the padding, beyond the rounding of the model's own runs; sums are
    taken in float64. Raises `DataError` without a batch, and where a site runs on none.
    """
    layout = layout_of(model, layout)
    sums = [torch.zeros(site.n_heads, site.head_dim, dtype=torch.float64) for site in layout.sites]
    counts = [0] * len(sums)
    decoding: frozenset[int] | None = None
    with evaluating(model), torch.no_grad():
        for batch in checked_batches(batches):
            inputs = on_model(batch, model)
            if decoding is None:
                decoding = decoder_sites(model, layout, inputs)
            with record_contexts(model, layout=layout) as record:
                model(**inputs)
            for site in layout.sites:
                real = real_positions(inputs, decoder=site.index in decoding)
                for contexts in record.calls[site.index]:
                    found = _at(contexts.unflatten(-1, (site.n_heads, -1)), real)
                    sums[site.index] += found.sum(0, dtype=torch.float64).cpu()
                    counts[site.index] += len(found)
    if decoding is None:
        raise DataError("There is not one batch to take the mean contexts of.")
    silent = next((site for site in layout.sites if not counts[site.index]), None)
    if silent is not None:
        raise DataError(
            f"Site {silent.index} ({silent.name}) had no real position in any batch: its heads "
            f"have no mean context. Give batches on which the whole model runs."
        )
    means = tuple(total / count for total, count in zip(sums, counts, strict=True))
    return HeadMeans(means, tuple(counts))


def _at(
    contexts: Float[Tensor, "*positions heads head_dim"], real: Tensor | None
) -> Float[Tensor, "real heads head_dim"]:
    """The contexts at the real positions, all in a row; at all, where the mask does not fit."""
    flat = contexts.flatten(0, -3)
    if real is None or real.numel() != len(flat):
        return flat
    return flat[real.flatten()]


def checked_batches(batches: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield the batches; raise `DataError` for an item that is not a batch."""
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


def on_model(batch: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """Move a batch to the model's device, and its floating-point numbers to its precision."""
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return {
        name: value.to(like.device, like.dtype if value.is_floating_point() else None)
        if isinstance(value, Tensor)
        else value
        for name, value in batch.items()
    }
