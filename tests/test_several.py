"""Several runs as one: their tables read back, and what they say together."""

import json
import shutil

import numpy as np
import pytest

from lobes.config.study import load_study
from lobes.dissociation.over_runs import dissociation_over_runs
from lobes.dissociation.verdict import LESS_ALIKE, SPECIALIZED
from lobes.errors import RunError
from lobes.experiments.pooled_runs import pooled_results, stored_run
from lobes.experiments.reports import write_exhibits
from lobes.files import read_json
from lobes.results import content_of
from plain_results import read_results, report_again, report_runs, run_study
from tiny_study import write_study


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three runs of one study, with different seeds."""
    folder = tmp_path_factory.mktemp("several")
    path = write_study(folder)
    found = []
    for seed in range(3):
        settings = [f"seed={seed}", "iap.agreement_examples=0", "iap.similarity_examples=0"]
        study = load_study(path, settings)
        study = study.model_copy(update={"output": str(folder / f"run{seed}")})
        run_study(study)
        found.append(folder / f"run{seed}")
    return found


def test_a_stored_matrix_is_the_measured_one(runs):
    results = read_results(runs[1])
    matrix = stored_run(runs[1])[1]
    assert matrix.tasks == ("mood", "topic")
    assert matrix.base.tolist() == [task["base"] for task in results["tasks"]]
    for entry in results["fractions"]:
        fraction = entry["fraction"]
        assert matrix.scores(fraction).tolist() == entry["scores"]
        assert matrix.control_scores(fraction).tolist() == entry["control_scores"]
        found = matrix.dissociation(fraction, resamples=50, seed=results["iap"]["seed"])
        assert found.column.interval.tolist() == entry["dissociation"]["column"]["interval"]
        assert [pair.p_holm for pair in found.pairs] == [p["p_holm"] for p in entry["pairs"]]
        for task, heads in entry["lesions"].items():
            assert str(matrix.lesion(task, fraction).heads) == heads
    for entry in results["importance"]:
        assert matrix.importance[entry["task"]].values.tolist() == entry["values"]


def test_several_runs_say_what_their_matrices_say(runs):
    found = content_of(pooled_results(runs))
    matrices = [stored_run(run)[1] for run in runs]
    assert [run["seed"] for run in found["runs"]] == [0, 1, 2]
    assert [run["name"] for run in found["runs"]] == ["run0", "run1", "run2"]
    assert found["base"] == [matrix.base.tolist() for matrix in matrices]
    assert [entry["fraction"] for entry in found["fractions"]] == [0.2, 0.5]
    assert [task["multi_label"] for task in found["tasks"]] == [False, False]
    assert [run["iat_steps"] for run in found["runs"]] == [None] * 3
    assert found["growth"] is None
    assert [verdict["claim"] for verdict in found["verdicts"]] == [SPECIALIZED, LESS_ALIKE]
    note = "2 tasks make 1 pair, too few for a correlation: it takes 4 tasks or more."
    assert {each["trend"]["note"] for each in found["similarity"]["measures"]} == {note}
    alike = [read_results(run)["similarity"] for run in runs]
    for place, measure in enumerate(found["similarity"]["measures"]):
        each = [np.array(own["measures"][place]["values"], float) for own in alike]
        np.testing.assert_allclose(np.array(measure["values"], float), np.mean(each, axis=0))
    pairs = [np.array(own["pair_d_scores"], float) for own in alike]
    mean = np.array(found["similarity"]["pair_d_scores"], float)
    np.testing.assert_allclose(mean, np.mean(pairs, axis=0))
    for entry in found["fractions"]:
        expected = dissociation_over_runs(matrices, entry["fraction"], resamples=50)
        column = entry["dissociation"]["column"]
        assert column["mean"]["mean"] == expected.column.mean.mean
        assert (column["mean"]["low"], column["mean"]["high"]) == pytest.approx(
            (expected.column.mean.low, expected.column.mean.high)
        )
        assert column["p_controls"] == expected.column.p_controls
        assert np.shape(column["values"]) == (3, 2)
        assert entry["n_controls"] == 3
        (pair,), (mean,) = entry["pairs"], expected.pairs
        assert [effect["mean"] for effect in pair["effects"]] == [e.mean for e in mean.effects]
        assert pair["p_holm"] == (None if np.isnan(mean.p_holm) else pytest.approx(mean.p_holm))


def test_runs_that_cannot_be_taken_together(runs, tmp_path):
    with pytest.raises(RunError, match="A run is named twice"):
        pooled_results([runs[0], runs[1], runs[0]])
    shutil.copytree(runs[0], tmp_path / "broken")
    (tmp_path / "broken" / "predictions.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(RunError, match=r"broken.predictions\.parquet is damaged: its SHA-256"):
        pooled_results([runs[0], tmp_path / "broken"])
    shutil.copytree(runs[0], tmp_path / "other")
    path = tmp_path / "other" / "results.json"
    results = json.loads(path.read_text())
    results["tasks"].reverse()
    path.write_text(json.dumps(results))
    with pytest.raises(RunError, match=r"other.results\.json is damaged: its SHA-256"):
        pooled_results([runs[0], tmp_path / "other"])
    (tmp_path / "other" / "files.json").unlink()
    with pytest.raises(RunError, match=r"other.results\.json is damaged: its content does not"):
        pooled_results([runs[0], tmp_path / "other"])
    del results["sha256"]
    path.write_text(json.dumps(results))
    with pytest.raises(
        RunError, match=r"cannot be taken together\. Run 2 has the tasks topic, mood"
    ):
        pooled_results([runs[0], tmp_path / "other"])
    with pytest.raises(RunError, match="give the folder of a finished run"):
        pooled_results([runs[0], tmp_path])
    (tmp_path / "runs.json").write_text("{}")
    with pytest.raises(RunError, match=r"taken together, and is no run itself: name the single"):
        pooled_results([runs[0], tmp_path])


def test_controls_on_a_sample_and_stopped_early_are_read_back(runs, tmp_path):
    path = write_study(tmp_path)
    settings = ["iap.controls=79", "iap.control_examples=31"]
    study = load_study(path, [*settings, "iap.agreement_examples=0", "iap.similarity_examples=0"])
    results = run_study(study)
    controls = results["controls"]
    assert controls["sample"] == {"mood": 31, "topic": 31}
    assert (controls["most"], controls["look"]) == (79, 39)
    measured = results["fractions"][-1]["n_controls"]
    assert controls["stopped"] == (measured == 39) == (measured < 79)
    matrix = stored_run(tmp_path / "run")[1]
    entry = results["fractions"][-1]
    assert matrix.scores().tolist() == entry["scores"]
    assert matrix.control_scores().tolist() == entry["control_scores"]
    assert matrix.over_fractions(resamples=1).p == results["over_fractions"]["p"]
    found = matrix.dissociation(resamples=50)
    column = entry["dissociation"]["column"]
    assert found.column.mean_p == column["mean_p"]
    assert found.column.compared_mean == pytest.approx(column["compared_mean"])
    far = column["mean_standardized"]
    assert found.column.mean_standardized == pytest.approx(
        np.nan if far is None else far, nan_ok=True
    )


def test_a_page_written_again_is_the_same(runs):
    page = (runs[0] / "report.html").read_bytes()
    assert b'id="examples"' in page
    _, path = report_again(runs[0])
    assert path.read_bytes() == page


def test_the_examples_of_a_run_are_among_its_tables(runs, tmp_path):
    written = {path.name: path for path in write_exhibits(runs[0], tmp_path, png=False)}
    assert {"flips-0.csv", "flips-1.tex", "map-0.svg", "strip-1-0.svg"} <= set(written)
    header, *rows = written["flips-0.csv"].read_text(encoding="utf-8").splitlines()
    assert len(rows) >= 2
    assert all(row.count(",") == header.count(",") for row in rows)


def test_the_page_of_several_runs(runs, tmp_path):
    content, page = report_runs(runs, tmp_path / "all" / "together", tmp_path / "page.html")
    assert page == tmp_path / "page.html"
    content, page = report_runs(runs, tmp_path / "together")
    assert content == read_json(tmp_path / "together" / "runs.json")
    assert "Over 3 runs, do the 2 tasks (mood and topic)" in page.read_text()
    first = page.read_bytes()
    again, page = report_again(tmp_path / "together")
    assert again == content
    assert page.read_bytes() == first
    with pytest.raises(RunError, match="give the folder of a finished run"):
        report_runs([runs[0], tmp_path], tmp_path / "none")
    assert not (tmp_path / "none").exists()
