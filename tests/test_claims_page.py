"""The page of the five claims is made of the results that lie beside it."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from fake_runs import fake_results
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
    for path in sorted((ROOT / "docs" / "results").glob("claims*")):
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
    path = claims.collect(tmp_path / "run", "alike", tmp_path / "data")
    assert path.parent == tmp_path / "data" / "alike" / "all-MiniLM-L6-v2"
    assert "somebody" not in path.read_text(encoding="utf-8")
    for kept in (ROOT / "docs" / "results" / "data").glob("*/*/*.json"):
        assert '"/' not in kept.read_text(encoding="utf-8"), kept  # no absolute path
