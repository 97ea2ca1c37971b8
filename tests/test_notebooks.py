"""The notebooks of examples/: whole, with their outputs, and they still run."""

import ast
import re
import runpy
from pathlib import Path

import nbformat
import pytest

import lobes
from lobes.experiments.demo import fetch

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))

# of one machine: two folders or more from the root on, not in an address or the end of a tag
ABSOLUTE_PATH = r"(?<![\w.<:/\\-])/(?:[\w.-]+/)+[\w.-]*"


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_was_run_from_top_to_bottom(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    for cell in cells:
        ast.parse(cell.source)
        assert all(output.output_type != "error" for output in cell.outputs)
        assert all(output.get("name") != "stderr" for output in cell.outputs)
        for name in re.findall(r"\blobes\.([A-Za-z]\w*)\b(?!\.)", cell.source):
            assert hasattr(lobes, name)
        words = [str({**o, "data": {**o.get("data", {}), "image/png": ""}}) for o in cell.outputs]
        assert re.findall(ABSOLUTE_PATH, " ".join(words)) == []
    pictures = [o for cell in cells for o in cell.outputs if "image/png" in o.get("data", {})]
    assert pictures


def test_there_are_five():
    names = ["find-ablate-prune", "frames-to-verdict", "harness", "iat", "own-loss"]
    assert [path.stem for path in NOTEBOOKS] == names


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    executed = runpy.run_path(str(EXAMPLES.parent / "scripts" / "notebooks.py"))["executed"]
    fetch()
    monkeypatch.chdir(tmp_path)
    assert len(code(executed(path))) > 5
