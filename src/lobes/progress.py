"""The callbacks by which a long computation tells how far it is, and the line that shows it."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, TypeVar

from lobes.errors import ConfigError

Step = TypeVar("Step")
Progress = Callable[[int, int], None]
"""Called as `progress(done, total)` during one computation."""

StageProgress = Callable[[str, int, int], None]
"""Called as `progress(stage, done, total)` during work of several named stages."""


def part_of_stage(
    progress: StageProgress | None, stage: str, before: float, part: float, whole: float
) -> Progress:
    """Return the progress of one part of a stage, reported as that of the whole stage.

    The part covers `before` to `before + part` of `whole`, in any unit. It is reported in
    thousandths of that unit, so that a part which is one step of the whole still moves the bar.
    Where `progress` is None nothing is reported.
    """

    def report(done: int, total: int) -> None:
        if progress is not None:
            share = part * done / max(total, 1)
            progress(stage, round(1000 * (before + share)), round(1000 * whole))

    return report


def counted(steps: Iterable[Step], progress: Progress | None) -> Iterator[Step]:
    """Yield the steps of a computation, and report how many of them are done.

    The total is their number, or while that is not known one more than are done.
    """
    total, done = len(steps) if isinstance(steps, Sized) else 0, 0
    for done, step in enumerate(steps, 1):
        if progress:
            progress(done - 1, max(total, done))
        yield step
    if progress and done:
        progress(done, done)


def part_of(progress: Progress | None, number: int, parts: int) -> Progress | None:
    """Return the progress of one of several equal parts of a computation; None where none is."""
    if progress is None:
        return None
    return lambda done, total: progress(number * total + done, parts * total)


class ProgressLine:
    """A line on stderr that says how far a computation is: in a terminal and in a notebook.

    Called as `Progress`, whose stage is `title`, or as `StageProgress`. Where the output is a file,
    only the end of each stage is written.
    """

    def __init__(self, title: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.title = title
        self.clock = clock
        self.rewrites = sys.stderr.isatty() or "ipykernel" in sys.modules
        self._begun: dict[str, float] = {}
        self._last = 0.0

    def __call__(self, *where: Any) -> None:
        stage, done, total = where if len(where) == 3 else (self.title, *where)
        now = self.clock()
        begun = self._begun.setdefault(stage, now)
        if done >= total:
            del self._begun[stage]
            self._write(f"{stage}: done in {now - begun:.0f} s", end="\n")
        elif self.rewrites and now - self._last >= 0.2:
            self._last = now
            left = f", {(now - begun) * (total - done) / done:.0f} s left" if done else ""
            self._write(f"{stage}: {100 * done / total:.0f} %{left}", end="")

    def _write(self, text: str, end: str) -> None:
        start = "\r" if self.rewrites else ""
        print(f"{start}{text:<60}".rstrip(" " if end else ""), end=end, file=sys.stderr, flush=True)


def shown_progress(progress: Any, title: str) -> Any:
    """Return what to call with the progress: for True a line on stderr, for None or False nothing.

    `title` is what a computation without named stages is called there.
    Raises `ConfigError` for anything else that cannot be called.
    """
    if progress is None or progress is False:
        return None
    if progress is True:
        return ProgressLine(title)
    if not callable(progress):
        raise ConfigError(
            f"progress is True, a function that is called with (done, total), of lesion_matrix "
            f"with (stage, done, total), or None, not {progress!r}."
        )
    return progress


def duration(seconds: float) -> str:
    """Return seconds as `45 s`, `2 min 5 s`, `3 h 12 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
