"""Verdicts on ways to train, over seeds: claims 3, 4 and 5 of docs/method.md#claims.

All of them rest on a mean difference, paired by seed (`seeds.py`), and on one rule, `gained`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lobes.dissociation.seeds import Difference
from lobes.dissociation.verdict import (
    SMALLEST_D_CHANGE,
    SMALLEST_GAIN,
    UNUSABLE,
    Answer,
    Verdict,
    known,
    listed,
)

# After which training, or from which start, a score was reached.
AFTER: Mapping[str, str] = {
    "single": "after single-task training",
    "multi": "after ordinary multi-task training",
    "iat": "after IAT",
    "frozen": "with a frozen encoder",
    "probe": "with a linear probe",
    "sum": "after training on the sum of the losses",
    "pcgrad": "after training with PCGrad",
    "mgda": "after training with MGDA",
    "cagrad": "after training with CAGrad",
    "imtl": "after training with IMTL-G",
    "famo": "after training with FAMO",
    "uncertainty": "after training with uncertainty weighting",
    "tuned": "after training on a tuned sum of the losses",
    "pretrained": "from the pre-trained model",
}

SPECIALIZED_BY_IAT = "IAT makes the attention heads more specialized for the tasks."

# Why a difference over seeds has its answer.
Cause = Literal[
    "undefined",
    "one seed",
    "near chance",
    "identical",
    "higher",
    "lower",
    "mixed",
    "negligible",
    "undecided",
]


@dataclass(frozen=True)
class Trainings:
    """Two ways to train that are compared, and with how many seeds.

    In `before_iat` of the seeds the weights that were chosen are from before IAT began, so that
    they say nothing about it; 0 where the first way is not IAT.
    """

    first: str
    second: str
    seeds: int
    before_iat: int = 0


def better(first: str, second: str) -> str:
    """Return claim 4 of docs/method.md#claims for two ways to train: the first one's scores."""
    return f"The scores are higher {AFTER[first]} than {AFTER[second]}."


def transfers(first: str, second: str) -> str:
    """Return claim 5 of docs/method.md#claims for two starts."""
    return f"A new task is learned better {AFTER[first]} than {AFTER[second]}."


def gained(
    found: Difference, smallest: float, *, seeds: int, above_chance: bool
) -> tuple[Answer, Cause]:
    """Return the answer on one difference over seeds, and its cause.

    `smallest` is the least gain that matters: "no" needs an interval that ends below it, or a
    loss. The interval must have a width, since a few differences that happen to be equal say
    nothing of the next one; where all are 0, nothing was compared. `above_chance` says whether the
    scores could show a difference: whether at least two tasks (the task, if there is one) are done
    clearly better than chance.
    """
    if not math.isfinite(found.mean):
        return "open", "undefined"
    if seeds < 2:
        return "open", "one seed"
    if not above_chance:
        return "open", "near chance"
    if found.low == found.high == 0:
        return "open", "identical"
    if found.is_better:
        return "yes", "higher"
    if found.is_worse:
        return "no", "lower"
    return ("no", "negligible") if found.low < found.high < smallest else ("open", "undecided")


def gained_anywhere(
    found: Sequence[Difference], smallest: float, *, seeds: int, above_chance: Sequence[bool]
) -> tuple[Answer, Cause]:
    """Return the answer on differences at several sizes of data, whose p are corrected (Holm).

    Sizes at which nothing is learned yet can show nothing and are left out. "No" needs a loss at
    some size, or every size to exclude a gain that matters; a gain at one size and a loss at
    another are inconclusive.
    """
    causes = [
        gained(each, smallest, seeds=seeds, above_chance=above)[1]
        for each, above in zip(found, above_chance, strict=True)
    ]
    causes = [cause for cause in causes if cause != "near chance"]
    if not causes:
        return "open", "near chance"
    if "higher" in causes:
        return ("open", "mixed") if "lower" in causes else ("yes", "higher")
    if "lower" in causes:
        return "no", "lower"
    for cause in ("one seed", "identical", "undefined"):
        if all(each == cause for each in causes):
            return "open", cause
    same = ("negligible", "identical")
    if "negligible" in causes and all(cause in same for cause in causes):
        return "no", "negligible"
    return "open", "undecided"


def performance(ways: Trainings, found: Difference, *, above_chance: bool) -> Verdict:
    """Return the verdict on claim 4, on the difference of the mean score over the tasks."""
    first, second = AFTER[ways.first], AFTER[ways.second]
    reasons: dict[Cause, str] = {
        "undefined": "a score is undefined in some seed.",
        "identical": "in every seed both reach the same mean score, so that nothing was compared.",
        "higher": f"the mean score over the tasks is higher {first}.",
        "lower": f"the mean score over the tasks is lower {first}.",
        "negligible": _negligible(first),
        "undecided": _undecided(first, second),
    }
    return _judged(
        better(ways.first, ways.second), ways, found, SMALLEST_GAIN, above_chance, reasons
    )


