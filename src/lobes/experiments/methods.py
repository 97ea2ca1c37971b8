"""Train in the ways that are compared, each with the same data, budget and choice of weights.

Of every task's training data a part is held out, drawn by the run's seed. During a training the
held-out part is evaluated a number of times, and the weights with the best mean over tasks of the
main metrics are kept: that is the same for all methods. The validation data, which are what is
reported, are never looked at before the end.

- single: a model for each task, trained alone for as many steps as the task gets in the
  multi-task training, so that all of them together cost as much;
- multi: one model for all tasks;
- iat: the same, with IAT in its last steps (docs/method.md#iat);
- frozen: as multi, but only the classifiers are trained;
- the methods against interference (`lobes.training.weighting`): as multi, with the same examples
  dealt out so that every step has a micro-batch of each task, whose losses or gradients a method
  weighs. "tuned" is a sum with weights from a grid, chosen by the same held-out part.

`multi` and `iat` of one seed are the same training up to IAT's first step, so they are trained
together: the second goes on from a checkpoint of the first, and with the best weights that the
first had kept by then. Where those stay the best of both, the two models are the same.
"""

import contextlib
import gc
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from transformers import TrainerCallback

from lobes.config.settings import WEIGHTED, CompareConfig, IatConfig
from lobes.config.study import StudyConfig
from lobes.errors import ConfigError
from lobes.experiments.loading import check_base, new_model, with_adapters
from lobes.experiments.training import study_trainer, warn_near_chance
from lobes.files import disk_faults, remove
from lobes.measure.evaluation import evaluate
from lobes.measure.settings import IapSettings
from lobes.measure.steps import Arrays
from lobes.modeling import MultiTaskModel, is_saved_model
from lobes.modeling.precision import resolve_precision
from lobes.modeling.saved import ENCODER
from lobes.modeling.saved_adapters import merge
from lobes.progress import Progress
from lobes.report.seeds.parts import NAMES
from lobes.tasks.subsets import hold_out
from lobes.tasks.task import Task
from lobes.training.sampling import MicroBatchSampler, TaskBatchSampler
from lobes.training.selection import Best, BestWeights
from lobes.training.settings import IAT
from lobes.training.trainer import MultiTaskTrainer

# How many validation examples of each task exchanges are measured on, unless the study says.
CONTROL_EXAMPLES = 200
# How many combinations of the tasks' weights the grid of "tuned" may have.
MOST_WEIGHTS = 128


@dataclass(frozen=True, eq=False)
class Trained:
    """A model with the weights that were selected.

    `step` is the number of steps after which they were the weights, `held_out` are the tasks'
    main metrics on their held-out parts then. `seconds` is the whole training's wall time, `iat`
    the trainer's record of what IAT chose, `weights` the mean weight of each task over the steps.
    """

    model: MultiTaskModel
    step: int
    held_out: Float[np.ndarray, " tasks"]
    seconds: float
    iat: dict[str, Any] | None = None
    weights: Float[np.ndarray, " tasks"] | None = None


def with_defaults(study: StudyConfig) -> StudyConfig:
    """Return the study with tables [compare] and [iat], if it leaves them out.

    Raises `ConfigError` for a study that trains nothing, or on one task, or whose model is trained
    on its tasks already, for an IAT phase of no step, for a grid of weights that is too large, and
    for seeds that go too far.
    """
    if not study.training.enabled:
        raise ConfigError(
            "training.enabled is false, so there are no trainings to compare; expected true."
        )
    if is_saved_model(study.model):
        raise ConfigError(
            f"The model {study.model} is trained on tasks already; expected a pre-trained encoder "
            f"to begin with. For the encoder of that model write model = "
            f'"{Path(study.model, ENCODER)}".'
        )
    if len(study.tasks) < 2:
        raise ConfigError(
            f"The study has one task, {study.tasks[0].name!r}; multi-task training needs two or "
            f"more: add a [[tasks]] table."
        )
    iat = study.iat or IatConfig.model_validate({})
    if iat.delta == 0:
        raise ConfigError(
            "iat.delta is 0, so that IAT would be ordinary training; expected a share of the steps "
            "above 0."
        )
    compare = study.compare or CompareConfig.model_validate({})
    number = len(compare.weights) ** len(study.tasks)
    if "tuned" in compare.methods and number > MOST_WEIGHTS:
        raise ConfigError(
            f"compare.weights has {len(compare.weights)} values, which for {len(study.tasks)} "
            f'tasks makes {number:,} combinations for "tuned" to train with; expected at most '
            f"{MOST_WEIGHTS}: give fewer values, or leave the method out."
        )
    return study.changed(iat=iat, compare=compare)


