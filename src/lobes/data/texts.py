"""The texts of many examples, stored as UTF-8 bytes instead of Python strings.

`Texts` is a sequence like any tuple of tuples of strings, but large ones are in a file, and a
selection of them is a list of places. Whatever goes through all of some texts takes slices of
them, `blocks`, so that few are in memory as strings at any time.
"""

import hashlib
import mmap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, SupportsIndex, overload

import numpy as np
from jaxtyping import Int, Shaped, UInt8

from lobes.data.cache import Spool

Rows = tuple[tuple[str, ...], ...]

# How many examples are looked at together.
BLOCK = 2048

# Half a character, which a Python string may hold, stays what it is.
_HALVES = "surrogatepass"


class Texts(Sequence[tuple[str, ...]]):
    """The texts of examples: `texts[i]` has one string for each text column.

    A slice is a tuple of such tuples, and `select` gives `Texts` that share the bytes of these.
    Equal to any sequence of the same tuples of strings.
    """

    __slots__ = ("_columns", "_places")
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self,
        columns: Sequence["_Column"],
        places: Int[np.ndarray, " examples"] | None = None,
    ) -> None:
        self._columns = tuple(columns)
        self._places = places

    @property
    def width(self) -> int:
        """How many strings each example has."""
        return len(self._columns)

    def __len__(self) -> int:
        return len(self._columns[0]) if self._places is None else len(self._places)

    @overload
    def __getitem__(self, index: SupportsIndex) -> tuple[str, ...]: ...

    @overload
    def __getitem__(self, index: slice) -> Rows: ...

    def __getitem__(self, index: SupportsIndex | slice) -> tuple[str, ...] | Rows:
        if not isinstance(index, slice):
            place = range(len(self))[index]
            return self[place : place + 1][0]
        if self._places is None:
            chosen = np.arange(*index.indices(len(self)))
        else:
            chosen = self._places[index]
        return tuple(zip(*(column.read(chosen) for column in self._columns), strict=True))

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        for block in blocks(self):
            yield from block

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str | bytes):
            return NotImplemented
        return len(self) == len(other) and all(
            tuple(own) == tuple(others)
            for own, others in zip(blocks(self), blocks(other), strict=True)
        )

    def __repr__(self) -> str:
        return f"Texts({len(self)} examples of {self.width})"

    def __reduce__(self) -> tuple[Any, ...]:
        return texts_of, (self[:], self.width)

    def select(self, places: Int[np.ndarray, " selected"]) -> "Texts":
        """Return the texts at `places`, in that order."""
        own = np.arange(len(self)) if self._places is None else self._places
        return Texts(self._columns, own[places])


class TextsWriter:
    """Makes `Texts` of columns that come in blocks."""

    def __init__(self, width: int) -> None:
        self._spools = [Spool() for _ in range(width)]
        self._lengths: list[list[np.ndarray]] = [[] for _ in range(width)]

    def append(self, columns: Sequence[Sequence[str]]) -> None:
        """Add examples at the end: for each column their strings."""
        for column, spool, lengths in zip(columns, self._spools, self._lengths, strict=True):
            encoded = [text.encode(errors=_HALVES) for text in column]
            spool.append(b"".join(encoded))
            lengths.append(np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded)))

    def finish(self) -> Texts:
        """Return all the texts; nothing can be appended after that."""
        return Texts(
            [
                _Column(spool.array(), _offsets(lengths))
                for spool, lengths in zip(self._spools, self._lengths, strict=True)
            ]
        )


class _Column:
    """Strings one after the other: string i is `data[offsets[i] : offsets[i + 1]]` in UTF-8."""

    __slots__ = ("_data", "_offsets")

    def __init__(
        self, data: UInt8[np.ndarray, " bytes"], offsets: Int[np.ndarray, " boundaries"]
    ) -> None:
        self._data, self._offsets = data, offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def read(self, places: Int[np.ndarray, " chosen"]) -> list[str]:
        """Return the strings at `places`, in that order."""
        if not len(places):
            return []
        starts, stops = self._offsets[places], self._offsets[places + 1]
        first, last = int(starts.min()), int(stops.max())
        if last - first > 4 * int((stops - starts).sum()) + mmap.PAGESIZE:  # far apart
            pairs = zip(starts.tolist(), stops.tolist(), strict=True)
            return [self._data[a:b].tobytes().decode(errors=_HALVES) for a, b in pairs]
        near = self._data[first:last].tobytes()
        self._forget(first, last)
        pairs = zip((starts - first).tolist(), (stops - first).tolist(), strict=True)
        return [near[a:b].decode(errors=_HALVES) for a, b in pairs]

    def _forget(self, first: int, last: int) -> None:
        """Let the system take back the pages of a mapped file, which are read once and in order."""
        mapped = getattr(self._data.base, "obj", None)
        if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            start = first - first % mmap.PAGESIZE
            mapped.madvise(mmap.MADV_DONTNEED, start, last - start)


def texts_of(rows: Iterable[tuple[str, ...]], width: int) -> Texts:
    """Return `Texts` of examples given as strings, `width` for each."""
    writer = TextsWriter(width)
    for block in blocks(tuple(rows)):
        writer.append(tuple(zip(*block, strict=True)))
    return writer.finish()


def blocks(texts: Sequence[Any], size: int = BLOCK) -> Iterator[Sequence[Any]]:
    """Yield slices of `size`, the last of which may be smaller."""
    return (texts[start : start + size] for start in range(0, len(texts), size))


def digest(texts: Sequence[tuple[str, ...]]) -> str:
    """Return a SHA-256 over texts: the same for the same strings, however they are stored."""
    whole = hashlib.sha256()
    for block in blocks(texts):
        strings = [text.encode(errors=_HALVES) for example in block for text in example]
        sizes = [[len(example) for example in block], [len(text) for text in strings]]
        for part in sizes:
            whole.update(np.array([len(part), *part], dtype="<i8").tobytes())
        whole.update(b"".join(strings))
    return whole.hexdigest()


def number_texts(texts: Sequence[tuple[str, ...]]) -> Int[np.ndarray, " examples"]:
    """Return a number per example, the same for equal texts, from 0 in order of first appearance.

    A pair (a, b) equals (b, a).
    """
    return number_equal(
        b"\xff".join(text.encode(errors=_HALVES) for text in sorted(example))  # no byte of UTF-8
        for block in blocks(texts)
        for example in block
    )


def number_equal(values: Iterable[bytes]) -> Int[np.ndarray, " values"]:
    """Return a number per value, the same for equal ones, from 0 in order of first appearance.

    Values are told apart by digests of 128 bits, so that they need not be kept.
    """
    digests = bytearray()
    for value in values:
        digests += hashlib.blake2b(value, digest_size=16).digest()
    _, first, number = np.unique(
        np.frombuffer(digests, dtype="S16"), return_index=True, return_inverse=True
    )
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[number]


def _offsets(lengths: Sequence[Shaped[np.ndarray, " _"]]) -> Int[np.ndarray, " boundaries"]:
    return np.cumsum(np.concatenate([np.zeros(1, np.int64), *lengths]), dtype=np.int64)
