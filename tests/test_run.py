"""A study from its files to its results, interrupted wherever it can be."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from lobes.config.study import StudyConfig, load_study, override, with_trained_model
from lobes.dissociation import Lesion, LesionMatrix
from lobes.errors import ConfigError, DataError, ModelError, RunError
from lobes.experiments import run as run_module
from lobes.experiments.loading import load_tasks, new_model
from lobes.experiments.open_model import find_model_heads
from lobes.experiments.pooled_runs import pooled_results
from lobes.experiments.predict import predict_run
from lobes.heads import HeadSet
from lobes.results import RunResults, read
from lobes.results.tables import read_matrix
from lobes.scores import HeadScores
from plain_results import read_results, run_study
from tiny_study import timeless, write_study
from tiny_tasks import mood_task, topic_task


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study's file, after its run has gone to the end in the folder `run` beside it."""
    path = write_study(tmp_path_factory.mktemp("study"))
    results = run_study(load_study(path))
    assert results == read_results(path.parent / "run")
    return path


@pytest.fixture
def study(finished, tmp_path):
    """The same study, its run still to be made."""
    return load_study(finished).model_copy(update={"output": str(tmp_path / "run")})


@pytest.fixture
def copied(finished, tmp_path):
    """The same study, with a copy of its finished run."""
    shutil.copytree(finished.parent / "run", tmp_path / "run")
    return load_study(finished).model_copy(update={"output": str(tmp_path / "run")})


@pytest.fixture(scope="module")
def expected(finished):
    return timeless(read_results(finished.parent / "run"))


def test_what_a_finished_run_holds(finished):
    folder = finished.parent / "run"
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        "config.json",
        "files.json",
        "importance.parquet",
        "measurements",
        "model",
        "predictions.parquet",
        "report.html",
        "results.json",
        "texts.parquet",
    ]
    results = read_results(folder)
    assert results["model"]["name"] == "model"
    assert [site["n_heads"] for site in results["model"]["sites"]] == [5, 5]
    assert [task["n_validation"] for task in results["tasks"]] == [53, 47]
    assert results["training"]["steps"] == 23
    assert results["training"]["scores"][-1]["step"] == 23
    assert [entry["n_heads"] for entry in results["fractions"]] == [2, 5]
    assert np.shape(results["fractions"][0]["control_scores"]) == (3, 2, 2)
    assert results["environment"]["precision"] == "fp32"
    times = results["times"]
    assert sorted(times) == [
        *("agreement", "evaluation", "growth", "importance", "similarity", "total", "training")
    ]
    assert 2 * times["total"] == pytest.approx(sum(times.values()))
    assert [stage for stage, seconds in times.items() if not seconds] == ["growth"]


def test_a_finished_run_can_be_given_more_controls(copied, study, expected, tmp_path):
    more = ("iap.controls=19", "iap.resamples=60")  # in groups of 16 lesions: not all is new
    before = {path.name for path in Path(copied.output, "measurements").iterdir()}
    topped_up = run_study(override(copied, *more))
    assert [len(entry["control_scores"]) for entry in topped_up["fractions"]] == [19, 19]
    kept = {path.name for path in Path(copied.output, "measurements").iterdir()}
    assert before < kept
    assert (
        json.loads(Path(copied.output, "config.json").read_text())["config"]["iap"]["controls"]
        == 19
    )
    # the same as measured at once
    at_once = override(study, *more).model_copy(update={"output": str(tmp_path / "at-once")})
    shutil.copytree(copied.output, at_once.output)
    shutil.rmtree(Path(at_once.output, "measurements"))
    for name in ("results.json", "importance.parquet", "predictions.parquet"):
        Path(at_once.output, name).unlink()
    again = run_study(at_once)
    for key in ("fractions", "importance", "tasks"):
        assert timeless(again)[key] == timeless(topped_up)[key]
    # and back again: the first three are the same lesions
    assert timeless(run_study(copied))["fractions"] == expected["fractions"]