class SeedRun:
    """The trainings of one seed: data order, dropout, new weights and held-out parts are its own.

    `study` is one that `with_defaults` returned, `tasks` its tasks with their data, `precision`
    that of the measurements, by default what the study says for the device. What is written on the
    way goes to the folder `checkpoints`, and is gone afterwards. Where `base` is set, every new
    model must be of the encoder with this fingerprint.
    """

    base: str | None = None

    def __init__(
        self,
        study: StudyConfig,
        seed: int,
        tasks: Sequence[Task],
        checkpoints: Path,
        precision: str | None = None,
    ) -> None:
        assert study.compare is not None
        self.study = study.model_copy(update={"seed": seed})
        self.compare = study.compare
        self.tasks = tuple(tasks)
        self.parts = tuple(hold_out(task, self.compare.held_out, seed) for task in tasks)
        self.checkpoints = checkpoints
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.precision = precision or resolve_precision(study.precision, self.device)

    def new_model(self, tasks: Sequence[Task] | None = None) -> MultiTaskModel:
        """Return the pre-trained encoder with new classifiers, those of the seed."""
        model = new_model(self.study, tasks or self.tasks)
        if self.base is not None:
            check_base(model, self.base, self.study.model)
        return model.to(self.device)

    @property
    def learnable(self) -> tuple[Task, ...]:
        """The tasks with what is trained on, and the validation data that are reported."""
        return tuple(
            task.replace(train=part.train)
            for task, part in zip(self.tasks, self.parts, strict=True)
        )

    @property
    def iat(self) -> IAT:
        """The settings of IAT for this seed."""
        assert self.study.iat is not None
        return self.study.iat.settings(self.study.seed)

    @property
    def lesions(self) -> IapSettings:
        """The study's lesions, of every task, without others to compare them with."""
        settings = self.study.iap.settings(self.study.seed)
        return replace(settings, controls=0, random=0, lesion_tasks=None)

    @property
    def exchanges(self) -> IapSettings | None:
        """The same at the largest fraction, with the tasks' heads exchanged; None for none."""
        if not self.compare.controls:
            return None
        lesions = self.lesions
        return replace(
            lesions.of_largest,
            controls=self.compare.controls,
            stop=False,
            control_examples=lesions.control_examples or CONTROL_EXAMPLES,
        )

    @property
    def steps(self) -> int:
        """How many steps the multi-task trainings take."""
        steps, epochs = self.study.training.length
        return steps or math.ceil((epochs or 1) * len(self._sampler()))

    @cached_property
    def steps_of_tasks(self) -> tuple[int, ...]:
        """How many of the steps are each task's, and at least 1."""
        return tuple(max(1, count) for count in self._sampler().batches_in(self.steps))

    def micro_batches(self) -> MicroBatchSampler:
        """Return which examples come when in trainings that weigh the tasks in each step."""
        names = [task.name for task in self.tasks]
        return MicroBatchSampler(self._sampler(), self.steps, names)

    def _sampler(self) -> TaskBatchSampler:
        """Which task's batch comes when in the multi-task trainings."""
        settings = self.study.training
        steps, epochs = settings.length
        new = partial(
            TaskBatchSampler,
            [len(part.train) for part in self.parts],  # type: ignore[arg-type]
            settings.batch_size,
            seed=self.study.seed,
            sampling=settings.sampling,
            temperature=settings.temperature,
        )
        return new(epochs=math.ceil(steps / len(new()) if steps else epochs or 1))

    @property
    def grid(self) -> tuple[tuple[float, ...], ...]:
        """The weights of the tasks that "tuned" tries; the mean weight is 1, the first are equal.

        What differs by a common factor is there once.
        """
        combinations = itertools.product(self.compare.weights, repeat=len(self.tasks))
        scaled = [tuple(round(w * len(row) / sum(row), 9) for w in row) for row in combinations]
        return tuple(dict.fromkeys(scaled))

    def weighting(self, method: str) -> str | tuple[float, ...]:
        """How a method weighs the tasks, for the trainer; "tuned" begins with equal weights."""
        return self.grid[0] if method == "tuned" else method

    def train(
        self,
        method: str,
        progress: Progress | None = None,
        *,
        number: int | None = None,
        weights: tuple[float, ...] | None = None,
    ) -> Trained:
        """Train one model by a method.

        With "single" that of the task with this `number`, with "tuned" by these `weights`.
        """
        parts = self.parts if number is None else (self.parts[number],)
        model, settings = self.new_model(parts), dict[str, Any]()
        if method != "frozen":
            model = with_adapters(self.study, model)
        if number is not None:
            settings["steps"] = self.steps_of_tasks[number]
        if method == "iat":
            settings["iat"] = self.iat
        if method in WEIGHTED:
            settings["weighting"] = weights or self.weighting(method)
        if method == "frozen":
            model.encoder.requires_grad_(False)
            settings["learning_rate"] = self.compare.frozen_learning_rate
        return self._train(self.trainer(model, parts, progress=progress, **settings), method)

    def pair(self, progress: Progress | None = None) -> tuple[Trained, Trained]:
        """Train by "multi" and by "iat", with the steps that they share taken once."""
        switch = self.iat.switch_step(self.steps)
        if not switch:
            return self.train("multi", progress), self.train("iat", progress)
        path = self.checkpoints / f"checkpoint-{switch}"
        try:
            model = with_adapters(self.study, self.new_model())
            first = self.trainer(model, self.parts, progress=progress)
            fork = _Fork(switch)
            multi = self._train(first, "multi", fork=fork)
            model = with_adapters(self.study, self.new_model())
            second = self.trainer(model, self.parts, iat=self.iat, progress=progress)
            kept: dict[str, Any] = {"best": fork.best, "checkpoint": path, "before": fork.seconds}
            iat = self._train(second, "iat", **kept)
        finally:
            remove(path)
        return multi, iat

    def check(
        self,
        model: MultiTaskModel,
        iat: IAT | None = None,
        parts: Sequence[Task] | None = None,
        *,
        weighting: str | tuple[float, ...] | None = None,
    ) -> None:
        """Raise what can be known to be wrong with a training before it begins."""
        try:
            trainer = self.trainer(model, parts or self.parts, iat=iat, weighting=weighting)
            if iat is not None:
                iat.switch_step(trainer.total_steps)
        finally:
            with contextlib.suppress(OSError):
                self.checkpoints.rmdir()  # the Trainer makes it

    def trainer(
        self,
        model: MultiTaskModel,
        parts: Sequence[Task],
        *,
        progress: Progress | None = None,
        **settings: Any,
    ) -> MultiTaskTrainer:
        """Return a trainer with the study's settings, but for those that are given.

        They are those of `study_trainer`: steps, batch size, learning rate, IAT.
        """
        on_step = (lambda step, total, *_: progress(step, total)) if progress else None
        return study_trainer(
            self.study, self.checkpoints, model, parts, on_step=on_step, **settings
        )

    def _train(
        self,
        trainer: MultiTaskTrainer,
        method: str,
        *,
        fork: "_Fork | None" = None,
        best: Best | None = None,
        checkpoint: Path | None = None,
        before: float = 0.0,
    ) -> Trained:
        """Train to the end, from a checkpoint if there is one, and load the best weights."""
        keeper = BestWeights(self.compare.evaluations, best)
        trainer.add_callback(keeper)
        if fork is not None:
            fork.keeper = keeper
            trainer.add_callback(fork)
        start = time.perf_counter()
        with disk_faults(self.checkpoints):
            trainer.train(resume_from_checkpoint=checkpoint)
        seconds = before + time.perf_counter() - start - (fork.writing if fork else 0.0)
        assert keeper.best is not None  # the last step is always evaluated
        model = trainer.model
        keeper.best.load(model)
        merge(model)
        scores = [keeper.best.scores[f"eval_{task.name}_{task.metric}"] for task in trainer.tasks]
        named = {task.name: score for task, score in zip(trainer.tasks, scores, strict=True)}
        what = f"Seed {self.study.seed}, {NAMES[method]}, held-out data"
        warn_near_chance(trainer.tasks, named, what, within=self.study.output)
        weights = None if trainer.weighted is None else trainer.weighted.mean_weights
        return Trained(
            model, keeper.best.step, np.array(scores), seconds, trainer.iat_record, weights
        )

    def scores(self, model: MultiTaskModel, tasks: Sequence[Task]) -> Float[np.ndarray, " tasks"]:
        """Return the main metric of every task on its validation data."""
        return evaluate(model, tasks, precision=self.precision).scores()[0]


class _Fork(TrainerCallback):
    """Writes a checkpoint at one step, and remembers what was best, and how late it was, then."""

    keeper: BestWeights

    def __init__(self, step: int) -> None:
        self.step = step
        self.start = self.reached = time.perf_counter()
        self.best: Best | None = None
        self.seconds = self.writing = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.reached = time.perf_counter()
        if state.global_step == self.step:
            control.should_save = True

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        self.reached = time.perf_counter()

    def on_save(self, *_: Any, **__: Any) -> None:
        self.writing = time.perf_counter() - self.reached
        self.seconds = self.reached - self.start
        self.best = self.keeper.best


def freeing(compute: Callable[[Progress], Arrays]) -> Callable[[Progress], Arrays]:
    """Return `compute`, which then frees what its trainings held."""

    def freed(progress: Progress) -> Arrays:
        try:
            return compute(progress)
        finally:
            free()

    return freed


def free() -> None:
    """Free what a training held: trainer, optimizer and model refer to each other in circles."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
