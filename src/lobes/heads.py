"""Attention heads as values: where they are, sets of them, and numbers attached to them.

Everything here is frozen and knows numpy only. A head is a pair (site, head), both from 0; sites
are numbered in the order of execution. `lobes.discovery` finds the sites inside a model.
"""

import math
import operator
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from lobes.errors import ConfigError, HeadError
from lobes.limits import FRACTION, SHARE_OF_HEADS, check_number

Head = tuple[int, int]
Heads = Iterable[Any]  # what `HeadSet.of` reads: a HeadSet, a text, {site: heads}, pairs, an array
Attention = Literal["multi-head", "grouped-query", "multi-query", "low-rank", "unknown"]


@dataclass(frozen=True, slots=True)
class OwnedRows:
    """The slices of one parameter that belong to the heads of a site.

    `ranges[h]` are head h's half-open index ranges along `axis` of the parameter called
    `parameter` (axis 0 for `torch.nn.Linear`, 1 for the transposed `Conv1D`; a bias has axis 0).
    Two heads that share rows (grouped-query attention) list the same ranges.
    """

    parameter: str
    axis: int
    ranges: tuple[tuple[tuple[int, int], ...], ...]

    def rows(self, head: int) -> Int[np.ndarray, " rows"]:
        """Return the indices that head `head` owns along `axis`, ascending."""
        spans = [np.arange(start, stop) for start, stop in self.ranges[head]]
        return np.concatenate(spans) if spans else np.arange(0)

    def owners(self) -> Bool[np.ndarray, "heads rows"]:
        """Return which heads own which indices along `axis`, up to the last owned index."""
        stops = [stop for ranges in self.ranges for _, stop in ranges]
        owners = np.zeros((len(self.ranges), max(stops, default=0)), dtype=bool)
        for head in range(len(self.ranges)):
            owners[head, self.rows(head)] = True
        return owners


@dataclass(frozen=True, slots=True)
class Site:
    """One attention block: the place whose output projection mixes `n_heads` heads.

    The input of the module `projection` is the concatenation of the heads' contexts, head-major:
    its last dimension is `n_heads * head_dim` long and `[h * head_dim : (h + 1) * head_dim]` is
    head h. `rows` are the rows of the query, key and value projections that each head owns.
    `prunable` says that nothing known speaks against cutting those rows to remove exactly that
    head (`lobes.prune` tries it out); if not, `reason` says why.
    `gateable` says whether they are all that the head has, so that it can be trained alone (IAT);
    if not, `gate_reason` says why.
    `batch_axis` is the axis of the input of `projection` along which the examples of a batch lie,
    one after the other (with their windows or positions, where these share the axis); None where
    the examples are mixed, so that only one set of heads for the whole batch can be ablated.
    `beside_attention` says, where it is not empty, that the contexts hold more than attention (a
    query or a local term that is added): `ablate` takes that away too, and so does more than
    setting the heads' attention probabilities to 0.
    """

    index: int
    name: str
    projection: str
    n_heads: int
    head_dim: int
    kind: Literal["self", "cross"]
    rows: tuple[OwnedRows, ...] = ()
    prunable: bool = True
    reason: str = ""
    gateable: bool = True
    gate_reason: str = ""
    batch_axis: int | None = 0
    beside_attention: str = ""

    @property
    def width(self) -> int:
        """The length of the concatenated contexts, `n_heads * head_dim`."""
        return self.n_heads * self.head_dim

    @property
    def attention(self) -> Attention:
        """The kind of attention, told by which heads share `rows`; "unknown" where there are none.

        Groups of heads share keys and values in "grouped-query" attention, all heads do in
        "multi-query". In "low-rank" (multi-head latent) attention all share a small part of their
        keys, while each has values of its own. A norm across heads is no kind of its own.
        """
        if not self.rows:
            return "unknown"
        own, common, groups = self._sharing()
        if len(groups) < self.n_heads:
            return "grouped-query"
        if self.n_heads == 1 or not common or common > 3 * own:
            return "multi-head"
        # all heads share a key and a value, beside the query that each has; or part of a key
        return "multi-query" if common > own else "low-rank"

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """The heads by whom they share keys and values with: ((0, 1), (2, 3)) in two groups.

        In multi-head and low-rank attention every head is alone, in multi-query all are together.
        """
        if self.attention == "multi-query":
            return (tuple(range(self.n_heads)),)
        return self._sharing()[2]

    def _sharing(self) -> tuple[float, int, tuple[tuple[int, ...], ...]]:
        """Rows that each head has alone and that all share; the heads by those they share with."""
        alone = common = 0
        together = np.eye(self.n_heads, dtype=bool)
        for owned in self.rows:
            owners = owned.owners()
            number = owners.sum(axis=0)
            alone += int((number == 1).sum())
            common += int((number == self.n_heads).sum())
            for some in np.unique(owners[:, (number > 1) & (number < self.n_heads)], axis=1).T:
                together[np.ix_(some, some)] = True
        groups = dict.fromkeys(tuple(np.flatnonzero(row).tolist()) for row in together)
        return alone / self.n_heads, common, tuple(groups)


