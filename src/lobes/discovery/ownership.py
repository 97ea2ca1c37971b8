"""Turn footprints into a row plan: which rows a head owns, and whether cutting them removes it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from lobes.discovery.footprints import Footprints
from lobes.discovery.tracing import Call
from lobes.sites import OwnedRows


@dataclass(frozen=True, slots=True)
class RowPlan:
    """The rows of a site's projections that each head owns.

    `reason` says why cutting them would not remove a head, `gate_reason` why training them would
    not train that head alone. `silent` are parameters without a gradient from some head, which
    may be so for the values they have (at a clamp) and not for others.
    """

    rows: tuple[OwnedRows, ...]
    reason: str
    gate_reason: str
    silent: tuple[str, ...] = ()


def row_plan(model: nn.Module, footprints: Footprints, calls: Mapping[int, Call]) -> RowPlan:
    """Return which rows of which parameters each head of a site owns, and whether these are all.

    `calls` are the projections by the id of their output's leaf.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    owned: _Parts = {}
    reasons: list[str] = []
    projected = set(map(id, footprints.leaves))
    for call in (call for key, call in calls.items() if key in projected):
        parts, reason = _of_projection(footprints, call, names)
        reasons += [reason] if reason else []
        for name, (axis, masks) in parts.items():
            # a projection may run twice, as for positions in DeBERTa
            owned[name] = axis, masks | owned[name][1] if name in owned else masks
    reasons += _coupling(footprints, calls)
    mixed = list(_normed(footprints, calls))
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    block = shared_path(name.rpartition(".")[0] for name in owned)
    beside: _Parts = {}
    silent: list[str] = []
    for leaf in footprints.leaves:
        name = names.get(id(leaf), "")
        # what lies outside the block, and a table that positions are looked up in, may serve others
        own = id(leaf) not in tables and name.startswith(f"{block}." if block else "")
        if own and id(leaf) not in calls:
            parts, reason = _of_parameter(footprints, leaf, name)
            reasons += [reason] if reason else []
            beside |= parts
            silent += [name] if name and not _marked(footprints, leaf).all() else []
    if not mixed:
        owned |= beside
    rows = tuple(
        OwnedRows(name, axis, tuple(tuple(_ranges(mask)) for mask in masks))
        for name, (axis, masks) in owned.items()
    )
    reason, gate_reason = (found[0] if found else "" for found in (reasons, reasons + mixed))
    return RowPlan(rows, reason, gate_reason, tuple(silent))


_Parts = dict[str, tuple[int, Tensor]]


def shared_path(names: Iterable[str]) -> str:
    """Return the path of the innermost module that holds all these modules or parameters."""
    parents = [name.split(".")[:-1] for name in names]
    together = takewhile(lambda parts: len(set(parts)) == 1, zip(*parents, strict=False))
    return ".".join(parts[0] for parts in together)


def _of_projection(
    footprints: Footprints, call: Call, names: Mapping[int, str]
) -> tuple[_Parts, str]:
    """The rows of a projection's weight and bias, or why they cannot be said."""
    masks = _merged(footprints, call.leaf)
    if not masks.any():
        return {}, ""
    weight, axis = names.get(id(call.weight)), _output_axis(call)
    if weight is None or axis is None:
        where = call.path or "a function"
        return {}, f"the weight of {where} is packed or computed, so it has no rows to cut"
    parts = {weight: (axis, masks)}
    if call.bias is not None and id(call.bias) in names:
        parts[names[id(call.bias)]] = 0, masks
    return parts, ""


def _of_parameter(footprints: Footprints, leaf: Tensor, name: str) -> tuple[_Parts, str]:
    """The slices of a parameter that is no projection's weight, or why they cannot be cut.

    A parameter that works on all heads alike (a norm within each head) belongs to none.
    """
    roles = [role[id(leaf)] for role in (footprints.scores, footprints.values) if id(leaf) in role]
    merged = [torch.stack(axis).any(0) for axis in zip(*roles, strict=True)]
    apart = [axis for axis, masks in enumerate(merged) if not (masks == masks[0]).all()]
    if not name or not apart:
        return {}, ""
    if len(apart) > 1:
        return {}, f"{name} holds numbers for each head along several of its axes"
    return {name: (apart[0], merged[apart[0]])}, ""


