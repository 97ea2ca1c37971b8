"""What comparisons, transfer studies and sweeps will take, before they run."""

import json
from collections import Counter

import pytest
from typer.testing import CliRunner

from lobes.cli import app
from lobes.cli.plans import plan_line, show_plan, show_sweep_plans, sweep_line
from lobes.config.study import load_study, override
from lobes.experiments import estimate_runs
from lobes.experiments.estimate import Forecast
from lobes.experiments.estimate_runs import estimate_for, estimate_sweep, ready_for, unknown
from lobes.experiments.methods import SeedRun
from lobes.experiments.rates import Cost, Rates, TrainingRate
from lobes.experiments.sweep import plan_sweeps
from tiny_study import as_before, write_study  # noqa: F401

pytestmark = pytest.mark.usefixtures("as_before")

TABLES = """
[compare]
seeds = 3
methods = ["single", "multi", "iat", "tuned", "frozen", "probe"]
evaluations = 2
controls = 0

[transfer]
seeds = 2
steps = 11
fractions = [0.2, 1.0]

[transfer.task]
name = "mood2"
train = "mood.train.csv"
validation = "mood.validation.csv"
text = "sentence"
labels = ["bad", "good"]
"""

SWEEP = """
study = "study.toml"
output = "{output}"

[axes]
seed = [0, 1, 2]
training.learning_rate = [1e-3, 3e-3]
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = write_study(tmp_path_factory.mktemp("plan") / "study")
    path.write_text(path.read_text() + TABLES)
    return path


@pytest.fixture(scope="module")
def study(path):
    return load_study(path)


@pytest.fixture(scope="module")
def known(study):
    """The forecast of a machine whose speed is known, of which nothing is measured."""
    training = TrainingRate(Cost(1.0, 0.01), tokens=100.0, longest=200, activations=7, measured=100)
    speed = Rates(Cost(0.5, 0.003), Cost(0.25, 0.005), Cost(0.1, 0.001), training, {}, 10**9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lobes.experiments.estimate.measure_rates", lambda *_, **__: speed)
        forecast = Forecast.of(study)
    forecast.loading_seconds = 11.0
    return forecast


def test_a_comparison_takes_what_its_trainings_take(known, study, tmp_path):
    found = estimate_for(known, "compare")
    run = SeedRun(ready_for(study, "compare"), 0, known.tasks, tmp_path)
    names = [task.name for task in known.tasks]
    held_out = sum(
        len(part.validation) * known.mean(task, "train")
        for task, part in zip(run.tasks, run.parts, strict=True)
    )
    scoring = 0.003 * (2 * held_out + known.validation_tokens(names))
    seconds = found["seconds"]
    assert seconds["loading"] == 11.0
    assert seconds["multi"] == pytest.approx(3 * (23 * 2.0 + scoring), abs=0.1)
    # the weighted steps have a pass for each of the two tasks
    grid = len(run.grid)
    assert seconds["tuned"] == pytest.approx(3 * grid * (23 * 3.0 + scoring), abs=0.1)
    later = 23 - run.iat.switch_step(23)
    chosen = sum(known.importance(task, run.iat) for task in run.tasks)
    assert seconds["iat"] == pytest.approx(3 * (later * 2.0 + scoring + chosen), abs=0.1)
    frozen = 3 * (23 * (0.5 + 0.003 * 100) + scoring)
    assert seconds["frozen"] == pytest.approx(frozen, abs=0.1)
    alone = sum(run.steps_of_tasks) * 2.0 * 3
    assert alone < seconds["single"] < alone + 3 * scoring + 1
    lesions = run.lesions
    measured = known.importances(lesions) + known.lesions(lesions, known.work(lesions))
    assert seconds["D-scores"] == pytest.approx(3 * 2 * measured, abs=0.1)
    assert found["trainings"] == 3 * (2 + 1 + 1 + grid + 1)
    assert found["total_seconds"] == pytest.approx(sum(seconds.values()), abs=0.1)
    weights = known.weights
    assert found["disk_meanwhile_bytes"] - found["disk_bytes"] == 3 * weights
    exchanged = estimate_for(known, "compare", override(study, "compare.controls=20"))
    assert exchanged["seconds"]["D-scores"] > 1.5 * seconds["D-scores"]


def test_a_transfer_takes_two_trainings_and_every_fine_tuning(known, study):
    found = estimate_for(known, "transfer")
    more = estimate_for(known, "transfer", override(study, "transfer.steps=22"))
    assert found["trainings"] == 2 * (2 + 3 * 2)
    # eleven steps more for each start and fraction and seed, of a batch of 7 examples
    each = (more["seconds"]["fine-tuning"] - found["seconds"]["fine-tuning"]) / (11 * 12)
    assert 1.0 + 0.01 * 7 * 4 < each < 1.0 + 0.01 * 7 * 31 + 0.5
    pair = estimate_for(known, "compare", override(study, 'compare.methods=["multi", "iat"]'))
    trainings = pair["seconds"]["multi"] + pair["seconds"]["iat"]
    assert found["seconds"]["training"] == pytest.approx(2 / 3 * trainings, abs=0.1)


def test_a_sweep_is_measured_once_for_each_model(path, tmp_path, monkeypatch, known):
    measured = Counter()

    def of(study, progress=None, *, alone=None):
        measured[study.model, alone] += 1
        return known

    monkeypatch.setattr(estimate_runs.Forecast, "of", of)
    file = path.parent / "sweep.toml"
    file.write_text(SWEEP.replace("{output}", str(tmp_path / "sweep")))
    (sweep,) = plan_sweeps(file)
    found = estimate_sweep(sweep)
    assert [*measured.values()] == [1]
    assert len(found["runs"]) == found["runs_left"] == 6
    one = known.estimate(power=False).total
    # which heads are drawn depends on the seed, and so a little of what they take
    assert found["left_seconds"] == pytest.approx(6 * one, rel=0.02)
    monkeypatch.setattr(estimate_runs, "states", lambda sweep: _states(sweep, finished=4))
    some = estimate_sweep(sweep)
    assert some["total_seconds"] == found["total_seconds"]
    assert some["left_seconds"] == pytest.approx(2 * one, rel=0.02)
    assert sweep_line([some]).startswith("Estimate: 2 of 6 runs are left: ")
    assert unknown([some]) == ""
    # parts of a sweep have runs of the same names
    lost = {**some, "runs": [{**run, "error": "Gone."} for run in some["runs"]]}
    assert unknown([lost, lost]).startswith("12 of 12 runs cannot be estimated (")
    # other lengths of text are another speed
    file.write_text(file.read_text() + "max_length = [15, 31]\n")
    estimate_sweep(*plan_sweeps(file))
    assert sum(measured.values()) == 1 + 1 + 2


def test_a_run_whose_model_is_not_there_stops_no_plan(path, tmp_path):
    file = path.parent / "models.toml"
    there = str(load_study(path).model)
    axes = f"[axes]\nmodel = {json.dumps([there, 'org/gone'])}\n"
    file.write_text(f'study = "study.toml"\noutput = "{tmp_path / "sweep"}"\n{axes}')
    result = lobes("plan", file, "--json", "--quiet")
    assert result.exit_code == 1
    (record,) = json.loads(result.stdout)
    first, second = record["runs"]
    assert first["error"] is None
    assert record["left_seconds"] == record["total_seconds"] == first["seconds"] > 0
    assert second["seconds"] is None
    assert "gone" in second["error"]
    assert (record["runs_left"], record["runs_unknown"]) == (1, 1)
    said = " ".join(result.stderr.split())
    assert said.startswith("Error: 1 of 2 runs cannot be estimated (")
    assert second["error"] in said


def _states(sweep, finished):
    return [
        {"run": run.name, "values": {}, "state": "finished" if k < finished else "not begun"}
        for k, run in enumerate(sweep.runs)
    ]


def lobes(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_says_what_each_command_takes(path, tmp_path, monkeypatch, known):
    monkeypatch.setattr(Forecast, "of", lambda *_, **__: known)
    result = lobes("plan", path, "--quiet")
    assert result.exit_code == 0, result.stderr
    shown = " ".join(result.stdout.split())
    assert "What `lobes compare` takes: lobes plan --for compare." in shown
    assert "What `lobes transfer` takes: lobes plan --for transfer." in shown
    result = lobes("plan", path, "--for", "transfer", "--quiet")
    assert result.exit_code == 0, result.stderr
    assert "fine-tuning" in result.stdout
    assert "16 trainings over 2 seeds" in result.stdout
    result = lobes("plan", path, "--for", "compare", "--json", "--quiet")
    assert json.loads(result.stdout)["estimate"]["seeds"] == 3
    result = lobes("plan", path, "--for", "compare", "--budget", "1h")
    assert result.exit_code == 1
    assert "leave it out with --for compare" in result.stderr
    plain = write_study(tmp_path / "plain")
    result = lobes("plan", plain, "--for", "transfer")
    assert result.exit_code == 1
    assert "names no task to transfer to" in result.stderr
    file = path.parent / "sweep.toml"
    file.write_text(SWEEP.replace("{output}", str(tmp_path / "sweep")))
    result = lobes("plan", file, "--quiet")
    assert result.exit_code == 0, result.stderr
    assert "6 runs: " in result.stdout
    for useless in (["--for", "compare"], ["--budget", "20m"], ["--write"]):
        result = lobes("plan", file, *useless)
        assert result.exit_code == 1
        assert "leave out --for, --budget and --write" in " ".join(result.stderr.split())
    result = lobes("plan", path, "--part", "one")
    assert result.exit_code == 1
    assert "is a study, not a sweep, and has no [[parts]]" in " ".join(result.stderr.split())
    named = file.with_name("programme.toml")
    parts = [f'[[parts]]\nname = "{name}"\nstudy = "study.toml"\n' for name in ("one", "two")]
    named.write_text("[axes]\nseed = [0, 1]\n" + "".join(parts))
    result = lobes("plan", named, "--part", "two", "--json", "--quiet")
    assert result.exit_code == 0, result.stderr
    assert len(json.loads(result.stdout)) == 1


def test_a_comparison_is_told_of_in_one_line(known, capsys):
    estimate = estimate_for(known, "compare")
    line = plan_line(estimate)
    assert line.startswith("Estimate: ")
    assert line.endswith(f"{estimate['trainings']} trainings over 3 seeds.")
    show_plan({"study": "x", "estimate": estimate, "budget": None})
    assert "D-scores" in capsys.readouterr().out
    show_sweep_plans([])


def test_a_comparison_and_a_sweep_begin_with_their_estimates(tmp_path, monkeypatch):
    path = write_study(tmp_path / "study")
    small = ["training.steps=2", 'compare.methods=["multi"]', "compare.seeds=2"]
    small = [part for setting in small for part in ("--set", setting)]
    first = lobes("compare", path, *small)
    assert first.exit_code == 0, first.stderr
    assert first.stderr.count("Estimate: ") == 1
    assert "2 trainings over 2 seeds" in " ".join(first.stderr.split())
    again = lobes("compare", path, *small)
    assert again.exit_code == 0
    assert "Estimate" not in again.stderr