def test_a_fresh_start_does_not_delete_the_model_that_it_measures(copied):
    model = Path(copied.output, "model")
    with pytest.raises(RunError, match="--fresh would delete the model to be measured"):
        run_study(with_trained_model(copied, str(model)), stages=("iap", "report"), fresh=True)
    assert (model / "training.json").exists()


def test_the_texts_of_the_examples_are_kept_unless_they_shall_not(finished, copied):
    rows = pq.read_table(finished.parent / "run" / "texts.parquet").to_pylist()
    tasks = [mood_task(), topic_task()]
    assert [row["texts"] for row in rows] == [
        list(texts) for task in tasks for texts in task.validation.texts
    ]
    assert [row["example"] for row in rows] == [*range(53), *range(47)]
    run_study(copied.model_copy(update={"keep_texts": False}))
    assert not os.path.exists(os.path.join(copied.output, "texts.parquet"))


def test_the_tables_hold_what_the_results_say(finished):
    """Everything in results.json that is a statistic follows from the two tables."""
    folder = finished.parent / "run"
    results = read_results(folder)
    rows = pq.read_table(folder / "predictions.parquet").to_pandas()
    tasks = tuple(task["name"] for task in results["tasks"])
    lesions, predictions = [], {task: [] for task in tasks}
    for _, part in rows.groupby("lesion", observed=True, sort=True):
        first = part.iloc[0]
        heads = HeadSet.parse(first["heads"])
        about = (first["lesioned_task"], float(first["fraction"]), int(first["replicate"]))
        lesions.append(Lesion(heads, first["kind"], *about))
        for task in tasks:
            predictions[task].append(part[part["task"] == task]["prediction"].to_numpy("int64"))
    base = rows[rows["lesion"] == 0]
    matrix = LesionMatrix(
        tasks,
        tuple(task["metric"] for task in results["tasks"]),
        {task: base[base["task"] == task]["label"].to_numpy("int64") for task in tasks},
        tuple(lesions),
        {task: np.array(rows) for task, rows in predictions.items()},
    )
    for entry in results["fractions"]:
        found = matrix.dissociation(entry["fraction"], resamples=50, seed=0)
        np.testing.assert_array_equal(matrix.scores(entry["fraction"]), entry["scores"])
        np.testing.assert_allclose(found.column.values, entry["dissociation"]["column"]["values"])
        np.testing.assert_allclose(
            found.column.interval, entry["dissociation"]["column"]["interval"]
        )
    scores = pq.read_table(folder / "importance.parquet").to_pylist()
    for entry in results["importance"]:
        values = np.array(entry["values"])
        mine = [row for row in scores if row["task"] == entry["task"]]
        assert [values[row["site"], row["head"]] for row in mine] == [
            row["importance"] for row in mine
        ]
        halves = [[row["first_half"], row["second_half"]] for row in mine]
        halves = np.array(halves).T.reshape(2, *values.shape)
        mean = halves.mean(axis=0)  # about: the halves have different numbers of tokens
        np.testing.assert_allclose(values, mean, rtol=0.2, atol=0.05 * abs(values).max())
        assert entry["reliability"] == HeadScores(values, halves=halves).reliability
        assert entry["n_examples"] <= entry["n_available"]
        chosen = HeadScores(values).top(0.5)
        assert results["fractions"][1]["lesions"][entry["task"]] == str(chosen)


def test_nothing_is_done_twice(copied, expected, monkeypatch):
    def never(*_, **__):
        raise AssertionError("this was done already")

    monkeypatch.setattr(run_module, "train", never)
    monkeypatch.setattr(run_module, "lesion_plan", never)
    monkeypatch.setattr(run_module, "load_task_model", never)
    os.remove(os.path.join(copied.output, "report.html"))
    assert timeless(run_study(copied)) == expected
    assert os.path.exists(os.path.join(copied.output, "report.html"))


