"""Studies of heads of known importance, many at a time: what `HeadStudy.run` simulates, in bulk.

That makes one `LesionMatrix`, in a tenth of a second or more. Here many studies are arrays, heads
are exchanged in all of them at once, and the number of right answers under a lesion is drawn from
its distribution given the margins. tests/test_calibration.py compares the two.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float, Int
from scipy.special import ndtr, ndtri

from lobes.dissociation.dscores import column
from lobes.dissociation.exchange import _TRADES
from lobes.dissociation.simulation import HeadStudy

# Of a head in a lesion: in how many of the fractions' lesions of a task it is.
Levels = Int[np.ndarray, "studies lesions tasks heads"]
Replicates = Int[np.ndarray, "studies replicates tasks heads"]

_STEP = 1 / 16  # between the thresholds whose accuracies are interpolated
_NAMES = 2**45  # sums of so many numbers below this are exact, and name a set of heads
_CHUNK = 25  # studies at once, so that arrays stay in the cache


@dataclass(frozen=True, slots=True)
class Measured:
    """What studies measured: the tasks' own lesions are the first, the others are replicates.

    `true` are the D-scores of the tasks' own lesions on endless examples.
    """

    base: Float[np.ndarray, "studies tasks"]
    matrices: Float[np.ndarray, "studies lesions fractions tasks tasks"]
    true: Float[np.ndarray, "studies fractions tasks"]

    @property
    def d_scores(self) -> Float[np.ndarray, "studies lesions fractions"]:
        """The mean D-scores."""
        return column(self.matrices, self.base[:, None, None]).mean(axis=-1)


Reference = Callable[[HeadStudy, np.ndarray, np.random.Generator], np.ndarray]


def measured(
    study: HeadStudy, studies: int, seed: int, *references: Reference
) -> tuple[Measured, ...]:
    """Return what so many studies measure, for each way to replicate their lesions."""
    generator = np.random.default_rng(seed)
    found: list[list[tuple[np.ndarray, ...]]] = [[] for _ in references]
    for start in range(0, studies, _CHUNK):
        true, estimates = study.importance(min(_CHUNK, studies - start), generator)
        observed = study.lesioned(estimates).transpose(0, 2, 1)[:, None].astype(np.int8)
        accuracies = _Accuracies(study, true, generator)
        for each, reference in zip(found, references, strict=True):
            replicates = reference(study, observed, generator)
            each.append(accuracies(np.concatenate([observed, replicates], axis=1)))
    return tuple(
        Measured(*(np.concatenate(parts) for parts in zip(*each, strict=True))) for each in found
    )


def exchanged(
    study: HeadStudy,
    observed: Levels,
    generator: np.random.Generator,
    tasks: Sequence[int] | None = None,
) -> Replicates:
    """Deal out the heads again as `Exchange` does, those of some tasks or of all."""
    among = np.arange(study.tasks) if tasks is None else np.asarray(tasks)
    trades = 1 if len(among) == 2 else _TRADES * len(among)
    # only heads that not all share can move
    movable = np.ptp(observed[:, 0, among], axis=1) > 0
    order = np.argsort(~movable, axis=1)[:, None, : movable.sum(axis=1).max()]
    hub = np.take_along_axis(observed[:, 0], order, axis=2)
    for _ in range(trades):
        _trade(hub, among, generator)
    moved = np.repeat(hub, study.replicates, axis=0)
    for _ in range(trades):
        _trade(moved, among, generator)
    dealt = np.repeat(observed, study.replicates, axis=1)
    moved = moved.reshape(*dealt.shape[:3], -1)
    np.put_along_axis(dealt, order[:, None], moved, axis=3)
    return dealt


def random(study: HeadStudy, observed: Levels, generator: np.random.Generator) -> Replicates:
    """Draw as many heads at random for each lesion, the smaller within the larger."""
    shape = (len(observed), study.replicates, *observed.shape[2:])
    keys = generator.random(shape, dtype=np.float32)
    dealt = np.zeros(shape, np.int8)
    ordered = np.sort(keys, axis=-1)
    for fraction in study.fractions:
        dealt += keys < ordered[..., int(fraction * study.heads), None]
    return dealt


def _trade(dealt: np.ndarray, among: np.ndarray, generator: np.random.Generator) -> None:
    """In each row [tasks, heads], two tasks at random trade what differs in the same way."""
    rows, most, heads = np.arange(len(dealt)), int(dealt.max()), dealt.shape[2]
    first = generator.integers(len(among), size=len(dealt))
    second = (first + generator.integers(1, len(among), size=len(dealt))) % len(among)
    a, b = dealt[rows, among[first]], dealt[rows, among[second]]
    low, high, higher = np.minimum(a, b), np.maximum(a, b), a > b
    # by the kind, then at random, then by the place, so that no two are the same
    kind = (low * np.int8(most + 1) + high) | (a == b) * np.int8(15)
    keys = np.frombuffer(generator.bytes(2 * a.size), np.uint16).reshape(a.shape).astype(np.uint32)
    keys = keys << np.uint32(8) | np.arange(heads, dtype=np.uint32)
    keys |= kind.astype(np.uint32) << np.uint32(28)
    ordered = np.sort(keys, axis=1)
    gets, start = np.zeros(a.shape, bool), np.zeros(len(dealt), np.int64)
    for less, more in combinations(range(most + 1), 2):
        here = kind == less * (most + 1) + more
        last = start + np.count_nonzero(here & higher, axis=1)
        bound = ordered[rows, np.minimum(last, heads - 1)] + (last == heads).astype(np.uint32)
        gets |= here & (keys < bound[:, None])
        start += np.count_nonzero(here, axis=1)
    one = low + (high - low) * gets
    dealt[rows, among[first]] = one
    dealt[rows, among[second]] = low + high - one


class _Accuracies:
    """Draws the accuracies of every task under lesions, on one sample of examples a study."""

    def __init__(self, study: HeadStudy, true: np.ndarray, generator: np.random.Generator) -> None:
        studies = len(true)
        self.study, self.true = study, true
        margins = generator.standard_normal((studies, study.tasks, study.examples)) + study.ability
        self.base = (margins > 0).mean(axis=-1)
        grid = np.arange(0, study.threshold(true.sum(axis=1)).max() + 2 * _STEP, _STEP)
        chances = np.stack(
            [ndtr((margins - threshold) / study.blur) for threshold in grid], axis=-1
        )
        self.mean = chances.mean(axis=2)
        self.deviation = np.sqrt((chances * (1 - chances)).mean(axis=2) / study.examples)
        self.names = generator.integers(_NAMES, size=(studies, study.heads, 1)).astype(float)
        self.salt = generator.integers(2**63, size=(studies, study.tasks), dtype=np.uint64)

    def __call__(self, levels: Levels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        study, n_fractions = self.study, len(self.study.fractions)
        studies, lesions, tasks, heads = levels.shape
        member = levels[:, :, None] >= n_fractions - np.arange(n_fractions)[:, None, None]
        sums = member.reshape(studies, -1, heads).astype(float) @ np.concatenate(
            [self.true, self.names], axis=2
        )
        sums = sums.reshape(studies, lesions, n_fractions, tasks, tasks + 1)
        moved = study.threshold(sums[..., :-1])
        place = moved / _STEP
        below = place.astype(int)
        which = np.arange(studies)[:, None, None, None, None], np.arange(tasks)

        def interpolated(values: np.ndarray) -> np.ndarray:
            low, high = values[*which, below], values[*which, below + 1]
            return low + (place - below) * (high - low)

        drawn = ndtri(_uniform(sums[..., -1:], self.salt[:, None, None, None]))
        right = interpolated(self.mean) + drawn * interpolated(self.deviation)
        counts = np.clip(np.rint(right * study.examples), 0, study.examples)
        true = ndtr((study.ability - moved[:, 0]) / np.sqrt(1 + study.blur**2))
        known = column(true, ndtr(np.full(tasks, study.ability)))
        return self.base, counts / study.examples, known


def _uniform(names: np.ndarray, salt: np.ndarray) -> np.ndarray:
    """The same random number in (0, 1) for the same name and salt (splitmix64)."""
    mixed = names.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + salt
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ mixed >> np.uint64(shift)) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return ((mixed >> np.uint64(11)).astype(float) + 0.5) / 2**53
