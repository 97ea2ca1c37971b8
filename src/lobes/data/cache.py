"""A regenerable cache folder, and files for arrays that are too large for memory.

A `Spool` takes bytes as they come and keeps them in memory while they are few, in a file without a
name once they are many. `save` and `load` keep arrays under a key from one run to the next. An
entry is whole or absent, is checked when it is read, and may be deleted at any time. Where the
disk does not take them, data stay in memory and a line in the log says so.
"""

import contextlib
import json
import logging
import mmap
import os
import sys
import tempfile
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Shaped

from lobes.files import beside, remove_at_once

logger = logging.getLogger("lobes")

# So many bytes a `Spool` keeps in memory.
_IN_MEMORY = 64 * 2**20

# Entries that nobody has read for so many seconds are removed: 30 days.
_UNUSED = 30 * 24 * 3600

_CHUNK = 2**20
_RECORD = "arrays.json"


def cache_folder() -> Path:
    """Return `$LOBES_CACHE`, or `lobes` in the user's cache folder; it need not exist."""
    if os.environ.get("LOBES_CACHE"):
        return Path(os.environ["LOBES_CACHE"]).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "lobes"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local") / "lobes"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lobes"


class Spool:
    """Bytes that are appended to, then read as an array.

    Up to `_IN_MEMORY` they are in memory, beyond it in a file in the cache's folder, which has no
    name there and is gone with the process, however that ends.
    """

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._waiting = 0
        self._file: IO[bytes] | None = None
        self._written = 0
        self._may_write = True

    def append(self, data: bytes) -> None:
        """Add bytes at the end."""
        self._parts.append(data)
        self._waiting += len(data)
        if self._may_write and self._waiting > (_IN_MEMORY if self._file is None else _CHUNK):
            self._write()

    def array(self, dtype: Any = np.uint8) -> Shaped[np.ndarray, " numbers"]:
        """Return all bytes as a read-only array; the spool is empty after that."""
        if self._file is not None and self._parts:
            self._write()
        if self._file is None:
            whole = np.frombuffer(b"".join(self._parts), dtype=dtype)
        else:
            whole = _mapped(self._file, self._written, dtype)
            self._close()
        self._parts, self._waiting = [], 0
        return whole

    def __del__(self) -> None:
        if self._file is not None:
            self._close()

    def _close(self) -> None:
        assert self._file is not None
        with contextlib.suppress(OSError):  # it tries to write what it could not
            self._file.close()
        self._file, self._written = None, 0

    def _write(self) -> None:
        try:
            if self._file is None:
                folder = cache_folder()
                folder.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
            for part in self._parts:
                self._file.write(part)
            self._file.flush()
        except OSError as error:
            self._stay_in_memory(error)
        else:
            self._written += self._waiting
            self._parts, self._waiting = [], 0

    def _stay_in_memory(self, error: OSError) -> None:
        """Take back what was written, once the disk takes no more."""
        self._may_write = False
        if self._file is not None:
            self._parts.insert(0, _mapped(self._file, self._written, np.uint8).tobytes())
            self._close()
        logger.warning(
            "%s: data that are too large for memory cannot be kept in %s, and stay in memory.",
            error.strerror or error,
            cache_folder(),
        )


def save(key: str, arrays: Mapping[str, Shaped[np.ndarray, " _"]]) -> None:
    """Keep arrays under `key`, a path in the cache's folder, whole or not at all.

    Another process may do the same at the same time: one of the two entries stays.
    """
    target = cache_folder() / key
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_unused(target.parent)
        with beside(target) as folder:
            folder.mkdir()
            record = {name: _write_array(folder / name, array) for name, array in arrays.items()}
            (folder / _RECORD).write_text(json.dumps(record), encoding="utf-8")
    except OSError as error:
        logger.warning(
            "%s: nothing can be kept in %s, so that the next run makes it again.",
            error.strerror or error,
            target.parent,
        )


def load(key: str) -> dict[str, Shaped[np.ndarray, " _"]] | None:
    """Return the arrays under `key`, read-only and memory-mapped; None if there are none.

    A damaged entry is removed.
    """
    folder = cache_folder() / key
    try:
        record = json.loads((folder / _RECORD).read_bytes())
        arrays = {name: _read_array(folder / name, **facts) for name, facts in record.items()}
        with contextlib.suppress(OSError):
            os.utime(folder)  # used now
        return arrays
    except (FileNotFoundError, NotADirectoryError):
        if not folder.exists():
            return None
    except (OSError, ValueError, TypeError, AttributeError):
        pass
    logger.warning("%s cannot be read and is made anew.", folder)
    _remove(folder)
    return None


def _write_array(path: Path, array: Shaped[np.ndarray, " _"]) -> dict[str, Any]:
    checksum = 0
    with open(path, "wb") as file:
        step = _CHUNK // array.dtype.itemsize
        for start in range(0, len(array), step):
            data = array[start : start + step].tobytes()
            checksum = zlib.crc32(data, checksum)
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return {"dtype": array.dtype.str, "size": array.nbytes, "checksum": checksum}


def _read_array(path: Path, dtype: str, size: int, checksum: int) -> Shaped[np.ndarray, " _"]:
    """The array in a file; ValueError where it is not what was written."""
    found = 0
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == size:
            while data := file.read(_CHUNK):
                found = zlib.crc32(data, found)
            if found == checksum:
                return _mapped(file, size, np.dtype(dtype))
    raise ValueError(f"{path} is damaged")


def _mapped(file: IO[bytes], size: int, dtype: Any) -> Shaped[np.ndarray, " _"]:
    if not size:
        return np.frombuffer(b"", dtype=dtype)
    return np.frombuffer(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ), dtype=dtype)


def _remove_unused(folder: Path) -> None:
    """Remove entries that nobody has read for long, and what a killed process left."""
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _UNUSED:
                _remove(path)


def _remove(folder: Path) -> None:
    """Remove an entry in one step, for whoever looks for it meanwhile."""
    with contextlib.suppress(OSError):
        remove_at_once(folder)
