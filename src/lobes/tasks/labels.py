"""What labels mean, whatever kind of file they come from.

The cells of CSV and TSV are text, those of JSON lines and Parquet may be. Text that is a number in
every row is a number, true and false are two classes, and all else are names. Names that differ by
blanks or case only are refused or folded. Data that know the names of their classes are matched
with the names of the task.
"""

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from lobes.errors import DataError
from lobes.tasks.columns import listed

logger = logging.getLogger("lobes")

TRUTH = ("False", "True")

_WHOLE = re.compile(r"[+-]?(0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)
_KEPT_AS_TEXT = re.compile(r"[+-]?(0[0-9].*|[0-9]{19,})", re.DOTALL)
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")
_LIST = re.compile(r"\[.*\]", re.DOTALL)


def number_of(cell: str) -> int | float | None:
    """Return the number that a cell of text stands for, None where it is a name.

    "001" and whole numbers of more than 18 digits are names, since a number would not give their
    spelling back. So is "1_1", which Python reads as 11. "nan" and "inf" are numbers, so that they
    are refused among numbers and do not become classes.
    """
    cell = cell.strip()
    if _WHOLE.fullmatch(cell):
        return int(cell)
    if _KEPT_AS_TEXT.fullmatch(cell):
        return None
    return float(cell) if _DECIMAL.fullmatch(cell) or _NOT_FINITE.fullmatch(cell) else None


def numbers_in(
    column: object, items: Sequence[str], names: Sequence[str]
) -> tuple[dict[str, int] | dict[str, float], bool] | None:
    """Return the number that each text label stands for, and whether they are true and false.

    None where the labels are names. They are where one of them is a label name of the task as it
    stands, unless all of its names are whole numbers, which are taken by value. Raises DataError
    for lists and for decimal commas, which are no names of classes.
    """
    distinct = dict.fromkeys(items)
    by_value = all(_WHOLE.fullmatch(name) for name in names)
    if not distinct or not (by_value or distinct.keys().isdisjoint(names)):
        return None
    truths = {item: item.strip().casefold() for item in distinct}
    if set(truths.values()) <= {"false", "true"}:
        return {item: int(truth == "true") for item, truth in truths.items()}, True
    found = {item: number_of(item) for item in distinct}
    numbers = {item: number for item, number in found.items() if number is not None}
    if len(numbers) == len(distinct):
        whole = {item: number for item, number in numbers.items() if isinstance(number, int)}
        if len(whole) == len(distinct):
            return whole, False
        return {item: float(number) for item, number in numbers.items()}, False
    if all(_LIST.fullmatch(item.strip()) for item in distinct):
        raise DataError(
            f"has lists written as text in column {column!r}, such as {items[0]!r}: give each "
            f"label a column of 0 and 1, with label=(…), or use lists of JSON lines."
        )
    commas = [item for item in distinct if _DECIMAL_COMMA.fullmatch(item.strip())]
    if commas and all(item in commas or item in numbers for item in distinct):
        raise DataError(
            f"has numbers with a decimal comma in column {column!r}, such as {commas[0]!r}: "
            f"write them with a point, or give the class names with labels=(…)."
        )
    return None


def folded(name: str) -> str:
    """A label name with its blanks, its case and its form of Unicode made uniform."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def check_spellings(column: object, items: Iterable[str]) -> None:
    """Raise DataError for labels that differ by blanks or case only, with how often each occurs."""
    counts = Counter(items)
    groups: dict[str, list[str]] = {}
    for name in counts:
        groups.setdefault(folded(name), []).append(name)
    for group in groups.values():
        if len(group) > 1:
            shown = ", ".join(f"{name!r} ({counts[name]} times)" for name in sorted(group))
            raise DataError(
                f"has labels in column {column!r} that differ by blanks or case only: "
                f"{shown}; make them one with fold_labels=true (fold_labels=True in Python), or "
                f"name them as classes of their own with labels=(…)."
            )


def spellings(items: Iterable[str], names: Sequence[str] | None) -> dict[str, str]:
    """Return the one spelling for each label, where some differ by blanks or case only.

    That is the task's name where there is such a one, else the most frequent spelling.
    """
    counts = Counter(items)
    chosen = {folded(name): name for name in names or ()}
    for name in sorted(counts, key=lambda name: (-counts[name], name)):
        chosen.setdefault(folded(name), " ".join(name.split()))
    return {name: chosen[folded(name)] for name in counts}


def places_of(
    own: Sequence[str], names: Sequence[str], *, told_of: str | None = None
) -> list[int | None]:
    """Return the place in the task's `names` of each class that the data name in `own`.

    By name where one set of names holds the other, in whatever order and spelling (None for a
    class that the task leaves out). As many other names rename the classes in their order; with
    `told_of`, the place for the message, the log says so. Raises DataError where neither holds.
    """
    if tuple(own) == tuple(names):
        return list(range(len(names)))
    left, right = _loosely(own), _loosely(names)
    if set(left) <= set(right) or set(right) <= set(left):
        return [right.index(name) if name in right else None for name in left]
    if len(own) != len(names):
        raise DataError(
            f"has {len(own)} classes, which it calls {listed(own)}, but the task has the "
            f"{len(names)} labels {listed(names)}: give labels=(…) with these names, or as many."
        )
    for place, name in enumerate(left):
        if name in right and right.index(name) != place:
            raise DataError(
                f"calls its classes {listed(own)}, and the task has the labels {listed(names)}: "
                f"{own[place]!r} is in both, but in another place; give the same names in any "
                f"order, or new ones in the order of the data."
            )
    if told_of is not None:
        pairs = ", ".join(
            f"{old!r} is now {new!r}" for old, new in zip(own, names, strict=True) if old != new
        )
        logger.warning("%s: classes get other names by their order: %s.", told_of, pairs)
    return list(range(len(names)))


def _loosely(names: Sequence[str]) -> list[str]:
    """The names with "-" and "_" as blanks, too, unless that makes two the same."""
    found = [folded(re.sub("[-_]", " ", name)) or name for name in names]
    return found if len(set(found)) == len(found) else list(names)
