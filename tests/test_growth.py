"""What a run measures beside its lesions: growth, agreement with exact importance, similarity."""

import json
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from lobes.ablation import ablate
from lobes.config.study import load_study, override
from lobes.dissociation.dscores import FORMULAS
from lobes.dissociation.similarity import importance_correlation, linear_cka
from lobes.dissociation.verdict import MORE_SPECIALIZED, more_specialized
from lobes.errors import ConfigError
from lobes.experiments import growth, pooled_runs
from lobes.experiments.growth import _lesion_plan, _point, growth_steps
from lobes.experiments.loading import Loaded, load_tasks, new_model
from lobes.experiments.pooled_runs import pooled_results, stored_run
from lobes.experiments.probe import pooled_features
from lobes.experiments.results import further_verdicts
from lobes.experiments.store import RunFolder
from lobes.heads import HeadSet
from lobes.measure.iap import lesion_matrix
from lobes.measure.importance import head_importance
from lobes.measure.similarity import gradient_similarity, lesion_cka
from lobes.measure.steps import carry_out
from lobes.modeling import MultiTaskModel
from lobes.results import RunResults, read
from lobes.results.beside_lesions import Growth
from lobes.results.run import MeasuredTask
from lobes.scores import HeadScores
from plain_results import run_study
from test_dissociation import simulate as plain_matrix
from tiny_models import tiny_model
from tiny_study import timeless, write_study
from tiny_tasks import mood_task, tiny_tokenizer, topic_task, warmth_task

GROWTH = "\n[growth]\ncheckpoints = 3\n"


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A study with growth, its results, and what lay in the run's folder after the training."""
    folder = tmp_path_factory.mktemp("growth")
    path = write_study(folder)
    path.write_text(path.read_text() + GROWTH)
    study = override(load_study(path), "iap.agreement_examples=30", "iap.similarity_examples=83")
    run_study(study, stages=("train",))
    kept = sorted(each.name for each in (folder / "run").glob("model-step-*"))
    models = {name: MultiTaskModel.from_pretrained(folder / "run" / name) for name in kept}
    return study, run_study(study), models


def test_models_are_kept_on_the_way_and_removed_when_measured(grown, tmp_path):
    study, results, models = grown
    assert growth_steps(study, 23) == [8, 16]
    assert sorted(models) == ["model-step-16", "model-step-8"]
    points = results["growth"]["points"]
    assert [point["step"] for point in points] == [0, 8, 16, 23]
    assert [point["classifiers"] for point in points] == ["probe", *["trained"] * 3]
    assert not list((tmp_path / study.output).glob("model-step-*"))


def test_a_point_is_the_lesion_matrix_of_that_model(grown):
    study, results, models = grown
    assert results["growth"]["fraction"] == 0.5
    tasks = load_tasks(study)
    for point, model in zip(results["growth"]["points"][1:3], models.values(), strict=False):
        model = models[f"model-step-{point['step']}"]
        matrix = lesion_matrix(
            model, tasks, fractions=[0.5], controls=0, importance_examples=41, seed=study.iap_seed
        )
        assert np.allclose(point["base"], matrix.base)
        assert np.allclose(point["scores"], matrix.scores())
        values = matrix.dissociation(resamples=1).column.values
        assert np.allclose(np.array(point["dissociation"]["column"]["values"], float), values)


def test_heads_chosen_step_by_step_are_chosen_so_at_every_step(grown, monkeypatch, tmp_path):
    """As in the run's own lesions, which the D-scores of a step are compared with."""
    study, tasks = override(grown[0], "iap.exact=true"), load_tasks(grown[0])
    model = grown[2]["model-step-16"]
    monkeypatch.setattr(growth, "_model", lambda *_: model)
    with RunFolder(tmp_path / "run", study.to_dict()) as folder:
        plan = _lesion_plan(Loaded(study, tasks, model, "fp32"), folder, 16)
        point = carry_out(plan, lambda step: step.compute(lambda *_: None))
    settings = replace(study.iap.settings(study.seed), controls=0, random=0)
    assert settings.fractions == (0.2, 0.5)
    matrix = lesion_matrix(model, tasks, settings)
    assert [point.lesion(task) for task in point.tasks] == [matrix.lesion(t) for t in matrix.tasks]
    at_once = lesion_matrix(model, tasks, replace(settings, exact=False))
    assert [at_once.lesion(t) for t in matrix.tasks] != [matrix.lesion(t) for t in matrix.tasks]


