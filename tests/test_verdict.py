"""One rule for yes, no and inconclusive: the library, the pages and the terminal agree."""

import dataclasses
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from lobes.config.study import StudyConfig
from lobes.dissociation.over_runs import dissociation_over_runs
from lobes.dissociation.simulation import FRACTION, Simulation
from lobes.dissociation.verdict import (
    SMALLEST_D_SCORE,
    SPECIALIZED,
    Evidence,
    Trend,
    deciding,
    less_alike,
    more_specialized,
    not_above_0,
    specialized,
)
from lobes.experiments.pooled_runs import pooled_results
from lobes.experiments.results import study_results
from lobes.report import sections
from lobes.report.console import shown
from lobes.report.page import html
from lobes.report.pooled.page import page_of as page_of_runs
from lobes.report.run.page import page_of
from lobes.results import PooledResults, RunResults, as_bytes, read
from lobes.results.base import ModelRecord, Site
from lobes.results.tables import write_importance, write_predictions
from lobes.scores import HeadScores
from lobes.tasks.task import Task

RESAMPLES = 101
MODEL = ModelRecord(
    name="m",
    pooling="mean",
    n_parameters=1009,
    sites=(Site(index=0, name="attention", n_heads=30, head_dim=3, kind="self"),),
)
STUDIES = st.builds(
    Simulation,
    tasks=st.sampled_from([2, 3]),
    examples=st.sampled_from([23, 97, 499]),
    controls=st.sampled_from([0, 7, 19, 23]),
    specialization=st.sampled_from([0.0, 0.3, 1.5]),
    ability=st.sampled_from([-1.0, 0.0, 1.0]),
)
YES = Simulation(tasks=2, examples=499, controls=19, specialization=1.5)
NO = Simulation(tasks=2, examples=1999, controls=23, spread=0.01, chance=0.01)
OPEN = Simulation(tasks=2, examples=23, controls=19)
# below chance, where lesions cost each task more by its own heads
BELOW = Simulation(tasks=2, examples=499, controls=19, specialization=1.5, ability=-0.7)
UNDEFINED = Simulation(tasks=2, examples=23, controls=7, ability=-1.0)  # by one definition


