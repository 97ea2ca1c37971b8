"""The command line: what it prints where, how it ends, and that an interruption costs nothing."""

import contextlib
import fcntl
import json
import os
import pty
import re
import resource
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import lobes as lobes_package
from lobes import __version__
from lobes.cli import app
from lobes.cli.tables import show_heads
from lobes.cli.terminal import ProgressDisplay
from lobes.config.study import load_study
from lobes.experiments.demo import DemoAssets
from lobes.experiments.store import RunFolder
from lobes.files import read_json
from lobes.heads import HeadLayout
from lobes.sites import OwnedRows, Site
from tiny_models import tiny_model
from tiny_study import as_before, timeless, write_study  # noqa: F401

pytestmark = pytest.mark.usefixtures("as_before")

COMMANDS = ("demo", "run", "train", "iap", "compare", "transfer", "export", "report", "heads")
COMMANDS += ("prune", "tasks", "predict", "ag-pair", "plan", "init", "doctor", "eval")
LOBES = [sys.executable, "-c", "from lobes.cli import main; main()"]
LIMIT = 120


def lobes(*arguments):
    """Run a command in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def start(*arguments, **others):
    """Start a command as a user does, in a process of its own, which Ctrl-C reaches.

    A process that runs in the background hands on that it ignores Ctrl-C.
    """
    others.setdefault("preexec_fn", lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    return subprocess.Popen(
        [*LOBES, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        **others,
    )


def finish(process):
    """(exit code, stdout, stderr)."""
    with process:
        try:
            out, err = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return process.returncode, out, _said(err)


def _said(err):
    """What was written to stderr, without the plain lines of progress and the estimate before."""
    progress = re.compile(r"^Estimate: |: (started|done|\d+ %, .*)\n")
    return "".join(line for line in err.splitlines(keepends=True) if not progress.search(line))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study file; `run` beside it holds its finished run."""
    path = write_study(tmp_path_factory.mktemp("study"))
    code, out, err = finish(start("run", path, "--json"))
    assert code == 0, err
    said = err.splitlines()  # after a few steps the model is near chance, which is said first
    assert said[-1] == f"Report: {path.parent / 'run' / 'report.html'}"
    assert all(line.startswith("Warning: After the training: the acc") for line in said[:-1]), err
    assert json.loads(out)["schema"] == "lobes-results"
    return path


# A comparison and a transfer that take a few seconds.
SMALL = """
[compare]
seeds = 2
evaluations = 2
methods = ["multi", "iat", "probe"]

[transfer]
fractions = [0.5, 1.0]
seeds = 1
steps = 5

[transfer.task]
name = "subject"
train = "topic.train.jsonl"
validation = "topic.validation.jsonl"
text = "sentence"
"""


