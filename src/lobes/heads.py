"""Attention heads as values: where they are, sets of them, and numbers attached to them.

Everything here is frozen and knows numpy only. A head is a pair (site, head), both from 0; sites
(`lobes.sites`) are numbered in the order of execution. `lobes.discovery` finds them in a model.
"""

import operator
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from lobes.errors import HeadError
from lobes.shown import Shown
from lobes.sites import Site

Head = tuple[int, int]
Heads = Iterable[Any]  # what `HeadSet.of` reads: a HeadSet, a text, {site: heads}, pairs, an array


@dataclass(frozen=True, slots=True)
class HeadLayout(Shown):
    """All attention heads of a model: a sequence of its sites in the order of execution.

    `len(layout)` is the number of sites, `layout[3]` a site, and `(3, 2) in layout` says whether
    the model has this head; `all_heads` lists the heads.
    """

    sites: tuple[Site, ...]

    def __repr__(self) -> str:
        sizes = [f"{site.n_heads} heads of {site.head_dim}" for site in self.sites]
        runs = [f"{len(list(run))} × {size}" for size, run in groupby(sizes)]
        some = runs if len(runs) < 4 else [*runs[:2], "…", runs[-1]]
        return f"HeadLayout({len(self)} sites, {self.total} heads: {', '.join(some)})"

    def __len__(self) -> int:
        return len(self.sites)

    def __iter__(self) -> Iterator[Site]:
        return iter(self.sites)

    def __getitem__(self, index: int) -> Site:
        return self.sites[index]

    @property
    def total(self) -> int:
        """How many heads the model has, over all sites."""
        return sum(site.n_heads for site in self.sites)

    @property
    def shape(self) -> tuple[int, int]:
        """[sites, heads of the widest site]: the shape of an array with a value for each head."""
        return len(self.sites), max((site.n_heads for site in self.sites), default=0)

    def sharing(self, site: int) -> tuple[int, ...]:
        """Return the other sites that read the same parameters as this one (tied layers)."""
        own = {owned.parameter for owned in self.sites[site].rows}
        return tuple(
            other.index
            for other in self.sites
            if other.index != site and not own.isdisjoint(row.parameter for row in other.rows)
        )

    def __contains__(self, head: object) -> bool:
        return head in self.sites or head in self.all_heads()

    def check(self, heads: "HeadSet") -> "HeadSet":
        """Return `heads` unchanged, or raise `HeadError` naming the first that does not exist."""
        for site, head in heads:
            if site >= len(self.sites):
                raise HeadError(
                    f"Head {site}:{head} does not exist: the model has {len(self.sites)} sites, "
                    f"0 to {len(self.sites) - 1}."
                )
            n_heads = self.sites[site].n_heads
            if head >= n_heads:
                raise HeadError(
                    f"Head {site}:{head} does not exist: site {site} ({self.sites[site].name}) "
                    f"has {n_heads} heads, 0 to {n_heads - 1}."
                )
        return heads

    def all_heads(self) -> "HeadSet":
        """Return the set of all heads of the model."""
        return HeadSet((site.index, head) for site in self.sites for head in range(site.n_heads))

    def random(self, counts: Mapping[int, int] | int, generator: np.random.Generator) -> "HeadSet":
        """Draw heads without replacement.

        `counts` is a number of heads for each site ({site: number}, for controls matched by
        site) or one number for the whole model (matched in total).
        """
        if isinstance(counts, int):
            everything = self.all_heads().heads
            chosen = generator.choice(len(everything), size=counts, replace=False)
            return HeadSet(everything[i] for i in chosen)
        return HeadSet(
            (site, int(head))
            for site, number in counts.items()
            for head in generator.choice(self.sites[site].n_heads, size=number, replace=False)
        )


