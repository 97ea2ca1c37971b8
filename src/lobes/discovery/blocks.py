"""Pair attention probabilities with the projections that read the contexts made from them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from torch import Tensor, nn

from lobes.discovery.graph import Edge, edges_of, leaf_of, leaves, products, walk
from lobes.discovery.tracing import Call, Event, Trace
from lobes.errors import ModelError

Reader = Call | None  # None is the model's output


@dataclass(slots=True, eq=False)
class Block:
    """One run of an attention block: the projection that read the contexts of its events.

    `others` is what else read them.
    """

    call: Call
    events: list[Event]
    others: list[Reader]


@dataclass(slots=True, eq=False)
class _Readers:
    """What reads an event's contexts, and what reads its probabilities as they are."""

    contexts: list[Reader]
    probabilities: list[Call]


def blocks_of(seen: Trace) -> Iterator[Block]:
    """Return every run of an attention block in a trace, in order.

    Probabilities that never meet values in a matrix product are no attention (a router's weigh
    experts), unless their scores are a product of queries and keys: that is refused.
    """
    groups: dict[Reader, list[Event]] = {}
    readers = _readers(seen)
    for event, found in readers.items():
        if found.contexts:
            # Events that one projection reads first are one block, such as two maps of a layer.
            groups.setdefault(found.contexts[0], []).append(event)
        elif found.probabilities and asks(event, seen):
            first = named(found.probabilities[0])
            refuse([event], f"has probabilities that {first} reads before they meet values")
    for call, events in groups.items():
        if call is not None:
            others = {reader: None for event in events for reader in readers[event].contexts}
            yield Block(call, events, [reader for reader in others if reader is not call])
        elif any(asks(event, seen) for event in events):
            refuse(events, "goes to the model's output without an output projection")


def _readers(seen: Trace) -> dict[Event, _Readers]:
    readers: dict[Event, _Readers] = {}
    pending: list[Event] = []
    for step in seen.steps:
        if isinstance(step, Event):
            # What reads an event late, after the next one, can only be a way around a block, and
            # that would have met the next block's own projections first.
            pending = [e for e in pending if not (readers[e].contexts or readers[e].probabilities)]
            pending.append(step)
            readers[step] = _Readers([], [])
        else:
            for event, as_contexts in reads(step.input, pending):
                found = readers[event]
                (found.contexts if as_contexts else found.probabilities).append(step)
    for tensor in tensors(seen.outputs):
        for event, as_contexts in reads(tensor, pending):
            readers[event].contexts += [None] if as_contexts else []
    return readers


def reads(tensor: Tensor, events: list[Event]) -> Iterator[tuple[Event, bool]]:
    """Return the events whose probabilities a tensor depends on, and if through values."""
    if not events:
        return
    since = min(event.since for event in events)
    start = edges_of(tensor)
    reached = {id(leaf) for leaf in leaves(start, since=since)}
    factors = [edge for pair in products(start, since=since) for edge in pair]
    weighed = {id(leaf) for leaf in leaves(factors, since=since)}
    for event in events:
        if id(event.leaf) in reached:
            yield event, id(event.leaf) in weighed


def asks(event: Event, seen: Trace) -> bool:
    """Return whether an event's scores are a product of queries and keys made by the same module.

    One projection may come between, as where talking heads mix the scores.
    """
    around = [frame for frame in event.frames if next(frame.module.children(), None) is not None]
    since = around[-1].since if around else 0
    start = edges_of(event.scores)
    found = leaves(start, since=since)
    calls = [seen.calls[id(leaf)] for leaf in found if id(leaf) in seen.calls]
    between = [edges_of(call.input) for call in calls if call.since >= since]
    return any(
        all(_is_computed(edge) for edge in pair)
        for edges in (start, *between)
        for pair in products(edges, since=since)
    )


def _is_computed(edge: Edge) -> bool:
    """Whether a tensor depends on the model's inputs, not on parameters alone."""
    for node, _ in walk([edge]):
        leaf = leaf_of(node)
        # An embedding looks up inputs; a leaf that is no parameter is an input or a cut.
        if node.name().startswith("Embedding") or not isinstance(leaf, nn.Parameter | None):
            return True
    return False


def tensors(value: Any) -> Iterator[Tensor]:
    """Return the tensors in a model's output."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from tensors(one)
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from tensors(one)


def named(reader: Call | None) -> str:
    if reader is None:
        return "the model's output"
    return reader.path or f"a function inside {reader.frames[-1].path or 'the model'}"


def refuse(events: list[Event], why: str) -> NoReturn:
    frame = events[0].frames[-1]
    place = frame.path or "the model"
    raise ModelError(
        f"The attention of {place} ({type(frame.module).__name__}) {why}. Heads can be ablated "
        f"only at an output projection that is a module of its own; give the part of the model "
        f"without this attention, or one whose attention has such a projection."
    )
