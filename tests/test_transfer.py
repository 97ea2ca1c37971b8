"""Transfer to a new task: from which weights, with which examples, and what is kept."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lobes.config.study import load_study, override
from lobes.dissociation.verdicts_over_seeds import transfers
from lobes.errors import ConfigError, DataError, RunError
from lobes.experiments.methods import SeedRun
from lobes.experiments.store import RunFolder
from lobes.experiments.transfer import _Transfer, load_tasks, ready_to_transfer
from lobes.measure.evaluation import evaluate
from lobes.modeling import MultiTaskModel
from lobes.tasks.subsets import growing_order
from lobes.training.trainer import MultiTaskTrainer
from plain_results import read_transfer, transfer_study
from tiny_study import write_study

SMALL = (
    "training.steps=11",
    "training.learning_rate=1e-3",
    "compare.evaluations=3",
    "compare.held_out=0.2",
    "iat.delta=0.5",
)
TRANSFER = """
[transfer]
fractions = [0.05, 0.5]
seeds = 2
steps = 5
learning_rate = 2e-3

[transfer.task]
name = "subject"
train = "topic.train.jsonl"
validation = "topic.validation.jsonl"
text = "sentence"
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study's file, after its transfer has gone to the end in the folder `run` beside it."""
    path = write_study(tmp_path_factory.mktemp("study"))
    path.write_text(path.read_text() + TRANSFER)
    transfer_study(load_study(path, SMALL))
    return path


@pytest.fixture
def study(finished, tmp_path):
    """The same study, its transfer still to be made."""
    return override(load_study(finished, SMALL), f"output={tmp_path / 'run'}")


@pytest.fixture
def copied(finished, study):
    """The same study, with a copy of its finished transfer."""
    shutil.copytree(finished.parent / "run", study.output)
    return study


@pytest.fixture(scope="module")
def expected(finished):
    return timeless(read_transfer(finished.parent / "run"))


def timeless(transfer):
    """Without what two runs of the same transfer may differ in: times and places."""
    copy = json.loads(json.dumps(transfer))
    for key in ("created", "times", "seconds"):
        del copy[key]
    del copy["iat"]["seconds"]
    del copy["config"]["output"]
    return copy


def test_what_a_transfer_holds(finished, expected):
    folder = finished.parent / "run"
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        *("config.json", "files.json", "measurements"),
        *("transfer.html", "transfer.json"),
    ]
    assert expected["starts"] == list(expected["scores"]) == ["pretrained", "multi", "iat"]
    assert (expected["fractions"], expected["sizes"]) == ([0.05, 0.5], [5, 49])
    assert expected["seeds"] == [0, 1]
    assert [task["name"] for task in expected["sources"]] == ["mood", "topic"]
    assert (expected["task"]["name"], expected["task"]["n_train"]) == ("subject", 97)
    for start in expected["starts"]:
        assert np.shape(expected["scores"][start]) == (2, 2)
    assert expected["training"]["steps"] == 5
    assert (expected["training"]["batch_size"], expected["training"]["learning_rate"]) == (7, 2e-3)
    assert expected["iat"]["switch_step"] == 6
    assert set(expected["selected"]) == {"multi", "iat"}
    assert [verdict["claim"] for verdict in expected["verdicts"]] == [transfers("iat", "multi")]
    assert np.array(read_transfer(folder)["seconds"]["multi"]).min() > 0


@pytest.fixture
def transfer(study, tmp_path):
    """One seed's transfer, in a folder that is held while the test runs."""
    study = ready_to_transfer(study)
    tasks = load_tasks(study)
    (new,) = load_tasks(study.model_copy(update={"tasks": (study.transfer.task,)}))
    with RunFolder(study.output, study.to_dict(), command="transfer") as folder:
        folder.begin({})
        run = SeedRun(study, 1, tasks, folder.path / "checkpoints")
        yield _Transfer(run, folder, new, study.transfer, "scope")


def test_every_fine_tuning_is_what_it_is_by_itself(transfer, expected):
    """Done again without `_Transfer`: the encoder, the examples, the steps, the last weights."""
    pair = dict(zip(("multi", "iat"), transfer.run.pair(), strict=True))
    new = transfer.task
    for start in ("pretrained", "multi", "iat"):
        for number, subset in enumerate(transfer.subsets()):
            model = MultiTaskModel.from_pretrained(
                transfer.run.study.model, [new], seed=1, max_length=31
            )
            if start != "pretrained":
                model.encoder.load_state_dict(pair[start].model.encoder.state_dict())
            args = transfer.run.trainer(model, [subset]).args
            args.max_steps, args.learning_rate = 5, 2e-3
            MultiTaskTrainer(model, args, tasks=[subset]).train()
            score = evaluate(model, [new]).scores()[0, 0]
            assert expected["scores"][start][1][number] == score


