"""Before the first study: what `lobes` alone says, `lobes init`, `lobes doctor`, near names."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
from typer.testing import CliRunner

from lobes.cli import app
from lobes.config.study import load_study
from lobes.errors import ConfigError, DataError
from lobes.experiments import doctor
from lobes.experiments.new_study import new_study
from tiny_study import as_before, write_study  # noqa: F401

pytestmark = pytest.mark.usefixtures("as_before")


def lobes(*arguments, **environment):
    return CliRunner().invoke(app, [*map(str, arguments)], env=environment)


def write(path, header, rows):
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


MOODS = [f"a {'fine' if k % 2 else 'dull'} day {k},{'good' if k % 2 else 'bad'}" for k in range(30)]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder, the working directory, with the files of three tasks."""
    monkeypatch.chdir(tmp_path)
    moods = [f"{k},a {'fine' if k % 2 else 'dull'} day {k},{'good' if k % 2 else 'bad'}"
             for k in range(30)]  # fmt: skip
    write(tmp_path / "mood.train.csv", "id,sentence,label", moods[:22])
    write(tmp_path / "mood.validation.csv", "id,sentence,label", moods[22:26])
    write(tmp_path / "mood-test.csv", "id,sentence,label", moods[26:])
    rows = [
        {"question": f"is it {k} or", "answer": f"it is {k}", "ok": k % 2, "kind": "abc"[k % 3]}
        for k in range(60)
    ]  # fmt: skip
    write(tmp_path / "asked.jsonl", json.dumps(rows[0]), map(json.dumps, rows[1:]))
    warm = [f"a day of {k} degrees,{k / 7:.2f}" for k in range(30)]
    write(tmp_path / "warm.csv", "text,degrees", warm)
    return tmp_path


def test_alone_it_says_what_to_do_first():
    result = lobes()
    assert result.exit_code == 0
    for command in ("lobes demo", "lobes heads MODEL", "lobes init mood.csv", "lobes doctor"):
        assert command in result.stdout


def test_no_summary_of_a_command_is_cut_at_80_columns():
    shown = lobes("--help", COLUMNS="80").stdout
    assert max(map(len, shown.splitlines())) <= 80
    lines = shown.partition("Commands:\n")[2].splitlines()
    assert len(lines) == len(app.registered_commands)
    assert all(line.endswith(".") and not line.endswith("...") for line in lines)


def test_a_study_is_written_from_what_the_data_hold(data):
    result = lobes(
        "init", "mood.train.csv", "asked.jsonl", "mood.validation.csv", "warm.csv", "sst2"
    )
    assert result.exit_code == 0, result.stderr
    assert "Study: study.toml. Next: lobes plan study.toml" in result.stderr
    study = load_study(data / "study.toml")
    mood, ok, kind, warm, known = study.tasks
    assert (mood.name, mood.text, mood.label) == ("mood", ("sentence",), "label")
    assert [Path(f).name for f in (mood.validation, mood.test)] == [
        "mood.validation.csv",
        "mood-test.csv",
    ]
    assert [(one.name, one.text, one.label) for one in (ok, kind)] == [
        ("ok", ("question", "answer"), "ok"),
        ("kind", ("question", "answer"), "kind"),
    ]
    assert (warm.name, warm.label, known.name) == ("warm", "degrees", "sst2")
    before = (data / "study.toml").read_bytes()
    with pytest.raises(ConfigError, match=r"study\.toml exists: name another file with --to"):
        new_study(["sst2"], Path("study.toml"))
    assert (data / "study.toml").read_bytes() == before


def test_an_uneven_label_is_measured_by_f1(data):
    rows = [f"a day {k},{'rare' if k % 10 == 0 else 'usual'}" for k in range(200)]
    write(data / "rare.csv", "text,label", rows)
    record = new_study(["rare.csv"], data / "deep" / "rare.toml")
    assert record["tasks"][0]["metric"] == "f1_macro"
    assert record["tasks"][0]["train"] == "../rare.csv"
    assert "one has 90 % of the examples" in record["tasks"][0]["why"]


def test_files_of_other_splits_are_shown_and_named_where_they_do_not_fit(data):
    shown = lobes("init", "mood.train.csv", "warm.csv", COLUMNS="200").stdout
    mood, warm = (line for line in shown.splitlines() if "data" not in line and ".csv  " in line)
    assert "mood.validation.csv, mood-test.csv" in mood
    assert "accuracy" in mood
    assert "spearman" in warm
    write(data / "mood.validation.csv", "id,sentence,label", [f"{k},a day,{k % 2}" for k in (1, 2)])
    said = lobes("init", "mood.train.csv", "--to", "other.toml").stderr
    assert "Read as other splits of mood: mood.validation.csv, mood-test.csv. No study" in said


