"""A number for each head: `HeadScores`, how heads are chosen by it, and its file.

Frozen values that know numpy only, as all of `lobes.heads`.
"""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from lobes.errors import ConfigError, HeadError
from lobes.files import near_path, read_json, to_json, writing
from lobes.heads import Head, HeadSet, shortened
from lobes.limits import FRACTION, SHARE_OF_HEADS, as_path, check_number
from lobes.shown import Shown

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
                f"{shortened(self.settings)}."
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
                f"dictionaries of these, not {shortened(self.settings)} ({error})."
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
            raise ConfigError(f"k is a number of heads from 0 to {self.total}, not {shortened(k)}.")
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
            f"Scores are an array of numbers [sites, heads], not {shortened(values)}."
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


def least_fraction(total: int) -> str:
    """Return the least fraction of so many heads that is one head, rounded up to three digits."""
    digit = 10.0 ** (math.floor(math.log10(1 / total)) - 2)
    return f"{math.ceil(round(1 / total / digit, 6)) * digit:.3g}"


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
