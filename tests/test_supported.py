"""Settings of transformers' Trainer: each works here, or is refused before anything is trained."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import TrainingArguments

from lobes import IAT, MultiTaskModel, MultiTaskTrainer, custom_metric, metrics
from lobes.errors import ConfigError, DataError, ModelError
from lobes.tasks.examples import Examples
from lobes.tasks.task import Task
from lobes.training.arguments import training_arguments
from lobes.training.checkpoints import damage_of
from lobes.training.supported import NUMBERS, UNUSED, check_arguments
from tiny_images import image_model, image_task, tiny_processor
from tiny_models import tiny_model
from tiny_tasks import marks_task, mood_task, tiny_tokenizer, topic_task, warmth_task

TASKS = (mood_task(), topic_task())
FIELDS = {field.name for field in fields(TrainingArguments)}

# Settings that train together, each with a value that is not the default one.
TOGETHER: tuple[dict[str, Any], ...] = (
    {
        "activation_checkpointing": True,
        "activation_checkpointing_kwargs": {"use_reentrant": True},
        "neftune_noise_alpha": 3.0,
        "label_smoothing_factor": 0.1,
        "gradient_accumulation_steps": 2,
        "max_grad_norm": 0.3,
        "optim": "adafactor",
        "weight_decay": 0.01,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.4,
        "include_num_input_tokens_seen": "all",
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "torch_empty_cache_steps": 2,
        "dataloader_drop_last": True,
        "dataloader_num_workers": 0,
        "seed": 5,
        "data_seed": 7,
        "disable_tqdm": False,
    },
    {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "eval_on_start": True,
        "eval_delay": 1,
        "save_strategy": "best",
        "save_total_limit": 1,
        "save_only_model": True,
        "load_best_model_at_end": True,
        "metric_for_best_model": "topic_accuracy",
        "greater_is_better": True,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
        "adam_beta1": 0.8,
        "adam_beta2": 0.9,
        "adam_epsilon": 1e-7,
        "optim_args": "fused=False",
        "ignore_data_skip": True,
        "restore_callback_states_from_checkpoint": True,
    },
)
# What transformers or accelerate do by themselves, or what needs other hardware or processes.
THEIRS = [
    "output_dir",
    "per_device_train_batch_size",
    "num_train_epochs",
    "max_steps",
    "learning_rate",
    "average_tokens_across_devices",
    "bf16",
    "fp16",
    "tf32",
    "torch_compile",
    "torch_compile_backend",
    "torch_compile_mode",
    "logging_strategy",
    "logging_steps",
    "log_on_each_node",
    "log_level",
    "log_level_replica",
    "report_to",
    "run_name",
    "project",
    "trackio_space_id",
    "trackio_bucket_id",
    "trackio_static_space_id",
    "save_steps",
    "save_on_each_node",
    "enable_jit_checkpoint",
    "hub_token",
    "hub_private_repo",
    "hub_model_id",
    "hub_strategy",
    "hub_always_push",
    "hub_revision",
    "full_determinism",
    "use_cpu",
    "accelerator_config",
    "dataloader_pin_memory",
    "dataloader_persistent_workers",
    "dataloader_prefetch_factor",
    "dataloader_in_order",
    "dataloader_multiprocessing_context",
    "remove_unused_columns",
    "ddp_find_unused_parameters",
    "ddp_bucket_cap_mb",
    "ddp_broadcast_buffers",
    "ddp_static_graph",
    "ddp_backend",
    "ddp_timeout",
    "fsdp",
    "fsdp_config",
    "debug",
    "skip_memory_metrics",
    "do_train",
    "do_eval",
    "do_predict",
    "resume_from_checkpoint",
    "local_rank",
    "optim_target_modules",
    "place_model_on_device",
    "gradient_checkpointing",
    "gradient_checkpointing_kwargs",
]
OTHER_VALUES = {
    "per_device_eval_batch_size": 16, "eval_do_concat_batches": False, "include_for_metrics": ["x"],
    "label_names": ["x"], "train_sampling_strategy": "group_by_length", "length_column_name": "x",
    "eval_accumulation_steps": 2, "deepspeed": "x.json", "parallelism_config": "x",
    "liger_kernel_config": {"rope": True},
}  # fmt: skip


def new_model(kind: str = "bert", tasks: Any = TASKS) -> MultiTaskModel:
    return MultiTaskModel(tiny_model(kind, attention="sdpa"), tiny_tokenizer(), tasks)


@pytest.fixture(scope="module")
def model() -> MultiTaskModel:
    return new_model()


def arguments(folder: Path, **settings: Any) -> TrainingArguments:
    defaults = {"steps": 3, "batch_size": 7, "precision": "fp32", "device": "cpu"}
    return training_arguments(folder, **{**defaults, **settings})


@pytest.mark.skipif("activation_checkpointing" not in FIELDS, reason="an older transformers")
def test_every_setting_is_accounted_for() -> None:
    named = {name for together in TOGETHER for name in together}
    assert FIELDS - {*named, *UNUSED, *THEIRS} == set()
    assert set(NUMBERS) <= FIELDS
    assert not named & set(UNUSED)


@pytest.mark.parametrize("together", TOGETHER)
@pytest.mark.filterwarnings("ignore:.*:FutureWarning")
def test_settings_that_are_honored(together: dict[str, Any], tmp_path: Path) -> None:
    model = new_model()
    plain = {name: value.clone() for name, value in model.state_dict().items()}
    settings = {name: value for name, value in together.items() if name in FIELDS}
    trainer = MultiTaskTrainer(model, arguments(tmp_path, **settings), tasks=TASKS)
    trainer.train()
    assert any(not torch.equal(value, plain[name]) for name, value in model.state_dict().items())
    assert not any(getattr(part, "gradient_checkpointing", False) for part in model.modules())
    assert not any(part._forward_hooks for part in model.modules())
    if "save_only_model" in together:
        (kept,) = tmp_path.iterdir()
        assert damage_of(kept) == "it holds no optimizer, schedule or random state to go on from"
        MultiTaskModel.from_pretrained(kept)
    else:
        assert trainer.state.num_input_tokens_seen > 0


@pytest.mark.parametrize("name", UNUSED)
def test_settings_that_are_not_used_here_are_refused(
    name: str, model: MultiTaskModel, tmp_path: Path
) -> None:
    args = arguments(tmp_path)
    if not hasattr(args, name):
        pytest.skip("an older transformers")
    setattr(args, name, OTHER_VALUES.get(name, True))
    with pytest.raises(ConfigError, match=f"^{name} is .*, which MultiTaskTrainer cannot honor: "):
        check_arguments(args, model, TASKS, 4)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"optim": "lomo"}, "optim is 'lomo', which updates weights during the backward pass"),
        ({"optim": "galore_adamw_layerwise"}, "optim is 'galore_adamw_layerwise', which updates"),
        ({"optim": "schedule_free_adamw"}, "optim is 'schedule_free_adamw', which cannot be used"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "lr_scheduler_type is 'cosine_with_min_lr'"),
        ({"lr_scheduler_kwargs": {"power": 2}}, "lr_scheduler_type is 'linear' with .*power"),
        ({"adam_beta1": 1.0}, "adam_beta1 is 1.0; expected a share from 0 and below 1"),
        ({"max_grad_norm": float("nan")}, "max_grad_norm is nan; expected a number"),
        ({"save_total_limit": 0}, "save_total_limit is 0; expected a number of checkpoints from 1"),
        ({"steps": None, "epochs": 10**6}, "1e.06 epochs of 29 batches are 29,000,000 steps"),
        (
            {"evaluate_every": 2, "save_every": 2, "load_best_model_at_end": True},
            "metric_for_best_model is 'loss', .*; expected one of mean, mood_accuracy, topic_acc",
        ),
        ({"accelerator_config": {"split_batches": True}}, r"accelerator_config\.split_batches is"),
        (
            {"evaluate_every": 2, "metric_for_best_model": "mean", "greater_is_better": False},
            "greater_is_better is False, but more is better of every metric of lobes, .*'mean'",
        ),
        *(
            (
                {
                    "evaluate_every": 2,
                    "metric_for_best_model": "eval_mean",
                    "lr_scheduler_type": schedule,
                    "lr_scheduler_kwargs": {"factor": 0.5},
                },
                "with which the learning rate follows a metric that should fall, .*'mode': 'max'",
            )
            for schedule in ("reduce_lr_on_plateau", "greedy")
        ),
    ],
)
def test_settings_that_would_fail_later(
    settings: dict[str, Any], says: str, model: MultiTaskModel, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=says):
        check_arguments(arguments(tmp_path, **settings), model, TASKS, 29)


def test_a_metric_called_loss_is_not_taken_upside_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers takes the lowest of a metric whose name ends so: the worst model."""
    monkeypatch.setattr(metrics, "DECLARED", {})
    monkeypatch.setattr("lobes.custom_metrics.DECLARED", metrics.DECLARED)
    metric = custom_metric("no_loss", lambda labels, said: (labels == said).mean(), chance=0.5)
    tasks = [mood_task().replace(metric=metric), topic_task()]
    settings = {"metric_for_best_model": "mood_no_loss", "load_best_model_at_end": True}
    args = arguments(tmp_path, evaluate_every=2, save_every=2, **settings)
    with pytest.raises(ConfigError, match=r"greater_is_better is False.*'mood_no_loss': set it to"):
        MultiTaskTrainer(new_model(tasks=tasks), args, tasks=tasks)
    plateau = {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"mode": "max"}}
    args = arguments(tmp_path, evaluate_every=2, metric_for_best_model="mean", **plateau)
    MultiTaskTrainer(new_model(), args, tasks=TASKS)


