"""From a trace to sites: which projection reads which attention, and what each head owns.

The evidence is gradients. Slice h of an output projection's input must depend on exactly one row
of attention probabilities at each position, and no two slices on the same row; then slice h is a
head. The entries of the query, key and value projections' outputs that have a gradient from that
row of scores, or from the slice itself, are the head's own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal

from torch import Tensor, nn

from lobes.discovery.blocks import Block, asks, blocks_of, named, refuse
from lobes.discovery.footprints import Footprints, head_number
from lobes.discovery.functional import applies_inside
from lobes.discovery.graph import edges_of, leaf_of, products, sources, walk
from lobes.discovery.ownership import row_plan
from lobes.discovery.tracing import Call, Event, Frame, Trace
from lobes.errors import ModelError
from lobes.heads import OwnedRows, Site


def sites_of(model: nn.Module, seen: Trace, still: Trace) -> tuple[Site, ...]:
    """The sites of a model, from a trace with random and one with zero projections.

    Raises `ModelError` where there is no attention or where heads cannot be told apart.
    """
    found = [_site(model, block, seen, still) for block in blocks_of(seen)]
    sites = [site for site in found if site is not None]
    if not sites:
        raise ModelError(
            f"No attention was seen in {type(model).__name__}: its forward pass called neither "
            f"torch's softmax on three or more dimensions nor scaled_dot_product_attention before "
            f"a projection. If it runs attention in a kernel of its own, load it with "
            f'attn_implementation="sdpa" or "eager".'
        )
    return _numbered(sites)


def _site(model: nn.Module, block: Block, seen: Trace, still: Trace) -> Site | None:
    """The site of one run of a block, numbered 0; raises `ModelError` where it is not clear.

    None for one head without queries: a learned pooling, not multi-head attention.
    """
    call, events, calls = block.call, block.events, seen.calls
    n_heads = head_number(call.input, events)
    if n_heads <= 1 and not any(asks(event, seen) for event in events):
        return None
    frame = _projection_frame(block)
    footprints = Footprints(call.input, events, n_heads) if n_heads else None
    if footprints is None or not footprints.separate:
        refuse(
            events,
            f"does not reach {frame.path} head by head: its heads are mixed, or laid out in "
            f"another way than one after the other, before the output projection",
        )
    around = _surroundings(frame, call, footprints, calls)
    plan = row_plan(model, footprints, calls, _at_rest(events, seen, still))
    reason = plan.reason or _fixed_width(frame, call)
    gate_reason = plan.gate_reason or _passed_over(plan.rows, events, footprints, calls)
    return Site(
        index=0,
        name=around[0].path,
        projection=frame.path,
        n_heads=n_heads,
        head_dim=call.input.shape[-1] // n_heads,
        kind=_kind(call, events, around, calls),
        rows=plan.rows,
        prunable=not reason,
        reason=reason,
        gateable=not gate_reason,
        gate_reason=gate_reason,
    )


def _fixed_width(frame: Frame, call: Call) -> str:
    """Why rows cannot be cut where torch's own function computes the attention; "" elsewhere."""
    outer = call.frames[: call.frames.index(frame)]
    if outer and applies_inside(outer[-1].module):
        return "torch's multi-head attention cannot hold fewer channels than its embedding"
    return ""


def _passed_over(
    rows: tuple[OwnedRows, ...],
    events: list[Event],
    footprints: Footprints,
    calls: Mapping[int, Call],
) -> str:
    """Why rows cannot be trained apart: their module is not what applies them; "" where it is."""
    steps: list[Event | Call] = [*events]
    steps += [calls[id(leaf)] for leaf in footprints.leaves if id(leaf) in calls]
    ran = {frame.path for step in steps for frame in step.frames}
    for one in rows:
        if one.parameter.rpartition(".")[0] not in ran:
            return f"{one.parameter} is applied by another module than the one that holds it"
    return ""


def _projection_frame(block: Block) -> Frame:
    """The module call whose input is the contexts, and through which everything reads them."""
    call = block.call
    if not block.others and call.path:
        return call.frames[-1]
    readers = [call, *(other for other in block.others if other is not None)]
    shared = [
        frame
        for frame in call.frames
        if frame.argument is call.input and all(frame in other.frames for other in readers)
    ]
    if None in block.others or not shared:
        everything = ", ".join(named(reader) for reader in (call, *block.others))
        refuse(
            block.events,
            f"is read by {everything}: expected one module that takes the concatenated contexts, "
            f"and nothing else that does",
        )
    return shared[-1]


