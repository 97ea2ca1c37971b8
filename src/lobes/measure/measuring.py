"""The state in which a model is measured: evaluation mode, frozen, at a precision."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import torch

from lobes.ablation import evaluating
from lobes.modeling.attention_kernels import any_shape, fast_gradients
from lobes.modeling.precision import bf16_copy, resolve_precision
from lobes.modeling.task_model import device_of

M = TypeVar("M", bound=torch.nn.Module)


def at_precision(model: M, precision: str) -> M:
    """Return what is run where a model is measured: its copy in bf16, or in fp32 the model."""
    is_bf16 = resolve_precision(precision, device_of(model)) == "bf16"
    return bf16_copy(model) if is_bf16 else model


@contextmanager
def measuring(model: M, precision: str, *, gradients: bool = False) -> Iterator[M]:
    """Put a model into evaluation mode, frozen and at a precision, inside the block.

    In bf16 that is a copy (`bf16_copy`); in fp32 the model itself, in whatever precision it was
    loaded, whose modes and flags are put back. `gradients` are computed inside the block. One
    thread at a time measures.
    """
    # no gradient goes through what `torch.inference_mode` around the call would make, copies too
    plainly = torch.inference_mode(False) if gradients else nullcontext()
    with plainly, _measuring(at_precision(model, precision), gradients) as measured:
        yield measured


@contextmanager
def _measuring(measured: M, gradients: bool) -> Iterator[M]:
    device = device_of(measured)
    kernels = fast_gradients(device) if gradients else nullcontext()
    with evaluating(measured), any_shape(device), kernels:
        trainable = [parameter for parameter in measured.parameters() if parameter.requires_grad]
        try:
            measured.requires_grad_(False)
            yield measured
        finally:
            for parameter in trainable:
                parameter.requires_grad_(True)