def test_tasks_and_models_that_a_setting_does_not_fit(tmp_path: Path) -> None:
    smooth = arguments(tmp_path, label_smoothing_factor=0.1)
    for task, kind in ((warmth_task(), "a number for"), (marks_task(), "several labels")):
        with pytest.raises(ConfigError, match=f"task '{task.name}' has {kind}"):
            MultiTaskTrainer(new_model(tasks=[task]), smooth, tasks=[task])
    seen = Examples((("a boat",), ("soup",)), np.array([0, 1]))
    blind = Task("mood", train=seen, text="text", labels=("bad", "good"))
    with pytest.raises(DataError, match="Task 'mood' has no validation data"):
        MultiTaskTrainer(new_model(), arguments(tmp_path, evaluate_every=2), tasks=[blind])
    squeeze = new_model("squeezebert")
    squeeze.encoder.supports_gradient_checkpointing = False
    again = arguments(tmp_path, activation_checkpointing=True)
    with pytest.raises(ConfigError, match="SqueezeBertModel cannot compute its activations again"):
        MultiTaskTrainer(squeeze, again, tasks=TASKS)
    with pytest.raises(ModelError, match="cannot compute its activations again"):
        squeeze.gradient_checkpointing_enable()
    shapes = image_task()
    vit = MultiTaskModel(image_model(), None, [shapes], image_processor=tiny_processor())
    for settings, says in (
        ({"neftune_noise_alpha": 1.0}, "shows no embeddings of tokens"),
        ({"activation_checkpointing_kwargs": {"use_reentrant": True}}, "the inputs are images"),
    ):
        with pytest.raises(ConfigError, match=says):
            MultiTaskTrainer(vit, arguments(tmp_path, **settings), tasks=[shapes])


