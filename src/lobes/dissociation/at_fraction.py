"""The D-scores of a lesion matrix at one fraction, with their intervals and tests.

`LesionMatrix.dissociation` says what is computed; `dscores.py` has the formulas, `pairs.py` the
verdict on each pair of tasks, `over_fractions.py` one test for several fractions.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lobes import limits
from lobes.dissociation.dscores import FORMULAS, Dissociation, d_score
from lobes.dissociation.pairs import controls_needed, pair_verdicts, pairs_of
from lobes.dissociation.statistics import named_generator, paired_p_value
from lobes.dissociation.verdict import ALPHA
from lobes.errors import ConfigError
from lobes.metrics import get_metric

if TYPE_CHECKING:
    import lobes.dissociation.matrix


def dissociation_at(
    matrix: "lobes.dissociation.matrix.LesionMatrix",
    fraction: float | None,
    *,
    resamples: int,
    seed: int,
    level: float,
    chance: bool,
) -> Dissociation:
    """Return the D-scores of a matrix at one fraction: `LesionMatrix.dissociation`."""
    for name, value, limit in (
        ("resamples", resamples, replace(limits.RESAMPLES, least=1)),
        ("seed", seed, limits.SEED),
        ("level", level, limits.LEVEL),
    ):
        limits.check_number(name, value, limit)
    chosen = matrix.fraction_of(fraction)
    whole = matrix.reference
    _check_complete(matrix, chosen)
    _check_complete(whole, chosen)
    zero, there = _zeros(matrix, chance), _zeros(whole, chance)
    base = matrix.divisors(level, zero=zero)
    scores = matrix.oriented(matrix.changes(matrix.scores(chosen), matrix.base) - zero)
    same_base = np.where(np.isnan(base), np.nan, matrix.scaled(whole.base - there))
    some_base, some_scores = matrix.drawn(chosen, resamples, seed, level, zero=zero)
    compared, exchanged, random = (
        matrix.oriented(matrix.changes(each, whole.base) - there)
        for each in (
            whole.scores(chosen),
            whole.control_scores(chosen),
            whole.random_scores(chosen),
        )
    )
    reasons = _undefined(matrix, base, scores, zero, level)
    d_scores = {
        name: d_score(
            name,
            formula(scores, base),
            formula(some_scores, some_base),
            formula(exchanged, same_base),
            formula(random, same_base),
            formula(compared, same_base),
            level,
            reasons,
        )
        for name, formula in FORMULAS.items()
    }
    references = matrix.pair_effects(chosen)
    n_controls = min((len(each.replicates) for each in references), default=0)
    p_values = _paired_tests(matrix, chosen, resamples, seed, n_controls)
    exchange = matrix.exchange
    return Dissociation(
        matrix.tasks,
        chosen,
        **d_scores,
        pairs=pair_verdicts(
            matrix.tasks, scores, p_values, some_scores, level, references, matrix.above_chance
        ),
        level=level,
        resamples=resamples,
        above_chance=matrix.above_chance,
        chance=chance,
        exchangeable=0 if exchange is None else exchange.movable(chosen),
        deals=None if exchange is None else exchange.deals(),
    )


def _check_complete(matrix: "lobes.dissociation.matrix.LesionMatrix", fraction: float) -> None:
    if len(matrix.tasks) < 2:
        raise ConfigError(
            f"A D-score compares tasks: two or more are needed, and this matrix has only "
            f"{matrix.tasks[0]!r}."
        )
    present = {
        (item.kind, item.replicate, item.task)
        for item in matrix.lesions
        if item.fraction == fraction
    }
    for kind, replicate in sorted({(kind, replicate) for kind, replicate, _ in present}):
        missing = [task for task in matrix.tasks if (kind, replicate, task) not in present]
        if missing:
            which = "lesion" if kind == "task" else f"{kind} lesion (replicate {replicate})"
            raise ConfigError(
                f"D-scores at the fraction {fraction:g} need a {which} for every task; there "
                f"is none for {', '.join(missing)}."
            )


def _zeros(
    matrix: "lobes.dissociation.matrix.LesionMatrix", chance: bool
) -> Float[np.ndarray, " tasks"]:
    """Where the scores are measured from."""
    unbounded = np.array([get_metric(name).is_unbounded for name in matrix.metrics])
    return np.where(unbounded | (not chance), 0.0, matrix.chance)


def _undefined(
    matrix: "lobes.dissociation.matrix.LesionMatrix",
    base: Float[np.ndarray, " tasks"],
    scores: Float[np.ndarray, "tasks tasks"],
    zero: Float[np.ndarray, " tasks"],
    level: float,
) -> list[str]:
    """Why tasks have no D-score: a sentence for each."""
    reasons = []
    rows = zip(
        matrix.tasks, matrix.metrics, matrix.base, matrix.base_intervals(level), zero, strict=True
    )
    for j, (task, name, score, (low, high), start) in enumerate(rows):
        if np.isnan(score) or np.isnan(scores[:, j]).any():
            reasons.append(
                f"The {name} of {task} is undefined: labels or predictions are constant."
            )
        elif np.isnan(base[j]) and get_metric(name).is_unbounded:
            reasons.append(
                f"Every example of {task} has the same {name}: there is no spread to measure "
                f"a D-score in."
            )
        elif np.isnan(base[j]):
            reasons.append(
                f"The base score of {task} ({name} {score:.3f}, {100 * level:g} % "
                f"interval {low:.3f} to {high:.3f}) is too close to "
                f"{f'chance ({start:.3f})' if start else 'zero'}, or below it, to be "
                f"divided by."
            )
    return reasons


def _paired_tests(
    matrix: "lobes.dissociation.matrix.LesionMatrix",
    fraction: float,
    resamples: int,
    seed: int,
    controls: int,
) -> list[tuple[float, float]]:
    """The p of both effects of every pair of tasks."""
    pairs, draws = pairs_of(matrix.tasks), resamples
    if controls >= controls_needed(len(pairs)):
        # So that the smallest possible p of a pair can pass the correction for all of them;
        # with fewer controls no pair can be called, whatever its p.
        draws = max(resamples, round(2 / ALPHA) * len(pairs))
    places = [matrix.lesions.index(matrix.lesion(task, fraction)) for task in matrix.tasks]

    def p_that(i: int, j: int) -> float:
        """p that task i's own heads matter more to it than task j's."""
        task, other = matrix.tasks[i], matrix.tasks[j]
        own, others = (matrix.predictions[task][places[k]] for k in (i, j))
        if get_metric(matrix.metrics[i]).is_unbounded:
            own, others = own / matrix.units[i], others / matrix.units[i]
        return paired_p_value(
            get_metric(matrix.metrics[i]),
            matrix.labels[task],
            *((others, own) if matrix.keep else (own, others)),
            draws=draws,
            generator=named_generator(seed, task, other),
        )

    return [(p_that(i, j), p_that(j, i)) for i, j in pairs]
