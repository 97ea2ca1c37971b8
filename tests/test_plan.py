"""What a study will take, before it runs: counts, costs, budgets, the file that is changed."""

import itertools
import json
import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from lobes.cli import app
from lobes.cli.plans import plan_line, show_plan
from lobes.config.editing import edited
from lobes.config.study import load_study, override
from lobes.discovery import find_heads
from lobes.dissociation.power import power_of, specialization_for, true_d_score
from lobes.dissociation.simulation import HeadStudy
from lobes.errors import ConfigError
from lobes.experiments import rates
from lobes.experiments.budget import fit, seconds_of
from lobes.experiments.estimate import Forecast
from lobes.experiments.rates import Cost, Rates, TrainingRate
from lobes.experiments.run import run_study
from lobes.measure.iap import IapSettings, lesion_matrix
from lobes.measure.work import lesion_work
from lobes.modeling import MultiTaskModel
from lobes.replay import Replay
from tiny_models import tiny_model
from tiny_study import as_before, timeless, write_study  # noqa: F401
from tiny_tasks import mood_task, tiny_tokenizer, topic_task, warmth_task

pytestmark = pytest.mark.usefixtures("as_before")


@pytest.fixture(scope="module")
def study_file(tmp_path_factory) -> Path:
    return write_study(tmp_path_factory.mktemp("plan") / "study")


@pytest.fixture(scope="module")
def forecast(study_file) -> Forecast:
    return Forecast.of(load_study(study_file))


@pytest.fixture
def known(forecast):
    """The forecast of a machine whose speed is known: 2 s a step, 3 ms a token and run, …"""
    training = TrainingRate(Cost(1.0, 0.01), tokens=100.0, longest=200, activations=7, measured=100)
    found = deepcopy(forecast)
    costs = Cost(0.5, 0.003), Cost(0.25, 0.005), Cost(0.1, 0.001)
    found.rates = Rates(*costs, training, {}, 10**9)
    found.loading_seconds = 11.0
    return found


# How many lesions and runs


@pytest.mark.parametrize(
    "settings",
    [
        IapSettings(fractions=(0.3, 0.5), controls=4, random=2),
        IapSettings(fractions=(0.3,), controls=59, random=0, control_examples=11),
        IapSettings(fractions=(0.3,), controls=3, random=1, lesion_tasks=("mood",)),
        IapSettings(fractions=(0.2, 0.4), controls=1, random=1, exact=True, value="mean"),
    ],
)
def test_lesions_are_counted_as_they_are_measured(settings):
    tasks = [mood_task(23, 19), topic_task(29, 17), warmth_task(23, 13)]
    model = MultiTaskModel(tiny_model("bert"), tiny_tokenizer(), tasks, pooling="mean").eval()
    groups: list[str] = []

    def remember(key, compute):
        if key.startswith("predictions"):
            groups.append(key)
        return compute()

    matrix = lesion_matrix(model, tasks, settings, remember=remember)
    work = lesion_work(model, tasks, settings, find_heads(model))
    kinds = [lesion.kind for lesion in matrix.lesions]
    within = matrix.sampled.matrix if matrix.sampled else matrix
    exchanged = sum(lesion.kind == "exchanged" for lesion in within.lesions)
    random = sum(lesion.kind == "random" for lesion in within.lesions)
    assert (work.own, work.random, work.exchanged) == (kinds.count("task"), random, exchanged)
    assert work.between_pairs == sum(
        2 * len(effects.replicates) for effects in matrix.exchanged_pairs.values()
    )
    # those with the same heads are run once, which depends on the importance
    assert abs(sum(runs.groups for runs in work.runs) - len(groups)) <= len(work.runs)