@dataclass(frozen=True, slots=True, init=False)
class HeadSet:
    """A set of heads: frozen, hashable, in the order (site, head).

    `HeadSet([(0, 1), (3, 2)])`, or `HeadSet.parse("0:1,5 3:2")`; `str()` writes what `parse`
    reads. `|`, `&`, `-`, `^`, `<=` are those of sets.
    """

    heads: tuple[Head, ...] = ()

    def __init__(self, heads: Iterable[Any] = ()) -> None:
        pairs = set()
        if isinstance(heads, str | bytes) or not isinstance(heads, Iterable):
            raise HeadError(
                f"{shortened(heads)} is no iterable of pairs (site, head): HeadSet.of reads other "
                f"forms, HeadSet.parse text."
            )
        for item in heads:
            try:
                site, head = item
            except (TypeError, ValueError) as error:
                raise HeadError(
                    f"{item!r} is not a head: expected a pair (site, head) such as (3, 2)."
                ) from error
            pair = _index(site), _index(head)
            if pair[0] is None or pair[1] is None:
                raise HeadError(f"{item!r} is not a head: site and head are integers from 0.")
            pairs.add(pair)
        object.__setattr__(self, "heads", tuple(sorted(pairs)))

    @classmethod
    def of(cls, heads: Heads, layout: HeadLayout | None = None) -> "HeadSet":
        """Return the set of heads that `heads` says, in any form that can mean one thing only.

        A `HeadSet`; the text that `parse` reads; `{site: heads}`; pairs (site, head); or a
        boolean array or tensor [sites, heads], True for the heads in the set. With a `layout`
        every head must exist in it, and an array must have its shape.
        Raises `HeadError` for anything else, such as a mask of the numbers 0 and 1, where 1 may
        mean "ablate" or, as in transformers' `head_mask`, "keep": `from_head_mask` reads those.
        """
        if isinstance(heads, HeadSet):
            chosen = heads
        elif isinstance(heads, str):
            chosen = cls.parse(heads)
        elif isinstance(heads, Mapping):
            chosen = cls(_pairs(heads))
        elif hasattr(heads, "ranked"):  # scores, which do not say how many heads are meant
            raise HeadError(
                f"{shortened(heads)} has a score for every head, and no set of heads: choose some, "
                f"as in scores.top(0.3) or scores.bottom(k=10)."
            )
        elif hasattr(heads, "dtype") and hasattr(heads, "shape"):
            chosen = cls(_true_entries(heads, layout))
        elif isinstance(heads, Iterable) and not isinstance(heads, bytes):
            chosen = cls(heads)
        else:
            raise HeadError(f"{shortened(heads)} is no set of heads: expected {_FORMS}.")
        return chosen if layout is None else layout.check(chosen)

    @classmethod
    def from_head_mask(cls, mask: Any, layout: HeadLayout | None = None) -> "HeadSet":
        """Return the heads that a `head_mask` of transformers 4 removes: those where it is 0.

        `mask` holds 1 for a head that is kept and 0 for one that is removed, [layers, heads]; or
        [heads], for all layers alike, which takes the `layout` of the model. With a layout the
        mask must have its shape. Raises `HeadError` for other numbers and shapes.
        """
        if layout is not None and not isinstance(layout, HeadLayout):
            raise HeadError(f"layout is what lobes.find_heads returned, not {shortened(layout)}.")
        table = _numbers(mask)
        if table is None or not np.isin(table, (0, 1)).all():
            raise HeadError(
                f"{shortened(mask)} is no head_mask: expected 1 for each head that is kept and 0 "
                f"for each that is removed; lobes.ablate(model, factors=mask) takes other numbers."
            )
        if table.ndim == 1 and layout is not None:
            table = np.tile(table, (len(layout), 1))
        if table.ndim != 2 or (layout is not None and table.shape != layout.shape):
            expected = "[layers, heads]" if layout is None else f"{list(layout.shape)}, or [heads]"
            raise HeadError(
                f"A head_mask of the shape {list(table.shape)} does not fit: expected {expected}"
                f"{'; for [heads] give the layout, too' if layout is None else ''}."
            )
        found = cls(np.argwhere(table == 0).tolist())
        return found if layout is None else found & layout.all_heads()

    @classmethod
    def parse(cls, text: str) -> "HeadSet":
        """Read `"0:1,5 3:2"`: heads 1 and 5 of site 0 and head 2 of site 3."""
        if not isinstance(text, str):
            raise HeadError(f'{shortened(text)} is no text such as "0:1,5 3:2".')
        pairs: list[Head] = []
        for part in text.split():
            match = re.fullmatch(r"(\d+):(\d+(?:,\d+)*)", part)
            if match is None:
                raise HeadError(
                    f"Cannot read {part!r} in the head set {text!r}: expected SITE:HEAD,HEAD … "
                    f'separated by blanks, for example "0:1,5 3:2".'
                )
            pairs += [(int(match[1]), int(head)) for head in match[2].split(",")]
        return cls(pairs)

    def __str__(self) -> str:
        return " ".join(
            f"{site}:{','.join(map(str, heads))}" for site, heads in self.by_site().items()
        )

    def __repr__(self) -> str:
        return f"HeadSet.parse({str(self)!r})"

    def __iter__(self) -> Iterator[Head]:
        return iter(self.heads)

    def __len__(self) -> int:
        return len(self.heads)

    def __contains__(self, head: object) -> bool:
        return head in self.heads

    def __or__(self, other: "HeadSet") -> "HeadSet":
        return HeadSet(set(self.heads) | set(other.heads))

    def __and__(self, other: "HeadSet") -> "HeadSet":
        return HeadSet(set(self.heads) & set(other.heads))

    def __sub__(self, other: "HeadSet") -> "HeadSet":
        return HeadSet(set(self.heads) - set(other.heads))

    def __xor__(self, other: "HeadSet") -> "HeadSet":
        return HeadSet(set(self.heads) ^ set(other.heads))

    def __le__(self, other: "HeadSet") -> bool:
        return set(self.heads) <= set(other.heads)

    def by_site(self) -> dict[int, tuple[int, ...]]:
        """Return {site: its heads} in ascending order, without the sites that have no head."""
        sites: dict[int, list[int]] = {}
        for site, head in self.heads:
            sites.setdefault(site, []).append(head)
        return {site: tuple(heads) for site, heads in sites.items()}

    def counts(self) -> dict[int, int]:
        """Return {site: number of its heads in the set}."""
        return {site: len(heads) for site, heads in self.by_site().items()}


