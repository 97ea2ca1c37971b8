"""The dotted keys of a study, such as `iap.controls`: what differs by them, and what is set."""

import re
import tomllib
from typing import Any

from lobes.config.settings import shown, with_name
from lobes.errors import ConfigError


def differences(first: Any, second: Any, prefix: str = "") -> list[str]:
    """Return the dotted keys in which two nested dictionaries differ, in order.

    >>> differences({"a": {"b": 1}}, {"a": {"b": 2}, "c": 3})
    ['a.b', 'c']
    """
    if isinstance(first, dict) and isinstance(second, dict):
        keys = [*first, *(key for key in second if key not in first)]
        return [
            found
            for key in keys
            for found in differences(first.get(key), second.get(key), f"{prefix}.{key}".strip("."))
        ]
    return [] if first == second else [prefix]


def set_value(data: dict[str, Any], setting: str) -> None:
    """Write one KEY=VALUE into the nested dictionaries of a study; `KEY=` takes a value out."""
    key, equals, text = setting.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(
            f"Cannot read the setting {shown(setting)}: expected KEY=VALUE, for example "
            f"iap.controls=20."
        )
    put(data, key, _toml_value(text.strip(), setting) if text.strip() else None, setting)


def put(data: dict[str, Any], key: str, value: Any, setting: str) -> None:
    """Write a value under a dotted key of a study's nested dictionaries; None takes it out.

    `setting` is what the user wrote, for the messages.
    """
    *tables, last = key.strip().split(".")
    table: Any = data
    for part in tables:
        table = _entry(table, part, setting)
    if not isinstance(table, dict):
        raise ConfigError(f"The setting {shown(setting)} names no key of a study.")
    if value is None:
        table.pop(last, None)
    else:
        table[last] = value


def _entry(table: Any, part: str, setting: str) -> Any:
    """One step down: into a table by its key, into the list of tasks by name or number."""
    if isinstance(table, dict):
        if table.get(part) is None:  # a table that the study leaves out
            table[part] = {}
        return table[part]
    if isinstance(table, list):
        table[:] = [with_name(entry) for entry in table]
        names = [entry.get("name") if isinstance(entry, dict) else None for entry in table]
        if part in names:
            return table[names.index(part)]
        if part.isdecimal() and int(part) < len(table):
            return table[int(part)]
        raise ConfigError(
            f"The setting {shown(setting)} names the task {shown(part)}; expected one of "
            f"{', '.join(str(name) for name in names)}."
        )
    raise ConfigError(f"The setting {shown(setting)} names no key of a study.")


def _toml_value(text: str, setting: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
        if list(parsed) == ["value"]:
            return parsed["value"]
    except (ValueError, RecursionError):
        if re.fullmatch(r"[^\s\"'\[\]{}=,]+", text):
            return text  # a plain word or path, which a shell would strip of its quotes
    raise ConfigError(
        f"Cannot read the value in the setting {shown(setting)}: expected TOML, for example "
        f"iap.fractions=[0.1,0.2]."
    )
