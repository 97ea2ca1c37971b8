"""IAT: what trains and what does not, to the bit; when it begins; what an interruption costs."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import TrainerCallback

from lobes.discovery import find_heads
from lobes.errors import ConfigError, ModelError, RunError
from lobes.heads import HeadSet
from lobes.measure.importance import head_importance
from lobes.modeling import MultiTaskModel
from lobes.scores import HeadScores
from lobes.training.checkpoints import last_checkpoint, steps_of
from lobes.training.iat import IAT, choose_heads
from lobes.training.trainer import MultiTaskTrainer
from plain_iat import EPSILON, masks_of, plain_steps
from test_trainer import (  # noqa: F401
    TASKS,
    Stop,
    arguments,
    changed,
    global_random_states,
    new_model,
    weights,
)
from tiny_models import tiny_model
from tiny_tasks import mood_task, tiny_tokenizer, topic_task

LATE = IAT(alpha=0.3, delta=0.5)


def without_dropout(model: MultiTaskModel) -> MultiTaskModel:
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        for name in ("dropout_prob", "attention_dropout"):
            if hasattr(part, name):
                setattr(part, name, 0.0)
    model.config.attention_probs_dropout_prob = 0.0
    return model


def training(
    folder: Path,
    iat: IAT | None = LATE,
    *,
    name: str = "bert",
    model: MultiTaskModel | None = None,
    callbacks: Any = (),
    **settings: Any,
) -> MultiTaskTrainer:
    args = arguments(folder, **{"steps": 10, "log_every": 4, **settings})
    return MultiTaskTrainer(
        model or new_model(name), args, tasks=TASKS, iat=iat, callbacks=callbacks
    )


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own, which can import what is beside this file."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script), *arguments],
        env={**os.environ, "PYTHONPATH": path},
        timeout=600,
        text=True,
        capture_output=True,
    )


def chosen(trainer: MultiTaskTrainer) -> dict[str, HeadSet]:
    return {task: HeadSet.parse(text) for task, text in trainer.iat_record["heads"].items()}


class Watch(TrainerCallback):
    """Keeps the weights before and after each step, and the tasks of its batches."""

    def __init__(self) -> None:
        self.trainer: Any = None
        self.steps: list[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], set[str]]] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.before = weights(self.trainer._own)
        self.clean = all(p.grad is None for p in self.trainer._own.parameters())
        # the Trainer itself begins with the mode that it finds
        modes = {part.training for part in self.trainer._own.modules()}
        self.training = modes == {True} or not self.steps

    def on_step_end(self, *_: Any, **__: Any) -> None:
        assert self.clean
        assert self.training
        tasks = set(self.trainer._seen)
        self.steps.append((self.before, weights(self.trainer._own), tasks))


def watched(folder: Path, iat: IAT, **settings: Any) -> tuple[MultiTaskTrainer, Watch]:
    watch = Watch()
    trainer = training(folder, iat, callbacks=[watch], **settings)
    watch.trainer = trainer
    trainer.train()
    return trainer, watch


# What trains, and what does not


@pytest.mark.parametrize("name", ["bert", "gpt2", "gpt_neox", "llama"])
@pytest.mark.parametrize(("accumulate", "train_other"), [(1, True), (2, True), (3, False)])
def test_a_step_changes_exactly_the_rows_of_its_tasks(
    name: str, accumulate: int, train_other: bool, tmp_path: Path
) -> None:
    iat = IAT(alpha=0.3, delta=0.5, train_other=train_other)
    trainer, watch = watched(tmp_path, iat, name=name, accumulate=accumulate)
    model, layout, heads = trainer.model, find_heads(trainer.model), chosen(trainer)
    masks = {task: masks_of(model, layout, one) for task, one in heads.items()}
    assert max(len(tasks) for _, _, tasks in watch.steps[5:]) >= min(accumulate, 2)
    for before, after, tasks in watch.steps[5:]:
        for key, value in after.items():
            moved = value != before[key]
            if key not in masks["mood"]:
                own = not key.startswith("classifiers.") or key.split(".")[1] in tasks
                may = own and (train_other or key.startswith("classifiers."))
                assert bool(moved.any()) <= may, key
                continue
            allowed = torch.stack([masks[task][key] for task in sorted(tasks)]).any(0)
            assert not (moved & ~allowed).any(), key
            if key.endswith("weight") and allowed.any():
                assert moved[allowed].float().mean() > 0.9, key
    # the step before the switch is an ordinary one
    before, after, _ = watch.steps[4]
    assert all(
        (after[key] != before[key]).float().mean() > 0.9
        for key in masks["mood"]
        if key.endswith("weight")
    )


@pytest.mark.parametrize("name", ["bert", "gpt_neox", "llama"])
@pytest.mark.parametrize(("accumulate", "strict"), [(1, True), (2, True), (2, False)])
def test_training_equals_the_plain_reference(
    name: str, accumulate: int, strict: bool, tmp_path: Path
) -> None:
    model, plain = without_dropout(new_model(name)), without_dropout(new_model(name))
    iat = IAT(alpha=0.3, delta=1.0, strict=strict)
    trainer = training(
        tmp_path, iat, model=model, steps=7, accumulate=accumulate, adam_epsilon=EPSILON
    )
    batches = [trainer.data.collate(indices) for indices in trainer.sampler][: 7 * accumulate]
    trainer.train()
    plain_steps(
        plain,
        find_heads(plain),
        chosen(trainer),
        [batches[i : i + accumulate] for i in range(0, len(batches), accumulate)],
        rates=[3e-3 * (1 - step / 7) for step in range(7)],
        strict=strict,
    )
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, rtol=1e-4, atol=2e-6)
    if strict:
        layout = find_heads(model)
        union = HeadSet(head for heads in chosen(trainer).values() for head in heads)
        start = weights(new_model(name))
        for key, mask in masks_of(model, layout, union).items():
            assert torch.equal(model.state_dict()[key][mask == 0], start[key][mask == 0])


def test_without_strict_momentum_moves_what_no_task_trains(tmp_path: Path) -> None:
    trainer, watch = watched(tmp_path, IAT(alpha=0.3, delta=0.5, strict=False))
    union = HeadSet(head for heads in chosen(trainer).values() for head in heads)
    masks = masks_of(trainer.model, find_heads(trainer.model), union)
    before, after, _ = watch.steps[5]
    assert any((after[key] != before[key])[mask == 0].any() for key, mask in masks.items())


@pytest.mark.parametrize("iat", [IAT(alpha=1.0, delta=0.5), IAT(alpha=0.3, delta=0.0)])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_where_nothing_is_held_back_it_is_plain_training_to_the_bit(
    iat: IAT, accumulate: int, tmp_path: Path
) -> None:
    runs = []
    for settings in (None, iat):
        trainer = training(tmp_path, settings, accumulate=accumulate, weight_decay=0.1)
        trainer.train()
        runs.append(trainer)
    assert not changed(weights(runs[0].model), runs[1].model)
    assert runs[0].losses == runs[1].losses
    assert runs[1].switch_step == (None if iat.delta == 0 else 5)


COMPILED = """
    import sys
    from pathlib import Path
    from lobes.discovery import find_heads
    from plain_iat import masks_of
    from test_iat import LATE, chosen, watched

    settings = {"torch_compile": True, "torch_compile_backend": "aot_eager", "steps": 6}
    trainer, watch = watched(Path(sys.argv[1]), LATE, precision="bf16", **settings)
    model, heads = trainer._own, chosen(trainer)
    masks = {task: masks_of(model, find_heads(model), one) for task, one in heads.items()}
    for before, after, (task,) in watch.steps[3:]:
        for name, mask in masks[task].items():
            moved = after[name] != before[name]
            assert not moved[mask == 0].any(), name
            if name.endswith("weight") and mask.any():
                assert moved[mask == 1].float().mean() > 0.9, name
    assert len({task for _, _, (task,) in watch.steps[3:]}) > 1