@pytest.mark.parametrize(
    "lost",
    ["results.json", "measurements", "model/encoder/model.safetensors", "importance.parquet"],
)
def test_what_is_lost_or_damaged_is_made_again(copied, expected, lost):
    path = os.path.join(copied.output, lost)
    if os.path.isdir(path):
        for name in os.listdir(path):
            with open(os.path.join(path, name), "r+b") as file:
                file.truncate(99)
    elif lost == "importance.parquet":
        os.remove(path)
    else:
        with open(path, "r+b") as file:
            file.truncate(99)
        if lost.startswith("model"):
            os.remove(os.path.join(copied.output, "results.json"))
    assert timeless(run_study(copied)) == expected


@pytest.mark.slow
def test_an_interruption_anywhere_changes_no_number(study, expected):
    """Stop at the first call of `progress`, then at the next stage or some steps later, and on."""

    class Stop(KeyboardInterrupt):
        pass

    seen, first_steps = set(), []

    def progress(stage, done, total):
        if stage == "training" and len(first_steps) == session:
            first_steps.append(done)
        point = (stage, done if stage != "training" else done // 8)
        if point not in seen:
            seen.add(point)
            raise Stop

    for _ in range(100):
        session = len(first_steps)
        try:
            results = run_study(study, progress=progress)
            break
        except Stop:
            continue
    assert first_steps == [1, 1, 6, 16]  # a checkpoint every 5 steps; stops at 1, 8 and 16
    assert len(seen) > 10
    assert {stage for stage, _ in seen} == {
        "reading data",
        "training",
        "importance of mood",
        "importance of topic",
        "lesions",
        "each head of mood",
        "each head of topic",
        "estimates for mood",
        "estimates for topic",
        "gradients",
        "representations",
    }
    assert timeless(results) == expected
    assert not os.path.exists(os.path.join(study.output, "checkpoints"))


def test_one_stage_at_a_time(study, expected):
    with pytest.raises(RunError) as caught:
        run_study(study, stages=("iap", "report"))
    assert str(caught.value) == (
        f"There is no trained model in {study.output} yet: run `lobes train` or `lobes run` with "
        f"this study first, or name a model with --model."
    )
    assert not os.path.exists(study.output)
    training = run_study(study, stages=("train",))
    assert training["losses"] == expected["training"]["losses"]
    assert run_study(study, stages=("train",)) == training
    with pytest.raises(RunError, match=r"^--fresh would delete the trained model in .*: leave it"):
        run_study(study, stages=("iap", "report"), fresh=True)
    assert timeless(run_study(study, stages=("iap", "report"))) == expected


def test_texts_are_cut_to_what_the_model_takes(study):
    """`max_length` left out: 256, or fewer where the tokenizer or the positions end before."""
    shorter = study.model_copy(update={"max_length": None})
    tasks = load_tasks(shorter)
    assert new_model(shorter, tasks).max_length == 37
    assert new_model(study, tasks).max_length == 31


def test_a_model_trained_elsewhere_reads_texts_as_the_study_says(finished, study):
    elsewhere = with_trained_model(study, str(finished.parent / "run" / "model"))
    tasks = load_tasks(elsewhere)
    assert run_module.given_model(override(elsewhere, "max_length="), tasks).max_length == 31
    assert run_module.given_model(override(elsewhere, "max_length=11"), tasks).max_length == 11
    with pytest.raises(ModelError, match="read the pooling 'pooler', not 'mean'"):
        run_module.given_model(override(elsewhere, "pooling=mean"), tasks)


def test_a_model_trained_elsewhere(finished, study, expected):
    elsewhere = with_trained_model(study, str(finished.parent / "run" / "model"))
    results = timeless(run_study(elsewhere))
    assert results["training"] is None
    assert results["fractions"] == expected["fractions"]
    with pytest.raises(ConfigError, match=r"^training\.enabled is false, so there is nothing to"):
        run_study(elsewhere, stages=("train",))


def test_what_a_model_trained_elsewhere_leaves_of_a_study_is_a_study(finished, study):
    """A run's folder keeps it, and whatever opens the folder reads it again."""
    growing = override(study, "growth.checkpoints=2")
    elsewhere = with_trained_model(growing, str(finished.parent / "run" / "model"))
    assert StudyConfig.from_dict(elsewhere.to_dict()) == elsewhere


def test_a_run_is_read_where_the_model_that_it_began_with_is_gone(finished, tmp_path):
    """As where its folder was copied from another machine."""
    shutil.copytree(finished.parent / "run", tmp_path / "run")
    record = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))
    record.pop("sha256")
    record["config"]["model"] = str(tmp_path / "gone")
    (tmp_path / "run" / "config.json").write_text(json.dumps(record), encoding="utf-8")
    (tmp_path / "run" / "files.json").unlink()
    study = load_study(finished)
    found = predict_run(tmp_path / "run", tmp_path / "to", split="validation", study=study)
    assert [each["task"] for each in found["predictions"]] == ["mood", "topic"]


