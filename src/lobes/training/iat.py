"""Important Attention-head Training: late in a training, each task trains its important heads only.

Definition: docs/method.md#iat.

The first ⌈(1 − δ)·T⌉ of T optimizer steps are ordinary. Then each task's importance is computed on
its training data, and its top α of all heads chosen; from there on a batch of task i trains the
query, key and value rows of task i's heads only (`row_gate.py`). Everything else trains as
before, or, with `train_other=False`, nothing else but the classifiers. Weights of an adapter that
several heads share (`shared_weights.py`) rest in this phase, whatever the settings.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from lobes.discovery import find_heads
from lobes.errors import ConfigError, ModelError, RunError
from lobes.heads import HeadLayout, HeadSet
from lobes.measure.importance import head_importance
from lobes.modeling import MultiTaskModel, example_losses
from lobes.modeling.pooling import probing
from lobes.scores import HeadScores, head_count, least_fraction
from lobes.tasks.task import Task
from lobes.training.processes import computed_once
from lobes.training.row_gate import KeptRows, RowGate, check_gateable
from lobes.training.settings import IAT
from lobes.training.shared_weights import shared_weights

logger = logging.getLogger("lobes")


def choose_heads(
    importance: Mapping[str, HeadScores], alpha: float, *, share: bool = True
) -> dict[str, HeadSet]:
    """Return the heads each task trains: its top `alpha`, or those of no other without `share`."""
    top = {task: scores.top(alpha) for task, scores in importance.items()}
    if share:
        return top
    return {
        task: HeadSet(
            head
            for head in heads
            if not any(head in others for name, others in top.items() if name != task)
        )
        for task, heads in top.items()
    }


class IatPhase(TrainerCallback):
    """One training's IAT: when it begins, what it trains, and the end of it.

    `select(task)` is called before each batch's forward pass. `record` says what was chosen and
    goes into checkpoints; `prepare` takes it back. `tasks_of_step` gives the tasks of this step's
    batches in all processes, `autocast` the precision in which importance is computed, `sharded`
    whether each process holds a part of the weights (FSDP). Where each holds all of them, every
    task's importance is computed by one process and sent to the others.
    """

    def __init__(
        self,
        settings: IAT,
        model: MultiTaskModel,
        tasks: Sequence[Task],
        *,
        tasks_of_step: Callable[[], set[str]],
        autocast: Callable[[], AbstractContextManager],
        sharded: Callable[[], bool],
    ) -> None:
        if len(tasks) < 2:
            raise ConfigError(
                f"IAT needs two or more tasks, which it keeps from disturbing each other; there "
                f"is one, {tasks[0].name!r}: leave iat out, or add a task."
            )
        self.settings, self.model, self.tasks = settings, model, tuple(tasks)
        self.layout = find_heads(model)
        total = self.layout.total
        if head_count(settings.alpha, total) == 0:
            raise ConfigError(
                f"alpha={settings.alpha:g} of {total} heads is not one head, so that IAT would "
                f"train none: take at least {least_fraction(total)}, or leave iat out."
            )
        check_gateable(self.layout)
        check_gate(model, self.layout)
        self._shared = frozenset(shared_weights(model, self.layout))
        self.record: dict[str, Any] | None = None
        self.switch: int | None = None
        self._tasks_of_step, self._autocast, self._sharded = tasks_of_step, autocast, sharded
        self._gate: RowGate | None = None
        self._kept: KeptRows | None = None
        self._frozen: list[nn.Parameter] = []

    # Before and after a training

    def prepare(self, total: int, step: int, record: dict[str, Any] | None) -> None:
        """Get ready for a training of `total` steps that goes on after `step` of them.

        `record` is what a checkpoint holds. Raises `RunError` where it belongs to other settings.
        """
        self.switch = self.settings.switch_step(total)
        self.record = None
        if record is not None:
            _check_record(record, self.settings, self.switch, self.layout)
            self.record = record
        elif self.switch is not None and step > self.switch:
            raise RunError(
                f"The checkpoint has {step} steps behind it, all without IAT, whose phase begins "
                f"after {self.switch} of {total}: continue from a checkpoint at or before that "
                f"step, or train from the beginning."
            )

    def end(self) -> None:
        """Take the gate away and let every parameter train again."""
        if self._gate is not None:
            self._gate.__exit__()
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        self._gate, self._kept, self._frozen = None, None, []

    # During a training

    @property
    def active(self) -> bool:
        """Whether the training is in its IAT phase."""
        return self._gate is not None

    def select(self, task: str) -> None:
        """Let the next batch, one of `task`, train this task's heads only."""
        if self._gate is not None:
            self._gate.select(task)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.switch is None or state.global_step < self.switch:
            return
        # ungated while importance is computed: its gradients are those of all heads
        if self._due(state.global_step):
            self.end()
            self._choose(args, state.global_step, state.max_steps)
        # also after a continued training, whose heads a checkpoint holds
        if self._gate is None:
            self._begin()

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        if self._kept is not None:
            # Only now all batches of the step are known, in every process.
            self._kept.keep(self._tasks_of_step())

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        if self._kept is not None:
            self._kept.restore()

    def _due(self, step: int) -> bool:
        """Whether the heads are to be chosen before the step after `step`."""
        if self.record is None:
            return True
        every = self.settings.refresh
        if every is None or step == self.record["chosen_at"][-1]:
            return False
        return (step - self.record["switch_step"]) % every == 0

    def _importance(self, name: str) -> HeadScores:
        settings = self.settings
        with self._autocast():
            return head_importance(
                self.model,
                next(task for task in self.tasks if task.name == name),
                method=settings.method,
                aggregate=settings.aggregate,
                normalize=settings.normalize,
                max_examples=settings.importance_examples,
                seed=settings.seed,
                layout=self.layout,
            )

    def _choose(self, args: Any, step: int, total: int) -> None:
        """Compute each task's importance and choose its heads; leaves no gradient and no mode."""
        start = time.perf_counter()
        before = self.record or {"seconds": 0.0, "chosen_at": []}
        settings, names = self.settings, [task.name for task in self.tasks]
        if self._sharded():  # no process can run the model by itself
            importance = {name: self._importance(name) for name in names}
        else:
            importance = computed_once(names, self._importance, args)
        heads = choose_heads(importance, settings.alpha, share=settings.share)
        without = [task for task, chosen in heads.items() if not chosen]
        if without:  # with share=False only
            logger.warning(
                "IAT trains no head on %s: all of its important heads matter to other tasks, too. "
                "Set share to true, or alpha lower.",
                " and ".join(without),
            )
        assert self.switch is not None
        self.record = {
            "switch_step": self.switch,
            "steps": total - self.switch,
            "seconds": before["seconds"] + time.perf_counter() - start,
            "settings": asdict(settings),
            "n_heads": self.layout.total,
            "chosen_at": [*before["chosen_at"], step],
            "heads": {task: str(chosen) for task, chosen in heads.items()},
            "importance": {task: _table(scores) for task, scores in importance.items()},
        }

    def _begin(self) -> None:
        """Gate the projections and freeze what is not to be trained."""
        assert self.record is not None
        chosen = {task: HeadSet.parse(text) for task, text in self.record["heads"].items()}
        other = self.settings.train_other
        self._gate = RowGate(self.model, self.layout, chosen, train_other=other).__enter__()
        if self.settings.strict:
            self._kept = KeptRows(self._gate)
        gated = {rows.parameter for site in self.layout.sites for rows in site.rows}
        for name, parameter in self.model.named_parameters():
            # what all heads' projections share would change the heads of every task
            rests = name in self._shared or not (
                other or name in gated or name.startswith("classifiers.")
            )
            if parameter.requires_grad and rests:
                parameter.requires_grad_(False)
                self._frozen.append(parameter)


