"""Checkpoints: which count as whole, which damage is noticed, and that no foreign code is run."""

import logging
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lobes.errors import RunError
from lobes.modeling import MultiTaskModel
from lobes.training.arguments import training_arguments
from lobes.training.checkpoints import (
    complete,
    damage_of,
    discard,
    intact_checkpoint,
    is_complete,
    last_checkpoint,
    rotate,
)
from lobes.training.trainer import MultiTaskTrainer
from tiny_models import tiny_model
from tiny_tasks import mood_task, tiny_tokenizer, topic_task

TASKS = (mood_task(), topic_task())
OURS = logging.getLogger("lobes")


def trainer(folder: Path, steps: int = 6, **settings: Any) -> MultiTaskTrainer:
    model = MultiTaskModel(tiny_model("bert", attention="sdpa"), tiny_tokenizer(), TASKS)
    settings = {"save_every": 2, "batch_size": 7, "precision": "fp32", **settings}
    args = training_arguments(folder, steps=steps, device="cpu", **settings)
    return MultiTaskTrainer(model, args, tasks=TASKS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoints 4 and 6 of a training of 6 steps; it is not changed."""
    folder = tmp_path_factory.mktemp("trained")
    with torch.random.fork_rng(devices=[]):
        trainer(folder).train()
    return folder


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copied"))


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pickle_instead(path: Path) -> None:
    path.write_bytes(pickle.dumps(Hostile(path.parents[1] / "ran")))


def test_the_newest_two_checkpoints_are_kept(trained: Path) -> None:
    assert sorted(path.name for path in trained.iterdir()) == ["checkpoint-4", "checkpoint-6"]


def test_the_oldest_are_removed_and_never_the_one_just_written_or_the_best(copied: Path) -> None:
    def rotated(limit: int | None, best: Path | None = None) -> set[str]:
        rotate(copied / "checkpoint-3", limit, best)
        return {path.name.removeprefix("checkpoint-") for path in copied.iterdir()}

    for age, step in enumerate(("7", "4", "6", "3")):  # 7 was written first
        folder = copied / f"checkpoint-{step}"
        if not folder.exists():
            shutil.copytree(copied / "checkpoint-4", folder)
        os.utime(folder / "digests.json", (age + 1, age + 1))
    (copied / "checkpoint-1").mkdir()  # somebody else's, or interrupted
    assert rotated(None) == rotated(0) == rotated(4) == {"1", "3", "4", "6", "7"}
    assert rotated(3) == {"1", "3", "4", "6"}
    assert rotated(1, best=copied / "checkpoint-4") == {"1", "3", "4"}
    assert rotated(1) == {"1", "3"}


def test_an_interrupted_checkpoint_is_passed_over(copied: Path) -> None:
    older, newer = copied / "checkpoint-4", copied / "checkpoint-6"
    (copied / "checkpoint-x").mkdir()
    (copied / "checkpoint-99").symlink_to(newer)
    assert last_checkpoint(copied) == intact_checkpoint(copied) == newer
    (newer / "digests.json").unlink()
    assert not is_complete(newer)
    assert last_checkpoint(copied) == intact_checkpoint(copied) == older
    discard(older)
    assert last_checkpoint(copied) is intact_checkpoint(copied) is None
    assert last_checkpoint(copied / "nowhere") is None
    with pytest.raises(RunError, match="checkpoint-6' is not a complete checkpoint: expected"):
        trainer(copied).train(newer)


@pytest.mark.parametrize("damage", [flip, cut, empty, Path.unlink, folder_instead, pickle_instead])
def test_any_damage_to_any_file_is_noticed(
    damage: Any, copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    newest = copied / "checkpoint-6"
    files = [path for path in newest.rglob("*") if path.is_file()]
    assert len(files) >= 10
    for path in files:
        name, content = path.relative_to(newest).as_posix(), path.read_bytes()
        caplog.clear()
        damage(path)
        with caplog.at_level("WARNING", logger="lobes"):
            assert intact_checkpoint(copied) == copied / "checkpoint-4"
        if name != "digests.json":  # without it a checkpoint was interrupted
            (said,) = caplog.messages
            assert f"checkpoint-6 is damaged ({name} is " in said
            assert said.endswith("; training goes on from checkpoint-4.")
        if path.is_dir():
            path.rmdir()
        path.write_bytes(content)
    assert damage_of(newest) is None
    assert not (copied / "ran").exists()


def test_a_training_goes_on_from_the_checkpoint_before_a_damaged_one(
    trained: Path, copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flip(copied / "checkpoint-6" / "optimizer.pt")
    again = trainer(copied)
    with caplog.at_level("WARNING", logger="lobes"):
        again.train(resume_from_checkpoint=True)
    assert "optimizer.pt is not as it was written" in caplog.text
    whole = MultiTaskModel.from_pretrained(trained / "checkpoint-6")
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name
    assert damage_of(copied / "checkpoint-6") is None
    for path in copied.glob("checkpoint-*"):
        flip(path / "classifiers.safetensors")
    caplog.clear()
    with caplog.at_level("WARNING", logger="lobes"):
        assert intact_checkpoint(copied) is None
    assert caplog.messages[-1].endswith("; training starts from the beginning.")
    with pytest.raises(RunError, match=r"checkpoint-6' is damaged .*: continue from another one"):
        trainer(copied, steps=8).train(copied / "checkpoint-6")


@pytest.mark.parametrize(
    "name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "losses.json", "trainer_state.json"]
)
def test_what_is_not_ours_is_not_unpickled_whatever_its_digest(name: str, copied: Path) -> None:
    newest, ran = copied / "checkpoint-6", copied / "ran"
    if name.endswith(".json"):
        (newest / name).write_text('{"global_step": 6, "log_history": 5, "unknown": 1}')
    else:
        torch.save({"state": Hostile(ran)}, newest / name)
    complete(newest)
    assert intact_checkpoint(copied) == newest
    with pytest.raises(RunError, match=r"checkpoint-6' does not fit this training \(") as failure:
        trainer(copied, steps=8).train(resume_from_checkpoint=True)
    assert "weights_only" not in str(failure.value)
    assert not ran.exists()


def test_weights_that_are_a_pickle_are_not_read(copied: Path) -> None:
    newest, ran = copied / "checkpoint-6", copied / "ran"
    (newest / "encoder" / "model.safetensors").unlink()
    torch.save(Hostile(ran), newest / "encoder" / "pytorch_model.bin")
    complete(newest)
    with pytest.raises(Exception, match="safetensors") as failure:
        trainer(copied, steps=8).train(resume_from_checkpoint=True)
    assert type(failure.value).__module__ == "lobes.errors"
    assert not ran.exists()
