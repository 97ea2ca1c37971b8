"""Factors of heads' contexts, in every form that a user may have: 0 ablates, 1 leaves a head alone.

What it cannot do: tell importance from factors. Scores are read as they are.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lobes.errors import HeadError
from lobes.heads import HeadLayout, HeadSet, shortened
from lobes.scores import HeadScores

Factors = Any  # {(site, head): number}, [sites, heads], [examples, sites, heads], a list of these
Table = Float[Tensor, "sets sites heads"]

_FORMS = (
    "{(site, head): number}, HeadScores, or an array or tensor of numbers [sites, heads] or "
    "[examples, sites, heads]"
)


def factor_table(factors: Factors, layout: HeadLayout) -> Table:
    """Return the factors as one tensor: one set for a whole batch, or one for each example.

    Heads that a mapping leaves out have the factor 1. A tensor keeps its graph, so that gradients
    flow into it. Raises `HeadError` for another shape, a head that does not exist, and what is no
    finite number.
    """
    if isinstance(factors, list | tuple) and factors and all(map(_is_set, factors)):
        parts: Sequence[Tensor] = [_one(each, layout) for each in factors]
        table = torch.stack([part.to(parts[0]) for part in parts])
    else:
        table = _one(factors, layout)
    table = table if table.dim() == 3 else table[None]
    exists = torch.zeros(layout.shape, dtype=torch.bool)
    for site in layout.sites:
        exists[site.index, : site.n_heads] = True
    wrong = (exists & ~table.detach().cpu().isfinite()).nonzero()
    if len(wrong):
        number, site_index, head = wrong[0].tolist()
        value = float(table.detach()[number, site_index, head])
        raise HeadError(
            f"The factor of head {site_index}:{head} is {value:g}: expected a finite number."
        )
    return table


def _is_set(value: object) -> bool:
    return isinstance(value, Mapping | HeadScores) or len(getattr(value, "shape", ())) == 2


def _one(factors: Factors, layout: HeadLayout) -> Float[Tensor, "*sets sites heads"]:
    if isinstance(factors, HeadScores):
        factors = factors.values
    if isinstance(factors, Mapping):
        return _of_heads(factors, layout)
    if isinstance(factors, np.ndarray) and factors.dtype.kind in "fiub":
        factors = torch.as_tensor(np.array(factors))
    if isinstance(factors, Tensor) and factors.dtype == torch.bool:
        raise HeadError(
            "Factors of booleans may mean by True that a head is ablated or that it is kept: give "
            "heads=mask, True for the heads to ablate, or factors=mask.astype(float) (of a tensor "
            "mask.double()), where 1 keeps."
        )
    if not isinstance(factors, Tensor) or factors.is_complex() or factors.is_sparse:
        raise HeadError(f"{shortened(factors)} is no set of factors: expected {_FORMS}.")
    if factors.dim() not in (2, 3) or not len(factors) or factors.shape[-2:] != layout.shape:
        raise HeadError(
            f"Factors of the shape {list(factors.shape)} do not fit this model: expected "
            f"{list(layout.shape)}, sites and heads, or one such table for each example."
        )
    return factors if factors.is_floating_point() else factors.double()


def _of_heads(factors: Mapping[Any, Any], layout: HeadLayout) -> Float[Tensor, "sites heads"]:
    layout.check(HeadSet(factors))
    tensors = [value for value in factors.values() if isinstance(value, Tensor)]
    if any(value.numel() != 1 or not value.is_floating_point() for value in tensors):
        raise HeadError("The factor of a head that is a tensor holds one floating-point number.")
    like = tensors[0] if tensors else torch.ones(1, dtype=torch.float64)
    table = torch.ones(layout.shape, dtype=like.dtype, device=like.device)
    for head, value in factors.items():
        try:
            if isinstance(value, str | bytes):
                raise TypeError("a text")
            number = value.reshape(()).to(table) if isinstance(value, Tensor) else float(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise HeadError(
                f"{shortened(value)} is no factor of head {head[0]}:{head[1]}: expected a number."
            ) from error
        place = torch.zeros(layout.shape, dtype=torch.bool, device=table.device)
        place[head] = True
        table = torch.where(place, number, table)  # not in place, so that a graph goes through
    return table


def site_factors(table: Table, site: int, n_heads: int, head_dim: int) -> Float[Tensor, "sets _"]:
    """Return the factors of every channel of a site's contexts."""
    return table[:, site, :n_heads].repeat_interleave(head_dim, dim=1)


def touched_sites(table: Table, layout: HeadLayout) -> list[int]:
    """Return the sites at which some head has another factor than 1, or all where it may change."""
    if table.requires_grad:
        return [site.index for site in layout.sites]
    return [
        site.index
        for site in layout.sites
        if bool((table[:, site.index, : site.n_heads] != 1).any())
    ]


def blended(
    factors: Float[Tensor, "*#shape"], contexts: Float[Tensor, "*#shape"], instead: Tensor | int
) -> Float[Tensor, "..."]:
    """Return z·c + (1 − z)·f of factors z, contexts c and what stands for an ablated one, f.

    Exactly f at 0 and c at 1, also where the other is not a number. The gradient of z is that of
    the formula, at 0 and 1, too.
    """
    plain = factors.detach()
    mixed = plain * contexts
    if isinstance(instead, Tensor):
        mixed = mixed + (1 - plain) * instead
    found = torch.where(plain == 0, instead, torch.where(plain == 1, contexts, mixed))
    if not factors.requires_grad:
        return found
    return found + (factors - plain) * (contexts - instead)
