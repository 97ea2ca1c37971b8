"""Write files and folders so that they are complete or absent, and check them by digests.

A file comes into being under a temporary name in the same folder, is flushed to the disk, and
takes its name in one step; a folder does the same, and what had its name before is removed only
after that. Nothing is written or removed through a link.
"""

import contextlib
import difflib
import errno
import hashlib
import json
import logging
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np

from lobes.errors import LobesError, RunError, first_line

TEMPORARY = ".lobes-tmp-"
REPLACED = ".lobes-old-"
SEAL = "sha256"  # the key of a JSON file's digest of itself
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_IN_WORDS = (
    "no space left",
    "quota exceeded",
    "file too large",
    "pytorchstreamwriter failed",  # torch.save, which does not say why; so does the next
    "inline_container",
)
logger = logging.getLogger("lobes")


@contextlib.contextmanager
def writing(
    target: Path, before_naming: Callable[[Path], None] | None = None
) -> Iterator[IO[bytes]]:
    """Yield a binary file that becomes `target` when the block ends, unless it fails.

    `before_naming` is called with the whole file just before it gets its name.
    """
    temporary = target.with_name(TEMPORARY + target.name)
    with disk_faults(target):
        try:
            target.parent.mkdir(exist_ok=True)
            temporary.unlink(missing_ok=True)
            with open(temporary, "xb") as file:  # "x" follows no link
                yield file
                file.flush()
                os.fsync(file.fileno())
            if before_naming is not None:
                before_naming(temporary)
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(target.parent)


@contextlib.contextmanager
def whole_folder(
    target: Path,
    marker: str | None = None,
    before_naming: Callable[[Path], None] | None = None,
) -> Iterator[Path]:
    """Yield a folder that becomes `target` when the block ends, unless it fails.

    Its files get the rights that any new file gets. What is at `target` survives until the new
    folder is there; then the files that its `marker` lists are removed, and the rest is set aside.
    """
    temporary = target.with_name(TEMPORARY + target.name)
    with disk_faults(target):
        restore(target, marker)
        try:
            remove(temporary)
            temporary.mkdir()
            yield temporary
            _settle(temporary)
            if before_naming is not None:
                before_naming(temporary)
            if os.path.lexists(target):
                os.replace(target, target.with_name(REPLACED + target.name))
            os.replace(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            restore(target, marker)
            raise
        _sync_folder(target.parent)
        restore(target, marker)


@contextlib.contextmanager
def beside(target: Path) -> Iterator[Path]:
    """Yield the path of a file or folder to make, which becomes `target` when the block ends.

    For caches, which several processes may fill at the same time: each makes its own. A file
    replaces the one that is there, a folder gives way to the one that was there first.
    """
    scratch = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=target.parent))
    made = scratch / target.name
    try:
        yield made
        if made.is_dir():
            with contextlib.suppress(OSError):
                os.rename(made, target)
        else:
            os.replace(made, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def remove_at_once(folder: Path) -> None:
    """Remove a folder that other processes may read: for them it is whole, then gone."""
    away = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=folder.parent))
    try:
        os.rename(folder, away / folder.name)  # fails where another process was first
    finally:
        shutil.rmtree(away, ignore_errors=True)


def restore(target: Path, marker: str | None = None) -> None:
    """Put back what a killed `whole_folder` was replacing, or remove it where that was done."""
    old = target.with_name(REPLACED + target.name)
    if not os.path.lexists(old):
        return
    if not os.path.lexists(target):
        os.replace(old, target)
        return
    if marker is not None:
        remove_folder(old, marker)
    with contextlib.suppress(OSError):
        old.rmdir()
    if os.path.lexists(old):
        set_aside(old, target)


def set_aside(path: Path, name: Path | None = None) -> Path:
    """Rename what `lobes` did not write to `name.aside`, say so, and return where it is."""
    base, number = name or path, 1
    while os.path.lexists(
        aside := base.with_name(f"{base.name}.aside{f'-{number}' * (number > 1)}")
    ):
        number += 1
    os.replace(path, aside)
    logger.warning("%s held what lobes did not write; that is in %s now.", base, aside)
    return aside


@contextlib.contextmanager
def writing_folder(
    target: Path,
    record: Mapping[str, Any],
    marker: str,
    before_naming: Callable[[Path], None] | None = None,
) -> Iterator[Path]:
    """Yield a folder that becomes `target` when the block ends, `marker` written into it last.

    `marker` holds `record`, and the size and the SHA-256 of the folder's files: `read_folder`
    knows by it that the folder is whole, and `remove_folder` what may be removed.
    """

    def finish(folder: Path) -> None:
        mark_folder(folder, record, marker)
        if before_naming is not None:
            before_naming(folder)

    with whole_folder(target, marker, finish) as folder:
        yield folder


def mark_folder(folder: Path, record: Mapping[str, Any], marker: str) -> None:
    """Write `marker` into the folder: `record`, and the size and the SHA-256 of each file."""
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, SEAL: digest_of(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / marker
    }
    with writing(folder / marker) as file:
        file.write(to_json({**record, "files": files}, seal=True))


