"""What was done to a model to remove heads, as data: it can be saved, read and done again.

A plan says for each site which entries of which parameters stay and in which order, which numbers
on its modules change, and what is cut from tensors on their way (a position bias with a slice for
each head). Done again on a freshly built model it gives the modules the shapes that the saved
weights have, so nothing needs to be discovered to load a pruned model.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np

from lobes.errors import ModelError

KEY = "lobes_pruning"  # where plans stand in a model's configuration
VERSION = 1
_LONGEST_AXIS = 2**24  # longer than any parameter's; the entries of an axis are listed one by one
PAD = -1  # in a list of what stays: not an entry of the model, but 0

Runs = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Cut:
    """The entries of a parameter that stay along one axis, in their new order.

    `kept` are runs (first, length); those that begin with -1 are zeros. `size` is the axis's
    length before.
    """

    parameter: str
    axis: int
    size: int
    kept: Runs

    @property
    def new_size(self) -> int:
        """The axis's length afterwards."""
        return sum(length for _, length in self.kept)


@dataclass(frozen=True, slots=True)
class Setting:
    """A number on a module; with `config.` before its name, in the configuration it reads."""

    module: str
    name: str
    value: int


@dataclass(frozen=True, slots=True)
class Narrowing:
    """A tensor with a slice for each head, cut when it passes a module.

    It is the argument called `argument`, or the module's output where that is None. Along `axis`
    it is as long as `size` or a multiple of it; of every `size` entries those in `kept` stay.
    """

    module: str
    argument: str | None
    axis: int
    size: int
    kept: Runs


@dataclass(frozen=True, slots=True)
class Table:
    """A lookup table [rows, columns] that a module gets for itself, a copy of the one at `like`."""

    module: str
    name: str
    like: str
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Bypass:
    """An argument that a block sees with its first `width` channels only, and its readers whole.

    For blocks that take the width of their contexts from the width of their input. `readers` are
    the projections that read the argument, with the order of its axes when it reaches them.
    """

    module: str
    argument: str
    width: int
    readers: tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class SitePlan:
    """What is done at one site.

    `slots` are its new heads by the numbers of the old ones; -1 is a head of zeros, for padding.
    `counts` are (before, after): of its heads, and of the groups that share keys and values.
    `ignored` are (module, argument): an argument that is given as None from now on. `stepwise` are
    modules of `torch.nn.MultiheadAttention` that no longer compute in one function.
    """

    projection: str
    slots: tuple[int, ...]
    head_dim: int = 0
    counts: tuple[tuple[int, int], ...] = ()
    cuts: tuple[Cut, ...] = ()
    settings: tuple[Setting, ...] = ()
    narrowings: tuple[Narrowing, ...] = ()
    bypasses: tuple[Bypass, ...] = ()
    tables: tuple[Table, ...] = ()
    ignored: tuple[tuple[str, str], ...] = ()
    stepwise: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """One pruning of a model of the class `model_class`: the heads removed, and how."""

    model_class: str
    heads: str
    sites: tuple[SitePlan, ...]

    def renamed(self, rename: Callable[[str], str]) -> "Plan":
        """Return the plan with the names of modules and parameters mapped to others."""
        return replace(self, sites=tuple(_renamed(site, rename) for site in self.sites))

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Plan":
        """Read what `to_dict` wrote; KeyError, TypeError or ValueError for anything else."""
        return cls(
            str(content["model_class"]), str(content["heads"]), tuple(map(_site, content["sites"]))
        )


def runs(indices: Iterable[int]) -> Runs:
    """Return entries as runs (first, length) of consecutive ones, or of -1 for zeros."""
    found = []
    # entries of one run have the same distance from their place; zeros count as one run
    for (_, zero), run in groupby(
        enumerate(map(int, indices)),
        lambda pair: (pair[1] == PAD or pair[1] - pair[0], pair[1] == PAD),
    ):
        members = [entry for _, entry in run]
        found.append((PAD if zero else members[0], len(members)))
    return tuple(found)