def specialized_by_iat(ways: Trainings, found: Difference, *, above_chance: bool) -> Verdict:
    """Return the verdict on claim 3, on the difference of the mean D-score in percent."""
    reasons: dict[Cause, str] = {
        "undefined": "the D-score is undefined in some seed.",
        "identical": "in every seed the D-scores with and without IAT are the same, so that "
        "nothing was compared.",
        "higher": "after IAT the tasks depend more on heads of their own.",
        "lower": "after IAT the tasks depend less on heads of their own.",
        "negligible": f"if IAT raises the D-score, it is by less than {SMALLEST_D_CHANGE:g} %, "
        f"the smallest change of interest.",
        "undecided": "the seeds do not tell the D-scores with and without IAT apart.",
    }
    return _judged(SPECIALIZED_BY_IAT, ways, found, SMALLEST_D_CHANGE, above_chance, reasons)


def transfer(
    ways: Trainings,
    sizes: Sequence[int],
    found: Sequence[Difference],
    *,
    above_chance: Sequence[bool],
) -> Verdict:
    """Return the verdict on claim 5, on the difference with each number of training examples.

    Their p are corrected (Holm). `above_chance` says of each size whether some start is clearly
    better than chance there. The effect among its numbers is that with most examples.
    """
    claim, rows = transfers(ways.first, ways.second), zip(sizes, found, above_chance, strict=True)
    usable = [(size, each) for size, each, above in rows if above]
    better = [size for size, each in usable if each.is_better]
    worse = [size for size, each in usable if each.is_worse]
    numbers = known(
        sizes=len(found),
        sizes_above_chance=len(usable),
        sizes_higher=len(better),
        sizes_lower=len(worse),
        mean=found[-1].mean,
        low=found[-1].low,
        high=found[-1].high,
        p=found[-1].p,
        seeds=ways.seeds,
        smallest_effect=SMALLEST_GAIN,
    )
    if _is_mostly_before(ways):
        return Verdict(claim, "open", (_mostly_before(ways),), {**numbers, **UNUSABLE})
    answer, cause = gained_anywhere(
        found, SMALLEST_GAIN, seeds=ways.seeds, above_chance=above_chance
    )
    first, second = AFTER[ways.first], AFTER[ways.second]
    reasons: dict[Cause, str] = {
        "undefined": "every score is undefined in some seed.",
        "one seed": _ONE_SEED,
        "near chance": "no start is clearly above chance with any number of examples.",
        "identical": "in every seed both starts give the same scores, so that nothing was "
        "compared.",
        "mixed": f"{first} it is learned better with {_in_words(better)} examples, and worse with "
        f"{_in_words(worse)}.",
        "higher": f"with {_in_words(better)} training examples the score is higher {first}.",
        "lower": f"with {_in_words(worse)} training examples the score is lower {first}.",
        "negligible": _negligible(first),
        "undecided": _undecided(first, second),
    }
    if not usable:
        numbers |= UNUSABLE
    return Verdict(claim, answer, (reasons[cause],), numbers)


_ONE_SEED = "one seed alone does not show how much another would differ."


def _judged(
    claim: str,
    ways: Trainings,
    found: Difference,
    smallest: float,
    above_chance: bool,
    reasons: Mapping[Cause, str],
) -> Verdict:
    """The verdict on one difference."""
    numbers = known(
        mean=found.mean,
        low=found.low,
        high=found.high,
        p=found.p,
        seeds=ways.seeds,
        smallest_effect=smallest,
    )
    if _is_mostly_before(ways):
        return Verdict(claim, "open", (_mostly_before(ways),), {**numbers, **UNUSABLE})
    answer, cause = gained(found, smallest, seeds=ways.seeds, above_chance=above_chance)
    general: dict[Cause, str] = {
        "one seed": _ONE_SEED,
        "near chance": "too few tasks are clearly above chance to tell.",
    }
    unusable = UNUSABLE if cause in general else {}
    return Verdict(claim, answer, (general.get(cause) or reasons[cause],), {**numbers, **unusable})


def _is_mostly_before(ways: Trainings) -> bool:
    """Whether too few seeds show IAT at all, or none does."""
    return ways.seeds > 1 and 2 * ways.before_iat > ways.seeds


def _mostly_before(ways: Trainings) -> str:
    """Why a study of which too few seeds show IAT at all is inconclusive."""
    every = ways.before_iat == ways.seeds
    which = "every seed" if every else f"{ways.before_iat} of {ways.seeds} seeds"
    return (
        f"in {which} the chosen checkpoint is from before IAT began, so that it is a model of "
        f"ordinary multi-task training."
    )


def _negligible(first: str) -> str:
    return f"if there is any gain {first}, it is below {SMALLEST_GAIN}, the smallest of interest."


def _undecided(first: str, second: str) -> str:
    return f"the seeds do not tell the score {first} from that {second}."


def _in_words(sizes: Sequence[int]) -> str:
    """`17`, `17 and 170`, `17, 170 and 1,702`."""
    return listed([f"{size:,}" for size in sizes])
