"""Damage in a run's folder is refused or made good; it never changes what is shown."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from kill_everywhere import SMALL
from lobes.config.study import load_study, override
from lobes.errors import LobesError
from lobes.experiments.open_model import trained_model
from lobes.experiments.pooled_runs import stored_run
from lobes.experiments.predict import predict_run
from lobes.experiments.reports import _read as read
from lobes.experiments.store import RunFolder
from lobes.results import as_bytes
from plain_results import report_again, run_study
from tiny_study import timeless, write_study

AGAIN = ("damaged", "run the study again", "--fresh")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study, its run, and the results."""
    path = write_study(tmp_path_factory.mktemp("study"))
    study = override(load_study(path), *SMALL, "growth.checkpoints=2")
    results = run_study(study)
    return study, timeless(results), shown(Path(study.output))


@pytest.fixture
def copied(finished, tmp_path):
    """The same study, with a copy of its finished run."""
    shutil.copytree(finished[0].output, tmp_path / "run")
    return finished[0].model_copy(update={"output": str(tmp_path / "run")})


def shown(run):
    """All that reads a run's folder shows of it: {command: what it shows, or why it does not}."""
    found = {}
    readers = {
        "report": lambda: as_bytes(read(run)[0]),
        "several": lambda: stored_run(run)[1].predictions,
        "model": lambda: {
            p.name: p.read_bytes() for p in trained_model(run).rglob("*.safetensors")
        },
    }
    for name, reader in readers.items():
        try:
            found[name] = repr(reader())
        except LobesError as error:
            found[name] = error
    return found


def flip(path, generator, times=1):
    """Turn some bits over."""
    content = bytearray(path.read_bytes())
    for place in generator.integers(8 * len(content), size=times) if content else ():
        content[place // 8] ^= 1 << (place % 8)
    path.write_bytes(content)


def check_shown(found, expected, where):
    for command, value in found.items():
        if isinstance(value, LobesError):
            assert "\n" not in str(value), (where, command, value)
            assert any(words in str(value) for words in AGAIN), (where, command, value)
        else:
            assert value == expected[command], (where, command)


def files_of(run):
    return sorted(path for path in run.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "seed", [0, *[pytest.param(n, marks=pytest.mark.slow) for n in range(1, 3)]]
)
def test_no_flipped_bit_is_shown(finished, copied, seed):
    """Each file in turn: every reader refuses it with a sentence, or shows the same."""
    _, _, expected = finished
    run, generator, refused = Path(copied.output), np.random.default_rng(seed), 0
    for path in files_of(run):
        content = path.read_bytes()
        flip(path, generator)
        found = shown(run)
        check_shown(found, expected, path)
        refused += any(isinstance(value, LobesError) for value in found.values())
        path.write_bytes(content)
    names = {path.name for path in files_of(run)}
    read = names - {"report.html", "config.json"}
    measured = [p for p in files_of(run) if p.parent.name == "measurements"]
    assert refused >= len(read) - len(measured)


# What a run makes again at a time: it is the same work as for one file of them.
TOGETHER = (
    ("measurements/*.parquet", "results.json"),
    ("predictions.parquet", "importance.parquet", "texts.parquet", "report.html"),
    ("model/encoder/model.safetensors",),
    ("model/training.json", "results.json"),
    ("files.json",),
)


@pytest.mark.parametrize("patterns", TOGETHER, ids=str)
def test_the_same_command_makes_good_what_is_damaged(finished, copied, patterns):
    _, expected, _ = finished
    run, generator = Path(copied.output), np.random.default_rng(5)
    for pattern in patterns:
        for path in run.glob(pattern):
            flip(path, generator, times=3)
    if "results.json" in patterns and "measurements/*.parquet" in patterns:
        # the models of the steps are gone, and growth with them
        with pytest.raises(LobesError, match=r"The model of step 3 is needed to measure growth"):
            run_study(copied)
        assert timeless(run_study(copied, fresh=True)) == expected
    else:
        assert timeless(run_study(copied)) == expected
    assert not [each for each in shown(run).values() if isinstance(each, LobesError)]
    report_again(run)


def test_a_damaged_configuration_is_refused(copied):
    flip(Path(copied.output) / "config.json", np.random.default_rng(0))
    with pytest.raises(LobesError, match=r"config\.json is damaged; choose another output, or"):
        run_study(copied)
    with pytest.raises(LobesError, match=r"config\.json is damaged"):
        predict_run(Path(copied.output), Path(copied.output) / "out")


def test_a_foreign_file_in_the_model_s_folder_is_no_dead_end(finished, copied, caplog):
    """As one that a file manager leaves there: a training used to end in "Directory not empty"."""
    run = Path(copied.output)
    (run / "model" / ".DS_Store").write_text("mine")
    (run / "model" / "training.json").write_text("{")
    with caplog.at_level(logging.WARNING, "lobes"):
        assert timeless(run_study(copied)) == finished[1]
    assert (run / "model.aside" / ".DS_Store").read_text() == "mine"
    assert (
        f"{run / 'model'} held what lobes did not write; that is in {run / 'model.aside'} now."
        in (caplog.messages)
    )
    assert timeless(run_study(copied, fresh=True)) == finished[1]


def test_results_of_another_study_are_not_shown(finished, copied):
    """Two studies that had one folder in turn: the results in it must be those of this one."""
    run = Path(copied.output)
    results = json.loads((run / "results.json").read_text())
    results["config"]["seed"] = 7
    results["tasks"][0]["base"] = 0.123
    del results["sha256"]
    with RunFolder(run, copied.to_dict()) as folder:
        folder.write_json("results.json", results)
    assert timeless(run_study(copied)) == finished[1]