def entries(kept: Runs) -> np.ndarray:
    """Return the entries of runs, one by one; -1 for each zero."""
    parts = [
        np.full(length, PAD) if first == PAD else np.arange(first, first + length)
        for first, length in kept
    ]
    return np.concatenate(parts) if parts else np.arange(0)


def plans_of(config: Any) -> list[Plan]:
    """Return the plans in a model's configuration, in the order in which they were carried out.

    Raises `ModelError` where they are damaged, or written by a newer version of this package.
    """
    stored = getattr(config, KEY, None)
    if stored is None:
        return []
    damaged = ModelError(
        f"The configuration's {KEY!r} does not say how the model was pruned: expected what "
        f"save_pretrained writes for a model from lobes.prune. Save the model again."
    )
    try:
        version = int(stored["version"])
        if version > VERSION:
            raise ModelError(
                f"The model was pruned by a newer lobes (plan format {version}, this one reads up "
                f"to {VERSION}): upgrade lobes."
            )
        return [Plan.from_dict(step) for step in stored["steps"]]
    except ModelError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise damaged from error


def store(config: Any, plans: Iterable[Plan]) -> None:
    """Write plans into a model's configuration, from where `save_pretrained` saves them."""
    setattr(config, KEY, {"version": VERSION, "steps": [plan.to_dict() for plan in plans]})


def _renamed(site: SitePlan, rename: Callable[[str], str]) -> SitePlan:
    return replace(
        site,
        projection=rename(site.projection),
        cuts=tuple(replace(cut, parameter=rename(cut.parameter)) for cut in site.cuts),
        settings=tuple(replace(one, module=rename(one.module)) for one in site.settings),
        narrowings=tuple(replace(one, module=rename(one.module)) for one in site.narrowings),
        bypasses=tuple(
            replace(
                one,
                module=rename(one.module),
                readers=tuple((rename(reader), axes) for reader, axes in one.readers),
            )
            for one in site.bypasses
        ),
        tables=tuple(
            replace(one, module=rename(one.module), like=rename(one.like)) for one in site.tables
        ),
        ignored=tuple((rename(module), argument) for module, argument in site.ignored),
        stepwise=tuple(map(rename, site.stepwise)),
    )


def _site(content: Mapping[str, Any]) -> SitePlan:
    return SitePlan(
        projection=str(content["projection"]),
        slots=tuple(map(int, content["slots"])),
        head_dim=int(content["head_dim"]),
        counts=tuple((int(before), int(after)) for before, after in content["counts"]),
        cuts=tuple(
            Cut(str(c["parameter"]), int(c["axis"]), int(c["size"]), _runs(c["kept"], c["size"]))
            for c in content["cuts"]
        ),
        settings=tuple(
            Setting(str(c["module"]), str(c["name"]), int(c["value"])) for c in content["settings"]
        ),
        narrowings=tuple(
            Narrowing(
                str(c["module"]),
                c["argument"],
                int(c["axis"]),
                int(c["size"]),
                _runs(c["kept"], c["size"]),
            )
            for c in content["narrowings"]
        ),
        bypasses=tuple(
            Bypass(
                str(c["module"]),
                str(c["argument"]),
                int(c["width"]),
                tuple((str(reader), tuple(map(int, axes))) for reader, axes in c["readers"]),
            )
            for c in content["bypasses"]
        ),
        tables=tuple(
            Table(
                str(c["module"]), str(c["name"]), str(c["like"]), int(c["rows"]), int(c["columns"])
            )
            for c in content["tables"]
        ),
        ignored=tuple((str(module), str(argument)) for module, argument in content["ignored"]),
        stepwise=tuple(map(str, content["stepwise"])),
    )


def _runs(content: Iterable[Iterable[int]], size: int) -> Runs:
    """Runs of entries of an axis; ValueError where they are none of it, or too many to list.

    Some may stand there several times: grouped heads repeat their keys and values.
    """
    found = tuple((int(first), int(length)) for first, length in content)
    inside = all(
        first >= PAD and length >= 0 and (first == PAD or first + length <= size)
        for first, length in found
    )
    if not inside or max(size, sum(length for _, length in found)) > _LONGEST_AXIS:
        raise ValueError("entries outside the axis, or more than can be listed")
    return found
