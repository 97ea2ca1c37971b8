"""Costly computations as steps, and plans that say which steps a result takes.

A plan is a generator. It yields groups of steps that do not depend on each other, receives their
arrays in the same order, and returns its result. Whoever drives a plan decides where the arrays
come from: `carry_out` computes each step in turn, `experiments/measurements.py` keeps them in a
run's folder, and `missing` lists what is still to be computed without computing anything.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from lobes.progress import Progress, StageProgress, part_of_stage

Result = TypeVar("Result")
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Step:
    """One computation whose arrays are kept under `key`.

    `stage` is what its seconds count as, such as "importance"; `task` the task that it is about,
    if it is one. Progress calls it `title`. Where several steps share a title, `share` says which
    part this one is: (before, part, whole), in any unit. `scope` is what the arrays depend on
    beside the key and the scope of the whole experiment.

    A step of `size` units can be computed in up to that many parts: `part(first, last)` computes
    some of the units, and `joined(arrays of the parts)` gives the step's arrays, to the bit.
    """

    stage: str
    key: str
    title: str
    compute: Callable[[Progress], Arrays]
    task: str = ""
    share: tuple[float, float, float] | None = None
    scope: str = ""
    size: int = 1
    part: Callable[[int, int, Progress], Arrays] | None = None
    joined: Callable[[Sequence[Arrays]], Arrays] | None = None

    @property
    def full_key(self) -> str:
        """The key with the scope: no two steps of one plan share it."""
        return f"{self.scope}/{self.key}" if self.scope else self.key

    def reporting(self, progress: StageProgress | None) -> Progress:
        """Return the progress of this step, reported under its title."""
        if self.share is not None:
            return part_of_stage(progress, self.title, *self.share)
        return lambda done, total: progress(self.title, done, total) if progress else None

    @property
    def is_last(self) -> bool:
        """Whether the steps of this title end with this one."""
        return self.share is not None and self.share[0] + self.share[1] >= self.share[2]


Plan = Generator[Sequence[Step], Sequence[Arrays], Result]


def carry_out(plan: Plan[Result], measure: Callable[[Step], Arrays]) -> Result:
    """Return the result of a plan, with the arrays that `measure` gives for each of its steps."""
    found: Sequence[Arrays] | None = None
    while True:
        try:
            steps = plan.send(found)  # type: ignore[arg-type]  # None starts a generator
        except StopIteration as end:
            return end.value
        found = [measure(step) for step in steps]


def together(*plans: Plan[Any]) -> Plan[list[Any]]:
    """Return one plan of several that do not depend on each other; its result are theirs.

    Its groups hold the steps of all, so that they can be computed at the same time.
    """
    results: list[Any] = [None] * len(plans)
    groups: dict[int, Sequence[Step]] = {}
    given: dict[int, Sequence[Arrays] | None] = dict.fromkeys(range(len(plans)))
    while given:
        for number, found in given.items():
            try:
                groups[number] = plans[number].send(found)  # type: ignore[arg-type]
            except StopIteration as end:
                groups.pop(number, None)
                results[number] = end.value
        if not groups:
            break
        arrays = iter((yield [step for group in groups.values() for step in group]))
        given = {number: list(islice(arrays, len(group))) for number, group in groups.items()}
    return results


def missing(plan: Plan[Result], kept: Callable[[Step], Arrays | None]) -> list[Step]:
    """Return the steps that can be computed next: those of the first group that is not all kept.

    `kept` returns the arrays of a step, or None. Nothing is computed; an empty list means that
    the plan's result takes no further computation.
    """
    found: Sequence[Arrays] | None = None
    while True:
        try:
            steps = plan.send(found)  # type: ignore[arg-type]
        except StopIteration:
            return []
        known = [kept(step) for step in steps]
        found = [arrays for arrays in known if arrays is not None]
        if len(found) < len(steps):
            return [step for step, arrays in zip(steps, known, strict=True) if arrays is None]


def changed(plan: Plan[Result], change: Callable[[Step], Step]) -> Plan[Result]:
    """Return the same plan with every step changed, for example to another stage or scope."""
    found: Sequence[Arrays] | None = None
    while True:
        try:
            steps = plan.send(found)  # type: ignore[arg-type]
        except StopIteration as end:
            return end.value
        found = yield [change(step) for step in steps]
