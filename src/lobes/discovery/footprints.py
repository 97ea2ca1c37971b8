"""Gradient footprints: what each slice of an output projection's input depends on."""

import torch
from torch import Tensor

from lobes.discovery.graph import edges_of, leaves, products
from lobes.discovery.tracing import Event

Marks = tuple[Tensor, ...]  # for each axis of a leaf, bool [heads, length of the axis]


def head_number(contexts: Tensor, events: list[Event], *, combined: bool = False) -> int:
    """Return how many heads lie side by side in `contexts` [..., width]; 0 if unclear.

    One channel at one position must depend on a single row of probabilities. Then each of the
    first two slices must depend on as many rows as one channel does, and not on the same. That
    fits one number only, the right one. With `combined` a channel depends on several rows, and a
    head is a slice that shares them with no other: the difference of two maps (DiffLlama).
    """
    width = contexts.shape[-1]
    alone = torch.zeros_like(contexts)
    alone[(0,) * contexts.dim()] = 1
    touched = int(_touched(contexts, events, alone).sum())
    if not touched or (touched > 1) != combined:
        return 0
    # Positions that padding left without contexts have no rows.
    rows = _touched(contexts, events, _only(contexts, slice(0, 1))).sum()
    every = sum(event.leaf.numel() // event.leaf.shape[event.dim] for event in events)
    # Rows of probabilities for each position: with one row a head, the number of heads.
    guess = every // (contexts.numel() // width)
    least = 2 if combined else 1
    divisors = [number for number in range(width, least - 1, -1) if width % number == 0]
    for number in sorted(divisors, key=lambda n: n != guess):
        size = width // number
        starts = [_only(contexts, slice(h * size, (h + 1) * size)) for h in range(min(number, 2))]
        found = torch.stack([_touched(contexts, events, start) for start in starts])
        if (found.sum(1) == rows).all() and not _overlap(found):
            return number
    return 0


def assigns(contexts: Tensor, event: Event) -> bool:
    """Return whether probabilities sum to 1 over the queries of each key instead of its keys.

    Then one position of the contexts depends on every row, at the same place of each.
    """
    start = torch.zeros_like(contexts)
    start[(0,) * (contexts.dim() - 1)] = 1
    (gradient,) = _gradients([contexts], [start], [event.leaf])
    places = (gradient.abs() > 0).movedim(event.dim, -1).flatten(0, -2).any(0)
    return bool(places.sum() == 1) and event.leaf.shape[event.dim] > 1


def joined(contexts: Tensor, events: list[Event]) -> Tensor:
    """Return contexts as [..., width], also if groups of heads lie along the axis before the last.

    There, moving along that axis leads to rows of probabilities along one axis of these, where
    moving along no other axis but the channels leads.
    """
    if contexts.dim() < 4 or contexts.shape[-2] < 2:
        return contexts
    axes = [axis for axis in range(contexts.dim() - 1) if contexts.shape[axis] > 1]
    *others, groups = [_moved(contexts, events, axis) for axis in axes]
    return contexts if groups in others or len(groups) != 1 else contexts.flatten(-2)


def _moved(contexts: Tensor, events: list[Event], axis: int) -> set[int]:
    """The axes of the last event's probabilities that a step along an axis of contexts leads."""
    found = []
    for step in (0, 1):
        start = torch.zeros_like(contexts)
        start[(0,) * axis + (step,)].view(-1)[0] = 1
        found.append(_marks(_gradients([contexts], [start], [events[-1].leaf])[0]))
    pairs = enumerate(zip(*found, strict=True))
    return {place for place, (one, other) in pairs if not torch.equal(one, other)}


def batch_axis(contexts: Tensor, events: list[Event]) -> int | None:
    """Return the axis of `contexts` along which a batch's examples lie; None if they are mixed.

    Probabilities have the batch, or windows and heads of each example in turn, in front. So what
    lies later along the batch axis depends on later of these; along another axis, on them all.
    A batch of one lies along the first axis, unless that runs through positions and the next has
    room for one.
    """
    for axis in range(contexts.dim() - 1):
        length = contexts.shape[axis]
        if length == 1:
            return axis
        steps = sorted({0, 1, length // 2, length - 2, length - 1, *range(2, min(length, 9))})
        spans = [span for step in steps if (span := _span(contexts, events, axis, step))]
        if len(set(spans)) <= 1:
            continue
        firsts, lasts = zip(*spans, strict=True)
        if list(firsts) != sorted(firsts) or list(lasts) != sorted(lasts):
            return None
        return axis
    return 0


def _span(contexts: Tensor, events: list[Event], axis: int, index: int) -> tuple[int, int] | None:
    """The first and the last index in front of the probabilities that a part depends on."""
    start = torch.zeros_like(contexts)
    start.select(axis, index).fill_(1)
    found = _gradients([contexts], [start], [event.leaf for event in events])
    for gradient in found:
        touched = torch.nonzero((gradient.abs() > 0).flatten(1).any(1)).flatten()
        if len(touched):
            return int(touched[0]), int(touched[-1])
    return None


def _touched(contexts: Tensor, events: list[Event], start: Tensor) -> Tensor:
    """Which rows of all events' probabilities a part of the contexts depends on, flat."""
    found = _gradients([contexts], [start], [event.leaf for event in events])
    return torch.cat(
        [_rows(one, event).flatten() for one, event in zip(found, events, strict=True)]
    )


def _overlap(masks: Tensor) -> bool:
    return bool((masks.sum(0) > 1).any())


class Footprints:
    """What each of `n_heads` slices of `contexts` depends on.

    `rows[event]` are bool [heads, *rows], the rows of probabilities that belong to each head.
    `scores` and `values` say, for each leaf tensor behind the scores and behind the contexts,
    where along each of its axes a head's gradient is not zero; for a projection's output only the
    last axis is kept. `gates` are leaves that multiply the contexts and are no values. `asked`
    says whether the scores are products of what the projections gave, with nothing in between.
    """

    def __init__(self, contexts: Tensor, events: list[Event], n_heads: int) -> None:
        self.n_heads, self.head_dim = n_heads, contexts.shape[-1] // n_heads
        self.dims = [event.dim for event in events]
        probabilities = {id(event.leaf) for event in events}
        behind = [leaf for leaf in leaves(edges_of(contexts)) if id(leaf) not in probabilities]
        direct = leaves(edges_of(contexts), into_products=False)
        weighed = leaves(edge for pair in products(edges_of(contexts)) for edge in pair)
        self.gates = set(map(id, direct)) - set(map(id, weighed))
        scores = [event.scores for event in events]
        self.asked = all(products(edges_of(score)) for score in scores)
        before = leaves(edges_of(*scores))
        self.leaves = list({id(leaf): leaf for leaf in (*before, *behind)}.values())
        marks: list[list[Marks]] = []
        touched: list[list[Tensor]] = []
        for head in range(n_heads):
            channels = slice(head * self.head_dim, (head + 1) * self.head_dim)
            wanted = [event.leaf for event in events] + behind
            gradients = _gradients([contexts], [_only(contexts, channels)], wanted)
            rows = [_rows(g, event) for g, event in zip(gradients, events, strict=False)]
            touched.append(rows)
            # Backward from this head's rows of scores only: they reach its queries and keys.
            starts = [
                _noise(score) * row.unsqueeze(event.dim)
                for score, row, event in zip(scores, rows, events, strict=True)
            ]
            asked = _gradients(scores, starts, before)
            marks.append([_marks(g) for g in (*asked, *gradients[len(events) :])])
        self.rows = [torch.stack(rows) for rows in zip(*touched, strict=True)]
        merged = [_stacked(one) for one in zip(*marks, strict=True)]
        self.scores = dict(zip(map(id, before), merged, strict=False))
        self.values = dict(zip(map(id, behind), merged[len(before) :], strict=True))

    @property
    def separate(self) -> bool:
        """Whether every head has rows of probabilities, its own, and as many."""
        counts = torch.stack([rows.flatten(1).sum(1) for rows in self.rows]).sum(0)
        alone = not any(_overlap(rows) for rows in self.rows)
        return alone and bool((counts > 0).all() and (counts == counts[0]).all())

    @property
    def alike(self) -> bool:
        """Whether every head has as many rows of each event's probabilities."""
        counts = torch.stack([rows.flatten(1).sum(1) for rows in self.rows])
        return bool((counts > 0).all() and (counts == counts[:, :1]).all())


def _gradients(
    outputs: list[Tensor], starts: list[Tensor], inputs: list[Tensor]
) -> tuple[Tensor, ...]:
    return torch.autograd.grad(
        outputs, inputs, starts, retain_graph=True, allow_unused=True, materialize_grads=True
    )


def _noise(like: Tensor) -> Tensor:
    """Random numbers in the shape of a tensor, none of them near zero.

    With ones, the gradient of a softmax, or of a norm, would cancel over its dimension.
    """
    generator = torch.Generator(like.device).manual_seed(1)
    numbers = torch.rand(like.shape, generator=generator, device=like.device) + 0.5
    return numbers.to(like.dtype)


def _only(contexts: Tensor, channels: slice) -> Tensor:
    start = torch.zeros_like(contexts)
    start[..., channels] = _noise(contexts[..., channels])
    return start


def _rows(gradient: Tensor, event: Event) -> Tensor:
    # Exact zeros are meant: what a slice does not depend on gets no gradient, not a small one.
    return (gradient.abs() > 0).any(event.dim)  # NaN counts as nothing


def _marks(gradient: Tensor) -> Marks:
    there = gradient.abs() > 0
    axes = range(there.dim())
    return tuple(there.movedim(axis, -1).reshape(-1, there.shape[axis]).any(0) for axis in axes)


def _stacked(heads: tuple[Marks, ...]) -> Marks:
    return tuple(torch.stack(axis).cpu() for axis in zip(*heads, strict=True))