def check_warned_once(said, log):
    """A task that is near chance in many trainings is named once; the log has them all."""
    words = re.compile(r"Warning: Seed .* the accuracy of (\w+), .* is (near|below) chance")
    found = words.findall(said)
    everything = words.findall(log.read_text(encoding="utf-8"))
    assert len(found) == len(set(found))
    assert set(found) == set(everything)
    assert "compare" not in log.parent.name or len(everything) > len(found)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A study file; beside it its finished comparison and transfer, where they go by default."""
    path = write_study(tmp_path_factory.mktemp("compared"))
    path.write_text(path.read_text().replace("steps = 23", "steps = 11") + SMALL)
    for command in ("compare", "transfer"):
        result = lobes(command, path)
        assert result.exit_code == 0, result.stderr
        page = path.parent / f"run-{command}" / PAGES[command]
        assert result.stderr.splitlines()[-1] == f"Report: {page}"
        check_warned_once(result.stderr, page.parent / "lobes.log")
        assert "IAT − multi-task" in result.stdout
        assert page.exists()
    assert not (path.parent / "run").exists()
    return path


PAGES = {"compare": "comparison.html", "transfer": "transfer.html"}


@pytest.fixture
def new_run(study, tmp_path):
    """Options for a run of its own."""
    return (study, "--output", tmp_path / "run")


# Help and usage


def test_help_lists_every_command():
    result = lobes("--help")
    assert result.exit_code == 0
    for command in COMMANDS:
        assert f"\n  {command} " in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    for flag in ("--help", "-h"):
        result = lobes(command, flag)
        assert result.exit_code == 0
        assert f"Example: lobes {command}" in result.stdout
        assert _said(result.stderr) == ""


@pytest.mark.parametrize("arguments", [["tasks"], ["tasks", "--json"], ["--help"], ["--version"]])
def test_output_that_goes_nowhere_is_no_traceback(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    with open("/dev/full", "w") as full, os.fdopen(writer, "w") as closed:
        for stream, said in (
            (closed, ""),
            (full, "Error: cannot write to the standard output: No space left on device.\n"),
        ):
            done = subprocess.run(
                [*LOBES, *arguments],
                stdout=stream,
                stderr=subprocess.PIPE,
                text=True,
                timeout=LIMIT,
                check=False,
            )
            assert (done.returncode, done.stderr) == (1, said)


def test_closed_streams_are_no_fault():
    def close():
        os.close(1)
        os.close(2)

    for arguments, code in ((["tasks"], 0), (["report", "nowhere"], 1)):
        done = subprocess.run([*LOBES, *arguments], preexec_fn=close, timeout=LIMIT, check=False)
        assert done.returncode == code


def test_the_version():
    result = lobes("--version")
    assert (result.exit_code, result.stdout) == (0, f"lobes {__version__}\n")


@pytest.mark.parametrize(
    "arguments",
    [["run"], ["fly"], ["run", "a.toml", "--sett"], ["report"], ["--verbose"]],
)
def test_wrong_usage_is_2(arguments):
    result = lobes(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Usage: " in result.stderr


# What goes wrong


def refusal(*arguments, code=1):
    """The one line on stderr with which a command ends."""
    result = lobes(*arguments)
    assert result.exit_code == code
    assert result.stdout == ""
    (line,) = _said(result.stderr).splitlines()
    assert line.startswith("Error: ")
    return line.removeprefix("Error: ")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (['iap.lesion_tasks=["modd"]'], "expected tasks of this study: mood, topic."),
        (["iap.fractions=[30]"], "expected shares of all heads, each above 0 and at most 1."),
        (["tasks.topic.name=mood"], 'tasks names "mood" 2 times;'),
        (["tasks.mood.lable=x"], "unknown key tasks.mood.lable; did you mean label?"),
        (["tasks.mood.text=words"], "'words'"),
        (['tasks.mood.labels=["sad", "glad"]'], "'sad', 'glad'"),
        (["model=./nowhere"], "there is no folder"),
        (["model=org/unknown"], "'org/unknown'"),
        (["training.steps"], "expected KEY=VALUE"),
    ],
)
def test_a_study_that_cannot_be(new_run, tmp_path, settings, sentence):
    options = [part for setting in settings for part in ("--set", setting)]
    assert sentence in refusal("run", *new_run, *options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.csv", None, "missing.csv"),
        ("empty.csv", b"", "empty"),
        ("header.csv", b"sentence,label\n", ""),
        ("one.csv", b"sentence,label\na,good\nb,good\n", ""),
        ("latin.csv", "sentence,label\ncaf\xe9,good\n".encode("latin-1"), "UTF-8"),
        ("half.parquet", b"PAR1 and no more", "Parquet"),
        ("nan.jsonl", b'{"sentence": "a", "label": NaN}\n', ""),
        ("numbers.jsonl", b'{"sentence": 1, "label": "good"}\n', ""),
        ("broken.jsonl", b'{"sentence": \n', "line 1"),
        ("kind.xlsx", b"PK", ".xlsx"),
    ],
)
def test_a_file_that_cannot_be_used(new_run, tmp_path, name, content, words):
    path = tmp_path / "files" / name
    path.parent.mkdir()
    if content is not None:
        path.write_bytes(content)
    for split in ("train", "validation") if name != "one.csv" else ("train",):
        line = refusal("run", *new_run, "--set", f"tasks.mood.{split}={path}")
        assert "mood" in line
        assert words in line
    assert not (tmp_path / "run").exists()


def test_a_study_file_that_is_not_there(tmp_path):
    path = tmp_path / "none.toml"
    assert refusal("run", path).startswith(f"There is no study file {path}; expected a TOML file")


def test_a_folder_in_use(new_run, tmp_path):
    with RunFolder(tmp_path / "run", {}) as folder:
        folder.begin({})
        assert f"{tmp_path / 'run'} is in use by another run (process {os.getpid()} on " in (
            refusal("run", *new_run)
        )
        assert not (tmp_path / "run" / "lobes.log").exists()  # which is the other run's


def test_a_folder_of_something_else(new_run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("")
    assert "holds files but no run of lobes" in refusal("run", *new_run, "--fresh")


def test_a_run_that_is_not_there(tmp_path):
    assert "give the folder of a finished run" in refusal("report", tmp_path / "none")
    (tmp_path / "results.json").write_text('{"schema": "lobes-res')
    assert "is damaged" in refusal("report", tmp_path)


def test_a_model_that_is_not_there(tmp_path):
    assert str(tmp_path) in refusal("heads", tmp_path)
    assert "org/unknown" in refusal("heads", "org/unknown")


def test_a_fault_of_ours_is_one_line_and_debug_shows_where(monkeypatch, tmp_path):
    def fail(*_):
        raise ZeroDivisionError("secret\x1b[31m")

    monkeypatch.setattr("lobes.experiments.reports.read_json", fail)
    line = refusal("report", tmp_path / "x")
    assert line == (
        "lobes failed in a way it should not (ZeroDivisionError: secret\ufffd[31m); --debug "
        "shows where."
    )
    assert "in fail" in lobes("report", tmp_path / "x", "--debug").stderr


@pytest.mark.parametrize(
    ("before", "after", "variable"),
    [(["--debug"], [], ""), ([], ["--debug"], ""), ([], [], "1")],
    ids=["before the command", "after it", "LOBES_DEBUG"],
)
def test_an_error_shows_its_place_and_cause_only_with_debug(
    monkeypatch, tmp_path, before, after, variable
):
    study = tmp_path / "study.toml"
    study.write_text("model = 3 = 4\n")
    sentence = refusal("run", study)
    monkeypatch.setenv("LOBES_DEBUG", variable)
    shown = lobes(*before, "run", study, *after).stderr
    assert shown.startswith(f"Error: {sentence}\nTraceback")
    assert "TOMLDecodeError: Expected newline" in shown
    assert shown.endswith(f"lobes.errors.ConfigError: {sentence}\n")
    monkeypatch.delenv("LOBES_DEBUG")
    assert refusal("run", study) == sentence


def test_no_error_hides_its_cause():
    source = Path(lobes_package.__file__).parent
    hiding = [path for path in source.rglob("*.py") if "from None\n" in path.read_text()]
    assert hiding == []


# What is shown


def test_tables_and_where_the_report_is(study):
    folder = study.parent / "run"
    result = lobes("report", folder)
    assert result.exit_code == 0
    assert _said(result.stderr) == f"Report: {folder / 'report.html'}\n"
    for words in ("Base scores", "D-scores", "mood", "topic", "random heads"):
        assert words in result.stdout
    assert "\x1b" not in result.stdout


def test_controls_are_an_option_of_their_own(study, tmp_path):
    options = ("--output", tmp_path / "run", "--set", "training.steps=3", "--json", "--quiet")
    found = json.loads(lobes("run", study, "--controls", "2", *options).stdout)
    assert found["fractions"][0]["n_controls"] == found["config"]["iap"]["controls"] == 2
    assert lobes("iap", study, "--controls", "-1").exit_code == 2


def _read(path):
    """A JSON file that lobes wrote, without its digest of itself."""
    content = json.loads(path.read_text())
    assert content.pop("sha256")
    return content


def test_a_report_elsewhere_and_as_json(study, tmp_path):
    folder, page = study.parent / "run", tmp_path / "page.html"
    result = lobes("report", folder, "--html", page, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == _read(folder / "results.json")
    assert page.read_text(encoding="utf-8").startswith("<!")
    assert _said(result.stderr) == f"Report: {page}\n"
    results = tmp_path / "results.json"
    shutil.copy(folder / "results.json", results)
    assert "it is not as lobes wrote it" in refusal("report", folder, "--html", results)
    assert _read(results) == _read(folder / "results.json")


def test_a_report_with_its_figures_and_a_browser(study, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    run, page = study.parent / "run", tmp_path / "page.html"
    result = lobes(
        "report", run, "--html", page, "--open", "--no-png", "--figures", tmp_path / "to"
    )
    assert result.exit_code == 0
    assert opened == [page.resolve().as_uri()]
    figures, tables = (
        [path for path in (tmp_path / "to" / name).iterdir() if path.name != "files.json"]
        for name in ("figures", "tables")
    )
    number = len(figures) + len(tables) + 1  # and index.html
    assert f"Figures and tables: {tmp_path / 'to'} ({number} files)\n" in result.stderr
    assert {path.suffix for path in figures} == {".svg"}
    assert {path.suffix for path in tables} == {".csv", ".tex"}


def test_the_report_of_several_runs(study, tmp_path):
    run, to = study.parent / "run", tmp_path / "together"
    shutil.copytree(run, tmp_path / "other")
    result = lobes("report", run, tmp_path / "other", "--output", to)
    assert (result.exit_code, _said(result.stderr)) == (0, f"Report: {to / 'runs.html'}\n")
    assert "D-scores" in result.stdout
    again = lobes("report", to, "--json")
    assert json.loads(again.stdout) == read_json(to / "runs.json")
    sentence = refusal("report", run, run, "--output", tmp_path / "new")
    assert sentence == "A run is named twice: expected the folders of different runs."
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", ["compare", "transfer"])
def test_the_report_of_a_comparison_or_a_transfer(compared, tmp_path, command):
    folder = compared.parent / f"run-{command}"
    stored = folder / PAGES[command].replace("html", "json")
    (folder / PAGES[command]).unlink()
    for given in (folder, stored):
        result = lobes("report", given)
        assert (result.exit_code, _said(result.stderr)) == (
            0,
            f"Report: {folder / PAGES[command]}\n",
        )
        assert "IAT − multi-task" in result.stdout
    assert (folder / PAGES[command]).read_text(encoding="utf-8").startswith("<!")
    result = lobes("report", folder, "--html", tmp_path / "page.html", "--json")
    assert json.loads(result.stdout) == _read(stored)
    assert (tmp_path / "page.html").exists()
    stored.rename(tmp_path / "else.json")
    result = lobes("report", folder)
    assert result.exit_code == 0
    assert f"in {folder} is not finished: `lobes {command}` with its study" in result.stderr
    (tmp_path / "else.json").rename(stored)


def test_an_exported_task(study, tmp_path):
    from transformers import AutoModelForSequenceClassification

    for number, run in enumerate((study.parent / "run", study.parent / "run" / "model")):
        target = tmp_path / str(number)
        result = lobes("export", run, "--task", "topic", "--to", target)
        assert (result.exit_code, result.stdout) == (0, ""), result.stderr
        assert _said(result.stderr) == f"Model: {target}\n"
        model = AutoModelForSequenceClassification.from_pretrained(target)
        assert list(model.config.id2label.values()) == ["food", "sea", "sky"]
    assert refusal("export", study.parent, "--task", "topic", "--to", tmp_path / "no") == (
        f"There is no trained model in {study.parent}: give the folder of a run that was trained, "
        f"or one that MultiTaskModel.save_pretrained wrote."
    )
    assert "'mood', 'topic'" in refusal("export", run, "--task", "taste", "--to", tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_a_terminal_with_few_letters(study):
    done = subprocess.run(
        [*LOBES, "report", str(study.parent / "run")],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        timeout=LIMIT,
        check=False,
    )
    assert (done.returncode, done.stderr.count(b"\n")) == (0, 1)
    assert b"D-scores" in done.stdout


def test_heads(study):
    for name in (study.parent / "model", study.parent / "run", study.parent / "run" / "model"):
        result = lobes("heads", name)
        assert (result.exit_code, _said(result.stderr)) == (0, "")
        assert "10 heads in 2 sites" in result.stdout
        assert "encoder.layer.*.attention" in result.stdout
        assert "self-attention, multi-head: 5 heads of size 6" in result.stdout
        assert "Of 10 heads all can be ablated, 10 trained alone and 10 pruned." in result.stdout
    found = json.loads(lobes("heads", study.parent / "model", "--json").stdout)
    assert (found["n_heads"], found["n_prunable"], found["n_gateable"]) == (10, 10, 10)
    assert [site["n_heads"] for site in found["sites"]] == [5, 5]
    first = found["sites"][0]
    assert first["name"] == "encoder.layer.0.attention"
    assert (first["kind"], first["attention"]) == ("self", "multi-head")
    assert first["groups"] == [[0], [1], [2], [3], [4]]
    assert (first["ablatable"], first["gateable"], first["prunable"]) == (True, True, True)
    assert first["shares_parameters_with"] == []


def test_predict(study, tmp_path):
    shown = lobes("predict", study.parent / "run", "--split", "validation", "--to", tmp_path / "to")
    assert shown.exit_code == 0
    assert re.search(
        r"mood +validation +\d+ +accuracy +0\.\d{3} +mood\.validation\.tsv", shown.stdout
    )
    assert _said(shown.stderr) == f"Predictions: {tmp_path / 'to'}\n"
    options = ("--split", "validation", "--task", "topic", "--to", tmp_path / "to", "--json")
    (found,) = json.loads(lobes("predict", study.parent / "run", *options).stdout)["predictions"]
    assert (found["task"], found["file"]) == ("topic", "topic.validation.tsv")
    sentence = refusal("predict", study.parent / "run", "--to", tmp_path / "new")
    assert sentence.startswith("No task of the run has test data: add `test = …`")
    assert not (tmp_path / "new").exists()


def test_ag_pair(tmp_path):
    rows = [f'"{i % 2 + 1}","title {i}","text {i}"' for i in range(8)]
    (tmp_path / "ag.csv").write_text("\n".join(rows), encoding="utf-8")
    shown = lobes("ag-pair", tmp_path / "ag.csv", tmp_path / "new" / "pairs.csv")
    assert shown.exit_code == 0
    assert re.search(r"Sports +4\b", shown.stdout)
    assert "8 pairs: 4 same, 4 different." in shown.stdout
    sentence = refusal("ag-pair", tmp_path / "ag.csv", tmp_path / "new" / "pairs.csv")
    assert sentence.endswith("pairs.csv is there already; choose another name, or remove it first.")
    found = json.loads(lobes("ag-pair", tmp_path / "ag.csv", tmp_path / "b.tsv", "--json").stdout)
    assert (found["pairs"], found["topics"]) == (8, {"Sports": 4, "World": 4})


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["report", "RUN", "--output", "x"], "--output is the folder of what several runs say"),
        (["report", "RUN", "--pdf"], "--pdf is about the figures that --figures writes; name"),
        (["report", "RUN", "--no-png"], "--no-png is about the figures that --figures writes"),
        (["tasks", "--study", "STUDY"], "name it before the options (mood, topic)"),
        (["tasks", "--model", "gpt2"], "name it before the options (`lobes tasks` lists them)"),
        (["predict", "RUN", "--to", "STUDY", "--split", "validation"], "is a file; expected a"),
        (["compare", "STUDY", "--set", "iap.controls=3"], "`lobes compare` does with this study; "),
        (["compare", "STUDY", "--set", "iap.controls = 3"], "set compare.controls instead."),
        (["plan", "STUDY", "--for", "compare", "--controls", "3"], "set compare.controls instead."),
        (["plan", "STUDY", "--for", "compare", "--set", "growth.checkpoints=2"], "leave it out."),
        (["run", "STUDY", "--set", "seed=1", "--set", "compare.seeds=3"], "leave it out."),
        (["train", "STUDY", "--set", "training.temperature=3"], "leave it out."),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(study, arguments, sentence):
    names = {"RUN": study.parent / "run", "STUDY": study}
    assert sentence in refusal(*(names.get(argument, argument) for argument in arguments))


def test_tasks(tmp_path):
    shown = lobes("tasks")
    assert (shown.exit_code, _said(shown.stderr)) == (0, "")
    assert "xnli-zh" in shown.stdout
    assert "a score" in shown.stdout
    known = json.loads(lobes("tasks", "--json").stdout)
    assert len(known) == 35
    (tmp_path / "sst2").mkdir()
    rows = ["sentence,label", "a fine film,1", "dull,0", "[bold]odd[/bold] and fine,1"]
    for split in ("train", "validation"):
        (tmp_path / "sst2" / f"{split}.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    shown = lobes("tasks", "sst2", "--data-dir", tmp_path)
    assert (shown.exit_code, _said(shown.stderr)) == (0, "")
    assert "sst2: sentence → negative, positive" in shown.stdout
    assert re.search(r"train +3 +negative 1, positive 2 +–", shown.stdout)
    assert "positive: [bold]odd[/bold] and fine" in shown.stdout
    assert "no file for test" in " ".join(shown.stdout.split())
    found = json.loads(lobes("tasks", "sst2", "--data-dir", tmp_path, "--json").stdout)
    assert found["sizes"][0]["labels"] == {"negative": 1, "positive": 2}
    wrong = lobes("tasks", "sst3")
    assert (wrong.exit_code, wrong.stdout) == (1, "")
    assert "'sst3' is not a known task. Did you mean 'sst2'?" in wrong.stderr


def test_heads_of_alike_layers_are_told_of_once(tmp_path):
    model = tiny_model("olmo2")
    model.config.num_hidden_layers = 7
    model.config.layer_types = None
    type(model)(model.config).save_pretrained(tmp_path)
    shown = lobes("heads", tmp_path).stdout
    assert "42 heads in 7 sites" in shown
    assert shown.count("layers.*.self_attn") == 1
    assert "  0–6 " in shown
    assert "grouped-query: 6 heads of size 4 in 3 groups" in shown
    assert len(re.findall(r"cannot be trained alone[^:]*: its heads share rows of", shown)) == 1
    (first, *_) = json.loads(lobes("heads", tmp_path, "--json").stdout)["sites"]
    assert first["gateable"] is False
    assert first["gate_reason"].startswith("its heads share rows of")


def test_heads_that_are_unlike_others(capsys):
    def site(index, **others):
        name = f"layers.{index}.attention"
        return Site(index, name, f"{name}.out", 5, 3, "self", **others)

    tied = OwnedRows("layers.0.query", 0, tuple(((3 * h, 3 * h + 3),) for h in range(5)))
    layout = HeadLayout(
        (
            site(0, rows=(tied,)),
            site(1, batch_axis=None),
            site(2, rows=(tied,)),
            site(3, prunable=False, reason="layers.3.query is [packed]"),
        )
    )
    show_heads(layout, "tiny")
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "0, 2 layers.*.attention self-attention, multi-head: 5 heads of size 3" in shown
    assert "has parameters that other sites have too" in shown
    assert "heads of unknown kind" in shown
    assert "can be ablated (the same in all examples of a batch), trained alone and" in shown
    assert "cannot be pruned: layers.*.query is [packed]" in shown
    assert "Of 20 heads all can be ablated, 20 trained alone and 15 pruned." in shown


def test_sites_in_turn_are_told_of_in_few_words(capsys):
    kinds = ("self", "cross") * 6
    sites = (Site(i, f"layers.{i}.a", f"layers.{i}.o", 5, 3, kind) for i, kind in enumerate(kinds))
    show_heads(HeadLayout(tuple(sites)), "tiny")
    shown = capsys.readouterr().out
    assert "  0, 2, …, 10 " in shown
    assert "  1, 3, …, 11 " in shown


def test_heads_of_encoder_and_decoder(tmp_path):
    tiny_model("bart").save_pretrained(tmp_path)
    shown = lobes("heads", tmp_path).stdout
    for words in ("  0, 1 ", "  2, 4 ", "  3, 5 ", "cross-attention, multi-head: 3 heads of size"):
        assert words in shown


def test_heads_of_a_run_without_a_model(new_run, study, tmp_path):
    model = study.parent / "run" / "model"
    assert lobes("iap", *new_run, "--model", model).exit_code == 0
    assert refusal("heads", tmp_path / "run") == (
        f"The run in {tmp_path / 'run'} has no trained model: expected one that has; for a run "
        f"that measured a model trained elsewhere, name that model."
    )


def test_prune(study, tmp_path):
    run, to = study.parent / "run", tmp_path / "smaller"
    chosen = ("--from-run", run, "--fraction", "0.4")
    result = lobes("prune", *chosen, "--task", "mood", "--to", to)
    assert (result.exit_code, _said(result.stderr)) == (0, f"Model: {to}\n")
    for words in ("model without 4 heads: ", "parameters", "milliseconds", "under ablation"):
        assert words in result.stdout
    record = json.loads((to / "pruning.json").read_text())
    assert record["chosen"] == "the least important 40 % for mood"
    assert "6 heads in " in lobes("heads", to).stdout
    result = lobes("prune", *chosen, "--to", to, "--fresh", "--json")
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert record["folder"] == str(to)
    assert record["n_heads"] == [10, 6]
    assert record["n_parameters"][1] < record["n_parameters"][0]
    assert record["largest_difference"] < 1e-5
    emptied = tmp_path / "emptied"
    every = "0:0,1,2,3,4 1:1"
    assert lobes("prune", study.parent / "model", "--drop", every, "--to", emptied).exit_code == 0
    assert "4 heads in 1 sites" in lobes("heads", emptied).stdout
    zeroed = ("--drop", "0:1", "--export", "zeroed")
    result = lobes("prune", study.parent / "model", *zeroed, "--to", tmp_path / "zeroed")
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Which heads are to go?"),
        (["MODEL", "--drop", "0:1", "--from-run", "RUN"], "Which heads are to go?"),
        (["--drop", "0:1"], "Which model is to be pruned?"),
        (["MODEL", "--drop", "0:1", "--task", "mood"], "give --from-run with them"),
        (["--from-run", "RUN"], "--from-run needs --fraction"),
        (["--from-run", "RUN", "--fraction", "30"], "--from-run needs --fraction"),
        (["--from-run", "RUN", "--fraction", "0.01"], "less than one head"),
        (["--from-run", "RUN", "--fraction", "0.3", "--task", "x"], "expected one of mood, topic."),
        (["--from-run", "NONE", "--fraction", "0.3"], "give the folder of a finished run"),
        (["NONE", "--drop", "0:1"], "none"),
        (["MODEL", "--drop", "0;1"], "expected SITE:HEAD"),
        (["MODEL", "--drop", "7:1"], "Head 7:1 does not exist: the model has 2 sites"),
        (["MODEL", "--drop", "0:0,1,2,3,4 1:0,1,2,3,4"], "All 10 heads"),
        (["MODEL", "--drop", "0:1", "--length", "65"], "cannot read texts of 65 tokens"),
        (["MODEL", "--drop", "0:1", "--to", "RUN"], "did not write it"),
    ],
)
def test_a_pruning_that_cannot_be(study, tmp_path, arguments, sentence):
    names = {
        "MODEL": study.parent / "model",
        "RUN": study.parent / "run",
        "NONE": tmp_path / "none",
    }
    given = [names.get(argument, argument) for argument in arguments]
    assert sentence in refusal("prune", "--to", tmp_path / "new", *given)
    assert list(tmp_path.iterdir()) == []


def test_the_demo_is_an_ordinary_study(study, tmp_path, monkeypatch):
    """With a tiny model and its tasks in place of the packages."""
    tasks = load_study(study).to_dict()["tasks"]
    assets = DemoAssets(study.parent / "model", tmp_path)
    monkeypatch.setattr("lobes.experiments.demo.fetch", lambda log=None: log("Fetched.") or assets)
    monkeypatch.setattr("lobes.experiments.demo.write_demo_data", lambda *_, **__: tasks)
    result = lobes("demo", "--fetch-only")
    assert (result.exit_code, result.stdout, _said(result.stderr)) == (0, "", "Fetched.\n")
    small = ("training.steps=3", "iap.fractions=[0.5]", "iap.controls=2", "max_length=31")
    options = [part for setting in small for part in ("--set", setting)]
    result = lobes("demo", "--output", tmp_path / "run", *options)
    assert result.exit_code == 0, result.stderr
    assert re.search(r"The \d heads most specific to mood", result.stdout)
    assert re.search(r"of \d+ answers to mood \d+ turn from right to wrong", result.stdout)
    said = result.stderr.splitlines()
    assert (said[0], said[-1]) == ("Fetched.", f"Report: {tmp_path / 'run' / 'report.html'}")


def test_train_then_iap(new_run, study, tmp_path):
    assert "There is no trained model in" in refusal("iap", *new_run)
    result = lobes("train", *new_run)
    assert result.exit_code == 0, result.stderr
    assert "Trained for 23 steps" in result.stdout
    assert result.stderr.splitlines()[-1] == f"Model: {tmp_path / 'run' / 'model'}"
    result = lobes("iap", *new_run, "--json")
    assert result.exit_code == 0, result.stderr
    reference = _read(study.parent / "run" / "results.json")
    assert timeless(json.loads(result.stdout)) == timeless(reference)


def test_a_model_trained_elsewhere(new_run, study):
    result = lobes("iap", *new_run, "--model", study.parent / "run" / "model", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["training"] is None
    assert "has no trained classifier" in refusal(
        "iap", study, "--output", "unused", "--model", study.parent / "model"
    )
    assert not Path("unused").exists()


def test_progress_on_a_terminal_is_bars(study, tmp_path):
    shutil.copytree(study.parent / "run", tmp_path / "run")
    for path in (tmp_path / "run" / "results.json", *(tmp_path / "run" / "measurements").iterdir()):
        path.unlink()
    shown = _on_terminal("iap", study, "--output", tmp_path / "run")
    for words in ("importance of mood", "lesions", "left"):
        assert words in shown


def test_progress_into_a_pipe_is_plain_lines(capsys):
    now = 0.0
    with ProgressDisplay(quiet=False) as progress:  # pytest's stderr is no terminal
        assert progress.lines is not None
        progress.lines.clock = lambda: now
        for done in range(1, 101):
            now = 7.0 * (done - 1)
            progress("training", done, 100)
            progress.note("training", f"loss {done}")
        progress("lesions", 3, 3)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[:2] == [
        "training: started",
        "training: 6 %, 35 s so far, about 10 min 58 s left (loss 5)",
    ]
    assert len(lines) == 1 + 99 // 5 + 1  # every fifth step is 35 s after the last line
    assert lines[-1] == "lesions: done"


def test_quiet_shows_no_progress(capsys):
    with ProgressDisplay(quiet=True) as progress:
        progress("training", 1, 2)
        progress.note("training", "loss 1")
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_a_training_on_a_terminal_says_how_it_goes(study, tmp_path):
    settings = ("--set", "iat.delta=0.5", "--set", "training.steps=150")
    shown = _on_terminal("train", study, *settings, "--output", tmp_path / "new")
    for words in ("before IAT; loss ", "IAT phase; loss ", "learning rate ", " examples/s"):
        assert words in shown
    assert re.search(r"mood \d\.\d{3}", shown)


def _on_terminal(*arguments):
    """What a command writes to stderr when that is a terminal of 100 columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    process = subprocess.Popen(
        [*LOBES, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(theirs)
    shown, deadline = b"", time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):  # Linux says EIO when the other side has closed
            if select.select([ours], [], [], 0.1)[0]:
                part = os.read(ours, 65536)
                shown += part
                if part:
                    continue
        if process.poll() is not None:
            break
    os.close(ours)
    assert process.wait(timeout=LIMIT) == 0, shown.decode()
    return shown.decode()


# Interruptions


def _started(folder):
    return (folder / "config.json").exists()


def _has_checkpoint(folder):
    return any(folder.glob("checkpoints/checkpoint-*/trainer_state.json"))


def _is_trained(folder):
    return (folder / "model").exists()


def _has_measured(folder):
    return any(folder.glob("measurements/importance-*"))


def _wait(process, happened, folder):
    """Wait until `happened(folder)`; a process in which it does not happen is ended."""
    deadline = time.monotonic() + LIMIT
    while not _is_true(happened, folder):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"No {happened.__name__}: {finish(process)}")
        time.sleep(0.002)


