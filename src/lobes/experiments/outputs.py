"""What a command may write over: one rule for `--to`, `--html`, `--figures` and `--output`.

lobes replaces a file only where it knows the file as its own: by the SHA-256 in the `files.json`
beside it, or as one of its pages or results by how it begins. Links, pipes and devices stay as
they are. Commands that write a whole folder (`export --to`, `prune --to`) or one file of data
(`ag-pair`) take a place where nothing is, or with `--fresh` what they wrote there themselves.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from lobes.errors import RunError
from lobes.experiments.manifest import NAME, Manifest, read_entries
from lobes.files import check_replaceable, digest_of, disk_faults, read_json, writing
from lobes.report.page import is_page


class OutputFolder:
    """A folder that a command writes files into, which may be any folder of the user's.

    Raises `RunError` where one of the files `names`, or `files.json`, is there and not of lobes;
    nothing is written then. The folder and its `files.json` come into being with the first file.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        if folder.exists() and not folder.is_dir():
            raise RunError(f"{folder} is a file; expected a folder to write into, or none yet.")
        for name in (*names, NAME):
            check_output(folder / name)
        self.folder = folder
        self._manifest = Manifest(folder)
        self._manifest.files = read_entries(folder) or {}

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """Yield a binary file that becomes `name` when the block ends, unless it fails."""
        with disk_faults(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)

        def record(whole: Path) -> None:
            self._manifest.record(name, digest_of(whole))

        with writing(self.folder / name, record) as file:
            yield file


def check_page(path: Path) -> None:
    """Raise `RunError` for what is no page of lobes, be it another file of its own."""
    _check(path, is_page)


def check_record(path: Path, schema: str) -> None:
    """Raise `RunError` for what is no JSON of lobes with this `schema`."""
    _check(path, lambda there: _schema_of(there) == schema)


def check_output(path: Path) -> None:
    """Raise `RunError` for what lobes did not write, or what was changed since."""
    _check(path, _is_ours)


def _check(path: Path, is_ours: Callable[[Path], bool]) -> None:
    check_replaceable(path)
    if path.exists() and not is_ours(path):
        raise RunError(
            f"{path} exists, and it is not as lobes wrote it: give another place, or remove it "
            f"first."
        )


def _is_ours(path: Path) -> bool:
    recorded = (read_entries(path.parent) or {}).get(path.name)
    if recorded is not None and digest_of(path) == recorded:
        return True
    if path.suffix == ".json":
        return _schema_of(path).startswith("lobes-")
    return is_page(path)


def _schema_of(path: Path) -> str:
    content = read_json(path)
    return str(content.get("schema", "")) if isinstance(content, dict) else ""