@dataclass(frozen=True, slots=True)
class HeadLayout:
    """All attention heads of a model: its sites in the order of execution."""

    sites: tuple[Site, ...]

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

    def __iter__(self) -> Iterator[Head]:
        for site in self.sites:
            for head in range(site.n_heads):
                yield site.index, head

    def __contains__(self, head: object) -> bool:
        return isinstance(head, tuple) and head in set(self)

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
        return HeadSet(self)

    def random(self, counts: Mapping[int, int] | int, generator: np.random.Generator) -> "HeadSet":
        """Draw heads without replacement.

        `counts` is a number of heads for each site ({site: number}, for controls matched by
        site) or one number for the whole model (matched in total).
        """
        if isinstance(counts, int):
            everything = list(self)
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


@dataclass(frozen=True, slots=True, eq=False)
class HeadScores:
    """A number for each head of a model.

    `values` has the shape [sites, heads]; where a site has fewer heads than the widest, the rest
    of its row is NaN. `settings` records how the numbers came about (task, method, …). `halves`
    [2, sites, heads] are the same scores from two random halves of the examples, where known.
    """

    values: Float[np.ndarray, "sites heads"]
    settings: Mapping[str, object] = field(default_factory=dict)
    halves: Float[np.ndarray, "two sites heads"] | None = None

    def __post_init__(self) -> None:
        try:
            values = np.array(self.values, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise HeadError(
                f"Scores are an array of numbers [sites, heads], not {_shown(self.values)}."
            ) from error
        if values.ndim != 2:
            raise HeadError(f"Scores have the shape [sites, heads], not {values.shape}.")
        missing = np.isnan(values)
        hollow = missing[:, :1].any() or (missing[:, :-1] & ~missing[:, 1:]).any()
        if hollow or np.isinf(values).any():
            raise HeadError(
                "Scores are finite numbers, one or more at each site, with NaN only after the last "
                "head of a site."
            )
        values.setflags(write=False)
        object.__setattr__(self, "values", values)
        if self.halves is not None:
            halves = np.array(self.halves, dtype=np.float64)
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

    def __getitem__(self, head: Head) -> float:
        return float(self.values[head])

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

    def top(self, fraction: float, *, keep_per_site: int = 0) -> HeadSet:
        """Return the ⌊fraction · N⌋ most important of all N heads (docs/method.md#lesions).

        With `keep_per_site` at least that many heads of every site stay out of the set: the next
        heads in the order take their place.
        """
        return self.select(fraction, order="descending", keep_per_site=keep_per_site)

    def bottom(self, fraction: float, *, keep_per_site: int = 0) -> HeadSet:
        """Return the ⌊fraction · N⌋ least important of all N heads; see `top`."""
        return self.select(fraction, order="ascending", keep_per_site=keep_per_site)

    def select(
        self,
        fraction: float,
        *,
        order: Literal["descending", "ascending"] = "descending",
        keep_per_site: int = 0,
        given: HeadSet | None = None,
    ) -> HeadSet:
        """Return the first ⌊fraction · N⌋ heads in `order`, those of `given` included."""
        number = head_count(fraction, self.total)
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
                f"of {len(room)} sites: lower the fraction {fraction:g} or the heads kept."
            )
        return HeadSet(chosen)

    def normalized(self) -> "HeadScores":
        """Return the scores with each site divided by its L2 norm (Michel et al. 2019)."""
        return HeadScores(
            _by_norm(self.values),
            {**self.settings, "normalize": "layer"},
            None if self.halves is None else _by_norm(self.halves),
        )


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
