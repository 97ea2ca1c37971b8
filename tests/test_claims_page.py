"""The page of the five claims is made of the results that lie beside it."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest

from fake_comparisons import fake_comparison, fake_transfer
from fake_runs import fake_results, fake_runs
from lobes.errors import LobesError
from lobes.results import ComparisonResults, read

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def claims():
    spec = importlib.util.spec_from_file_location("claims", ROOT / "scripts" / "claims.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_that_of_the_data(claims, tmp_path):
    shutil.copytree(ROOT / "docs" / "results", tmp_path / "results")
    claims.write_page(tmp_path / "results" / "data", tmp_path / "results" / "claims.md")
    for path in sorted((ROOT / "docs" / "results").glob("claim*")):
        assert (tmp_path / "results" / path.name).read_bytes() == path.read_bytes(), path.name


def test_each_number_is_a_verdicts(claims):
    page = (ROOT / "docs" / "results" / "claims.md").read_text(encoding="utf-8")
    files = [*(ROOT / "docs" / "results" / "data").glob(f"*/*/{ComparisonResults.FILE}")]
    assert files
    for path in files:
        found = read(path.parent, ComparisonResults)
        for verdict in found.verdicts:
            row = f"| {path.parent.parent.name} | {path.parent.name} | "
            assert verdict.claim.rstrip(".") in page
            assert row in page


def test_collected_results_have_no_path_of_their_machine(claims, tmp_path):
    content = fake_results(training=False)
    content["config"] = {"model": "/home/somebody/m", "output": "/home/somebody/out", "seed": 0}
    content["model"]["name"] = "packaged:all-MiniLM-L6-v2"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").write_text(json.dumps(content), encoding="utf-8")
    (path,) = claims.collect([tmp_path / "run"], "alike", tmp_path / "data")
    assert path.parent == tmp_path / "data" / "alike" / "all-MiniLM-L6-v2"
    assert "somebody" not in path.read_text(encoding="utf-8")
    for kept in (ROOT / "docs" / "results" / "data").glob("*/*/*.json"):
        assert '"/' not in kept.read_text(encoding="utf-8"), kept  # no absolute path


def test_what_cannot_be_collected_is_one_sentence_and_nothing_is_written(claims, tmp_path):
    for name in ("one", "two", "damaged"):
        content = fake_results(training=False)
        content["model"]["name"] = "packaged:all-MiniLM-L6-v2"
        (tmp_path / name).mkdir()
        text = json.dumps(content)
        (tmp_path / name / "results.json").write_text(text[:900] if name == "damaged" else text)
    data = tmp_path / "data"
    for names, part, said in (
        (["one"], "a/b", "The part is 'a/b'; expected letters"),
        (["one"], "../evil", "expected letters"),
        (["one", "two"], "alike", "hold results of one kind for one model"),
        (["one", "damaged"], "alike", "is damaged"),
        (["one", "data"], "alike", "holds no results of a run"),
    ):
        with pytest.raises(LobesError, match=re.escape(said)):
            claims.collect([tmp_path / name for name in names], part, data)
    assert not data.exists()


def test_kinds_of_results_stand_beside_each_other_in_the_order_of_the_claims(claims, tmp_path):
    """A transfer does not hide the scores of a comparison; its budget is that of both trainings."""
    for name, content in (
        ("compared", fake_comparison()),
        ("transferred", fake_transfer()),
        ("run", fake_results()),
    ):
        content["model"]["name"] = "m"
        content["config"]["training"] = {"steps": 1234}
        (tmp_path / name).mkdir()
        (tmp_path / name / FILES[name]).write_text(json.dumps(content))
    folders = [tmp_path / name for name in FILES]
    claims.collect(folders, "mine", tmp_path / "data")
    text = "\n".join(claims.lines(tmp_path / "data", tmp_path))
    assert "| mine | m | multi |" in text
    numbers = re.findall(r"### Claim (\w+):", text)
    assert numbers == sorted(numbers)
    assert {"1", "3", "4", "5"} <= set(numbers)
    row = next(line for line in text.split("### Claim 5")[1].splitlines() if "| mine | m |" in line)
    assert re.search(r"\| 1.234 steps, then \d+ \|", row)


def test_rates_are_compared_where_there_are_several(claims, tmp_path):
    scores = {}
    some = ("a", "m", 2e-5), ("b", "m", 5e-5), ("a", "n", 2e-5), ("a", "o", 2e-5), ("c", "o", 3e-5)
    for part, model, rate in some:
        content = fake_comparison()
        content["model"]["name"], content["training"]["learning_rate"] = model, rate
        content["config"] = {"model": model}
        scores[model, rate] = len(scores) / 10 + 0.1
        content["held_out"]["multi"][0] = [scores[model, rate]] * len(content["tasks"])
        folder = tmp_path / f"{part}-{model}"
        folder.mkdir()
        (folder / FILES["compared"]).write_text(json.dumps(content))
        claims.collect([folder], part, tmp_path / "data")
    text = "\n".join(claims.lines(tmp_path / "data", tmp_path))
    name = content["name"]
    head, _, *rows = text.split("(seed 0)\n\n")[1].splitlines()[:4]
    assert head == "| tasks | model | 2e-05 | 3e-05 | 5e-05 |"
    assert rows == [f"| {name} | m | 0.100 | – | 0.200 |", f"| {name} | o | 0.400 | 0.500 | – |"]


def test_what_several_runs_say_together(claims, tmp_path):
    content = fake_runs(models=("m",))
    (tmp_path / "together").mkdir()
    (tmp_path / "together" / "runs.json").write_text(json.dumps(content))
    claims.collect([tmp_path / "together"], "mine", tmp_path / "data")
    text = "\n".join(claims.lines(tmp_path / "data", tmp_path))
    found = {
        number: [row.split(" | ")[4:] for row in part.splitlines() if row.startswith("| mine |")]
        for number, part in re.findall(r"### Claim (\w+):(.*?)(?=\n### |\Z)", text, re.S)
    }
    answers = [claims.WORDS[each["answer"]].lower() for each in content["verdicts"]]
    runs, budget = str(len(content["runs"])), "1\u202f300 steps"
    assert found == {
        number: [[runs, budget, f"{answer} |"]]
        for number, answer in zip(("1", "1b", "2"), answers, strict=True)
    }
    assert re.search(rf"\| claim \| m \|\n.*\n\| 1: [^|]* \| {answers[0]} \(mine\) \|", text)


FILES = {"compared": "comparison.json", "transferred": "transfer.json", "run": "results.json"}
