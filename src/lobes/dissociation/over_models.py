"""Verdicts of several models on one claim, taken together: a random-effects meta-analysis.

Each model k of K has an effect y_k with an interval, whose standard error e_k is half the width
over the normal quantile, so that the wider intervals of few seeds weigh less. Effects differ from
model to model with variance τ² (DerSimonian and Laird 1986, from Cochran's Q):

    w_k = 1 / e_k²            τ² = max(0, (Q − (K − 1)) / (Σ w − Σ w² / Σ w))
    v_k = 1 / (e_k² + τ²)     mean = Σ v y / Σ v

Its interval is Student's with K − 1 degrees of freedom and the variance of Hartung and Knapp
(2001), max(1, Σ v (y − mean)² / (K − 1)) / Σ v; the bound 1 keeps it from becoming narrower than
without them (Röver, Knapp and Friede 2015). With few models this holds its level, which the normal
interval of DerSimonian and Laird does not.

Whether heads are specialized is tested against exchanged heads in each model, which the interval of
a D-score does not replace. These p are combined by Fisher's −2 Σ log p. NumPy and SciPy only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from lobes.dissociation.verdict import (
    SPECIALIZED,
    Answer,
    Verdict,
    answer_of,
    is_significant,
    known,
)
from lobes.errors import ConfigError


@dataclass(frozen=True, slots=True)
class RandomEffects:
    """The mean effect over models, its interval, and p, two-sided, that it is 0.

    `spread` is τ, the standard deviation of true effects between models.
    """

    mean: float
    low: float
    high: float
    p: float
    spread: float
    models: int


def random_effects(
    effects: Sequence[float], errors: Sequence[float], *, level: float = 0.95
) -> RandomEffects:
    """Return the mean of models' effects with these standard errors, as at the head of this file.

    Raises `ConfigError` for fewer than two models, or errors that are not above 0.
    """
    y, e = np.asarray(effects, dtype=float), np.asarray(errors, dtype=float)
    if len(y) < 2 or y.shape != e.shape or not np.isfinite(y).all() or not (e > 0).all():
        raise ConfigError(
            f"The effects are {[*effects]} with the standard errors {[*errors]}; expected two or "
            f"more of each, errors above 0."
        )
    w, freedom = 1 / e**2, len(y) - 1
    q = float(np.sum(w * (y - np.average(y, weights=w)) ** 2))
    between = max(0.0, (q - freedom) / float(w.sum() - np.sum(w**2) / w.sum()))
    v = 1 / (e**2 + between)
    mean = float(np.average(y, weights=v))
    variance = max(1.0, float(np.sum(v * (y - mean) ** 2)) / freedom) / float(v.sum())
    error = math.sqrt(variance)
    reach = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, freedom))
    return RandomEffects(mean, mean - reach, mean + reach, p, math.sqrt(between), len(y))


def has_effect(found: Verdict) -> bool:
    """Return whether a verdict is of a study that could tell, with an interval of some width."""
    numbers = found.numbers
    return (
        "usable" not in numbers
        and "mean" in numbers
        and numbers.get("high", 0.0) > numbers.get("low", 0.0)
    )


def over_models(found: Sequence[Verdict], *, level: float = 0.95) -> Verdict:
    """Return the verdict over models on the claim of their verdicts, which have effects.

    "Yes" needs p ≤ 0.05 and an interval above 0; "no" an interval below 0, or p > 0.05 and an
    interval that ends below the smallest effect of interest (`answer_of`). p of the claim on
    specialized heads is that of the exchanges in all models. Its numbers: mean, low, high, p,
    spread, models, smallest_effect. Raises `ConfigError` as `random_effects` does.
    """
    quantile = float(stats.norm.ppf((1 + level) / 2))
    numbers = [each.numbers for each in found]
    claim, smallest = found[0].claim, numbers[0].get("smallest_effect", 0.0)
    errors = [(each["high"] - each["low"]) / 2 / quantile for each in numbers]
    pooled = random_effects([each["mean"] for each in numbers], errors, level=level)
    p = _fisher([each.get("p", math.nan) for each in numbers]) if claim == SPECIALIZED else pooled.p
    answer, reason = _answer(pooled, p, smallest, against_exchanged=claim == SPECIALIZED)
    return Verdict(
        claim,
        answer,
        (f"over {pooled.models} models {reason}",),
        known(
            mean=pooled.mean,
            low=pooled.low,
            high=pooled.high,
            p=p,
            spread=pooled.spread,
            models=pooled.models,
            smallest_effect=smallest,
        ),
    )


def _fisher(p: Sequence[float]) -> float:
    """p over the models; NaN where one is undefined."""
    if not all(math.isfinite(each) for each in p):
        return math.nan
    return float(stats.combine_pvalues(p, method="fisher").pvalue)


def _answer(
    pooled: RandomEffects, p: float, smallest: float, *, against_exchanged: bool
) -> tuple[Answer, str]:
    answer = answer_of(p, pooled.low, pooled.high, smallest)
    if answer == "yes":
        beyond = ", and beyond that of exchanged heads" if against_exchanged else ""
        return answer, f"the mean effect is above 0{beyond}."
    if pooled.high < 0:
        return answer, "the mean effect is below 0."
    if answer == "no":
        return answer, f"any mean effect is below {smallest:g}, the smallest of interest."
    if pooled.low > 0:
        return answer, "the mean effect is above 0, and not told from that of exchanged heads."
    if against_exchanged and is_significant(p):
        return answer, (
            "the mean effect exceeds that of exchanged heads, but its interval includes 0."
        )
    return answer, "the mean effect is not told from 0."