@pytest.mark.parametrize(("controls", "stops", "own"), [(97, True, 39), (97, False, 97)])
def test_lesions_of_a_study_that_may_stop(controls, stops, own):
    tasks = [mood_task(31, 23), topic_task(29, 19), warmth_task(23, 13)]
    model = MultiTaskModel(tiny_model("bert"), tiny_tokenizer(), tasks, pooling="mean").eval()
    settings = IapSettings(fractions=(0.2, 0.4), controls=controls, random=0)
    work = lesion_work(model, tasks, settings, find_heads(model), stops=stops)
    assert (work.exchanged, work.between_pairs) == (own * 6, 3 * 97 * 2)
    every = lesion_work(model, tasks, replace(settings, stop=False), find_heads(model))
    assert every.exchanged == 97 * 6
    assert sum(runs.passes for runs in work.runs) <= sum(runs.passes for runs in every.runs)


def test_many_exchanges_are_counted_by_some_of_them():
    tasks = [mood_task(31, 23), topic_task(29, 19)]
    model = MultiTaskModel(tiny_model("bert"), tiny_tokenizer(), tasks, pooling="mean").eval()
    settings = IapSettings(fractions=(0.3,), controls=9973, stop=False)
    work = lesion_work(model, tasks, settings, find_heads(model))
    assert (work.own, work.random, work.exchanged) == (2, 10, 2 * 9973)


# How long


def test_a_cost_meets_what_was_measured():
    cost = Cost.through((10.0, 2.0), (110.0, 7.0))
    assert cost == Cost(1.5, 0.05)
    assert cost(110.0) == 7.0
    assert cost(220.0, 2) == 14.0
    # what noise makes of it is bounded by both measurements
    assert Cost.through((10.0, 3.0), (110.0, 2.0)) == Cost(2.0, 0.0)
    assert Cost.through((10.0, 0.1), (110.0, 7.0)) == Cost(0.0, 7.0 / 110)
    assert Cost.through((10.0, 3.0), (10.0, 3.0)) == Cost(0.0, 0.3)


def test_the_time_of_a_study_is_that_of_what_it_runs(known):
    study = known.loaded.study
    found = known.estimate(power=False)
    tokens = {
        (task.name, split): known.loaded.model.encode(task.name, getattr(task, split)).lengths
        for task in known.tasks
        for split in ("train", "validation")
    }
    validation = sum(tokens[task.name, "validation"].sum() for task in known.tasks)
    assert found.seconds["loading"] == 11.0
    # evaluated four times, after every sixth of 23 steps and at the end; five checkpoints
    weights = sum(each.numel() * 4 for each in known.loaded.model.parameters())
    assert found.seconds["training"] == pytest.approx(
        23 * 2.0 + 4 * 0.003 * validation + 5 * (0.05 + 3 * weights / 5e8)
    )
    trained = sum(41 * tokens[task.name, "train"].mean() for task in known.tasks)
    assert found.seconds["importance"] == pytest.approx(2 * 0.25 + 0.005 * trained)
    (runs,) = found.work.runs
    assert found.seconds["lesions"] == pytest.approx(
        runs.groups * 0.5 + 0.003 * runs.passes * validation
    )
    assert 0.3 * runs.sets < runs.passes <= runs.sets  # each goes on where it differs
    some = sum(20 * tokens[task.name, "train"].mean() for task in known.tasks)
    heads = known.layout.total
    assert found.seconds["agreement"] == pytest.approx(
        2 * 0.1 + 0.001 * (heads + 1) * some + 6 * 0.25 + 0.005 * 3 * some
    )
    assert found.total == sum(found.seconds.values())
    more = known.estimate(override(study, "iap.controls=6", "training.steps=46"), power=False)
    assert more.work.exchanged == 2 * found.work.exchanged
    assert more.seconds["training"] > 2 * 23 * 2.0


@pytest.mark.parametrize(
    ("settings", "passes"),
    [
        (["iap.method=integrated_gradients", "iap.importance_steps=7"], 7),
        (["iap.method=gates"], 2 * 4 * 30 * 32 / 41),
        (["iap.exact=true"], 2),
    ],
)
def test_importance_takes_as_many_passes_as_its_method(known, settings, passes):
    known.rates = replace(known.rates, importance=Cost(0.0, 0.005), lesion=Cost(0.0, 0.0))
    study = known.loaded.study
    usual = known.estimate(study, power=False).seconds["importance"]
    found = known.estimate(override(study, *settings), power=False).seconds["importance"]
    assert found == pytest.approx(passes * usual)