"""


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_a_run_in_bf16_and_compiled_trains_the_same_rows(tmp_path: Path) -> None:
    """Without the types checked: dynamo does not look into what does that."""
    done = run(COMPILED, str(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]


# When it begins, and what is chosen


def test_the_heads_are_those_that_matter_when_it_begins(tmp_path: Path) -> None:
    states: dict[int, Any] = {}

    class Keep(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            states[state.global_step] = weights(trainer.model)

    iat = IAT(alpha=0.3, delta=0.3, importance_examples=31, seed=5)
    trainer = training(tmp_path, iat, callbacks=[Keep()])
    trainer.train()
    assert trainer.iat_record["switch_step"] == trainer.switch_step == 7
    assert trainer.iat_record["steps"] == 3
    model = new_model()
    model.load_state_dict(states[7])
    for task in TASKS:
        scores = head_importance(model, task, aggregate="token", max_examples=31, seed=5)
        assert trainer.iat_record["heads"][task.name] == str(scores.top(0.3))
        kept = np.array(trainer.iat_record["importance"][task.name], dtype=float)
        np.testing.assert_allclose(kept, scores.values, rtol=1e-5)


def test_heads_that_several_tasks_need_can_be_kept_from_all() -> None:
    scores = {
        "a": HeadScores(np.array([[5.0, 4.0, 3.0], [0.0, 1.0, 2.0]])),
        "b": HeadScores(np.array([[5.0, 0.0, 1.0], [4.0, 3.0, 2.0]])),
    }
    assert choose_heads(scores, 0.5)["a"] == HeadSet.parse("0:0,1,2")
    alone = choose_heads(scores, 0.5, share=False)
    assert alone == {"a": HeadSet.parse("0:1,2"), "b": HeadSet.parse("1:0,1")}


def test_heads_can_be_chosen_again(tmp_path: Path) -> None:
    iat = IAT(alpha=0.3, delta=0.5, refresh=2)
    whole = training(tmp_path / "whole", iat, save_every=1, save_total_limit=9)
    whole.train()
    assert whole.iat_record["chosen_at"] == [5, 7, 9]
    for step in (6, 7, 8):
        checkpoint = tmp_path / "whole" / f"checkpoint-{step}"
        continued = training(tmp_path / f"from-{step}", iat)
        continued.train(checkpoint)
        assert not changed(weights(whole.model), continued.model)
        assert continued.iat_record["chosen_at"] == [5, 7, 9]


@pytest.mark.parametrize("stop", [None, 3, 8])
def test_the_gate_goes_with_the_training_also_when_it_is_cut_off(
    stop: int | None, tmp_path: Path
) -> None:
    callbacks = [] if stop is None else [Stop(stop)]
    trainer = training(tmp_path, IAT(delta=0.5, train_other=False), callbacks=callbacks)
    if stop is None:
        trainer.train()
    else:
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
    for module in trainer.model.modules():
        assert not {"forward", "_lobes_gate", "weight", "bias"} & module.__dict__.keys()
    assert all(parameter.requires_grad for parameter in trainer.model.parameters())


def test_the_log_says_which_phase_it_is_and_how_fast(tmp_path: Path) -> None:
    trainer = training(tmp_path, log_every=1)
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["iat"] for entry in steps] == [0.0] * 5 + [1.0] * 5
    assert all(entry["examples_per_second"] > 0 for entry in steps)
    assert all("learning_rate" in entry for entry in steps)
    (end,) = [entry for entry in trainer.state.log_history if "train_loss" in entry]
    assert end["train_samples_per_second"] > 0
    assert "examples_per_second" not in end  # none were trained on since the last step's entry


# Checkpoints

SCRIPT = """
    import os, signal, sys
    from pathlib import Path
    from transformers import TrainerCallback
    from test_iat import LATE, training
    import torch

    class Kill(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == int(sys.argv[2]):
                os.kill(os.getpid(), signal.SIGKILL)

    trainer = training(Path(sys.argv[1]), callbacks=[Kill()], save_every=2, steps=12)
    trainer.train(True)
    torch.save(trainer.model.state_dict(), Path(sys.argv[1], "end.pt"))
"""


def start(folder: Path, kill: int) -> int:
    """Train in a process of its own, which kills itself after a step; its exit code."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        textwrap.dedent(SCRIPT),
        str(folder),
        str(kill),
    ]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, timeout=200).returncode


