"""Train a study's model: with checkpoints, continued where it stopped."""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from lobes.config.study import StudyConfig
from lobes.errors import ConfigError
from lobes.experiments.loading import with_adapters
from lobes.experiments.store import SECONDS, RunFolder
from lobes.files import disk_faults, plain, read_json
from lobes.limits import STEPS
from lobes.metrics import get_metric
from lobes.modeling import MultiTaskModel
from lobes.modeling.saved_adapters import is_adapted, save_adapters, save_merged
from lobes.progress import StageProgress
from lobes.report import formatting as fmt
from lobes.results.training import Training
from lobes.tasks.task import Task
from lobes.training.arguments import training_arguments
from lobes.training.losses import task_losses
from lobes.training.settings import IAT, TrainingLoss
from lobes.training.trainer import MultiTaskTrainer, OnStep

# Where adapters lie beside the model that they are merged into.
ADAPTERS = "adapters"
# How often every task is evaluated in a training, the end included.
EVALUATIONS = 4
# A checkpoint is written this often, but not every few steps of a short training.
CHECKPOINTS = 10
LEAST_STEPS_BETWEEN_CHECKPOINTS = 50

logger = logging.getLogger("lobes")


@dataclass(frozen=True)
class Rhythm:
    """About how many steps a training takes; after how many it is evaluated and saved."""

    steps: int
    save_every: int
    evaluate_every: int


