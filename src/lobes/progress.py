"""The callbacks by which a long computation tells how far it is."""

from collections.abc import Callable

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
