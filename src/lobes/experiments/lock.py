"""Lock a run's folder, on network file systems too.

The lock is the kernel's (flock), which ends with the process, however that ends. It does not hold
everywhere: Lustre mounted with `noflock` has none, and NFS without a lock service refuses it; on
GPFS, on BeeGFS as it comes, on NFS with `nolock` or `local_lock` and on Lustre with `localflock`
each machine grants it by itself. So the file of the lock has a second use, which needs no more
than that one process only can make a new file (O_EXCL), and that machines read what others write:

- it holds who uses the folder, and that process writes it anew every `BEAT` seconds and removes it
  at the end;
- a file that is there already, from another machine or without a kernel's lock, is watched for
  `SILENT` seconds: where it changes, its owner lives; else it was killed, and the file is taken
  over. Nothing depends on the clocks of machines being right;
- whoever finds another's name in the file does not go on (`is_ours`, before each write). So of two
  that take it over in the same moment, one goes on.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from lobes.errors import InUseError
from lobes.files import disk_faults, read_json

try:
    import fcntl
except ImportError:  # pragma: no cover - a system without flock
    fcntl = None  # type: ignore[assignment]

BEAT = 10.0  # seconds between two signs of life
SILENT = 90.0  # without one, after which the owner counts as killed; NFS caches for 60 s at most
SETTLE = 2.0  # in which others that take over in the same moment have written their names
POLL = 1.0
SIZE = 512  # of the file, so that it is overwritten in one piece
logger = logging.getLogger("lobes")


class FolderLock:
    """The lock file `path`, held by this process from its making until `release`.

    `about` goes into the file. Raises `InUseError` where somebody else holds it, `RunError` where
    it cannot be written. May wait, with a warning, where the file was left by another machine.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path = path
        self._id = uuid.uuid4().hex
        self._record = {
            **about,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "kernel": _kernel(),
            "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}",
            "id": self._id,
        }
        with disk_faults(path):
            while (file := self._taken()) is None:
                pass
        self._file = file
        self._ended = threading.Event()
        self._beats = threading.Thread(target=self._beat, name="lobes-lock", daemon=True)
        self._beats.start()

    def is_ours(self) -> bool:
        """Whether the file is still the one that was taken, in our name."""
        return self._names_us(self._file)

    def release(self) -> None:
        """Remove the file, if it is still ours, and let the lock go."""
        self._ended.set()
        self._beats.join()
        with self._file, contextlib.suppress(OSError):
            if self.is_ours():
                self.path.unlink()

    def _taken(self) -> IO[bytes] | None:
        """The file, locked and in our name; None where it went away meanwhile."""
        try:
            file, new = open(self.path, "xb+", buffering=0), True  # noqa: SIM115 - open for long
        except FileExistsError:
            try:
                file, new = open(self.path, "rb+", buffering=0), False  # noqa: SIM115
            except FileNotFoundError:
                return None
        try:
            if self._is_free(file, new):
                return file
        except BaseException:
            file.close()
            raise
        file.close()
        return None

    def _is_free(self, file: IO[bytes], new: bool) -> bool:
        """Take the file, if nobody holds it; False where it went away. `InUseError` if one does."""
        owner = read_json(self.path) or {}
        try:
            self._record["flock"] = _flocked(file)
        except (BlockingIOError, PermissionError) as error:  # the latter on CIFS
            raise self._in_use(owner) from error
        if not _is_same_file(file, self.path):  # removed by its owner in between
            return False
        vouched = new or self._kernel_vouches_for(owner)
        if not vouched and not self._stays_silent(owner):
            return False
        try:
            self._write(file)
        except BaseException:
            if new:
                self.path.unlink(missing_ok=True)
            raise
        if not vouched:
            time.sleep(SETTLE)
            if not self._names_us(file):
                raise self._in_use(owner)
        return True

    def _kernel_vouches_for(self, owner: Mapping[str, Any]) -> bool:
        """Whether the lock that we have says that the owner is gone: it had one of this machine."""
        if not (owner and self._record["flock"] and owner.get("flock", True)):
            return False
        # a container has a host name of its own, and the kernel of its machine
        return "id" not in owner or any(
            owner.get(key) == self._record[key] is not None for key in ("host", "kernel")
        )

    def _stays_silent(self, owner: Mapping[str, Any]) -> bool:
        """Watch the file; False where it is removed, `InUseError` where its owner writes it."""
        if owner:
            logger.warning(
                "%s names process %s on %s, which may have been killed: waiting up to %g s for a "
                "sign of life.",
                self.path,
                owner.get("pid", "?"),
                owner.get("host", "?"),
                SILENT,
            )
        before = self.path.read_bytes()
        end = time.monotonic() + (SILENT if owner else SETTLE)  # its owner has yet to write it
        while time.monotonic() < end:
            time.sleep(POLL)
            try:
                now = self.path.read_bytes()  # opened anew: NFS compares with its server then
            except FileNotFoundError:
                return False
            if now != before:
                raise self._in_use(owner)
        return True

    def _in_use(self, owner: Mapping[str, Any]) -> InUseError:
        owner = read_json(self.path) or owner  # it may have written its name meanwhile
        return InUseError(
            f"{self.path.parent} is in use by another run (process {owner.get('pid', '?')} on "
            f"{owner.get('host', '?')}, since {owner.get('since', '?')}); wait for it, or "
            f"choose another output."
        )

    def _names_us(self, file: IO[bytes]) -> bool:
        try:
            with open(self.path, "rb") as found:  # not `stat`, which may be a minute old on NFS
                same = os.path.samestat(os.fstat(file.fileno()), os.fstat(found.fileno()))
                return same and self._id.encode() in found.read()
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(OSError):  # a server that is away for a while
                if not self.is_ours():
                    return  # said before the next write
                self._write(self._file)

    def _write(self, file: IO[bytes]) -> None:
        now = f"{datetime.now():%Y-%m-%d %H:%M:%S.%f}"
        file.seek(0)
        file.write(json.dumps({**self._record, "seen": now}).encode().ljust(SIZE))
        file.truncate()
        os.fsync(file.fileno())


def _flocked(file: IO[bytes]) -> bool:
    """Take the kernel's lock; False where there is none, `BlockingIOError` if somebody has it."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise
    except OSError:  # ENOSYS, ENOLCK, EOPNOTSUPP, EINVAL: by the file system
        return False
    return True


def _is_same_file(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _kernel() -> str | None:
    """What tells this machine, since it was started, from all others; None if unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
