"""Ablate attention heads: put zeros, means or other examples' contexts in the place of theirs."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lobes import limits
from lobes.ablation.entering import warns_unentered
from lobes.ablation.factors import (
    Factors,
    Table,
    blended,
    factor_table,
    site_factors,
    touched_sites,
)
from lobes.ablation.replacements import HeadMeans, HeadSamples, checked_means, resampled_contexts
from lobes.discovery import layout_of
from lobes.discovery.contexts import argument_with, contexts_of
from lobes.discovery.examples import batch_running, counted
from lobes.discovery.recomputation import repeating
from lobes.discovery.scope import Hook, Scope
from lobes.errors import ConfigError, HeadError, ModelError
from lobes.heads import HeadLayout, Heads, HeadSet, head_sets
from lobes.sites import Site
from lobes.transfers import moved


@warns_unentered
def ablate(
    model: nn.Module,
    heads: Heads | None = None,
    *,
    factors: Factors = None,
    layout: HeadLayout | None = None,
    value: str = "zero",
    data: HeadMeans | HeadSamples | Mapping[str, Any] | Iterable[Mapping[str, Any]] | None = None,
    seed: int = 0,
) -> Iterator[None]:
    """Ablate heads for the time of the block: their contexts are multiplied by 0.

    `heads` is one set for the whole batch, in any form that `HeadSet.of` reads, or a list of sets,
    one for each example of every batch that runs inside the block; in `generate` all beams and
    samples of an example share its set. Equal to multiplying the
    heads' attention probabilities by 0, but where a site says that its contexts hold more than
    attention (`Site.beside_attention`): that goes too. Calls can be nested: a head is ablated
    while any of the blocks around it says so.

    `factors`, in place of `heads`, multiply the contexts by other numbers than 0: {(site, head):
    number}, an array or tensor [sites, heads], `HeadScores`, or one of these for each example. 0
    ablates a head and 1 leaves it alone, both to the bit; a head that a mapping leaves out has 1.
    With another `value`, z is z parts of the head's context and 1 − z of what stands in for it.
    Gradients flow into tensors that require them, also at 0 and 1, as of `head_mask`; such tensors
    are read at each run, so that an optimizer may change them inside the block.

    `value="mean"` puts the head's mean context over a data set there instead, at every position:
    what the head does for any text at all stays, what it says about this one goes. `data` are
    batches of keyword inputs, run through the model when the block is entered, or, to run them
    once for many blocks, what `mean_contexts` made of them.

    `value="resample"` puts there the head's context for another example of the same batch, at the
    same position, as the model without this block computes it. `data` is the batch that runs
    inside the block, or what `resampled_contexts` made of it; `seed` decides which example takes
    the contexts of which.

    The block acts in the runs of the thread that entered it. In a thread that has entered none a
    run of the model is refused. What gradient checkpointing computes again of a run inside the
    block is ablated as that run was, also after the block.

    `layout` spares the search for the heads where it is already known (`find_heads`). What
    `torch.compile` compiled runs uncompiled inside the block.
    Raises `HeadError` for a head that the model does not have, when the number of sets and of a
    batch's examples differ, and for a batch of other shapes than the one that was resampled;
    `ConfigError` for another `value`, or one without its data, and for both heads and factors, or
    neither.
    """
    layout = layout_of(model, layout)
    if heads is not None and factors is not None:
        raise ConfigError(
            "Both heads and factors were given: give one of them. A factor of 0 ablates a head, as "
            "naming it in heads does."
        )
    if heads is not None:
        masks = _masks_of(head_sets(heads, layout), layout)
    elif factors is not None:
        masks = _masks_by(factor_table(factors, layout), layout)
    else:
        raise ConfigError(
            'Neither heads nor factors were given: say what to ablate, such as "0:1,5 3:2"; () is '
            "no head."
        )
    with _ablating(model, layout, masks, value, data, seed, deal=_for_batch):
        yield


@contextmanager
def ablate_copies(
    model: nn.Module,
    lesions: Sequence[HeadSet],
    *,
    layout: HeadLayout,
    value: str = "zero",
    data: HeadMeans | HeadSamples | None = None,
) -> Iterator[None]:
    """Ablate other heads in each copy of a batch, for the time of the block.

    The batches that run inside the block hold one copy of a batch for each of the lesions, one
    copy after the other. Every site that they touch has contexts laid out example by example.
    """
    masks = _masks_of(lesions, layout)
    with _ablating(model, layout, masks, value, data, 0, deal=_for_copies):
        yield


@dataclass(frozen=True)
class _Masks:
    """The factors of contexts for so many sets of heads: `read(site)` gives them [sets, width].

    `sites` are those that are touched. `soft` factors may be other than 0 and 1, and `live` ones
    are read again at each run.
    """

    number: int
    sites: Sequence[int]
    read: Callable[[Site], Float[Tensor, "sets width"]]
    soft: bool = False
    live: bool = False


def _masks_of(sets: Sequence[HeadSet], layout: HeadLayout) -> _Masks:
    touched = sorted({site for one in sets for site, _ in one})
    return _Masks(len(sets), touched, lambda site: site_mask(site, sets))


def _masks_by(table: Table, layout: HeadLayout) -> _Masks:
    def read(site: Site) -> Float[Tensor, "sets width"]:
        return site_factors(table, site.index, site.n_heads, site.head_dim)

    touched = touched_sites(table, layout)
    return _Masks(len(table), touched, read, soft=True, live=table.requires_grad)


@contextmanager
def _ablating(
    model: nn.Module,
    layout: HeadLayout,
    masks: _Masks,
    value: str,
    data: Any,
    seed: int,
    deal: Callable[[Tensor, Tensor, Site], Tensor],
) -> Iterator[None]:
    """`deal` says which rows of a batch each of the sets is for."""
    instead = _instead(model, layout, masks.sites, value, data, seed)
    hooks = {
        index: _masking_hook(layout.sites[index], masks, instead.get(index, ()), deal)
        for index in masks.sites
    }
    counting = deal is _for_batch and masks.number > 1
    counting = counting or any(len(fills) > 1 for fills in instead.values())
    # First among the modules' hooks: a recorder inside the block sees the lesioned input.
    scope = Scope(model, layout, hooks, what="ablate", first=True, repeats=True)
    with scope.entered(), counted(model, layout) if counting else nullcontext():
        yield


def _instead(
    model: nn.Module, layout: HeadLayout, sites: Sequence[int], value: str, data: Any, seed: int
) -> dict[int, tuple[Tensor, ...]]:
    """What stands in for ablated contexts at `sites`, for each call of a site or for all of them.

    Nothing for zeros.
    """
    limits.check_choice("value", value, limits.VALUE)
    if value == "zero":
        if data is not None:
            raise ConfigError(
                'data are for value="mean" and value="resample": ablating to zero takes none.'
            )
        return {}
    if value == "mean":
        means = checked_means(model, layout, data)
        return {site: (means.values[site].flatten(),) for site in sites}
    samples = data
    if isinstance(data, Mapping):
        samples = resampled_contexts(model, data, seed=seed, layout=layout)
    if not isinstance(samples, HeadSamples):
        raise ConfigError(
            'value="resample" puts the heads\' contexts for other examples of a batch in their '
            "place: give data=the batch of keyword inputs that runs inside the block, or "
            "data=lobes.resampled_contexts(model, batch) to run it only once."
        )
    if len(samples.calls) != len(layout.sites):
        raise ConfigError(
            f"The resampled contexts are those of another model: they are of "
            f"{len(samples.calls)} sites, where this model has {len(layout.sites)}."
        )
    for site in sites:
        if not samples.calls[site]:
            raise HeadError(
                f"The contexts at site {site} ({layout.sites[site].name}) are not laid out "
                f'example by example, or the site did not run: use value="mean" for its heads.'
            )
    return {site: samples.calls[site] for site in sites}


def site_mask(site: Site, sets: Sequence[HeadSet]) -> Float[Tensor, "sets width"]:
    """Return the factors of a site's contexts: 0 at the channels of ablated heads, else 1."""
    mask = torch.ones(len(sets), site.n_heads, site.head_dim)
    for row, heads in enumerate(sets):
        mask[row, list(heads.by_site().get(site.index, ()))] = 0
    return mask.flatten(1)


