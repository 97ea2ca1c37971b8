"""Values show themselves: as HTML, as data frames, as figures, as a report."""

import re
import subprocess
import sys

import numpy as np
import pytest

from fake_comparisons import fake_comparison, fake_transfer
from fake_results import fake_results
from fake_runs import fake_runs, fake_sweep
from lobes.dissociation import Lesion, LesionMatrix
from lobes.errors import ConfigError, RunError
from lobes.heads import HeadLayout, HeadSet
from lobes.results import (
    ComparisonResults,
    PooledResults,
    RunResults,
    SweepResults,
    TransferResults,
    checked,
)
from lobes.scores import HeadScores
from lobes.sites import Site

TASKS = ("mood", "<topic>")
EXAMPLES = 101


@pytest.fixture(scope="module")
def matrix():
    """Two tasks whose own lesions cost them most, at two fractions, on 3 sites of 7 heads."""
    rng = np.random.default_rng(0)
    settings = {"task": "mood", "method": "taylor", "examples": 53}
    importance = {task: HeadScores(rng.gamma(1.3, size=(3, 7)), settings) for task in TASKS}
    lesions = [Lesion(HeadSet(), "none")]
    for fraction in (0.2, 0.4):
        for kind, replicates in (("task", 1), ("exchanged", 19), ("random", 3)):
            lesions += [
                Lesion(importance[task].top(fraction), kind, task, fraction, replicate)
                for replicate in range(replicates)
                for task in TASKS
            ]
    labels = {task: rng.integers(0, 2 + place, EXAMPLES) for place, task in enumerate(TASKS)}
    predictions = {}
    for task in TASKS:
        chances = [0.5 if x.kind == "task" and x.task == task else 0.9 for x in lesions]
        right = rng.random((len(lesions), EXAMPLES)) < np.array(chances)[:, None]
        predictions[task] = np.where(right, labels[task], 1 - np.minimum(labels[task], 1))
    return LesionMatrix(
        TASKS, ("accuracy", "accuracy"), labels, tuple(lesions), predictions, importance
    )


@pytest.fixture(scope="module")
def layout():
    return HeadLayout(
        tuple(Site(i, f"layer.{i}", f"layer.{i}.out", n, 3, "self") for i, n in enumerate((5, 7)))
    )


def results():
    return [
        checked(fake_results(tasks=2), RunResults),
        checked(fake_comparison(), ComparisonResults),
        checked(fake_transfer(), TransferResults),
        checked(fake_runs(), PooledResults),
        checked(fake_sweep(), SweepResults),
    ]


def test_every_value_shows_itself_in_its_own_style(matrix, layout):
    values = [matrix, layout, matrix.importance["mood"], matrix.dissociation(), *results()]
    for value in values:
        shown = value._repr_html_()
        assert shown.startswith('<div class="lobes-value"><style>.lobes-value {')
        assert not re.search(r"(:root|\nbody) ", shown)
        assert "<table" in shown
        assert "<topic>" not in shown
        assert len(repr(value)) < 250
        assert len(value.to_frame()) > 1


def test_a_matrix_shows_the_numbers_of_its_report(matrix, tmp_path):
    path = matrix.report(tmp_path / "page.html", name="by hand")
    page = path.read_text(encoding="utf-8")
    shown = matrix._repr_html_()
    answer = matrix.over_fractions().specialized.headline.split(":")[0]
    for text in (page, shown):
        assert answer in text
        assert f"{matrix.base[0]:.3f}" in text
        assert f"{matrix.scores()[0, 0]:.3f}" in text
    assert "by hand" in page
    assert "from <code>a LesionMatrix</code>" in page
    assert "Settings and versions" in page


def test_a_report_replaces_only_a_report(matrix, tmp_path):
    path = tmp_path / "page.html"
    assert matrix.report(path) == matrix.report(path)
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(RunError, match="is no page of lobes: give another place"):
        matrix.report(path)
    assert path.read_text(encoding="utf-8") == "mine"


def test_a_matrix_of_base_scores_has_a_report_too(matrix, tmp_path):
    plain = LesionMatrix(
        ("mood",), ("accuracy",), matrix.labels, (Lesion(HeadSet(), "none"),),
        {"mood": matrix.predictions["mood"][:1]},
    )  # fmt: skip
    assert "at least two tasks" in plain.report(tmp_path / "page.html").read_text(encoding="utf-8")
    assert plain.to_frame()["score"].tolist() == [matrix.base[0]]


def test_frames_hold_what_was_measured(matrix, layout):
    frame = matrix.to_frame()
    assert len(frame) == len(matrix.lesions) * 2
    own = frame[(frame.lesion == "task") & (frame.fraction == 0.4) & (frame.heads_of == "mood")]
    np.testing.assert_array_equal(own.score, matrix.scores(0.4)[0])
    np.testing.assert_array_equal(own.change, matrix.scores(0.4)[0] - matrix.base)
    scores = matrix.importance["mood"]
    heads = scores.to_frame()
    assert [*zip(heads.site, heads["head"], strict=True)] == scores.ranked()
    found = matrix.dissociation()
    d = found.to_frame()
    assert d.definition.tolist() == ["column"] * 3 + ["row"] * 3 + ["relative"] * 3
    assert d.d_score[2] == found.column.mean
    assert layout.to_frame().heads.tolist() == [5, 7]


def test_figures_show_what_was_measured(matrix, layout):
    pytest.importorskip("matplotlib")
    figure = matrix.plot()
    axes = figure.axes[0]
    own = [bar.get_height() for bar in axes.containers[1].patches]  # after the error bars
    np.testing.assert_allclose(own, matrix.scores()[0] - matrix.base)
    assert [label.get_text() for label in axes.get_xticklabels()] == list(TASKS)
    maps = matrix.plot("importance").axes
    assert [one.get_title() for one in maps[:2]] == list(TASKS)
    scores = matrix.importance["mood"]
    np.testing.assert_allclose(
        maps[0].images[0].get_array(), 100 * scores.values / scores.values.max()
    )
    assert figure._repr_png_().startswith(b"\x89PNG")
    into = matrix.plot("sites")
    assert scores.plot("sites", ax=into.axes[0]) is into
    assert matrix.dissociation().plot().axes[0].get_ylabel() == "D-score, %"
    with pytest.raises(ConfigError, match="no figure 'heads': expected lesions, importance, sites"):
        matrix.plot("heads")
    with pytest.raises(ConfigError, match="2 panels: leave ax out"):
        matrix.plot("importance", ax=into.axes[0])
    with pytest.raises(ConfigError, match="HeadLayout has no figure"):
        layout.plot()


def test_names_are_no_formulas():
    pytest.importorskip("matplotlib")
    scores = HeadScores(np.ones((1, 1)), {"task": r"$\no_{$"})
    for kind in ("importance", "sites"):
        assert scores.plot(kind)._repr_png_().startswith(b"\x89PNG")


def test_without_matplotlib_one_sentence_says_what_to_install():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from lobes.scores import HeadScores; import numpy as np\n"
        "try: HeadScores(np.ones((2, 3))).plot()\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("ConfigError Figures are drawn by matplotlib, which is not inst")
    assert 'pip install "lobes[plot]"' in done.stdout
