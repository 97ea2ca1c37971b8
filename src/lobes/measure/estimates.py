"""The estimates of importance by one pass over a task's examples (docs/method.md#importance).

Each returns the mean over all examples and, from the same pass, that over two random halves of
them, which tell how reliable it is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lobes import limits
from lobes.ablation import ContextRecord, HeadMeans, record_contexts
from lobes.ablation.replacements import means_over
from lobes.errors import ConfigError
from lobes.heads import HeadLayout, HeadSet
from lobes.measure.batches import Batch, Batches, counted_batches
from lobes.progress import Progress
from lobes.replay import Replay
from lobes.sites import Site
from lobes.transfers import Transfers, moved


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to score: the settings of `head_importance`, checked; raises `ConfigError`."""

    method: Annotated[str, limits.METHOD] = "taylor"
    aggregate: Annotated[str, limits.AGGREGATE] = "signed"
    normalize: Annotated[str, limits.NORMALIZE] = "none"
    max_examples: Annotated[int, limits.EXAMPLES] | None = None
    seed: Annotated[int, limits.SEED] = 0
    steps: Annotated[int, limits.PATH_STEPS] = 5
    value: Annotated[str, limits.PATH_START] = "zero"

    def __post_init__(self) -> None:
        limits.check_settings(self)


@dataclass(frozen=True, eq=False)
class Estimate:
    """Scores [sites, heads], from how many examples, and those of two random halves of them.

    `halves` [2, sites, heads] is None where the data cannot be halved, or the method does not.
    """

    values: Float[np.ndarray, "sites heads"]
    examples: int
    halves: Float[np.ndarray, "two sites heads"] | None = None


# Scores a model on batches, which it may pass over more than once.
Method = Callable[[nn.Module, Batches, HeadLayout, Options, Progress | None], Estimate]


class HalvedMeans:
    """For every head a weighted mean over examples: over all, and over each of two halves."""

    def __init__(self, layout: HeadLayout) -> None:
        self.layout, self.transfers = layout, Transfers()
        self.totals = np.zeros((2, *layout.shape))
        for site in layout.sites:
            self.totals[:, site.index, site.n_heads :] = np.nan
        self.weights = np.zeros((2, len(layout.sites), 1))
        self.examples = 0

    def add(
        self,
        site: int,
        values: Float[np.ndarray, "batch heads"],
        weights: Int[np.ndarray, " batch"],
        halves: Int[np.ndarray, " batch"],
    ) -> None:
        """Add a batch's values at a site: sums over `weights` units (tokens, examples) each."""
        for half in (0, 1):
            chosen = halves == half
            self.totals[half, site, : values.shape[1]] += values[chosen].sum(axis=0)
            self.weights[half, site] += weights[chosen].sum()

    def add_terms(
        self,
        losses: Float[Tensor, " batch"],
        terms: Sequence[Float[Tensor, "batch _ _"]],
        batch: Batch,
        aggregate: str,
    ) -> None:
        """Add a batch's terms of every head, by token or by sequence, with or without their sign.

        They are summed on their device and added when they have arrived here. Raises `ModelError`
        then, where one or a loss is not finite.
        """
        sums, weights = [], []
        for site, each in enumerate(terms):
            if aggregate == "token":
                real = batch.real(site)
                sums.append(each.abs().sum(1))
                full = torch.full((len(each),), each.shape[1])
                weights.append(full if real is None else real.sum(1))
            else:
                summed = each.sum(1)
                sums.append(summed.abs() if aggregate == "sequence" else -summed)
                weights.append(torch.ones(len(each), dtype=torch.int64))
        receive = partial(self._receive, batch, [each.shape[1] for each in sums])
        device = losses.device
        values = torch.cat([each.to(device).double() for each in sums], 1)
        numbers = torch.stack([moved(each, device) for each in weights])
        self.transfers.send([losses.float(), values, numbers], receive)

    def _receive(
        self,
        batch: Batch,
        widths: Sequence[int],
        losses: Float[np.ndarray, " batch"],
        values: Float[np.ndarray, "batch _"],
        weights: Int[np.ndarray, "sites batch"],
    ) -> None:
        each = np.split(values, np.cumsum(widths)[:-1], axis=1)
        check_terms(losses, each, batch, self.layout, self.examples)
        halves = batch.halves(self.examples, len(losses))
        for site, (found, weight) in enumerate(zip(each, weights, strict=True)):
            self.add(site, found, weight, halves)
        self.examples += len(losses)

    def estimate(self) -> Estimate:
        """Return the means."""
        self.transfers.finish()
        with np.errstate(invalid="ignore", divide="ignore"):
            values = self.totals.sum(axis=0) / self.weights.sum(axis=0)
            halves = self.totals / self.weights if self.weights.all() else None
        return Estimate(values, self.examples, halves)


def taylor(
    model: nn.Module,
    batches: Batches,
    layout: HeadLayout,
    options: Options,
    progress: Progress | None = None,
) -> Estimate:
    """Σ_d c·∂L/∂c of every head, by one forward and one backward pass."""
    means = HalvedMeans(layout)
    with record_contexts(model, layout=layout, gradients=True) as record:
        for batch in counted_batches(batches, progress):
            losses, terms = terms_of(batch, record)
            means.add_terms(losses, terms, batch, options.aggregate)
    return means.estimate()


