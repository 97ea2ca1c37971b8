"""Carry out plans on workers: their steps are computed anywhere, and kept here.

A step is handed out by the number of its plan and its key: a worker makes the same plans from the
study, and goes through them with the arrays that are kept. So only keys and arrays travel, and a
plan is the same whoever carries it out.
"""

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from lobes.errors import RunError
from lobes.experiments.measurements import Measurements
from lobes.measure.steps import Arrays, Plan, Result, Step
from lobes.progress import StageProgress
from lobes.workers import Job, Place, Pool

# So many measurements are written at the same time.
_WRITERS = 4

# A part of a step has so many units at least: each part costs a plain run of the model.
_LEAST = 8


def carry_out_on(
    pool: Pool, plans: Sequence[Plan[Result]], measurements: Measurements
) -> list[Result]:
    """Return the results of plans, with the steps that are not kept computed by workers.

    Each is kept as soon as it is there. Raises the first error of a step, and `RunError` where a
    worker measures something else than these measurements are of.
    """
    shown = _Shown(measurements.progress)
    pool.progress = shown.reach
    walks = [_Walk(number, plan) for number, plan in enumerate(plans)]
    for walk in walks:
        _advance(walk, None, pool, measurements, shown)
    with _Writing(measurements) as writing:
        _follow(walks, pool, measurements, writing, shown)
    return [walk.result for walk in walks]


class _Writing:
    """Keeps measurements in threads, which wait for the disk while the next results come in."""

    def __init__(self, measurements: Measurements) -> None:
        self.measurements = measurements
        self._threads = ThreadPoolExecutor(_WRITERS)
        self._begun: list[Future[None]] = []

    def __enter__(self) -> "_Writing":
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()

    def keep(self, step: Step, arrays: Arrays, seconds: float) -> None:
        """Begin to keep a step's arrays; raise what went wrong with others."""
        self._begun.append(self._threads.submit(self.measurements.keep, step, arrays, seconds))
        done = [each for each in self._begun if each.done()]
        self._begun = [each for each in self._begun if each not in done]
        for each in done:
            each.result()

    def finish(self) -> None:
        """Return when all is kept."""
        begun, self._begun = self._begun, []
        for each in begun:
            each.result()


def _follow(
    walks: Sequence["_Walk"],
    pool: Pool,
    measurements: Measurements,
    writing: _Writing,
    shown: "_Shown",
) -> None:
    """Take what is computed, and go on with each plan when a group of its steps is kept."""
    while any(not walk.has_ended for walk in walks):
        finished = pool.next()
        if finished.error is not None:
            raise finished.error
        scope, arrays = finished.value
        if scope != measurements.scope:
            raise RunError(
                f"A worker's model or data are not those of this process, by their fingerprints: "
                f"expected that {measurements.folder.parent} and all that the study names are the "
                f"same for all."
            )
        walk = walks[finished.job.what.plan]
        shown.end(finished.job)
        whole = walk.take(finished.job.what, arrays, finished.seconds)
        if whole is not None:
            writing.keep(*whole)
            if walk.is_complete:
                writing.finish()  # workers read it
                found = [walk.found[each.full_key] for each in walk.group]
                _advance(walk, found, pool, measurements, shown)


@dataclass
class _Walk:
    """How far a plan is: the group of steps that it waits for, and what there is of them."""

    number: int
    plan: Plan[Any]
    group: Sequence[Step] = ()
    found: dict[str, Arrays] = field(default_factory=dict)
    parts: dict[str, dict[Place, tuple[Arrays, float] | None]] = field(default_factory=dict)
    has_ended: bool = False
    result: Any = None

    @property
    def is_complete(self) -> bool:
        return len(self.found) == len(self.group)

    def take(
        self, place: Place, arrays: Arrays, seconds: float
    ) -> tuple[Step, Arrays, float] | None:
        """Note what a job gave; the step with its arrays and seconds once all of it is there."""
        parts = self.parts[place.key]
        parts[place] = arrays, seconds
        there = [part for part in parts.values() if part is not None]
        if len(there) < len(parts):
            return None
        step = next(each for each in self.group if each.full_key == place.key)
        if len(there) > 1:
            assert step.joined is not None
            arrays = step.joined([part for part, _ in there])
        self.found[place.key] = arrays
        del self.parts[place.key]  # which would hold them twice
        return step, arrays, sum(each for _, each in there)