def read_folder(folder: Path, marker: str) -> dict[str, Any] | None:
    """Return what `mark_folder` was given, or None if the folder is not there or not whole."""
    record = read_json(folder / marker)
    if not isinstance(record, dict) or not isinstance(record.get("files"), dict):
        return None
    for name, file in record.pop("files").items():
        path = folder / name
        known = file if isinstance(file, dict) else {"bytes": file}  # sizes were all once
        if not path.is_file() or path.stat().st_size != known.get("bytes"):
            return None
        if SEAL in known and known[SEAL] != digest_of(path):
            return None
    return record


def remove_folder(folder: Path, marker: str) -> None:
    """Remove the files that `marker` lists, then each folder that nothing else is in.

    Does nothing where the folder is a link.
    """
    record = read_json(folder / marker) or {}
    if folder.is_symlink() or not isinstance(record.get("files", {}), dict):
        return
    remove_files(folder, [*record.get("files", {}), marker])


def remove_files(folder: Path, names: Iterator[str] | list[str]) -> None:
    """Remove these files of a folder, then each folder in it that nothing else is in, and itself.

    Leaves what lies outside the folder, or behind a link in it.
    """
    folders = {folder}
    for name in names:
        path = inside(folder, name)
        if path is None or (path.is_dir() and not path.is_symlink()):
            continue
        path.unlink(missing_ok=True)
        folders |= {folder / parent for parent in PurePosixPath(name).parents}
    for path in sorted(folders, reverse=True):  # what is inside a folder comes before it
        with contextlib.suppress(OSError):
            path.rmdir()


def inside(folder: Path, name: str) -> Path | None:
    """Return where the file `name` of a folder is; None if that is elsewhere, or behind a link."""
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts:
        return None
    if any((folder / parent).is_symlink() for parent in list(parts.parents)[:-1]):
        return None
    return folder / name


def check_replaceable(path: Path) -> None:
    """Raise `RunError` for a link, folder, pipe or device in the place of a file to write."""
    if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
        kind = "link" if path.is_symlink() else "folder" if path.is_dir() else "pipe or device"
        raise RunError(
            f"{path} is a {kind}, which lobes does not replace: give the name of a plain file, or "
            f"of none yet."
        )


def remove(path: Path) -> None:
    """Remove a file or a folder with everything in it; of a link, the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def equal_rights(paths: list[Path], folder: Path) -> None:
    """Give files the rights that any new file in `folder` gets: safetensors makes them private."""
    probe = folder / f"{TEMPORARY}rights"
    probe.unlink(missing_ok=True)
    probe.touch(0o666, exist_ok=False)
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for path in paths:
        if stat.S_IMODE(path.stat().st_mode) != mode:
            path.chmod(mode)


def _settle(folder: Path) -> None:
    """Flush a folder's files to the disk, with equal rights."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    equal_rights(files, folder)
    for path in files:
        with open(path, "rb") as file:
            os.fsync(file.fileno())


def near_path(path: Path) -> str:
    """Return the question whether a file or folder of a like name was meant; "" for none near."""
    if os.path.exists(path):  # unlike `Path.exists`, of any path
        return ""
    try:
        names = sorted(each.name for each in path.parent.iterdir() if not each.name.startswith("."))
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, names, n=1)
    return f" Did you mean {path.parent / near[0]}?" if near else ""


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> Any | None:
    """Read a JSON file, without its seal; None where it is missing, damaged or a pipe."""
    try:
        return unsealed(json.loads(path.read_bytes())) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return None


def to_json(value: Any, *, seal: bool = False) -> bytes:
    """Return `value` as JSON; arrays become lists and NaN becomes null.

    With `seal` a dictionary gets the key "sha256": a digest of the rest, which `unsealed` checks.
    """
    value = plain(value)
    if seal:
        value[SEAL] = _seal_of(value)
    return json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False).encode()


def unsealed(content: Any) -> Any:
    """Return what was read from a JSON file, without its seal; `ValueError` if that is broken."""
    if not isinstance(content, dict) or SEAL not in content:
        return content
    rest = {key: value for key, value in content.items() if key != SEAL}
    if content[SEAL] != _seal_of(rest):
        raise ValueError("its content does not fit its digest")
    return rest


def _seal_of(content: Mapping[str, Any]) -> str:
    """A digest of what the JSON says, however it is spaced and ordered."""
    return hashlib.sha256(json.dumps(plain(content), sort_keys=True).encode()).hexdigest()


def plain(value: Any) -> Any:
    """Return `value` with arrays and tuples as lists, numpy numbers as Python's, NaN as None."""
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
    """Return a SHA-256 over the parts, each with its length, so that no two lists agree."""
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
        if not (isinstance(error, OSError) and error.errno) and not says_full(error):
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


def says_full(error: BaseException) -> bool:
    """Return whether an error says that a disk is full."""
    text = str(error).lower()
    in_words = any(words in text for words in FULL_IN_WORDS)
    return getattr(error, "errno", None) in FULL or in_words


def full_disk(path: str | os.PathLike[str]) -> str:
    """Return what is said of a full disk where this could not be written."""
    return (
        f"The disk is full: cannot write {path}; make room, then run the same command again and it "
        f"continues."
    )


def _disk_sentence(path: Path, error: BaseException) -> str:
    number = getattr(error, "errno", None)
    if says_full(error):
        return full_disk(path)
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{path} may not be written; choose another output or change its permissions."
    return f"Cannot write {path}: {first_line(error)}."
