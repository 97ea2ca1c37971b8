"""Repeat an intervention when gradient checkpointing computes a forward pass again.

The backward pass must see the same intervention as the forward pass, also if the block around the
forward pass has ended in between. For models of transformers `carried` takes care of it. Calls of
`torch.utils.checkpoint` in a model's own code are out of reach; `recomputable` only detects them.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.utils.checkpoint
from torch import nn

from lobes.discovery.shared import shared

_FUNCTION, _FLAG = "_gradient_checkpointing_func", "gradient_checkpointing"
_FILE = torch.utils.checkpoint.__file__

# Given at a forward pass: makes what surrounds the same computation when it is done again.
Again = Callable[[], AbstractContextManager]
Capture = Callable[[], Again]
_captures: ContextVar[tuple[Capture, ...]] = ContextVar("captures", default=())
_carrying: ContextVar[bool] = ContextVar("carrying", default=False)
_repeating: ContextVar[bool] = ContextVar("repeating", default=False)


@contextmanager
def carried(model: nn.Module, capture: Capture) -> Iterator[None]:
    """Enter `capture()()` around whatever checkpointing computes again of runs inside the block.

    `capture` is called in the forward pass, what it returned in the backward pass, there as often
    as something is computed again.
    """
    before = _captures.get()
    with ExitStack() as stack:
        for module in _modules_of(model):
            if _FUNCTION in module.__dict__:
                stack.enter_context(shared((_FUNCTION, module), _Wrapping(module)))
        _captures.set((*before, capture))
        try:
            yield
        finally:
            _captures.set(tuple(one for one in _captures.get() if one is not capture))


def _modules_of(model: nn.Module) -> Iterator[nn.Module]:
    """What `model.modules()` yields, ten times as fast: it is asked at every lesion."""
    seen, waiting = {model}, [model]
    while waiting:
        module = waiting.pop()
        yield module
        children = [one for one in module._modules.values() if one is not None and one not in seen]
        seen.update(children)
        waiting += children


@contextmanager
def switched_off(model: nn.Module) -> Iterator[None]:
    """Switch off the gradient checkpointing of a model of transformers inside the block."""
    with ExitStack() as stack:
        for module in model.modules():
            if getattr(module, _FLAG, False) is True:
                stack.enter_context(shared((_FLAG, module), _Without(module)))
        yield


def repeating() -> bool:
    """Return whether a backward pass is computing something again."""
    # A graph task runs in a backward pass only; checkpointing inside one computes something again.
    return _repeating.get() or (torch._C._current_graph_task_id() != -1 and _is_checkpointing())


def recomputable() -> bool:
    """Return whether the present run may be computed again, out of the reach of `carried`."""
    if _carrying.get() or not _is_checkpointing():
        return False
    # In its reentrant form gradients are off inside, and whether they are outside cannot be seen.
    return torch.is_grad_enabled() or _has_frame(_reentrant)


def _is_checkpointing() -> bool:
    return _has_frame(None)


_reentrant = torch.utils.checkpoint.CheckpointFunction.forward.__code__


def _has_frame(code: Any) -> bool:
    """Whether torch's checkpointing, or this function of it, is running."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code is code or (code is None and frame.f_code.co_filename == _FILE):
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


class _Wrapping:
    """Stands in a module for the function by which transformers checkpoints it."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.plain = module, getattr(module, _FUNCTION)

    def __call__(self) -> AbstractContextManager:
        return self._installed()

    @contextmanager
    def _installed(self) -> Iterator[None]:
        # On the instance, where transformers itself puts the function that it calls.
        setattr(self.module, _FUNCTION, self._checkpoint)
        try:
            yield
        finally:
            if getattr(self.module, _FUNCTION, None) == self._checkpoint:
                setattr(self.module, _FUNCTION, self.plain)

    def _checkpoint(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():  # its second run is part of the compiled program
            return self.plain(function, *args, **kwargs)
        job = _Job(function, _captures.get())
        outputs = self.plain(job, *args, **kwargs)
        job.done = True
        return outputs


class _Job:
    """A function that is called in a forward pass, and again in the backward pass."""

    def __init__(self, function: Callable[..., Any], captures: tuple[Capture, ...]) -> None:
        self.function, self.captures, self.done = function, captures, False
        # Now, in the forward pass: what is selected or ablated may be another by the backward pass.
        self.around = [capture() for capture in captures]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            stack.enter_context(_set(_carrying, True))
            if self.done:
                stack.enter_context(_set(_repeating, True))
                stack.enter_context(_set(_captures, self.captures))
                for again in self.around:
                    stack.enter_context(again())
            return self.function(*args, **kwargs)


@contextmanager
def _set(variable: ContextVar, value: Any) -> Iterator[None]:
    before = variable.get()
    variable.set(value)
    try:
        yield
    finally:
        variable.set(before)


class _Without:
    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self) -> AbstractContextManager:
        return self._installed()

    @contextmanager
    def _installed(self) -> Iterator[None]:
        setattr(self.module, _FLAG, False)
        try:
            yield
        finally:
            setattr(self.module, _FLAG, True)
