"""The tables of docs/statistics.md on the exchange test.

Every function yields the lines of one table; `calibration.py` writes them into the page.
"""

from collections.abc import Iterator
from functools import partial
from itertools import combinations, product

import numpy as np
from jaxtyping import Float
from scipy import stats

from lobes.dissociation.dscores import column
from lobes.dissociation.over_fractions import p_of_study
from lobes.dissociation.pairs import effects_of_two
from lobes.dissociation.simulated_heads import Measured, exchanged, measured, random
from lobes.dissociation.simulation import Damage, HeadStudy
from lobes.dissociation.statistics import n_reached, p_against_controls, p_over_fractions
from lobes.dissociation.stopping import LOOK, is_settled
from lobes.dissociation.verdict import ALPHA, is_significant

DAMAGES: tuple[Damage, ...] = ("linear", "concave", "threshold")
NOISE: dict[str, dict[int, float | tuple[float, ...]]] = {
    "nearly identical lesions": {2: 0.1},
    "equal noise": {2: 0.5, 3: 0.5, 6: 0.5},
    "nearly unrelated lesions": {2: 4.0},
    "unequal noise": {2: (0.1, 1.0), 3: (0.1, 0.5, 1.0), 6: (0.1, 0.1, 0.4, 0.7, 1.0, 1.0)},
}
# More tasks take longer.
MORE_TASKS = (
    *((3, "concave", "equal noise"), *((3, damage, "unequal noise") for damage in DAMAGES)),
    *((6, "concave", "equal noise"), (6, "threshold", "unequal noise")),
)
NULL = {
    f"{tasks} tasks, {damage}, {noise}": HeadStudy(tasks, damage=damage, noise=NOISE[noise][tasks])
    for tasks, damage, noise in (*product((2,), DAMAGES, NOISE), *MORE_TASKS)
} | {
    "2 tasks, concave, 72 heads": HeadStudy(heads=72),
    "2 tasks, concave, 100 examples": HeadStudy(examples=100),
    "2 tasks, concave, one head apart": HeadStudy(noise=0.02),
    "2 tasks, concave, the top 5 %": HeadStudy(fractions=(0.05,)),
    "2 tasks, concave, nearly unrelated top 5 %": HeadStudy(fractions=(0.05,), noise=4.0),
    "2 tasks, concave, heavier tails": HeadStudy(tail=2.0),
    "2 tasks, concave, 19 replicates": HeadStudy(replicates=19),
    "2 tasks, threshold, specialization not estimated": HeadStudy(damage="threshold", chance=0.5),
    "2 tasks, threshold, one task harmed more": HeadStudy(
        damage="threshold", vulnerability=(1.2, 0.8)
    ),
    **{
        f"2 tasks, {damage}, 3,000 examples": HeadStudy(damage=damage, examples=3000)
        for damage in DAMAGES
    },
}
# The better estimated lesions are more severe, and belong to the task that is harmed more.
CONFOUNDED = {
    f"{damage}, noise {noise[0]:g} and {noise[1]:g}, harm {more:g} and {2 - more:g}": HeadStudy(
        damage=damage, noise=noise, vulnerability=(more, 2 - more)
    )
    for noise, more in (((0.3, 0.6), 1.2), ((0.1, 1.0), 1.5), ((0.1, 1.0), 0.5))
    for damage in DAMAGES
}
FRACTIONS = (0.2, 0.3, 0.4)
STRENGTHS: dict[Damage, tuple[float, ...]] = {
    "linear": (0.15, 0.25, 0.35, 0.45),
    "concave": (0.2, 0.3, 0.4, 0.5, 0.6),
    "threshold": (0.1, 0.15, 0.2, 0.3),
}


def p_of(scores: Float[np.ndarray, "studies lesions"]) -> Float[np.ndarray, " studies"]:
    """Return p of the first of every study's lesions against the others."""
    return p_against_controls(scores[:, 0], scores[:, 1:].T)


def share(p: Float[np.ndarray, "*shape"], level: float = ALPHA) -> str:
    """Return the share of p at or below a level, in words for a table."""
    return f"{np.mean(p <= level + 1e-9):.3f}"