def _marked(footprints: Footprints, leaf: Tensor) -> Bool[Tensor, " heads"]:
    """Which heads a parameter has any gradient from."""
    roles = (footprints.scores, footprints.values)
    return torch.stack([role[id(leaf)][0].any(1) for role in roles if id(leaf) in role]).any(0)


def _merged(footprints: Footprints, leaf: Tensor) -> Bool[Tensor, "heads rows"]:
    """Which entries of a projection's output belong to each head, in whatever role."""
    roles = (footprints.scores, footprints.values)
    return torch.stack([role[id(leaf)][-1] for role in roles if id(leaf) in role]).any(0)


def _coupling(footprints: Footprints, calls: Mapping[int, Call]) -> Iterator[str]:
    """Why rows cannot be cut although each head's context is its own.

    Values may be shared by a group of heads, and then their rows are as many as one head's.
    """
    projected = _projected(footprints, calls)
    if not _scored(footprints, calls) or not footprints.asked:
        yield "no projections that its queries and keys come straight from were found"
        return
    valued = [
        footprints.values[key][-1].sum(1)
        for key in projected
        if key in footprints.values and key not in footprints.gates
    ]
    if not valued or not (torch.stack(valued).sum(0) > 0).all():
        yield "no projection of its values was found"
    elif not all(((counts == 0) | (counts == footprints.head_dim)).all() for counts in valued):
        yield "its heads share rows of the value projection, as with a norm across heads"


def _normed(footprints: Footprints, calls: Mapping[int, Call]) -> Iterator[str]:
    """Whether a norm works across heads: then each depends on the query and key rows of all.

    Keys may be shared by a group of heads, but then most rows are a head's own.
    """
    scored = _scored(footprints, calls)
    if footprints.n_heads > 1 and scored:
        masks = torch.cat(scored, dim=1)
        owners = masks.sum(0)
        alone, shared = (masks & (owners == 1)).sum(1), (masks & (owners > 1)).sum(1)
        if (shared > alone).any():
            yield "its heads share rows of the query or key projection, as with a norm across heads"


def _projected(footprints: Footprints, calls: Mapping[int, Call]) -> set[int]:
    return {key for key in (*footprints.scores, *footprints.values) if key in calls}


def _scored(footprints: Footprints, calls: Mapping[int, Call]) -> list[Tensor]:
    """[heads, rows] of each projection behind the scores."""
    projected = _projected(footprints, calls)
    return [footprints.scores[key][-1] for key in projected if key in footprints.scores]


def _output_axis(call: Call) -> int | None:
    """The axis of a projection's weight that runs along its output: 0, or 1 if transposed.

    A square weight is told by multiplying one row, and one column, with the input. None where
    the weight is not what the input is multiplied by (quantized, or rescaled).
    """
    rows, columns = call.leaf.shape[-1], call.input.shape[-1]
    weight = call.weight.detach()
    if type(weight) is not Tensor:
        return None  # a subclass that packs its numbers in a way of its own
    if weight.dim() > 2:
        return 0  # a convolution over single positions
    if not weight.is_floating_point() or sorted(weight.shape) != sorted((rows, columns)):
        return None
    if rows != columns:
        return 0 if weight.shape[0] == rows else 1
    given = call.input.detach().flatten(0, -2).float()
    answer = call.answer[..., 0].flatten().float()
    if call.bias is not None:
        answer = answer - call.bias.detach()[0].float()
    errors = [(given @ weight.select(axis, 0).float() - answer).norm() for axis in (0, 1)]
    axis = int(errors[1] < errors[0])
    # bf16 rounds by up to 0.4 % a term; another matrix is off by about the whole norm
    return axis if errors[axis] <= 0.05 * answer.norm() + 1e-6 else None


def _ranges(mask: Bool[Tensor, " rows"]) -> Iterator[tuple[int, int]]:
    """The half-open ranges in which a mask is true."""
    steps = torch.diff(mask.int(), prepend=torch.zeros(1), append=torch.zeros(1))
    starts, stops = (torch.nonzero(steps == sign).flatten().tolist() for sign in (1, -1))
    yield from zip(starts, stops, strict=True)
