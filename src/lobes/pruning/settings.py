"""The whole numbers that an attention module keeps, and what they may become with fewer heads."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

from torch import nn

from lobes.pruning.plan import Setting
from lobes.pruning.surgery import ChangedConfig

Change = tuple[str, int, int]  # what it counts, before, after


@dataclass(frozen=True)
class Number:
    """A whole number on a module, or (`config.` before its name) in its configuration."""

    module: str
    name: str
    value: int


class Watch:
    """Notes which numbers the modules of a block read while they run.

    Changes the block, which is of no use afterwards.
    """

    def __init__(self, path: str, block: nn.Module) -> None:
        self._path, self._block = path, block
        self._read: list[tuple[str, str, set[str]]] = []
        for inner, module in block.named_modules():
            config: Any = getattr(module, "config", None)
            if config is not None:
                watched = _WatchedConfig(config)
                module.config = watched
                self._read.append((inner, "config.", watched.read))
            # what a projection keeps follows from its weight
            if "weight" not in module._parameters:
                self._read.append((inner, "", _watched(module)))

    def numbers(self) -> Iterator[Number]:
        """Return the numbers that were read, and counts of heads even if they were not read."""
        for inner, prefix, read in self._read:
            module: Any = self._block.get_submodule(inner)
            owner = module.config.original if prefix else module
            names = read | (set() if prefix else {name for name in vars(module) if _is_count(name)})
            for name in sorted(names):
                value = getattr(owner, name, None)
                if type(value) is int:
                    path = ".".join(part for part in (self._path, inner) if part)
                    yield Number(path, prefix + name, value)


class _WatchedConfig(ChangedConfig):
    """A configuration that notes what is read of it."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)
        self.read.add(name)
        return value


def _watched(module: nn.Module) -> set[str]:
    """The names of a module's attributes that are read from now on."""
    read: set[str] = set()
    kind: Any = type(module)

    def note(self: Any, name: str) -> Any:
        if not name.startswith("_"):
            read.add(name)
        return kind.__getattribute__(self, name)

    # Python calls `__getattribute__` on the class only, so the object gets a class of its own.
    module.__class__ = type(kind.__name__, (kind,), {"__getattribute__": note})
    return read


def _is_count(name: str) -> bool:
    return name.startswith(("num_", "n_")) and "head" in name and "dim" not in name


def combined(numbers: Sequence[Number], changes: Sequence[Change]) -> Iterator[tuple[Setting, ...]]:
    """Yield all combinations of the numbers' new values, the likeliest first."""
    choices = [(number, options) for number in numbers if (options := _options(number, changes))]
    # Names mislead about few numbers: all first choices, then one other choice, then two …
    for away in range(len(choices) + 1):
        for others in combinations(range(len(choices)), away):
            rests = (range(1, len(choices[i][1])) for i in others)
            for picks in product(*rests):
                picked = dict(zip(others, picks, strict=True))
                pairs = [(n, options[picked.get(i, 0)]) for i, (n, options) in enumerate(choices)]
                yield tuple(
                    Setting(number.module, number.name, value)
                    for number, value in pairs
                    if value != number.value
                )


def _options(number: Number, changes: Sequence[Change]) -> list[int]:
    """What a number may become, the likeliest first; nothing where it only can stay."""
    fitting = [(kind, new) for kind, old, new in changes if old == number.value]
    fitting.sort(key=lambda change: not _suits(number.name, change[0]))
    values = [new for _, new in fitting]
    stays = any(part in number.name for part in ("head_dim", "head_size", "dim_head", "layer"))
    values.insert(0 if stays else len(values), number.value)
    return list(dict.fromkeys(values)) if set(values) != {number.value} else []


def _suits(name: str, kind: str) -> bool:
    """Whether a number's name says that it is of this kind."""
    if "per_" in name or name.endswith("groups"):
        return kind == "per group"
    if "kv" in name or "key_value" in name:
        return kind == "groups"
    return kind != "per group"
