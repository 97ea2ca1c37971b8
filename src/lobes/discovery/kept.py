"""Restore a model to its state before it was tried out.

A forward pass may change more than numbers: BigBird puts other attention modules in the place of
its own when a text is short, and stays so; others keep tables for the lengths they have seen.
"""

import random
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_PARTS = ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set")


@contextmanager
def kept(model: nn.Module) -> Iterator[None]:
    """Restore the model and all random state on exit to what they were before the block.

    That is: its modules with their attributes and modes, the values of buffers, what its
    configurations say, and what lists and dictionaries among all these hold. Not looked after are
    values of parameters, and hooks.
    """
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=sorted(devices)))
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())
        modules = list(model.modules())
        for state in [_Attributes.of(one) for one in (*modules, *_configurations(modules))]:
            stack.callback(state.put_back)
        yield


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw the numbers of a seed inside the block, and restore the random state on exit."""
    # a GPU that is not in use yet has no state to go back to: it would begin with the seed
    devices = [*range(torch.cuda.device_count())] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        seed_it = torch.manual_seed if devices else torch.default_generator.manual_seed
        seed_it(seed)
        yield


@dataclass(frozen=True, eq=False)
class _Attributes:
    """The attributes of an object, what containers among them hold, and the values of tensors."""

    owner: Any
    values: dict[str, Any]
    contents: list[tuple[Any, Any]]
    tensors: list[tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, owner: Any) -> "_Attributes":
        values = {name: one for name, one in vars(owner).items() if _is_own(owner, name)}
        contents = [(one, one.copy()) for one in values.values() if _is_container(one)]
        found = [*values.values(), *(getattr(owner, "_buffers", None) or {}).values()]
        tensors = [
            (one, one.detach().clone())
            for one in found
            if isinstance(one, Tensor) and not (one.is_inference() or one.is_meta)
        ]
        return cls(owner, values, contents, tensors)

    def put_back(self) -> None:
        attributes = vars(self.owner)
        for name in [n for n in attributes if n not in self.values and _is_own(self.owner, n)]:
            del attributes[name]
        for name, value in self.values.items():
            if name not in attributes or attributes[name] is not value:
                attributes[name] = value
        for container, content in self.contents:
            _refill(container, content)
        with torch.no_grad():
            for tensor, value in self.tensors:
                if not torch.equal(tensor, value):  # what is not a number counts as another
                    tensor.copy_(value)


def _is_own(owner: Any, name: str) -> bool:
    """Whether an attribute says what a model is, and is not one of torch's hooks on it."""
    return not isinstance(owner, nn.Module) or name in _PARTS or not name.startswith("_")


def _is_container(value: Any) -> bool:
    return isinstance(value, dict | list | set | deque)


def _refill(container: Any, content: Any) -> None:
    """Let a container hold what it held, if it holds something else."""
    if _held(container) == _held(content):
        return
    container.clear()
    (container.extend if isinstance(container, list | deque) else container.update)(content)


def _held(container: Any) -> list[Any]:
    """What a container holds, as names and identities."""
    if isinstance(container, dict):
        return [(name, id(value)) for name, value in container.items()]
    return sorted(map(id, container)) if isinstance(container, set) else list(map(id, container))


def _configurations(modules: list[nn.Module]) -> list[Any]:
    """The configurations of modules, and those inside them, each once."""
    waiting = [vars(one).get(name) for one in modules for name in ("config", "generation_config")]
    found: dict[int, Any] = {}
    while waiting:
        one = waiting.pop()
        if hasattr(one, "to_dict") and hasattr(one, "__dict__") and id(one) not in found:
            found[id(one)] = one
            waiting += vars(one).values()
    return list(found.values())
