"""Choose the heads of a smaller site, and the rows that they come from."""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lobes.pruning.plan import PAD
from lobes.sites import OwnedRows, Site


class Unfit(Exception):
    """Heads of a site own rows in a way that cannot be cut; the message says which."""


@dataclass(frozen=True)
class Rows:
    """Which entries of a parameter, along one axis, belong to which heads: bool [heads, length]."""

    parameter: str
    axis: int
    owners: np.ndarray

    @cached_property
    def own(self) -> np.ndarray:
        """[heads]: how many entries belong to each head alone."""
        return (self.owners & (self.owners.sum(0) == 1)).sum(1)

    @cached_property
    def grouped(self) -> np.ndarray:
        """[length]: entries of several heads, but not of all."""
        owners = self.owners.sum(0)
        return (owners > 1) & (owners < len(self.owners))


@dataclass(frozen=True)
class Anatomy:
    """The rows of a site's heads: each head's own, and those that a group of heads shares.

    `groups` are the heads that share rows (grouped-query attention), in order; where no rows are
    shared, or all heads share them, each head is a group of its own.
    """

    site: Site
    rows: tuple[Rows, ...]
    groups: tuple[tuple[int, ...], ...]

    @property
    def shares(self) -> bool:
        """Whether groups of several heads share rows."""
        return len(self.groups) < self.site.n_heads

    @property
    def group_size(self) -> int:
        """How many heads share rows."""
        return len(self.groups[0])


@dataclass(frozen=True)
class Arrangement:
    """The new heads of a site: `slots[j]` is an old head, or -1; each `per_group` share rows.

    Where the rows that stay can keep their old order, `held` are the old heads whose places the
    new ones have: those of the slots, and for each -1 one that goes.
    """

    slots: tuple[int, ...]
    per_group: int
    held: tuple[int, ...] | None = None

    @property
    def n_groups(self) -> int:
        """How many groups of heads share rows."""
        return len(self.slots) // self.per_group if self.per_group else 0


def anatomy(site: Site, lengths: dict[str, int]) -> Anatomy:
    """Read a site's row plan; `lengths` are its parameters' lengths along their axes.

    Raises `Unfit` where heads own different numbers of rows, or share them in different groups.
    """
    rows = tuple(rows_of(one, site.n_heads, lengths[one.parameter]) for one in site.rows)
    groups: set[tuple[int, ...]] = set()
    for one in rows:
        if (one.own != one.own[0]).any():
            raise Unfit(f"its heads own different numbers of rows of {one.parameter}")
        columns = np.unique(one.owners[:, one.grouped], axis=1).T
        groups |= {tuple(np.flatnonzero(column).tolist()) for column in columns}
    if not groups:
        return Anatomy(site, rows, tuple((head,) for head in range(site.n_heads)))
    ordered = tuple(sorted(groups))
    flat = [head for group in ordered for head in group]
    if flat != list(range(site.n_heads)) or len({len(group) for group in ordered}) > 1:
        raise Unfit("its heads share rows in groups that overlap or differ in size")
    return Anatomy(site, rows, ordered)


def rows_of(one: OwnedRows, n_heads: int, length: int) -> Rows:
    """Return the owners of every entry of a parameter along its axis, which is `length` long."""
    owners = np.zeros((n_heads, length), dtype=bool)
    for head in range(n_heads):
        owners[head, one.rows(head)] = True
    return Rows(one.parameter, one.axis, owners)


def arrangements(
    body: Anatomy, kept: Sequence[int], head_cost: int, group_cost: int
) -> Iterator[Arrangement]:
    """Yield ways to lay out the kept heads, the smallest first; none is larger than before.

    Where groups of heads share rows and lose different numbers of heads, shared rows are repeated
    for parts of a group, or heads of zeros fill the groups up, whichever is smaller: a head has
    `head_cost` numbers of its own, a group `group_cost`.
    """
    chosen, total = set(kept), body.site.n_heads
    if not body.shares:
        gone = [head for head in range(total) if head not in chosen]
        for pads in range(len(gone)):
            yield in_place(sorted([*kept, *gone[:pads]]), chosen, 1)
        return
    if not chosen:
        yield Arrangement((), body.group_size, ())
        yield in_place([0], chosen, 1)
        yield in_place(body.groups[0], chosen, body.group_size)
        return
    ways = []
    # Attention code knows one group size only. Smaller groups repeat shared rows, larger ones are
    # filled up with heads of zeros; which costs less depends on how many heads each group keeps.
    for size in range(1, body.group_size + 1):
        way = _grouped(body, chosen, size)
        cost = head_cost * len(way.slots) + group_cost * way.n_groups
        ways.append((cost, way.slots.count(PAD), way))
    limit = head_cost * total + group_cost * len(body.groups)
    for cost, _, way in sorted(ways, key=lambda way: way[:2]):
        if cost <= limit:
            yield way


