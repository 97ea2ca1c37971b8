"""The callbacks by which a long computation tells how far it is."""

from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

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


def check_progress(progress: object) -> None:
    """Raise `ConfigError` for what cannot be called as progress is reported: True, for example."""
    if progress is not None and not callable(progress):
        raise ConfigError(
            f"progress is a function that is called with (done, total), of lesion_matrix with "
            f"(stage, done, total), or None, not {progress!r}."
        )