def test_the_last_point_is_the_run_itself(grown):
    _, results, _ = grown
    times = results["times"]
    assert times["growth"] > 0  # and is part of the total
    assert 2 * times["total"] == pytest.approx(sum(times.values()))
    last, entry = results["growth"]["points"][-1], results["fractions"][-1]
    assert last["base"] == [task["base"] for task in results["tasks"]]
    assert last["scores"] == entry["scores"]
    assert last["dissociation"]["column"]["mean"] == entry["dissociation"]["column"]["mean"]
    assert last["stability"] == pytest.approx([1.0, 1.0])


def test_what_grew_is_judged_by_the_end_of_the_training(grown):
    """By the tasks above chance then, and by the D-score then."""
    _, results, _ = grown
    growth = Growth.model_validate(results["growth"])
    tasks = [MeasuredTask(**task) for task in results["tasks"]]
    above = [task.standing(task.base) == "above" for task in tasks]
    change, end = growth.change["column"], growth.points[-1].dissociation["column"]
    span = (change.mean, *change.mean_interval)
    wanted = more_specialized(*span, after=end.shared_mean, above_chance=sum(above))
    (found,) = [each for each in results["verdicts"] if each["claim"] == wanted.claim]
    assert (found["answer"], found["reasons"]) == (wanted.answer, [*wanted.reasons])
    (one,) = further_verdicts(growth, None, [True, False])
    assert one.reasons == ("only one task is clearly above chance, and a dissociation needs two.",)


def test_runs_are_taken_together(grown, tmp_path):
    run = Path(grown[0].output)
    shutil.copytree(run, tmp_path / "again")
    found = pooled_results([run, tmp_path / "again"])
    change = read(run, RunResults).growth.change["column"]
    low, high = change.mean_interval
    together = found.growth
    np.testing.assert_allclose(together.changes, [change.mean] * 2)
    # equal runs: what is left is the error of the examples, which both share
    assert together.change.mean == pytest.approx(change.mean)
    assert together.change.high - together.change.low == pytest.approx(high - low)
    assert found.verdict_on(MORE_SPECIALIZED).numbers["low"] == together.change.low
    (alone,) = [v for v in pooled_results([run]).verdicts if v.claim == MORE_SPECIALIZED]
    assert alone.answer == "open"
    assert alone.numbers == {"mean": pytest.approx(change.mean), "usable": 0}


def test_what_runs_measured_in_another_way_is_said(grown, tmp_path, monkeypatch):
    run, other = Path(grown[0].output), tmp_path / "other"
    results, matrix = stored_run(run)
    similarity = results.similarity

    def together(other_matrix=matrix, **changes):
        changed = results.model_copy(update=changes)
        stored = {run: (results, matrix), other: (changed, other_matrix)}
        monkeypatch.setattr(pooled_runs, "stored_run", stored.get)
        return pooled_results([run, other])

    found = together()
    assert found.unlike == ()
    assert found.growth.values.shape == (2, 2)
    found = together(growth=None)
    assert found.growth is None
    assert found.unlike == (
        "Growth over the training is left out, for some runs have not measured it: other.",
    )
    found = together(growth=results.growth.model_copy(update={"fraction": 0.2}))
    assert found.unlike == (
        "Growth over the training is left out, for the runs measured it at other fractions: "
        "0.2, 0.5.",
    )
    fewer = similarity.model_copy(update={"measures": similarity.measures[:2]})
    (said,) = together(similarity=fewer).unlike
    assert said.endswith("not all runs have are left out: cka, gradient.")
    labels = {**matrix.labels, "mood": 1 - matrix.labels["mood"]}
    assert together(other_matrix=replace(matrix, labels=labels)).unlike == ()  # of another seed
    mood, *others = results.tasks
    for change in ({"labels": ("good", "bad")}, {"n_validation": 7}):
        (said,) = together(tasks=(mood.model_copy(update=change), *others)).unlike
        assert said.startswith("Not all runs have the same labels, or as many validation examples,")
        assert "of mood: labels, chance" in said


