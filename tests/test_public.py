"""The public surface: few names, documented, and light to import."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lobes
from lobes.results import RunResults
from lobes.results.fractions import Fraction, Pair

ROOT = Path(__file__).parents[1]


def test_the_public_names_are_sorted_and_all_there():
    assert lobes.__all__ == sorted(lobes.__all__)
    for name in lobes.__all__:
        assert getattr(lobes, name).__name__ == name
        assert getattr(lobes, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'prun'"):
        lobes.prun  # noqa: B018


def written_methods(kind: type) -> dict[str, object]:
    """What `help` shows of a class with a signature: itself and its public methods."""
    own = {name: each for name, each in vars(kind).items() if inspect.isfunction(each)}
    shown = {name: each for name, each in own.items() if name == "__init__" or name[0] != "_"}
    return {"": kind, **shown}


@pytest.mark.parametrize("name", lobes.__all__)
def test_help_shows_plain_types(name):
    """No rules by which values are checked, and no objects without a repr."""
    found = getattr(lobes, name)
    for method, each in (written_methods(found) if inspect.isclass(found) else {"": found}).items():
        try:
            text = str(inspect.signature(each))
        except ValueError:  # an exception without a signature
            continue
        unreadable = r"Annotated|Validator|Limit\(|FieldInfo|<\w+ object at|<function"
        assert not re.findall(unreadable, text), f"{name}.{method}{text}"


def test_help_shows_plain_types_of_what_results_hold():
    pair = str(inspect.signature(Pair))
    assert "p_values: tuple[float, float]" in pair
    for kind in (Fraction, RunResults):
        assert "Annotated" not in str(inspect.signature(kind))


def modules_after(statement: str) -> set[str]:
    """The modules that a fresh interpreter holds after a statement."""
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())  # after what the statement printed


@pytest.mark.parametrize(
    "statement",
    [
        "import lobes; lobes.HeadSet; lobes.HeadScores; lobes.LesionMatrix; lobes.LobesError",
        "import lobes.report.run.page, lobes.report.console",
        "import lobes, numpy; lobes.HeadScores(numpy.ones((2, 3)))._repr_html_()",
        "import lobes.cli",
    ],
)
def test_values_statistics_report_and_command_line_import_no_torch(statement):
    heavy = {"torch", "transformers", "datasets", "sklearn", "pandas", "matplotlib", "IPython"}
    assert not heavy & modules_after(statement)


# What else `lobes --help` may import: typer, what it needs, and a parser of the command line.
LIGHT = {"annotated_doc", "click", "lobes", "shellingham", "typer", "typing_extensions"}


@pytest.mark.parametrize(
    ("statement", "allowed", "most"),
    [
        ("import lobes", {"lobes"}, 1),
        ("import lobes; dir(lobes); lobes.__version__", {"lobes"}, 1),
        # a dozen modules of typer's own, and lobes' application with its options
        ("import lobes.cli", LIGHT, 60),
        ("from lobes.cli import app; app(['--help'], standalone_mode=False)", LIGHT, 60),
    ],
)
def test_starting_imports_few_modules(statement, allowed, most):
    known = modules_after("pass")
    found = {
        name
        for name in modules_after(statement) - known
        if name.partition(".")[0] not in sys.stdlib_module_names
    }
    assert {name.partition(".")[0] for name in found} <= allowed
    assert len(found) <= most
