"""Texts that come from data and files, made safe to show."""

import unicodedata
from collections.abc import Mapping
from typing import Any

_PLAIN = frozenset({float, int, bool, type(None)})
_DIRECTION = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def clean(value: object) -> Any:
    """A copy of a JSON value whose strings hold nothing that disturbs a page or a terminal.

    Control characters (but not line breaks and tabs), lone surrogates and changes of the text's
    direction become `�`: an escape sequence in a task's name must not color the terminal.
    """
    if isinstance(value, str):
        if value.isprintable():
            return value
        return "".join("\ufffd" if _disturbs(letter) else letter for letter in value)
    if isinstance(value, Mapping):
        return {clean(key): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [item if type(item) in _PLAIN else clean(item) for item in value]
    return value


def _disturbs(letter: str) -> bool:
    if letter in "\n\t":
        return False
    return letter in _DIRECTION or unicodedata.category(letter) in ("Cc", "Cs")