def test_an_encoder_that_could_not_be_loaded_again_is_refused_before_it_is_trained(
    tmp_path: Path,
) -> None:
    peft = pytest.importorskip("peft")
    model = new_model()
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["query"], r=2), model.encoder)
    with pytest.raises(ModelError, match=r"no BertModel could be loaded .*merge its adapters"):
        MultiTaskTrainer(model, arguments(tmp_path, save_every=2), tasks=TASKS)
    with pytest.raises(ModelError, match="merge its adapters first"):
        model.save_pretrained(tmp_path / "model")
    MultiTaskTrainer(model, arguments(tmp_path), tasks=TASKS)  # writes nothing
    assert list(tmp_path.iterdir()) == []


def test_weights_in_half_precision_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = new_model().to(torch.bfloat16)
    MultiTaskTrainer(model, arguments(tmp_path), tasks=TASKS)
    (line,) = (record.message for record in caplog.records if "bfloat16" in record.message)
    assert "load them with dtype=torch.float32" in line
    caplog.clear()
    model.float().encoder.to(torch.bfloat16).requires_grad_(False)  # as the base of adapters is
    MultiTaskTrainer(model, arguments(tmp_path), tasks=TASKS)
    assert not caplog.records


def test_building_writes_nothing(tmp_path: Path) -> None:
    MultiTaskTrainer(new_model(), arguments(tmp_path / "a" / "b", save_every=2), tasks=TASKS)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").mkdir()
    MultiTaskTrainer(new_model(), arguments(tmp_path / "a" / "b"), tasks=TASKS)
    assert [path.name for path in tmp_path.rglob("*")] == ["a"]


def test_without_arguments_three_epochs_are_trained_with_a_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    few = Examples((("good",), ("bad",), ("so",)), np.array([1, 0, 1]))
    task = Task("mood", train=few, text="text", labels=("bad", "good"))
    trainer = MultiTaskTrainer(new_model(tasks=[task]), tasks=[task])
    assert trainer.total_steps == 3
    trainer.train()
    assert "3/3" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("train_other", [True, False])
@pytest.mark.parametrize("reentrant", [True, False])
def test_activations_computed_again_give_the_same_training(
    reentrant: bool, train_other: bool, tmp_path: Path
) -> None:
    def trained(**settings: Any) -> nn.Module:
        args = arguments(tmp_path, steps=5, learning_rate=1e-3, **settings)
        iat = IAT(delta=0.6, train_other=train_other, importance_examples=5)
        trainer = MultiTaskTrainer(new_model(), args, tasks=TASKS, iat=iat)
        trainer.train()
        assert trainer.iat_record is not None
        return trainer.model

    again = {"use_reentrant": reentrant}
    plain = trained().state_dict()
    other = trained(activation_checkpointing=True, activation_checkpointing_kwargs=again)
    for name, value in other.state_dict().items():
        assert torch.equal(value, plain[name]), name


def test_a_training_that_is_cut_off_leaves_no_noise_behind(tmp_path: Path) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    model = new_model()
    args = arguments(tmp_path, neftune_noise_alpha=3.0, activation_checkpointing=True)
    with pytest.raises(KeyboardInterrupt):
        MultiTaskTrainer(model, args, tasks=TASKS, on_step=stop).train()
    assert not any(part._forward_hooks for part in model.modules())
    assert not any(getattr(part, "gradient_checkpointing", False) for part in model.modules())


def test_other_data_than_the_tasks_own_are_refused(tmp_path: Path) -> None:
    trainer = MultiTaskTrainer(new_model(), arguments(tmp_path), tasks=TASKS)
    for call in (trainer.evaluate, trainer.predict):
        with pytest.raises(ConfigError, match=r"its own tasks.*call lobes\.evaluate"):
            call(TASKS[0].validation)
    assert "eval_mean" in trainer.evaluate()
