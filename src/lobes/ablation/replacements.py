"""What can stand in for the contexts of ablated heads: means, or other examples' contexts."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lobes import limits
from lobes.ablation.recording import checked_batches, evaluating, on_model, record_contexts
from lobes.discovery import layout_of
from lobes.discovery.examples import batch_of
from lobes.discovery.positions import decoder_sites, real_positions
from lobes.errors import ConfigError, DataError
from lobes.heads import HeadLayout
from lobes.transfers import moved

Run = Callable[[], Any]
Real = Callable[[int], Bool[Tensor, "sequences positions"] | None]


@dataclass(frozen=True, slots=True, eq=False)
class HeadMeans:
    """The mean context of every head over the real positions of a data set.

    `values[site]` is [heads, head_dim], in float64; `positions[site]` is how many it is the mean
    of. `ablate(model, heads, value="mean", data=means)` puts them in the place of contexts.
    """

    values: tuple[Float[Tensor, "_ _"], ...]
    positions: tuple[int, ...]

    def __repr__(self) -> str:
        return f"HeadMeans({len(self.values)} sites, {max(self.positions, default=0)} positions)"


@dataclass(frozen=True, slots=True, eq=False)
class HeadSamples:
    """The contexts of every head for a batch's examples, dealt out to one another.

    `calls[site]` holds one tensor [batch, …, heads * head_dim] for each time the site runs: at
    each example's place the contexts of another example. It is empty for a site whose contexts
    are not laid out example by example. `ablate(model, heads, value="resample", data=samples)`
    puts them in the place of contexts.
    """

    calls: tuple[tuple[Tensor, ...], ...]

    def __repr__(self) -> str:
        return f"HeadSamples({len(self.calls)} sites)"


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
    with evaluating(model), torch.no_grad():
        return means_over(model, layout, _runs(model, layout, batches))


def _runs(
    model: nn.Module, layout: HeadLayout, batches: Iterable[Mapping[str, Any]]
) -> Iterator[tuple[Run, Real]]:
    """How to run each batch, and its real positions at each site."""
    decoding: frozenset[int] | None = None
    for batch in checked_batches(batches):
        inputs = on_model(batch, model)
        if decoding is None:
            decoding = decoder_sites(model, layout, inputs)

        def real(
            site: int, inputs: Mapping[str, Any] = inputs, decoding: frozenset[int] = decoding
        ) -> Tensor | None:
            return real_positions(inputs, decoder=site in decoding)

        yield partial(model, **inputs), real


def means_over(model: nn.Module, layout: HeadLayout, runs: Iterable[tuple[Run, Real]]) -> HeadMeans:
    """Return the mean contexts over runs of `model`, each with its real positions at a site.

    Raises `DataError` without a run, and where a site has no real position.
    """
    sums: list[Any] = [0.0] * len(layout.sites)
    counts: list[Any] = [0] * len(layout.sites)
    empty = True
    for run, real in runs:
        empty = False
        with record_contexts(model, layout=layout) as record:
            run()
        for site in layout.sites:
            for contexts in record.calls[site.index]:
                total, number = _sum_at(contexts, real(site.index))
                sums[site.index] = sums[site.index] + total
                counts[site.index] = counts[site.index] + number
    if empty:
        raise DataError("There is not one batch to take the mean contexts of.")
    counts = [int(count) for count in counts]
    silent = next((site for site in layout.sites if not counts[site.index]), None)
    if silent is not None:
        raise DataError(
            f"Site {silent.index} ({silent.name}) had no real position in any batch: its heads "
            f"have no mean context. Give batches on which the whole model runs."
        )
    means = (total.cpu() / count for total, count in zip(sums, counts, strict=True))
    shapes = ((site.n_heads, site.head_dim) for site in layout.sites)
    return HeadMeans(
        tuple(mean.view(shape) for mean, shape in zip(means, shapes, strict=True)), tuple(counts)
    )


def _sum_at(
    contexts: Float[Tensor, "*positions width"], real: Tensor | None
) -> tuple[Float[Tensor, " width"], int | Int[Tensor, ""]]:
    """The sum of contexts at the real positions and their number; at all, if the mask does not fit.

    Both stay on the device.
    """
    flat = contexts.flatten(0, -2)
    if real is None or real.numel() != len(flat):
        return flat.sum(0, dtype=torch.float64), len(flat)
    real = real.to(flat.device).flatten()
    # not a product: padding may hold what is not a number
    return torch.where(real[:, None], flat, 0).sum(0, dtype=torch.float64), real.sum()


def resampled_contexts(
    model: nn.Module,
    batch: Mapping[str, Any],
    *,
    seed: int = 0,
    means: HeadMeans | None = None,
    layout: HeadLayout | None = None,
) -> HeadSamples:
    """Return the contexts of every head for a batch, each example's put at another one's place.

    Which example takes whose is a random cycle through the batch (`seed`), so that none keeps its
    own. At a position that is padding in either of the two stands the head's mean context: of
    `means`, or over the real positions of the batch; and in a batch of one example everywhere.

    The model runs on the batch in evaluation mode, without gradients, and is as before afterwards.
    Raises `DataError` for what is no batch.
    """
    layout = layout_of(model, layout)
    limits.check_number("seed", seed, limits.SEED)
    with evaluating(model), torch.no_grad():
        ((run, real),) = _runs(model, layout, [batch])
        found = batch_of(model, batch)
        if found is None:
            raise DataError("The batch has no tensor, so that nobody can tell its examples apart.")
        order = np.random.default_rng(seed).permutation(found.examples)
        partners = np.full_like(order, -1)
        if len(order) > 1:
            partners[order] = np.roll(order, 1)
        if means is None:
            means = means_over(model, layout, [(run, real)])
        else:
            means = checked_means(model, layout, means)
        return samples_of(model, layout, run, torch.from_numpy(partners), real, real, means)


def samples_of(
    model: nn.Module,
    layout: HeadLayout,
    run: Run,
    partners: Int[Tensor, " batch"],
    real: Real,
    others: Real,
    means: HeadMeans,
    sites: Iterable[int] | None = None,
) -> HeadSamples:
    """Return the contexts in a run at `sites` (all), those of its example `partners[i]` in place i.

    `real` are the real positions of the examples that take them, `others` those of the run. The
    mean stands at other positions, and for an example without a partner, -1.
    """
    with record_contexts(model, layout=layout) as record:
        run()
    calls: list[tuple[Tensor, ...]] = [() for _ in layout.sites]
    for index in range(len(calls)) if sites is None else sites:
        each, mean = record.calls[index], means.values[index].flatten()
        if layout.sites[index].batch_axis is None or any(len(c) % len(partners) for c in each):
            continue
        masks = real(index), others(index)
        calls[index] = tuple(_dealt(c, moved(partners, c.device), *masks, mean) for c in each)
    return HeadSamples(tuple(calls))


def _dealt(
    contexts: Float[Tensor, "rows *positions width"],
    partners: Int[Tensor, " batch"],
    real: Bool[Tensor, "sequences length"] | None,
    others: Bool[Tensor, "sequences length"] | None,
    mean: Float[Tensor, " width"],
) -> Float[Tensor, "rows *positions width"]:
    # windows, pictures and flattened positions lie along the first axis, example by example
    each = contexts.unflatten(0, (len(partners), -1))
    known = (partners >= 0).view(-1, *[1] * (each.dim() - 2)).expand(each.shape[:-1])
    if real is not None and others is not None and real.numel() == known.numel():
        own, taken = (mask.to(each.device).reshape(known.shape) for mask in (real, others))
        known = known & own & taken[partners]
    instead = moved(mean, each.device, each.dtype)
    return torch.where(known[..., None], each[partners], instead).flatten(0, 1)


def checked_means(model: nn.Module, layout: HeadLayout, data: Any) -> HeadMeans:
    """Return the means that `data` are, or those over the batches that it is.

    Raises `ConfigError` for means of another model.
    """
    if data is None or isinstance(data, HeadSamples):
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
