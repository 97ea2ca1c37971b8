"""`files.json`: which files in a run's folder `lobes` wrote, and the SHA-256 of each.

Of a model's folder it holds the marker `training.json`, which lists that folder's files with their
digests in turn; of `checkpoints/` the file `seconds.json` only, since the checkpoints are gone when
the training is done. An entry is written before its file gets its name, so there is never a file of
`lobes` without one; a process killed in between leaves an old file that does not fit its entry,
and is made again. `run.lock` has no entry.

The file is written whole, which takes longer the more entries it has. So the measurements, of which
there may be thousands, are noted one by one at the end of `files.jsonl`, each with a digest of its
entry, until `files.json` is written the next time.
"""

import contextlib
import errno
import json
import logging
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

from lobes.errors import RunError
from lobes.files import SEAL, digest_of, fingerprint, inside, read_json, to_json, writing

NAME = "files.json"
JOURNAL = "files.jsonl"
SCHEMA = {"schema": "lobes-files", "version": 1}
MODEL_MARKER = "training.json"
PRUNED_MARKER = "pruning.json"
PAGES = ("report.html", "comparison.html", "transfer.html")  # `lobes report` writes them, too
RESULT_FILES = (
    "results.json",
    "importance.parquet",
    "predictions.parquet",
    "texts.parquet",
    "comparison.json",
    "transfer.json",
    *PAGES,
)
_MEASUREMENT = re.compile(r"measurements/.+-[0-9a-f]{16}\.parquet")
logger = logging.getLogger("lobes")


class Manifest:
    """The entries of one run's folder: {name: SHA-256}, None for one that is not known.

    A folder without the file (an older version wrote it) or with a damaged one is taken to hold
    what its names say.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, str | None] = {}
        self._lock = threading.RLock()  # several threads write files

    def load(self) -> None:
        """Read the entries."""
        found = read_entries(self.folder)
        if found is None and (self.folder / NAME).exists():
            logger.warning("%s is damaged; it is made again.", self.folder / NAME)
        self.files = dict.fromkeys(_by_name(self.folder)) if found is None else found
        if (self.folder / JOURNAL).exists():
            self._save()

    def expect(self, name: str) -> None:
        """Note that a worker is about to write `name`, whose content is not known yet."""
        with self._lock:
            self.files[name] = None
            self._save()

    def record(self, name: str, digest: str) -> None:
        """Note that `name` is about to be written, with this content."""
        with self._lock:
            self.files[name] = digest
            if _MEASUREMENT.fullmatch(name):
                self._append(name, digest)
            else:
                self._save()

    def forget(self, names: list[str]) -> None:
        """Note that these are removed."""
        with self._lock:
            known = [name for name in names if name in self.files]
            for name in known:
                del self.files[name]
            if known:
                self._save()

    def holds(self, name: str) -> bool:
        """Whether the file is there as it was written; warns where it is not as it was."""
        path = self.folder / name
        digest = self.files.get(name)
        if not path.is_file() or digest is None:
            return False
        if digest_of(path) != digest:
            logger.warning("%s is damaged; it is made again.", path)
            return False
        return True

    def _save(self) -> None:
        with writing(self.folder / NAME) as file:
            file.write(to_json({**SCHEMA, "files": self.files}, seal=True))
        # of the same entries; read again, should this be interrupted, it changes none of them
        (self.folder / JOURNAL).unlink(missing_ok=True)

    def _append(self, name: str, digest: str) -> None:
        entry = {"name": name, "digest": digest, SEAL: fingerprint(name, digest)}
        line = json.dumps(entry).encode() + b"\n"
        with open(self.folder / JOURNAL, "ab", buffering=0) as file:
            end = file.tell()
            try:
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except BaseException:
                with contextlib.suppress(OSError):
                    file.truncate(end)
                raise


def check_files(run: Path, *names: str) -> None:
    """Raise `RunError` where one of these files of a run's folder is not as `lobes` wrote it.

    A folder without `files.json` is not checked.
    """
    if not (run / NAME).exists():
        return
    files = read_entries(run)
    if files is None:
        raise RunError(f"{run / NAME} is damaged. {AGAIN}")
    for name in names:
        path, digest = run / name, files.get(name)
        if digest is not None and path.is_file() and digest_of(path) != digest:
            raise RunError(
                f"{path} is damaged: its SHA-256 is not the one in {NAME}, so it is not as lobes "
                f"wrote it. {AGAIN}"
            )


AGAIN = (
    "Run the study again (the same command and output): it continues where it was and makes "
    "damaged files again."
)


def read_entries(folder: Path) -> dict[str, str | None] | None:
    """Return the entries of a run's folder; None if there are none, or they are damaged."""
    added = _appended(folder)  # first: all that goes from here goes into the other file
    content = read_json(folder / NAME)
    if not isinstance(content, dict) or content.get("schema") != SCHEMA["schema"]:
        return None
    files = content.get("files")
    if added is None or not isinstance(files, dict):
        return None
    files |= added
    if not all(inside(folder, name) for name in files):
        return None
    return {name: each if isinstance(each, str) else None for name, each in files.items()}


def _appended(folder: Path) -> dict[str, str] | None:
    """The entries of `files.jsonl`, without a last line that was cut off; None if damaged."""
    try:
        *lines, _ = (folder / JOURNAL).read_bytes().split(b"\n")
        entries = [json.loads(line) for line in lines]
        found = {entry["name"]: entry["digest"] for entry in entries}
        whole = all(entry[SEAL] == fingerprint(entry["name"], entry["digest"]) for entry in entries)
        return found if whole else None
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _by_name(folder: Path) -> Iterator[str]:
    """What has the name of something that `lobes` writes."""
    yield from (name for name in ("config.json", *RESULT_FILES) if (folder / name).is_file())
    for path in (*folder.glob("measurements/*"), *folder.glob(f"model*/{MODEL_MARKER}")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and (_MEASUREMENT.fullmatch(name) or path.name == MODEL_MARKER):
            yield name
