"""Simulated studies whose truth is known: to check the statistics by, and to plan a study.

An example has a margin, how clearly the model knows its answer: it is right where the margin is
above 0. A lesion moves the threshold up from 0 by how severe it is, and blurs every margin. All on
the scale of the standard deviation of the margins.

In a `HeadStudy`, lesions are made of heads, chosen by their estimated importance, and cost what
their heads are worth: what the exchange test is checked by. In a `Simulation`, lesions have no
heads. How severe they are differs from task to task by chance, and a task's own lesion is more
severe for it by `specialization`: what intervals are checked by.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from scipy.special import ndtr

from lobes.dissociation.dscores import FORMULAS, DScoreName
from lobes.dissociation.exchange import Exchange
from lobes.dissociation.lesions import Lesion
from lobes.dissociation.matrix import LesionMatrix
from lobes.errors import ConfigError
from lobes.heads import HeadSet

FRACTION = 0.3


@dataclass(frozen=True, slots=True)
class Simulation:
    """A study to be simulated: its size, and how its lesions work.

    `examples` for each of `tasks`, `controls` for each task's lesion. `ability` is the mean margin:
    1.0 gives a base accuracy of Φ(1.0) = 0.84. Lesions are as severe as `severity` on average,
    with a standard deviation of `spread` between lesions and of `chance` between the tasks under
    one lesion, and blur margins by `blur`. Raises `ConfigError` for a study that cannot be.
    """

    tasks: int = 3
    examples: int = 500
    controls: int = 100
    specialization: float = 0.0
    ability: float = 1.0
    severity: float = 0.5
    spread: float = 0.2
    chance: float = 0.1
    blur: float = 0.5

    def __post_init__(self) -> None:
        for name, least in (("tasks", 2), ("examples", 1), ("controls", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"A study has {name} from {least} on, not {getattr(self, name)}.")
        for name in ("spread", "chance", "blur"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is a deviation from 0 on, not {getattr(self, name)}.")

    def run(self, generator: np.random.Generator) -> "SimulatedStudy":
        """Simulate one study: new examples, a new model with new lesions."""
        examples = self._examples(generator)
        return self._measured(*examples, self._thresholds(generator), 0.0, generator)

    def runs(
        self, seeds: int, generator: np.random.Generator, *, between: float = 0.2
    ) -> list["SimulatedStudy"]:
        """Simulate one study over several training seeds: the same examples, a model for each seed.

        A seed's model knows each task better or worse by a deviation of `between`, and its
        specialization differs by as much; its lesions are its own.
        """
        margins, labels = self._examples(generator)
        found = []
        for _ in range(seeds):
            shift = between * generator.standard_normal((self.tasks, 1))
            special = self.specialization + between * generator.standard_normal()
            own = replace(self, specialization=special)
            thresholds = own._thresholds(generator)
            moved = margins + shift
            found.append(own._measured(moved, labels, thresholds, shift[:, 0], generator))
        return found

    def _examples(
        self, generator: np.random.Generator
    ) -> tuple[Float[np.ndarray, "tasks examples"], Int[np.ndarray, "tasks examples"]]:
        """The margins and the labels of every task's examples."""
        shape = self.tasks, self.examples
        margins = generator.standard_normal(shape) + self.ability
        return margins, generator.integers(2, size=shape)

    def _thresholds(
        self, generator: np.random.Generator
    ) -> Float[np.ndarray, "lesions tasks tasks"]:
        """The threshold of the last axis' task under the lesions of the other axis' task.

        The first along the first axis are the tasks' own lesions, the others the controls. How
        severe lesions are differs between the tasks whose size they have, as matched ones do.
        """
        shape = (1 + self.controls, self.tasks)
        mean = self.severity + self.spread * generator.standard_normal(self.tasks)
        each = mean + self.spread * generator.standard_normal(shape)
        thresholds = each[..., None] + self.chance * generator.standard_normal((*shape, self.tasks))
        thresholds[0] += self.specialization * np.eye(self.tasks)
        return thresholds

    def _measured(
        self,
        margins: Float[np.ndarray, "tasks examples"],
        answers: Int[np.ndarray, "tasks examples"],
        thresholds: Float[np.ndarray, "lesions tasks tasks"],
        shift: Float[np.ndarray, " tasks"] | float,
        generator: np.random.Generator,
    ) -> "SimulatedStudy":
        lesions = []
        for replicate in range(-1, self.controls):
            for place, name in enumerate(_names(self.tasks)):
                heads = HeadSet((0, 10 * place + head) for head in range(10))
                kind, number = ("task", 0) if replicate < 0 else ("exchanged", replicate)
                lesions.append(Lesion(heads, kind, name, FRACTION, number))  # type: ignore[arg-type]
        moved = thresholds.reshape(-1, self.tasks)
        noise = generator.standard_normal((self.tasks, len(moved), self.examples))
        blurred = np.sqrt(1 + self.blur**2)
        ability = np.broadcast_to(self.ability + shift, (self.tasks,))
        return SimulatedStudy(
            _matrix(lesions, answers, margins, moved, self.blur * noise),
            ndtr(ability),
            ndtr((ability - thresholds[0]) / blurred),
        )


