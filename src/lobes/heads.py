"""Attention heads as values: where they are, sets of them, and numbers attached to them.

Everything here is frozen and knows numpy only. A head is a pair (site, head), both from 0; sites
(`lobes.sites`) are numbered in the order of execution. `lobes.discovery` finds them in a model.
"""

import math
import operator
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from lobes.errors import ConfigError, HeadError
from lobes.files import near_path, read_json, to_json, writing
from lobes.limits import FRACTION, SHARE_OF_HEADS, as_path, check_number
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
                f"{_shown(heads)} is no iterable of pairs (site, head): HeadSet.of reads other "
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
        mean "ablate" or, as in transformers' `head_mask`, "keep".
        """
        if isinstance(heads, HeadSet):
            chosen = heads
        elif isinstance(heads, str):
            chosen = cls.parse(heads)
        elif isinstance(heads, Mapping):
            chosen = cls(_pairs(heads))
        elif hasattr(heads, "dtype") and hasattr(heads, "shape"):
            chosen = cls(_true_entries(heads, layout))
        elif isinstance(heads, Iterable) and not isinstance(heads, bytes):
            chosen = cls(heads)
        else:
            raise HeadError(f"{_shown(heads)} is no set of heads: expected {_FORMS}.")
        return chosen if layout is None else layout.check(chosen)

    @classmethod
    def parse(cls, text: str) -> "HeadSet":
        """Read `"0:1,5 3:2"`: heads 1 and 5 of site 0 and head 2 of site 3."""
        if not isinstance(text, str):
            raise HeadError(f'{_shown(text)} is no text such as "0:1,5 3:2".')
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
            f"is ablated or, as transformers' head_mask, that it is kept; give booleans, True for "
            f"the heads in the set (head_mask == 0), or pairs (array.tolist())."
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


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"A {type(value).__name__}"


# What a file of scores begins with, and what a short description of them says.
_FILE = {"schema": "lobes-head-scores", "version": 1}
_SHOWN = ("task", "method", "examples")


@dataclass(frozen=True, slots=True, eq=False)
class HeadScores(Shown):
    """A number for each head of a model.

    `values` has the shape [sites, heads]; where a site has fewer heads than the widest, the rest
    of its row is NaN. `settings` records how the numbers came about (task, method, …). `halves`
    [2, sites, heads] are the same scores from two random halves of the examples, where known.
    """

    values: Float[np.ndarray, "sites heads"]
    settings: Mapping[str, object] = field(default_factory=dict)
    halves: Float[np.ndarray, "two sites heads"] | None = None

    def __post_init__(self) -> None:
        values = _real(self.values)
        if not isinstance(self.settings, Mapping):
            raise HeadError(
                f"The settings of scores are a dictionary such as {{'task': 'mood'}}, not "
                f"{_shown(self.settings)}."
            )
        if values.ndim != 2:
            raise HeadError(f"Scores have the shape [sites, heads], not {values.shape}.")
        missing = np.isnan(values)
        hollow = missing[:, :1].any() or (missing[:, :-1] & ~missing[:, 1:]).any()
        if hollow or not values.size or np.isinf(values).any():
            raise HeadError(
                "Scores are finite numbers, one or more at each site, with NaN only after the last "
                "head of a site."
            )
        values.setflags(write=False)
        object.__setattr__(self, "values", values)
        if self.halves is not None:
            halves = _real(self.halves)
            if halves.shape != (2, *values.shape) or (np.isnan(halves) != missing).any():
                raise HeadError(
                    f"The scores of two halves of the examples have the shape [2, sites, heads] "
                    f"and numbers where the scores have some, not {halves.shape}."
                )
            halves.setflags(write=False)
            object.__setattr__(self, "halves", halves)

    @property
    def reliability(self) -> float:
        """How well random halves of the examples agree (docs/method.md#reliability): 1 is fully.

        Spearman's correlation of the two halves, stepped up to all examples by Spearman-Brown
        where it is positive; NaN where the halves are not known, or one is constant.
        """
        if self.halves is None:
            return math.nan
        ranks = np.array([average_ranks(half[~np.isnan(half)]) for half in self.halves])
        moved = ranks - ranks.mean(axis=1, keepdims=True)
        norm = float(np.sqrt((moved**2).sum(axis=1).prod()))
        if not norm:
            return math.nan
        r = float(moved[0] @ moved[1]) / norm
        return 2 * r / (1 + r) if r > 0 else r

    def __repr__(self) -> str:
        first = ", ".join(f"{site}:{head}" for site, head in self.ranked()[:3])
        about = [f"{key}={self.settings[key]!r}" for key in _SHOWN if key in self.settings]
        sites, heads = self.values.shape
        return f"HeadScores({', '.join([*about, f'{sites} × {heads}', f'highest {first}'])})"

    def __getitem__(self, head: Head) -> float:
        return float(self.values[head])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the scores to a JSON file, which `HeadScores.load` reads to the last digit.

        Raises `RunError` where the file cannot be written, and `HeadError` for settings that JSON
        cannot hold.
        """
        target = as_path("The file of scores", path, written=True)
        content = {"values": self.values, "halves": self.halves, "settings": dict(self.settings)}
        try:
            text = to_json({**_FILE, **content}, seal=True)
        except (TypeError, ValueError, RecursionError) as error:
            raise HeadError(
                f"The settings of scores that are saved are texts, numbers, and lists and "
                f"dictionaries of these, not {_shown(self.settings)} ({error})."
            ) from error
        with writing(target) as file:
            file.write(text)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "HeadScores":
        """Read the scores that `save` wrote; `HeadError` for any other file, or a damaged one."""
        source = as_path("The file of scores", path)
        if not os.path.exists(source):
            raise HeadError(f"There is no file {source}.{near_path(source)}")
        content = read_json(source)
        if not isinstance(content, dict) or {k: content.get(k) for k in _FILE} != _FILE:
            raise HeadError(
                f"{path} holds no scores of heads, or is damaged: expected a file that "
                f"HeadScores.save wrote."
            )
        settings, halves = content.get("settings"), content.get("halves")
        try:
            return cls(
                _numbers(content.get("values"), 2),
                settings if isinstance(settings, dict) else {},
                None if halves is None else _numbers(halves, 3),
            )
        except HeadError as error:
            raise HeadError(f"{path} is damaged. {error}") from error

    @property
    def total(self) -> int:
        """How many heads have a score."""
        return int(np.count_nonzero(~np.isnan(self.values)))

    def ranked(self, order: Literal["descending", "ascending"] = "descending") -> list[Head]:
        """Return all heads ordered by score over the whole model; ties go by (site, head)."""
        if order not in ("descending", "ascending"):
            raise ConfigError(f'order is "descending" or "ascending", not {order!r}.')
        sites, heads = np.nonzero(~np.isnan(self.values))
        keys = self.values[sites, heads]
        ranks = np.argsort(keys if order == "ascending" else -keys, kind="stable")
        return [(int(sites[i]), int(heads[i])) for i in ranks]

    def top(
        self, fraction: float | None = None, *, k: int | None = None, keep_per_site: int = 0
    ) -> HeadSet:
        """Return the most important heads: ⌊fraction · N⌋ of all N, or `k` of them.

        docs/method.md#lesions. With `keep_per_site` at least that many heads of every site stay
        out of the set: the next heads in the order take their place. Raises `ConfigError` unless
        one of `fraction` and `k` is given.
        """
        return self.select(fraction, k=k, order="descending", keep_per_site=keep_per_site)

    def bottom(
        self, fraction: float | None = None, *, k: int | None = None, keep_per_site: int = 0
    ) -> HeadSet:
        """Return the least important heads: ⌊fraction · N⌋ of all N, or `k` of them; see `top`."""
        return self.select(fraction, k=k, order="ascending", keep_per_site=keep_per_site)

    def select(
        self,
        fraction: float | None = None,
        *,
        k: int | None = None,
        order: Literal["descending", "ascending"] = "descending",
        keep_per_site: int = 0,
        given: HeadSet | None = None,
    ) -> HeadSet:
        """Return the first ⌊fraction · N⌋ heads in `order`, or `k`, those of `given` included."""
        number = self._number(fraction, k)
        room = {
            site: int(np.count_nonzero(~np.isnan(row))) - keep_per_site
            for site, row in enumerate(self.values)
        }
        chosen = list(given or ())
        for site, _ in chosen:
            room[site] -= 1
        for head in self.ranked(order):
            if len(chosen) >= number:
                break
            if head not in chosen and room[head[0]] > 0:
                chosen.append(head)
                room[head[0]] -= 1
        if len(chosen) < number:
            raise ConfigError(
                f"Cannot choose {number} of {self.total} heads and keep {keep_per_site} in each "
                f"of {len(room)} sites: choose fewer, or keep fewer."
            )
        return HeadSet(chosen)

    def _number(self, fraction: float | None, k: int | None) -> int:
        """How many heads a fraction of all of them is, or k."""
        if (fraction is None) == (k is None):
            raise ConfigError(
                "Give either a fraction of the heads, as in top(0.3), or their number, as in "
                "top(k=10)."
            )
        if fraction is not None:
            return head_count(fraction, self.total)
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 0 <= k <= self.total:
            raise ConfigError(f"k is a number of heads from 0 to {self.total}, not {_shown(k)}.")
        return int(k)

    def normalized(self) -> "HeadScores":
        """Return the scores with each site divided by its L2 norm (Michel et al. 2019)."""
        return HeadScores(
            _by_norm(self.values),
            {**self.settings, "normalize": "layer"},
            None if self.halves is None else _by_norm(self.halves),
        )


def _real(values: object) -> np.ndarray:
    """A copy as an array; `HeadError` for what is no real numbers."""
    try:
        found = np.array(values)
        if np.iscomplexobj(found):
            raise TypeError("complex numbers have no order")
        return found.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise HeadError(
            f"Scores are an array of numbers [sites, heads], not {_shown(values)}."
        ) from error


def _numbers(value: object, dimensions: int) -> np.ndarray:
    """What JSON has of an array: null where there is no number."""
    try:
        found = np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise HeadError("Its values are no array of numbers.") from error
    if found.ndim != dimensions:
        raise HeadError(f"Its values have {found.ndim} dimensions, not {dimensions}.")
    return found


def _by_norm(values: Float[np.ndarray, "*halves sites heads"]) -> np.ndarray:
    norms = np.sqrt(np.nansum(values**2, axis=-1, keepdims=True))
    return np.divide(values, norms, out=values.copy(), where=norms > 0)


def average_ranks(values: Float[np.ndarray, " heads"]) -> Float[np.ndarray, " heads"]:
    """Return the rank of every value from 1, equal values with the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[place]


def head_count(fraction: float, total: int) -> int:
    """Return ⌊fraction · total⌋, robust to binary rounding (0.3 · 10 is 3, not 2)."""
    check_number("fraction", fraction, SHARE_OF_HEADS)
    return int(np.floor(np.nextafter(fraction * total, np.inf)))


def check_fractions(fractions: float | Sequence[float]) -> tuple[float, ...]:
    """Return one fraction, or several in ascending order: 0 < p ≤ 1, no repeats.

    Raises `ConfigError` for anything else.
    """
    is_one = isinstance(fractions, str | bytes) or not isinstance(fractions, Iterable)
    several: Any = (fractions,) if is_one else fractions
    given = []
    for p in several:
        check_number("A lesion's fraction", p, FRACTION)
        given.append(float(p))
    if not given or len(set(given)) < len(given):
        raise ConfigError(f"Expected one or more different fractions, not {given}.")
    return tuple(sorted(given))
