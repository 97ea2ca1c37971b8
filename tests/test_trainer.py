"""Multi-task training: what is learned, what must not change, and what an interruption costs."""

import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertForSequenceClassification, BertModel, TrainerCallback

from lobes.discovery import find_heads
from lobes.errors import ConfigError, DataError, RunError
from lobes.modeling import MultiTaskModel, SingleTaskModel
from lobes.tasks.examples import Examples
from lobes.tasks.task import Task
from lobes.training.arguments import training_arguments
from lobes.training.checkpoints import PARTS, is_complete, last_checkpoint, steps_of
from lobes.training.trainer import MultiTaskTrainer
from tiny_models import TINY, tiny_model
from tiny_tasks import mood_task, pair_task, tiny_tokenizer, topic_task, warmth_task

TASKS = (mood_task(), topic_task(), warmth_task())
STEPS_IN_EPOCH = 42  # 15 + 14 + 13 batches of 7


@pytest.fixture(autouse=True)
def global_random_states() -> Any:
    """Training uses the global random states, as the Trainer does; give them back."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


def new_model(name: str = "bert", tasks: Any = TASKS) -> MultiTaskModel:
    return MultiTaskModel(tiny_model(name, attention="sdpa"), tiny_tokenizer(), tasks)


def arguments(folder: Path, **settings: Any) -> Any:
    defaults = {"batch_size": 7, "learning_rate": 3e-3, "precision": "fp32", "device": "cpu"}
    return training_arguments(folder, **{**defaults, **settings})


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(before: dict[str, torch.Tensor], model: nn.Module) -> set[str]:
    return {
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }


def configuration(model: MultiTaskModel) -> dict[str, Any]:
    """The encoder's settings, without the two that `save_pretrained` notes down in them."""
    return {**model.config.to_dict(), "architectures": None, "dtype": None}