def test_the_delimiter_is_read_off_the_data(data):
    write(data / "moods.csv", "text;label", [row.replace(",", ";") for row in MOODS])
    record = new_study(["moods.csv"], data / "new.toml")
    assert record["tasks"][0]["delimiter"] == ";"
    assert load_study(data / "new.toml").tasks[0].delimiter == ";"


def test_the_names_that_the_first_row_gives_are_shown(data):
    assert (
        "Columns of mood.train.csv: id, sentence, label" in lobes("init", "mood.train.csv").stdout
    )
    long = f"{'word ' * 13}".strip()
    write(data / "long.csv", f",{long},label", [f"{k},{row}" for k, row in enumerate(MOODS)])
    given = {"text": [long], "label": ["label"]}
    assert new_study(["long.csv"], data / "new.toml", **given)["tasks"][0]["text"] == long


def test_a_key_of_a_task_can_be_set(data):
    write(data / "gaps.csv", "text,label", [*MOODS, "a day,"])
    setting = 'tasks.gaps.leave_out={label=""}'
    named = ("init", "gaps.csv", "--label", "label", "--set")
    result = lobes(*named, setting)
    assert result.exit_code == 0, result.stderr
    assert load_study(data / "study.toml").tasks[0].leave_out == {"label": ""}
    wrong = lobes(*named, "training.steps=5", "--to", "other.toml")
    assert "expected a key of a task, for example tasks.gaps." in wrong.stderr


def test_a_parquet_file_makes_a_study_too(data):
    pandas.read_csv(data / "mood.train.csv").to_parquet(data / "moods.parquet")
    table = new_study(["moods.parquet"], Path("x.toml"))["tasks"][0]
    assert (table["name"], table["text"], "label" in table) == ("moods", "sentence", False)


def test_a_known_task_may_have_a_folder_of_its_name(data):
    (data / "sst2").mkdir()
    assert new_study(["sst2"], Path("x.toml"))["tasks"] == [{"name": "sst2", "why": "a known task"}]


def test_the_columns_can_be_named(data):
    record = new_study(["asked.jsonl"], Path("x.toml"), text=["answer"], label=["kind"])
    assert [task["name"] for task in record["tasks"]] == ["asked"]
    assert record["tasks"][0]["text"] == "answer"
    with pytest.raises(DataError, match="no column 'kid': it has 'question', 'answer', 'ok'"):
        new_study(["asked.jsonl"], Path("y.toml"), label=["kid"])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["mood.trian.csv"], r"no file 'mood.trian.csv', .* Did you mean mood\.train\.csv\?"),
        (["sst3"], r"no known task of that name\. Did you mean 'sst"),
        (["numbers.csv"], "no column with texts of several words: name one with --text"),
        (["texts.csv"], "no column with a few values that repeat: name that of the labels"),
        (["few.csv"], "holding out"),
        (["damaged.parquet"], "damaged.parquet' is not a whole Parquet file, or is damaged"),
        (["header.csv"], "header.csv has no rows: expected a header and examples under it"),
        (["other"], "^'other' is a folder: name the files of training data in it"),
        (["."], r"^'\.' is a folder: name the files"),
        (["bare.csv"], "^The first row of bare.csv, 'a fine day 1', 'good', seems to be data"),
        (["twice.tsv"], r"'text', 'label', 'text', seems to be data and no header \(see 'text'"),
        (["nameless.csv"], r"seems to be data and no header \(see ''\)"),
        (["long.csv"], "seems to be data and no header .* with --text and --label"),
        (["gaps.csv"], r"leave_out = .* with --set tasks\.gaps\.KEY=VALUE"),
        (["mood.train.csv", "other/mood.train.csv"], "Two tasks would be called 'mood'"),
    ],
)
def test_data_that_make_no_study_are_refused_and_nothing_is_written(data, given, words):
    write(data / "numbers.csv", "a,b", ["1,2", "1,3", "2,3", "2,4"])
    write(data / "texts.csv", "a,b", [f"one text {k},another {k} text" for k in range(9)])
    write(data / "few.csv", "text,label", ["a b,x", "c d,y", "e f,x", "g h,y"])
    (data / "damaged.parquet").write_bytes(b"PAR1 and no more")
    (data / "header.csv").write_text("text,label\n", encoding="utf-8")
    write(data / "bare.csv", "a fine day 1,good", MOODS)
    write(data / "twice.tsv", "text\tlabel\ttext", ["a day\tgood\tb", "a day\tbad\tb"] * 9)
    write(data / "nameless.csv", "text,label,", [f"{row},x" for row in MOODS])
    write(data / "long.csv", f"{'word ' * 13},label", MOODS)
    write(data / "gaps.csv", "text,label,other", [*(f"{r},x" for r in MOODS), "a day,,x"])
    (data / "other").mkdir()
    (data / "other" / "mood.train.csv").write_bytes((data / "mood.train.csv").read_bytes())
    with pytest.raises((ConfigError, DataError), match=words):
        new_study(given, data / "new.toml")
    assert not (data / "new.toml").exists()