@dataclass(frozen=True, slots=True)
class SimulatedStudy:
    """What was measured on some examples, and what would be on all: `base` and `scores`."""

    matrix: LesionMatrix
    base: Float[np.ndarray, " tasks"]
    scores: Float[np.ndarray, "tasks tasks"]

    def d_scores(self, name: DScoreName = "column") -> Float[np.ndarray, " tasks"]:
        """Return the true D-scores of this model."""
        return FORMULAS[name](self.scores, self.base)


def _names(tasks: int) -> tuple[str, ...]:
    return tuple(f"task{number}" for number in range(tasks))


def _matrix(
    lesions: Sequence[Lesion],
    answers: Int[np.ndarray, "tasks examples"],
    margins: Float[np.ndarray, "tasks examples"],
    thresholds: Float[np.ndarray, "lesions tasks"],
    noise: Float[np.ndarray, "tasks lesions examples"],
) -> LesionMatrix:
    """The matrix of examples that are right where their margin and noise are above a threshold."""
    names, predictions = _names(len(answers)), {}
    for j, name in enumerate(names):
        right = [margins[j][None] > 0, margins[j] + noise[j] > thresholds[:, j, None]]
        predictions[name] = np.where(np.concatenate(right), answers[j], 1 - answers[j])
    return LesionMatrix(
        names,
        ("accuracy",) * len(names),
        dict(zip(names, answers, strict=True)),
        (Lesion(HeadSet(), "none"), *lesions),
        predictions,
    )


_PER_SITE = 12  # heads
Damage = Literal["linear", "concave", "threshold"]


