"""How many runs of the model a measurement takes, before anything is measured.

The number of lesions follows from the settings. How many of them have the same heads, and are
measured once, depends on the importance: here it is drawn at random, heavy-tailed, and alike for
the tasks as their lesions usually are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, takewhile

import numpy as np

from lobes.dissociation import Lesion
from lobes.dissociation.pairs import pairs_of
from lobes.heads import HeadLayout, HeadSet
from lobes.measure.iap_plan import GROUP, IapPlan, sample_of
from lobes.measure.settings import IapSettings
from lobes.measure.steps import Arrays, Step, carry_out
from lobes.modeling import TaskModel
from lobes.tasks.task import Task

# More exchanges than this have the same heads as often as these have.
_COUNTED = 100

# Deviations of the log of a head's importance, and of what it differs by between tasks.
_TAIL, _NOISE = 1.0, 1.0


@dataclass(frozen=True)
class Runs:
    """Runs of a model over validation examples: so many sets of heads, measured in `groups`.

    `passes` are what they take in whole runs: each goes on where it differs from the one before
    (`replay.py`). `tasks` are those that are run, `sampled` says whether only on the examples of a
    sample.
    """

    tasks: tuple[str, ...]
    sets: int
    passes: float
    sampled: bool = False

    @property
    def groups(self) -> int:
        """How many groups the sets are measured in."""
        return math.ceil(self.sets / GROUP)


@dataclass(frozen=True)
class LesionWork:
    """The lesions of a measurement by kind, exactly, and about how many runs they take."""

    own: int
    random: int
    exchanged: int
    between_pairs: int
    runs: tuple[Runs, ...]

    @property
    def lesions(self) -> int:
        """All lesions together."""
        return self.own + self.random + self.exchanged + self.between_pairs


def lesion_work(
    model: TaskModel,
    tasks: Sequence[Task],
    settings: IapSettings,
    layout: HeadLayout,
    *,
    stops: bool = True,
) -> LesionWork:
    """Return the lesions and runs of `lesion_matrix` with these settings; nothing is run.

    Where it may stop after some exchanges it is what a study takes that does, or with
    `stops=False` one that goes on.
    """
    some = replace(settings, controls=min(settings.controls, _COUNTED))
    more = settings.controls / max(some.controls, 1)
    plan = IapPlan(model, tasks, some, layout, "fp32", None)
    drawn = np.random.default_rng(0)
    common = drawn.lognormal(sigma=_TAIL, size=layout.shape)

    def made_up(_: Step) -> Arrays:
        values = common * drawn.lognormal(sigma=_NOISE, size=layout.shape)
        for site in layout.sites:
            values[site.index, site.n_heads :] = np.nan
        return {"values": values, "counts": np.ones(2, dtype=np.int64)}

    _, of_tasks = carry_out(plan.choose(), made_up)
    names = tuple(task.name for task in tasks)
    random, exchanged = plan.random(of_tasks), plan.exchanged(of_tasks)
    look = replace(plan, settings=settings).look if stops else None
    beyond = more if look is None else 1.0
    exchanged = exchanged[: None if look is None else look * len(of_tasks)]
    sampled = sample_of(settings, tasks) is not None
    own = _sets([Lesion(HeadSet(), "none"), *of_tasks])
    others = [heads for heads in _sets([*random, *exchanged]) if heads not in own]
    # the exchanges beyond those that are counted repeat as often as these
    each = 1 + (beyond - 1) * len(exchanged) / max(1, len(random) + len(exchanged))

    def runs_of(sets: list[HeadSet], each: float, sampled: bool = sampled) -> Runs:
        return Runs(names, round(each * len(sets)), each * _passes(sets, layout), sampled)

    if sampled:
        runs = [runs_of(own, 1, False), runs_of(others, each)]
    else:
        runs = [runs_of([*own, *others], each)]
    between = 0
    # whether pairs are tested depends on all of the exchanges, how often they repeat on some
    if replace(plan, settings=settings).tests_pairs:
        largest = {lesion.task: lesion for lesion in of_tasks}
        for i, j in pairs_of(tasks):
            both = [largest[names[i]], largest[names[j]]]
            dealt = plan.exchanged(both, i + 1, j + 1)
            between += round(more * len(dealt))
            sets = [heads for heads in _sets(dealt) if heads not in _sets(both)]
            runs.append(replace(runs_of(sets, more), tasks=(names[i], names[j])))
    return LesionWork(
        len(of_tasks), len(random), round(beyond * len(exchanged)), between, tuple(runs)
    )


def _sets(lesions: Sequence[Lesion]) -> list[HeadSet]:
    """The different sets of heads, in order."""
    return list(dict.fromkeys(lesion.heads for lesion in lesions))


def _passes(sets: Sequence[HeadSet], layout: HeadLayout) -> float:
    """How many whole runs the sets take, group by group in the order of their heads."""
    found, sites = 0.0, [site.index for site in layout.sites]
    for start in range(0, len(sets), GROUP):
        groups = [heads.by_site() for heads in sets[start : start + GROUP]]
        keys = sorted(tuple(group.get(site, ()) for site in sites) for group in groups)
        for one, other in pairwise(keys):
            shared = takewhile(bool, (a == b for a, b in zip(one, other, strict=True)))
            found -= sum(shared) / len(sites)
        found += len(keys)
    return found