def test_what_comes_before_the_first_lesion_is_no_part_of_what_a_token_takes(
    study_file, monkeypatch
):
    """A trial of seconds, as that of a deep model: it once made every lesion look as slow."""

    def slow(replay, run):
        time.sleep(1.0)
        return False

    monkeypatch.setattr(Replay, "holds", slow)
    monkeypatch.setattr(rates, "_LONG", 0.5)
    found = Forecast.of(load_study(study_file))
    assert found.rates.trial > 0.8
    assert not found.rates.shares
    # the base and two lesions of two examples of up to 10 tokens take no second
    assert found.rates.lesion(2 * 10 * 3, 1) < 0.8
    estimate = found.estimate(power=False)
    assert estimate.seconds["lesions"] > found.rates.trial


def test_iat_growth_and_single_ablations_take_their_time(known):
    study = known.loaded.study
    usual = known.estimate(study, power=False).seconds
    found = known.estimate(
        override(study, "iat.delta=0.5", "iat.importance_examples=41", "growth.checkpoints=3"),
        power=False,
    ).seconds
    assert found["training"] - usual["training"] == pytest.approx(usual["importance"])
    # step 0 and two on the way, each with the importance of the two tasks
    assert found["growth"] > 3 * usual["importance"]
    single = known.estimate(override(study, "iap.method=ablation"), power=False).seconds
    assert "agreement" not in single
    assert single["importance"] > usual["importance"]


def test_what_is_measured_leaves_model_and_randomness_as_they_are(study_file, monkeypatch):
    torch.manual_seed(7)
    np.random.seed(7)
    before = torch.rand(3), np.random.rand(3)
    torch.manual_seed(7)
    np.random.seed(7)
    forecast = Forecast.of(load_study(study_file))
    assert torch.equal(before[0], torch.rand(3))
    np.testing.assert_array_equal(before[1], np.random.rand(3))
    again = Forecast.of(load_study(study_file)).loaded.model.state_dict()
    for name, weight in forecast.loaded.model.state_dict().items():
        assert torch.equal(weight, again[name])
    assert not (Path("unused")).exists()


def test_a_run_that_was_estimated_ends_with_the_same_numbers(study_file, tmp_path):
    results = []
    for name, tell in (("told", lambda loaded: Forecast(loaded).estimate()), ("plain", None)):
        study = override(load_study(study_file), f"output={tmp_path / name}", "training.steps=3")
        results.append(timeless(run_study(study, tell=tell).to_dict()))
    assert results[0] == results[1]


# Memory, disk


def test_memory_and_disk(known):
    found = known.estimate(power=False)
    weights = sum(each.numel() * 4 for each in known.loaded.model.parameters())
    # without the copy that was trained, with the activations of the largest batch
    assert found.memory == 10**9 - weights + 7
    assert weights < found.disk < weights + 10**6
    # checkpoints with the optimizer's state: two are kept and one is written
    assert found.disk_meanwhile == weights + max(3 * 3 * weights + weights, found.disk - weights)
    untrained = override(known.loaded.study, "training.enabled=false")
    known.rates = replace(known.rates, training=None)
    found = known.estimate(untrained, power=False)
    assert found.memory == 10**9
    assert found.disk == found.disk_meanwhile < 10**6
    assert "training" not in found.seconds


# Power


def test_power_rises_with_the_d_score_and_with_the_examples():
    small, large = (
        power_of(HeadStudy(examples=examples, heads=72, replicates=19), (5.0, 10.0, 20.0))
        for examples in (100, 1000)
    )
    assert [each.d_score for each in small] == [5, 10, 20]
    for found in (small, large):
        for lower, higher in itertools.pairwise(found):
            assert lower.least <= lower.most
            assert lower.least <= higher.least + 0.05
    assert large[0].least > small[0].most
    assert large[-1].least == 1


