"""Simulated studies whose truth is known: to check the statistics by, and to plan a study.

An example has a margin, how clearly the model knows its answer: it is right where the margin is
above 0. A lesion moves the threshold up from 0 by how severe it is, differs from task to task by
chance, and blurs every margin. A task's own lesion is more severe for it by `specialization`; with
0 it is one more random lesion. All on the scale of the standard deviation of the margins.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from scipy.special import ndtr

from lobes.dissociation.dscores import FORMULAS, DScoreName
from lobes.dissociation.matrix import Lesion, LesionMatrix
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
        names = tuple(f"task{number}" for number in range(self.tasks))
        lesions = [Lesion(HeadSet(), "none")]
        for replicate in range(-1, self.controls):
            for place, name in enumerate(names):
                heads = HeadSet((0, 10 * place + head) for head in range(10))
                kind, number = ("task", 0) if replicate < 0 else ("exchanged", replicate)
                lesions.append(Lesion(heads, kind, name, FRACTION, number))  # type: ignore[arg-type]
        labels, predictions = {}, {}
        for j, name in enumerate(names):
            moved = thresholds[:, :, j].reshape(-1, 1)
            noise = self.blur * generator.standard_normal((len(moved), self.examples))
            right = np.concatenate([margins[j][None] > 0, margins[j] + noise > moved])
            labels[name] = answers[j]
            predictions[name] = np.where(right, labels[name], 1 - labels[name])
        blurred = np.sqrt(1 + self.blur**2)
        ability = np.broadcast_to(self.ability + shift, (self.tasks,))
        return SimulatedStudy(
            LesionMatrix(names, ("accuracy",) * self.tasks, labels, tuple(lesions), predictions),
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
