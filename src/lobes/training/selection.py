"""Keep the weights of the best evaluation of a training, in memory.

The Trainer has the like, through checkpoints on the disk; here a training writes nothing, and what
it kept can be handed on to a training that goes on from a checkpoint.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import TrainerCallback

from lobes.limits import EVALUATIONS, check_number


@dataclass(frozen=True, slots=True, eq=False)
class Best:
    """The weights (on the CPU) at the best evaluation so far.

    `scores` are the metrics of that evaluation as the trainer names them, `mean` is the score by
    which it was chosen, `step` the number of optimizer steps before it.
    """

    step: int
    mean: float
    scores: Mapping[str, float]
    weights: Mapping[str, Tensor]

    def load(self, model: nn.Module) -> None:
        """Put the weights into the model that they were taken from, or one like it."""
        model.load_state_dict(dict(self.weights))


class BestWeights(TrainerCallback):
    """Evaluates `evaluations` times, evenly over the steps and at the end; keeps the best weights.

    The best has the highest mean over tasks of their main metrics, the earliest of equals. A mean
    that is not a number (a correlation with a constant) is lower than any that is. `best` is what
    an earlier part of the same training kept.
    """

    def __init__(self, evaluations: int, best: Best | None = None) -> None:
        check_number("evaluations", evaluations, EVALUATIONS)
        self.evaluations = evaluations
        self.best = best

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for an evaluation where one is due."""
        if state.global_step in evaluation_steps(state.max_steps, self.evaluations):
            control.should_evaluate = True

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float], **others: Any
    ) -> None:
        """Keep the weights if they are better than those kept."""
        mean = metrics["eval_mean"]
        mean = -math.inf if math.isnan(mean) else mean
        if self.best is None or mean > self.best.mean:
            weights = {
                # a copy also on a CPU, where training goes on in the same memory
                name: value.detach().to("cpu", copy=True)
                for name, value in others["model"].state_dict().items()
            }
            self.best = Best(state.global_step, mean, dict(metrics), weights)


def evaluation_steps(total: int, evaluations: int) -> set[int]:
    """Return the steps after which to evaluate: evenly spaced, the last step included.

    >>> sorted(evaluation_steps(23, 4))
    [6, 12, 18, 23]
    """
    if evaluations >= total:
        return set(range(1, total + 1))
    return {math.ceil(k * total / evaluations) for k in range(1, evaluations + 1)}