@dataclass(frozen=True, slots=True)
class HeadStudy:
    """A study of heads whose importance is known and heavy-tailed (log-normal).

    Nothing is specialized where every head matters equally to all tasks: `specialization` is the
    share of a head's importance that is specific to the one task it belongs to, drawn at random;
    one share for all tasks, or one for the heads of each. The log of a head's importance has the
    deviation `tail`. Its estimate for a task differs from it by `noise`, one deviation for all
    tasks or one for each. By `chance` it differs between tasks in a way that no estimate knows, so
    that a lesion may suit one task and not another.

    A task's lesions are the heads with the largest estimates. They cost it `damage` by the share of
    all importance that they hold, times `vulnerability`, on the scale of the margins of its
    examples. Margins are normal with deviation 1 around `ability`, and lesions blur them by `blur`.
    The same heads always give the same answers.
    """

    tasks: int = 2
    examples: int = 500
    heads: int = 144
    fractions: tuple[float, ...] = (FRACTION,)
    replicates: int = 99
    specialization: float | tuple[float, ...] = 0.0
    damage: Damage = "concave"
    noise: float | tuple[float, ...] = 0.5
    chance: float = 0.0
    vulnerability: float | tuple[float, ...] = 1.0
    tail: float = 1.0
    ability: float = 1.0
    blur: float = 0.5

    def run(self, generator: np.random.Generator) -> SimulatedStudy:
        """Simulate one study, its controls exchanged; the truth is that of the largest fraction."""
        true, estimates = (each[0] for each in self.importance(1, generator))
        lesions = self._lesions(self.lesioned(estimates[None])[0], int(generator.integers(2**31)))
        shape = (self.tasks, self.examples)
        margins = generator.standard_normal(shape) + self.ability
        shares = np.array([true[_places(lesion.heads)].sum(axis=0) for lesion in lesions])
        # the same heads, the same noise
        number = {heads: place for place, heads in enumerate({one.heads for one in lesions})}
        noise = generator.standard_normal((self.tasks, len(number), self.examples))
        noise = self.blur * noise[:, [number[lesion.heads] for lesion in lesions]]
        answers, moved = generator.integers(2, size=shape), self.threshold(shares)
        own = [place for place, lesion in enumerate(lesions) if lesion.kind == "task"]
        blurred = np.sqrt(1 + self.blur**2)
        return SimulatedStudy(
            _matrix(lesions, answers, margins, moved, noise),
            ndtr(np.full(self.tasks, self.ability)),
            ndtr((self.ability - moved[own[-self.tasks :]]) / blurred),
        )

    def _lesions(self, levels: Int[np.ndarray, "heads tasks"], seed: int) -> list[Lesion]:
        """The tasks' own lesions, by ascending fractions, then those of every replicate."""
        own = {}
        for least, fraction in zip(range(len(self.fractions), 0, -1), self.fractions, strict=True):
            own[fraction] = tuple(
                HeadSet(divmod(int(head), _PER_SITE) for head in np.flatnonzero(column >= least))
                for column in levels.T
            )
        exchange = Exchange(own)
        dealt = [own, *(exchange.replicate(number, seed) for number in range(self.replicates))]
        return [
            Lesion(heads, "exchanged" if number else "task", name, fraction, max(number - 1, 0))
            for number, deal in enumerate(dealt)
            for fraction, sets in deal.items()
            for name, heads in zip(_names(self.tasks), sets, strict=True)
        ]

    def importance(
        self, studies: int, generator: np.random.Generator
    ) -> tuple[Float[np.ndarray, "studies heads tasks"], Float[np.ndarray, "studies heads tasks"]]:
        """Draw the share of all importance that each head has for each task, and its estimate."""
        shape = (studies, self.heads, self.tasks)
        common = np.exp(self.tail * generator.standard_normal(shape[:2]))[..., None]
        owner = generator.integers(self.tasks, size=shape[:2])
        share = np.broadcast_to(self.specialization, self.tasks)[owner][..., None]
        own = self.tasks * (np.arange(self.tasks) == owner[..., None])
        known = common * (1 - share + share * own) / common.sum(axis=1, keepdims=True)
        estimates = known * np.exp(self.noise * generator.standard_normal(shape))
        return known * np.exp(self.chance * generator.standard_normal(shape)), estimates

    def lesioned(
        self, estimates: Float[np.ndarray, "studies heads tasks"]
    ) -> Int[np.ndarray, "studies heads tasks"]:
        """Return of how many fractions' lesions each head is part of; the smaller hold fewer."""
        ranks = np.argsort(np.argsort(-estimates, axis=1), axis=1)
        sizes = [int(fraction * self.heads) for fraction in self.fractions]
        return np.sum([ranks < size for size in sizes], axis=0)

    def threshold(
        self, share: Float[np.ndarray, "*shape tasks"]
    ) -> Float[np.ndarray, "*shape tasks"]:
        """Return where a lesion of such a share of the importance moves each task's threshold."""
        if self.damage == "linear":
            moved = share
        elif self.damage == "concave":
            moved = 0.8 * -np.expm1(-3 * share)
        else:
            moved = np.clip(4 * (share - 0.5), 0, 2)
        return moved * np.broadcast_to(self.vulnerability, self.tasks)


def _places(heads: HeadSet) -> list[int]:
    return [_PER_SITE * site + head for site, head in heads]
