"""`lobes prune`: which heads it takes, what it writes, and what it says of the result."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from torch import Tensor, nn

import lobes
from fake_results import fake_results
from lobes import HeadLayout, HeadScores, HeadSet, Site
from lobes.errors import ConfigError, HeadError, LobesError, ModelError, RunError
from lobes.experiments.heads_to_prune import Choice, mean_rank
from lobes.experiments.model_card import model_card
from lobes.experiments.open_model import open_model
from lobes.experiments.prune import MARKER, _difference, compare_speed, prune_model, timing_inputs
from lobes.modeling import MultiTaskModel
from tiny_models import tiny_inputs, tiny_model
from tiny_tasks import mood_task, tiny_tokenizer, topic_task

HEADS = HeadSet.parse("0:1 1:0,2")
LAYOUT = HeadLayout(
    tuple(Site(i, f"layer.{i}", f"layer.{i}.out", n, 3, "self") for i, n in enumerate((3, 2)))
)
EASY = [[0.1, 0.5, 0.3], [0.2, 0.4, None]]
HARD = [[800.0, 300.0, 100.0], [700.0, 200.0, None]]


def write_results(folder: Path, **changes: Any) -> Path:
    """A run's results with these importance scores."""
    results = fake_results(tasks=("easy", "hard"), sites=(3, 2), fractions=(0.5,), training=False)
    for entry, values in zip(results["importance"], (EASY, HARD), strict=True):
        entry["values"] = values
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results | changes), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with its tokenizer, and files that lie beside such models."""
    folder = tmp_path_factory.mktemp("models") / "bert"
    tiny_model("bert").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    for name in (
        "pytorch_model.bin",
        "README.md",
        "optimizer.pt",
        "checkpoint-7/model.safetensors",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("words")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    (folder / "modules.json").write_text('[{"path": ""}, {"path": "1_Pooling"}]')
    return folder


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(**tiny_inputs(model))[0]


def ablated(model: nn.Module, heads: HeadSet = HEADS) -> Tensor:
    with lobes.ablate(model, heads):
        return outputs(model)


# Which heads


def test_named_heads() -> None:
    assert Choice(drop="0:1 1:0").heads(LAYOUT) == HeadSet.parse("0:1 1:0")


def test_the_least_important_heads_of_a_task(tmp_path: Path) -> None:
    run = write_results(tmp_path)
    assert Choice(run=run, fraction=0.4, task="easy").heads(LAYOUT) == HeadSet.parse("0:0 1:0")
    assert Choice(run=run, fraction=0.4, task="hard").heads(LAYOUT) == HeadSet.parse("0:2 1:1")


def test_without_a_task_ranks_decide_and_not_the_larger_scores(tmp_path: Path) -> None:
    run = write_results(tmp_path)
    # ranks for easy: 1 5 3 | 2 4, for hard: 5 3 1 | 4 2; the means: 3 4 2 | 3 3
    assert Choice(run=run, fraction=0.2).heads(LAYOUT) == HeadSet.parse("0:2")
    assert Choice(run=run, fraction=0.8).heads(LAYOUT) == HeadSet.parse("0:0,2 1:0,1")


def test_the_mean_rank_is_its_plain_definition() -> None:
    generator = np.random.default_rng(0)
    known = np.array([[True, True, True], [True, True, False]])
    tables = [np.where(known, generator.normal(size=(2, 3)), np.nan) for _ in range(7)]
    expected = np.mean(
        [[[np.nansum(table < value) + 1 for value in row] for row in table] for table in tables],
        axis=0,
    )
    found = mean_rank([HeadScores(table) for table in tables]).values
    np.testing.assert_allclose(found[known], expected[known])
    assert np.isnan(found[~known]).all()
    scaled = mean_rank([HeadScores(10.0**i * table) for i, table in enumerate(tables)]).values
    np.testing.assert_array_equal(found, scaled)
    tied = mean_rank([HeadScores(np.array([[1.0, 2.0, 1.0]]))]).values
    assert tied.tolist() == [[1.5, 3.0, 1.5]]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "Which heads are to go? Expected either --drop"),
        ({"drop": "0:1", "run": Path("x")}, "Which heads are to go? Expected either --drop"),
        ({"drop": "0:1", "fraction": 0.3}, "give --from-run with them, or --drop alone."),
        ({"drop": "0:1", "task": "easy"}, "give --from-run with them, or --drop alone."),
        ({"run": Path("x")}, "above 0 and below 1 such as 0.3."),
        ({"run": Path("x"), "fraction": 30.0}, "above 0 and below 1 such as 0.3, not 30."),
        ({"run": Path("x"), "fraction": 1.0}, "above 0 and below 1 such as 0.3, not 1."),
        ({"run": Path("x"), "fraction": -0.1}, "above 0 and below 1 such as 0.3, not -0.1."),
    ],
)
def test_a_choice_is_one_of_two_ways(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Choice(**arguments)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "changes", "sentence"),
    [
        ({"task": "taste"}, {}, "no importance for the task 'taste'; expected one of easy, hard."),
        ({"fraction": 0.1}, {}, "--fraction 0.1 of 5 heads is less than one head"),
        ({}, {"importance": []}, "holds no importance of heads: measure it with `lobes iap`."),
        ({}, {"importance": [{"task": "easy"}]}, 'is damaged: "importance.0.method": field requi'),
        ({}, {"schema": "lobes-comparison"}, "is not a results file of lobes"),
    ],
)
def test_a_run_that_does_not_say(
    tmp_path: Path, arguments: dict[str, Any], changes: dict[str, Any], sentence: str
) -> None:
    choice = Choice(**{"run": write_results(tmp_path, **changes), "fraction": 0.4, **arguments})
    with pytest.raises(LobesError) as caught:
        choice.heads(LAYOUT)
    assert sentence in str(caught.value)


def test_heads_of_another_model(tmp_path: Path) -> None:
    other = HeadLayout((LAYOUT.sites[0],))
    with pytest.raises(ConfigError, match="measured a model with other heads than this one's"):
        Choice(run=write_results(tmp_path), fraction=0.4).heads(other)


def test_heads_that_cannot_go() -> None:
    with pytest.raises(HeadError, match=r"Head 1:2 does not exist: site 1"):
        Choice(drop="0:1 1:2").heads(LAYOUT)
    with pytest.raises(ConfigError, match="--drop names no head"):
        Choice(drop="").heads(LAYOUT)


def test_the_model_of_a_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Which model is to be pruned"):
        Choice(drop="0:1").model()
    run = write_results(tmp_path, training=None, config={"model": "org/measured"})
    assert Choice(run=run, fraction=0.4).model() == "org/measured"
    training = fake_results(tasks=("easy", "hard"))["training"]
    write_results(tmp_path, training=training, config={"model": "org/start"})
    with pytest.raises(RunError, match="There is no trained model in"):
        Choice(run=run, fraction=0.4).model()


# What is written


def test_the_folder_is_whole_and_gives_what_ablation_gives(bert: Path, tmp_path: Path) -> None:
    to = tmp_path / "new" / "smaller"
    record = prune_model(Choice(drop=str(HEADS)), to, model=str(bert))
    torch.testing.assert_close(
        outputs(open_model(to)), ablated(open_model(bert)), rtol=0, atol=1e-5
    )
    assert [path.name for path in to.parent.iterdir()] == ["smaller"]
    names = {path.relative_to(to).as_posix() for path in to.rglob("*") if path.is_file()}
    assert {"README.md", "tokenizer.json", "1_Pooling/config.json", MARKER} < names
    assert not names & {"pytorch_model.bin", "optimizer.pt", "checkpoint-7/model.safetensors"}
    assert json.loads((to / MARKER).read_text())["heads"] == "0:1 1:0,2"
    assert (record["heads"], record["n_heads"]) == ("0:1 1:0,2", [10, 7])
    assert record["dropped_by_site"] == {0: 1, 1: 2}
    # three heads of size 6, with rows of 30 in four matrices and a bias in three of them
    before, after = record["n_parameters"]
    assert before - after == 3 * 6 * (4 * 30 + 3)
    assert record["largest_difference"] <= 1e-5
    assert record["speed"]["ratio"] > 0
    card = ModelCard.load(to / "README.md")  # of a card without metadata
    assert card.data.to_dict() == {
        "library_name": "lobes",
        "tags": ["pruned", "attention-heads", "lobes"],
    }
    for said in ("| 0 | 1 |\n| 1 | 0, 2 |", "without 3 of its 10 attention heads", "\n\nwords\n"):
        assert said in card.text
    assert 'lobes.load_pruned("NAME")' in card.text
    assert "## Scores" not in card.text


def test_scores_are_those_of_the_models_that_were_measured(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lobes.experiments.prune.compare_speed", lambda *_: None)
    results = fake_results(tasks=("easy",), sites=(5, 5), fractions=(0.5,), training=False)
    results["config"]["model"] = str(bert)
    (tmp_path / "results.json").write_text(json.dumps(results), encoding="utf-8")
    choice = Choice(run=tmp_path, fraction=0.5)
    assert "scores" in prune_model(choice, tmp_path / "measured")
    # a model of the same shape, of which nobody knows whether it is the same
    assert "scores" not in prune_model(choice, tmp_path / "other", model=str(bert))


def test_the_model_card_goes_on_from_the_whole_models(tmp_path: Path) -> None:
    heads = HeadSet.parse("0:1 1:0")
    results = fake_results(tasks=("easy", "h|rd"), sites=(3, 2), fractions=(0.5,), training=False)
    results["fractions"][0]["lesions"] = {"easy": "0:0 1:1", "h|rd": str(heads)}
    (tmp_path / "results.json").write_text(json.dumps(results), encoding="utf-8")
    choice = Choice(run=tmp_path, fraction=0.5, task="h|rd")
    scores = choice.scores(heads)
    matrix = results["fractions"][0]["scores"][1]
    assert [score["ablated"] for score in scores] == matrix
    assert [score["whole"] for score in scores] == [task["base"] for task in results["tasks"]]
    assert {score["ablated"] for score in choice.scores(HeadSet.parse("0:2"))} == {None}
    for value, lesion, same in (("mean", "remove", "0:1 1:0"), ("zero", "keep", "0:1 1:0")):
        results["iap"] |= {"value": value, "lesion": lesion}
        (tmp_path / "results.json").write_text(json.dumps(results), encoding="utf-8")
        assert {score["ablated"] for score in choice.scores(HeadSet.parse(same))} == {None}
    kept_others = choice.scores(HeadSet.parse("0:0,2 1:1"))  # all but those of the second lesion
    assert [score["ablated"] for score in kept_others] == matrix
    record = {
        "model": "org/<b>whole</b>", "export": "native", "chosen": choice.rule, "heads": str(heads),
        "n_heads": [5, 3], "n_parameters": [1000, 900], "largest_difference": 2e-7,
        "scores": scores,
    }  # fmt: skip
    base = (
        "---\nlicense: mit\nlanguage: en\ntags:\n- small\n- [1]\nmodel-index:\n- name: whole\n---\n"
        "# Whole\n\nHow it was trained."
    )
    card = ModelCard(model_card(record, "load()", hub_name="org/whole", base=base))
    assert card.data.to_dict() == {
        "license": "mit",
        "language": "en",
        "tags": ["small", "pruned", "attention-heads", "lobes"],
        "library_name": "transformers",
        "base_model": "org/whole",
    }
    assert f"| h\\|rd | {scores[1]['metric']} | {scores[1]['whole']:.4f} | {matrix[1]:.4f} |" in (
        card.text
    )
    assert "\\<b\\>" in card.text
    assert card.text.endswith("# Whole\n\nHow it was trained.\n")
    damaged = ModelCard(model_card(record, "load()", hub_name=None, base="---\n: [\n---\nwords"))
    assert damaged.data.license is None
    assert "words" in damaged.text


def test_zeros_at_full_size_load_in_transformers_alone(bert: Path, tmp_path: Path) -> None:
    to = tmp_path / "zeroed"
    record = prune_model(Choice(drop=str(HEADS)), to, model=str(bert), export="zeroed")
    plain = transformers.AutoModel.from_pretrained(to).eval()
    torch.testing.assert_close(outputs(plain), ablated(open_model(bert)), rtol=0, atol=1e-5)
    assert record["n_parameters"][0] == record["n_parameters"][1]


def test_a_language_model_keeps_its_head_and_its_precision(tmp_path: Path) -> None:
    config = tiny_model("llama").config
    config.tie_word_embeddings = False
    whole = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    whole.save_pretrained(tmp_path / "llama")
    prune_model(Choice(drop="0:0,1"), tmp_path / "new", model=str(tmp_path / "llama"))
    smaller = lobes.load_pruned(tmp_path / "new", dtype="auto")
    assert isinstance(smaller, transformers.LlamaForCausalLM)
    assert {weight.dtype for weight in smaller.parameters()} == {torch.bfloat16}
    assert torch.equal(smaller.lm_head.weight, whole.lm_head.weight)


def test_a_model_with_several_tasks_stays_one(bert: Path, tmp_path: Path) -> None:
    model = MultiTaskModel(
        tiny_model("bert"), tiny_tokenizer(), [mood_task(5, 5), topic_task(5, 5)]
    ).eval()
    model.save_pretrained(tmp_path / "whole")
    prune_model(Choice(drop=str(HEADS)), tmp_path / "new", model=str(tmp_path / "whole"))
    again = MultiTaskModel.from_pretrained(tmp_path / "new").eval()
    tokens = tiny_tokenizer()(["a merry boat", "soup"], padding=True, return_tensors="pt")
    with torch.no_grad(), lobes.ablate(model, HEADS):
        expected = model.logits(**tokens)
    with torch.no_grad():
        found = again.logits(**tokens)
    assert found.keys() == {"mood", "topic"}
    for task, logits in expected.items():
        torch.testing.assert_close(found[task], logits, rtol=0, atol=1e-5)
    assert lobes.find_heads(again).total == 7


def test_a_folder_is_never_overwritten_silently(bert: Path, tmp_path: Path) -> None:
    to = tmp_path / "new"
    to.mkdir()
    (to / "thesis.tex").write_text("words")
    for fresh in (False, True):
        with pytest.raises(RunError, match=r"new exists, and `lobes prune` did not write it"):
            prune_model(Choice(drop="0:1"), to, model=str(bert), fresh=fresh)
    (to / "thesis.tex").unlink()
    prune_model(Choice(drop="0:1"), to, model=str(bert))
    with pytest.raises(RunError, match=r"holds a pruned model: give .* or replace it with --fresh"):
        prune_model(Choice(drop="0:2"), to, model=str(bert))
    assert prune_model(Choice(drop="0:2"), to, model=str(bert), fresh=True)["heads"] == "0:2"
    assert json.loads((to / MARKER).read_text())["heads"] == "0:2"
    (to / "notes.txt").write_text("words")
    with pytest.raises(RunError, match=r"new holds notes\.txt, which `lobes prune` did not write"):
        prune_model(Choice(drop="0:3"), to, model=str(bert), fresh=True)
    assert json.loads((to / MARKER).read_text())["heads"] == "0:2"


def test_nothing_is_left_of_what_failed(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wrong in ("0:9", "0:0,1,2,3,4 1:0,1,2,3,4"):
        with pytest.raises(HeadError):
            prune_model(Choice(drop=wrong), tmp_path / "new", model=str(bert))

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lobes.experiments.prune.compare_speed", stop)
    with pytest.raises(KeyboardInterrupt):
        prune_model(Choice(drop="0:1"), tmp_path / "new", model=str(bert))
    assert list(tmp_path.iterdir()) == []


def test_what_differs_from_ablation_is_not_written(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lobes.experiments.prune.ablate", lambda *_, **__: nullcontext())
    with pytest.raises(ModelError, match="new was not written: loaded back, the pruned model diff"):
        prune_model(Choice(drop="0:1"), tmp_path / "new", model=str(bert))
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_number_is_a_difference_in_any_task(tmp_path: Path) -> None:
    one, none = torch.ones(2, 3), torch.full((2, 5), torch.nan)
    with pytest.raises(ModelError, match="differs from the ablated one by nan"):
        _difference([one, torch.ones(2, 5)], [one, none], tmp_path)


def test_what_lies_beside_a_model_of_the_hub_comes_along(bert: Path, tmp_path: Path) -> None:
    """From the download cache, without a network."""
    cached = tmp_path / "home" / "hub" / "models--org--tiny"
    snapshot = cached / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40)
    for path in bert.iterdir():
        if path.is_file():
            (snapshot / path.name).write_bytes(path.read_bytes())
    script = "from lobes.cli import main; main()"
    arguments = ["prune", "org/tiny", "--drop", "0:1", "--to", str(tmp_path / "new"), "--json"]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == "org/tiny"
    assert (tmp_path / "new" / "tokenizer.json").is_file()
    assert not (tmp_path / "new" / "optimizer.pt").exists()


# Speed


class Clock:
    """A clock that goes on while a `Waiting` runs, in place of the machine's."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Waiting(nn.Module):
    """Takes so many seconds by the clock, and every fifth run twice as many."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds, self.runs = clock, seconds, 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        self.clock.now += self.seconds * (1 if self.runs % 5 else 2)
        return x


def test_the_speed_is_the_median_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("lobes.experiments.prune.time", clock)
    before, after = Waiting(clock, 0.03), Waiting(clock, 0.01)
    before.runs = 2  # so that one alone is slower in some rounds
    speed = compare_speed(before, after, {"x": torch.zeros(2, 3)})
    low, high = speed["ratio_quartiles"]
    assert [low, speed["ratio"], high] == pytest.approx([3, 3, 3])
    assert speed["seconds"] == pytest.approx([0.03, 0.01])
    assert speed["rounds"] == 82  # more than 4 seconds of 0.048, those that do not count included
    assert speed["inputs"] == {"x": [2, 3]}


def test_what_models_are_timed_on() -> None:
    model = tiny_model("bert")  # with 64 positions
    assert timing_inputs(model)["input_ids"].shape[0] == 2  # the guess, since 128 are too many
    assert timing_inputs(model, 41)["input_ids"].shape == (8, 41)
    with pytest.raises(ConfigError, match="BertModel cannot read texts of 65 tokens"):
        timing_inputs(model, 65)
    assert timing_inputs(tiny_model("t5"))["input_ids"].shape == (8, 128)
    assert timing_inputs(tiny_model("vit"))["pixel_values"].shape == (8, 3, 12, 12)
    with pytest.raises(ConfigError, match="ViTModel reads no text"):
        timing_inputs(tiny_model("vit"), 41)
