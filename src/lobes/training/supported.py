"""Which of transformers' `TrainingArguments` a `MultiTaskTrainer` honors; the rest is refused.

The Trainer takes over a hundred settings. Those that it would ignore here, or that would fail after
hours of training, are named in one sentence before anything is trained.
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path

import torch
from torch import nn
from transformers import Trainer, TrainingArguments, get_scheduler

from lobes import limits
from lobes.errors import ConfigError, LobesError, first_line
from lobes.limits import Limit, check_number, short
from lobes.measure.workload import examples_of
from lobes.modeling import MultiTaskModel, TaskModel
from lobes.modeling.saved import check_saveable
from lobes.modeling.saved_adapters import is_adapted
from lobes.tasks.task import Task
from lobes.training.iat import IAT

logger = logging.getLogger("lobes")

HALF = {torch.bfloat16, torch.float16}
_SHARE = Limit("a share", 0, 1, whole=False, below=True)
_STEPS_OR_SHARE = Limit(
    "a number of steps, or below 1 a share of them,", 0, 10**7, whole=False, above=True
)
NUMBERS: Mapping[str, Limit] = {
    "per_device_train_batch_size": limits.BATCH_SIZE,
    "num_train_epochs": limits.EPOCHS,
    "gradient_accumulation_steps": limits.ACCUMULATE,
    "learning_rate": Limit("a number such as 2e-5,", 0, 1000, whole=False),
    "weight_decay": limits.WEIGHT_DECAY,
    "warmup_steps": limits.WARMUP,
    "adam_beta1": _SHARE,
    "adam_beta2": _SHARE,
    "adam_epsilon": Limit("a number", 0, 1, whole=False),
    "max_grad_norm": Limit("a number (0: no clipping),", 0, 1e300, whole=False),
    "label_smoothing_factor": _SHARE,
    "neftune_noise_alpha": Limit("a number", 0, 1e6, whole=False, above=True),
    "logging_steps": _STEPS_OR_SHARE,
    "eval_steps": _STEPS_OR_SHARE,
    "save_steps": _STEPS_OR_SHARE,
    "eval_delay": Limit("a number of steps or epochs", 0, 10**7, whole=False),
    "save_total_limit": Limit("a number of checkpoints", 1, 10**6),
    "torch_empty_cache_steps": limits.STEPS,
    "seed": limits.SEED,
    "data_seed": limits.SEED,
    "dataloader_num_workers": Limit("a number of processes", 0, 1024),
    "dataloader_prefetch_factor": Limit("a number of batches", 1, 1024),
}

_EVALUATION = "every task is evaluated by lobes, in batches of a number of tokens"
_PRECISION = "evaluation has the training's precision"
_BATCHES = "each batch is of one task, drawn by the trainer's own sampler"
# What only its default means anything for, and what to do instead.
UNUSED: Mapping[str, str] = {
    "per_device_eval_batch_size": _EVALUATION,
    "prediction_loss_only": _EVALUATION,
    "eval_do_concat_batches": _EVALUATION,
    "eval_use_gather_object": _EVALUATION,
    "eval_accumulation_steps": _EVALUATION,
    "include_for_metrics": _EVALUATION,
    "batch_eval_metrics": _EVALUATION,
    "bf16_full_eval": _PRECISION,
    "fp16_full_eval": _PRECISION,
    "label_names": "labels come from the tasks",
    "train_sampling_strategy": f"{_BATCHES}; see `sampling` and `group_lengths` of the trainer",
    "length_column_name": f"{_BATCHES}; see `group_lengths` of the trainer",
    "auto_find_batch_size": f"{_BATCHES}, whose size stays; choose one that fits",
    "use_liger_kernel": "Liger's kernels replace whole models of transformers",
    "liger_kernel_config": "Liger's kernels replace whole models of transformers",
    "use_cache": "an encoder has no cache in training",
    "push_to_hub": "the folder of a MultiTaskModel is no model of the hub; upload it yourself",
    "parallelism_config": "processes share data only: use DDP or FSDP",
    "deepspeed": "DeepSpeed writes checkpoints of its own: use DDP (torchrun alone) or FSDP",
}
# Of `accelerator_config`: all that concern a loader that accelerate would have prepared.
_LOADER = {
    "split_batches": False,
    "dispatch_batches": None,
    "even_batches": True,
    "use_seedable_sampler": True,
}
_OWN_UPDATES = ("lomo", "layerwise")  # optimizers that update weights in the backward pass


def check_arguments(
    args: TrainingArguments, model: MultiTaskModel, tasks: Sequence[Task], batches: int
) -> None:
    """Raise `ConfigError` naming the first setting that this training could not honor.

    `batches` are those of an epoch, in this process. Raises `DataError` where tasks are to be
    evaluated and one has no validation data, `ModelError` where a checkpoint could not be loaded.
    """
    _check_unused(args)
    _check_numbers(args)
    _check_steps(args, batches)
    _check_labels(args, tasks)
    _check_evaluation(args, tasks)
    if args.save_strategy != "no":
        check_saveable(model.encoder)
    _check_encoder(args, model)
    _check_processes(args, model, tasks)
    _check_optimizer(args, model)


def _check_unused(args: TrainingArguments) -> None:
    for field in fields(TrainingArguments):
        if field.name not in UNUSED:
            continue
        value = getattr(args, field.name)
        usual = field.default_factory() if callable(field.default_factory) else field.default
        if value != usual:
            raise ConfigError(
                f"{field.name} is {short(value)}, which MultiTaskTrainer cannot honor: "
                f"{UNUSED[field.name]}."
            )
    for name, usual in _LOADER.items():
        value = getattr(args.accelerator_config, name, usual)
        if value != usual:
            raise ConfigError(
                f"accelerator_config.{name} is {short(value)}, which MultiTaskTrainer cannot "
                f"honor: {_BATCHES}."
            )


def _check_numbers(args: TrainingArguments) -> None:
    for name, limit in NUMBERS.items():
        value = getattr(args, name, None)
        if value is not None:
            check_number(name, value, limit)
    if args.max_steps > 0:
        check_number("max_steps", args.max_steps, limits.STEPS)


def _check_steps(args: TrainingArguments, batches: int) -> None:
    steps = math.ceil(args.num_train_epochs * batches / args.gradient_accumulation_steps)
    if args.max_steps <= 0 and steps > limits.STEPS.most:
        raise ConfigError(
            f"{args.num_train_epochs:g} epochs of {batches:,} batches are {steps:,} steps; "
            f"expected {limits.STEPS}."
        )


def _check_labels(args: TrainingArguments, tasks: Sequence[Task]) -> None:
    for task in tasks:
        if args.label_smoothing_factor and (task.is_multi_label or task.labels is None):
            kind = "a number for each example" if task.labels is None else "several labels"
            raise ConfigError(
                f"label_smoothing_factor is {args.label_smoothing_factor:g}, but task "
                f"{task.name!r} has {kind}; smoothing needs one label for each example: set it "
                f"to 0."
            )


def _check_evaluation(args: TrainingArguments, tasks: Sequence[Task]) -> None:
    """What is evaluated on the way can be, and gives the score that weights are chosen by."""
    on_the_way = args.eval_strategy != "no"
    best = args.save_strategy == "best"
    if not (on_the_way or args.eval_on_start or args.load_best_model_at_end or best):
        return
    for task in tasks:
        examples_of(task, "validation")
    plateau = args.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy")
    names = ["mean", *(f"{task.name}_{task.metric}" for task in tasks)]
    if str(args.metric_for_best_model or "").removeprefix("eval_") not in names:
        if not (args.load_best_model_at_end or best or plateau):
            return
        raise ConfigError(
            f"metric_for_best_model is {args.metric_for_best_model!r}, which the evaluation does "
            f"not give; expected one of {', '.join(names)}."
        )
    # transformers takes it for False where a metric's name ends with "loss"
    if args.greater_is_better is False:
        raise ConfigError(
            f"greater_is_better is False, but more is better of every metric of lobes, and so of "
            f"{args.metric_for_best_model!r}: set it to True."
        )
    given = dict(args.lr_scheduler_kwargs or {})
    if plateau and given.get("mode", "min") != "max":
        raise ConfigError(
            f"lr_scheduler_kwargs is {short(args.lr_scheduler_kwargs)}, with which the learning "
            f"rate follows a metric that should fall, but more is better of every metric of lobes: "
            f"set {short({**given, 'mode': 'max'})}."
        )


def _check_encoder(args: TrainingArguments, model: MultiTaskModel) -> None:
    if checkpoints_activations(args) and not model.supports_gradient_checkpointing:
        raise ConfigError(
            f"activation_checkpointing is True, but {type(model.encoder).__name__} cannot compute "
            f"its activations again: leave it out."
        )
    if _is_reentrant(args) and model.tokenizer is None:
        raise ConfigError(
            "activation_checkpointing with use_reentrant=True gives no gradients where the inputs "
            "are images: leave use_reentrant out."
        )
    if args.neftune_noise_alpha is None:
        return
    embeddings = model.get_input_embeddings() if model.tokenizer is not None else None
    if not isinstance(embeddings, nn.Embedding):
        raise ConfigError(
            f"neftune_noise_alpha is {args.neftune_noise_alpha:g}, but "
            f"{type(model.encoder).__name__} shows no embeddings of tokens to add noise to: "
            f"leave it out."
        )


def _check_processes(args: TrainingArguments, model: MultiTaskModel, tasks: Sequence[Task]) -> None:
    if args.fsdp and is_adapted(model.encoder):
        raise ConfigError(
            "fsdp is set, but the encoder has adapters, which are not saved from shards: use DDP "
            "(torchrun alone)."
        )
    if args.world_size == 1:
        return
    if args.ddp_find_unused_parameters is False and len(tasks) > 1:
        raise ConfigError(
            "ddp_find_unused_parameters is False, but each batch leaves the classifiers of the "
            "other tasks unused: leave it out."
        )
    if getattr(args, "ddp_static_graph", None) and len(tasks) > 1:
        raise ConfigError(
            "ddp_static_graph is True, but each task's batches reach another classifier: leave "
            "it out."
        )
    if checkpoints_activations(args) and _is_reentrant(args) and not args.fsdp:
        raise ConfigError(
            "activation_checkpointing with use_reentrant=True does not work under DDP with unused "
            "classifiers: leave use_reentrant out."
        )


def _check_optimizer(args: TrainingArguments, model: MultiTaskModel) -> None:
    """Build the optimizer's settings and a schedule now, instead of after the model's loading."""
    name = str(getattr(args.optim, "value", args.optim))
    if any(kind in name for kind in _OWN_UPDATES):
        raise ConfigError(
            f"optim is {name!r}, which updates weights during the backward pass, before "
            f"MultiTaskTrainer has all gradients of a step: choose another."
        )
    try:
        Trainer.get_optimizer_cls_and_kwargs(args, model)
    except (ImportError, ValueError, TypeError, RuntimeError, KeyError) as error:
        raise ConfigError(
            f"optim is {name!r}, which cannot be used: {first_line(error)}."
        ) from error
    schedule = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    try:
        get_scheduler(
            args.lr_scheduler_type,
            optimizer=torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1),
            num_warmup_steps=0,
            num_training_steps=10,
            scheduler_specific_kwargs=dict(args.lr_scheduler_kwargs or {}),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            f"lr_scheduler_type is {schedule!r} with lr_scheduler_kwargs "
            f"{short(args.lr_scheduler_kwargs)}, which cannot be used: {first_line(error)}."
        ) from error


def check_types(args: object, iat: object) -> None:
    """Raise `ConfigError` for arguments and settings of other types than the trainer takes."""
    if iat is not None and not isinstance(iat, IAT):
        raise ConfigError(
            f"iat is a lobes.IAT, such as lobes.IAT(alpha=0.3, delta=0.1), or None, not {iat!r}."
        )
    if args is not None and not isinstance(args, TrainingArguments):
        raise ConfigError(
            f"args are TrainingArguments, as lobes.training.arguments.training_arguments builds "
            f"them, not a {type(args).__name__}."
        )


def only_own_data(method: str, argument: str) -> ConfigError:
    """Return what is said of data that are given to a method of the Trainer."""
    return ConfigError(
        f"MultiTaskTrainer.{method} takes no {argument}: a trainer evaluates the validation data "
        f"of its own tasks; for scores and predictions of others call lobes.evaluate(model, tasks)."
    )


def check_iat(args: TrainingArguments) -> None:
    """Raise `ConfigError` where a process would train on several devices, which IAT does not."""
    if args.n_gpu > 1:
        raise ConfigError(
            f"IAT trains on one device in each process, and this one sees {args.n_gpu}: start "
            f"it with torchrun --nproc-per-node {args.n_gpu}, or set CUDA_VISIBLE_DEVICES."
        )


def check_weighted(args: TrainingArguments, iat: object) -> None:
    """Raise `ConfigError` for what does not go with a micro-batch of every task in each step."""
    for name, is_given, instead in (
        (
            "iat",
            iat is not None,
            "whose batches are of every task: leave one of the two out",
        ),
        (
            "gradient_accumulation_steps",
            args.gradient_accumulation_steps > 1,
            "which weighs each batch by itself: set it to 1",
        ),
        ("fp16", args.fp16, "which needs gradients that are not scaled: use bf16=True or neither"),
        ("fsdp", bool(args.fsdp), "which needs whole gradients: train in one process"),
        (
            "save_strategy",
            args.save_strategy != "no",
            "since checkpoints do not hold what a method has learned: set it to 'no'",
        ),
    ):
        if is_given:
            raise ConfigError(f"{name} does not go with weighting, {instead}.")
    if args.world_size > 1 or args.n_gpu > 1:
        raise ConfigError(
            f"weighting trains in one process and on one device, not on "
            f"{max(args.world_size, args.n_gpu)}: start one process, or set CUDA_VISIBLE_DEVICES."
        )


def trainable(model: TaskModel, tasks: Sequence[Task]) -> MultiTaskModel:
    """Return the model if it can be trained on the tasks; raise otherwise.

    A warning says that weights in half precision are, in which small steps are lost.
    """
    if not isinstance(model, MultiTaskModel):
        raise ConfigError(
            f"MultiTaskTrainer trains a MultiTaskModel, not a {type(model).__name__}: build one "
            f"with MultiTaskModel.from_pretrained(name, tasks=...)."
        )
    for task in tasks:
        if model.spec(task.name).labels != task.labels:
            raise ConfigError(
                f"The model's labels for task {task.name!r} are {model.spec(task.name).labels}, "
                f"the task's are {task.labels}."
            )
        if model.spec(task.name).is_multi_label != task.is_multi_label:
            several = "several labels" if task.is_multi_label else "one label"
            raise ConfigError(
                f"The data of task {task.name!r} have {several} for each example, unlike those "
                f"that the model was made for: build the model with this task."
            )
    types = {weight.dtype for weight in model.parameters() if weight.requires_grad}
    for name in sorted(f"{kind}".removeprefix("torch.") for kind in types & HALF):
        logger.warning(
            "The weights to train are in %s, which rounds most steps at a rate such as 2e-5 away: "
            "load them with dtype=torch.float32, and train in half precision with bf16=True.",
            name,
        )
    return model


@contextmanager
def _no_new_folder(path: str) -> Iterator[None]:
    """Take away what the Trainer makes for its output when it is built, where nothing is in it."""
    made = [folder for folder in (Path(path), *Path(path).parents) if not folder.exists()]
    try:
        yield
    finally:
        for folder in made:  # innermost first
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def building(args: TrainingArguments) -> Iterator[None]:
    """Turn what the Trainer says of arguments that it cannot use into one sentence.

    The folder that it makes when it is built is taken away again.
    """
    try:
        with _no_new_folder(args.output_dir):
            yield
    except LobesError:
        raise
    except (ImportError, RuntimeError, ValueError, TypeError, OSError) as error:
        what = "transformers' Trainer cannot be built with these arguments"
        if args.report_to:
            what = f"report_to is {args.report_to}, and the trackers cannot be used"
        raise ConfigError(f"{what}: {first_line(error)}.") from error


def recomputes(model: MultiTaskModel) -> bool:
    """Return whether the encoder computes activations again already."""
    return any(getattr(part, "gradient_checkpointing", False) for part in model.modules())


def checkpoints_activations(args: TrainingArguments) -> bool:
    """Return whether activations are to be computed again in the backward pass."""
    # the older name is that of transformers before 5.20
    names = ("activation_checkpointing", "gradient_checkpointing")
    return any(bool(getattr(args, name, False)) for name in names)


def _is_reentrant(args: TrainingArguments) -> bool:
    names = ("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs")
    return any(bool((getattr(args, name, None) or {}).get("use_reentrant")) for name in names)
