"""Double dissociations: pairs of tasks that each lose more from their own lesion.

Definition: docs/method.md#double-dissociation.

A pair is doubly dissociated where two tests hold. On the examples: each task does better under the
other's lesion than under its own (paired), more than other examples would change. On the lesions:
the smaller of the two effects is larger than where the heads of the two lesions are exchanged
between the two tasks. Without the second, two lesions that merely differ in severity pass the
first given enough examples. Both tasks must be done clearly better than chance, as the verdict on
specialized heads asks of two tasks. Scores are oriented (`LesionMatrix.oriented`): lower where a
lesion costs more. NumPy only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from jaxtyping import Float

from lobes.dissociation.statistics import holm, p_against_controls, percentile_interval
from lobes.dissociation.verdict import controls_needed, is_significant


@dataclass(frozen=True, slots=True, eq=False)
class PairEffects:
    """How much more two tasks' own lesions cost them than the other's, as in `PairVerdict`.

    `observed` with the tasks' own heads, `replicates` with heads exchanged between the two tasks.
    `units` are what the two tasks' effects are compared in (`LesionMatrix.units`).
    """

    observed: Float[np.ndarray, "2"]
    replicates: Float[np.ndarray, "replicates 2"]
    units: Float[np.ndarray, "2"] = field(default_factory=lambda: np.ones(2))

    @property
    def in_units(self) -> "PairEffects":
        """The same in their units."""
        return PairEffects(self.observed / self.units, self.replicates / self.units)


@dataclass(frozen=True, slots=True)
class PairVerdict:
    """Whether two tasks are doubly dissociated.

    `effects` are M[second][first] − M[first][first] and M[first][second] − M[second][second]: how
    much more a task's own lesion costs it than the other task's; `intervals` are their bootstrap
    intervals. `p_values` test each on the examples (paired, one-sided). `p_holm` is the larger of
    the two, as both must hold, corrected for the number of pairs. `p_controls` is
    (1 + #{smaller effect of an exchange ≥ smaller effect}) / (1 + `controls`), with `controls`
    exchanges between the two tasks, and `p_controls_holm` the same corrected for the `pairs` of
    the study; NaN without exchanges. `above_chance` says whether the base score of each is clearly
    above chance.
    """

    first: str
    second: str
    effects: tuple[float, float]
    intervals: tuple[tuple[float, float], tuple[float, float]]
    p_values: tuple[float, float]
    p_holm: float
    p_controls: float
    p_controls_holm: float
    controls: int
    pairs: int = 1
    above_chance: tuple[bool, bool] = (True, True)

    @property
    def is_double_dissociation(self) -> bool:
        """Both effects are positive, both tests significant, and both tasks above chance."""
        return doubly_dissociated(
            self.effects, self.p_holm, self.p_controls_holm, self.above_chance
        )

    @property
    def lacks_controls(self) -> bool:
        """So few controls cannot bring any of the pairs to p ≤ 0.05 after correction."""
        return self.controls < controls_needed(self.pairs)


def doubly_dissociated(
    effects: Sequence[float],
    p_holm: float,
    p_controls_holm: float,
    above_chance: Sequence[bool],
) -> bool:
    """Return whether two tasks are doubly dissociated.

    Both effects are positive, both corrected p-values significant at 0.05, and both tasks done
    clearly better than chance.
    """
    significant = is_significant(p_holm) and is_significant(p_controls_holm)
    return min(effects) > 0 and significant and all(above_chance)


def effects_of_two(
    scores: Float[np.ndarray, "*batch 2 2"],
) -> Float[np.ndarray, "*batch 2"]:
    """Return how much more each of two tasks' own lesion costs it than the other's."""
    return np.stack(
        [scores[..., 1, 0] - scores[..., 0, 0], scores[..., 0, 1] - scores[..., 1, 1]], axis=-1
    )


def p_of_pairs(
    pairs: Sequence[PairEffects],
) -> tuple[Float[np.ndarray, " pairs"], Float[np.ndarray, " pairs"]]:
    """Return p of every pair against the same pair with heads exchanged, and it corrected.

    p = (1 + #{smaller effect of a replicate ≥ smaller effect observed}) / (1 + R), then Holm over
    the pairs; NaN for a pair without replicates. Effects are compared in their `units`.
    """
    smaller = [
        (pair.observed.min(keepdims=True), pair.replicates.min(axis=1))
        for pair in (each.in_units for each in pairs)
    ]
    found = np.array([p_against_controls(one, each[:, None])[0] for one, each in smaller])
    return found, holm(found)


def pairs_of(tasks: Sequence[object]) -> list[tuple[int, int]]:
    """Return all pairs of tasks as places, the first before the second."""
    return [*combinations(range(len(tasks)), 2)]


def pair_verdicts(
    tasks: Sequence[str],
    scores: Float[np.ndarray, "tasks tasks"],
    p_values: Sequence[tuple[float, float]],
    drawn: Float[np.ndarray, "resamples tasks tasks"],
    level: float,
    references: Sequence[PairEffects],
    above_chance: Sequence[bool],
) -> tuple[PairVerdict, ...]:
    """Return the verdict on every pair of tasks, both tests corrected for their number.

    `p_values` are the paired tests' of each pair, `drawn` the scores on resampled examples, and
    `references` what each pair's exchanges are compared by; `above_chance` says of each task
    whether its base score is clearly above chance.
    """
    corrected = holm(np.max(np.array(p_values).reshape(-1, 2), axis=1))
    against, against_holm = p_of_pairs(references)
    pairs = pairs_of(tasks)

    def effect(i: int, j: int) -> tuple[float, tuple[float, float]]:
        """Return how much more task i's own lesion costs it than task j's, and the interval."""
        low, high = percentile_interval((drawn[:, j, i] - drawn[:, i, i])[:, None], level)[0]
        return float(scores[j, i] - scores[i, i]), (float(low), float(high))

    found = []
    for place, (i, j) in enumerate(pairs):
        (first, first_interval), (second, second_interval) = effect(i, j), effect(j, i)
        found.append(
            PairVerdict(
                first=tasks[i],
                second=tasks[j],
                effects=(first, second),
                intervals=(first_interval, second_interval),
                p_values=p_values[place],
                p_holm=float(corrected[place]),
                p_controls=float(against[place]),
                p_controls_holm=float(against_holm[place]),
                controls=len(references[place].replicates),
                pairs=len(pairs),
                above_chance=(above_chance[i], above_chance[j]),
            )
        )
    return tuple(found)
