"""Whose contexts stand in for an example's where heads are resampled (docs/method.md#values)."""

import numpy as np
from jaxtyping import Int


def partners_of(
    lengths: Int[np.ndarray, " examples"], seed: int, *, alike: bool = False
) -> Int[np.ndarray, " examples"]:
    """Return another example of about the same length for each, so that few positions have none.

    Examples in a random order, sorted by length, are taken two and two, the last three together,
    and each has the next of its group. With `alike` all of a group have one length. -1 for an
    example without another one.
    """
    order = np.random.default_rng(seed).permutation(len(lengths))
    order = order[np.argsort(lengths[order], kind="stable")]
    parts = [order]
    if alike:
        parts = np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1)
    partners = np.full(len(lengths), -1)
    for part in parts:
        for group in np.split(part, np.arange(2, len(part) - 1, 2)):
            if len(group) > 1:
                partners[group] = np.roll(group, -1)
    return partners
