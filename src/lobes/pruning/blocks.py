"""Run an attention block by itself, on what it was given in a run of the whole model."""

import copy
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn

from lobes.discovery.ownership import shared_path
from lobes.pruning.t5_and_bigbird import BIAS
from lobes.sites import Site


@dataclass(eq=False)
class Sample:
    """What went into a block in one call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def lacks_bias(self) -> bool:
        """Whether no position bias was given, so that the block computes one itself."""
        return self.kwargs.get(BIAS) is None


def block_path(site: Site) -> str:
    """Return the path of the innermost module with a site's projection and all its heads own."""
    return shared_path([f"{site.projection}.weight", *(rows.parameter for rows in site.rows)])


class Called(nn.Module):
    """A block together with the arguments of one call."""

    def __init__(self, block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        super().__init__()
        self.block, self.call = block, (args, kwargs)

    def forward(self) -> Any:
        args, kwargs = copy.deepcopy(self.call)  # a cache among them grows with each run
        return self.block(*args, **kwargs)


def first_tensor(value: Any) -> Tensor:
    """Return the first floating-point tensor in a module's output."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value
    parts = value.values() if isinstance(value, Mapping) else value
    if not isinstance(parts, Tensor) and hasattr(parts, "__iter__"):
        for one in parts:
            with suppress(TypeError):
                return first_tensor(one)
    raise TypeError("no tensor of floating-point numbers")


def axes_given(whole: Tensor, args: tuple[Any, ...]) -> tuple[int, ...] | None:
    """Return the order of a tensor's axes in which a module receives it; None for another."""
    given = args[0] if args else None
    if not isinstance(given, Tensor) or given.data_ptr() != whole.data_ptr():
        return None
    for axes in permutations(range(whole.dim() - 1)):
        order = (*axes, whole.dim() - 1)
        seen = whole.permute(order)
        if (seen.shape, seen.stride()) == (given.shape, given.stride()):
            return order
    return None


def taken(model: nn.Module, path: str) -> nn.Module:
    """Return the block at a path, to be put back later; for the whole model, a shallow copy."""
    return model.get_submodule(path) if path else copy.copy(model)


def put(model: nn.Module, path: str, block: nn.Module) -> None:
    if path:
        parent, _, name = path.rpartition(".")
        model.get_submodule(parent)._modules[name] = block
    else:  # the whole model: it takes over all that the block has
        state = copy.copy(block).__dict__
        model.__dict__.clear()
        model.__dict__.update(state)


def bound(block: nn.Module, sample: Sample) -> dict[str, Tensor]:
    """Return the tensors of a call by the names of the arguments."""
    names = list(inspect.signature(block.forward).parameters)
    values = dict(zip(names, sample.args, strict=False)) | sample.kwargs
    return {name: one for name, one in values.items() if isinstance(one, Tensor) and name in names}


def single(value: Any) -> Any:
    """Convert tensors of low precision in arguments to float32, wherever they stand."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
    if isinstance(value, dict):
        return {key: single(one) for key, one in value.items()}
    if type(value) in (tuple, list):
        return type(value)(single(one) for one in value)
    return value


@contextmanager
def single_precision(model: nn.Module, path: str) -> Iterator[None]:
    """Put a float32 copy of a block in its place inside the `with` block."""
    original = model.get_submodule(path)
    low = any(p.dtype in (torch.float16, torch.bfloat16) for p in original.parameters())
    if low and path:
        put(model, path, copy.deepcopy(original).float())
    try:
        yield
    finally:
        put(model, path, original)


@contextmanager
def computing(block: nn.Module, attention: str | None) -> Iterator[None]:
    """Switch the implementation of attention inside the `with` block, if the model has several."""
    found: list[Any] = [getattr(module, "config", None) for module in block.modules()]
    configs: dict[int, Any] = {id(one): getattr(one, "original", one) for one in found}
    name = "_attn_implementation_internal"
    before = {
        key: getattr(config, name)
        for key, config in configs.items()
        if attention is not None and hasattr(config, name)
    }
    try:
        for key in before:
            setattr(configs[key], name, attention)
        yield
    finally:
        for key, used in before.items():
            setattr(configs[key], name, used)