def test_power_is_that_of_the_tables_on_statistics():
    # docs/statistics.md: 2 tasks, 500 examples, 99 exchanges: 0.580 at +4.1 %, threshold damage
    study = HeadStudy(damage="threshold", specialization=0.2)
    assert true_d_score(study) == pytest.approx(4.1, abs=0.3)
    assert specialization_for(study, 4.1) == pytest.approx(0.2, abs=0.02)
    (found,) = power_of(study, (4.1,))
    assert found.least == pytest.approx(0.58, abs=0.15)


def test_power_is_0_where_no_p_can_be_small():
    for found in power_of(HeadStudy(replicates=18), (5.0, 20.0)):
        assert (found.least, found.most) == (0, 0)
    (found,) = power_of(HeadStudy(replicates=19), (99.0,))
    assert np.isnan(found.least)  # there is no such D-score


# Budgets


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), (" 20 m", 1200), ("1.5h", 5400)])
def test_a_budget_is_a_time(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["20", "", "0m", "-3m", "2 days", "1e9h", "m"])
def test_other_budgets_are_refused(text):
    with pytest.raises(ConfigError, match="expected a time such as 90s, 20m or"):
        seconds_of(text)


def test_a_study_that_fits_stays_as_it_is(known):
    found = fit(known, known.estimate(power=False).total)
    assert found.fits
    assert found.changes == {}


def test_what_decides_least_goes_first_and_no_further_than_needed(known):
    known.loaded = replace(
        known.loaded, study=override(known.loaded.study, "iap.controls=200", "iap.random=20")
    )
    known.rates = replace(known.rates, lesion=Cost(0.0, 0.1))
    total = known.estimate(power=False).total
    found = fit(known, 0.95 * total)
    assert list(found.changes) == ["iap.random"]
    assert 10 < found.changes["iap.random"] < 20
    assert 0.85 * total < found.estimate.total <= 0.95 * total


def test_a_study_that_cannot_fit_is_as_short_as_can_be(known):
    longer = override(known.loaded.study, "iap.controls=23")
    known.loaded = replace(known.loaded, study=longer)
    found = fit(known, 1.0)
    assert not found.fits
    assert found.changes == {"iap.random": 1, "iap.controls": 19, "training.steps": 6}
    assert [*found.changes] == ["iap.random", "iap.controls", "training.steps"]
    assert known.estimate(power=False).total > found.estimate.total


# The file


def test_a_file_keeps_its_comments_and_its_other_keys():
    text = (
        'model = "m"  # controls = 7\n[training]\nepochs = 3  # three\n'
        "[iap]  # lesions\r\n  controls=100 # many\nfractions = [0.3]\n[[tasks]]\ncontrols = 5\n"
    )
    found = edited(text, {"iap.controls": 39, "training.steps": 211, "iap.random": 1}, "x.toml")
    assert found == (
        'model = "m"  # controls = 7\n[training]\nsteps = 211\r\n'
        "[iap]  # lesions\r\nrandom = 1\r\n  controls=39 # many\nfractions = [0.3]\n"
        "[[tasks]]\ncontrols = 5\n"
    )


def test_a_table_that_is_missing_is_added():
    assert edited('model = "m"', {"iap.controls": 39}, "x.toml") == (
        'model = "m"\n\n[iap]\ncontrols = 39\n'
    )


@pytest.mark.parametrize(
    "text",
    [
        "iap = {controls = 100}\n",
        "iap.controls = 100\n",
        '[iap]\nnote = """\ncontrols = 3\n"""\ncontrols = 100\n',
    ],
)
def test_a_file_that_cannot_be_changed_safely_is_left(text):
    with pytest.raises(ConfigError, match="run it with --set"):
        edited(text, {"iap.controls": 39}, "x.toml")


# The command