def _is_true(happened, folder):
    try:
        return happened(folder)
    except FileNotFoundError:  # the process removed a folder while it was listed
        return False


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_numbers(new_run, study, tmp_path):
    folder = tmp_path / "run"
    for happened in (_started, _has_checkpoint, _is_trained, _has_measured):
        process = start("run", *new_run)
        _wait(process, happened, folder)
        process.send_signal(signal.SIGKILL)
        assert finish(process)[0] == -signal.SIGKILL
    code, out, err = finish(start("run", *new_run, "--json"))
    assert code == 0, err
    reference = _read(study.parent / "run" / "results.json")
    assert timeless(json.loads(out)) == timeless(reference)
    left = {path.name for path in folder.iterdir()}
    assert left == {path.name for path in (study.parent / "run").iterdir()}


@pytest.mark.parametrize(
    ("number", "word"),
    [
        (signal.SIGINT, "Interrupted"),
        pytest.param(signal.SIGTERM, "Terminated", marks=pytest.mark.slow),
    ],
)
def test_an_interruption_has_its_code_and_says_that_the_command_continues(
    new_run, tmp_path, number, word
):
    process = start("run", *new_run, "--set", "training.steps=100000")
    _wait(process, _has_checkpoint, tmp_path / "run")
    process.send_signal(number)
    code, out, err = finish(process)
    assert (code, out) == (128 + number, "")
    assert err == f"{word}. The same command continues where it stopped.\n"
    assert _has_checkpoint(tmp_path / "run")


@pytest.mark.slow
def test_a_disk_that_is_full(new_run, tmp_path):
    """No file may grow beyond the size of the configuration: the training cannot be kept."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    code, out, err = finish(start("train", *new_run, preexec_fn=limit))
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith("Error: The ")
    assert "make room" in line
    assert not _has_checkpoint(tmp_path / "run")
    assert not _is_trained(tmp_path / "run")