def _masking_hook(
    site: Site,
    masks: _Masks,
    fills: Sequence[Tensor],
    deal: Callable[[Tensor, Tensor, Site], Tensor],
) -> Hook:
    """Put `fills` in the place of the channels where the mask is 0: zeros if there are none.

    A fill is for every position [width], or for one call of the site, [batch, …, width].
    """
    mask = masks.read(site)
    if deal is _for_copies:
        fills = [fill if fill.dim() == 1 else torch.cat([fill] * len(mask)) for fill in fills]
    placed: dict[tuple[torch.device, torch.dtype, bool], tuple[Tensor, list[Tensor]]] = {}
    number = _calls_in_a_run()

    def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        contexts = contexts_of(site, module, args[0])
        kind = contexts.device, contexts.dtype
        # what is made in inference mode takes part in no gradient later
        key = *kind, torch.is_inference_mode_enabled()
        if key not in placed:
            placed[key] = moved(mask, *kind), [moved(fill, *kind) for fill in fills]
        here, instead = placed[key]
        if masks.live:
            here = moved(masks.read(site), *kind)
        rows = deal(here, contexts, site)
        call = number() if len(fills) > 1 else 0
        if fills and (call >= len(fills) or fills[call].dim() > 1):
            _check_resampled(site, contexts, fills, call)
        fill = instead[call] if instead else 0
        # not a product: 0 times what is not a number is not 0
        left = (
            blended(rows, contexts, fill) if masks.soft else torch.where(rows > 0, contexts, fill)
        )
        return argument_with(site, module, args[0], left), *args[1:]

    return hook


