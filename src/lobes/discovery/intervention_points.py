"""Find the module at which the contexts of a block can be reached head by head.

That is the output projection, or what stands around it (an adapter). Where the contexts are
changed across heads on the way to it (a norm over all heads), or where the projection is no linear
module, it is the first module that takes them as they are, if nothing goes past it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from lobes.discovery.blocks import Block, asks, named, reads, refuse, tensors
from lobes.discovery.footprints import Footprints, assigns, head_number, joined
from lobes.discovery.graph import edges_of, leaf_of, walk
from lobes.discovery.tracing import Event, Frame, Trace, channel_axis


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """The module call whose input is a block's `contexts` [..., width], and what they depend on.

    `before` is the path of the module, if it is not the output projection but comes before it.
    """

    frame: Frame
    contexts: Tensor
    events: list[Event]
    footprints: Footprints
    before: str = ""


def place_of(block: Block, seen: Trace) -> Place | None:
    """Return where the contexts of a block can be reached; `ModelError` if that is nowhere.

    None for what is no multi-head attention: one head without queries (a learned pooling), or
    probabilities over queries in place of keys (an assignment to groups).
    """
    contexts = block.call.input
    asking = [event for event in block.events if asks(event, seen)]
    if head_number(contexts, block.events) <= 1 and not asking:
        return None
    if all(assigns(contexts, event) for event in block.events):
        return None
    frame = _projection_frame(block)
    found = next(_places(block, frame, asking, seen), None)
    if found is None:
        refuse(block.events, _why_nowhere(block, frame))
    return found


def _why_nowhere(block: Block, frame: Frame | None) -> str:
    if frame is not None:
        return (
            f"does not reach {frame.path} head by head: its heads are mixed, or laid out in "
            f"another way than one after the other, before the output projection"
        )
    everything = ", ".join(named(reader) for reader in (block.call, *block.others))
    return (
        f"is read by {everything}: expected one module that takes the concatenated contexts, "
        f"and nothing else that does"
    )


def _places(block: Block, frame: Frame | None, asking: list[Event], seen: Trace) -> Iterator[Place]:
    """Where each head's context can be told apart, the best places first."""
    contexts = block.call.input
    # One row for each channel is the rule; several (DiffLlama) are tried when no place fits it.
    for combined in (False, True):
        for events in filter(None, (block.events, asking)):
            found = _footprints(contexts, events, combined)
            if frame is not None and found is not None:
                yield Place(frame, contexts, events, found)
        for events in filter(None, (asking, block.events)):
            for earlier, argument in _earlier(block, events, seen):
                found = _footprints(argument, events, combined)
                if found is not None:
                    yield Place(earlier, argument, events, found, earlier.path)


def _footprints(contexts: Tensor, events: list[Event], combined: bool) -> Footprints | None:
    n_heads = head_number(contexts, events, combined=combined)
    found = Footprints(contexts, events, n_heads) if n_heads else None
    return found if found is not None and found.separate else None


def _projection_frame(block: Block) -> Frame | None:
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
    return None if None in block.others or not shared else shared[-1]


def _earlier(block: Block, events: list[Event], seen: Trace) -> Iterator[tuple[Frame, Tensor]]:
    """The module calls, in order, that nothing goes past from the events to the block's readers.

    With each comes its input, the channels in the last dimension.
    """
    ends = [reader.input for reader in (block.call, *block.others) if reader is not None]
    if None in block.others:
        ends += tensors(seen.outputs)
    since = min(event.since for event in events)
    probabilities = {id(event.leaf) for event in events}
    for frame in seen.frames:
        if not events[-1].since <= frame.since <= block.call.since:
            continue
        if frame.argument is None or frame.result is None or not frame.argument.requires_grad:
            continue
        if not all(weighed for _, weighed in reads(frame.argument, events)):
            continue
        # Nothing goes past the module if no way around its result leads to the probabilities.
        past = walk(edges_of(*ends), since=since, stop=frame.result)
        if not any(id(leaf_of(node)) in probabilities for node, _ in past):
            contexts = frame.argument.movedim(channel_axis(frame.module), -1)
            yield frame, joined(contexts, events)
