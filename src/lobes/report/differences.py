"""A difference between two ways to train, over seeds: when it counts, and how it is said.

An answer is "yes" or "no" only where the seeds say so: at p < 0.05 (paired t-test), or "no" where
even the upper end of the interval is negligible. Otherwise the question is "open".
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lobes.report import words
from lobes.report.findings import LEVEL, Results

# A gain that stays below this is none: half a point of a score, one percent of a D-score.
NEGLIGIBLE_SCORE = 0.005
NEGLIGIBLE_D_SCORE = 1.0
FEW_SEEDS = 5

# After which training a score was reached.
AFTER = {
    "single": "after single-task training",
    "multi": "after ordinary multi-task training",
    "iat": "after IAT",
    "frozen": "with a frozen encoder",
    "probe": "with a linear probe",
    "pretrained": "from the pre-trained model",
}


@dataclass(frozen=True)
class Difference:
    """A mean difference between two methods over seeds; nan = undefined."""

    mean: float
    low: float
    high: float
    p: float

    @classmethod
    def of(cls, data: Mapping[str, Any], p: str = "p") -> "Difference":
        """From an entry of a summary; `p` names the p-value that counts."""
        return cls(*(words.number(data.get(key)) for key in ("mean", "low", "high", p)))

    @property
    def is_better(self) -> bool:
        """The first method is better, at the level of the verdicts."""
        return self.p < LEVEL and self.mean > 0

    @property
    def is_worse(self) -> bool:
        """The first method is worse, at the level of the verdicts."""
        return self.p < LEVEL and self.mean < 0


def main_pair(summary: Results) -> Results | None:
    """The comparison that the headline speaks of: IAT with ordinary training where both ran."""
    return summary["differences"][0] if summary["differences"] else None


def difference_of(summary: Results, first: str, second: str) -> Results | None:
    """The entry of first − second, or None where one of the two was not run."""
    for entry in summary["differences"]:
        if (entry["first"], entry["second"]) == (first, second):
            return dict(entry)
    return None


def model_of(study: Results) -> str:
    return study["model"].get("name") or "the model"


def unusable(study: Results, difference: Difference, what: str) -> str:
    """Why nothing can be said of a difference at all, or nothing."""
    if not math.isfinite(difference.mean):
        return f"Cannot be said: {what} is undefined in some seed."
    if len(study["seeds"]) == 1:
        return "Cannot be said: one seed alone does not show how much another would differ."
    return ""


def seed_caveats(study: Results) -> list[str]:
    count = len(study["seeds"])
    if count == 1:
        return ["With one seed there is neither an interval nor a test: run three or more."]
    if count < FEW_SEEDS:
        return [
            f"{count} seeds make wide intervals: only a large difference can show. Run "
            f"{FEW_SEEDS} or more."
        ]
    return []


def highest(means: Sequence[object]) -> float | None:
    """The highest mean that is defined."""
    return max((v for v in map(words.number, means) if math.isfinite(v)), default=None)


def seeds_of(study: Results) -> str:
    return words.plural(len(study["seeds"]), "seed")


def in_words(
    study: Results,
    found: Difference,
    show: Callable[[float], str] = words.difference,
    corrected: str = "",
) -> str:
    """`+0.0061 (95 % interval −0.0010 to +0.0132, p = 0.070)`; without what is undefined.

    `corrected` says how p is corrected: the interval is not.
    """
    text = show(found.mean)
    if not math.isfinite(found.low):
        return text
    level = words.percent(words.number(study.get("level", 0.95)))
    return (
        f"{text} ({level} interval {words.interval(found.low, found.high, show)}, "
        f"{corrected}{words.p_equals(found.p)})"
    )