@pytest.mark.slow
@pytest.mark.parametrize(("kill", "found"), [(5, 4), (6, 6), (9, 8)])
def test_a_killed_run_ends_as_if_it_had_not_been(kill: int, found: int, tmp_path: Path) -> None:
    """Before the switch (after step 6), at it, and after it."""
    assert run(SCRIPT, str(tmp_path / "cut"), str(kill)).returncode == -signal.SIGKILL
    last = last_checkpoint(tmp_path / "cut")
    # killed at the end of step 6, the checkpoint of step 6 is not written yet
    assert (last and steps_of(last)) == (4 if kill == 6 else found)
    continued = training(tmp_path / "cut", save_every=2, steps=12)
    continued.train(True)
    whole = training(tmp_path / "whole", steps=12)
    whole.train()
    assert not changed(weights(whole.model), continued.model)
    assert continued.losses == whole.losses
    assert continued.iat_record["heads"] == whole.iat_record["heads"]


@pytest.mark.parametrize("step", [3, 5])
def test_an_ordinary_run_goes_on_with_iat_from_a_checkpoint_before_its_phase(
    step: int, tmp_path: Path
) -> None:
    whole = training(tmp_path / "whole")
    whole.train()
    training(tmp_path / "plain", None, save_every=1, save_total_limit=9).train()
    continued = training(tmp_path / "on")
    continued.train(tmp_path / "plain" / f"checkpoint-{step}")
    assert not changed(weights(whole.model), continued.model)


def test_a_finished_run_still_says_what_it_chose(tmp_path: Path) -> None:
    whole = training(tmp_path, save_every=10)
    whole.train()
    again = training(tmp_path)
    again.train(True)
    assert again.iat_record == whole.iat_record
    assert not changed(weights(whole.model), again.model)
    json.dumps(again.iat_record, allow_nan=False)


