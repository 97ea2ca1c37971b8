"""Whose contexts stand in for an example's where heads are resampled (docs/method.md#values).

Each example's partner has about its length, so that few positions are left without a context, and
is decided by the examples and a seed alone, not by how batches are cut: partners follow each other
in a random order, sorted by length, and are kept together in one batch.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from lobes.data.batching import token_batches

Examples = Int[np.ndarray, " _"]


def partner_groups(
    lengths: Int[np.ndarray, " examples"], seed: int, *, alike: bool = False
) -> list[Examples]:
    """Return the examples in groups of two, shortest first; the last group may have three.

    Examples of one length are in random order. With `alike` all of a group have one length, and an
    example that is the only one of its length is a group of its own.
    """
    order = np.random.default_rng(seed).permutation(len(lengths))
    order = order[np.argsort(lengths[order], kind="stable")]
    parts = [order]
    if alike:
        parts = np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1)
    return [group for part in parts for group in np.split(part, np.arange(2, len(part) - 1, 2))]


def partners_of(groups: Sequence[Examples]) -> Examples:
    """Return each example's partner: the next of its group; itself where it is alone."""
    partners = np.empty(sum(map(len, groups)), dtype=np.int64)
    for group in groups:
        partners[group] = np.roll(group, -1)
    return partners


def group_batches(
    groups: Sequence[Examples],
    lengths: Int[np.ndarray, " examples"],
    tokens_per_batch: int,
    *,
    padding: bool = True,
) -> list[Examples]:
    """Return whole groups in batches of similar length, as `token_batches` cuts single examples.

    A batch may have one example more than its tokens allow, where a group has three.
    """
    widths = np.array([lengths[group].max() for group in groups])
    size = max(map(len, groups))
    cut = token_batches(widths, max(tokens_per_batch // min(size, 2), 1), padding=padding)
    return [np.concatenate([groups[number] for number in batch]) for batch in cut]


def within(batch: Examples, partners: Examples) -> Examples:
    """Return the places in the batch of its examples' partners."""
    order = np.argsort(batch)
    return order[np.searchsorted(batch, partners[batch], sorter=order)]
