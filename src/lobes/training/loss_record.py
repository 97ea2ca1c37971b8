"""What a training records on its way: each task's mean loss since the last time, and its speed."""

import math
import time
from collections.abc import Mapping
from typing import Any


class LossRecord:
    """The losses of a training's batches.

    `losses` are the means that were logged, {"step", "task", "loss"} each; `last` is the task and
    the loss of the last batch.
    """

    def __init__(self) -> None:
        self.losses: list[dict[str, Any]] = []
        self.last = ("", math.nan)
        self._pending: dict[str, list[float]] = {}  # by task: the sum, and of how many batches
        self._since, self._examples = time.perf_counter(), 0

    def add(self, task: str, loss: float, examples: int) -> None:
        """Note the mean loss of one batch."""
        self.last = task, loss
        self._examples += examples
        total = self._pending.setdefault(task, [0.0, 0])
        total[0] += loss
        total[1] += 1

    def means(self, step: int) -> dict[str, float]:
        """Return {"loss_TASK": mean} over the batches since the last time, and keep them."""
        means = {task: total / number for task, (total, number) in self._pending.items()}
        self._pending = {}
        self.losses += [{"step": step, "task": task, "loss": loss} for task, loss in means.items()]
        return {f"loss_{task}": loss for task, loss in means.items()}

    def pace(self, processes: int) -> dict[str, float]:
        """Return the training examples per second since the last time, all processes together."""
        now, before, examples = time.perf_counter(), self._since, self._examples
        self._since, self._examples = now, 0
        return {"examples_per_second": round(examples * processes / (now - before), 1)}

    def to_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds of it."""
        return {"losses": self.losses, "pending": self._pending}

    def restore(self, record: Mapping[str, Any]) -> None:
        """Go on from what `to_dict` gave."""
        self.losses, self._pending = record["losses"], record["pending"]
