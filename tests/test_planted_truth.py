"""IAP finds what we planted, and reports nothing where nothing is."""

import numpy as np
import pytest
from scipy import stats

from lobes.heads import HeadSet
from lobes.measure.iap import lesion_matrix
from lobes.tasks.task import Task
from planted import planted_levels, planted_model

N_SITES, N_HEADS, N_FEATURES = 2, 7, 5
CARRIERS = {"first": HeadSet.parse("0:1,3 1:4,6"), "second": HeadSet.parse("0:5,6 1:2,3")}
# Features 0 and 1 decide the first task, 2 and 3 the second, 4 neither; two heads read each.
FEATURES = {(0, 1): 0, (0, 3): 0, (1, 4): 1, (1, 6): 1} | {
    (0, 5): 2,
    (0, 6): 2,
    (1, 2): 3,
    (1, 3): 3,
}
SHARE = 4 / 14  # the heads of a task
ALIKE = 23  # heads that carry both tasks alike: enough of them to be exchanged in many ways


def sign_task(name: str, features: tuple[int, int], seed: int, n: int = 211) -> Task:
    """Is twice the first feature plus the second above 0? (Never 0 where it is kept.)"""
    generator = np.random.default_rng(seed)
    splits = {}
    for split in ("train", "validation"):
        sentences, levels = planted_levels(n, N_FEATURES, generator)
        total = levels[:, features[0]] + levels[:, features[1]]
        splits[split] = [
            {"text": sentence, "label": int(value > 0)}
            for sentence, value in zip(sentences, total, strict=True)
            if value
        ]
    return Task(name, **splits, text="text", label="label", labels=("no", "yes"))


@pytest.fixture(scope="module")
def planted():
    tasks = [sign_task("first", (0, 1), seed=1), sign_task("second", (2, 3), seed=2)]
    heads = [(site, head) for site in range(N_SITES) for head in range(N_HEADS)]
    reads = {head: FEATURES.get(head, 4) for head in heads}
    model = planted_model(
        tasks, reads, CARRIERS, n_features=N_FEATURES, n_sites=N_SITES, n_heads=N_HEADS
    )
    return model, tasks


@pytest.mark.parametrize("method", ["taylor", "ablation"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_finds_the_planted_heads_and_the_double_dissociation(planted, method, precision):
    model, tasks = planted
    matrix = lesion_matrix(
        model, tasks, fractions=[SHARE], controls=39, method=method, precision=precision
    )
    for task in tasks:
        assert matrix.importance[task.name].top(SHARE) == CARRIERS[task.name]
    np.testing.assert_allclose(matrix.base, 1.0)
    scores = matrix.scores(SHARE)
    assert scores[0, 1] == scores[1, 0] == 1.0
    assert scores[0, 0] < 0.6
    assert scores[1, 1] < 0.6
    result = matrix.dissociation(resamples=200)
    assert result.column.mean > 40
    assert result.column.mean_interval[0] > 30
    assert result.column.mean_p <= 0.05
    assert result.specialized.answer == "yes"
    assert [pair.is_double_dissociation for pair in result.pairs] == [True]


@pytest.mark.parametrize("value", ["mean", "resample"])
def test_the_dissociation_is_there_whatever_takes_the_place_of_heads(planted, value):
    model, tasks = planted
    options = {"fractions": [SHARE], "value": value}
    matrix = lesion_matrix(model, tasks, controls=0, **options)
    np.testing.assert_allclose(matrix.base, 1.0)
    scores = matrix.scores(SHARE)
    assert scores[0, 1] == scores[1, 0] == 1.0
    # another example's answer, or none
    assert scores[0, 0] < 0.65
    assert scores[1, 1] < 0.65
    column = matrix.dissociation(resamples=200).column
    assert column.mean > 35
    assert column.mean_interval[0] > 25
    other = lesion_matrix(model, tasks, controls=0, seed=1, **options).scores(SHARE)
    assert (other == scores).all() == (value == "mean")


@pytest.mark.parametrize("value", ["zero", "mean", "resample"])
def test_the_planted_heads_suffice_for_their_task(planted, value):
    """Where only a task's own heads stay in, it loses nothing and the other task all."""
    model, tasks = planted
    matrix = lesion_matrix(model, tasks, fractions=[SHARE], controls=0, lesion="keep", value=value)
    assert matrix.keep
    assert [lesion.heads for lesion in matrix.lesions[1:3]] == list(CARRIERS.values())
    scores = matrix.scores(SHARE)
    np.testing.assert_allclose([*matrix.base, scores[0, 0], scores[1, 1]], 1.0)
    assert max(scores[0, 1], scores[1, 0]) < 0.65
    column = matrix.dissociation(resamples=200).column
    assert column.mean > 35
    assert column.mean_interval[0] > 25


def test_exact_order_finds_the_heads_one_step_after_the_other(planted):
    model, tasks = planted
    # With its sign kept, the score says that a task already lost has no more to lose.
    matrix = lesion_matrix(
        model,
        tasks,
        fractions=[1 / 14, SHARE],
        controls=0,
        random=0,
        exact=True,
        aggregate="sequence",
    )
    for lesion in matrix.lesions[1:]:
        assert lesion.heads <= CARRIERS[lesion.task]
        assert len(lesion.heads) == round(14 * lesion.fraction)


def test_the_least_important_heads_cost_their_task_nothing(planted):
    model, tasks = planted
    matrix = lesion_matrix(model, tasks, fractions=[0.3], controls=3, order="ascending")
    np.testing.assert_allclose(np.diag(matrix.scores(0.3)), 1.0)


def noisy_sum_task(name: str, seed: int, n_train: int, n_validation: int) -> Task:
    """A target that all features carry alike, under noise."""
    generator = np.random.default_rng(seed)
    splits = {}
    for split, n in (("train", n_train), ("validation", n_validation)):
        sentences, levels = planted_levels(n, ALIKE, generator)
        targets = levels.sum(1) + generator.normal(scale=2.0, size=n)
        splits[split] = [
            {"text": sentence, "label": float(target)}
            for sentence, target in zip(sentences, targets, strict=True)
        ]
    return Task(name, **splits, text="text", label="label", metric="pearson")


def null_p_values(cases: int) -> np.ndarray:
    """[cases, 3]: the p-values of two tasks' `column` scores and of their mean, where all heads
    carry both tasks alike and which of them count as important is chance."""
    heads = [(0, head) for head in range(ALIKE)]
    model = None
    p_values = []
    for case in range(cases):
        tasks = [noisy_sum_task(name, 10 * case + i, 13, 61) for i, name in enumerate("AB")]
        model = model or planted_model(
            tasks,
            {head: head[1] for head in heads},
            {"A": heads, "B": heads},
            n_features=ALIKE,
            n_sites=1,
            n_heads=ALIKE,
        )
        matrix = lesion_matrix(model, tasks, fractions=[0.3], controls=19, random=0, seed=case)
        column = matrix.dissociation(resamples=2).column
        p_values.append([*column.p_values, column.mean_p])
    return np.array(p_values)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_p_values_are_uniform_where_nothing_is_planted():
    p_values = null_p_values(100)
    for p in p_values.T:
        counts, _ = np.histogram(p, bins=[0, 0.225, 0.425, 0.625, 0.825, 1.01])
        # 20 possible values 0.05 … 1.0; 4 of them in each bin: 20 of 100 cases expected.
        assert stats.chisquare(counts).pvalue > 0.001, counts
        assert stats.binomtest(int((p <= 0.05).sum()), len(p), 0.05).pvalue > 0.001
