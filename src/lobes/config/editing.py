"""Change numbers in a study file in place, keeping comments and layout."""

import re
import tomllib
from collections.abc import Mapping

from lobes.config.keys import set_value
from lobes.errors import ConfigError


def edited(text: str, changes: Mapping[str, int], source: str) -> str:
    """Return a study file's text with values changed: {"iap.controls": 39}.

    A key that is there keeps its line and the comment on it; another comes below its table's
    header, or with a new table at the end. `training.steps` takes the place of `training.epochs`.
    Raises `ConfigError` where the result would not be the file with just these values changed, as
    where a table is written in one line.
    """
    expected = tomllib.loads(text.removeprefix("\ufeff"))
    lines = text.splitlines(keepends=True)
    for key, value in changes.items():
        table, _, name = key.rpartition(".")
        if key == "training.steps":
            _remove(lines, table, "epochs")
            set_value(expected, "training.epochs=")
        _put(lines, table, name, str(value))
        set_value(expected, f"{key}={value}")
    found = "".join(lines)
    try:
        same = tomllib.loads(found.removeprefix("\ufeff")) == expected
    except ValueError:
        same = False
    if not same:
        options = " ".join(f"--set {key}={value}" for key, value in changes.items())
        raise ConfigError(
            f"{source} is written in a way that cannot be changed in place; change it by hand, or "
            f"run it with {options}."
        )
    return found


def _put(lines: list[str], table: str, name: str, value: str) -> None:
    start, end = _table(lines, table)
    place = _place(lines, start, end, name)
    if place is not None:
        lines[place] = re.sub(r"(=[ \t]*)[^\s#]+", rf"\g<1>{value}", lines[place], count=1)
        return
    ending = "\r\n" if any(line.endswith("\r\n") for line in lines) else "\n"
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += ending
    if start is None:
        lines += [ending, f"[{table}]{ending}"]
        start = len(lines) - 1
    lines.insert(start + 1, f"{name} = {value}{ending}")


def _remove(lines: list[str], table: str, name: str) -> None:
    place = _place(lines, *_table(lines, table), name)
    if place is not None:
        del lines[place]


def _place(lines: list[str], start: int | None, end: int, name: str) -> int | None:
    """The line of a key within a table."""
    if start is None:
        return None
    key = re.compile(rf"\s*{re.escape(name)}\s*=")
    return next((place for place in range(start + 1, end) if key.match(lines[place])), None)


def _table(lines: list[str], name: str) -> tuple[int | None, int]:
    """The line of a table's header, None without one, and where the next table begins."""
    header = re.compile(rf"\s*\[\s*{re.escape(name)}\s*\]\s*(#.*)?$")
    start = next((place for place, line in enumerate(lines) if header.match(line)), None)
    if start is None:
        return None, len(lines)
    after = range(start + 1, len(lines))
    return start, next((place for place in after if re.match(r"\s*\[", lines[place])), len(lines))