def _calls_in_a_run() -> Callable[[], int]:
    """A counter of the calls of a site that begins at 0 with each run of the model."""
    running, calls = None, 0

    def number() -> int:
        nonlocal running, calls
        if repeating():
            raise ModelError(
                "A site that runs several times in one pass cannot be resampled under gradient "
                'checkpointing: switch it off, or use value="mean".'
            )
        if batch_running() is not running:
            running, calls = batch_running(), 0
        calls += 1
        return calls - 1

    return number


def _check_resampled(site: Site, contexts: Tensor, fills: Sequence[Tensor], call: int) -> None:
    """Raise `HeadError` where the contexts are not those of the batch that was resampled."""
    if call < len(fills) and fills[call].shape == contexts.shape:
        return
    raise HeadError(
        f"The contexts at site {site.index} ({site.name}) have the shape {list(contexts.shape)}, "
        f"those that were resampled {list(fills[min(call, len(fills) - 1)].shape)}: run inside "
        f"the block the batch that was given as data, once at a time."
    )


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
        if not batch.fits:
            raise HeadError(
                f"{len(mask)} head sets were given for a batch of {batch.examples} examples, which "
                f"`generate` does not run in their order, each with its beams: give one set for "
                f"the whole batch, or generate for each example by itself."
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


def _for_copies(mask: Tensor, contexts: Tensor, site: Site) -> Tensor:
    """The mask in a shape that multiplies the contexts of one copy of a batch after the other."""
    repeats, rest = divmod(len(contexts), len(mask))
    if site.batch_axis is None or rest:
        raise HeadError(
            f"The contexts at site {site.index} ({site.name}) are not laid out example by "
            f"example: the copies of a batch cannot have lesions of their own."
        )
    rows = mask.repeat_interleave(repeats, dim=0)
    return rows.view(len(rows), *[1] * (contexts.dim() - 2), -1)