def test_one_task_has_no_dissociation(finished, tmp_path):
    study = override(
        load_study(finished), 'iap.lesion_tasks=["mood"]', f"output={tmp_path / 'run'}"
    )
    results = run_study(with_trained_model(study, str(finished.parent / "run" / "model")))
    assert [entry["dissociation"] for entry in results["fractions"]] == [None, None]
    assert results["fractions"][0]["scores"][1] == [None, None]


def test_a_study_of_kept_heads(finished, tmp_path):
    folder, other = tmp_path / "run", finished.parent / "run"
    changes = ["iap.lesion=keep", "iap.value=mean", "iap.agreement_examples=0", f"output={folder}"]
    study = override(load_study(finished), *changes)
    run_study(with_trained_model(study, str(other / "model")))
    results = read(folder, RunResults)
    matrix = read_matrix(folder, results)
    assert matrix.keep
    assert matrix.lesions[1:] == read_matrix(other, read(other, RunResults)).lesions[1:]
    scores = matrix.scores()
    np.testing.assert_allclose(scores, results.largest.scores)
    d = matrix.dissociation(resamples=5).column.values
    np.testing.assert_allclose(d, results.largest.dissociation.column.values)
    np.testing.assert_allclose(d[0], 100 * (scores[0, 0] - scores[1, 0]) / matrix.base[0])
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "keeps the heads of its task and ablates all others" in page
    assert "gives its mean context" in page
    with pytest.raises(RunError, match=r"several kinds \(iap.lesion is keep and remove\)"):
        pooled_results([other, folder])


@pytest.mark.parametrize(
    ("setting", "error", "sentence"),
    [
        (
            "iap.fractions=[0.05]",
            ConfigError,
            "A fraction of 0.05 of 10 heads is not one head: take at least 0.1.",
        ),
        ("iap.keep_per_site=5", ConfigError, None),
        ("tasks.mood.label=mood", DataError, None),
        ("model=org/unknown", ModelError, None),
    ],
)
def test_what_cannot_start_leaves_nothing(study, setting, error, sentence):
    with pytest.raises(error) as caught:
        run_study(override(study, setting))
    assert sentence is None or str(caught.value) == sentence
    assert "\n" not in str(caught.value)
    assert not os.path.exists(study.output)


def test_a_model_without_attention(study, tmp_path):
    from transformers import FNetConfig, FNetModel

    from tiny_tasks import tiny_tokenizer

    config = FNetConfig(
        vocab_size=61, hidden_size=30, num_hidden_layers=2, intermediate_size=37, type_vocab_size=2
    )
    FNetModel(config).save_pretrained(tmp_path / "fnet")
    tiny_tokenizer().save_pretrained(tmp_path / "fnet")
    with pytest.raises(ModelError) as caught:
        run_study(override(study, f"model={tmp_path / 'fnet'}"))
    assert "attention" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not os.path.exists(study.output)


def test_data_that_changed_since_the_run_began(copied, finished, tmp_path):
    lines = (finished.parent / "mood.train.csv").read_text().splitlines()
    (tmp_path / "fewer.csv").write_text("\n".join(lines[:-1]))
    moved = tmp_path / "moved.csv"
    moved.write_text("\n".join(lines))
    run_study(override(copied, f"tasks.mood.train={moved}"))
    with pytest.raises(RunError, match="holds a run on other data: data of mood changed"):
        run_study(override(copied, f"tasks.mood.train={tmp_path / 'fewer.csv'}"))


