"""Tasks whose answers are generated have the harness's own scores, and go through all of IAP."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import lobes
from lobes.ablation import ablate, record_contexts
from lobes.cli import app
from lobes.config.study import load_study
from lobes.discovery import find_heads
from lobes.errors import ConfigError, DataError
from lobes.experiments.estimate import Forecast
from lobes.experiments.rates import Cost
from lobes.heads import HeadSet
from lobes.measure.evaluation import evaluate
from lobes.measure.importance import head_importance
from lobes.modeling import HarnessModel
from lobes.tasks import generation
from lobes.tasks.harness import harness_task
from lobes.tasks.task import Task
from plain_results import run_study
from tiny_harness import (
    bpe_tokenizer,
    measured_by_harness,
    tiny_llama,
    write_harness_study,
    write_tasks,
)

pytest.importorskip("lm_eval")

HEADS = HeadSet.parse("0:1,4 2:3")
TOKENS = 5
HEAD = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{train: "{folder}/train.jsonl", validation: "{folder}/validation.jsonl"}}
output_type: generate_until
training_split: train
validation_split: validation
doc_to_text: "{{{{start}}}}"
doc_to_target: "{{{{end}}}}"
"""
KWARGS = f"generation_kwargs: {{until: [with], max_gen_toks: {TOKENS}}}\n"
EXACT = "metric_list:\n  - {metric: exact_match, aggregation: mean, higher_is_better: true}\n"
FILTERS = """filter_list:
  - {name: strict, filter: [{function: take_first}]}
  - name: first
    filter:
      - {function: regex, regex_pattern: "(\\\\S)"}
      - {function: take_first}
"""
SHARE = """
def scored(doc, results):
    wanted, said = set(doc["end"].split()), set(results[0].split())
    return {
        "characters": len(results[0]),
        "share": len(wanted & said) / max(len(wanted | said), 3),
        "pairs": (doc["end"], results[0]),
        "error": 1.0 - (wanted == said),
    }
"""
ODD = """
def odd(doc, results):
    if results[0] == doc["end"]:
        return {"none": 1.0, "list": 1.0, "lacking": 1.0, "nan": 1.0}
    return {"none": None, "list": [1.0], "nan": float("nan")}
"""
SCORED = "process_results: !function scoring.scored\nmetric_list:\n" + "".join(
    f"  - {{metric: {name}, aggregation: {how}, higher_is_better: {better}}}\n"
    for name, how, better in (
        ("characters", "mean", "true"),
        ("share", "mean", "true"),
        ("pairs", "bleu", "true"),
        ("error", "mean", "false"),
    )
)
TASKS = {
    "exact": KWARGS + EXACT,
    "filters": KWARGS + EXACT + FILTERS,
    "share": KWARGS + SCORED,
    "short": KWARGS + EXACT + "num_fewshot: 1\n",
    "random": "generation_kwargs: {until: [with], do_sample: true, temperature: 0.7}\n" + EXACT,
    "warm": "generation_kwargs: {until: [with], temperature: 0.7}\n" + EXACT,
    "nothing": "generation_kwargs: {until: [with], max_gen_toks: 0}\n" + EXACT,
    "many": "generation_kwargs: {until: [with], max_gen_toks: many}\n" + EXACT,
    "stops": "generation_kwargs: {until: [with, 3], max_gen_toks: 5}\n" + EXACT,
    "misspelt": "generation_kwargs: {until: [with], max_gen_toks: 5, num_beam: 2}\n" + EXACT,
    "mute": KWARGS + EXACT + "doc_to_target: 0\n",
    "blank": KWARGS + EXACT + "doc_to_target: ''\n",
    **{
        f"odd_{name}": f"{KWARGS}process_results: !function oddities.odd\nmetric_list:\n"
        f"  - {{metric: {name}, aggregation: mean, higher_is_better: true}}\n"
        for name in ("none", "list", "lacking", "nan")
    },
    "often": KWARGS + EXACT + "repeats: 3\n",
    "code": KWARGS + EXACT + "unsafe_code: true\n",
    "endless": "generation_kwargs: {until: [with], max_gen_toks: 400}\n" + EXACT,
    "corpus": KWARGS + EXACT.replace("exact_match, aggregation: mean", "bleu, aggregation: bleu"),
}


@pytest.fixture(scope="module")
def tokenizer():
    return bpe_tokenizer()


