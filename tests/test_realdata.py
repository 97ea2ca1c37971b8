"""A study of real data, end to end. Run with LOBES_DATA=DIR pytest -m realdata."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lobes.cli import app
from lobes.experiments.demo import fetch
from lobes.tasks.known import known_task
from lobes.tasks.sources import load_split, load_task

STUDY = Path(__file__).parents[1] / "examples" / "sst2-qnli.toml"


@pytest.mark.realdata
def test_every_task_of_the_folder_loads_by_its_name():
    if "LOBES_DATA" not in os.environ:
        pytest.fail("LOBES_DATA is not set: name the folder that holds the data sets.")
    folder = Path(os.environ["LOBES_DATA"])
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest
    for name, facts in manifest.items():
        known = known_task(name)
        assert known.text == tuple(facts["text_columns"])
        assert list(known.labels or ()) == (facts["label_names"] or [])
        for split, file in facts["splits"].items():
            loaded = load_split(name, split)
            assert len(loaded) == file["rows"], (name, split)
            if split in known.hidden:
                continue
            if known.labels is None:
                assert loaded.labels.mean() == pytest.approx(file["label_counts"]["mean"], abs=5e-4)
            else:
                counts = {str(i): int(n) for i, n in enumerate(np.bincount(loaded.labels))}
                assert counts == file["label_counts"], (name, split)
        task = load_task(name)
        rows = facts["splits"]["validation"]["rows"]
        assert len(task.validation) == rows
        assert (task.train is None) == ("train" not in facts["splits"])


@pytest.mark.realdata
@pytest.mark.timeout(1800)
def test_sst2_and_qnli_end_to_end(tmp_path):
    if "LOBES_DATA" not in os.environ:
        pytest.fail("LOBES_DATA is not set: name the folder that holds the data sets.")
    arguments = ["run", STUDY, "--output", tmp_path / "run", "--set", f"model={fetch().model}"]
    arguments += ["--set", "training.steps=200", "--set", "iap.controls=3", "--quiet"]
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    base = {task["name"]: task["base"] for task in results["tasks"]}
    # Chance is about 0.51 and 0.52: both tasks must have been learned.
    assert base["sst2"] > 0.75
    assert base["qnli"] > 0.6
    assert [len(entry["pairs"]) for entry in results["fractions"]] == [1, 1, 1]
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