def test_a_step_whose_d_score_is_undefined_has_no_interval(grown):
    study = override(grown[0], "iap.resamples=100")
    matrix = plain_matrix(metrics=("accuracy", "matthews"), sizes=(41, 100))
    labels, rows = matrix.labels["second"], matrix.predictions["second"].copy()
    rows[0] = np.where(np.arange(100) < 51, labels, 1 - labels)  # near chance
    near = replace(matrix, predictions={**matrix.predictions, "second": rows})
    shared = {name: np.array([True, True]) for name in FORMULAS}
    for each, defined in ((matrix, True), (near, False)):
        found = each.dissociation(0.3, resamples=100)
        point = _point(study, each, each, found, shared, 8)
        for score in point["dissociation"].values():
            assert np.isfinite(score["shared_mean"]) == defined
            assert np.isfinite(score["shared_interval"]).tolist() == [defined] * 2


def test_before_the_training_probes_stand_in_for_classifiers(grown):
    study, results, _ = grown
    first = results["growth"]["points"][0]
    tasks = load_tasks(study)
    encoder = new_model(study, tasks)
    features = {
        split: pooled_features(encoder, tasks, split, "fp32") for split in ("train", "validation")
    }
    for base, task in zip(first["base"], tasks, strict=True):
        targets = np.where(np.arange(task.n_outputs) == task.train.labels[:, None], 1.0, -1.0)
        own = features["train"][task.name]
        scaled = (own - own.mean(0)) / own.std(0)
        square = scaled.T @ scaled / len(own) + 0.1 * np.eye(own.shape[1])
        weights = np.linalg.solve(square, scaled.T @ (targets - targets.mean(0)) / len(own))
        new = (features["validation"][task.name] - own.mean(0)) / own.std(0)
        hits = (new @ weights + targets.mean(0)).argmax(1) == task.validation.labels
        assert base == pytest.approx(hits.mean(), abs=0.021)  # an example at the border
    change = results["growth"]["change"]["column"]
    before = np.array(first["dissociation"]["column"]["values"], float)
    after = np.array(results["growth"]["points"][-1]["dissociation"]["column"]["values"], float)
    assert np.allclose(np.array(change["values"], float), after - before, equal_nan=True)
    low, high = change["mean_interval"]
    assert low <= change["mean"] <= high
    for point in results["growth"]["points"]:
        found = point["dissociation"]["column"]
        assert found["shared_interval"] == found["mean_interval"]  # every task has a D-score


def test_agreement_is_with_the_exact_rise_of_the_loss(grown):
    study, results, _ = grown
    tasks = load_tasks(study)
    model = MultiTaskModel.from_pretrained(f"{study.output}/model")
    for entry, cheap, task in zip(results["agreement"], results["importance"], tasks, strict=True):
        exact = head_importance(
            model, task, method="ablation", max_examples=30, seed=study.iap_seed
        )
        assert np.allclose(entry["values"], exact.values, atol=1e-6)
        assert entry["reliability"] == pytest.approx(exact.reliability)
        for found in entry["estimates"]:
            estimate = head_importance(
                model,
                task,
                aggregate=found["aggregate"],
                normalize=found["normalize"],
                max_examples=30,
                seed=study.iap_seed,
            )
            rho = importance_correlation([estimate, exact])[0, 1]
            assert found["spearman"] == pytest.approx(rho, abs=1e-6)
        kinds = {(each["aggregate"], each["normalize"]) for each in entry["estimates"]}
        assert kinds == set(product(("token", "sequence", "signed"), ("none", "layer")))
        known = np.array(cheap["values"], float)
        expected = stats.spearmanr(known.ravel(), exact.values.ravel()).statistic
        assert entry["spearman"] == pytest.approx(expected)
        top = HeadScores(known).top(0.5), exact.top(0.5)
        shared = len(top[0] & top[1]) / len(top[0] | top[1])
        assert entry["overlap"][-1] == {"fraction": 0.5, "value": pytest.approx(shared)}
        assert entry["n_examples"] == 30


