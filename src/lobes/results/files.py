"""Read and write files of results: the one boundary at which they are validated."""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from lobes.clean import clean
from lobes.errors import HeadError, RunError
from lobes.files import SEAL, near_path, to_json, unsealed
from lobes.results.base import Results
from lobes.results.over_seeds import ComparisonResults, TransferResults
from lobes.results.pooled import PooledResults
from lobes.results.run import RunResults
from lobes.results.sweep import SweepResults

Kind = TypeVar("Kind", bound=Results)

KINDS: tuple[type[Results], ...] = (
    RunResults,
    ComparisonResults,
    TransferResults,
    PooledResults,
    SweepResults,
)
_AGAIN = "Run the study again: it continues where it was and writes a new one."


def read(path: str | Path, kind: type[Kind]) -> Kind:
    """Read a file of results; `path` is the file or the folder that holds it.

    Raises `RunError` when there is no such file, when it is damaged, when it is something else, or
    when another version of lobes wrote it.
    """
    path = given = Path(path)
    if path.is_dir():
        path = path / kind.FILE
    if path.exists() and not path.is_file():  # a pipe would wait for somebody to write
        raise RunError(f"Cannot read {path}: it is no file.")
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise RunError(
            f"There is no {path}: give the folder of a finished {kind.RUN}, or its {kind.FILE}."
            f"{near_path(given)}"
        ) from error
    except OSError as error:
        raise RunError(f"Cannot read {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise RunError(f"{path} is damaged: it is not UTF-8 text. {_AGAIN}") from error
    try:
        raw = json.loads(text, parse_constant=lambda _: None)
        content = unsealed(raw)
    except json.JSONDecodeError as error:
        if path.suffix != ".json":  # a page or a study, given in its place
            raise RunError(
                f"{path} is not {kind.NOUN} of lobes: give the folder of a finished {kind.RUN}, or "
                f"its {kind.FILE}."
            ) from error
        raise RunError(
            f"{path} is damaged: line {error.lineno} is not JSON ({error.msg}). {_AGAIN}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged: {error}. {_AGAIN}") from error
    return checked(content, kind, str(path), whole=isinstance(raw, dict) and SEAL in raw)


def checked(
    content: object, kind: type[Kind], where: str = "This content", *, whole: bool = False
) -> Kind:
    """Validate the content of a file of results, and clean its texts for display.

    Results that are validated already are returned as they are. Raises `RunError`, which begins
    with `where`, as `read` does. `whole` content is as it was written: if it does not fit, another
    version of lobes wrote it.
    """
    if isinstance(content, kind):
        return content
    schema = kind.schema_name()
    if not isinstance(content, dict) or content.get("schema") != schema:
        raise RunError(f'{where} is not {kind.NOUN} of lobes: "schema" is not "{schema}".')
    version = content.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise RunError(f"{where} is damaged: its version is {version!r}. {_AGAIN}")
    if version > kind.VERSION:
        raise RunError(
            f"{where} has version {version}, newer than the {kind.VERSION} that this lobes reads: "
            f"update lobes (pip install -U lobes)."
        )
    if version < kind.VERSION:
        raise RunError(
            f"{where} has version {version}, and this lobes reads version {kind.VERSION}: run the "
            f"study again, it keeps what was measured and writes the new version."
        )
    try:
        return kind.model_validate(clean(content))
    except ValidationError as error:
        if whole:
            raise RunError(
                f"{where} was written by another version of lobes than this one: {_fault(error)}. "
                f"Run the study again, in a new folder if this one is refused."
            ) from error
        raise RunError(f"{where} is damaged: {_fault(error)}. {_AGAIN}") from error
    except (HeadError, RecursionError) as error:
        raise RunError(f"{where} is damaged: {error} {_AGAIN}") from error


def _fault(error: ValidationError) -> str:
    """The first fault, by its place: `"fractions.0.scores" expected numbers in 2 dimensions`."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ").splitlines()[0].rstrip(".")
    return f'"{place}": {message[:1].lower()}{message[1:]}' if place else message


def content_of(results: Results) -> dict[str, Any]:
    """The results as plain values, as they stand in the file."""
    content = results.to_dict()
    return {"schema": content.pop("schema"), **content}


def as_bytes(results: Results) -> bytes:
    """The content of the file: JSON with a digest of itself."""
    return to_json(content_of(results), seal=True)


def schemas() -> dict[str, Any]:
    """The JSON schemas of all kinds of results, by file name."""
    return {kind.FILE: kind.model_json_schema(by_alias=True) for kind in KINDS}
