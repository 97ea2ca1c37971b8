"""Which of torch's attention kernels run: those that are fast for batches sorted by length.

On a GPU, cuDNN's kernel builds a program for each shape that it meets, and sorted batches have as
many shapes as there are batches. On a CPU in bf16, the backward pass of the fused kernel takes 3 to
10 times as long as that of plain products where texts are short (docs/performance.md).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

# From this many keys on, the fused kernel is as fast with its backward pass on a CPU in bf16.
LONGEST = 384


@contextmanager
def any_shape(device: torch.device) -> Iterator[None]:
    """Keep attention from cuDNN, for the time of the block."""
    if device.type != "cuda" or not torch.backends.cuda.cudnn_sdp_enabled():
        yield
        return
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(True)


def fast_gradients(device: torch.device) -> AbstractContextManager[object]:
    """Choose the kernels with the fastest backward pass, for the time of the block.

    A backward pass may compute attention anew (gradient checkpointing), so it belongs inside.
    """
    return _PlainBackward() if device.type == "cpu" else nullcontext()


class _PlainBackward(TorchFunctionMode):
    """Attention in bf16 on a CPU as plain products where its gradient is taken and it is short."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        is_attention = func is scaled_dot_product_attention and not torch.compiler.is_compiling()
        with _plain_products() if is_attention and _is_short(*args, **kwargs) else nullcontext():
            return func(*args, **kwargs)


def _is_short(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any
) -> bool:
    cast = torch.is_autocast_enabled("cpu")
    return (
        query.device.type == "cpu"
        and (torch.get_autocast_dtype("cpu") if cast else query.dtype) == torch.bfloat16
        and key.shape[-2] < LONGEST
        and torch.is_grad_enabled()
        and (query.requires_grad or key.requires_grad or value.requires_grad)
    )


@contextmanager
def _plain_products() -> Iterator[None]:
    """Switch the fused kernel off, and in the other one the copies of everything in float32."""
    cuda = torch.backends.cuda  # these switches are those of all devices
    before = cuda.flash_sdp_enabled(), cuda.fp16_bf16_reduction_math_sdp_allowed()
    cuda.enable_flash_sdp(False)
    cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        yield
    finally:
        cuda.enable_flash_sdp(before[0])
        cuda.allow_fp16_bf16_reduction_math_sdp(before[1])