def test_the_similarities_of_a_run(grown):
    _, results, _ = grown
    similarity = results["similarity"]
    assert [measure["name"] for measure in similarity["measures"]] == [
        *("importance", "overlap", "gradient", "cka")
    ]
    # of mood, the larger task: 101 examples to train on, 53 to validate on, 83 at most
    assert [one["n_examples"] for one in similarity["measures"]] == [None, None, 83, 53]
    for measure in similarity["measures"]:
        values = np.array(measure["values"], dtype=np.float64)
        # noise corrected for is undefined between tasks whose scores have no reliability here
        assert measure["name"] == "importance" or np.isfinite(values).all()
        assert np.allclose(values, values.T, equal_nan=True)
        assert np.allclose(np.diag(values), 1, atol=1e-5)
        assert measure["trend"]["note"].startswith("2 tasks make 1 pair, too few")
    assert similarity["pair_d_scores"][0][1] == pytest.approx(
        results["fractions"][-1]["dissociation"]["column"]["mean"]
    )


def test_a_run_that_stopped_between_goes_on_to_the_same_numbers(grown, tmp_path):
    study, results, _ = grown
    again = study.model_copy(update={"output": str(tmp_path / "again")})
    run_study(again, stages=("train",))

    class Stop(Exception):
        pass

    def stop(stage, done, total):
        if stage.startswith("step 16: lesions") and done:
            raise Stop

    with pytest.raises(Stop):
        run_study(again, progress=stop)
    (tmp_path / "again" / "report.html").unlink(missing_ok=True)
    first, second = (timeless(each) for each in (results, run_study(again)))
    assert json.dumps(first["growth"]) == json.dumps(second["growth"])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["training.enabled=false"], "growth is there, but training.enabled is false;"),
        (['iap.lesion_tasks=["mood"]'], "growth is there, but iap.lesion_tasks leaves tasks out;"),
        (["growth.checkpoints=0"], "expected a number of models of the training from 1 to 1,000"),
    ],
)
def test_growth_that_cannot_be(tmp_path, settings, sentence):
    path = write_study(tmp_path)
    path.write_text(path.read_text() + GROWTH)
    with pytest.raises(ConfigError) as error:
        load_study(path, settings)
    assert sentence in str(error.value)


# The similarities that need the model


@pytest.fixture(scope="module")
def model():
    tasks = [mood_task(), topic_task(), warmth_task()]
    return MultiTaskModel(tiny_model("bert"), tiny_tokenizer(), tasks), tasks


def test_gradients_are_those_of_the_mean_loss(model):
    model, tasks = model
    flags = [parameter.requires_grad for parameter in model.parameters()]
    found = gradient_similarity(model, tasks, tokens_per_batch=60)
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    gradients = []
    for task in tasks:
        model.zero_grad()
        texts = [text for (text,) in task.train.texts]
        inputs = tiny_tokenizer()(texts, padding=True, return_tensors="pt")
        labels = torch.from_numpy(task.train.labels.copy())
        labels = labels.float() if task.is_regression else labels
        model.eval()(**inputs, task=task.name, labels=labels).loss.backward()
        gradients.append(
            torch.cat(
                [
                    (torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1)
                    for p in model.encoder.parameters()
                ]
            )
        )
    model.zero_grad()
    together = torch.stack(gradients)
    expected = torch.nn.functional.cosine_similarity(
        together[:, None].double(), together[None].double(), dim=-1
    )
    assert np.allclose(found, expected.numpy(), atol=1e-4)
    fewer = gradient_similarity(model, tasks, max_examples=9, seed=1)
    assert not np.allclose(fewer, found, atol=1e-3)


def test_cka_compares_what_the_classifiers_read(model):
    model, tasks = model
    lesions = [HeadSet(), HeadSet.parse("0:0,1"), HeadSet.parse("1:0,1 0:1")]
    found = lesion_cka(model, tasks[:2], lesions)
    assert np.allclose(np.diag(found), 1)
    rows = []
    for lesion in lesions:
        texts = [text for task in tasks[:2] for (text,) in task.validation.texts]
        inputs = tiny_tokenizer()(texts, padding=True, return_tensors="pt")
        with ablate(model.eval(), lesion), torch.no_grad():
            rows.append(model.pooled(**inputs).numpy())
    assert found[0, 1] == pytest.approx(linear_cka(rows[0], rows[1]), abs=1e-4)
    assert found[1, 2] == pytest.approx(linear_cka(rows[1], rows[2]), abs=1e-4)