def uniformity(p: Float[np.ndarray, " studies"], replicates: int) -> float:
    """Return p of a chi-squared test that the possible values of p all come equally often.

    The values 1/(1+R) to 1 are put in 10 bins of equal size.
    """
    ranks = np.rint(p * (replicates + 1)).astype(int) - 1
    bins = 10 * ranks // (replicates + 1)
    return float(stats.chisquare(np.bincount(bins, minlength=10)).pvalue)


def shared(study: HeadStudy, seed: int = 0) -> float:
    """Return which share of a lesion's heads another task's lesion has, too."""
    _, estimates = study.importance(100, np.random.default_rng(seed))
    within = (study.lesioned(estimates) > 0).astype(float)
    both = np.einsum("shi,shj->sij", within, within)
    one, other = np.triu_indices(study.tasks, 1)
    return float(np.mean(both[:, one, other] / both[:, one, one]))


def by_task(found: Measured) -> Float[np.ndarray, " tasks"]:
    """Return the share of p ≤ 0.05 of every single task's D-score."""
    each = column(found.matrices[:, :, -1], found.base[:, None])
    return np.array([np.mean(is_small(p_of(each[..., j]))) for j in range(each.shape[-1])])


def is_small(p: Float[np.ndarray, "*shape"]) -> np.ndarray:
    """Return where p is 0.05 or less."""
    return np.vectorize(is_significant)(p)


NULL_HEADER = (
    *("study", "heads shared", "p ≤ 0.01", "p ≤ 0.05", "p ≤ 0.1", "p ≤ 0.5", "uniform?"),
    *("random: p ≤ 0.05", "p ≤ 0.5", "single task, exchanged", "random"),
)


def null_rows(
    studies: int, curves: dict[str, np.ndarray], cases: dict[str, HeadStudy] = NULL, seed: int = 0
) -> Iterator[list[object]]:
    """The mean D-score where nothing is specialized; puts the values of p into `curves`."""
    for number, (name, study) in enumerate(cases.items()):
        some = studies if study.tasks < 6 else studies // 2
        one, other = measured(study, some, seed + number, exchanged, random)
        p, against = p_of(one.d_scores[..., -1]), p_of(other.d_scores[..., -1])
        curves[name], curves[f"{name}: random"] = p, against
        yield [
            *(name, f"{shared(study):.2f}", *(share(p, level) for level in (0.01, 0.05, 0.1, 0.5))),
            *(f"{uniformity(p, study.replicates):.2f}", share(against), share(against, 0.5)),
            *(f"{by_task(each).max():.3f}" for each in (one, other)),
        ]


CONFOUNDED_HEADER = ("2 tasks", "exchanged", "random", "relative to what lesions cost")


def relative_to_damage(found: Measured) -> Float[np.ndarray, "studies lesions"]:
    """Return the mean D-score in percent of what lesions cost a task, not of its base score."""
    matrices = found.matrices[:, :, -1]
    cost = found.base[:, None] - matrices.mean(axis=2)
    return column(matrices, np.maximum(cost, 0.01)).mean(axis=-1)


def confounded_rows(studies: int) -> Iterator[list[object]]:
    """Nothing is specialized, but how severe lesions are goes with how much tasks suffer."""
    for number, (name, study) in enumerate(CONFOUNDED.items()):
        one, other = measured(study, studies, 100 + number, exchanged, random)
        values = one.d_scores[..., -1], other.d_scores[..., -1], relative_to_damage(one)
        yield [name, *(share(p_of(each)) for each in values)]


def over_fractions(found: Measured) -> Float[np.ndarray, " studies"]:
    """Return the one p over the fractions of every study."""
    return np.array([p_over_fractions(each[0], each[1:]) for each in found.d_scores])


OVER_HEADER = (
    *("study", "p at 20 %", "at 30 %", "at 40 %", "the smallest", "over fractions"),
    *("over fractions ≤ 0.5", "uniform?"),
)