def check_gate(model: MultiTaskModel, layout: HeadLayout) -> None:
    """Try the gate on a made-up example: with no head allowed, no head's rows may get a gradient.

    Raises `ModelError` where some do, which means that the model reads a projection's weight from
    somewhere else than the projection's own forward pass.
    """
    spec = model.tasks[0]
    shape = (1, spec.n_outputs) if spec.is_multi_label else (1,)
    labels = torch.zeros(shape, dtype=torch.float32 if spec.is_regression else torch.int64)
    with (
        probing(model),
        RowGate(model, layout, {spec.name: HeadSet()}) as gate,
        torch.enable_grad(),
    ):
        gate.select(spec.name)
        parts = [part for part in gate.parts if part.parameter.requires_grad]
        if not parts:
            return  # projections that are frozen anyway
        logits = model.logits(**model.example())[spec.name]
        loss = example_losses(logits, labels.to(model.device), spec).sum()
        weights = [part.parameter for part in parts]
        found = torch.autograd.grad(loss, weights, allow_unused=True)
        for part, gradient in zip(parts, found, strict=True):
            blocked = ~part.shaped(part.learns[spec.name])
            if gradient is not None and bool(torch.where(blocked, gradient, 0).any()):
                raise ModelError(
                    f"{part.attribute} of {type(part.module).__name__} gets a gradient past the "
                    f"gate: {type(model.encoder).__name__} reads it outside the projection's own "
                    f"forward pass, so IAT cannot train its heads one by one; train without iat."
                )


def _table(scores: HeadScores) -> list[list[float | None]]:
    """[sites][heads], None where a site has fewer heads."""
    return [[None if math.isnan(x) else x for x in row] for row in scores.values.tolist()]


def _check_record(
    record: Mapping[str, Any], settings: IAT, switch: int | None, layout: HeadLayout
) -> None:
    """Refuse to go on with heads that were chosen under other settings."""
    given, stored = asdict(settings), record["settings"]
    changed = [name for name in given if given[name] != stored.get(name)]
    if record["switch_step"] != switch:
        changed.append("the switch step")
    if record["n_heads"] != layout.total:
        changed.append("the number of heads")
    if changed:
        raise RunError(
            f"The checkpoint is in the IAT phase of a training with other settings: "
            f"{', '.join(changed)} {'differs' if len(changed) == 1 else 'differ'}; use those it "
            f"began with, or train from the beginning."
        )
