"""`lobes.log`: what commands did in a run's folder, and when."""

import contextlib
import logging
import time
from pathlib import Path

from lobes import __version__
from lobes.clean import clean
from lobes.errors import InUseError
from lobes.progress import duration


class RunLog(logging.Handler):
    """What a command did in a run's folder, and when: lines at the end of `lobes.log` there.

    `command` are the words of the command line. Lines are kept until a stage is reached, or the
    command ends, and the folder holds a run: a command that cannot begin leaves nothing, and one
    that is refused since another uses the folder writes nothing into that one's log.
    """

    def __init__(self, run: Path, command: str) -> None:
        super().__init__(logging.WARNING)
        self.run = run
        self.command = command
        self._waiting: list[str] = []
        self._begun: dict[str, float] = {}
        self._is_ours = False

    def begin(self) -> None:
        """Write the command, and from now on the warnings."""
        self._add(f"lobes {__version__}: {self.command}")
        logging.getLogger("lobes").addHandler(self)

    def reach(self, stage: str, done: int, total: int) -> None:
        """Write when a stage begins, and how long it took."""
        self._is_ours = True
        if stage not in self._begun:
            self._begun[stage] = time.monotonic()
            if done < total:
                self._add(f"{stage}: started")
        if done >= total and self._begun[stage] >= 0:
            self._add(f"{stage}: done in {duration(time.monotonic() - self._begun[stage])}")
            self._begun[stage] = -1.0  # said once

    def emit(self, record: logging.LogRecord) -> None:
        self._add(f"{record.levelname.capitalize()}: {record.getMessage()}")

    def end(self, error: BaseException | None) -> None:
        """Write how the command ended."""
        logging.getLogger("lobes").removeHandler(self)
        self._is_ours = not isinstance(error, InUseError)
        interrupted = isinstance(error, KeyboardInterrupt)
        how = "done" if error is None else "interrupted" if interrupted else f"Error: {error}"
        self._add(how)

    def _add(self, text: str) -> None:
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        self._waiting.append(f"{now} {clean(text)}\n")
        path = self.run / "lobes.log"
        if not self._is_ours or path.is_symlink() or not (self.run / "config.json").is_file():
            return
        with contextlib.suppress(OSError), open(path, "a", encoding="utf-8") as file:
            file.writelines(self._waiting)
            self._waiting.clear()