def over_rows(studies: int) -> Iterator[list[object]]:
    """Several fractions where nothing is specialized: chosen afterwards, and by one p."""
    cases = [*product((2,), DAMAGES, ("equal noise", "unequal noise"))]
    cases += [(3, "concave", "unequal noise")]
    for number, (tasks, damage, noise) in enumerate(cases):
        study = HeadStudy(tasks, fractions=FRACTIONS, damage=damage, noise=NOISE[noise][tasks])
        (found,) = measured(study, studies, 200 + number, exchanged)
        each = np.stack([p_of(found.d_scores[..., f]) for f in range(3)], axis=1)
        p = over_fractions(found)
        yield [
            *(f"{tasks} tasks, {damage}, {noise}", *(share(each[:, f]) for f in range(3))),
            *(share(each.min(axis=1)), share(p), share(p, 0.5)),
            f"{uniformity(p, study.replicates):.2f}",
        ]


def alone(study: HeadStudy, observed: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Exchange the heads of the largest fraction only: the others have no lesions."""
    return exchanged(study, np.minimum(observed, 1), generator)


JOINT_HEADER = (
    *("study", "D-score at 20 %", "at 30 %", "at 40 %", "p at 20 %", "at 30 %", "at 40 %"),
    *("40 % by itself", "over fractions"),
)


def joint_rows(studies: int) -> Iterator[list[object]]:
    """What one p over fractions finds, and whether exchanging them together costs power."""
    strengths = {"linear": (0.25, 0.4), "concave": (0.3, 0.45), "threshold": (0.15, 0.25)}
    cases = [(damage, strength) for damage in DAMAGES for strength in strengths[damage]]
    for number, (damage, strength) in enumerate(cases):
        study = HeadStudy(fractions=FRACTIONS, damage=damage, specialization=strength)
        joint, single = measured(study, studies, 300 + number, exchanged, alone)
        p = [p_of(joint.d_scores[..., f]) for f in range(3)]
        p += [p_of(single.d_scores[..., -1]), over_fractions(joint)]
        true = (f"{value:+.1f} %" for value in joint.true.mean(axis=(0, 2)))
        yield [f"2 tasks, {damage}", *true, *(share(each) for each in p)]


def p_of_pair(found: Measured, i: int, j: int) -> Float[np.ndarray, " studies"]:
    """Return p of the smaller of two tasks' effects against those of the replicates."""
    both = found.matrices[:, :, -1, [[i], [j]], [i, j]]
    return p_of(effects_of_two(both).min(axis=-1))


PAIR_HEADER = (
    *("study", "pair 1-2, by itself", "pair 1-2, all exchanged", "any pair, each by itself"),
    *("any pair, all exchanged", "single pairs ≤ 0.05", "≤ 0.5"),
)


def pair_rows(studies: int) -> Iterator[list[object]]:
    """Three tasks: pairs whose heads are exchanged by themselves, or among all three tasks."""
    specialized = "the third task's specialized", (0.0, 0.0, 0.6)
    cases = [("concave", 0.5, "nothing specialized", 0.0)]
    cases += [("threshold", (0.1, 0.5, 1.0), "unequal noise", 0.0)]
    cases += [(damage, 0.5, *specialized) for damage in DAMAGES]
    cases += [(damage, 0.5, "all specialized", 0.3) for damage in DAMAGES[1:]]
    pairs = [*combinations(range(3), 2)]
    ways = [partial(exchanged, tasks=pair) for pair in pairs]
    for number, (damage, noise, name, strength) in enumerate(cases):
        study = HeadStudy(3, damage=damage, noise=noise, specialization=strength)
        *each, joint = measured(study, studies, 400 + number, *ways, exchanged)
        single = np.stack([p_of_pair(each[k], *pairs[k]) for k in range(3)], axis=1)
        among = np.stack([p_of_pair(joint, *pair) for pair in pairs], axis=1)
        yield [
            *(f"{damage}, {name}", share(single[:, 0]), share(among[:, 0])),
            *(share(3 * p.min(axis=1)) for p in (single, among)),
            *(share(single), share(single, 0.5)),
        ]


POWER_HEADER = (
    "damage",
    "strength",
    "D-score",
    "random",
    "exchanged",
    "relative to what lesions cost",
)


def power_rows(
    studies: int, curves: dict[str, list[tuple[float, float]]]
) -> Iterator[list[object]]:
    """Two tasks: what is found, of planted specialization, by either kind of lesions."""
    cases = [(damage, strength) for damage in DAMAGES for strength in STRENGTHS[damage]]
    for number, (damage, strength) in enumerate(cases):
        study = HeadStudy(damage=damage, specialization=strength)
        one, other = measured(study, studies, 500 + number, exchanged, random)
        values = {"exchanged": one.d_scores[..., -1], "random": other.d_scores[..., -1]}
        found = {kind: float(np.mean(is_small(p_of(each)))) for kind, each in values.items()}
        true = float(one.true.mean())
        for kind, power in found.items():
            curves.setdefault(f"{damage}, {kind}", [(0.0, ALPHA)]).append((true, power))
        yield [
            *(damage, strength, f"{true:+.1f} %"),
            *(
                f"{found['random']:.3f}",
                f"{found['exchanged']:.3f}",
                share(p_of(relative_to_damage(one))),
            ),
        ]


SIZE_HEADER = ("study", *(f"strength {strength:g}" for strength in (0.2, 0.3, 0.4, 0.5)))


def size_rows(studies: int) -> Iterator[list[object]]:
    """How many examples and replicates it takes: power with concave damage."""
    for number, (tasks, examples, replicates) in enumerate(
        [*((2, n, r) for r in (19, 99) for n in (100, 300, 1000)), (2, 1000, 499), (3, 300, 99)]
    ):
        row = [f"{tasks} tasks, {examples:,} examples, {replicates} replicates"]
        for strength in (0.2, 0.3, 0.4, 0.5):
            study = HeadStudy(tasks, examples, replicates=replicates, specialization=strength)
            (found,) = measured(study, studies, 600 + number, exchanged)
            row.append(f"{found.true.mean():+.1f} %: {share(p_of(found.d_scores[..., -1]))[:-1]}")
        yield row


STOP_HEADER = (
    *("study", "D-score", "stops", "exchanges", "p ≤ 0.05", "all 99", "39 only", "p ≤ 0.25"),
    "40 % by itself",
)
STOPPING = {
    **{
        f"{tasks} tasks, {damage}, {noise}": HeadStudy(
            tasks, damage=damage, noise=NOISE[noise][tasks], fractions=FRACTIONS
        )
        for tasks, damage, noise in (
            *product((2, 3), ("concave", "threshold"), ("equal noise", "unequal noise")),
        )
    },
    **{
        f"{tasks} tasks, {damage}, strength {strength:g}": HeadStudy(
            tasks, damage=damage, specialization=strength, fractions=FRACTIONS
        )
        for tasks, damage, strength in (
            *((2, "concave", strength) for strength in (0.4, 0.5, 0.6)),
            *((2, "threshold", strength) for strength in (0.1, 0.15, 0.2)),
            *((3, "concave", 0.4), (3, "threshold", 0.15)),
        )
    },
}


def stop_rows(studies: int) -> Iterator[list[object]]:
    """What the look after 39 of 99 exchanges does, over three fractions together."""
    for number, (name, study) in enumerate(STOPPING.items()):
        (found,) = measured(study, studies, 800 + number, exchanged)
        observed, replicates = found.d_scores[:, 0], found.d_scores[:, 1:]
        ours, every, few = (
            np.array([p_of_study(*each, look) for each in zip(observed, some, strict=True)])
            for some, look in ((replicates, LOOK), (replicates, None), (replicates[:, :LOOK], None))
        )
        stops = np.array([is_settled(n_reached(p, LOOK)) for p in few])
        largest = p_of(found.d_scores[:, : 1 + LOOK, -1]), p_of(found.d_scores[..., -1])
        yield [
            *(name, f"{found.true.mean():+.1f} %", f"{stops.mean():.3f}"),
            f"{np.where(stops, LOOK, study.replicates).mean():.0f}",
            *(share(p) for p in (ours, every, few)),
            *(share(ours, 0.25), share(np.where(stops, *largest))),
        ]
