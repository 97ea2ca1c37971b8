"""The verdicts on the method's claims (docs/method.md#claims) that one run can speak to.

Claim 1, heads are specialised, and more so than before multi-task training; claim 2, the less alike
two tasks are, the more they dissociate. What training for specialisation does needs `lobes
compare` and `lobes transfer`.
"""

import math
from dataclasses import dataclass

from lobes.dissociation.verdict import Answer
from lobes.report import formatting as fmt
from lobes.report import growth, task_similarity
from lobes.report.findings import Findings, Results, controls_of, largest, model_score


@dataclass(frozen=True)
class Claim:
    """A claim, the answer, its reason in one sentence, and the numbers that say how sure it is.

    `part` is the id of the section with the details.
    """

    statement: str
    answer: Answer
    headline: str
    sure: str
    part: str


def claims(results: Results, found: Findings) -> tuple[Claim, ...]:
    """The claims that these results speak to; `found` are the findings of the same results."""
    shown = [
        Claim(
            "1. The attention heads are specialised for the tasks.",
            found.answer,
            found.headline,
            _sure(results),
            "findings",
        )
    ]
    grown = growth.verdict(results)
    if grown is not None:
        statement = "1. They are more so after multi-task training than before."
        shown.append(Claim(statement, *grown, "growth"))
    if results.get("similarity"):
        statement = "2. The less alike two tasks are, the more they dissociate."
        shown.append(Claim(statement, *task_similarity.verdict(results), "likeness"))
    return tuple(shown)


def _sure(results: Results) -> str:
    entry = largest(results)
    score = model_score(entry)
    if entry is None or score is None or not math.isfinite(score.mean):
        return fmt.UNDEFINED
    text = (
        f"D-score {fmt.points(score.mean)}{fmt.GAP}% "
        f"(interval {fmt.interval(score.low, score.high)})"
    )
    if math.isfinite(score.p):
        text += f", {fmt.p_equals(score.p)} against {controls_of(entry)}"
    return text