def _advance(
    walk: _Walk,
    arrays: Sequence[Arrays] | None,
    pool: Pool,
    measurements: Measurements,
    shown: "_Shown",
) -> None:
    """Go on with a plan to the next group that is not all kept, and hand out what is missing."""
    while True:
        try:
            walk.group = walk.plan.send(arrays)  # type: ignore[arg-type]  # None starts it
        except StopIteration as end:
            walk.result, walk.has_ended = end.value, True
            return
        kept = [measurements.load(step) for step in walk.group]
        walk.found = {
            step.full_key: each
            for step, each in zip(walk.group, kept, strict=True)
            if each is not None
        }
        shown.begin(walk.group, walk.found)
        if walk.is_complete:
            arrays = [walk.found[step.full_key] for step in walk.group]
            continue
        pending = [step for step in walk.group if step.full_key not in walk.found]
        places = divided(walk.number, pending, pool.number)
        walk.parts = {step.full_key: {} for step in pending}
        for place, _ in places:
            walk.parts[place.key][place] = None
        pool.submit([Job(place, step.title) for place, step in places])
        shown.expect(places)
        return


def divided(plan: int, steps: Sequence[Step], workers: int) -> list[tuple[Place, Step]]:
    """Return what to hand out for these steps: the last ones in parts, so that all end together.

    As many steps as every worker gets the same number of stay whole.
    """
    over = len(steps) % workers
    parts = workers // math.gcd(workers, over) if over else 1
    found = []
    for number, step in enumerate(steps):
        pieces = 1
        if number >= len(steps) - over and step.part is not None:
            pieces = min(parts, max(1, step.size // _LEAST))
        ends = [step.size * piece // pieces for piece in range(pieces + 1)]
        for first, last in pairwise(ends):
            found.append((Place(plan, step.full_key, first, last), step))
    return found


class _Shown:
    """How far all workers are together, stage by stage."""

    def __init__(self, progress: StageProgress | None) -> None:
        self.progress = progress
        self._steps: dict[Place, Step] = {}
        self._done: dict[str, float] = {}  # by title, in units of the shares
        self._under_way: dict[str, dict[Place, float]] = {}

    def begin(self, group: Sequence[Step], found: dict[str, Arrays]) -> None:
        """Note what was kept."""
        for step in group:
            if step.share is not None:
                before = self._done.setdefault(step.title, 0.0)
                self._done[step.title] = before + step.share[1] * (step.full_key in found)

    def expect(self, places: Sequence[tuple[Place, Step]]) -> None:
        """Note what is handed out."""
        self._steps.update(places)
        for _, step in {step.title: (place, step) for place, step in places}.values():
            self._tell(step, 0, 1)

    def reach(self, job: Job, done: int, total: int) -> None:
        """Note how far a job is."""
        place, step = job.what, self._steps.get(job.what)
        if step is None:
            return
        if step.share is not None:
            part = step.share[1] * (place.last - place.first) / step.size
            self._under_way.setdefault(step.title, {})[place] = part * done / max(total, 1)
        self._tell(step, done, total)

    def end(self, job: Job) -> None:
        """Note that a job is done."""
        place = job.what
        step = self._steps.pop(place)
        if step.share is not None:
            self._under_way.get(step.title, {}).pop(place, None)
            self._done[step.title] += step.share[1] * (place.last - place.first) / step.size
            self._tell(step, 1, 1)
        elif all(each.full_key != step.full_key for each in self._steps.values()):
            self._tell(step, 1, 1)

    def _tell(self, step: Step, done: int, total: int) -> None:
        if self.progress is None:
            return
        if step.share is not None:
            so_far = self._done[step.title] + sum(self._under_way.get(step.title, {}).values())
            done, total = round(1000 * so_far), round(1000 * step.share[2])
        self.progress(step.title, done, total)
