"""Multi-task training on `transformers.Trainer`, with one task in each batch.

Definitions: docs/method.md#multi-task-training.

The Trainer does mixed precision, accumulation, clipping, schedules, checkpoints and several
processes. Ours are the order of the batches, the evaluation of every task, checkpoints that
`MultiTaskModel.from_pretrained` can read, and stopping when the loss is no longer a number.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import TrainOutput

from lobes.errors import ConfigError, RunError
from lobes.measure.workload import Workload, prepare
from lobes.modeling import TaskModel
from lobes.modeling.attention_kernels import fast_gradients
from lobes.modeling.safe_loading import quiet
from lobes.tasks.task import Task, as_tasks
from lobes.training import sharding
from lobes.training.arguments import training_arguments
from lobes.training.checkpoints import (
    STATE,
    checkpoint_of,
    complete,
    discard,
    last_checkpoint,
    read_record,
    reading,
    rotate,
    steps_of,
    write_record,
    writing_checkpoint,
)
from lobes.training.data import (
    TaskLoader,
    TrainingData,
    sampler_of,
    steps_in_all,
    worker_settings,
)
from lobes.training.iat import IAT, IatPhase
from lobes.training.loss_record import LossRecord
from lobes.training.losses import task_losses
from lobes.training.sampling import MicroBatchSampler, TaskBatchSampler
from lobes.training.settings import LossFunction, TrainingLoss
from lobes.training.step_callback import StepCallback
from lobes.training.supported import (
    building,
    check_arguments,
    check_iat,
    check_types,
    check_weighted,
    checkpoints_activations,
    only_own_data,
    recomputes,
    trainable,
)
from lobes.training.validation import scores_on
from lobes.training.weighting import in_order, shared_parameters, weighted_step

OnStep = Callable[[int, int, str, float], None]


class MultiTaskTrainer(Trainer):
    """Train a `MultiTaskModel` on its tasks' training data, each batch from one task.

    `tasks` need training data, and validation data to be evaluated. `args` as
    `training_arguments` builds them, or any `transformers.TrainingArguments`; what a training of
    several tasks cannot honor is refused (`supported.py`). None: those defaults for three epochs,
    with the Trainer's progress bar, and no checkpoints. `sampling` says which
    task comes how often (with its `temperature`), `group_lengths` puts examples of similar length
    into a batch: see `TaskBatchSampler`. `iat` turns, late in the training, to training each
    task's important heads only: see `IAT`. `on_step(step, total, task, loss)` is called after
    each optimizer step with its last batch's task and loss.

    `losses` says for tasks by their names how they are trained other than with the usual loss: a
    `TrainingLoss` (class weights, label smoothing, a weight beside the other tasks), or a function
    `loss(logits, labels) -> [batch]`. The importance of IAT does not depend on it.

    With `weighting`, each step has a micro-batch of every task instead, and a method against
    interference weighs them, or the given weights, one for each task, in their order or by name:
    see `weighting.py`. With one task there is nothing to weigh.

    Texts are tokenized once, here; nothing is written before the training starts. A seed fixes
    the run: dropout draws from the global random state, which `train` sets from `args.seed` as the
    Trainer does.
    """

    control: Any

    def __init__(
        self,
        model: TaskModel,
        args: TrainingArguments | None = None,
        *,
        tasks: Task | Sequence[Task],
        sampling: str = "proportional",
        temperature: float = 2.0,
        group_lengths: bool = True,
        iat: IAT | None = None,
        losses: Mapping[str, TrainingLoss | LossFunction] | None = None,
        weighting: str | Sequence[float] | Mapping[str, float] | None = None,
        on_step: OnStep | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self.tasks = as_tasks(tasks)
        model = trainable(model, self.tasks)
        self.data = TrainingData(model, self.tasks)
        check_types(args, iat)
        args = args or training_arguments("lobes-training", epochs=3, progress=True)
        self.sampler: TaskBatchSampler | MicroBatchSampler
        self.sampler = plain = sampler_of(args, self.data, sampling, temperature, group_lengths)
        check_arguments(args, model, self.tasks, len(self.sampler))
        self._task_losses = task_losses(losses, self.tasks, args.label_smoothing_factor)
        weights = in_order(weighting, self.data.names)
        self.weighted = weighted_step(weights, len(self.tasks), args.device, args.seed)
        self._after_step: Callable[[], None] = lambda: None
        if self.weighted is not None:
            check_weighted(args, iat)
            steps = steps_in_all(args, len(plain))
            self.sampler = MicroBatchSampler(plain, steps, self.data.names)
        self._own = model
        self._iat = None if iat is None else self._phase(iat, args)
        self._recorded = LossRecord()
        self._seen: set[str] = set()  # the tasks of this step's batches
        self._on_step = on_step
        self._validation: Workload | None = None
        uses_cache = getattr(model.config, "use_cache", None)
        with quiet(), building(args):
            super().__init__(
                model,
                args,
                train_dataset=self.data,
                eval_dataset={task.name: task.validation for task in self.tasks},
                callbacks=[StepCallback(self), *([self._iat] if self._iat else []), *callbacks],
            )
        self.remove_callback(PrinterCallback)
        self.label_smoother = None  # smoothing is part of the tasks' losses
        model.reaches_all = self.is_fsdp_enabled
        if self._iat is not None and self.is_deepspeed_enabled:
            raise ConfigError(
                "IAT does not run under DeepSpeed, whose optimizer works on weights of its own: "
                "use DDP (torchrun alone) or FSDP, or leave iat out."
            )
        if uses_cache is not None:
            # the Trainer switches it off in the configuration, which is saved with the encoder
            model.config.use_cache = uses_cache

    # Training

    def train(
        self,
        resume_from_checkpoint: str | os.PathLike[str] | bool | None = None,
        **others: Any,
    ) -> TrainOutput:
        """Train to the end, from the beginning or from a checkpoint.

        `resume_from_checkpoint=True` takes the newest intact checkpoint of `args.output_dir`, or
        begins anew where there is none; damaged ones are named in a warning. On a CPU in fp32
        the resumed run ends with the same weights, to the bit, as one that was never interrupted.
        Raises `RunError` when the loss is not a number, or a checkpoint cannot be written or read.
        """
        if resume_from_checkpoint not in (None, False) and self.weighted is not None:
            raise ConfigError(
                "A training with weighting does not continue from a checkpoint: leave "
                "resume_from_checkpoint out."
            )
        checkpoint = checkpoint_of(resume_from_checkpoint, self.args.output_dir, self._own.tasks)
        if checkpoint is None:
            set_seed(self.args.seed)
        record = read_record(checkpoint)
        self._recorded.restore(record)
        steps = 0 if checkpoint is None else steps_of(checkpoint) or 0
        if self._iat is not None:
            self._iat.prepare(self.total_steps, steps, record["iat"])
        elif record["iat"] is not None:
            raise RunError(
                f"The checkpoint {str(checkpoint)!r} is in the IAT phase of a training: give the "
                f"trainer the same iat=IAT(…), or train from the beginning."
            )
        if checkpoint is not None and steps >= self.total_steps:
            return self._finished(checkpoint)
        recomputed = checkpoints_activations(self.args) and not recomputes(self._own)
        try:
            with quiet():
                return super().train(checkpoint and os.fspath(checkpoint), **others)
        finally:
            if self._iat is not None:
                self._iat.end()
            if recomputed:
                self._own.activation_checkpointing_disable()
            handle = getattr(self, "neftune_hook_handle", None)
            if handle is not None:  # the Trainer leaves it where a training is interrupted
                handle.remove()
                self._own.get_input_embeddings().__dict__.pop("neftune_noise_alpha", None)
            # accelerate marks the model as its own
            self._own.__dict__.pop("_is_accelerate_prepared", None)

    @property
    def losses(self) -> list[dict[str, Any]]:
        """The mean losses that were logged: {"step", "task", "loss"} each."""
        return self._recorded.losses

    @property
    def switch_step(self) -> int | None:
        """How many steps are ordinary before the IAT phase; None where all are."""
        return None if self._iat is None else self._iat.settings.switch_step(self.total_steps)

    @property
    def iat_record(self) -> dict[str, Any] | None:
        """What IAT chose: None before its phase and without it, else a dict for JSON.

        "switch_step" and "steps" of the phase, "seconds" that the importance took, "settings",
        "heads": {task: the heads it trains}, "importance": {task: [sites][heads]}, "chosen_at":
        the steps after which heads were chosen, "n_heads" of the model.
        """
        return None if self._iat is None else self._iat.record

    @property
    def total_steps(self) -> int:
        """How many optimizer steps the whole run takes."""
        return steps_in_all(self.args, len(self.sampler))

    def _finished(self, checkpoint: Path) -> TrainOutput:
        """Take over a run that ended; the Trainer would train one step more."""
        self._load_from_checkpoint(os.fspath(checkpoint))
        self.state = TrainerState.load_from_json(os.fspath(checkpoint / STATE))
        self._recorded.means(self.state.global_step)
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None:
            self._load_best_model()
        return TrainOutput(self.state.global_step, math.nan, {})

    def get_train_dataloader(self) -> DataLoader:
        """Return the batches of one epoch, for this process."""
        return TaskLoader(
            self.data,
            batch_sampler=self.sampler,
            collate_fn=self.data.collate if self.weighted is None else self.data.collate_tasks,
            pin_memory=self.args.dataloader_pin_memory,
            **worker_settings(self.args),
        )

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Leave the gradients of one step in the parameters; return its mean loss."""
        with fast_gradients(self.args.device):
            if self.weighted is None:
                return super().training_step(model, inputs, num_items_in_batch)
            return self._weighted_step(model, inputs)

    def _weighted_step(self, model: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        assert self.weighted is not None
        model.train()
        parts = self._prepare_inputs(inputs)["parts"]
        losses = [partial(self._loss_of, self.compute_loss, model, part) for part in parts]
        bare = [dict(part) for part in parts]
        again = [partial(self._loss_of, self._unrecorded, model, part) for part in bare]
        for part in bare:
            del part["examples"]
        self._after_step = partial(self.weighted.after_step, again)
        shared = shared_parameters(self._own)
        return self.weighted.backward(losses, self.accelerator.backward, shared).mean()

    def _loss_of(self, compute: Callable[..., Any], model: nn.Module, part: Any) -> torch.Tensor:
        with self.compute_loss_context_manager():
            return compute(model, dict(part))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the mean loss of one batch; raise `RunError` if it is not a number.

        It has the task's weight; what is recorded has not.
        """
        task, examples = inputs["task"], inputs.pop("examples", ())
        size = len(inputs["labels"])
        self._seen.add(task)
        if self._iat is not None:
            self._iat.select(task)
        loss, outputs = self._unrecorded(model, inputs, True, num_items_in_batch)
        value = float(loss.detach()) / self._task_losses[task].weight
        if not math.isfinite(value):
            raise RunError(
                self._diverged(
                    f"the loss of task {task!r} is {value} on the batch of its training examples "
                    f"{', '.join(map(str, examples))}"
                )
            )
        if value < 0 and self.weighted is not None and self.weighted.learns:
            raise ConfigError(
                f"The loss function of task {task!r} gives {value:g}, and this weighting takes "
                f"losses of 0 and more: add a constant to it, or choose another weighting."
            )
        self._recorded.add(task, value, size)
        return (loss, outputs) if return_outputs else loss

    def _unrecorded(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        own = self._task_losses[inputs["task"]]
        if own.function is not None:
            inputs["loss_function"] = own.function
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if own.weight != 1:
            loss = own.weight * loss
        return (loss, outputs) if return_outputs else loss

    def autocast_smart_context_manager(
        self, cache_enabled: bool | None = True
    ) -> AbstractContextManager:
        """Apply the run's precision; the model's own forward pass stays as it is."""
        return self.accelerator.autocast()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add each task's mean loss since the last time, the speed, and whether IAT is on."""
        if "loss" in logs or "train_loss" in logs:
            logs |= self._recorded.means(self.state.global_step)
            if "loss" in logs:  # not at the end, where the Trainer has the speed of all steps
                logs |= self._recorded.pace(self.args.world_size)
            if self._iat is not None:
                logs["iat"] = float(self._iat.active)
        super().log(logs, start_time)

    def _phase(self, iat: IAT, args: TrainingArguments) -> IatPhase:
        check_iat(args)
        return IatPhase(
            iat,
            self._own,
            self.tasks,
            tasks_of_step=self._tasks_of_step,
            autocast=lambda: self.accelerator.autocast(),
            sharded=lambda: self.is_fsdp_enabled,
        )

    def _tasks_of_step(self) -> set[str]:
        """The tasks that this step's batches had so far, in any process."""
        if self.args.world_size == 1:
            return set(self._seen)
        names = [task.name for task in self.tasks]
        here = torch.tensor([name in self._seen for name in names], device=self.args.device)
        anywhere = self.accelerator.reduce(here.float(), "sum").tolist()
        return {name for name, number in zip(names, anywhere, strict=True) if number}

    # Evaluation

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Return the main metric of every task on its validation data, and their mean.

        The keys are `eval_TASK_METRIC` and `eval_mean`. Raises `DataError` for a task without
        validation data, `ConfigError` for other data. The model is left in the mode it was in.
        """
        if eval_dataset is not None:
            raise only_own_data("evaluate", "eval_dataset")
        if self._validation is None:
            self._validation = prepare(self._own, self.tasks, split="validation")
        scores = scores_on(self._validation, self._own, self.accelerator.autocast())
        metrics = {
            f"{metric_key_prefix}_{task.name}_{task.metric}": scores[task.name]
            for task in self.tasks
        }
        metrics[f"{metric_key_prefix}_mean"] = float(np.mean(list(scores.values())))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def predict(self, test_dataset: Any = None, *_: Any, **__: Any) -> Any:
        """Raise `ConfigError`: `lobes.evaluate` returns predictions."""
        raise only_own_data("predict", "test_dataset")

    # Checkpoints

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial=trial), f"checkpoint-{self.state.global_step}")
        if not all(bool(weight.isfinite().all()) for weight in self.model.parameters()):
            raise RunError(self._diverged("the weights are no longer numbers"))
        if self.args.should_save:
            discard(folder)
        self.accelerator.wait_for_everyone()
        # the Trainer would remove an older checkpoint before this one counts as written
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            with writing_checkpoint(folder):
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    complete(folder)
                    rotate(folder, limit, self.state.best_model_checkpoint)
        finally:
            self.args.save_total_limit = limit

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the model to `output_dir`, as `MultiTaskModel.save_pretrained` does."""
        if self.is_fsdp_enabled:  # every process holds a part
            self._save(output_dir, sharding.whole_weights(self._own))
        else:
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        self._own.save_pretrained(folder, state_dict=state_dict)
        write_record(folder, {**self._recorded.to_dict(), "iat": self.iat_record})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        weights = self._own.saved_weights(resume_from_checkpoint)
        if self.is_fsdp_enabled:
            sharding.load_whole(self._own, weights)
        else:
            self._own.load_state_dict(weights)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with reading(checkpoint or ""):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with reading(checkpoint or ""):
            super()._load_rng_state(checkpoint)

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(cast(str, self.state.best_model_checkpoint))

    def _diverged(self, what: str) -> str:
        kept = last_checkpoint(self.args.output_dir)
        where = f"the last checkpoint is {str(kept)!r}" if kept else "there is no checkpoint"
        return (
            f"Training failed at step {self.state.global_step + 1}: {what}; {where}. Lower the "
            f"learning rate ({self.args.learning_rate:g}), or check the task's data, and its loss "
            f"function where it has one of its own."
        )
