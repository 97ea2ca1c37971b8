"""Read `results.json`, the only thing a report is made from."""

import json
from pathlib import Path
from typing import Any

from lobes.errors import RunError
from lobes.report.words import clean

SCHEMA = "lobes-results"
VERSION = 1

_PARTS: dict[str, type | tuple[type, ...]] = {
    "model": dict,
    "tasks": list,
    "importance": list,
    "fractions": list,
    "iap": dict,
}


def read_results(path: str | Path) -> dict[str, Any]:
    """The content of a `results.json`; `path` is the file or the run's folder.

    Raises `RunError` when there is no such file, when it is damaged, when it is something else,
    or when a newer version of lobes wrote it.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "results.json"
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise RunError(
            f"There is no {path}: give the folder of a finished run, or its results.json."
        ) from None
    except OSError as error:
        raise RunError(f"Cannot read {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise RunError(f"{path} is damaged: it is not UTF-8 text. {_AGAIN}") from None
    try:
        content = json.loads(text, parse_constant=lambda _: None)
    except json.JSONDecodeError as error:
        raise RunError(
            f"{path} is damaged: line {error.lineno} is not JSON ({error.msg}). {_AGAIN}"
        ) from None
    return check_results(content, str(path))


def check_results(content: object, where: str = "The results") -> dict[str, Any]:
    """Return the results, cleaned for display, or raise `RunError`: another schema or version."""
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise RunError(f'{where} is not a results file of lobes: "schema" is not "{SCHEMA}".')
    version = content.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise RunError(f"{where} is damaged: its version is {version!r}. {_AGAIN}")
    if version > VERSION:
        raise RunError(
            f"{where} has version {version}, newer than the {VERSION} that this lobes reads: "
            f"update lobes (pip install -U lobes)."
        )
    for part, kind in _PARTS.items():
        if not isinstance(content.get(part), kind):
            raise RunError(f'{where} is damaged: "{part}" is missing or broken. {_AGAIN}')
    cleaned = clean(content)
    assert isinstance(cleaned, dict)
    return cleaned


_AGAIN = "Run the study again: it continues where it was and writes a new one."
