"""Several ways to train, compared: what each does, and that nothing of it can be lost."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lobes.config.study import load_study, override
from lobes.dissociation.verdicts_over_seeds import SPECIALIZED_BY_IAT, better
from lobes.errors import ConfigError, DataError, RunError
from lobes.experiments import compare as compare_module
from lobes.experiments.methods import SeedRun, with_defaults
from lobes.experiments.probe import pooled_features, probe
from lobes.experiments.store import RunFolder
from lobes.measure.evaluation import evaluate
from lobes.modeling import MultiTaskModel
from plain_results import compare_study, read_comparison
from tiny_study import write_study
from tiny_tasks import mood_task, warmth_task

SMALL = (
    "training.steps=11",
    "training.learning_rate=1e-3",
    "compare.seeds=2",
    "compare.evaluations=3",
    "compare.held_out=0.2",
    "compare.controls=3",
    "iat.delta=0.5",
    "iap.fractions=[0.2, 0.5]",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study's file, after its comparison has gone to the end in the folder `run` beside it."""
    path = write_study(tmp_path_factory.mktemp("study"))
    compare_study(load_study(path, SMALL))
    return path


@pytest.fixture
def study(finished, tmp_path):
    """The same study, its comparison still to be made."""
    return override(load_study(finished, SMALL), f"output={tmp_path / 'run'}")


@pytest.fixture
def copied(finished, study):
    """The same study, with a copy of its finished comparison."""
    shutil.copytree(finished.parent / "run", study.output)
    return study


@pytest.fixture(scope="module")
def expected(finished):
    return timeless(read_comparison(finished.parent / "run"))


def timeless(comparison):
    """Without what two runs of the same comparison may differ in: times and places."""
    copy = json.loads(json.dumps(comparison))
    for key in ("created", "times", "seconds"):
        del copy[key]
    if copy["iat"]:
        del copy["iat"]["seconds"]
    for method in copy["summary"]["methods"].values():
        del method["seconds"]
    del copy["config"]["output"]
    return copy


# The trainings of one seed


@pytest.fixture
def seed_run(finished, tmp_path):
    """A `SeedRun` of two tasks, of which one has scores that nearly every step changes."""

    def _seed_run(seed, *settings):
        study = with_defaults(
            load_study(
                finished,
                [
                    "training.learning_rate=1e-3",
                    "compare.held_out=0.3",
                    "compare.evaluations=7",
                    "iat.delta=0.5",
                    *settings,
                ],
            )
        )
        return SeedRun(study, seed, [warmth_task(), mood_task()], tmp_path / "checkpoints")

    return _seed_run


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize(("seed", "iat_is_best_after_the_switch"), [(0, False), (4, True)])
def test_a_pair_is_what_two_trainings_are(seed_run, tmp_path, seed, iat_is_best_after_the_switch):
    """To the bit: the weights that were selected, their step, their scores, the heads."""
    run = seed_run(seed)
    switch = run.iat.switch_step(run.steps)
    pair = run.pair()
    assert list(tmp_path.rglob("checkpoint-*")) == []
    for one, other in zip(pair, (run.train("multi"), run.train("iat")), strict=True):
        assert same(weights(one.model), weights(other.model))
        assert one.step == other.step
        np.testing.assert_array_equal(one.held_out, other.held_out)
        assert (one.iat or {}).get("heads") == (other.iat or {}).get("heads")
    multi, iat = pair
    assert (iat.step > switch) == iat_is_best_after_the_switch
    assert same(weights(multi.model), weights(iat.model)) != iat_is_best_after_the_switch
    assert multi.iat is None
    assert iat.iat["switch_step"] == switch == 12


def test_iat_from_the_first_step_on(seed_run):
    run = seed_run(4, "iat.delta=1.0")
    multi, iat = run.pair()
    assert iat.iat["switch_step"] == 0
    assert not same(weights(multi.model), weights(iat.model))


def test_a_pair_ends_with_the_same_last_weights(seed_run, monkeypatch):
    """Also where the best weights are older: what is trained after the switch is IAT's."""
    from lobes.training.selection import Best

    run = seed_run(0)
    monkeypatch.setattr(Best, "load", lambda *_: None)
    multi, iat = run.pair()
    assert same(weights(iat.model), weights(run.train("iat").model))
    assert not same(weights(iat.model), weights(multi.model))


def test_the_best_weights_score_what_is_said(seed_run):
    run = seed_run(4)
    for trained in run.pair():
        again = evaluate(trained.model, run.parts).scores()[0]
        np.testing.assert_allclose(trained.held_out, again)