class Stop(TrainerCallback):
    """Interrupts the training after a step, as Ctrl-C would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


# What is learned, and how


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_every_task_is_learned(precision: str, tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = BertModel(TINY["bert"].config())
    model = MultiTaskModel(encoder, tiny_tokenizer(), TASKS, pooling="mean")
    args = arguments(tmp_path, epochs=15, precision=precision)
    trainer = MultiTaskTrainer(model, args, tasks=TASKS)
    trainer.train()
    scores = trainer.evaluate()
    assert scores["eval_mood_accuracy"] > 0.9
    assert scores["eval_topic_accuracy"] > 0.8
    assert scores["eval_warmth_spearman"] > 0.8
    mean = np.mean([value for name, value in scores.items() if name.count("_") == 2])
    assert scores["eval_mean"] == pytest.approx(mean)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    states = trainer.optimizer.state_dict()["state"].values()
    assert {state["exp_avg"].dtype for state in states} == {torch.float32}


def test_the_first_step_is_the_plain_one(tmp_path: Path) -> None:
    model, plain = new_model(tasks=TASKS[:1]), new_model(tasks=TASKS[:1])
    args = arguments(tmp_path, steps=1, max_grad_norm=0.0, log_every=1)
    for part in (*model.modules(), *plain.modules()):
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        if hasattr(part, "dropout_prob"):
            part.dropout_prob = 0.0
    for config in (model.config, plain.config):
        config.attention_probs_dropout_prob = 0.0
    trainer = MultiTaskTrainer(model, args, tasks=TASKS[:1])
    indices = next(iter(trainer.sampler))
    trainer.train()

    examples = TASKS[0].train.select(indices)
    inputs = tiny_tokenizer()([text for (text,) in examples.texts], padding=True)
    tensors = {name: torch.tensor(value) for name, value in inputs.items()}
    optimizer = torch.optim.AdamW(plain.parameters(), lr=3e-3, weight_decay=0.0)
    loss = plain(**tensors, task="mood", labels=torch.tensor(examples.labels)).loss
    loss.backward()
    optimizer.step()
    assert trainer.losses == [{"step": 1, "task": "mood", "loss": pytest.approx(loss.item())}]
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_only_the_tasks_that_are_trained_change_their_classifier(tmp_path: Path) -> None:
    model = new_model("distilbert")
    before = weights(model)
    trainer = MultiTaskTrainer(model, arguments(tmp_path, steps=5), tasks=TASKS[:1])
    trainer.train()
    moved = changed(before, model)
    assert {name for name in moved if "classifiers" in name} == {
        "classifiers.mood.weight",
        "classifiers.mood.bias",
    }
    # Adam moves whatever has a gradient; a key's bias has none: softmax does not see it
    still = {name for name in before if name.startswith("encoder")} - moved
    assert all("k_lin.bias" in name for name in still)


def test_frozen_parameters_stay_as_they_are(tmp_path: Path) -> None:
    model = new_model()
    model.encoder.requires_grad_(False)
    before = weights(model)
    MultiTaskTrainer(model, arguments(tmp_path, steps=20), tasks=TASKS).train()
    moved = changed(before, model)
    assert moved == {name for name in before if name.startswith("classifiers")}


def test_nothing_but_the_weights_is_changed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = new_model("gpt2")
    own = dict(model.__dict__)
    config = configuration(model)
    layout = find_heads(model)
    hooks = [len(part._forward_hooks) for part in model.modules()]
    args = arguments(tmp_path, steps=5, precision="bf16", save_every=3, evaluate_every=2)
    trainer = MultiTaskTrainer(model, args, tasks=TASKS)
    trainer.train()
    trainer.evaluate()
    assert capfd.readouterr() == ("", "")
    assert model.__dict__.keys() == own.keys()
    assert configuration(model) == config
    assert [len(part._forward_hooks) for part in model.modules()] == hooks
    assert find_heads(model) == layout
    # autocast is the training step's business: the model itself computes in float32 again
    inputs = dict(tiny_tokenizer()(["a merry boat"], return_tensors="pt"))
    assert model.eval().encoder(**inputs).last_hidden_state.dtype == torch.float32
    del inputs["token_type_ids"]
    once = model.logits(**inputs)["mood"]
    assert not torch.equal(once, once.bfloat16().float())


def test_dropout_is_on_in_training_and_off_in_evaluation(tmp_path: Path) -> None:
    model = new_model()
    modes: list[bool] = []
    model.dropout.register_forward_hook(lambda module, *_: modes.append(module.training))
    args = arguments(tmp_path, steps=4, evaluate_every=2)
    MultiTaskTrainer(model, args, tasks=TASKS).train()
    assert modes[:2] == [True, True]
    assert modes[2] is False
    assert modes.count(True) == 4


def test_evaluation_leaves_modes_and_random_states_alone(tmp_path: Path) -> None:
    model = new_model().train()
    model.encoder.pooler.eval()
    trainer = MultiTaskTrainer(model, arguments(tmp_path, steps=1), tasks=TASKS)
    modes = [part.training for part in model.modules()]
    state = torch.get_rng_state()
    assert trainer.evaluate() == trainer.evaluate()
    assert [part.training for part in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


def test_every_step_is_reported_with_its_task_and_loss(tmp_path: Path) -> None:
    steps: list[tuple[int, int, str, float]] = []
    trainer = MultiTaskTrainer(
        new_model(),
        arguments(tmp_path, epochs=1, log_every=5),
        tasks=TASKS,
        on_step=lambda *step: steps.append(step),
    )
    trainer.train()
    assert [step[:2] for step in steps] == [(i + 1, STEPS_IN_EPOCH) for i in range(STEPS_IN_EPOCH)]
    assert trainer.total_steps == STEPS_IN_EPOCH
    for task, batches in zip(TASKS, trainer.sampler.batches_of_task, strict=True):
        assert sum(step[2] == task.name for step in steps) == batches
    # the losses kept are the means over five steps, and over what is left at the end
    for record in trainer.losses:
        first = (math.ceil(record["step"] / 5) - 1) * 5
        own = [s[3] for s in steps[first : record["step"]] if s[2] == record["task"]]
        assert record["loss"] == pytest.approx(np.mean(own))
    assert {record["step"] for record in trainer.losses} == {*range(5, 41, 5), 42}


def test_accumulated_losses_are_not_divided(tmp_path: Path) -> None:
    steps: list[float] = []
    args = arguments(tmp_path, steps=2, accumulate=3)
    MultiTaskTrainer(
        new_model(tasks=TASKS[:1]),
        args,
        tasks=TASKS[:1],
        on_step=lambda step, total, task, loss: steps.append(loss),
    ).train()
    assert 0.5 < steps[0] < 1.0  # about ln 2


def test_pairs_and_unequal_batches_are_trained(tmp_path: Path) -> None:
    tasks = (mood_task(11, 7), pair_task(29, 23))
    model = new_model(tasks=tasks)
    trainer = MultiTaskTrainer(model, arguments(tmp_path, epochs=2), tasks=tasks)
    assert len(trainer.sampler) == 7
    assert trainer.train().global_step == 14
    assert trainer.evaluate().keys() >= {"eval_same-topic_accuracy", "eval_mood_accuracy"}


def test_the_same_seed_gives_the_same_weights_whatever_came_before(tmp_path: Path) -> None:
    runs = []
    for seed, draws in ((3, 0), (3, 5), (4, 0)):
        model = new_model()
        trainer = MultiTaskTrainer(model, arguments(tmp_path, steps=5, seed=seed), tasks=TASKS)
        torch.rand(draws)
        trainer.train()
        runs.append(model)
    assert not changed(weights(runs[0]), runs[1])
    assert changed(weights(runs[0]), runs[2])


# Checkpoints


def trained(
    folder: Path,
    *,
    stop: int | None = None,
    resume: Any = None,
    name: str = "bert",
    **settings: Any,
) -> MultiTaskTrainer:
    callbacks = [] if stop is None else [Stop(stop)]
    args = arguments(folder, log_every=4, **settings)
    trainer = MultiTaskTrainer(new_model(name), args, tasks=TASKS, callbacks=callbacks)
    if stop is None:
        trainer.train(resume)
    else:
        with pytest.raises(KeyboardInterrupt):
            trainer.train(resume)
    return trainer


@pytest.mark.parametrize(
    ("settings", "stop", "found"),
    [
        ({"steps": 50, "save_every": 9}, 40, 36),  # in the middle of an epoch
        ({"steps": 50, "save_every": 42}, 45, 42),  # at the end of one
        ({"steps": 100, "save_every": 45}, 99, 90),  # in a later one
        ({"steps": 30, "save_every": 7, "accumulate": 3, "evaluate_every": 5}, 27, 21),
        ({"epochs": 1, "save_every": 40}, 41, 40),
        ({"steps": 20, "save_every": 50}, 15, None),  # before the first: begins anew
    ],
)
def test_an_interrupted_run_ends_as_if_it_had_not_been(
    settings: dict[str, Any], stop: int, found: int | None, tmp_path: Path
) -> None:
    whole = trained(tmp_path / "whole", **settings)
    trained(tmp_path / "cut", stop=stop, **settings)
    last = last_checkpoint(tmp_path / "cut")
    assert (last and steps_of(last)) == found
    continued = trained(tmp_path / "cut", resume=True, **settings)
    assert not changed(weights(whole.model), continued.model)
    assert continued.losses == whole.losses
    assert continued.state.global_step == whole.state.global_step == whole.total_steps
    assert [entry for entry in continued.state.log_history if "eval_mean" in entry] == [
        entry for entry in whole.state.log_history if "eval_mean" in entry
    ]
    again = trained(tmp_path / "cut", resume=True, **settings)
    assert not changed(weights(whole.model), again.model)
    assert again.losses == whole.losses
    assert again.state.global_step == whole.total_steps


@pytest.mark.parametrize("name", ["bart", "t5", "gpt2"])
def test_encoders_with_tied_weights_can_be_continued(name: str, tmp_path: Path) -> None:
    settings = {"steps": 6, "save_every": 3, "name": name}
    whole = trained(tmp_path / "whole", **settings)
    trained(tmp_path / "cut", stop=5, **settings)
    continued = trained(tmp_path / "cut", resume=tmp_path / "cut" / "checkpoint-3", **settings)
    assert not changed(weights(whole.model), continued.model)


SCRIPT = """
    import os, signal, sys
    from pathlib import Path
    import torch
    from transformers import TrainerCallback
    from test_trainer import TASKS, arguments, new_model
    from lobes.training.trainer import MultiTaskTrainer

    class Kill(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == int(sys.argv[2]):
                os.kill(os.getpid(), signal.SIGKILL)

    args = arguments(Path(sys.argv[1]), steps=16, save_every=5)
    model = new_model()
    MultiTaskTrainer(model, args, tasks=TASKS, callbacks=[Kill()]).train(True)
    torch.save(model.state_dict(), Path(sys.argv[1], "weights.pt"))
"""


@pytest.mark.slow
def test_a_killed_process_is_continued_to_the_bit(tmp_path: Path) -> None:
    def run(folder: Path, kill: int) -> int:
        command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(folder), str(kill)]
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path}
        return subprocess.run(command, env=environment, check=False).returncode

    assert run(tmp_path / "cut", kill=13) == -signal.SIGKILL
    names = sorted(path.name for path in (tmp_path / "cut").iterdir())
    assert names == ["checkpoint-10", "checkpoint-5"]
    assert run(tmp_path / "cut", kill=99) == 0
    whole = trained(tmp_path / "whole", steps=16, save_every=5)
    continued = torch.load(tmp_path / "cut" / "weights.pt", weights_only=True)
    assert not changed(continued, whole.model)


def test_a_checkpoint_is_a_model(tmp_path: Path) -> None:
    trainer = trained(tmp_path, steps=5, save_every=5)
    loaded = MultiTaskModel.from_pretrained(tmp_path / "checkpoint-5")
    assert not changed(weights(trainer.model), loaded)


def test_the_best_model_can_be_taken_at_the_end(tmp_path: Path) -> None:
    settings = {"metric_for_best_model": "mood_accuracy", "load_best_model_at_end": True}
    args = arguments(
        tmp_path, steps=8, save_every=2, evaluate_every=2, learning_rate=0.02, **settings
    )
    trainer = MultiTaskTrainer(new_model(), args, tasks=TASKS)
    trainer.train()
    best = max(
        entry["eval_mood_accuracy"] for entry in trainer.state.log_history if "eval_mean" in entry
    )
    assert trainer.evaluate()["eval_mood_accuracy"] == best


def test_a_checkpoint_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    trainer = MultiTaskTrainer(
        new_model(), arguments(tmp_path, steps=8, save_every=3), tasks=TASKS, callbacks=[Stop(5)]
    )
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    monkeypatch.setattr(torch, "save", full)
    again = MultiTaskTrainer(new_model(), arguments(tmp_path, steps=8, save_every=3), tasks=TASKS)
    with pytest.raises(RunError, match=r"checkpoint-6' could not be written .*No space left"):
        again.train(True)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]


# Failures


def test_a_loss_that_is_not_a_number_stops_the_run(tmp_path: Path) -> None:
    args = arguments(tmp_path, steps=40, save_every=4)
    model = new_model()
    before: dict[str, torch.Tensor] = {}

    def spoil(step: int, *_: object) -> None:
        before.update(weights(model))
        if step == 6:
            with torch.no_grad():
                model.classifiers["mood"].bias.fill_(math.nan)

    trainer = MultiTaskTrainer(model, args, tasks=TASKS[:1], on_step=spoil)
    with pytest.raises(RunError) as caught:
        trainer.train()
    said = str(caught.value)
    assert said.startswith("Training failed at step 7: the loss of task 'mood' is nan on the batch")
    named = re.search(r"its training examples ([\d, ]+); the last ", said)[1]
    batch = list(trainer.sampler)[6]
    assert [int(place) for place in named.split(", ")] == batch
    assert f"checkpoint is {str(tmp_path / 'checkpoint-4')!r}. Lower the learning rate" in said
    assert is_complete(tmp_path / "checkpoint-4")


def test_weights_that_are_not_numbers_are_not_saved(tmp_path: Path) -> None:
    model = new_model()

    def spoil(step: int, *_: object) -> None:
        if step == 6:
            with torch.no_grad():
                model.classifiers["warmth"].bias.fill_(math.inf)

    args = arguments(tmp_path, steps=6, save_every=3)
    trainer = MultiTaskTrainer(model, args, tasks=TASKS, on_step=spoil)
    with pytest.raises(RunError, match=r"the weights are no longer numbers; .*checkpoint-3'"):
        trainer.train()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]


def test_tasks_that_cannot_be_trained(tmp_path: Path) -> None:
    args = arguments(tmp_path, steps=1)
    model = new_model(tasks=TASKS[:2])
    with pytest.raises(ConfigError, match="no task 'warmth'; it has 'mood', 'topic'"):
        MultiTaskTrainer(model, args, tasks=TASKS)
    with pytest.raises(DataError, match="Two tasks are called 'mood'"):
        MultiTaskTrainer(model, args, tasks=[TASKS[0], TASKS[0]])
    examples = Examples((("a boat",), ("soup",)), np.array([0, 1]))
    other = Task("mood", train=examples, text="text", labels=("good", "bad"))
    with pytest.raises(ConfigError, match="labels for task 'mood' are"):
        MultiTaskTrainer(model, args, tasks=[other])
    unseen = Task("mood", validation=examples, text="text", labels=("bad", "good"))
    with pytest.raises(DataError, match="Task 'mood' has no train data"):
        MultiTaskTrainer(model, args, tasks=[unseen])
    blind = Task("mood", train=examples, text="text", labels=("bad", "good"))
    with pytest.raises(DataError, match="Task 'mood' has no validation data"):
        MultiTaskTrainer(model, args, tasks=[blind]).evaluate()
    with pytest.raises(ConfigError, match="Unknown sampling 'random'"):
        MultiTaskTrainer(model, args, tasks=TASKS[:1], sampling="random")
    single = BertForSequenceClassification(TINY["bert"].config())
    with pytest.raises(ConfigError, match="trains a MultiTaskModel, not a SingleTaskModel"):
        MultiTaskTrainer(SingleTaskModel(single, tiny_tokenizer(), TASKS[0]), args, tasks=TASKS[:1])


# Settings


def test_the_published_settings_are_the_defaults(tmp_path: Path) -> None:
    args = training_arguments(tmp_path)
    assert (args.max_steps, args.train_batch_size, args.learning_rate) == (1000, 32, 2e-5)
    assert (args.weight_decay, args.get_warmup_steps(1000)) == (0.0, 0)
    assert (args.lr_scheduler_type, str(args.optim.value)) == ("linear", "adamw_torch_fused")
    assert (args.save_strategy, args.eval_strategy, args.report_to) == ("no", "no", [])
    assert list(tmp_path.iterdir()) == []


def test_settings_go_where_they_belong(tmp_path: Path) -> None:
    args = training_arguments(
        tmp_path, epochs=2.5, warmup=0.1, save_every=7, evaluate_every=5, adam_beta2=0.9
    )
    assert (args.max_steps, args.num_train_epochs, args.get_warmup_steps(40)) == (-1, 2.5, 4)
    assert (args.save_strategy, args.save_steps, args.eval_steps) == ("steps", 7, 5)
    assert args.adam_beta2 == 0.9


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"steps": 0}, "steps is 0; expected a number of steps from 1"),
        ({"batch_size": -3}, "batch_size is -3; expected a number of examples from 1"),
        (
            {"learning_rate": math.nan},
            "learning_rate is nan; expected a number such as 2e-5, above 0",
        ),
        ({"steps": 5, "epochs": 2}, r"Give steps or epochs, not both \(steps=5, epochs=2\)"),
        ({"weight_decay": -1}, "weight_decay is -1; expected a number from 0 to 1,000"),
        ({"precision": "fp8"}, "Unknown precision 'fp8'"),
        ({"optimizer": "lion"}, "These training settings cannot be used: .*'optimizer'"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        training_arguments(tmp_path, **settings)


def test_the_names_of_a_checkpoint_s_parts_are_those_on_disk(tmp_path: Path) -> None:
    trained(tmp_path, steps=2, save_every=2)
    names = {path.name for path in (tmp_path / "checkpoint-2").iterdir()}
    assert set(PARTS) <= names
    state = json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["global_step"] == 2