def train(
    study: StudyConfig,
    folder: RunFolder,
    model: MultiTaskModel,
    tasks: Sequence[Task],
    progress: StageProgress | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> Training:
    """Train `model`, from the newest checkpoint if there is one, and keep it in `model/`.

    Returns the record that is kept with it.
    """
    checkpoints = folder.path / "checkpoints"
    clock, pace = _Clock(folder), rhythm(study, tasks)
    model = with_adapters(study, model)
    with disk_faults(checkpoints):
        trainer = study_trainer(
            study,
            checkpoints,
            model,
            tasks,
            iat=None if study.iat is None else study.iat.settings(study.seed),
            on_step=progress and (lambda step, total, *_: progress("training", step, total)),
            callbacks=[clock, _Notes(progress), *callbacks],
            report_to=list(study.training.report_to) or "none",
            save_every=pace.save_every,
            evaluate_every=pace.evaluate_every,
        )
        trainer.train(resume_from_checkpoint=True)
        if not _scores(trainer) or _scores(trainer)[-1]["step"] < trainer.state.global_step:
            trainer.evaluate()
    record = plain(
        {
            "steps": trainer.state.global_step,
            "seconds": clock.seconds(),
            "seed": study.seed,
            "precision": "bf16" if trainer.args.bf16 else "fp32",
            "sampling": study.training.sampling,
            "iat": trainer.iat_record,
            "losses": trainer.losses,
            "scores": _scores(trainer),
        }
    )
    with folder.writing_model(record) as unfinished:
        save_merged(model, unfinished)
        if is_adapted(model.encoder):
            save_adapters(model.encoder, unfinished / ADAPTERS)
    folder.remove_checkpoints()
    return Training.model_validate(record)


def rhythm(study: StudyConfig, tasks: Sequence[Task]) -> Rhythm:
    """Return how many steps a training takes, and after how many what is done.

    Raises `ConfigError` for more steps than there may be.
    """
    settings = study.training
    steps, epochs = settings.length
    # about so many: every batch is of one task
    sizes = [len(task.train) for task in tasks if task.train is not None]
    batches = sum(math.ceil(size / settings.batch_size) for size in sizes)
    total = steps or max(1, math.ceil((epochs or 1) * batches))
    if total > STEPS.most:
        raise ConfigError(
            f"training.epochs is {epochs:g}, which makes {total:,} steps of these tasks; expected "
            f"{STEPS}."
        )
    usual = max(LEAST_STEPS_BETWEEN_CHECKPOINTS, math.ceil(total / CHECKPOINTS))
    return Rhythm(total, settings.save_every or usual, math.ceil(total / EVALUATIONS))


def study_trainer(
    study: StudyConfig,
    checkpoints: Path,
    model: MultiTaskModel,
    tasks: Sequence[Task],
    *,
    steps: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    iat: IAT | None = None,
    weighting: str | Sequence[float] | None = None,
    on_step: OnStep | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    **others: Any,
) -> MultiTaskTrainer:
    """Return a trainer with the study's settings, but for those that are given.

    `others` are further settings of `training_arguments`.
    """
    settings = study.training
    length = (steps, None) if steps else settings.length
    args = training_arguments(
        checkpoints,
        steps=length[0],
        epochs=length[1],
        batch_size=batch_size or settings.batch_size,
        learning_rate=learning_rate or settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup=settings.warmup,
        precision=study.precision,
        seed=study.seed,
        **others,
    )
    return MultiTaskTrainer(
        model,
        args,
        tasks=tasks,
        sampling=settings.sampling,
        temperature=settings.temperature,
        iat=iat,
        losses=losses_of(study, tasks),
        weighting=weighting,
        on_step=on_step,
        callbacks=[*callbacks],
    )


def losses_of(study: StudyConfig, tasks: Sequence[Task]) -> dict[str, TrainingLoss]:
    """Return the losses of tasks in a study's training; `ConfigError` for one that does not fit."""
    given = study.losses
    losses = {task.name: given[task.name] for task in tasks if task.name in given}
    task_losses(losses, tasks)
    return losses


def _scores(trainer: MultiTaskTrainer) -> list[dict[str, Any]]:
    """[{"step": …, "scores": {task: main metric}}] of the evaluations so far."""
    return [
        {
            "step": entry["step"],
            "scores": {
                task.name: entry[f"eval_{task.name}_{task.metric}"] for task in trainer.tasks
            },
        }
        for entry in trainer.state.log_history
        if "eval_mean" in entry
    ]


def warn_near_chance(
    tasks: Sequence[Task], scores: Mapping[str, float | None], what: str, within: object = None
) -> None:
    """Log a warning for each task whose score is near chance or below; `what` begins it.

    It is said before hours are spent on measuring a model that hardly does its tasks. `scores` are
    the tasks' main metrics on their validation data. Of those `within` the same study the terminal
    shows each task's first (`terminal.py`), the log all.
    """
    for task in tasks:
        assert task.validation is not None
        score = fmt.number(scores[task.name])
        metric, count = get_metric(task.metric), len(task.validation)
        chance = metric.chance(task.validation.labels)
        standing = metric.standing(score, chance, count)
        if standing == "below":
            why = "is below chance; are the labels in another order?"
        elif standing == "near":
            many = fmt.plural(count, "example")
            why = f"is near chance for {many}: where there is little to lose, little can be shown."
        else:
            continue
        shown = "undefined" if math.isnan(score) else f"{score:.3f}"
        logger.warning(
            "%s: the %s of %s, %s (chance %.3f), %s",
            what,
            task.metric,
            task.name,
            shown,
            chance,
            why,
            extra={"once": None if within is None else (within, task.name, standing)},
        )


class _Notes(TrainerCallback):
    """Tells a progress that can say more than a number how the training goes."""

    def __init__(self, progress: StageProgress | None) -> None:
        self.tell = getattr(progress, "note", None)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if self.tell is not None and "loss" in (logs or {}):
            self.tell("training", note_of(logs))


def note_of(logs: Mapping[str, float]) -> str:
    """Return a log entry of `MultiTaskTrainer` in words: phase, losses, learning rate, speed."""
    losses = ", ".join(
        f"{name.removeprefix('loss_')} {value:.3f}"
        for name, value in logs.items()
        if name.startswith("loss_")
    )
    parts = [f"loss {losses}", f"learning rate {logs['learning_rate']:.1e}"]
    if "iat" in logs:
        parts.insert(0, "IAT phase" if logs["iat"] else "before IAT")
    return "; ".join([*parts, f"{logs['examples_per_second']:.0f} examples/s"])


class _Clock(TrainerCallback):
    """How long the training took, over all sessions, without what was lost between checkpoints."""

    def __init__(self, folder: RunFolder) -> None:
        stored = read_json(folder.path / SECONDS)
        self.folder = folder
        seconds = stored.get("seconds") if isinstance(stored, dict) else None
        self.before = float(seconds) if isinstance(seconds, int | float) else 0.0
        self.start = time.perf_counter()

    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.start

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if control.should_save:
            self.folder.check()  # the Trainer would write its checkpoint into anyone's folder

    def on_save(self, *_: Any, **__: Any) -> None:
        self.folder.write_json(SECONDS, {"seconds": self.seconds()})
