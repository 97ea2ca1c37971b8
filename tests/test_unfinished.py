"""A run that was killed says how far it is; several seeds are one command; a log is kept."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lobes.cli import app
from lobes.config.study import load_study, override
from lobes.errors import ConfigError, RunError
from lobes.experiments.run_seeds import run_seeds
from lobes.experiments.several_runs import Shows
from lobes.experiments.store import RunFolder
from lobes.experiments.unfinished import unfinished_run
from lobes.results import PooledResults, RunResults, read
from plain_results import run_study
from tiny_study import QUICK, as_before, write_study  # noqa: F401

pytestmark = pytest.mark.usefixtures("as_before")


def lobes(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def settings():
    return [word for each in QUICK for word in ("--set", each)]


def stopped_at(study, where):
    """Run a study until a stage begins."""

    def stop(stage, done, total):
        if stage.startswith(where):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(study, progress=stop)
    return Path(study.output)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return override(load_study(write_study(tmp_path_factory.mktemp("study"))), *QUICK)


def test_a_run_says_what_is_done_and_what_is_not(study):
    assert unfinished_run(Path(study.output)) is None  # not begun
    run = stopped_at(study, "importance of topic")
    found = unfinished_run(run)
    states = {each["stage"]: each["state"] for each in found["stages"]}
    assert states == {"training": "done", "importance": "1 of 2 tasks", "lesions": "not begun"}
    assert set(found["scores"]) == {"mood", "topic"}
    assert list(found["importance"]) == ["mood"]
    several = lobes("report", run.parent)  # as a sweep that was stopped
    assert several.exit_code == 1
    assert f"but holds runs, such as {run}: give one of them" in several.stderr
    stopped_at(study, "each head")
    found = unfinished_run(run)
    assert found["stages"][1]["state"] == "done"
    assert found["stages"][2]["state"].endswith("groups of lesions are measured")
    result = lobes("report", run)
    assert result.exit_code == 0
    assert "most important heads" in result.stdout
    assert f"The run in {run} is not finished: `lobes run` with its study" in result.stderr
    assert json.loads(lobes("report", run, "--json").stdout)["finished"] is False
    results = run_study(study)
    assert unfinished_run(run) is None
    ranked = found["importance"]["mood"].split()
    values = read(run, RunResults).importance[0].values
    assert values.max() == values[tuple(map(int, ranked[0].split(":")))]
    assert results["schema"] == "lobes-results"


@pytest.mark.parametrize(
    ("command", "noun"), [("compare", "comparison"), ("transfer", "transfer study")]
)
def test_a_study_over_seeds_says_that_it_is_stopped(tmp_path, command, noun):
    with RunFolder(tmp_path / "out", {}, command=command) as folder:
        folder.begin({})
    found = unfinished_run(tmp_path / "out")
    assert found["stages"] == [{"stage": noun, "state": "0 measurements are kept"}]
    result = lobes("report", tmp_path / "out")
    assert result.exit_code == 0
    assert f"The {noun} in {tmp_path / 'out'} is not finished: `lobes {command}` with its" in (
        result.stderr
    )


def test_several_seeds_are_runs_beside_each_other_and_pooled(tmp_path):
    path = write_study(tmp_path)
    out = tmp_path / "out"
    words = ("run", path, "--output", out, "--seeds", 2, "--quiet", *settings())
    done = lobes(*words)
    assert done.exit_code == 0, done.stderr
    assert done.stderr.endswith(f"Report: {tmp_path / 'out-seeds' / 'runs.html'}\n")
    pooled = read(tmp_path / "out-seeds", PooledResults)
    assert [run.seed for run in pooled.runs] == [0, 1]
    first = (tmp_path / "out-seed0" / "results.json").read_bytes()
    again = lobes(*words)
    assert again.exit_code == 0, again.stderr
    assert (tmp_path / "out-seed0" / "results.json").read_bytes() == first
    log = (tmp_path / "out-seed1" / "lobes.log").read_text(encoding="utf-8").splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S", line) for line in log)
    said = [line[20:] for line in log]
    assert said[0].startswith("lobes ")
    assert said.count("importance of mood: started") == 1
    assert any(re.fullmatch(r"lesions: done in \d+ s", line) for line in said)
    assert said[-1] == "done"


def test_seeds_need_a_study_that_trains(study):
    with pytest.raises(ConfigError, match="--seeds trains a model with each seed"):
        run_seeds(override(study, "training.enabled=false"), 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 2**32 - 2}, r"^11 seeds from 4294967294 on end with 4294967304; expected a last"),
        ({"output": "n" * 195}, "The last run has a part of 202"),
    ],
)
def test_what_the_last_seed_cannot_be_is_said_before_the_first_is_run(study, changes, words):
    with pytest.raises(ConfigError, match=words):
        run_seeds(study.model_copy(update=changes), 11, shows=Shows(pytest.fail))


def test_pooled_results_of_others_are_refused_before_the_first_run(study):
    other = Path(f"{study.output}-x-seeds", "runs.html")
    other.parent.mkdir()
    other.write_text("mine", encoding="utf-8")
    update = {"output": f"{study.output}-x"}
    with pytest.raises(RunError, match="is not as lobes wrote it"):
        run_seeds(study.model_copy(update=update), 2, shows=Shows(pytest.fail))


def test_a_run_that_cannot_begin_leaves_no_log(tmp_path):
    path = write_study(tmp_path)
    done = lobes("run", path, "--set", "iap.fractions=[0.01]", "--output", tmp_path / "out")
    assert done.exit_code == 1
    assert not (tmp_path / "out").exists()
