"""What workers compute in tests of the pool: small things that fail and end in every way."""

import errno
import os
import signal
import time
from pathlib import Path
from typing import Any

from lobes.errors import DataError
from lobes.progress import Progress


class Jobs:
    """Jobs are pairs (what to do, a number); the specification is a folder for traces."""

    def __init__(self, folder: str) -> None:
        if folder == "nowhere":
            raise DataError("There is no folder 'nowhere' here.")
        self.folder = Path(folder)

    def __call__(self, what: tuple[str, int], progress: Progress) -> Any:
        name, number = what
        return getattr(self, name)(number, progress)

    def square(self, number: int, progress: Progress) -> int:
        return number**2

    def pid(self, number: int, progress: Progress) -> int:
        time.sleep(0.2)
        return os.getpid()

    def where(self, number: int, progress: Progress) -> str:
        return str(self.folder)

    def slow(self, number: int, progress: Progress) -> int:
        for done in range(7):
            time.sleep(0.2)
            progress(done, 7)
        return number

    def wait(self, number: int, progress: Progress) -> int:
        while not (self.folder / "go").exists():
            time.sleep(0.05)
        return number

    def refuse(self, number: int, progress: Progress) -> None:
        raise DataError(f"Row {number} has no label.")

    def stumble(self, number: int, progress: Progress) -> None:
        raise KeyError(number)

    def fill(self, number: int, progress: Progress) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/scratch/tokens")

    def die(self, number: int, progress: Progress) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def die_once(self, number: int, progress: Progress) -> int:
        trace = self.folder / f"died-{number}"
        if not trace.exists():
            trace.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    def starve(self, number: int, progress: Progress) -> None:
        raise MemoryError("cannot allocate 9 TiB")

    def hang(self, number: int, progress: Progress) -> None:
        (self.folder / f"hangs-{os.getpid()}").touch()
        time.sleep(600)


class Elsewhere(Jobs):
    """Workers that say that they are on another machine."""

    @staticmethod
    def facts() -> dict[str, Any]:
        return {"host": "node-3"}


class OtherVersions(Jobs):
    """Workers of another version of lobes."""

    @staticmethod
    def facts() -> dict[str, Any]:
        from lobes.workers.messages import versions

        return {"versions": {**versions(), "torch": "0.3.1"}}