@pytest.fixture(scope="module")
def llama(tokenizer):
    return tiny_llama(len(tokenizer))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, llama, tokenizer):
    """Task files over sentences of which every other one goes on as the model would."""
    folder = write_tasks(tmp_path_factory.mktemp("generation"))
    for split, source in (("train", "pick.train"), ("validation", "pick.validation")):
        lines = (folder / f"{source}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        for row in rows[::2]:
            row["end"] = said(llama, tokenizer, row["start"]) or row["end"]
        text = "\n".join(json.dumps({key: row[key] for key in ("start", "end")}) for row in rows)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    (folder / "scoring.py").write_text(SHARE, encoding="utf-8")
    (folder / "oddities.py").write_text(ODD, encoding="utf-8")
    for name, text in TASKS.items():
        head = HEAD.format(name=name, folder=folder).lstrip()
        if "doc_to_target" in text:
            head = "".join(
                line for line in head.splitlines(keepends=True) if "doc_to_target" not in line
            )
        (folder / f"{name}.yaml").write_text(head + text, encoding="utf-8")
    return folder


def said(llama, tokenizer, text):
    inputs = tokenizer(text, return_tensors="pt")
    length = inputs.input_ids.shape[1]
    out = llama.generate(
        input_ids=inputs.input_ids,
        attention_mask=inputs.attention_mask,
        max_new_tokens=TOKENS,
        do_sample=False,
        pad_token_id=1,
    )
    return tokenizer.decode(out[0, length:], skip_special_tokens=True).split("with")[0]


def of_the_harness(llama, tokenizer, folder, name, **settings):
    return measured_by_harness(llama, tokenizer, folder, name, **settings)["results"][name]


@pytest.fixture(scope="module")
def tasks(folder):
    return [
        harness_task("exact", include=folder),
        harness_task("filters", include=folder, metric="exact_match,first", limit=13),
        harness_task("share", include=folder, limit=17),
        harness_task("short", include=folder, limit=11),
        harness_task("pick", include=folder, limit=7),
    ]


@pytest.fixture(scope="module")
def model(llama, tokenizer, tasks):
    return HarnessModel(llama, tokenizer, tasks)


@pytest.mark.parametrize("heads", [HeadSet(), HEADS])
def test_scores_are_those_of_the_harness(llama, tokenizer, folder, tasks, model, heads):
    found = evaluate(model, tasks, [HEADS, heads], tokens_per_batch=101)
    scores = dict(zip((task.name for task in tasks), found.scores()[1], strict=True))
    limits = {task.name: len(task.validation) for task in tasks}
    keys = {"share": "share,none", "filters": "exact_match,first"}
    if not heads:
        keys = {"share": "share,none", "exact": "exact_match,none", "short": "exact_match,none"}
    with ablate(llama, heads):
        for name, key in keys.items():
            expected = of_the_harness(llama, tokenizer, folder, name, limit=limits[name])[key]
            assert scores[name] == expected
    if not heads:
        assert 0.3 < scores["exact"] < 0.7
        assert 0 < scores["share"] < 1


def test_each_text_has_its_own_value(folder, llama, tokenizer, tasks, model):
    """Against `generate` on each prompt by itself."""
    task = tasks[0]
    found = evaluate(model, task).predictions("exact")[0]
    assert found.dtype == np.float64
    pairs = zip(task.validation.texts, found, strict=True)
    for (prompt, rows), value in pairs:
        reference = json.loads(rows)[0]["text"].removeprefix(" ")
        assert value == float(said(llama, tokenizer, prompt) == reference)
    some = task.replace(validation=task.validation.select([5, 2, 2]))
    assert evaluate(model, some).predictions("exact")[0].tolist() == found[[5, 2, 2]].tolist()


def test_a_metric_of_the_evaluate_library_s_kind(tasks, folder):
    """Without a name the first metric that is a mean from 0 to 1 is taken."""
    assert '"judge": "share share,none' in tasks[2].validation.texts[0][1]
    named = harness_task("filters", include=folder, limit=3)
    assert '"judge": "filters exact_match,strict' in named.validation.texts[0][1]
    assert tasks[0].metric == "generated"
    assert tasks[0].validation.labels.tolist() == [1.0] * 19


def test_importance_is_that_of_the_reference_text(model, tasks):
    task = tasks[0].replace(train=tasks[0].train.select(range(5)))
    expected = np.zeros(find_heads(model).shape)
    for example in model.encode("exact", task.train).examples:
        (pair,) = example.pairs
        with record_contexts(model.model, gradients=True) as record, torch.enable_grad():
            logits = model.model(input_ids=torch.tensor([pair.read])).logits[0].log_softmax(-1)
            places = range(len(pair.read) - len(pair.target), len(pair.read))
            loss = -sum(logits[p, t] for p, t in zip(places, pair.target, strict=True))
            gradients = record.gradients(loss)
            for site, (contexts, each) in enumerate(zip(record.calls, gradients, strict=True)):
                product = (contexts[0] * each[0]).detach().unflatten(-1, (6, -1))
                expected[site] -= product.sum((0, 1, 3)).numpy() / 5
    found = head_importance(model, task).values
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_means_stand_in_for_contexts(llama, model, tasks):
    task = tasks[0].replace(validation=tasks[0].validation.select(range(6)))
    means = lobes.measure.evaluation.task_means(model, task)
    found = evaluate(model, task, [HEADS], value="mean")
    with ablate(llama, HEADS, value="mean", data=means["exact"]):
        expected = model.generated("exact", task.validation, 6)
    assert found.predictions("exact")[0].tolist() == expected.tolist()
    with pytest.raises(ConfigError, match='value = "resample" has no contexts of other texts'):
        evaluate(model, task, [HEADS], value="resample")


@pytest.fixture(scope="module")
def study(tmp_path_factory, llama, tokenizer, folder):
    here = tmp_path_factory.mktemp("study")
    tasks = {"exact": 'limit = 17, metric = "exact_match"', "pick": "limit = 13"}
    more = "control_examples = 11"
    return write_harness_study(here, llama, tokenizer, folder, tasks, more)


def test_a_study(study, llama, tokenizer, folder):
    results = run_study(load_study(study))
    exact, pick = results["tasks"]
    expected = of_the_harness(llama, tokenizer, folder, "exact", limit=17)
    assert exact["base"] == expected["exact_match,none"]
    assert (exact["metric"], exact["chance"], pick["metric"]) == ("generated", 0, "accuracy")
    assert (exact["source_metric"], pick["source_metric"]) == ("exact_match", "acc")
    page = (study.parent / "run" / "report.html").read_text(encoding="utf-8")
    assert "generated text" in page
    assert ">exact_match<" in page
    assert ">acc<" in page
    assert ">generated<" not in page


def test_a_metric_is_shown_with_its_filter_where_there_are_several(folder):
    assert harness_task("filters", include=folder, limit=3).source_metric == "exact_match,strict"


def test_an_estimate_knows_what_generating_takes(study):
    forecast = Forecast.of(load_study(study))
    assert forecast.rates.generated["exact"].each > 0
    before = forecast.estimate(power=False).seconds["lesions"]
    each = forecast.rates.generated["exact"].each + 7.0
    rates = replace(forecast.rates, generated={"exact": Cost(0.0, each)})
    forecast.rates = replace(rates, lesion=Cost(0.0, 0.0))
    work = forecast.estimate(power=False).work
    sets = [17 * runs.sets for runs in work.runs if not runs.sampled]
    sets += [11 * runs.sets for runs in work.runs if runs.sampled]
    expected = forecast.rates.trial + each * sum(sets)
    assert forecast.estimate(power=False).seconds["lesions"] == pytest.approx(expected)
    assert before > 0


def test_the_command_plans_and_evaluates(study, folder):
    result = CliRunner().invoke(app, ["plan", str(study)])
    assert result.exit_code == 0, result.output
    given = [str(study.parent / "model"), "--tasks", "exact", "--include", str(folder)]
    result = CliRunner().invoke(app, ["eval", *given, "--limit", "5", "--ablate", "0:1"])
    assert result.exit_code == 0, result.output
    assert "exact_match" in result.stdout


@pytest.mark.parametrize(
    ("name", "settings", "error", "sentence"),
    [
        ("random", {}, ConfigError, r"draws texts at random \(do_sample: True, temperature: 0.7\)"),
        ("warm", {}, ConfigError, r"draws texts at random \(temperature: 0.7\)"),
        ("nothing", {}, ConfigError, "lets the model generate 0 tokens"),
        ("many", {}, ConfigError, "generation_kwargs that the harness cannot read .*'many'"),
        ("stops", {}, ConfigError, r"has the stop string 3, no text \(until\)"),
        ("mute", {}, ConfigError, "has no reference texts: its doc_to_target is 0"),
        ("blank", {}, ConfigError, "has no reference texts: its doc_to_target is ''"),
        ("often", {}, ConfigError, "asks each question 3 times"),
        ("code", {}, ConfigError, "runs the code that a model writes"),
        ("corpus", {}, ConfigError, "'corpus' has no metric that lobes measures.*into 'bleu'"),
        ("share", {"metric": "pairs"}, ConfigError, "'pairs', whose values are not averaged"),
        ("share", {"metric": "error"}, ConfigError, "'error', of which less is better"),
        ("share", {"metric": "characters"}, ConfigError, "'characters', which gives .* to the ref"),
        ("exact", {"metric": "rouge1"}, ConfigError, "has the metrics 'exact_match,none', and not"),
        ("filters", {"metric": "exact_match,last"}, ConfigError, "of other filters"),
    ],
)
def test_tasks_that_cannot_be(folder, name, settings, error, sentence):
    with pytest.raises(error, match=sentence):
        harness_task(name, include=folder, **settings)


def test_texts_that_are_too_long(folder, llama, tokenizer):
    task = harness_task("endless", include=folder, limit=3)
    with pytest.raises(DataError, match="generate 400 tokens, and it reads at most 97"):
        evaluate(HarnessModel(llama, tokenizer, [task]), task)


def test_a_value_beyond_1_is_refused(tasks, model, monkeypatch):
    rows = [{"exact_match": 2.0}] * 19
    monkeypatch.setattr(generation.Judge, "rows", lambda *_: rows)
    with pytest.raises(DataError, match="gives the exact_match 2 to a text"):
        evaluate(model, tasks[0])


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("odd_none", "'odd_none' gives the none None to a text"),
        ("odd_list", r"'odd_list' gives the list \[1.0\] to a text"),
        ("odd_lacking", "'odd_lacking' gives the lacking None to a text"),
        ("odd_nan", "'odd_nan' gives the nan nan to a text"),
        ("misspelt", "cannot let the model generate text for 'misspelt', and says: .*num_beam"),
    ],
)
def test_what_only_a_models_text_shows(folder, llama, tokenizer, name, sentence):
    metric = name.removeprefix("odd_") if name.startswith("odd_") else None
    task = harness_task(name, include=folder, metric=metric, limit=5)
    with pytest.raises(DataError, match=sentence):
        evaluate(HarnessModel(llama, tokenizer, [task]), task)


