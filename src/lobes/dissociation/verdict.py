"""The rule by which a study answers yes, no or inconclusive (docs/method.md#verdicts).

"Yes" needs p ≤ 0.05 and an interval on the right side of 0. "No" needs a study that could have
said yes, and an interval that ends below the smallest effect of interest. Everything else is
inconclusive, `"open"`. Each rule takes plain numbers, so that a lesion matrix, a page made of
stored results and a terminal give the same answer.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

# The level of every verdict: p at or below it is evidence.
ALPHA = 0.05
# 0.05 as a product or quotient of floats differs from 0.05 by less than this.
_ROUNDING = 1e-12

# The smallest effects of interest; docs/statistics.md says why these. A D-score in percent of the
# base score, a change of the D-score by a way to train, a difference of two scores, a correlation.
SMALLEST_D_SCORE = 5.0
SMALLEST_D_CHANGE = 1.0
SMALLEST_GAIN = 0.005
SMALLEST_CORRELATION = 0.3

Answer = Literal["yes", "no", "open"]
WORDS: Mapping[Answer, str] = {"yes": "Yes", "no": "No", "open": "Inconclusive"}


def is_significant(p: float) -> bool:
    """Return whether p is 0.05 or less; an undefined p (NaN) is not."""
    return bool(p <= ALPHA + _ROUNDING)


def smallest_p(n_controls: int) -> float:
    """Return the smallest p that so many random lesions allow, 1 / (1 + R); NaN without any."""
    return 1 / (1 + n_controls) if n_controls else math.nan


def controls_needed(n_tests: int = 1) -> int:
    """Return how many random lesions allow a p of 0.05 in one of so many tests, Holm-corrected.

    The smallest p times the number of tests must reach 0.05, so R ≥ 20 · tests − 1.
    """
    return round(n_tests / ALPHA) - 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer to one claim, its reasons as sentences, and the numbers that decide it.

    `answer` is "yes", "no", or "open" for inconclusive. The first reason is the one that decides.
    Numbers that are undefined are left out.
    """

    claim: str
    answer: Answer
    reasons: tuple[str, ...]
    numbers: Mapping[str, float] = field(default_factory=dict)

    @property
    def headline(self) -> str:
        """The answer and the reason that decides: `No: the D-score …`."""
        return f"{WORDS[self.answer]}: {self.reasons[0]}"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What decides whether heads are specialized, in one run or over several.

    The mean `column` D-score in percent with its interval, p against `controls` random lesions,
    the number of tasks, and of those that the model does clearly better than chance. `runs` is
    None for one run by itself. NaN is undefined.
    """

    mean: float
    low: float
    high: float
    p: float
    controls: int
    tasks: int
    above_chance: int
    runs: int | None = None


def known(**numbers: float) -> dict[str, float]:
    """Return the numbers of a verdict that are defined."""
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


SPECIALIZED = "The attention heads are specialized for the tasks."


def undecided(reason: str, claim: str = SPECIALIZED) -> Verdict:
    """Return an inconclusive verdict for a reason outside the numbers."""
    return Verdict(claim, "open", (reason,))


def specialized(found: Evidence) -> Verdict:
    """Return the verdict on claim 1 of docs/method.md#claims: heads are specialized for tasks."""
    numbers = known(
        mean=found.mean,
        low=found.low,
        high=found.high,
        p=found.p,
        controls=found.controls,
        smallest_effect=SMALLEST_D_SCORE,
    )
    obstacle = _obstacle(found)
    if obstacle:
        return Verdict(SPECIALIZED, "open", (obstacle,), numbers)
    answer, reason = _decided(found)
    return Verdict(SPECIALIZED, answer, (reason,), numbers)