def test_smaller_parts_are_in_larger_ones_and_the_same_for_every_start(transfer):
    small, large = (set(subset.train.texts) for subset in transfer.subsets())
    assert small < large < set(transfer.task.train.texts)
    assert set(transfer.subsets()[0].train.labels) == {0, 1, 2}
    beginning = np.sort(growing_order(transfer.task, 1)[:5])
    assert transfer.subsets()[0].train.texts == transfer.task.train.select(beginning).texts


def test_the_trained_models_are_kept_until_they_are_done_with(transfer, monkeypatch):
    kept = transfer.sources(None)
    monkeypatch.setattr(SeedRun, "pair", None)
    again = transfer.sources(None)
    for method, arrays in kept.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, again[method][name])
    models = [transfer.new_model(start) for start in ("pretrained", "multi", "iat")]
    classifiers = [model.classifiers["subject"].weight for model in models]
    assert torch.equal(classifiers[0], classifiers[1])
    assert torch.equal(classifiers[0], classifiers[2])
    assert {(m.pooling, m.max_length, m.dropout.p) for m in models} == {("pooler", 31, 0.1)}
    encoders = [model.encoder for model in models]
    some = [next(iter(encoder.parameters())) for encoder in encoders]
    assert not torch.equal(some[0], some[1])
    assert not torch.equal(some[0], some[2])
    monkeypatch.undo()
    other = _Transfer(transfer.run, transfer.folder, transfer.task, transfer.settings, "other")
    monkeypatch.setattr(SeedRun, "pair", None)
    with pytest.raises(TypeError):
        other.sources(None)  # models of another scope are made again


@pytest.mark.slow
def test_an_interruption_anywhere_changes_no_number(study, expected, monkeypatch):
    """Stop one seed's transfer at the first and then at later calls of `progress`."""

    class Stop(KeyboardInterrupt):
        pass

    seen, trained = set(), []
    original = SeedRun.pair

    def pair(self, progress):
        trained.append(self.study.seed)
        return original(self, progress)

    monkeypatch.setattr(SeedRun, "pair", pair)

    def progress(stage, done, total):
        point = (stage, 12 * done // total)
        if point not in seen:
            seen.add(point)
            raise Stop

    one = override(study, "transfer.seeds=1")
    for stops in range(30):  # noqa: B007 - how often it was stopped
        try:
            results = transfer_study(one, progress=progress)
            break
        except Stop:
            continue
    assert stops > 10
    in_the_training = {point for stage, point in seen if stage == "seed 0" and point < 4}
    assert len(trained) <= len(in_the_training) + 1
    assert {s: v[:1] for s, v in expected["scores"].items()} == results["scores"]
    assert results["iat"]["heads"] == expected["iat"]["heads"][:1]
    left = {path.name for path in Path(study.output).iterdir()}
    assert left == {
        *("config.json", "files.json", "measurements"),
        *("transfer.html", "transfer.json"),
    }


@pytest.mark.slow
def test_more_fractions_and_seeds_can_be_added(copied, expected, monkeypatch):
    trained = []
    original = SeedRun.pair
    monkeypatch.setattr(
        SeedRun, "pair", lambda self, _: trained.append(self.study.seed) or original(self)
    )
    assert timeless(transfer_study(copied)) == expected
    assert trained == []
    more = transfer_study(override(copied, "transfer.fractions=[0.05, 1.0]", "transfer.seeds=1"))
    assert trained == [0]
    assert more["sizes"] == [5, 97]
    for start in more["starts"]:
        assert more["scores"][start][0][0] == expected["scores"][start][0][0]


@pytest.mark.parametrize(
    ("settings", "error", "sentence"),
    [
        (
            ["transfer="],
            ConfigError,
            "The study names no task to transfer to: add a table [transfer.task], written as one "
            "of [[tasks]].",
        ),
        (["transfer.task.text=words"], DataError, None),
        (["iat.delta=0.05"], ConfigError, None),
        (["transfer.task.name=training"], ConfigError, None),
    ],
)
def test_what_cannot_start_leaves_nothing(study, settings, error, sentence):
    with pytest.raises(error) as caught:
        transfer_study(override(study, *settings))
    assert "\n" not in str(caught.value)
    assert sentence is None or str(caught.value) == sentence
    assert not os.path.exists(study.output)


def test_another_transfer_is_refused(copied):
    with pytest.raises(RunError, match=r"another study: transfer\.steps differs"):
        transfer_study(override(copied, "transfer.steps=6"))
    with pytest.raises(RunError, match=r"another study: transfer\.task\.text differs"):
        transfer_study(override(copied, 'transfer.task.text=["sentence", "label"]'))