# Bad input


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"alpha": 30}, "alpha is 30; expected a share of all heads from 0 to 1; for 30 % write"),
        ({"alpha": -0.1}, "alpha is -0.1; expected a share of all heads from 0 to 1"),
        ({"alpha": float("nan")}, "alpha is nan; expected a share of all heads from 0 to 1"),
        ({"delta": 1.1}, "delta is 1.1; expected a share of the steps from 0 to 1"),
        ({"refresh": 0}, "refresh is 0; expected a number of steps from 1 to 10,000,000."),
        ({"importance_examples": 0}, "importance_examples is 0; expected a number of examples"),
        ({"method": "tailor"}, 'method is \'tailor\'; expected "taylor", "ablation"'),
        ({"aggregate": "mean"}, 'aggregate is \'mean\'; expected "token", "sequence" or "signed".'),
        ({"normalize": "l2"}, 'normalize is \'l2\'; expected "none" or "layer".'),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        IAT(**settings)
    assert str(caught.value).startswith(said)


def test_a_phase_of_no_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"delta=0\.1 of 9 steps is not one step"):
        training(tmp_path, IAT(delta=0.1), steps=9).train()
    assert IAT(delta=0.3).switch_step(10) == 7
    assert IAT(delta=1.0).switch_step(10) == 0


def test_one_task_is_not_enough(tmp_path: Path) -> None:
    model = new_model(tasks=TASKS[:1])
    with pytest.raises(ConfigError, match=r"needs two or more tasks, .* there is one, 'mood'"):
        MultiTaskTrainer(model, arguments(tmp_path), tasks=TASKS[:1], iat=LATE)


def test_a_model_that_cannot_be_gated_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="norm across heads"):
        training(tmp_path, name="olmo2")


def test_projections_that_are_frozen_anyway_stay_so(tmp_path: Path) -> None:
    model = new_model()
    model.encoder.requires_grad_(False)
    before = weights(model)
    trainer = training(tmp_path, IAT(delta=0.5, train_other=False), model=model)
    trainer.train()
    assert {name.split(".")[0] for name in changed(before, model)} == {"classifiers"}
    assert not any(parameter.requires_grad for parameter in model.encoder.parameters())


@pytest.mark.parametrize("marked", [True, False])
def test_a_weight_that_is_read_past_its_projection_is_noticed(tmp_path: Path, marked: bool) -> None:
    """Also where the tokenizer marks no text: one token attends to itself, whatever the query."""
    model = new_model("bert")
    if not marked:
        inner = model.tokenizer.backend_tokenizer
        inner.post_processor = TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    attention = model.get_submodule("encoder.encoder.layer.0.attention.self")
    query = attention.query

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = query

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return self.inner(states) + nn.functional.linear(states, self.inner.weight)

    attention.query = Around()
    with pytest.raises(ModelError, match=r"weight of Linear gets a gradient past the gate: Bert"):
        training(tmp_path, model=model)


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    training(tmp_path / "iat", save_every=1, save_total_limit=99).train()
    training(tmp_path / "plain", None, save_every=1, save_total_limit=99).train()
    late = tmp_path / "iat" / "checkpoint-8"
    for trainer, checkpoint, said in (
        (training(tmp_path, IAT(alpha=0.5, delta=0.5)), late, "other settings: alpha differs"),
        (training(tmp_path, IAT(delta=0.4)), late, "delta, the switch step differ"),
        (training(tmp_path, None), late, "is in the IAT phase of a training: give the trainer"),
        (
            training(tmp_path),
            tmp_path / "plain" / "checkpoint-6",
            "has 6 steps behind it, all without IAT, whose phase begins after 5 of 10",
        ),
    ):
        before = weights(trainer.model)
        with pytest.raises(RunError, match=said):
            trainer.train(checkpoint)
        assert not changed(before, trainer.model)


def test_a_checkpoint_of_another_model_or_other_tasks_is_refused(tmp_path: Path) -> None:
    training(tmp_path / "run", save_every=5).train()
    checkpoint = tmp_path / "run" / "checkpoint-10"
    tasks = (mood_task(), topic_task())
    other = MultiTaskModel(tiny_model("bert"), tiny_tokenizer(), tasks)
    two = MultiTaskTrainer(other, arguments(tmp_path, steps=10), tasks=tasks, iat=LATE)
    with pytest.raises(ModelError, match="has the tasks 'mood', 'topic', 'warmth', not 'mood', "):
        two.train(checkpoint)
    with pytest.raises(ModelError, match="are those of another model: expected a RobertaModel"):
        training(tmp_path, name="roberta").train(checkpoint)
