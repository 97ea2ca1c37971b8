"""Settings as labeled facts: nested values as one list that a reader can scan."""

import json
from collections.abc import Mapping
from typing import Any

from lobes.report import formatting as fmt
from lobes.report.sections import Fact, Prose, Section, Settings
from lobes.results.base import Record


def section(titled: Mapping[str, object], note: str = "") -> Section:
    """The page's last section: a list for each title whose settings hold anything, under `note`.

    A `note` says what the settings do not, such as that the model was not trained.
    """
    found = ((title, flat(value)) for title, value in titled.items())
    shown = Settings(tuple((title, facts) for title, facts in found if facts))
    blocks = (Prose(note), shown) if note else (shown,)
    return Section(
        "settings", "Settings and versions", blocks, "Settings", asks="How was it measured?"
    )


def durations(times: Mapping[str, Any] | None) -> dict[str, str]:
    """{label: seconds} as {label: text}, without what was not done."""
    known = {label: fmt.number(seconds) for label, seconds in (times or {}).items()}
    return {label: fmt.duration(seconds) for label, seconds in known.items() if seconds != 0}


def flat(value: object, prefix: str = "") -> tuple[Fact, ...]:
    """Nested settings as one list, `iap.controls` → `20`; lists of plain values on one line.

    Settings that nobody set (null, or an empty list or table) are left out.
    """
    if value is None or value == [] or value == {}:
        return ()
    if isinstance(value, Record):
        value = value.to_dict()
    if isinstance(value, dict):
        items = [(f"{prefix}.{key}" if prefix else str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        items = [(f"{prefix}.{index}", item) for index, item in enumerate(value)]
    else:
        return (Fact(prefix, plain(value)),) if prefix else ()
    return tuple(fact for label, item in items for fact in flat(item, label))


def plain(value: object) -> str:
    """One value as text: `yes`, `0.3`, `0, 1, 2`, `–` for null."""
    if value is None:
        return fmt.UNDEFINED
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ", ".join(plain(item) for item in value) or fmt.UNDEFINED
    return json.dumps(value, ensure_ascii=False)
