"""A difference between two ways to train, over seeds: when it counts, and how it is said.

The rule is `gained` of `lobes.dissociation.verdict`: "yes" or "no" at p ≤ 0.05 (paired t-test), or
"no" where even the upper end of the interval is negligible. Otherwise it is inconclusive.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lobes.dissociation.verdict import Cause, Gain
from lobes.report import formatting as fmt
from lobes.report.findings import Results

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


class Difference(Gain):
    """A mean difference between two methods over seeds; nan = undefined."""

    @classmethod
    def of(cls, data: Mapping[str, Any], p: str = "p") -> "Difference":
        """From an entry of a summary; `p` names the p-value that counts."""
        return cls(*(fmt.number(data.get(key)) for key in ("mean", "low", "high", p)))


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


def not_usable(cause: Cause, what: str, both: str) -> str:
    """The headline where nothing can be said of a difference at all, or nothing.

    `what` is undefined where the cause is that; `both` is what is the same in every seed.
    """
    return {
        "undefined": f"Inconclusive: {what} is undefined in some seed.",
        "one seed": "Inconclusive: one seed alone does not show how much another would differ.",
        "near chance": "Inconclusive: too few tasks are done clearly better than chance to tell.",
        "identical": f"Inconclusive: in every seed {both}, so that nothing was compared.",
    }.get(cause, "")


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
    return max((v for v in map(fmt.number, means) if math.isfinite(v)), default=None)


def seeds_of(study: Results) -> str:
    return fmt.plural(len(study["seeds"]), "seed")


def in_words(
    study: Results,
    found: Difference,
    show: Callable[[float], str] = fmt.difference,
    corrected: str = "",
) -> str:
    """`+0.0061 (95 % interval −0.0010 to +0.0132, p = 0.070)`; without what is undefined.

    `corrected` says how p is corrected: the interval is not.
    """
    text = show(found.mean)
    if not math.isfinite(found.low):
        return text
    level = fmt.percent(fmt.number(study.get("level", 0.95)))
    return (
        f"{text} ({level} interval {fmt.interval(found.low, found.high, show)}, "
        f"{corrected}{fmt.p_equals(found.p)})"
    )