def test_tasks_of_one_name_are_scored_by_their_own_code(folder, tmp_path, llama, tokenizer):
    """Two folders, or an edited file, whose tasks differ in what their function says alone."""
    found = []
    for value in (0.25, 0.75):
        here = tmp_path / str(value)
        here.mkdir()
        text = (folder / "share.yaml").read_text(encoding="utf-8")
        (here / "share.yaml").write_text(text, encoding="utf-8")
        body = SHARE.partition("return")[0] + f"return {{'share': {value}}}\n"
        (here / "scoring.py").write_text(body, encoding="utf-8")
        found.append(harness_task("share", include=here, metric="share", limit=3))
    for task, value in zip(found, (0.25, 0.75), strict=True):
        assert evaluate(HarnessModel(llama, tokenizer, [task]), task).scores() == value


def test_an_edited_task_file_is_read_again(folder, tmp_path):
    text = (folder / "exact.yaml").read_text(encoding="utf-8")
    prompts = []
    for said in ("{{start}}", "Say: {{start}}"):
        (tmp_path / "exact.yaml").write_text(text.replace("{{start}}", said), encoding="utf-8")
        prompts.append(harness_task("exact", include=tmp_path, limit=1).validation.texts[0][0])
    assert prompts[1] == f"Say: {prompts[0]}"


