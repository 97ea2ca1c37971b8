"""Metrics of the user's own: declared once, and then as lobes' own wherever tasks are measured."""

import importlib
import inspect
import json
import sys
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import fbeta_score

from lobes import Task, custom_metric, metrics
from lobes.config.study import load_study
from lobes.dissociation import LesionMatrix
from lobes.dissociation.lesions import Lesion
from lobes.errors import ConfigError, DataError, RunError
from lobes.experiments.loading import fingerprints_of
from lobes.experiments.predict import predict_run
from lobes.experiments.run import run_study
from lobes.heads import HeadSet
from lobes.metrics import METRICS, Metric, get_metric, metric_names
from lobes.modeling import MultiTaskModel, load_task_model
from lobes.report.page import html
from lobes.report.run.page import page_of
from lobes.results import read
from lobes.results.run import RunResults
from lobes.results.tables import read_matrix
from tiny_models import tiny_model
from tiny_study import QUICK, write_study
from tiny_tasks import marks_task, mood_task, tiny_tokenizer, topic_task, warmth_task


@pytest.fixture(autouse=True)
def nothing_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test declares its own."""
    monkeypatch.setattr(metrics, "DECLARED", {})
    monkeypatch.setattr("lobes.custom_metrics.DECLARED", metrics.DECLARED)


def right(labels: Any, predictions: Any) -> float:
    return float(np.mean(labels == predictions))


def closeness(labels: Any, predictions: Any) -> float:
    return -float(np.mean(np.minimum(np.abs(labels - predictions), 1)))


def all_right(labels: Any, predictions: Any) -> float:
    return (labels == predictions).all(1).mean()


def f2(labels: Any, predictions: Any) -> float:
    return fbeta_score(labels, predictions, beta=2, zero_division=0)


def declare_right(name: str = "right", **others: Any) -> Metric:
    settings = {"chance": lambda labels: np.bincount(labels).max() / len(labels), **others}
    return custom_metric(name, right, **settings)


@given(st.integers(0, 10_000))
def test_a_function_scores_resamples_as_the_metric_of_lobes_does(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels, rows = generator.integers(3, size=17), generator.integers(3, size=(5, 17))
    weights = generator.multinomial(17, np.full(17, 1 / 17), size=7)
    weights[0] = 0
    own, usual = declare_right(), METRICS["accuracy"]
    np.testing.assert_allclose(
        own.weighted(labels, rows, weights), usual.weighted(labels, rows, weights), atol=1e-12
    )
    assert own.chance(labels) == usual.chance(labels)
    for score in (0.3, 0.5, 0.9):
        assert own.standing(score, 0.4, 53) == usual.standing(score, 0.4, 53)


def test_a_metric_goes_by_its_name_or_itself() -> None:
    metric = custom_metric("f2", f2, chance=0.6)
    task = mood_task(23, 11)
    assert task.replace(metric="f2").metric == task.replace(metric=metric).metric == "f2"
    rows = [{"text": text, "y": k % 2} for k, text in enumerate("abcd")]
    assert Task("t", train=rows, text="text", label="y", metric=metric).metric == "f2"
    assert get_metric("f2") is metric
    assert "f2" in metric_names()
    regression = custom_metric("near", closeness, low=-1, high=0, chance=-0.4, judges="numbers")
    assert warmth_task(19, 11).replace(metric=regression).metric == "near"
    assert regression(np.array([0.0, 0.5]), np.array([0.25, 2.5])) == -0.625
    several = custom_metric("exact", all_right, chance=0, judges="labels")
    assert several(np.eye(3, dtype=int), np.eye(3, dtype=int)) == 1
    assert marks_task(19, 11).replace(metric=several).metric == "exact"
    again = custom_metric("f2", f2, chance=0.5)
    with pytest.raises(ConfigError, match="Another metric has been declared under the name 'f2'"):
        task.replace(metric=metric)
    assert task.replace(metric=again).metric == "f2"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "f1"}, "'f1' is one of lobes' own metrics: choose another name"),
        ({"name": "a b"}, "'a b' cannot be a metric's name"),
        ({"function": 3}, "'mine' is a function of labels and predictions, not 3"),
        ({"low": 0, "high": 5}, "low = 0 and high = 5; expected -1 ≤ low < high ≤ 1: divide"),
        ({"low": 1}, "low = 1 and high = 1.0; expected -1 ≤ low < high"),
        ({"chance": 1.5}, "chance = 1.5; expected a number from 0 to 1, or a function of"),
        ({"version": 2}, 'version = 2; expected a text, such as "2"'),
        ({"judges": "class"}, "judges is 'class'; expected .* Did you mean \"classes\""),
    ],
)
def test_what_cannot_be_declared(settings: Any, message: str) -> None:
    given = {"name": "mine", "function": right, "chance": 0.5, **settings}
    with pytest.raises(ConfigError, match=message):
        inspect.unwrap(custom_metric)(given.pop("name"), given.pop("function"), **given)


def test_functions_that_do_not_score() -> None:
    y = np.array([0, 1, 1])
    with pytest.raises(DataError, match=r"metric 'big' returned 7, and its range is .* 0 to 1"):
        custom_metric("big", lambda labels, predictions: 7, chance=0)(y, y)
    with pytest.raises(DataError, match="metric 'none' failed: TypeError"):
        custom_metric("none", lambda labels, predictions: None, chance=0)(y, y)
    with pytest.raises(DataError, match=r"metric 'odd \(chance\)' failed: ZeroDivisionError"):
        custom_metric("odd", right, chance=lambda labels: 1 / 0).chance(y)
    undefined = custom_metric("nan", lambda labels, predictions: np.nan, chance=0)
    assert np.isnan(undefined(y, y))


def test_a_metric_that_does_not_fit_a_task() -> None:
    numbers = custom_metric("near", closeness, low=-1, high=0, chance=-0.4, judges="numbers")
    with pytest.raises(ConfigError, match=r"Task 'mood' has classes, which the metric 'near'"):
        mood_task(23, 11).replace(metric=numbers)
    with pytest.raises(ConfigError, match=r"'marks' has several .* which the metric 'right'"):
        marks_task(23, 11).replace(metric=declare_right())


def test_d_scores_are_those_of_the_same_metric_of_lobes() -> None:
    generator = np.random.default_rng(0)
    names, fits = ("a", "b"), {"accuracy": [], "right": []}
    labels = {name: generator.integers(3, size=41) for name in names}
    lesions = (
        Lesion(HeadSet(), "none"),
        *(Lesion(HeadSet([(0, k)]), "task", name, 0.5) for k, name in enumerate(names)),
    )
    rows = {
        name: np.where(
            generator.random((3, 41)) < 0.7, labels[name], generator.integers(3, size=41)
        )
        for name in names
    }
    declare_right()
    for metric in fits:
        matrix = LesionMatrix(names, (metric,) * 2, labels, lesions, rows)
        found = matrix.dissociation(resamples=50)
        fits[metric] = [matrix.scores(0.5), matrix.chance, found.column.values]
    for own, usual in zip(fits["right"], fits["accuracy"], strict=True):
        np.testing.assert_allclose(own, usual)


PACKAGE = """
import numpy as np