def _surroundings(
    frame: Frame, call: Call, footprints: Footprints, calls: Mapping[int, Call]
) -> list[Frame]:
    """The block's module call and the one around it, if any.

    The block is the innermost module around the output projection that also holds one of the
    projections that its heads own.
    """
    outer = call.frames[: call.frames.index(frame)]
    owned = [calls[id(leaf)] for leaf in footprints.leaves if id(leaf) in calls]
    depth = max((sum(f in one.frames for f in outer) for one in owned), default=len(outer))
    around = list(outer[: max(depth, 1)]) or [frame]
    return around[-2:][::-1]


def _kind(
    call: Call, events: list[Event], around: list[Frame], calls: Mapping[int, Call]
) -> Literal["self", "cross"]:
    """Whether queries come from what keys and values come from, seen from the block or around.

    "self" where the values' sources feed both sides of the scores, and the queries have no source
    of their own beside them.
    """
    pairs = [pair for event in events for pair in products(edges_of(event.scores))]
    if pairs:
        sides = [[pair[i] for pair in pairs] for i in range(2)]
    else:
        sides = [edges_of(*(event.scores for event in events))] * 2
    probabilities = {id(event.leaf) for event in events}
    values = [
        edge
        for pair in products(edges_of(call.input))
        for edge in pair
        if probabilities.isdisjoint(id(leaf_of(node)) for node, _ in walk([edge]))
    ]
    for frame in around:
        query, key, value = (sources(edges, frame.since, calls) for edges in (*sides, values))
        if value <= query and value <= key and query <= key | value:
            return "self"
    return "cross"


def _at_rest(events: list[Event], seen: Trace, still: Trace) -> list[Tensor] | None:
    """The scores of the same events where queries and keys are zero; None if they differ."""
    numbers = {event: number for number, event in enumerate(seen.events)}
    if [e.scores.shape for e in seen.events] != [e.scores.shape for e in still.events]:
        return None
    return [still.events[numbers[event]].scores.detach() for event in events]


def _numbered(found: Iterable[Site]) -> tuple[Site, ...]:
    """Each site once, in the order of its first run, with the names made unique.

    Parameters that several sites own make each of these sites not prunable by itself.
    """
    sites: dict[str, Site] = {}
    for site in found:
        earlier = sites.get(site.projection)
        sites[site.projection] = site if earlier is None else _merged(earlier, site)
    owners: dict[str, list[str]] = {}
    for site in sites.values():
        for rows in site.rows:
            owners.setdefault(rows.parameter, []).append(site.projection)
    names = [site.name for site in sites.values()]
    numbered = []
    for index, site in enumerate(sites.values()):
        name = site.name if site.name and names.count(site.name) == 1 else site.projection
        shared = next((r.parameter for r in site.rows if len(owners[r.parameter]) > 1), "")
        reason = site.reason
        if shared and not reason:
            others = [path for path in owners[shared] if path != site.projection]
            reason = f"{shared} also belongs to {', '.join(others)}"
        numbered.append(replace(site, index=index, name=name, reason=reason, prunable=not reason))
    return tuple(numbered)


def _merged(first: Site, second: Site) -> Site:
    """Two runs of one site (layers shared by several depths; two streams, as in ProphetNet)."""
    if (first.n_heads, first.head_dim) != (second.n_heads, second.head_dim):
        raise ModelError(
            f"The output projection {first.projection} runs several times in one pass, with "
            f"{first.n_heads} and with {second.n_heads} heads: such a module cannot be handled. "
            f"Give the part of the model without it."
        )
    rows = {one.parameter: one for one in first.rows}
    known = {one.parameter: one for one in second.rows}
    conflict = next((name for name in rows if known.get(name, rows[name]) != rows[name]), "")
    reason = first.reason or second.reason
    if conflict and not reason:
        reason = f"its runs in one pass use {conflict} in different ways"
    return replace(first, rows=tuple({**known, **rows}.values()), reason=reason)