@pytest.mark.parametrize(
    ("sampling", "length"),
    [
        ("proportional", "training.steps=23"),
        ("uniform", "training.steps=5"),
        ("annealed", "training.epochs=2.4"),
        ("round_robin", "training.epochs=1.0"),
    ],
)
def test_single_task_trainings_cost_what_one_of_all_tasks_costs(seed_run, sampling, length):
    key, value = length.split("=")
    run = seed_run(2, "training.steps=", f"{key}={value}", f"training.sampling={sampling}")
    trainer = run.trainer(run.new_model(), run.parts)
    seen = []
    trainer._on_step = lambda step, total, task, loss: seen.append(task)
    trainer.train()
    assert len(seen) == run.steps == trainer.total_steps
    assert run.steps_of_tasks == (seen.count("warmth"), seen.count("mood"))
    single = run.trainer(run.new_model(run.parts[:1]), run.parts[:1], steps=run.steps_of_tasks[0])
    assert single.total_steps == seen.count("warmth")


def test_a_single_task_begins_with_the_weights_of_all_tasks(seed_run):
    run = seed_run(3)
    alone = weights(run.new_model(run.parts[1:]))
    together = weights(run.new_model())
    assert set(alone) < set(together)
    assert same(alone, together)


def test_a_frozen_encoder_is_frozen(seed_run):
    run = seed_run(1)
    trained = run.train("frozen")
    before = weights(run.new_model())
    moved = {
        name
        for name, value in weights(trained.model).items()
        if not torch.equal(value, before[name])
    }
    assert moved == {
        f"classifiers.{task}.{part}" for task in ("warmth", "mood") for part in ("weight", "bias")
    }


def test_seeds_differ_in_everything_but_the_reported_data(seed_run):
    first, second = seed_run(0), seed_run(1)
    assert first.parts[0].validation.texts != second.parts[0].validation.texts
    assert not same(weights(first.new_model()), weights(second.new_model()))
    for run in (first, second):
        for task, learnable in zip(run.tasks, run.learnable, strict=True):
            assert learnable.validation.texts == task.validation.texts
            assert not set(learnable.train.texts) & set(
                run.parts[run.tasks.index(task)].validation.texts
            )


# The whole comparison


def test_what_a_comparison_holds(finished, expected):
    folder = finished.parent / "run"
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        "comparison.html",
        "comparison.json",
        "config.json",
        "files.json",
        "measurements",
    ]
    methods = ["single", "multi", "iat", "frozen", "probe"]
    assert expected["methods"] == list(expected["scores"]) == methods
    assert expected["seeds"] == [0, 1]
    assert [task["n_train"] + task["n_held_out"] for task in expected["tasks"]] == [101, 97]
    for name in ("scores", "held_out"):
        for method in methods:
            assert np.shape(expected[name][method]) == (2, 2)
    assert np.shape(expected["selected"]["single"]) == (2, 2)
    for method in ("multi", "iat", "frozen"):
        assert {0 < step <= 11 for step in expected["selected"][method]} == {True}
    assert expected["selected"]["probe"] is None
    assert (expected["iat"]["switch_step"], expected["iat"]["steps"]) == (6, 5)
    assert [set(heads) for heads in expected["iat"]["heads"]] == [{"mood", "topic"}] * 2
    assert expected["training"]["steps"] == 11
    assert len(expected["d_scores"]) == 6
    assert [row["definition"] for row in expected["d_scores"]] == ["column", "row", "relative"] * 2
    assert np.shape(expected["d_scores"][5]["iat"]) == (2, 2)
    claims = [verdict["claim"] for verdict in expected["verdicts"]]
    assert claims == [better("iat", "multi"), SPECIALIZED_BY_IAT]
    means = np.mean(expected["scores"]["single"], axis=1)
    np.testing.assert_allclose(expected["summary"]["methods"]["single"]["seeds"], means)
    assert expected["config"]["compare"]["seeds"] == 2
    seconds = read_comparison(folder)["seconds"]
    assert all(value > 0 for values in seconds.values() for value in values)


def test_the_reported_scores_are_those_of_the_selected_models(finished, expected):
    """Measured again, method by method, for one seed."""
    study = with_defaults(load_study(finished, SMALL))
    tasks = compare_module.load_tasks(study)
    run = SeedRun(study, 1, tasks, finished.parent / "unused")
    multi, iat = run.pair()
    for method, trained in (("multi", multi), ("iat", iat), ("frozen", run.train("frozen"))):
        scores = evaluate(trained.model, tasks).scores()[0]
        np.testing.assert_array_equal(expected["scores"][method][1], scores)
        assert expected["selected"][method][1] == trained.step
    single = run.train("single", number=1)
    assert expected["scores"]["single"][1][1] == evaluate(single.model, tasks[1:]).scores()[0, 0]
    assert expected["iat"]["heads"][1] == iat.iat["heads"]
    model = MultiTaskModel.from_pretrained(study.model, tasks, seed=1, max_length=31)
    features = {
        name: pooled_features(model, given, split, "fp32")["mood"]
        for name, given, split in (
            ("train", run.parts, "train"),
            ("held_out", run.parts, "validation"),
            ("validation", tasks, "validation"),
        )
    }
    found = probe(run.parts[0], features, tasks[0].validation.labels, run.compare.penalties)
    assert found[1:] == (expected["held_out"]["probe"][1][0], expected["scores"]["probe"][1][0])


