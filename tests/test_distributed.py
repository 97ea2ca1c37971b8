"""IAT in two processes, under DDP and FSDP2: the same rows, and the plain reference's weights."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from distributed_iat import CHECKPOINT, SETTINGS, STEPS
from lobes.discovery import find_heads
from lobes.heads import HeadSet
from lobes.measure.evaluation import evaluate
from lobes.measure.importance import head_importance
from lobes.modeling import MultiTaskModel
from lobes.training.data import TrainingData
from lobes.training.iat import choose_heads
from lobes.training.sampling import TaskBatchSampler
from plain_iat import masks_of, plain_steps
from test_iat import without_dropout
from test_trainer import TASKS, global_random_states, new_model  # noqa: F401

pytestmark = pytest.mark.slow  # processes that import torch before they train

PROCESSES = 2
SWITCH = SETTINGS.switch_step(STEPS)


@pytest.fixture(scope="module", params=["ddp", "fsdp"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of three trainings in two processes."""
    folder = tmp_path_factory.mktemp(request.param)
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
    command += [
        "--nproc-per-node",
        str(PROCESSES),
        str(Path(__file__).parent / "distributed_iat.py"),
    ]
    done = subprocess.run(
        [*command, str(folder), request.param],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
        capture_output=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def seen(folder: Path, rank: int) -> tuple[list, list, dict]:
    """(the weights before each step and at the end, the tasks of each step, the heads)."""
    tasks = read(folder, f"tasks-{rank}")
    heads = read(folder, f"iat-{rank}")["heads"]
    return torch.load(folder / f"weights-{rank}.pt"), tasks, heads


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


def batches(model: MultiTaskModel, accumulate: int) -> list[list[dict]]:
    """The micro-batches of each step, over both processes."""
    data = TrainingData(model, TASKS)
    stream = TaskBatchSampler(data.sizes, 7, lengths=data.lengths)
    every = [data.collate(indices) for indices in stream]
    size = accumulate * PROCESSES
    return [every[i : i + size] for i in range(0, STEPS * size, size)]


@pytest.mark.parametrize(("run", "accumulate"), [("one", 1), ("two", 2)])
def test_two_processes_train_what_the_plain_reference_trains(
    run: str, accumulate: int, trained: Path
) -> None:
    weights, tasks, heads = seen(trained / run, 0)
    _, others, same = seen(trained / run, 1)
    assert heads == same
    plain = without_dropout(new_model())
    steps = batches(plain, accumulate)
    for step, mine, theirs in zip(steps, tasks, others, strict=True):
        dealt = [batch["task"] for batch in step]
        assert (mine, theirs) == (dealt[::2], dealt[1::2])
    assert any(set(mine) != set(theirs) for mine, theirs in zip(tasks, others, strict=True))
    plain_steps(
        plain,
        find_heads(plain),
        {task: HeadSet.parse(text) for task, text in heads.items()},
        steps,
        rates=[3e-3 * (1 - step / STEPS) for step in range(STEPS)],
        switch=SWITCH,
    )
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(weights[-1][name], value, rtol=1e-4, atol=2e-6)


def test_importance_is_that_of_one_process_and_under_ddp_computed_once(trained: Path) -> None:
    names = [task.name for task in TASKS]
    records = [read(trained / "one", f"iat-{rank}") for rank in range(PROCESSES)]
    shares = [read(trained / "one", f"computed-{rank}") for rank in range(PROCESSES)]
    sharded = trained.name.startswith("fsdp")
    assert shares == ([names, names] if sharded else [names[::2], names[1::2]])
    assert records[0]["importance"] == records[1]["importance"]
    weights, _, heads = seen(trained / "one", 0)
    model = new_model()
    model.load_state_dict(weights[SWITCH])
    importance = {
        task.name: head_importance(
            model,
            task,
            aggregate=SETTINGS.aggregate,
            max_examples=SETTINGS.importance_examples,
            seed=SETTINGS.seed,
        )
        for task in TASKS
    }
    expected = {name: scores.values.tolist() for name, scores in importance.items()}
    assert records[0]["importance"] == expected
    chosen = choose_heads(importance, SETTINGS.alpha)
    assert heads == {name: str(heads) for name, heads in chosen.items()}


def test_an_error_in_one_process_ends_all_with_its_message(trained: Path) -> None:
    if trained.name.startswith("fsdp"):
        pytest.skip("under FSDP every process computes the importance of every task")
    first, second = (
        (trained / "failed" / f"error-{rank}.txt").read_text() for rank in range(PROCESSES)
    )
    assert second.startswith("ModelError: ")
    message = second.removeprefix("ModelError: ")
    assert first == (
        f"RunError: Process 1 of the training failed at the importance of task 'topic': "
        f"{message.rstrip('.')}; mend that, then start all 2 processes again."
    )


@pytest.mark.parametrize("run", ["one", "two"])
def test_rows_that_no_process_may_train_stay_the_same_to_the_bit(run: str, trained: Path) -> None:
    weights, tasks, heads = seen(trained / run, 0)
    _, others, _ = seen(trained / run, 1)
    model = new_model()
    layout = find_heads(model)
    masks = {task: masks_of(model, layout, HeadSet.parse(text)) for task, text in heads.items()}
    for step in range(SWITCH, STEPS):
        present = {*tasks[step], *others[step]}
        for name in masks["mood"]:
            allowed = torch.stack([masks[task][name] for task in sorted(present)]).any(0)
            moved = weights[step + 1][name] != weights[step][name]
            assert not moved[~allowed].any(), name
            if name.endswith("weight") and allowed.any():
                assert moved[allowed].float().mean() > 0.9, name
        for task in masks:  # a classifier without a batch rests, as in one process
            name = f"classifiers.{task}.weight"
            same = torch.equal(weights[step + 1][name], weights[step][name])
            assert same is (task not in present)


def test_a_run_goes_on_from_a_checkpoint_in_its_iat_phase(trained: Path) -> None:
    assert SWITCH < CHECKPOINT
    whole, _, heads = seen(trained / "two", 0)
    continued, _, same = seen(trained / "on", 0)
    assert heads == same
    assert len(continued) == STEPS - CHECKPOINT + 1
    for name, value in whole[-1].items():
        assert torch.equal(continued[-1][name], value), name


def test_the_model_is_saved_whole_and_scored_the_same_everywhere(trained: Path) -> None:
    whole, _, _ = seen(trained / "two", 0)
    saved = MultiTaskModel.from_pretrained(trained / "two" / f"checkpoint-{STEPS}", TASKS)
    for name, value in saved.state_dict().items():
        assert torch.equal(value, whole[-1][name]), name
    first, second = (
        json.loads((trained / "two" / f"scores-{rank}.json").read_text())
        for rank in range(PROCESSES)
    )
    assert first == second
    expected = evaluate(saved, TASKS).scores()[0]
    for task, score in zip(TASKS, expected, strict=True):
        assert first[f"eval_{task.name}_{task.metric}"] == pytest.approx(score, abs=1e-6)