def lobes(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_plan_tells_and_writes_nothing_but_what_it_is_asked_for(tmp_path):
    path = write_study(tmp_path / "study")
    before = {file: file.read_bytes() for file in path.parent.rglob("*") if file.is_file()}
    result = lobes("plan", path, "--json", "--quiet", "--set", "iap.controls=19")
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert record["budget"] is None
    estimate = record["estimate"]
    assert [*estimate["seconds"]] == [
        *("loading", "training", "importance", "lesions", "agreement", "similarity")
    ]
    assert estimate["lesions"]["exchanged"] == 19 * 2 * 2
    assert [each["d_score"] for each in estimate["power"]] == [5, 10, 20]
    after = {file: file.read_bytes() for file in path.parent.rglob("*") if file.is_file()}
    assert after == before
    result = lobes("plan", path, "--budget", "1s", "--write", "--quiet")
    assert result.exit_code == 0, result.stderr
    assert "Power (p ≤ 0.05)" in result.stdout
    changes = set(path.read_text().splitlines()) - set(before[path].decode().splitlines())
    assert "random = 1" in changes
    assert "--set iap.random=1" in result.stdout.replace("\n", " ")
    assert f"Changed: {path}" in result.stderr
    assert load_study(path).iap.random == 1


def test_a_plan_says_what_a_study_takes_that_stops_and_one_that_goes_on(known, capsys):
    study = override(known.loaded.study, "iap.controls=79")
    found = known.estimate(study)
    whole = known.estimate(override(study, "iap.stop=false"), power=False)
    few = known.estimate(override(study, "iap.controls=39"), power=False)
    assert (found.total, whole.total) == pytest.approx((few.total, few.total + found.going_on))
    assert (whole.going_on, few.going_on, found.exchanged) == (0, 0, whole.work.exchanged)
    show_plan({"study": "x", "estimate": found.to_dict(), "budget": None})
    shown = " ".join(capsys.readouterr().out.split())
    more = whole.work.exchanged - few.work.exchanged
    assert "It stops after 39 exchanges where these settle p. If it goes on, as up to" in shown
    assert f"it takes {more:,} lesions and " in shown


def test_write_needs_a_budget(study_file):
    result = lobes("plan", study_file, "--write")
    assert result.exit_code == 1
    assert "give it with --budget 20m" in result.stderr


def test_a_plan_is_shown_with_and_without_a_budget(known, capsys):
    estimate = known.estimate().to_dict()
    show_plan({"study": "x", "estimate": estimate, "budget": None})
    shown = capsys.readouterr().out
    assert "in all" in shown
    assert "Lesions: 36 (4 of the tasks, 12 exchanged, 20 random)" in shown
    assert "Power (p ≤ 0.05) with 47 examples of each task: 0 % for a D-score of 5 %" in shown
    few = "3 exchanges allow no p ≤ 0.05: set 19 or more (iap.controls)."
    assert few in " ".join(shown.split())
    for tasks, said in ((2, 0), (3, 1), (4, 1), (5, 0)):
        show_plan({"study": "x", "estimate": {**estimate, "tasks": tasks}, "budget": None})
        line = f"{tasks} tasks are too few to show that the less alike two tasks are"
        assert " ".join(capsys.readouterr().out.split()).count(line) == said
    budget = {"seconds": 1e6, "fits": True, "changes": {}, "options": [], "estimate": estimate}
    show_plan({"study": "x", "estimate": estimate, "budget": budget})
    assert "The study fits as it is." in capsys.readouterr().out
    assert plan_line(estimate).startswith("Estimate: ")


def test_a_run_begins_with_its_estimate_and_goes_on_without(tmp_path):
    path = write_study(tmp_path / "study")
    small = ["training.steps=2", "iap.controls=1", "iap.random=0", "iap.fractions=[0.2]"]
    small += ["iap.agreement_examples=0", "iap.similarity_examples=0"]
    small = [part for setting in small for part in ("--set", setting)]
    first = lobes("run", path, *small)
    assert first.exit_code == 0, first.stderr
    assert first.stderr.count("Estimate: ") == 1
    assert first.stderr.index("Estimate: ") < first.stderr.index("training: ")
    again = lobes("run", path, *small)
    assert again.exit_code == 0
    assert "Estimate" not in again.stderr