def single_ablations(
    model: nn.Module,
    batches: Batches,
    layout: HeadLayout,
    options: Options,
    progress: Progress | None = None,
) -> Estimate:
    """The exact rise of the mean loss when one head is ablated, by a forward pass for each head.

    Its context is then 0 or, after one more pass over the batches, its mean over them.
    """
    instead: dict[str, Any] = {}
    if options.value == "mean":
        instead = {"value": "mean", "data": batch_means(model, batches, layout)}
    lesions = [HeadSet(), *(HeadSet([head]) for head in layout.all_heads())]
    means, replay = HalvedMeans(layout), None
    with torch.no_grad():
        for batch in counted_batches(batches, progress):
            replay = replay or Replay(model, layout, batch.losses)
            found = dict(replay.runs(batch.losses, lesions, **instead))
            losses = torch.stack([found[index] for index in range(len(lesions))])
            means.transfers.send([losses.double()], partial(_add_rises, means, batch, lesions))
    return means.estimate()


def _add_rises(
    means: HalvedMeans,
    batch: Batch,
    lesions: Sequence[HeadSet],
    losses: Float[np.ndarray, "lesions batch"],
) -> None:
    """Add a batch's rises of the loss: `lesions` are none, and each head alone."""
    for lesion, row in zip(lesions, losses, strict=True):
        batch.check(row, "The losses", means.examples, str(lesion))
    n, rises = losses.shape[1], (losses[1:] - losses[0]).T
    halves = batch.halves(means.examples, n)
    places = np.cumsum([site.n_heads for site in means.layout.sites])[:-1]
    for site, values in enumerate(np.split(rises, places, axis=1)):
        means.add(site, values, np.ones(n, dtype=np.int64), halves)
    means.examples += n


def batch_means(model: nn.Module, batches: Batches, layout: HeadLayout) -> HeadMeans:
    """The mean context of every head over the real positions of all batches."""
    with torch.no_grad():
        return means_over(model, layout, ((batch.losses, batch.real) for batch in batches))


def terms_of(
    batch: Batch, record: ContextRecord
) -> tuple[Float[Tensor, " batch"], list[Float[Tensor, "batch _ _"]]]:
    """Run a batch and return its losses and Σ_d c·∂L/∂c [batch, positions, heads] of every site.

    `record` records contexts with gradients. The terms are 0 at padding.
    """
    record.clear()
    with torch.enable_grad():
        losses = batch.losses()
        gradients = record.gradients(losses.sum())
    return losses, head_terms(batch, len(losses), record.layout, record.calls, gradients)


def head_terms(
    batch: Batch,
    n: int,
    layout: HeadLayout,
    contexts: Sequence[Sequence[Tensor]],
    gradients: Sequence[Sequence[Tensor]],
) -> list[Float[Tensor, "batch _ _"]]:
    """Return Σ_d c·∂L/∂c [batch, positions, heads] of every site, of a batch's n examples.

    `contexts` and `gradients` hold a tensor for each call of every site.
    """
    return [
        _site_terms(site, calls, found, batch, n)
        for site, calls, found in zip(layout.sites, contexts, gradients, strict=True)
    ]


def check_terms(
    losses: Tensor | np.ndarray,
    terms: Sequence[Tensor | np.ndarray],
    batch: Batch,
    layout: HeadLayout,
    before: int = 0,
) -> None:
    """Raise `ModelError` where a loss, or a term [batch, …] of a site, is not finite.

    `before` is how many examples came in the batches before.
    """
    batch.check(losses, "The losses", before)
    for site, values in zip(layout.sites, terms, strict=True):
        batch.check(values, f"The gradients at site {site.index} ({site.name})", before)


def _site_terms(
    site: Site, contexts: Sequence[Tensor], gradients: Sequence[Tensor], batch: Batch, n: int
) -> Float[Tensor, "batch positions heads"]:
    """The terms of one site; 0 at padding.

    The calls of a shared layer, and the copies of an example, are added up before any absolute
    value is taken: the sum is the gradient of one mask on that head.
    """
    terms = None
    for context, gradient in zip(contexts, gradients, strict=True):
        # where nothing depends on a context it counts 0, even if it is not finite, as of padding
        product = torch.where(gradient == 0, 0, context.detach().float() * gradient.float())
        # Windows and flattened positions come example by example: give them back to their example.
        product = product.unflatten(-1, (site.n_heads, -1)).sum(-1).reshape(n, -1, site.n_heads)
        if batch.copies > 1:
            product = product.unflatten(1, (batch.copies, -1)).sum(1)
        terms = product if terms is None else terms + product
    if terms is None:
        raise ConfigError(
            f"Site {site.index} ({site.name}) did not run on a batch: its importance is open."
        )
    mask = batch.real(site.index)
    if mask is not None and mask.shape == terms.shape[:2]:
        terms = torch.where(mask[..., None].to(terms.device), terms, 0)
    return terms
