"""The settings of a training run, as transformers' `TrainingArguments`."""

import os
from typing import Any

import torch
from transformers import TrainingArguments

from lobes import limits
from lobes.errors import ConfigError
from lobes.modeling.precision import resolve_precision


def training_arguments(
    folder: str | os.PathLike[str],
    *,
    steps: int | None = None,
    epochs: float | None = None,
    batch_size: int = 32,
    learning_rate: float = 2e-5,
    weight_decay: float = 0.0,
    warmup: float = 0,
    accumulate: int = 1,
    precision: str = "auto",
    seed: int = 0,
    save_every: int | None = None,
    evaluate_every: int | None = None,
    log_every: int = 10,
    device: str | None = None,
    progress: bool = False,
    **others: Any,
) -> TrainingArguments:
    """Build `TrainingArguments` with the published settings (docs/method.md#multi-task-training).

    AdamW, linear decay, no warm-up; 1,000 steps unless `steps` or `epochs` say otherwise.
    `warmup` is a number of steps, or below 1 a share of them. `save_every` steps a checkpoint is
    written to `folder`, and at the end; the newest two are kept, in case one is damaged. Without
    it none is written. `evaluate_every` steps every task is evaluated. `device="cpu"` keeps
    the run off a GPU. `precision` is "auto" (bf16 autocast where the device has it natively),
    "fp32" or "bf16"; weights and optimizer state are fp32 in each case. `others` are passed on as
    they are. `progress` shows the Trainer's progress bar, with the losses every `log_every` steps.
    Raises `ConfigError`.
    """
    for name, value, limit in (
        ("steps", steps, limits.STEPS),
        ("epochs", epochs, limits.EPOCHS),
        ("save_every", save_every, limits.STEPS),
        ("evaluate_every", evaluate_every, limits.STEPS),
    ):
        if value is not None:
            limits.check_number(name, value, limit)
    for name, value, limit in (
        ("batch_size", batch_size, limits.BATCH_SIZE),
        ("learning_rate", learning_rate, limits.LEARNING_RATE),
        ("weight_decay", weight_decay, limits.WEIGHT_DECAY),
        ("warmup", warmup, limits.WARMUP),
        ("accumulate", accumulate, limits.ACCUMULATE),
        ("log_every", log_every, limits.STEPS),
        ("seed", seed, limits.SEED),
    ):
        limits.check_number(name, value, limit)
    if steps is not None and epochs is not None:
        raise ConfigError(f"Give steps or epochs, not both (steps={steps}, epochs={epochs:g}).")
    limits.check_path("The folder", folder, written=True)
    cuda = torch.cuda.is_available() and device != "cpu"
    settings: dict[str, Any] = {
        "max_steps": -1 if epochs is not None else steps or 1000,
        "num_train_epochs": epochs or 1,
        "per_device_train_batch_size": batch_size,
        "gradient_accumulation_steps": accumulate,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "warmup_steps": warmup,
        "lr_scheduler_type": "linear",
        # the fused update reads each weight once: 6 ms instead of 50 on two CPU cores
        "optim": "adamw_torch_fused",
        "bf16": resolve_precision(precision, "cuda" if cuda else "cpu") == "bf16",
        "use_cpu": not cuda,
        "seed": seed,
        "save_strategy": "steps" if save_every else "no",
        "save_steps": save_every or 500,
        "save_total_limit": 2,
        "eval_strategy": "steps" if evaluate_every else "no",
        "eval_steps": evaluate_every,
        "logging_steps": log_every,
        "dataloader_pin_memory": cuda,
    }
    # the name that transformers from 5.20 on knows; the older one gives a warning there
    for older in ("gradient_checkpointing", "gradient_checkpointing_kwargs"):
        newer = older.replace("gradient", "activation")
        if older in others and newer in TrainingArguments.__dataclass_fields__:
            others[newer] = others.pop(older)
    settings |= {"disable_tqdm": not progress, "report_to": "none", "remove_unused_columns": False}
    try:
        return TrainingArguments(output_dir=os.fspath(folder), **{**settings, **others})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"These training settings cannot be used: {error}") from error
