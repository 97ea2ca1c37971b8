"""Turn a trace into sites: which projection reads which attention, and what each head owns.

The evidence is gradients. Slice h of an output projection's input must depend on exactly one row
of attention probabilities at each position, and no two slices on the same row; then slice h is a
head. The entries of the query, key and value projections' outputs that have a gradient from that
row of scores, or from the slice itself, are the head's own.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from lobes.discovery.blocks import Block, blocks_of
from lobes.discovery.footprints import Footprints, batch_axis
from lobes.discovery.functional import applies_inside
from lobes.discovery.graph import edges_of, leaf_of, products, sources, walk
from lobes.discovery.intervention_points import Place, place_of
from lobes.discovery.ownership import RowPlan, row_plan
from lobes.discovery.tracing import Call, Event, Frame, Trace
from lobes.errors import ModelError
from lobes.sites import OwnedRows, Site


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """The sites of a model, as one trace shows them.

    `attention` are the numbers of the events that are attention of theirs. `silent` are the names
    of parameters that may belong to heads but had no gradient from some, with the values they had.
    """

    sites: tuple[Site, ...]
    attention: frozenset[int]
    silent: tuple[str, ...]


def sites_of(model: nn.Module, seen: Trace) -> Found:
    """Return the sites of a model, from a trace of one run.

    Raises `ModelError` where there is no attention or where heads cannot be told apart.
    """
    found = [_run(model, block, seen) for block in blocks_of(seen)]
    runs = [run for run in found if run is not None]
    if not runs:
        raise _no_attention(model, seen)
    numbers = {id(event): number for number, event in enumerate(seen.events)}
    attention = frozenset(numbers[id(event)] for run in runs for event in run.events)
    silent = dict.fromkeys(name for run in runs for name in run.silent)
    return Found(_numbered(runs), attention, tuple(silent))


def _no_attention(model: nn.Module, seen: Trace) -> ModelError:
    if seen.events and not any(event.scores.requires_grad for event in seen.events):
        return ModelError(
            f"The attention of {type(model).__name__} runs where torch computes no gradients, "
            f"inside torch.no_grad, the reentrant form of torch.utils.checkpoint or an "
            f"autograd.Function of its own, so its heads cannot be told apart: switch that off, "
            f"or give the part of the model around which it is."
        )
    return ModelError(
        f"No attention was seen in {type(model).__name__}: its forward pass called neither "
        f"torch's softmax on three or more dimensions nor scaled_dot_product_attention before "
        f"a projection. If it runs attention in a kernel of its own, load it with "
        f'attn_implementation="sdpa" or "eager".'
    )


def with_what_is_beside(found: Found, silent: Trace) -> tuple[Site, ...]:
    """Return the sites, with the reason where contexts hold more than attention.

    `silent` is a trace of the same run in which all attention was 0: so is what comes of it.
    """
    # A call without gradients (the first cycles of a recurrent model) is of no block that was
    # traced, so its attention was left as it is.
    paths = {site.projection for site in found.sites}
    left = {
        frame.path
        for frame in silent.frames
        if frame.path in paths
        and frame.argument is not None
        and frame.argument.requires_grad
        and bool((frame.argument.isfinite() & (frame.argument != 0)).any())
    }
    return tuple(
        replace(
            site,
            beside_attention=f"what reaches {site.projection} is not 0 where all attention is, so "
            f"that something else is added to the heads' contexts",
        )
        if site.projection in left
        else site
        for site in found.sites
    )


_Sources = tuple[set[Any], set[Any], set[Any]]  # of queries, of keys, of values


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """One run of a site: what it says of it, and where queries, keys and values came from.

    `sources` are those seen from the block, and those seen from around it, if there is more;
    `silent` is as in `Found`.
    """

    site: Site
    sources: list[_Sources]
    events: list[Event]
    silent: tuple[str, ...]


def _run(model: nn.Module, block: Block, seen: Trace) -> _Run | None:
    """One run of a block, its site numbered 0; raises `ModelError` where it is not clear.

    None for one head without queries: a learned pooling, not multi-head attention.
    """
    place = place_of(block, seen)
    if place is None:
        return None
    footprints, calls = place.footprints, seen.calls
    around = _surroundings(place.frame, footprints, calls)
    if not footprints.alike:
        plan = _without_rows("its heads attend in two different ways")
    elif not _within(place, around, calls):
        plan = _without_rows("what its heads own cannot be told from what earlier layers do")
    else:
        plan = row_plan(model, footprints, calls)
    # `pruning/torch_attention.py` knows the layout of torch's own module: no reason counts there.
    reason = "" if _is_torchs(place) else next(_reasons(place), plan.reason)
    gate_reason = plan.gate_reason or _passed_over(plan.rows, seen)
    site = Site(
        index=0,
        name=around[0].path,
        projection=place.frame.path,
        n_heads=footprints.n_heads,
        head_dim=footprints.head_dim,
        kind="self",
        rows=plan.rows,
        prunable=not reason,
        reason=reason,
        gateable=not gate_reason,
        gate_reason=gate_reason,
        batch_axis=batch_axis(place.contexts, place.events),
    )
    return _Run(site, _sources(place, around, calls), place.events, plan.silent)


def _without_rows(reason: str) -> RowPlan:
    return RowPlan((), reason, reason)


def _within(place: Place, around: list[Frame], calls: Mapping[int, Call]) -> bool:
    """Whether footprints stay in the block, where no linear module has to be its end."""
    owned = [calls[id(leaf)] for leaf in place.footprints.leaves if id(leaf) in calls]
    return not place.before or all(around[0] in call.frames for call in owned)


def _is_torchs(place: Place) -> bool:
    """Whether the site is a `torch.nn.MultiheadAttention`, whose rows are known without a trace."""
    outer = place.frame.outer
    return bool(outer) and isinstance(outer[-1].module, nn.MultiheadAttention)


def _reasons(place: Place) -> Iterator[str]:
    """Why rows cannot be cut although it is known whose they are."""
    if place.before:
        kind = type(place.frame.module).__name__
        yield f"its contexts go through {place.before} ({kind}) before they are projected"
    if place.frame.outer and applies_inside(place.frame.outer[-1].module):
        yield "torch's function for multi-head attention needs as many channels as its embedding"


def _passed_over(rows: tuple[OwnedRows, ...], seen: Trace) -> str:
    """Why rows cannot be trained apart: their module is not what applies them; "" where it is."""
    ran = {frame.path for frame in seen.frames}
    for one in rows:
        if one.parameter.rpartition(".")[0] not in ran:
            return f"{one.parameter} is applied by another module than the one that holds it"
    return ""


def _surroundings(frame: Frame, footprints: Footprints, calls: Mapping[int, Call]) -> list[Frame]:
    """The block's module call and the one around it, if any.

    The block is the innermost module around the output projection that also holds one of the
    projections that its heads own.
    """
    outer = frame.outer
    owned = [calls[id(leaf)] for leaf in footprints.leaves if id(leaf) in calls]
    # How many of the calls around the projection also surround one of its queries, keys, values.
    depth = max((sum(f in one.frames for f in outer) for one in owned), default=len(outer))
    around = list(outer[: max(depth, 1)]) or [frame]
    return around[-2:][::-1]


def _sources(place: Place, around: list[Frame], calls: Mapping[int, Call]) -> list[_Sources]:
    events = place.events
    pairs = [pair for event in events for pair in products(edges_of(event.scores))]
    if pairs:
        sides = [[pair[i] for pair in pairs] for i in range(2)]
    else:
        sides = [edges_of(*(event.scores for event in events))] * 2
    probabilities = {id(event.leaf) for event in events}
    # Of a product of probabilities and values, the values are the factor with no probabilities.
    values = [
        edge
        for pair in products(edges_of(place.contexts))
        for edge in pair
        if probabilities.isdisjoint(id(leaf_of(node)) for node, _ in walk([edge]))
    ]
    found = []
    for frame in around:
        query, key, value = (sources(edges, frame.since, calls) for edges in (*sides, values))
        found.append((query, key, value))
    return found


def _kind(found: list[_Sources]) -> Literal["self", "cross"]:
    """Whether queries come from what keys and values come from, seen from the block or around.

    "self" where the values' sources feed both sides of the scores, and the queries have no source
    of their own beside them.
    """
    alike = (
        value <= query and value <= key and query <= key | value for query, key, value in found
    )
    return "self" if any(alike) else "cross"


def _numbered(found: Iterable[_Run]) -> tuple[Site, ...]:
    """Each site once, in the order of its first run, with the names made unique."""
    runs: dict[str, _Run] = {}
    for run in found:
        earlier = runs.get(run.site.projection)
        runs[run.site.projection] = run if earlier is None else _merged(earlier, run)
    sites = [replace(run.site, kind=_kind(run.sources)) for run in runs.values()]
    names = [site.name for site in sites]
    numbered = []
    for index, site in enumerate(sites):
        name = site.name if site.name and names.count(site.name) == 1 else site.projection
        prunable = not site.reason
        numbered.append(replace(site, index=index, name=name, prunable=prunable))
    return tuple(numbered)


def _merged(one: _Run, other: _Run) -> _Run:
    """Two runs of one site (layers shared by several depths; two streams, as in ProphetNet).

    Its queries, keys and values are those of both.
    """
    first, second = one.site, other.site
    if (first.n_heads, first.head_dim) != (second.n_heads, second.head_dim):
        raise ModelError(
            f"The output projection {first.projection} runs several times in one pass, with "
            f"{first.n_heads} and with {second.n_heads} heads: such a module cannot be handled. "
            f"Give the part of the model without it."
        )
    rows = {part.parameter: part for part in first.rows}
    known = {part.parameter: part for part in second.rows}
    conflict = next((name for name in rows if known.get(name, rows[name]) != rows[name]), "")
    reason = first.reason or second.reason
    if conflict and not reason:
        reason = f"its runs in one pass use {conflict} in different ways"
    site = replace(
        first,
        rows=tuple({**known, **rows}.values()),
        reason=reason,
        batch_axis=first.batch_axis if first.batch_axis == second.batch_axis else None,
    )
    both = zip(one.sources, other.sources, strict=False)
    sources = [(a | d, b | e, c | f) for (a, b, c), (d, e, f) in both]
    return _Run(site, sources, one.events + other.events, one.silent + other.silent)