def test_the_doctor_says_what_is_there_and_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("LOBES_DATA", str(tmp_path / "nowhere"))
    found = doctor.examined()
    assert found["libraries"]["torch"]
    assert found["devices"][0]["gflops"] > 0
    assert found["devices"][0]["precision"] in ("fp32", "bf16")
    assert any(f"no folder {tmp_path / 'nowhere'}" in each for each in found["missing"])
    monkeypatch.setenv("LOBES_DATA", "n" * 300)
    assert any("no folder nnn" in each for each in doctor.examined()["missing"])
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "matplotlib" else "1")
    monkeypatch.setattr("importlib.metadata.requires", lambda _: ['matplotlib>=3; extra == "plot"'])
    lacking = doctor._missing(doctor.examined())
    assert any('pip install "lobes[plot]"' in each for each in lacking)
    result = lobes("doctor")
    assert result.exit_code == 0
    assert "GFLOP/s" in result.stdout


def test_a_path_that_is_not_there_brings_the_nearest_one(tmp_path):
    study = write_study(tmp_path)
    for command, wrong, near in (
        ("run", "studdy.toml", study),
        ("report", "modle", tmp_path / "model"),
        ("heads", "modle", tmp_path / "model"),
    ):
        result = lobes(command, tmp_path / wrong)
        assert result.exit_code == 1
        assert f"Did you mean {near}?" in result.stderr
    assert "Did you mean 'run'?" in lobes("rum").stderr
    assert "--output" in lobes("run", study, "--ouput", "x").stderr


def test_a_shell_completes_commands_and_options():
    def completed(words):
        code = "import sys; sys.argv[0] = 'lobes'; from lobes.cli import main; main()"
        asked = {"_LOBES_COMPLETE": "complete_bash", "COMP_WORDS": words}
        number = str(len(words.split(" ")) - 1)
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **asked, "COMP_CWORD": number},
            capture_output=True,
            text=True,
        )
        return done.stdout.split()

    assert completed("lobes re") == ["report"]
    assert "--controls" in completed("lobes run --con")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", "'.' is a folder: name the files"),
        ("n" * 300, "has a part of 300 bytes"),
        ("blank.csv", "blank.csv has no rows"),
        ("some.jsonl", "train row 5 has no column 'label'"),
        (os.fsdecode(b"\xff.csv"), "is not UTF-8, which a study is: rename the file"),
    ],
)
def test_a_file_that_cannot_be_a_task_is_refused_in_one_sentence(data, given, words):
    (data / "blank.csv").write_text("\n\n", encoding="utf-8")
    rows = [{"text": f"a day {k}"} | ({} if k == 5 else {"label": k % 2}) for k in range(40)]
    (data / "some.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (data / os.fsdecode(b"\xff.csv")).write_bytes((data / "warm.csv").read_bytes())
    with pytest.raises((ConfigError, DataError), match=words):
        new_study([given], data / "new.toml")


def test_names_and_texts_of_other_scripts_make_a_study(data):
    rows = [f"今天天气很好{k},{'好' if k % 2 else '坏'},{'甲乙丙'[k % 3]}" for k in range(60)]
    write(data / "情感.csv", "文本,情感,类别", rows)
    write(data / "类别\x7f.csv", "文本,label", [f"今天天气{k},{k % 2}" for k in range(60)])
    record = new_study(["情感.csv", "类别\x7f.csv"], Path("😀.toml"))
    assert [(one["name"], one["text"]) for one in record["tasks"]] == [
        ("task", "文本"),
        ("task-2", "文本"),
        ("task-3", "文本"),
    ]


def test_a_known_task_is_not_the_folder_of_its_name(data):
    (data / "sst2").mkdir()
    assert new_study(["sst2"], Path("x.toml"))["tasks"] == [{"name": "sst2", "why": "a known task"}]


def test_lists_of_labels_are_not_counted_as_classes(data):
    rows = [{"text": f"a day {k}", "label": ["a", "b"][: k % 3]} for k in range(40)]
    write(data / "many.jsonl", json.dumps(rows[0]), map(json.dumps, rows[1:]))
    table = new_study(["many.jsonl"], Path("x.toml"))["tasks"][0]
    assert table["why"].startswith("lists of labels")
    assert "metric" not in table


def test_the_command_to_go_on_with_can_be_pasted(data):
    result = lobes("init", "sst2", "--to", "my study.toml")
    assert "Next: lobes plan 'my study.toml', lobes run 'my study.toml'" in result.stderr
    assert lobes("init", "sst2", "--to", "x.toml", "--model", "").exit_code == 1