def test_a_model_that_moved_is_the_same_and_another_in_its_place_is_not(
    copied, finished, expected, tmp_path
):
    moved = shutil.copytree(finished.parent / "model", tmp_path / "moved")
    assert timeless(run_study(override(copied, f"model={moved}"))) == expected
    with (moved / "model.safetensors").open("r+b") as file:
        file.seek(-9, os.SEEK_END)
        file.write(b"other")
    with pytest.raises(RunError, match="holds a run of another model: base model changed"):
        run_study(override(copied, f"model={moved}"))


def test_a_disk_that_fills_up_loses_nothing(study, expected, monkeypatch):
    """The first, second or third write of a session fails: a sentence, no fragments, and on."""
    replace, writes, sentences = os.replace, [], []

    def full(*paths):
        writes.append(paths)
        if len(sentences) < 9 and len(writes) == 1 + len(sentences) % 3:
            raise OSError(28, "No space left on device")
        replace(*paths)

    monkeypatch.setattr(os, "replace", full)
    for _ in range(10):
        writes.clear()
        try:
            results = run_study(study)
            break
        except RunError as error:
            sentences.append(str(error))
        names = [name for _, _, files in os.walk(study.output) for name in files]
        assert not [name for name in names if "tmp" in name]
    assert len(sentences) == 9
    said = (
        r"The (disk is full: cannot write .*; make room, then|checkpoint .* could not be written)"
    )
    assert all(re.match(said, text) for text in sentences)
    assert timeless(results) == expected


def test_heads_of_a_folder(finished):
    layout = find_model_heads(str(finished.parent / "model"))
    assert layout.total == find_model_heads(str(finished.parent / "run" / "model")).total == 10
    with pytest.raises(ModelError):
        find_model_heads(str(finished.parent))


def test_fresh_starts_again(copied):
    changed = override(copied, "training.steps=3")
    with pytest.raises(RunError, match=r"another study: training\.steps differs"):
        run_study(changed)
    results = run_study(changed, fresh=True)
    assert results["training"]["steps"] == 3
    stored = json.loads(Path(copied.output, "config.json").read_text())
    assert stored["config"]["training"]["steps"] == 3


@pytest.mark.parametrize(
    ("tracker", "said"), [("wandb", "requires wandb to be installed"), ("wnadb", "wnadb")]
)
def test_a_tracker_that_cannot_be_used_is_named(study, tracker, said):
    with pytest.raises(ConfigError, match=r"report_to is .* cannot be used") as caught:
        run_study(override(study, f"training.report_to={tracker}"))
    assert said in str(caught.value)


def test_a_study_with_iat_keeps_what_it_chose(study):
    results = run_study(override(study, "iat.delta=0.4", "iat.alpha=0.2", "iap.controls=1"))
    record = results["training"]["iat"]
    assert (record["switch_step"], record["steps"], record["n_heads"]) == (14, 9, 10)
    assert {task: len(HeadSet.parse(text)) for task, text in record["heads"].items()} == {
        "mood": 2,
        "topic": 2,
    }
    assert record["settings"]["alpha"] == 0.2
    assert results["training"]["sampling"] == "proportional"
    page = (Path(study.output) / "report.html").read_text()
    assert "Important attention-head training" in page
    assert pooled_results([Path(study.output)]).runs[0].iat_steps == 9


@pytest.mark.slow
def test_the_values_of_variables_are_in_no_file_of_a_run(tmp_path, monkeypatch):
    """What a run's folder holds may be handed on; the environment is its user's own."""
    path = write_study(tmp_path / "here-sekrit", output="run")
    text = path.read_text().replace('"model"', '"${PLACE}/model"')
    for task in ("mood", "topic"):
        text = text.replace(f'"{task}.', f'"${{PLACE}}/{task}.')
    (tmp_path / "study.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLACE", str(path.parent))
    settings = ["iap.controls=0", "iap.agreement_examples=0", "training.steps=5"]
    run_study(load_study(tmp_path / "study.toml", settings))
    files = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
    assert len(files) > 9
    assert [file for file in files if b"sekrit" in file.read_bytes()] == []