def test_d_scores_are_those_of_the_lesion_matrix(finished, expected):
    from lobes.measure.iap import lesion_matrix

    study = with_defaults(load_study(finished, SMALL))
    run = SeedRun(study, 0, compare_module.load_tasks(study), finished.parent / "unused")
    for method, trained in zip(("multi", "iat"), run.pair(), strict=True):
        matrix = lesion_matrix(
            trained.model, run.learnable, fractions=[0.2, 0.5], controls=0, importance_examples=41
        )
        for row in expected["d_scores"]:
            found = getattr(matrix.dissociation(row["fraction"], resamples=7), row["definition"])
            np.testing.assert_allclose(row[method][0], found.values)
        exchanged = lesion_matrix(
            trained.model,
            run.learnable,
            fractions=[0.5],
            controls=3,
            control_examples=200,
            importance_examples=41,
        ).dissociation(resamples=7)
        known = expected["exchanged"]
        assert (known["fraction"], known["n_controls"]) == (0.5, 3)
        distance = exchanged.column.mean_standardized
        assert known[method][0] == (None if np.isnan(distance) else pytest.approx(distance))


@pytest.mark.slow
def test_an_interruption_anywhere_changes_no_number(study, expected):
    """Stop one seed's comparison at the first and then at later calls of `progress`."""

    class Stop(KeyboardInterrupt):
        pass

    seen = set()

    def progress(stage, done, total):
        point = (stage, 6 * done // total)
        if point not in seen:
            seen.add(point)
            raise Stop

    one = override(study, "compare.seeds=1")
    for stops in range(30):  # noqa: B007 - how often it was stopped
        try:
            results = compare_study(one, progress=progress)
            break
        except Stop:
            continue
    assert stops > 8
    for name in ("scores", "held_out", "selected"):
        assert {m: v and v[:1] for m, v in expected[name].items()} == results[name]
    for row, whole in zip(results["d_scores"], expected["d_scores"], strict=True):
        assert (row["multi"], row["iat"]) == (whole["multi"][:1], whole["iat"][:1])
    assert results["iat"]["heads"] == expected["iat"]["heads"][:1]
    assert not Path(study.output, "checkpoints").exists()


def test_nothing_is_done_twice_and_more_can_be_added(copied, expected, monkeypatch):
    made = []
    for name in ("train", "pair"):
        original = getattr(SeedRun, name)

        def counted(self, *rest, original=original, name=name, **options):
            made.append((rest[0] if name == "train" else name, self.study.seed))
            return original(self, *rest, **options)

        monkeypatch.setattr(SeedRun, name, counted)
    os.remove(Path(copied.output, "comparison.html"))
    assert timeless(compare_study(copied)) == expected
    assert Path(copied.output, "comparison.html").exists()
    assert made == []
    asked = override(copied, "compare.seeds=3", 'compare.methods=["frozen", "single"]')
    folder = RunFolder(copied.output, with_defaults(asked).to_dict(), command="compare")
    assert not folder.is_finished("comparison.json", "comparison.html")
    more = compare_study(asked)
    assert folder.is_finished("comparison.json", "comparison.html")
    assert more["methods"] == ["single", "frozen"]
    assert made == [("single", 2), ("single", 2), ("frozen", 2)]
    assert (more["iat"], more["d_scores"]) == (None, [])
    assert more["scores"]["single"][:2] == expected["scores"]["single"]


@pytest.mark.parametrize("method", ["multi", "iat"])
def test_one_multi_task_method_and_one_seed(study, expected, method):
    alone = compare_study(override(study, f'compare.methods=["{method}"]', "compare.seeds=1"))
    assert alone["methods"] == [method]
    assert alone["scores"][method] == expected["scores"][method][:1]
    assert alone["d_scores"] == []
    estimate = alone["summary"]["methods"][method]["mean"]
    assert (estimate["low"], estimate["high"]) == (None, None)


def test_what_is_damaged_is_made_again(copied, expected):
    for path in Path(copied.output, "measurements").glob("multi-iat-seed-1-*"):
        path.write_bytes(path.read_bytes()[:99])
    Path(copied.output, "comparison.json").write_text("{")
    assert timeless(compare_study(copied)) == expected


def test_iat_with_its_defaults_where_the_study_has_none(finished, tmp_path):
    plain = load_study(finished, [*SMALL[:2], f"output={tmp_path / 'run'}"])
    assert plain.iat is None
    resolved = with_defaults(plain)
    assert (resolved.iat.alpha, resolved.iat.delta, resolved.compare.seeds) == (0.3, 0.1, 5)


@pytest.mark.slow
def test_methods_that_weigh_the_tasks(study, expected):
    """Each is the training that is said; "tuned" is the best of its grid on held-out data."""
    pytest.importorskip("torchjd")
    methods = ["multi", "pcgrad", "uncertainty", "tuned"]
    one = override(study, f"compare.methods={json.dumps(methods)}", "compare.seeds=1")
    found = compare_study(one)
    assert set(found["methods"]) == set(methods)
    run = SeedRun(with_defaults(one), 0, compare_module.load_tasks(one), Path(one.output, "no"))
    assert run.grid == ((1, 1), (0.5, 1.5), (1.5, 0.5))
    pcgrad = run.train("pcgrad")
    assert found["scores"]["pcgrad"] == [run.scores(pcgrad.model, run.tasks).tolist()]
    np.testing.assert_array_equal(found["weights"]["pcgrad"], [pcgrad.weights])
    assert found["scores"]["multi"] == expected["scores"]["multi"][:1]
    grid = [run.train("tuned", weights=weights) for weights in run.grid]
    best = max(grid, key=lambda trained: trained.held_out.mean())
    assert found["held_out"]["tuned"] == [best.held_out.tolist()]
    np.testing.assert_allclose(found["weights"]["tuned"], [best.weights])
    pairs = [(each["first"], each["second"]) for each in found["summary"]["differences"]]
    assert ("pcgrad", "multi") in pairs
    assert ("pcgrad", "tuned") in pairs


# What cannot be


@pytest.mark.parametrize(
    ("settings", "error", "sentence"),
    [
        (
            ["iat.delta=0"],
            ConfigError,
            "iat.delta is 0, so that IAT would be ordinary training; expected a share of the steps "
            "above 0.",
        ),
        (
            ["training.enabled=false"],
            ConfigError,
            "training.enabled is false, so there are no trainings to compare; expected true.",
        ),
        (
            ['compare.methods=["tuned"]', f"compare.weights={list(range(1, 13))}"],
            ConfigError,
            'compare.weights has 12 values, which for 2 tasks makes 144 combinations for "tuned" '
            "to train with; expected at most 128: give fewer values, or leave the method out.",
        ),
        (
            ['compare.methods=["sum"]', "training.batch_size=1"],
            ConfigError,
            None,
        ),
        (
            ["compare=", f"seed={2**32 - 1}"],
            ConfigError,
            "seed is 4294967295 and compare.seeds is 5; expected a last seed of at most "
            "4,294,967,295.",
        ),
        (["iat.delta=0.05"], ConfigError, None),
        (["iap.fractions=[0.05]"], ConfigError, None),
        (
            ["tasks.mood.train_size=3", "seed=1"],
            DataError,
            "Task 'mood': 3 training examples are too few to hold out 20 % of them for choosing a "
            "checkpoint: 2 or more different texts of 2 or more classes are needed.",
        ),
    ],
)
def test_what_cannot_start_leaves_nothing(study, settings, error, sentence):
    with pytest.raises(error) as caught:
        compare_study(override(study, *settings))
    assert "\n" not in str(caught.value)
    assert sentence is None or str(caught.value) == sentence
    assert not os.path.exists(study.output)


def test_one_task_is_too_few(study):
    alone = study.model_copy(update={"tasks": study.tasks[:1], "iat": None})
    with pytest.raises(ConfigError) as caught:
        compare_study(alone)
    assert str(caught.value) == (
        "The study has one task, 'mood'; multi-task training needs two or more: add a [[tasks]] "
        "table."
    )


def test_a_model_that_is_trained_already(study, tmp_path):
    MultiTaskModel.from_pretrained(study.model, [mood_task()]).save_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError) as caught:
        compare_study(override(study, f"model={tmp_path / 'model'}"))
    assert str(caught.value) == (
        f"The model {tmp_path / 'model'} is trained on tasks already; expected a pre-trained "
        f"encoder to begin with. For the encoder of that model write model = "
        f'"{tmp_path / "model" / "encoder"}".'
    )
    assert not os.path.exists(study.output)


def test_another_comparison_is_refused(copied):
    with pytest.raises(RunError, match=r"another study: compare\.held_out differs"):
        compare_study(override(copied, "compare.held_out=0.3"))
    changed = compare_study(
        override(copied, "training.steps=5", 'compare.methods=["multi"]'), fresh=True
    )
    assert changed["training"]["steps"] == 5


def test_a_comparison_and_a_run_have_folders_of_their_own(copied):
    from lobes.experiments.run import run_study

    with pytest.raises(RunError) as caught:
        run_study(copied)
    assert str(caught.value) == (
        f"{copied.output} holds what `lobes compare` made; choose another output, or start again "
        f"with --fresh."
    )
