"""The rule by which a study answers yes, no or inconclusive (docs/method.md#verdicts).

"Yes" needs p ≤ 0.05 and an interval on the right side of 0. "No" needs a study that could have
said yes, and an interval that ends below the smallest effect of interest. Everything else is
inconclusive, `"open"`. Each rule takes plain numbers, so that a lesion matrix, a page made of
stored results and a terminal give the same answer.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
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

_MOST_NAMED = 3  # tasks in a reason

Answer = Literal["yes", "no", "open"]
WORDS: Mapping[Answer, str] = {"yes": "Yes", "no": "No", "open": "Inconclusive"}


def is_significant(p: float) -> bool:
    """Return whether p is 0.05 or less; an undefined p (NaN) is not."""
    return bool(p <= ALPHA + _ROUNDING)


def answer_of(p: float, low: float, high: float, smallest: float) -> Answer:
    """Return the answer on an effect tested by p, with an interval: the rule of claim 1.

    "Yes" where p is significant and the interval above 0. "No" where it is below 0, or p is not
    significant and it ends below the `smallest` effect of interest.
    """
    if is_significant(p) and low > 0:
        return "yes"
    return "no" if high < 0 or (high < smallest and not is_significant(p)) else "open"


def smallest_p(n_controls: int) -> float:
    """Return the smallest p that so many exchanges allow, 1 / (1 + R); NaN without any."""
    return 1 / (1 + n_controls) if n_controls else math.nan


def controls_needed(n_tests: int = 1) -> int:
    """Return how many exchanges allow a p of 0.05 in one of so many tests, Holm-corrected.

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

    The mean `column` D-score in percent with its interval, p against `controls` exchanges of the
    tasks' heads, the number of tasks, and of those that the model does clearly better than chance.
    `exchangeable` is the number of heads that can be exchanged and `deals` in how many ways, where
    that is known. With several `fractions` p is over all of them, the interval that of the one
    that stands out most, and `reach` the largest upper end of all. `runs` is None for one run by
    itself. `without` are the tasks whose own D-score is 0 or below, `undefined` those that have
    none. NaN is undefined.
    """

    mean: float
    low: float
    high: float
    p: float
    controls: int
    tasks: int
    above_chance: int
    exchangeable: int
    deals: int | None = None
    fractions: int = 1
    reach: float = math.nan
    runs: int | None = None
    without: tuple[str, ...] = ()
    undefined: tuple[str, ...] = ()


# Among the numbers of a verdict of a study that could not have said yes, or shows something else.
UNUSABLE: Mapping[str, float] = {"usable": 0.0}


def not_above_0(tasks: Sequence[str], d_scores: Sequence[float]) -> tuple[str, ...]:
    """Return the tasks whose D-score is 0 or below."""
    return tuple(task for task, d in zip(tasks, d_scores, strict=True) if d <= 0)


def without_d_score(tasks: Sequence[str], d_scores: Sequence[float]) -> tuple[str, ...]:
    """Return the tasks whose D-score is undefined."""
    return tuple(task for task, d in zip(tasks, d_scores, strict=True) if math.isnan(d))


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
        exchangeable=found.exchangeable,
        smallest_effect=SMALLEST_D_SCORE,
    )
    obstacle = _obstacle(found)
    if obstacle:
        return Verdict(SPECIALIZED, "open", (obstacle,), {**numbers, **UNUSABLE})
    answer, reason = _decided(found)
    return Verdict(SPECIALIZED, answer, (reason,), numbers)


_ONE_RUN = "one run alone does not show how much another would differ."


def _obstacle(found: Evidence) -> str:
    """Why a study could not have said yes whatever its D-score; empty if it could."""
    which = "D-score" if found.runs is None else "mean D-score"
    if found.tasks < 2:
        return "a dissociation needs at least two tasks, here is one."
    if not math.isfinite(found.mean):
        return f"the {which} is undefined here."
    if found.above_chance < 2:
        return _too_few_above(found.above_chance)
    if found.runs == 1:
        return _ONE_RUN
    if not found.exchangeable:
        return "the tasks share all of their important heads, so that none can be exchanged."
    if not found.controls:
        return "no exchanged lesions were measured to compare with."
    if not math.isfinite(found.p):
        return f"the {which} is undefined on the examples of the exchanged lesions."
    if found.controls < controls_needed():
        allow = "exchange allows" if found.controls == 1 else "exchanges allow"
        return (
            f"{found.controls} {allow} no p below "
            f"{smallest_p(found.controls):.3f}; {controls_needed()} or more can reach {ALPHA:g}."
        )
    if found.deals is not None and not is_significant(1 / found.deals):
        return (
            f"the {found.exchangeable} heads that the tasks do not share can be exchanged in only "
            f"{found.deals} ways, which allow no p below {1 / found.deals:.3f}."
        )
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return f"the interval of the {which} is undefined."
    return ""


def _too_few_above(tasks: int) -> str:
    done = "only one task is" if tasks else "no task is"
    return f"{done} clearly above chance, and a dissociation needs two."


def all_fractions(number: int) -> str:
    """Return what a p is over: `both fractions`, `all 3 fractions`."""
    return "both fractions" if number == 2 else f"all {number} fractions"


def _decided(found: Evidence) -> tuple[Answer, str]:
    over = "" if found.runs is None else "over the runs, "
    if found.fractions > 1:
        over += f"over {all_fractions(found.fractions)}, "
    stands_out = is_significant(found.p)
    reach = found.high if found.fractions == 1 else found.reach
    answer = answer_of(found.p, found.low, reach, SMALLEST_D_SCORE)
    if answer == "yes":
        return answer, f"{over}{_matter_more(found.without, found.undefined)}"
    if reach < 0:
        return answer, f"{over}the other tasks' heads matter more to the tasks than their own."
    if stands_out:
        return answer, (
            f"{over}the D-score exceeds that of exchanged heads, but its interval includes 0."
        )
    opening = f"{over}the D-score does not stand out from that of exchanged heads"
    smallest = f"{SMALLEST_D_SCORE:g} %, the smallest effect of interest"
    if math.isnan(reach):
        return answer, f"{opening}, but at some fraction its interval is undefined."
    if answer == "no":
        return answer, f"{opening}, and its interval ends below {smallest}."
    return answer, f"{opening}, but its interval (up to {reach:+.1f} %) reaches {smallest}."


def _matter_more(without: Sequence[str], undefined: Sequence[str]) -> str:
    """What "yes" means, and the tasks of which it does not hold, or nothing is known."""
    more = "own heads matter more to it than the other tasks' heads"
    said = f"each task's {more}"
    if without:
        said = f"on average, a task's {more}, but not for {_named(without)}"
    return f"{said}{f' (undefined for {_named(undefined)})' if undefined else ''}."


def _named(tasks: Sequence[str]) -> str:
    names = ", ".join(tasks[:_MOST_NAMED])
    more = f" and {len(tasks) - _MOST_NAMED} more" if len(tasks) > _MOST_NAMED else ""
    return f"{names}{more}"


def barred_pairs(tasks: Sequence[str], above_chance: Sequence[bool]) -> str:
    """Return the sentence on pairs that cannot be called a double dissociation, or nothing.

    Those with a task that is not done clearly better than chance.
    """
    barred = [task for task, above in zip(tasks, above_chance, strict=True) if not above]
    if not barred:
        return ""
    which = ""
    if len(tasks) - len(barred) >= 2:
        which = f" with {'any of ' if len(barred) > 1 else ''}{_named(barred)}"
    return (
        f"A double dissociation takes two tasks clearly above chance: no pair{which} can be called "
        f"one."
    )


MORE_SPECIALIZED = "The heads are more specialized after multi-task training than before."


def more_specialized(
    change: float,
    low: float,
    high: float,
    *,
    after: float,
    above_chance: int,
    runs: int | None = None,
) -> Verdict:
    """Return the verdict on the second half of claim 1: the D-score grew over the training.

    The change of the mean `column` D-score with its interval and that score `after` the training,
    in percent; NaN is undefined. `above_chance` is the number of tasks clearly above chance then;
    `runs` is None for one run by itself.
    """
    numbers = known(mean=change, low=low, high=high)
    obstacle = _too_few_above(above_chance) if above_chance < 2 else _ONE_RUN if runs == 1 else ""
    if obstacle:
        return Verdict(MORE_SPECIALIZED, "open", (obstacle,), {**numbers, **UNUSABLE})
    answer, reason = _changed(change, low, high, after)
    return Verdict(MORE_SPECIALIZED, answer, (reason,), numbers)


def _changed(change: float, low: float, high: float, after: float) -> tuple[Answer, str]:
    if not math.isfinite(change):
        return "open", "the D-score is undefined before or after the training."
    if low > 0 >= after:
        return "open", "the D-score is larger than before multi-task training, but not above 0."
    if low > 0:
        return "yes", "the D-score is larger than before multi-task training."
    if high < 0:
        return "no", "the D-score is smaller than before multi-task training."
    if math.isnan(low) or math.isnan(high):
        return "open", "the interval of the change is undefined."
    return "open", "the interval of the change includes 0."


LESS_ALIKE = "The less alike two tasks are, the more they dissociate."
# Measures made without the lesions. The others are made from the very heads that the D-scores
# lesion, so that some correlation with those is there by construction.
INDEPENDENT = frozenset({"gradient"})


@dataclass(frozen=True, slots=True)
class Trend:
    """How one measure of similarity goes with the D-scores of pairs of tasks.

    The rank correlation with its interval, and p corrected for the number of measures (Holm); NaN
    is undefined, and `note` says why.
    """

    measure: str
    correlation: float
    low: float
    high: float
    p: float
    note: str = ""

    @property
    def is_independent(self) -> bool:
        """Whether the measure is made without the lesions."""
        return self.measure in INDEPENDENT

    @property
    def holds(self) -> bool:
        """Whether less alike tasks dissociate more, beyond chance, with an interval below 0."""
        return is_significant(self.p) and self.high < 0


def deciding(trends: Sequence[Trend]) -> Trend | None:
    """Return the trend that a verdict speaks of; None where no trend is defined.

    An independent one that holds comes first, then the smallest p.
    """
    return min(
        _defined(trends),
        key=lambda trend: (not (trend.is_independent and trend.holds), trend.p, trend.correlation),
        default=None,
    )


def less_alike(trends: Sequence[Trend], n_tasks: int, *, runs: int | None = None) -> Verdict:
    """Return the verdict on claim 2 of docs/method.md#claims, by every measure of similarity.

    "Yes" needs a measure that is made without the lesions. `runs` is None for one run by itself.
    """
    decides = deciding(trends)
    if decides is None:
        note = next((trend.note for trend in trends if trend.note), "No measure is defined.")
        return undecided(f"{note[0].lower()}{note[1:]}", LESS_ALIKE)
    numbers = known(
        correlation=decides.correlation,
        low=decides.low,
        high=decides.high,
        p=decides.p,
        measures=len(_defined(trends)),
        smallest_effect=-SMALLEST_CORRELATION,
    )
    if runs == 1:
        return Verdict(LESS_ALIKE, "open", (_ONE_RUN,), {**numbers, **UNUSABLE})
    answer, reason = _less_alike(trends, n_tasks)
    return Verdict(LESS_ALIKE, answer, (reason,), numbers)


def tasks_needed(n_measures: int) -> int:
    """Return how many tasks have so many orders that this number of measures can reach p ≤ 0.05."""
    return next(n for n in count(1) if is_significant(n_measures / math.factorial(n)))


def _defined(trends: Sequence[Trend]) -> list[Trend]:
    return [trend for trend in trends if math.isfinite(trend.correlation)]


def _less_alike(trends: Sequence[Trend], n_tasks: int) -> tuple[Answer, str]:
    defined = _defined(trends)
    holding = [trend for trend in defined if trend.holds]
    if any(trend.is_independent for trend in holding):
        return "yes", "the less alike two tasks are, the more they dissociate."
    if holding:
        others = any(trend.is_independent for trend in trends)
        hint = "" if others else " Setting iap.similarity_examples adds one that is not."
        return "open", (
            "only measures made from the heads of the lesions themselves go with the D-scores, "
            f"which is partly so by construction.{hint}"
        )
    if n_tasks < (needed := tasks_needed(len(defined))):
        floor = len(defined) / math.factorial(n_tasks)
        return "open", f"{n_tasks} tasks allow no corrected p below {floor:.3f}: it takes {needed}."
    nothing = "no measure of similarity goes with the D-scores beyond chance"
    beyond = [trend.measure for trend in defined if is_significant(trend.p)]
    if beyond:
        nothing = (
            f"{listed(beyond)} {'go' if beyond[1:] else 'goes'} with the D-scores beyond chance "
            f"(p), but with no interval below 0"
        )
    smallest = f"a correlation of {-SMALLEST_CORRELATION:g}, the smallest of interest"
    reaching = [trend.measure for trend in defined if not trend.low > -SMALLEST_CORRELATION]
    if reaching:
        link = "and" if beyond else "but"
        return "open", f"{nothing}, {link} the interval of {listed(reaching)} reaches {smallest}."
    return "no", f"{nothing}, and every interval excludes {smallest}."


def listed(names: Sequence[str]) -> str:
    """Return `a`, `a and b`, `a, b and c`; empty for none."""
    *before, last = names or [""]
    return f"{', '.join(before)} and {last}" if before else last
