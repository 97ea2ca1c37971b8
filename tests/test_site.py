"""The documentation site: what its reference lists, and the checker of what `make docs` builds."""

import re
import runpy
import sys
from pathlib import Path

import pytest

import lobes
from lobes.config.settings import IapConfig, TrainingConfig

ROOT = Path(__file__).parents[1]
check_site = runpy.run_path(str(ROOT / "scripts" / "check_site.py"))["problems"]


@pytest.fixture
def reference(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "_site")
    yield __import__("reference")
    sys.modules.pop("reference")


def page(name):
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def test_the_reference_has_every_public_name(reference):
    listed = dict(reference.documented(page("python.md")))
    names = [name.removeprefix("lobes.") for name in listed]
    assert sorted(name for name in names if "." not in name and name != "errors") == lobes.__all__
    assert len(reference.NAMED.findall(page("python.md"))) == len(listed)
    written = [line for each in listed.items() for line in reference._directive(*each)]
    assert ".. autofunction:: lobes.ablate" in written
    assert any(line.startswith(".. autoclass:: lobes.Task\n   :members:") for line in written)
    assert "HeadError, DataError" in written[-2]


def test_the_page_of_commands_says_what_help_says(reference):
    listed = re.findall(r"^\| `lobes ([\w-]+)` \| (.*) \|$", page("commands.md"), re.M)
    assert listed == [
        (name, command.get_short_help_str(200).rstrip("."))
        for name, command in reference.commands()
    ]


def test_every_page_is_in_the_index():
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    trees = "\n".join(re.findall(r":::\{toctree\}(.*?):::", text, re.S))
    listed = set(re.findall(r"^([\w/-][\w/.-]*)$", trees, re.M))
    pages = ROOT.joinpath("docs").rglob("*.md")
    names = {str(page.relative_to(ROOT / "docs").with_suffix("")) for page in pages}
    assert listed == names - {"index"}


def test_settings_and_commands_are_written_from_the_code(reference):
    settings = "\n".join(reference.Settings.markdown(None))
    assert "| `steps` | integer | – | a number of steps from 1 to 10,000,000 |" in settings
    assert '| `sampling` | text | `"proportional"` | "proportional", "square_root"' in settings
    for key in (*IapConfig.model_fields, *TrainingConfig.model_fields):
        assert f"| `{key}` |" in settings
    commands = "\n".join(reference.Commands.markdown(None))
    assert "## lobes run\n" in commands
    assert "| `--set KEY=VALUE` | Change one key of the study; repeatable. |" in commands


def test_the_checker_finds_broken_links_and_what_comes_from_elsewhere(tmp_path):
    (tmp_path / "a.html").write_text(
        '<h1 id="top">a</h1><a href="b.html#here">b</a><a href="#top">up</a>'
        '<a href="https://example.org/">out</a><img src="data:image/png;base64,AA=="/>'
    )
    (tmp_path / "b.html").write_text('<p id="here">b</p>')
    assert check_site(tmp_path) == []
    (tmp_path / "b.html").write_text(
        '<a href="gone.html">c</a><a href="a.html#gone">d</a>'
        '<script src="https://example.org/x.js"></script>'
    )
    assert check_site(tmp_path) == [
        "a.html links to b.html#here, which does not exist",
        "b.html loads https://example.org/x.js",
        "b.html links to a.html#gone, which does not exist",
        "b.html links to gone.html, which does not exist",
    ]
    assert check_site(tmp_path / "none") == [f"{tmp_path / 'none'} holds no page: run `make docs`."]


def test_reading_ease_counts_sentences_and_passives():
    reading = runpy.run_path(str(ROOT / "scripts" / "reading_ease.py"))
    page = (
        "# A heading of five words\n\n```\ncode is not counted\n```\n\nEvery task has `one` loss. "
        "The heads are\nslowly removed.\n\n- A [list](a.md) of items: it was not written.\n\n"
        "| a | b c |\n"
    )
    found = reading["sentences"](page)
    assert found == [
        "Every task has CODE loss.",
        "The heads are slowly removed.",
        "A list of items: it was not written.",
    ]
    assert reading["measured"](found) == (3, 6.0, 0.0, 2 / 3)
    assert reading["measured"](["word " * 26])[2] == 1.0
