"""What is done at each step of a `MultiTaskTrainer`, beside what the Trainer does."""

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

if TYPE_CHECKING:
    from lobes.training.trainer import MultiTaskTrainer


class StepCallback(TrainerCallback):
    """Calls the trainer's `on_step`, and mends what its libraries do.

    The sampler learns in which epoch it is, the model's forward loses accelerate's precision, and
    a classifier without a batch in a step has no gradient, also under FSDP.
    """

    def __init__(self, trainer: "MultiTaskTrainer") -> None:
        self.trainer = trainer
        self.patched = False

    def on_init_end(self, *_: Any, **__: Any) -> None:
        self.patched = "forward" in self.trainer.model.__dict__

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        # accelerate replaces the forward method of the model it is given, for good; the precision
        # belongs to the training step, not to whoever uses the model later
        model = self.trainer.accelerator.unwrap_model(self.trainer.model, keep_fp32_wrapper=False)
        if not self.patched:
            model.__dict__.pop("forward", None)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # transformers before 5.18 wraps the sampler when it goes on in the middle of an epoch, and
        # then tells the wrapper which epoch it is; the share of the epoch that is done is dropped
        self.trainer.sampler.set_epoch(int((state.epoch or 0) + 1e-6))

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.trainer._seen = set()

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        model = self.trainer._own
        if model.reaches_all:
            # a gradient of zero is not none: the optimizer's momentum would move the classifier
            for task in {spec.name for spec in model.tasks} - self.trainer._tasks_of_step():
                model.classifiers[task].zero_grad(set_to_none=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer._after_step()
        if self.trainer._on_step is not None:
            self.trainer._on_step(state.global_step, state.max_steps, *self.trainer._recorded.last)
