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
    """The number that a cell of text says, None where it says none.

    "001" and whole numbers of more than 18 digits are names: as numbers they would not be
    themselves. So is "1_1", which Python reads as 11. "nan" and "inf" are numbers, so that they
    are refused among numbers rather than made classes.
    """
    cell = cell.strip()
    if _WHOLE.fullmatch(cell):
        return int(cell)
    if _KEPT_AS_TEXT.fullmatch(cell):
        return None
    return float(cell) if _DECIMAL.fullmatch(cell) or _NOT_FINITE.fullmatch(cell) else None


def numbers_in(
    where: str, column: object, items: Sequence[str], names: Sequence[str]
) -> tuple[list[int] | list[float], bool] | None:
    """The labels as numbers, and whether they say true and false; None where they are names.

    They are names where one of them is a label name of the task as it stands, unless all of its
    names are whole numbers, which are taken by value. Raises DataError for lists and for decimal
    commas, which are no names of classes.
    """
    distinct = dict.fromkeys(items)
    by_value = all(_WHOLE.fullmatch(name) for name in names)
    if not distinct or not (by_value or distinct.keys().isdisjoint(names)):
        return None
    truths = {item: item.strip().casefold() for item in distinct}
    if set(truths.values()) <= {"false", "true"}:
        return [int(truths[item] == "true") for item in items], True
    found = {item: number_of(item) for item in distinct}
    if all(number is not None for number in found.values()):
        whole = all(isinstance(number, int) for number in found.values())
        numbers = [found[item] for item in items]
        return (numbers if whole else [float(n) for n in numbers if n is not None]), False  # type: ignore[return-value]
    if all(_LIST.fullmatch(item.strip()) for item in distinct):
        raise DataError(
            f"{where} has lists written as text in column {column!r}, such as {items[0]!r}: give "
            f"each label a column of 0 and 1, with label=(…), or use lists of JSON lines."
        )
    commas = [item for item in distinct if _DECIMAL_COMMA.fullmatch(item.strip())]
    if commas and all(item in commas or found[item] is not None for item in distinct):
        raise DataError(
            f"{where} has numbers with a decimal comma in column {column!r}, such as "
            f"{commas[0]!r}: write them with a point, or give the class names with labels=(…)."
        )
    return None


def folded(name: str) -> str:
    """A label name without the differences that nobody sees: blanks, case, forms of Unicode."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def check_spellings(where: str, column: object, items: Iterable[str]) -> None:
    """Raise DataError for labels that differ by blanks or case only, with how often each occurs."""
    counts = Counter(items)
    groups: dict[str, list[str]] = {}
    for name in counts:
        groups.setdefault(folded(name), []).append(name)
    for group in groups.values():
        if len(group) > 1:
            shown = ", ".join(f"{name!r} ({counts[name]} times)" for name in sorted(group))
            raise DataError(
                f"{where} has labels in column {column!r} that differ by blanks or case only: "
                f"{shown}; make them one with fold_labels=true (fold_labels=True in Python), or "
                f"name them as classes of their own with labels=(…)."
            )


def spellings(items: Iterable[str], names: Sequence[str] | None) -> dict[str, str]:
    """What each label becomes when those that differ by blanks or case only are made one.

    That is the task's name where there is such a one, else the most frequent spelling.
    """
    counts = Counter(items)
    chosen = {folded(name): name for name in names or ()}
    for name in sorted(counts, key=lambda name: (-counts[name], name)):
        chosen.setdefault(folded(name), " ".join(name.split()))
    return {name: chosen[folded(name)] for name in counts}


def places_of(
    where: str, own: Sequence[str], names: Sequence[str], *, tell: bool = True
) -> list[int | None]:
    """The place in the task's `names` of each class that the data have a name of their `own` for.

    By name where one set of names holds the other, in whatever order and spelling (None for a
    class that the task leaves out). As many other names take the places of the data's own, which
    is said in the log. Raises DataError where neither holds.
    """
    if tuple(own) == tuple(names):
        return list(range(len(names)))
    left, right = _loosely(own), _loosely(names)
    if set(left) <= set(right) or set(right) <= set(left):
        return [right.index(name) if name in right else None for name in left]
    if len(own) != len(names):
        raise DataError(
            f"{where} has {len(own)} classes, which it calls {listed(own)}, but the task has the "
            f"{len(names)} labels {listed(names)}: give labels=(…) with these names, or as many."
        )
    for place, name in enumerate(left):
        if name in right and right.index(name) != place:
            raise DataError(
                f"{where} calls its classes {listed(own)}, and the task has the labels "
                f"{listed(names)}: {own[place]!r} is in both, but in another place; give the same "
                f"names in any order, or new ones in the order of the data."
            )
    if tell:
        pairs = ", ".join(
            f"{old!r} is now {new!r}" for old, new in zip(own, names, strict=True) if old != new
        )
        logger.warning("%s: classes get other names by their order: %s.", where, pairs)
    return list(range(len(names)))


def _loosely(names: Sequence[str]) -> list[str]:
    """The names with "-" and "_" as blanks, too, unless that makes two the same."""
    found = [folded(re.sub("[-_]", " ", name)) or name for name in names]
    return found if len(set(found)) == len(found) else list(names)