def head_sets(heads: Heads, layout: HeadLayout) -> list[HeadSet]:
    """Return one set of heads for a whole batch, or, from a list of sets, one for each example.

    Each may have any form that `HeadSet.of` reads. Raises `HeadError` as that does.
    """
    if isinstance(heads, list | tuple) and heads and all(map(_is_set, heads)):
        return [HeadSet.of(one, layout) for one in heads]
    return [HeadSet.of(heads, layout)]


def _is_set(value: object) -> bool:
    """Whether an entry of a list is a set of heads, and not one head, (site, head)."""
    if isinstance(value, HeadSet | str | Mapping | set | frozenset):
        return True
    if hasattr(value, "dtype"):
        return len(getattr(value, "shape", ())) == 2
    return isinstance(value, list | tuple) and all(isinstance(one, list | tuple) for one in value)


_FORMS = (
    'a HeadSet, a text such as "0:1,2 3:0", {0: [1, 2], 3: [0]}, pairs [(0, 1), (3, 0)], or a '
    "boolean array [sites, heads] with True for the heads in the set (HeadSet() is the empty set)"
)


def _index(number: Any) -> int | None:
    """An integer from 0 as such; None for anything else, also for True and for 1.0."""
    if isinstance(number, bool | np.bool_):
        return None
    try:
        found = operator.index(number)
    except TypeError:
        return None
    return found if found >= 0 else None


def _pairs(by_site: Mapping[Any, Any]) -> Iterator[tuple[Any, Any]]:
    for site, heads in by_site.items():
        if isinstance(site, tuple):
            raise HeadError(
                f"{{{site!r}: {shortened(heads)}}} is no set of heads: write the heads of each "
                f"site, as in {{0: [1, 2]}}; lobes.ablate takes numbers for heads as factors=…."
            )
        if isinstance(heads, str) or not isinstance(heads, Iterable):
            raise HeadError(
                f"{heads!r} stands for the heads of site {site!r}: expected a list of them, such "
                f"as {{0: [1, 2]}}."
            )
        yield from ((site, head) for head in heads)


def _true_entries(mask: Any, layout: HeadLayout | None) -> list[tuple[int, int]]:
    """(site, head) of the entries of a boolean array or tensor [sites, heads] that are True."""
    kind, shape = str(mask.dtype).removeprefix("torch."), tuple(mask.shape)
    if kind != "bool":
        raise HeadError(
            f"An array of {kind} is no set of heads: a mask of numbers may mean by 1 that a head "
            f"is ablated or, as transformers' head_mask, that it is kept; give "
            f"HeadSet.from_head_mask(mask), where 1 keeps, booleans, True for the heads in the "
            f"set, or pairs (array.tolist())."
        )
    wanted = shape if layout is None else layout.shape
    if len(shape) != 2 or shape != wanted:
        expected = "two axes, [sites, heads]" if layout is None else f"the shape {list(wanted)}"
        raise HeadError(
            f"A boolean array of the shape {list(shape)} is no set of heads of this model: "
            f"expected {expected}, True for the heads in the set."
        )
    table = mask.detach().cpu().numpy() if hasattr(mask, "detach") else np.asarray(mask)
    return [(int(site), int(head)) for site, head in np.argwhere(table)]


def _numbers(mask: Any) -> np.ndarray | None:
    """A mask as an array of numbers; None for anything else, such as rows of different lengths."""
    try:
        # a list, since numpy has no bfloat16
        table = np.asarray(mask.tolist() if hasattr(mask, "detach") else mask)
    except (TypeError, ValueError, RuntimeError):
        return None
    return table if table.dtype.kind in "biuf" else None


def shortened(value: object) -> str:
    """A value as a message shows it; of a long one only its type."""
    text = repr(value)
    return text if len(text) <= 40 else f"A {type(value).__name__}"
