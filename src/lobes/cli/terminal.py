"""Messages and progress on stderr, with the notices of other libraries kept away."""

import contextlib
import io
import logging
import os
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from lobes.clean import clean
from lobes.experiments.run_log import RunLog
from lobes.progress import duration

# Seconds between two lines of progress where stderr is no terminal.
EVERY = 30.0

_QUIET_LIBRARIES = {
    "DATASETS_VERBOSITY": "critical",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "critical",
}


class _Lines(logging.Handler):
    """Log records as plain lines on stderr, above a progress bar that is being shown.

    Of records that say the same of many trainings (`once` is equal) the first is shown.
    """

    def __init__(self) -> None:
        super().__init__()
        self._said: set[object] = set()

    def emit(self, record: logging.LogRecord) -> None:
        once = getattr(record, "once", None)
        if once is not None and once in self._said:
            return
        self._said.add(once)
        kind = f"{record.levelname.capitalize()}: " if record.levelno > logging.INFO else ""
        say(f"{kind}{record.getMessage()}")


def set_up(*, debug: bool) -> None:
    """Keep other libraries' notices off the terminal; `debug` lets them through."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without "−" gets "?", not an error
    logger = logging.getLogger("lobes")
    logger.handlers = [_Lines()]
    logger.propagate = False
    logger.setLevel(logging.INFO)
    if debug:
        return
    for name, value in _QUIET_LIBRARIES.items():
        os.environ.setdefault(name, value)
    warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())


def say(text: str) -> None:
    """Print one line on stderr, without control characters; ignore a closed stderr."""
    line = str(clean(text))
    with contextlib.suppress(OSError, ValueError):
        if ProgressDisplay.shown is not None:
            ProgressDisplay.shown.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)


class ProgressDisplay:
    """Show how far each stage of a command is: bars on a terminal, plain lines elsewhere.

    Called as `progress(stage, done, total)`; `note` adds how the stage goes. On a terminal a stage
    that is over within a second leaves no line. Where stderr is no terminal (a pipe, a log), each
    stage writes one line when it begins, and one every `EVERY` seconds with the time left.
    """

    shown: "_Bars | None" = None  # those on the terminal now, above which messages are printed

    def __init__(self, *, quiet: bool, run: Path | None = None) -> None:
        terminal = sys.stderr.isatty()
        self.log = None if run is None else RunLog(run, shlex.join(sys.argv[1:]))
        self.lines = _StageLines() if not quiet and not terminal else None
        self._bars = _Bars() if not quiet and terminal else None

    def __enter__(self) -> "ProgressDisplay":
        if self.log is not None:
            self.log.begin()
        if self._bars is not None:
            ProgressDisplay.shown = self._bars
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        ProgressDisplay.shown = None
        if self.log is not None:
            self.log.end(error)
        if self._bars is not None:
            self._bars.note = ""
            self._bars.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self.log is not None:
            self.log.reach(stage, done, total)
        if self.lines is not None:
            self.lines(stage, done, total)
        if self._bars is not None:
            self._bars.reach(stage, done, total)

    def note(self, stage: str, text: str) -> None:
        """Say under the bars how a stage goes, until the next one begins."""
        if self.lines is not None:
            self.lines.note = text
        if self._bars is not None and stage in self._bars.stages:
            self._bars.note = str(clean(text))


class _Bars(Progress):
    """A bar for each stage, and under them how the present stage goes."""

    def __init__(self) -> None:
        self.note = ""
        self.stages: dict[str, TaskID] = {}
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("[dim]took"),
            TimeElapsedColumn(),
            TextColumn("[dim]left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.note:
            yield Text(self.note, "dim", no_wrap=True, overflow="ellipsis")

    def reach(self, stage: str, done: int, total: int) -> None:
        if stage not in self.stages:
            self.stages[stage] = self.add_task(str(clean(stage)), total=total, completed=done)
            self.note = ""
        row = self.stages[stage]
        self.update(row, completed=done, total=total)
        elapsed = self.tasks[self.task_ids.index(row)].elapsed or 0.0
        if done >= total and elapsed < 1:
            self.update(row, visible=False)


class _StageLines:
    """One line when a stage begins, and one every `EVERY` seconds with the time left."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.note = ""
        self._begun: dict[str, tuple[float, int]] = {}  # when, and what was done by then
        self._last = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = self.clock()
        if stage not in self._begun:
            self._begun[stage] = now, done
            self.note = ""
            text = "done" if done >= total else "started"
        elif now - self._last >= EVERY:
            start, before = self._begun[stage]
            text = self._so_far(done - before, total - before, done / max(total, 1), now - start)
        else:
            return
        self._last = now
        say(f"{stage}: {text}")

    def _so_far(self, done: int, total: int, share: float, seconds: float) -> str:
        """`37 %, 1 min 20 s so far, about 2 min 16 s left`, and the note."""
        text = f"{100 * share:.0f} %, {duration(seconds)} so far"
        if done > 0:
            text += f", about {duration(seconds * (total - done) / done)} left"
        return f"{text} ({self.note})" if self.note else text
