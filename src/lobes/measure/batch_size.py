"""How many tokens a batch has: as many as fill the device, and as its memory can take."""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lobes import limits
from lobes.modeling.task_model import device_of

R = TypeVar("R")
logger = logging.getLogger("lobes")

# Small enough to stay in a CPU's caches.
_TOKENS_PER_BATCH = {"cpu": 2048}

# A GPU wants enough work to fill it: so many numbers that the widest linear map reads and writes,
# which are 65,536 tokens of BERT base, 7,000 of a Llama of 7 billion weights.
_NUMBERS_PER_BATCH = 2**28
_MOST_TOKENS_PER_BATCH = 2**16

# A run holds up to so many copies of a batch, each with a lesion of its own.
_MOST_COPIES = 16

# Of the free memory, what the estimate of a batch's activations may take.
_SHARE_OF_MEMORY = 0.5

# What a device ran out of memory with is not tried again; half of it is.
_fitting: "WeakKeyDictionary[nn.Module, int]" = WeakKeyDictionary()


def tokens_in_a_batch(model: nn.Module, given: int | None, *, gradients: bool = False) -> int:
    """Return the number of tokens in a batch: as given, or what suits the model's device.

    On a GPU that depends on how much memory is free, and on whether a batch's activations are kept
    for `gradients`.
    """
    if given is not None:
        limits.check_number("tokens_per_batch", given, limits.TOKENS_PER_BATCH)
        return given
    device, widths = device_of(model), [width for width, _ in _maps(model)]
    filling = min(_NUMBERS_PER_BATCH // max(widths, default=1), _MOST_TOKENS_PER_BATCH)
    tokens = _TOKENS_PER_BATCH.get(device.type, filling)
    if device.type == "cuda":
        room = _SHARE_OF_MEMORY * _free_memory(device)
        tokens = min(tokens, int(room / bytes_per_token(model, gradients=gradients)))
    return max(1, min(tokens, _fitting.get(model, tokens)))


def room_for_copies(device: torch.device, tokens: int, lesions: int) -> tuple[int, int]:
    """Return how many tokens the copies of a batch in a run may have together, and one batch.

    A narrow batch of examples of like lengths needs little padding: 6 % for 1,280 examples in
    batches of 4,096 tokens, 79 % in batches of 65,536. A CPU, where a small batch is as fast as a
    large one and copies would round otherwise, gets no copies: 0.
    """
    if device.type == "cpu":
        return 0, tokens
    return tokens, max(1, tokens // max(1, min(lesions, _MOST_COPIES)))


def bytes_per_token(model: nn.Module, *, gradients: bool) -> int:
    """Estimate the memory of a token's activations from what the linear maps read and write.

    Without gradients those of the widest map are there at a time, with what is computed of them;
    with gradients those of all.
    """
    sizes = [width * weight.element_size() for width, weight in _maps(model)]
    return max(1, sum(sizes) if gradients else 4 * max(sizes, default=1))


def _maps(model: nn.Module) -> Iterator[tuple[int, Tensor]]:
    """The weights of linear maps, and how many numbers each reads and writes for a token."""
    for module in model.modules():
        if not isinstance(module, nn.Embedding):
            for weight in module.parameters(recurse=False):
                if weight.dim() > 1:
                    yield sum(weight.shape[:2]), weight


def _free_memory(device: torch.device) -> int:
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def within_memory(model: nn.Module, tokens: int, measure: Callable[[int], R]) -> R:
    """Return `measure(tokens)`; where memory runs out, with half as many, again and again.

    Says so, and keeps to it in later measurements of the model.
    """
    while True:
        try:
            return measure(tokens)
        except torch.OutOfMemoryError:
            if tokens < 2:
                raise
        # the exception, whose traceback keeps the batch's tensors, is gone here
        tokens //= 2
        _fitting[model] = tokens
        logger.warning("The device's memory is full: going on with %d tokens in a batch.", tokens)
        _release(device.index for device in {p.device for p in model.parameters()})


def _release(devices: Iterable[int | None]) -> None:
    for index in devices:
        if index is not None and torch.cuda.is_available():
            with torch.cuda.device(index):
                torch.cuda.empty_cache()