def in_place(held: Sequence[int], chosen: Set[int], per_group: int) -> Arrangement:
    """Return the new heads in the places of `held`: the chosen ones, and zeros for the others."""
    slots = tuple(head if head in chosen else PAD for head in held)
    return Arrangement(slots, per_group, tuple(held))


def _grouped(body: Anatomy, chosen: Set[int], size: int) -> Arrangement:
    """Groups of `size` heads: old groups cut down or filled up, or old ones in several parts."""
    members = [[head for head in group if head in chosen] for group in body.groups]
    if all(len(group) <= size for group in members):
        held = []
        for group, own in zip(body.groups, members, strict=True):
            gone = [head for head in group if head not in chosen]
            held += sorted([*own, *gone[: size - len(own)]]) if own else []
        return in_place(held, chosen, size)
    slots: list[int] = []
    for own in members:
        # up to the next multiple of the group's size
        slots += [*own, *[PAD] * (-len(own) % size)]
    return Arrangement(tuple(slots), size)


def plain_rows(rows: Rows, way: Arrangement) -> np.ndarray:
    """Return the source of each entry of a parameter in the old order; -1 for zeros.

    Those of the heads held stay, and those of no head or of all; what belongs to none of the
    slots' heads is zero.
    """
    places = kept_rows(rows, way.held or ())
    slots = [slot for slot in way.slots if slot != PAD]
    owned = rows.owners[:, places]
    empty = owned.any(0) & ~owned[slots].any(0) & ~_common(rows)[places]
    return np.where(empty, PAD, places)


def _common(rows: Rows) -> np.ndarray:
    """[length]: entries of all heads."""
    shared = np.asarray(rows.owners.all(0))
    return shared if len(rows.owners) > 1 else np.zeros_like(shared)


def kept_rows(rows: Rows, kept: Sequence[int]) -> np.ndarray:
    """Return the entries that stay, in their old order: those of `kept` heads and of no head."""
    gone = np.setdiff1d(np.arange(len(rows.owners)), kept)
    lost = rows.owners[gone].any(0) & ~rows.owners[list(kept)].any(0) & ~_common(rows)
    return np.flatnonzero(~lost)


def new_length(rows: Rows, body: Anatomy, way: Arrangement) -> int:
    """Return the length of a parameter's axis in an arrangement."""
    own, grouped = int(rows.own[0]), int(rows.grouped.sum())
    rest = rows.owners.shape[1] - own * body.site.n_heads - grouped
    return rest + own * len(way.slots) + grouped // len(body.groups) * way.n_groups


def rows_by_slot(rows: Rows, found: Rows, way: Arrangement) -> np.ndarray:
    """Return the source of each entry of a rearranged parameter; -1 for zeros.

    `found` are the owners that were found in the new arrangement. A new head's entries come from
    the old head's, in order. Raises `Unfit` where they are not as many.
    """
    source = np.full(found.owners.shape[1], PAD)
    for slot, head in enumerate(way.slots):
        if head == PAD:
            continue
        new, old = np.flatnonzero(found.owners[slot]), np.flatnonzero(rows.owners[head])
        if len(new) != len(old):
            raise Unfit(f"rows of {rows.parameter} cannot be told apart when they are rearranged")
        source[new] = old
    free, unowned = (np.flatnonzero(~one.owners.any(0)) for one in (found, rows))
    if len(free) != len(unowned):
        raise Unfit(f"rows of {rows.parameter} cannot be told apart when they are rearranged")
    source[free] = unowned
    return source
