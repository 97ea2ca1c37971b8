"""Compare the outputs of two runs of a model."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

# Of the output's scale, by precision; what is wrong differs by much more than what is rounded.
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}
_LOW_PRECISION = 0.1  # bf16 and fp16, whose errors grow with every layer


def tensors(value: Any) -> Iterator[Tensor]:
    """Return every floating-point tensor in a module's output, in order."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
        return
    parts = value.values() if isinstance(value, Mapping) else value
    if isinstance(value, Mapping | tuple | list):
        for one in parts:
            yield from tensors(one)


def largest_difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Return the largest difference in the first tensors, in units of the expected one's scale.

    Infinite where they have not the same shape. The first is what a model or block is asked for;
    others may be caches and attention probabilities, which hold fewer heads.
    """
    if not expected or not found or expected[0].shape != found[0].shape:
        return float("inf")
    one, other = (tensor[0].double() for tensor in (expected, found))
    same = (one == other) | (one.isnan() & other.isnan())
    scale = torch.where(one.isfinite(), one.abs(), 0).max().clamp_min(1e-6)
    difference = torch.where(same, 0, (one - other).abs()).max() / scale
    return float(difference.nan_to_num(nan=float("inf")))


def tolerance(expected: Sequence[Tensor]) -> float:
    """Return the difference, as a share of the scale, that rounding may explain."""
    return _TOLERANCE.get(expected[0].dtype, _LOW_PRECISION) if expected else 0.0