def _obstacle(found: Evidence) -> str:
    """Why a study could not have said yes whatever its D-score; empty if it could."""
    which = "D-score" if found.runs is None else "mean D-score"
    if found.tasks < 2:
        return "a dissociation needs at least two tasks, here is one."
    if not math.isfinite(found.mean):
        return f"the {which} is undefined here."
    if found.above_chance < 2:
        done = "only one task is" if found.above_chance else "no task is"
        return f"{done} done clearly better than chance, and a dissociation needs two."
    if found.runs == 1:
        return "one run alone does not show how much another would differ."
    if not found.controls or not math.isfinite(found.p):
        return "no random lesions were measured to compare with."
    if found.controls < controls_needed():
        lesions = (
            "1 random lesion allows"
            if found.controls == 1
            else (f"{found.controls} random lesions allow")
        )
        return (
            f"{lesions} no p below {smallest_p(found.controls):.3f}; "
            f"{controls_needed()} or more can reach {ALPHA:g}."
        )
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return f"the interval of the {which} is undefined."
    return ""


def _decided(found: Evidence) -> tuple[Answer, str]:
    over = "" if found.runs is None else "over the runs, "
    stands_out = is_significant(found.p)
    if stands_out and found.low > 0:
        return "yes", f"{over}each task's own heads matter more to it than the other tasks' heads."
    if found.high < 0:
        return "no", f"{over}the tasks suffer less from their own lesion than from the others'."
    if stands_out:
        return "open", f"{over}the D-score exceeds random lesions, but its interval includes 0."
    opening = f"{over}the D-score does not stand out from random lesions"
    smallest = f"{SMALLEST_D_SCORE:g} %, the smallest effect of interest"
    if found.high < SMALLEST_D_SCORE:
        return "no", f"{opening}, and its interval ends below {smallest}."
    return "open", f"{opening}, but its interval (up to {found.high:+.1f} %) reaches {smallest}."


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
class Gain:
    """A mean difference between two ways to train over seeds, with its interval; NaN: undefined."""

    mean: float
    low: float
    high: float
    p: float

    @property
    def is_better(self) -> bool:
        """The first way is better, at the level of the verdicts."""
        return is_significant(self.p) and self.mean > 0

    @property
    def is_worse(self) -> bool:
        """The first way is worse, at the level of the verdicts."""
        return is_significant(self.p) and self.mean < 0


def gained(gain: Gain, smallest: float, *, seeds: int, above_chance: bool) -> tuple[Answer, Cause]:
    """Return the answer on one difference over seeds, and its cause.

    `smallest` is the least gain that matters: "no" needs an interval that ends below it, or a
    loss. The interval must have a width, since a few differences that happen to be equal say
    nothing of the next one; where all are 0, nothing was compared. `above_chance` says whether the
    scores could show a difference: whether at least two tasks (the task, if there is one) are done
    clearly better than chance.
    """
    if not math.isfinite(gain.mean):
        return "open", "undefined"
    if seeds < 2:
        return "open", "one seed"
    if not above_chance:
        return "open", "near chance"
    if gain.low == gain.high == 0:
        return "open", "identical"
    if gain.is_better:
        return "yes", "higher"
    if gain.is_worse:
        return "no", "lower"
    return ("no", "negligible") if gain.low < gain.high < smallest else ("open", "undecided")


def gained_anywhere(
    gains: Sequence[Gain], smallest: float, *, seeds: int, above_chance: Sequence[bool]
) -> tuple[Answer, Cause]:
    """Return the answer on differences at several sizes of data, whose p are corrected (Holm).

    Sizes at which nothing is learned yet can show nothing and are left out. "No" needs a loss at
    some size, or every size to exclude a gain that matters; a gain at one size and a loss at
    another are inconclusive.
    """
    found = [
        gained(gain, smallest, seeds=seeds, above_chance=above)
        for gain, above in zip(gains, above_chance, strict=True)
    ]
    usable = [each for each in found if each[1] != "near chance"]
    if not usable:
        return "open", "near chance"
    causes = [cause for _, cause in usable]
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