import lobes


def right(labels, predictions):
    return float(np.mean(labels == predictions))


right_ones = lobes.custom_metric("right-ones", right, chance=1 / 3)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that declares a metric."""
    site = tmp_path / "site"
    about = site / "mymetrics-1.0.dist-info"
    about.mkdir(parents=True)
    (site / "mymetrics.py").write_text(PACKAGE)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mymetrics\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[lobes.metrics]\nright-ones = mymetrics:right_ones\nbroken = mymetrics:missing\n"
        "other = mymetrics:right\n"
    )
    monkeypatch.syspath_prepend(site)
    importlib.invalidate_caches()
    yield site
    sys.modules.pop("mymetrics", None)


def test_an_installed_package_declares_metrics(package: Path) -> None:
    assert "right-ones" in metric_names()
    assert "mymetrics" not in sys.modules
    assert get_metric("right-ones")(np.array([1, 2]), np.array([1, 0])) == 0.5
    with pytest.raises(ConfigError, match="mymetrics declares the metric broken, which cannot be"):
        get_metric("broken")
    with pytest.raises(ConfigError, match=r"mymetrics:right is no metric of that name"):
        get_metric("other")
    with pytest.raises(ConfigError, match=r"'right-one' is not a metric.*mean 'right-ones'"):
        get_metric("right-one")
    with pytest.raises(
        ConfigError, match=r"'bleu' is not a metric.* declared by lobes.custom_metric"
    ):
        get_metric("bleu")


def forget(package: Path) -> None:
    """As in a new process."""
    metrics.DECLARED.clear()
    sys.modules.pop("mymetrics", None)


def test_a_study_with_a_metric_of_a_package(package: Path, tmp_path: Path) -> None:
    path = write_study(tmp_path)
    with pytest.raises(ConfigError, match=r'metric is "right-one"; did you mean "right-ones"'):
        load_study(path, ["tasks.topic.metric=right-one"])
    study = load_study(path, [*QUICK, "tasks.topic.metric=right-ones"])
    results = run_study(study)
    assert isinstance(results, RunResults)
    topic, matrix = results.tasks[1], read_matrix(tmp_path / "run", results)
    assert (topic.metric, topic.metric_range, topic.chance) == ("right-ones", (0, 1), 1 / 3)
    assert topic.base == right(matrix.labels["topic"], matrix.predictions["topic"][0])
    assert np.isfinite(results.fractions[0].dissociation.column.values).all()
    page = html(page_of(results, tmp_path / "run"))
    assert "right-ones" in page

    forget(package)
    told = predict_run(tmp_path / "run", tmp_path / "to", split="validation", tasks=["topic"])
    (row,) = told["predictions"]
    assert (row["metric"], row["score"]) == ("right-ones", pytest.approx(topic.base))

    forget(package)
    (package / "mymetrics.py").write_text(PACKAGE.replace("labels == predictions)", "1.0)"))
    with pytest.raises(RunError, match="a run with another metric: metric of topic changed"):
        run_study(study)

    # where the package is not installed, results are shown, and no score is computed anew
    forget(package)
    (package / "mymetrics-1.0.dist-info" / "entry_points.txt").unlink()
    importlib.invalidate_caches()
    assert html(page_of(read(tmp_path / "run", RunResults), tmp_path / "run")) == page
    with pytest.raises(ConfigError, match="does a task with the metric 'right-ones', which is not"):
        load_task_model(tmp_path / "run" / "model")


def strict_recall(labels: Any, predictions: Any) -> float:
    if len(set(predictions)) < 2:
        raise ValueError("Only one class is predicted")
    return float(np.mean(predictions[labels == 1] == 1))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (strict_recall, "ValueError: Only one class is predicted"),
        (lambda labels, predictions: 100 * right(labels, predictions), "returned .* 0 to 1"),
        (lambda labels, predictions: labels == predictions, "failed: TypeError"),
    ],
)
def test_a_metric_that_fails_is_found_before_the_training(
    tmp_path: Path, function: Any, message: str
) -> None:
    """A model that lost heads often says the same to all: not after hours of measurements."""
    custom_metric("mine", function, chance=0.5)
    study = load_study(write_study(tmp_path), [*QUICK, "tasks.mood.metric=mine"])
    with pytest.raises(
        DataError, match=f"Task 'mood': The function of the metric 'mine' .*{message}"
    ):
        run_study(study)
    assert not (tmp_path / "run" / "config.json").exists()


def test_fingerprints_follow_range_function_and_version() -> None:
    task, found = mood_task(23, 11), []
    assert [*fingerprints_of([task])] == ["data of mood"]
    for settings in ({}, {"low": -1.0}, {"chance": 0.5}, {"version": "2"}, {}):
        own = task.replace(metric=declare_right(**settings))
        found.append(fingerprints_of([own])["metric of mood"])
    found.append(fingerprints_of([task.replace(metric=custom_metric("f2", f2, chance=0.5))]))
    assert found[0] == found[4]
    assert len({json.dumps(each) for each in found}) == 5


class Shifted:
    """An object that is called."""

    def __init__(self, by: Any) -> None:
        self.by, self.me = by, self

    def __call__(self, labels: Any, predictions: Any) -> float:
        return right(labels, predictions) - self.by

    def score(self, labels: Any, predictions: Any) -> float:
        return right(labels, predictions) - self.by


def around(by: Any) -> Any:
    return lambda labels, predictions: right(labels, predictions) - by


def with_default(by: Any) -> Any:
    def found(labels: Any, predictions: Any, by: Any = by) -> float:
        return right(labels, predictions) - by

    return found


def without_source(by: Any) -> Any:
    return eval(f"lambda labels, predictions: [x - {by} for x in labels]", {})


def decorated(by: Any) -> Any:
    return lru_cache(around(by))


@pytest.mark.parametrize(
    "make",
    [
        Shifted,
        around,
        with_default,
        without_source,
        decorated,
        lambda by: partial(fbeta_score, beta=by),
        lambda by: partial(partial(f2, 1), by),
        lambda by: Shifted(by).score,
        lambda by: around(Shifted(np.array([by]))),
        lambda by: around({"by": [by, (None, f2)]}),
    ],
)
def test_fingerprints_follow_the_values_that_a_function_holds(make: Any) -> None:
    """A run with beta = 1 is not continued with beta = 2."""
    found = [custom_metric("m", make(by), chance=0.5).fingerprint for by in (0.25, 0.25, 0.5)]
    assert found[0] == found[1] != found[2]
    found = [custom_metric("m", f2, chance=make(by)).fingerprint for by in (0.25, 0.25, 0.5)]
    assert found[0] == found[1] != found[2]


def test_a_saved_model_needs_its_metric(tmp_path: Path) -> None:
    task = topic_task(23, 11).replace(metric=declare_right())
    MultiTaskModel(tiny_model("bert"), tiny_tokenizer(), [task]).save_pretrained(tmp_path / "m")
    assert load_task_model(tmp_path / "m").tasks[0].metric == "right"
    metrics.DECLARED.clear()
    with pytest.raises(ConfigError, match="task with the metric 'right', which is not known here"):
        load_task_model(tmp_path / "m")
    declare_right()
    assert load_task_model(tmp_path / "m").tasks[0].metric == "right"