def write_run(folder, matrix):
    """Write the folder of a run that measured this matrix, as `run_study` does."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    about = {"method": "taylor", "aggregate": "token", "normalize": "none"}
    about |= {"examples": 7, "tokens": 31, "split": "train"}
    importance = {task: HeadScores(generator.random((1, 30)), about) for task in matrix.tasks}
    matrix = dataclasses.replace(matrix, importance=importance)
    data = [{"text": "a", "label": "no"}, {"text": "b", "label": "yes"}]
    tasks = [
        Task(name, train=data, validation=data, text="text", label="label", labels=("no", "yes"))
        for name in matrix.tasks
    ]
    files = {"train": "t.csv", "validation": "v.csv", "text": "text", "labels": ["no", "yes"]}
    study = StudyConfig.from_dict(
        {
            "name": "s",
            "model": "m",
            "output": "o",
            "tasks": [{"name": name, **files} for name in matrix.tasks],
            "iap": {"fractions": [FRACTION], "resamples": RESAMPLES, "controls": 23},
        }
    )
    results = study_results(
        study,
        tasks,
        matrix,
        model=MODEL,
        training=None,
        agreement=None,
        similarity=None,
        growth=None,
        seconds={},
        importance_seconds=dict.fromkeys(matrix.tasks, 1.0),
        environment={},
    )
    (folder / "results.json").write_bytes(as_bytes(results))
    for name, write in (("predictions", write_predictions), ("importance", write_importance)):
        with open(folder / f"{name}.parquet", "wb") as file:
            write(matrix, file)
    return folder


def check_shown(verdict, page):
    """The page, its HTML and the terminal give this answer, for this reason and no other."""
    said = next(b for b in sections.blocks_of(page) if isinstance(b, sections.Findings))
    assert said.answer == verdict.answer
    plain = said.headline.replace("\u00a0", " ").replace("’", "'").replace("−", "-")
    assert plain == verdict.headline
    markup = html(page)
    assert f'class="verdict {verdict.answer}"' in markup
    assert f">{said.headline}</h2>" in markup
    console = Console(width=2000, force_terminal=False, color_system=None)
    with console.capture() as capture:
        for part in shown(page):
            console.print(part)
    assert said.headline.replace("\u00a0%", "%").replace("\u00a0", " ") in capture.get()


def column(page, name, title):
    """What the cells of a column say."""
    table = next(table for table in sections.tables(page) if table.name == name)
    place = [each.title for each in table.columns].index(title)
    return [getattr(row.cells[place], "value", row.cells[place]) for row in table.rows]


def double_in_words(pair, lacks_controls):
    if pair.is_double_dissociation:
        return "yes"
    if not all(pair.above_chance):
        return "not above chance"
    return "too few exchanges" if lacks_controls else "not shown"


@settings(max_examples=5, deadline=None)
@given(simulation=STUDIES, runs=st.sampled_from([1, 2]), seed=st.integers(0, 100))
@example(simulation=YES, runs=2, seed=0)
@example(simulation=NO, runs=2, seed=0)
@example(simulation=OPEN, runs=1, seed=0)
@example(simulation=BELOW, runs=2, seed=0)
@example(simulation=UNDEFINED, runs=1, seed=14)
def test_library_pages_and_terminal_give_one_answer(simulation, runs, seed):
    studies = simulation.runs(runs, np.random.default_rng(seed), between=0.02)
    matrices = [study.matrix for study in studies]
    with tempfile.TemporaryDirectory() as home:
        folders = [write_run(Path(home, f"run{k}"), each) for k, each in enumerate(matrices)]
        for folder, matrix in zip(folders, matrices, strict=True):
            results = read(folder, RunResults)
            found = matrix.dissociation(resamples=RESAMPLES)
            assert results.verdict_on(SPECIALIZED) == found.specialized
            assert found.verdict().startswith(found.specialized.headline)
            page = page_of(results)
            check_shown(found.specialized, page)
            assert column(page, "pairs-0", "Double dissociation") == [
                double_in_words(pair, pair.lacks_controls) for pair in found.pairs
            ]
        Path(home, "runs.json").write_bytes(as_bytes(pooled_results(folders)))
        pooled = read(home, PooledResults)
    over = dissociation_over_runs(matrices, resamples=RESAMPLES)
    assert pooled.verdict_on(SPECIALIZED) == over.specialized
    page = page_of_runs(pooled)
    check_shown(over.specialized, page)
    lacks_controls = any(pair.lacks_controls for pair in found.pairs)
    assert column(page, "pairs", "Double dissociation") == [
        double_in_words(pair, lacks_controls) for pair in over.pairs
    ]


def test_no_pair_is_called_where_no_task_is_above_chance():
    """Both tests would call the pair: the verdict and the pairs ask for the same tasks."""
    matrices = [each.matrix for each in BELOW.runs(2, np.random.default_rng(0), between=0.02)]
    one = matrices[0].dissociation(resamples=RESAMPLES)
    (pair,) = one.pairs
    assert dataclasses.replace(pair, above_chance=(True, True)).is_double_dissociation
    assert not pair.is_double_dissociation
    assert one.specialized.reasons[0].startswith("no task is clearly above chance")
    assert one.verdict().endswith(
        "A double dissociation takes two tasks clearly above chance: no pair can be called one."
    )
    (over,) = dissociation_over_runs(matrices, resamples=RESAMPLES).pairs
    assert over.above_chance == (False, False)
    assert not over.is_double_dissociation


@pytest.mark.parametrize(
    ("simulation", "answer"), [(YES, "yes"), (NO, "no"), (OPEN, "open")], ids=["yes", "no", "open"]
)
def test_each_answer_is_given_to_the_study_that_deserves_it(simulation, answer):
    matrix = simulation.run(np.random.default_rng(0)).matrix
    assert matrix.dissociation(resamples=200).specialized.answer == answer


SURE = {"controls": 19, "tasks": 3, "above_chance": 2, "exchangeable": 9}


@given(
    ends=st.tuples(st.floats(-30, 30), st.floats(-30, 30)).map(sorted),
    p=st.floats(0.01, 1),
    controls=st.integers(0, 60),
    above=st.integers(0, 3),
)
def test_yes_and_no_need_a_study_that_could_have_said_yes(ends, p, controls, above):
    low, high = ends
    found = specialized(Evidence((low + high) / 2, low, high, p, controls, 3, above, 9))
    if controls < 19 or above < 2:
        assert found.answer == "open"
    if found.answer == "yes":
        assert p <= 0.05 + 1e-9
        assert low > 0
    if found.answer == "no":
        assert high < SMALLEST_D_SCORE


@pytest.mark.parametrize(
    ("evidence", "answer"),
    [
        (Evidence(8.0, 5.0, 11.0, 1 / 20, **SURE), "yes"),
        (Evidence(1.0, -2.0, 4.0, 0.3, **SURE), "no"),
        (Evidence(-3.0, -5.0, -1.0, 0.9, **SURE), "no"),
        (Evidence(2.0, -2.0, 6.0, 0.3, **SURE), "open"),
        (Evidence(12.0, 9.0, 15.0, 0.3, **SURE), "open"),
        (Evidence(8.0, math.nan, math.nan, 0.05, **SURE), "open"),
        (Evidence(8.0, 5.0, 11.0, 0.05, **SURE, runs=1), "open"),
        (Evidence(8.0, 5.0, 11.0, 0.05, **SURE, runs=2), "yes"),
        (Evidence(8.0, 5.0, 11.0, 0.05, **SURE, deals=19), "open"),
        (Evidence(8.0, 5.0, 11.0, 0.05, **SURE, deals=20), "yes"),
        (Evidence(8.0, 5.0, 11.0, 0.05, **{**SURE, "exchangeable": 0}), "open"),
        (Evidence(1.0, -2.0, 4.0, 0.3, **SURE, fractions=2, reach=4.9), "no"),
        (Evidence(1.0, -2.0, 4.0, 0.3, **SURE, fractions=2, reach=5.1), "open"),
    ],
)
def test_the_answer_on_specialization(evidence, answer):
    assert specialized(evidence).answer == answer


def test_yes_names_the_tasks_of_which_it_does_not_hold():
    assert not_above_0(("a", "b", "c", "d"), [1.0, 0.0, -2.0, math.nan]) == ("b", "c")
    some = specialized(Evidence(8.0, 5.0, 11.0, 1 / 20, **SURE, without=("b", "c")))
    assert some.headline == (
        "Yes: on average, a task's own heads matter more to it than the other tasks' heads, but "
        "not for b, c."
    )
    many = specialized(Evidence(8.0, 5.0, 11.0, 1 / 20, **SURE, without=tuple("bcdef")))
    assert many.reasons[0].endswith("but not for b, c, d and 2 more.")


@pytest.mark.parametrize(
    ("change", "answer", "reason"),
    [
        ((4.5, 0.1, 9.0), "yes", "the D-score is larger than before multi-task training."),
        ((-1.5, -3.0, -0.1), "no", "the D-score is smaller than before multi-task training."),
        ((2.0, -0.1, 4.0), "open", "the interval of the change includes 0."),
        ((0.0, 0.0, 0.0), "open", "the interval of the change includes 0."),
        ((2.0, math.nan, math.nan), "open", "the interval of the change is undefined."),
        ((math.nan,) * 3, "open", "the D-score is undefined before or after the training."),
    ],
)
def test_the_answer_on_growth(change, answer, reason):
    found = more_specialized(*change, after=0.1, above_chance=2)
    assert (found.answer, found.reasons) == (answer, (reason,))
    assert found.numbers == {
        name: value
        for name, value in zip(("mean", "low", "high"), change, strict=True)
        if not math.isnan(value)
    }


@pytest.mark.parametrize(
    ("after", "above_chance", "reason"),
    [
        (0.0, 2, "the D-score is larger than before multi-task training, but not above 0."),
        (9.0, 1, "only one task is clearly above chance, and a dissociation needs two."),
        (9.0, 0, "no task is clearly above chance, and a dissociation needs two."),
    ],
)
def test_growth_alone_is_no_specialization(after, above_chance, reason):
    """A model that learned nothing has D-scores of 0 at the end, which may lie above the first."""
    found = more_specialized(109.3, 83.5, 141.1, after=after, above_chance=above_chance)
    assert (found.answer, found.reasons) == ("open", (reason,))
    assert ("usable" in found.numbers) == (above_chance < 2)


def test_one_run_of_several_says_nothing_of_growth():
    found = more_specialized(4.5, math.nan, math.nan, after=9, above_chance=2, runs=1)
    assert (found.answer, found.numbers["usable"]) == ("open", 0)
    assert found.reasons == ("one run alone does not show how much another would differ.",)


HOLDS, WEAK, NARROW = (-0.7, -0.9, -0.2, 0.01), (-0.2, -0.5, 0.3, 0.3), (-0.1, -0.29, 0.2, 0.3)
UNSURE, TURNED = (-0.7, -0.9, 0.1, 0.01), (0.6, 0.2, 0.8, 0.97)
GONE = (math.nan, math.nan, math.nan, math.nan, "3 tasks make 3 pairs.")


@pytest.mark.parametrize(
    ("trends", "tasks", "answer", "said"),
    [
        ({"gradient": HOLDS, "cka": HOLDS}, 5, "yes", "the less alike two tasks are"),
        (
            {"importance": HOLDS, "gradient": WEAK},
            5,
            "open",
            "only measures made from the heads of the lesion",
        ),
        ({"importance": HOLDS, "overlap": HOLDS}, 5, "open", "iap.similarity_examples adds one"),
        ({"gradient": UNSURE}, 5, "open", "interval of gradient reaches a correlation of -0.3"),
        ({"gradient": UNSURE}, 5, "open", "gradient goes with the D-scores beyond chance (p), but"),
        ({"gradient": WEAK, "cka": WEAK}, 5, "open", "interval of gradient and cka reaches"),
        ({"gradient": TURNED, "cka": NARROW}, 5, "no", "no measure of similarity"),
        ({"gradient": TURNED, "cka": WEAK}, 5, "open", "the interval of cka reaches"),
        (
            {"gradient": WEAK, "cka": WEAK},
            4,
            "open",
            "4 tasks allow no corrected p below 0.083: it takes 5.",
        ),
        ({"gradient": GONE}, 3, "open", "3 tasks make 3 pairs."),
        (
            {"gradient": GONE, "cka": HOLDS},
            5,
            "open",
            "only measures made from the heads of the lesion",
        ),
    ],
)
def test_the_answer_on_similarity(trends, tasks, answer, said):
    found = less_alike([Trend(name, *numbers) for name, numbers in trends.items()], tasks)
    assert found.answer == answer
    assert said in found.reasons[0]


def test_a_verdict_on_similarity_has_the_numbers_of_the_measure_that_decides():
    trends = [Trend("cka", *HOLDS), Trend("gradient", -0.6, -0.8, -0.3, 0.04), Trend("b", *GONE)]
    assert deciding(trends) is trends[1]
    assert deciding(trends[:1]) is trends[0]
    assert deciding(trends[2:]) is None
    found = less_alike(trends, 5).numbers
    assert (found["correlation"], found["p"], found["measures"]) == (-0.6, 0.04, 2)
