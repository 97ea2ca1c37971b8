"""Files that are whole or absent, and one sentence for what goes wrong on the way to the disk.

A file comes into being under a temporary name in the same folder, is flushed to the disk, and
takes its name in one step.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from lobes.errors import LobesError, RunError

TEMPORARY = ".lobes-tmp-"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_IN_WORDS = (
    "no space left",
    "quota exceeded",
    "file too large",
    "pytorchstreamwriter failed",  # torch.save, which does not say why; so does the next
    "inline_container",
)


@contextlib.contextmanager
def writing(target: Path) -> Iterator[IO[bytes]]:
    """A binary file that becomes `target` when the block ends, and nothing if it fails."""
    temporary = target.with_name(TEMPORARY + target.name)
    with disk_faults(target):
        try:
            target.parent.mkdir(exist_ok=True)
            temporary.unlink(missing_ok=True)
            with open(temporary, "xb") as file:  # through no link that lies there
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(target.parent)


@contextlib.contextmanager
def writing_folder(target: Path, record: Mapping[str, Any], marker: str) -> Iterator[Path]:
    """A folder that becomes `target` when the block ends, with the file `marker` written last.

    `marker` holds `record` and the sizes of the folder's files: `read_folder` knows by it that
    the folder is whole, and `remove_folder` what may be removed.
    """
    temporary = target.with_name(TEMPORARY + target.name)
    with disk_faults(target):
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            yield temporary
            mark_folder(temporary, record, marker)
            remove_folder(target, marker)
            os.replace(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _sync_folder(target.parent)


def mark_folder(folder: Path, record: Mapping[str, Any], marker: str) -> None:
    """Flush the folder's files to the disk, then write `marker`: `record` and their sizes."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / marker:
            with open(path, "rb") as file:
                os.fsync(file.fileno())
            files[path.relative_to(folder).as_posix()] = path.stat().st_size
    with writing(folder / marker) as file:
        file.write(to_json({**record, "files": files}))


def read_folder(folder: Path, marker: str) -> dict[str, Any] | None:
    """What `mark_folder` was given, or None if the folder is not there or not whole."""
    record = read_json(folder / marker)
    if not isinstance(record, dict) or not isinstance(record.get("files"), dict):
        return None
    for name, size in record.pop("files").items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            return None
    return record


def remove_folder(folder: Path, marker: str) -> None:
    """Remove the files that `marker` lists, then each folder that nothing else is in."""
    record = read_json(folder / marker) or {}
    folders = {folder}
    for name in [*record.get("files", {}), marker]:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            continue  # not written by us: nothing outside the folder is ever removed
        (folder / name).unlink(missing_ok=True)
        folders |= {folder / parent for parent in Path(name).parents}
    for path in sorted(folders, reverse=True):  # what is inside a folder comes before it
        with contextlib.suppress(OSError):
            path.rmdir()


def remove(path: Path) -> None:
    """Remove a file or a folder with everything in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_json(path: Path) -> Any | None:
    """Read a JSON file; None where it is missing, damaged, or no file (a pipe would wait)."""
    try:
        return json.loads(path.read_bytes()) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return None


def to_json(value: Any) -> bytes:
    """`value` as JSON; arrays become lists and NaN becomes null."""
    return json.dumps(plain(value), ensure_ascii=False, indent=1, allow_nan=False).encode()


def plain(value: Any) -> Any:
    """`value` with arrays and tuples as lists, numpy numbers as Python's, NaN as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def fingerprint(*parts: bytes | str | np.ndarray) -> str:
    """A SHA-256 over the parts, each with its length, so that no two lists of parts agree."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            data = f"{part.dtype}{part.shape}".encode() + np.ascontiguousarray(part).tobytes()
        else:
            data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


@contextlib.contextmanager
def disk_faults(path: Path) -> Iterator[None]:
    """Turn what goes wrong on the way to the disk into one sentence.

    Libraries written in other languages report a full disk in the text of their own errors.
    """
    try:
        yield
    except LobesError:
        raise
    except Exception as error:
        if not (isinstance(error, OSError) and error.errno) and not _says_full(error):
            raise
        raise RunError(_disk_sentence(path, error)) from error


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _says_full(error: BaseException) -> bool:
    text = str(error).lower()
    return any(words in text for words in FULL_IN_WORDS)


def _disk_sentence(path: Path, error: BaseException) -> str:
    number = getattr(error, "errno", None)
    if number in FULL or _says_full(error):
        return (
            f"The disk is full: cannot write {path}; make room, then run the same command again "
            f"and it continues."
        )
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{path} may not be written; choose another output or change its permissions."
    return f"Cannot write {path}: {first_line(error)}."


def first_line(error: BaseException) -> str:
    """What an error says, without its number and its end of line."""
    text = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")