def test_one_document_is_not_enough(folder, tmp_path):
    (tmp_path / "one.jsonl").write_text('{"start": "the boat", "end": "wave"}', encoding="utf-8")
    text = (folder / "exact.yaml").read_text(encoding="utf-8").replace("training_split: train", "")
    text = text.replace(f"{folder}/validation", f"{tmp_path}/one")
    (tmp_path / "exact.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"'exact' has 1 document, .* expected two or more"):
        harness_task("exact", include=tmp_path)


def test_a_task_of_another_process(tasks, model, monkeypatch):
    monkeypatch.setattr(generation, "_judges", {})
    with pytest.raises(DataError, match=r"make the task here, with lobes\.harness_task"):
        evaluate(model, tasks[0])


def test_the_metric_is_for_such_tasks_only():
    data = [{"t": "a", "label": 0.5}, {"t": "b", "label": 1.0}]
    with pytest.raises(ConfigError, match="has the metric 'generated', which is that of a text"):
        Task("x", train=data, text="t", metric="generated")


def test_documents_are_known_by_what_they_hold(folder):
    """So that a study goes on elsewhere, and no document is taken for another."""
    one = harness_task("exact", include=folder, limit=3)
    again = harness_task("exact", include=Path(folder), limit=5)
    assert one.validation.texts == again.validation.texts[:3]
    names = {json.loads(rows)[0]["document"] for _, rows in again.validation.texts}
    assert len(names) == 5
