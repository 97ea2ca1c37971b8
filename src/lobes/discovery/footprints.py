"""Gradient footprints: what each slice of an output projection's input depends on."""

import torch
from torch import Tensor

from lobes.discovery.graph import edges_of, leaves, products
from lobes.discovery.tracing import Event

Marks = tuple[Tensor, ...]  # for each axis of a leaf, bool [heads, length of the axis]


def head_number(contexts: Tensor, events: list[Event]) -> int:
    """How many heads lie side by side in `contexts` [..., width]; 0 where none can be told apart.

    One channel at one position must depend on a single row of probabilities. Then each of the
    first two slices must depend on as many rows as one channel does, and not on the same. That
    fits one number only, the right one.
    """
    width = contexts.shape[-1]
    alone = torch.zeros_like(contexts)
    alone[(0,) * contexts.dim()] = 1
    if _touched(contexts, events, alone).sum() != 1:
        return 0
    # Positions that padding left without contexts have no rows.
    rows = _touched(contexts, events, _only(contexts, slice(0, 1))).sum()
    every = sum(event.leaf.numel() // event.leaf.shape[event.dim] for event in events)
    guess = every // (contexts.numel() // width)
    divisors = [number for number in range(width, 0, -1) if width % number == 0]
    for number in sorted(divisors, key=lambda n: n != guess):
        size = width // number
        starts = [_only(contexts, slice(h * size, (h + 1) * size)) for h in range(min(number, 2))]
        touched = torch.stack([_touched(contexts, events, start) for start in starts])
        if (touched.sum(1) == rows).all() and not _overlap(touched):
            return number
    return 0


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
        self.gates = {id(leaf) for leaf in direct}
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
        """Whether every head has rows of each event's probabilities, its own, and as many."""
        counts = torch.stack([rows.flatten(1).sum(1) for rows in self.rows])
        alone = not any(_overlap(rows) for rows in self.rows)
        return alone and bool((counts > 0).all() and (counts == counts[:, :1]).all())


def _gradients(
    outputs: list[Tensor], starts: list[Tensor], inputs: list[Tensor]
) -> tuple[Tensor, ...]:
    return torch.autograd.grad(
        outputs, inputs, starts, retain_graph=True, allow_unused=True, materialize_grads=True
    )


def _noise(like: Tensor) -> Tensor:
    """Random numbers in the shape of a tensor, none of them near zero."""
    generator = torch.Generator(like.device).manual_seed(1)
    numbers = torch.rand(like.shape, generator=generator, device=like.device) + 0.5
    return numbers.to(like.dtype)


def _only(contexts: Tensor, channels: slice) -> Tensor:
    start = torch.zeros_like(contexts)
    start[..., channels] = _noise(contexts[..., channels])
    return start


def _rows(gradient: Tensor, event: Event) -> Tensor:
    return (gradient.abs() > 0).any(event.dim)  # NaN counts as nothing


def _marks(gradient: Tensor) -> Marks:
    there = gradient.abs() > 0
    axes = range(there.dim())
    return tuple(there.movedim(axis, -1).reshape(-1, there.shape[axis]).any(0) for axis in axes)


def _stacked(heads: tuple[Marks, ...]) -> Marks:
    return tuple(torch.stack(axis).cpu() for axis in zip(*heads, strict=True))
