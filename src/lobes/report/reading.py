"""Read what a report is made from: results, comparisons, transfer studies, several runs."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lobes.errors import HeadError, RunError
from lobes.files import unsealed
from lobes.report.formatting import clean


@dataclass(frozen=True)
class Kind:
    """A kind of file: its schema and version, its name in a run's folder, the parts it must have.

    `noun` says what it is in a message, `run` what must have finished for it to exist.
    """

    schema: str
    version: int
    file: str
    noun: str
    run: str
    parts: Mapping[str, type]


RESULTS = Kind(
    schema="lobes-results",
    version=1,
    file="results.json",
    noun="a results file",
    run="run",
    parts={"model": dict, "tasks": list, "importance": list, "fractions": list, "iap": dict},
)
COMPARISON = Kind(
    schema="lobes-comparison",
    version=1,
    file="comparison.json",
    noun="a comparison",
    run="comparison",
    parts={
        "model": dict,
        "tasks": list,
        "seeds": list,
        "methods": list,
        "scores": dict,
        "summary": dict,
    },
)
TRANSFER = Kind(
    schema="lobes-transfer",
    version=1,
    file="transfer.json",
    noun="a transfer study",
    run="transfer study",
    parts={
        "model": dict,
        "sources": list,
        "task": dict,
        "fractions": list,
        "sizes": list,
        "seeds": list,
        "starts": list,
        "scores": dict,
        "summary": dict,
    },
)
RUNS = Kind(
    schema="lobes-runs",
    version=1,
    file="runs.json",
    noun="a summary of runs",
    run="summary of runs",
    parts={"runs": list, "tasks": list, "base": list, "fractions": list},
)


def read_results(path: str | Path) -> dict[str, Any]:
    """The content of a `results.json`; `path` is the file or the run's folder.

    Raises `RunError` as `read` does.
    """
    return read(path, RESULTS)


def check_results(content: object, where: str = "The results") -> dict[str, Any]:
    """Return the results, cleaned for display, or raise `RunError`: another schema or version."""
    return check(content, RESULTS, where)


def read(path: str | Path, kind: Kind) -> dict[str, Any]:
    """The content of a file of this kind; `path` is the file or the run's folder.

    Raises `RunError` when there is no such file, when it is damaged, when it is something else,
    or when a newer version of lobes wrote it.
    """
    path = Path(path)
    if path.is_dir():
        path = path / kind.file
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise RunError(
            f"There is no {path}: give the folder of a finished {kind.run}, or its {kind.file}."
        ) from None
    except OSError as error:
        raise RunError(f"Cannot read {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise RunError(f"{path} is damaged: it is not UTF-8 text. {_AGAIN}") from None
    try:
        content = unsealed(json.loads(text, parse_constant=lambda _: None))
    except json.JSONDecodeError as error:
        raise RunError(
            f"{path} is damaged: line {error.lineno} is not JSON ({error.msg}). {_AGAIN}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged: {error}. {_AGAIN}") from None
    return check(content, kind, str(path))


def check(content: object, kind: Kind, where: str) -> dict[str, Any]:
    """Return the content, cleaned for display, or raise `RunError`: another schema or version."""
    if not isinstance(content, dict) or content.get("schema") != kind.schema:
        raise RunError(f'{where} is not {kind.noun} of lobes: "schema" is not "{kind.schema}".')
    version = content.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise RunError(f"{where} is damaged: its version is {version!r}. {_AGAIN}")
    if version > kind.version:
        raise RunError(
            f"{where} has version {version}, newer than the {kind.version} that this lobes reads: "
            f"update lobes (pip install -U lobes)."
        )
    for part, expected in kind.parts.items():
        if not isinstance(content.get(part), expected):
            raise RunError(f'{where} is damaged: "{part}" is missing or broken. {_AGAIN}')
    cleaned = clean(content)
    assert isinstance(cleaned, dict)
    return cleaned


@contextmanager
def damage_named() -> Iterator[None]:
    """Turn what a missing or misshapen part raises inside the block into one clear `RunError`."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, HeadError) as error:
        detail = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise RunError(
            f"The results are damaged ({detail}): run the study again, it continues where it was."
        ) from error


_AGAIN = "Run the study again: it continues where it was and writes a new one."
