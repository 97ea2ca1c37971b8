"""A run's folder: whose it is, what it holds, and what may be deleted from it."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest

from lobes.config.study import StudyConfig, override
from lobes.errors import RunError
from lobes.experiments.manifest import check_files, read_entries
from lobes.experiments.store import RunFolder
from lobes.experiments.stored_study import stored_study
from lobes.files import digest_of, read_json
from lobes.measure.steps import Step

STUDY = StudyConfig.from_dict(
    {
        "name": "test",
        "model": "some-model",
        "tasks": [
            {"name": "mood", "train": "t.csv", "validation": "v.csv", "text": "sentence"},
            {"name": "topic", "dataset": "org/topics", "text": "sentence"},
        ],
    }
)
ZEROS = Step("importance", "x", "importance of x", lambda progress: {"a": np.zeros(3)})
PRINTS = {"data of mood": "1", "data of topic": "2"}


def opened(path, *settings, fresh=False):
    return RunFolder(path, override(STUDY, *settings).to_dict(), fresh=fresh)


def begin(path, *settings, prints=PRINTS, fresh=False):
    with opened(path, *settings, fresh=fresh) as folder:
        folder.begin(prints)


def test_a_run_continues_with_the_same_study(tmp_path):
    begin(tmp_path / "run")
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["schema"] == "lobes-run"
    assert StudyConfig.from_dict(stored["config"]) == STUDY
    begin(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == stored


def test_what_changes_no_number_may_differ(tmp_path):
    begin(tmp_path / "run")
    begin(
        tmp_path / "run",
        "name=other",
        "output=elsewhere",
        "training.save_every=5",
        "tasks.mood.train=moved.csv",
    )


@pytest.mark.parametrize(
    ("command", "settings"),
    [
        ("run", ["compare.held_out=0.2"]),
        ("compare", ["iap.controls=3", "iap.level=0.9"]),
        ("transfer", ["iap.fractions=[0.1]"]),
    ],
)
def test_what_a_command_does_not_use_may_differ(tmp_path, command, settings):
    with RunFolder(tmp_path / "run", STUDY.to_dict(), command=command) as folder:
        folder.begin(PRINTS)
    changed = override(STUDY, *settings).to_dict()
    with RunFolder(tmp_path / "run", changed, command=command) as folder:
        folder.begin(PRINTS)


@pytest.mark.parametrize(
    ("stored", "given"),
    [
        ([], ["iap.importance_steps=7", "training.temperature=3.0", "iap.matched=total"]),
        ([], ["training.epochs=3.0"]),
        ([], ["iap.seed=0", "iap.lesion_tasks=['topic', 'mood']"]),
        (["iap.controls=0", "iap.random=0"], ["iap.control_examples=5"]),
        (["iap.fractions=[0.3]"], ["iap.exact=true"]),
        (["iap.method=gates"], ["iap.aggregate=sequence"]),
        (["training.enabled=false"], ["training.steps=7", "training.batch_size=3"]),
    ],
)
def test_a_setting_without_a_use_makes_no_other_study(tmp_path, stored, given):
    begin(tmp_path / "run", *stored)
    begin(tmp_path / "run", *stored, *given)


@pytest.mark.parametrize(
    ("command", "stored", "given"),
    [
        ("run", ["iap.method=integrated_gradients"], "iap.importance_steps=7"),
        ("run", ["training.sampling=temperature"], "training.temperature=3.0"),
        ("run", [], "iap.exact=true"),
        ("run", [], "iap.aggregate=sequence"),
        ("run", [], "iap.method=gates"),
        ("run", [], "iap.seed=1"),
        ("compare", [], "iap.seed=0"),
        ("compare", [], "iap.control_examples=5"),
    ],
)
def test_the_same_setting_makes_another_study_where_it_has_a_use(tmp_path, command, stored, given):
    first = override(STUDY, "iap.fractions=[0.2, 0.3]", *stored)
    with RunFolder(tmp_path / "run", first.to_dict(), command=command) as folder:
        folder.begin(PRINTS)
    key = given.partition("=")[0]
    with (
        pytest.raises(RunError, match=rf"another study: {key.replace('.', '.')} differs"),
        RunFolder(tmp_path / "run", override(first, given).to_dict(), command=command),
    ):
        pass


def test_what_a_command_uses_may_not_differ(tmp_path):
    config = override(STUDY, "compare.seeds=3").to_dict()
    changed = override(STUDY, "compare.seeds=3", "compare.held_out=0.2").to_dict()
    for command in ("compare", "transfer"):
        with RunFolder(tmp_path / command, config, command=command) as folder:
            folder.begin(PRINTS)
        with (
            pytest.raises(RunError, match=r"another study: compare\.held_out differs"),
            RunFolder(tmp_path / command, changed, command=command),
        ):
            pass


def test_the_folder_of_another_command_is_refused(tmp_path):
    begin(tmp_path / "run")
    with (
        pytest.raises(RunError) as caught,
        RunFolder(tmp_path / "run", STUDY.to_dict(), command="transfer"),
    ):
        pass
    assert str(caught.value) == (
        f"{tmp_path / 'run'} holds what `lobes run` made; choose another output, or start again "
        f"with --fresh."
    )


def test_a_folder_from_before_there_were_other_commands(tmp_path):
    begin(tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    stored = json.loads(path.read_text())
    for key in ("iat", "compare", "transfer"):
        del stored["config"][key]
    del stored["command"]
    del stored["sha256"]
    path.write_text(json.dumps(stored))
    begin(tmp_path / "run", "compare.seeds=3")


def test_a_setting_of_another_version_is_not_called_another_study(tmp_path):
    config = STUDY.to_dict()
    older = {**config, "iap": {**config["iap"], "stop_error": 0.0}}
    with RunFolder(tmp_path / "run", older) as folder:
        folder.begin(PRINTS)
    with (
        pytest.raises(RunError, match=r"another version of lobes began \(unknown key iap\.stop_er"),
        opened(tmp_path / "run"),
    ):
        pass
    with pytest.raises(
        RunError, match=r"run that another version of lobes began .*: use that vers"
    ):
        stored_study(tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "keys"),
    [
        (["seed=1"], "seed differs"),
        (["iap.controls=3", "training.steps=7"], "training.steps differs"),
        (["tasks.mood.train_size=7"], "tasks.mood.train_size differs"),
        (["tasks.topic.train=test"], "tasks.topic.train differs"),
    ],
)
def test_another_study_is_refused_by_its_keys(tmp_path, settings, keys):
    begin(tmp_path / "run")
    before = (tmp_path / "run" / "config.json").read_bytes()
    with pytest.raises(RunError) as caught, opened(tmp_path / "run", *settings):
        pass
    assert str(caught.value) == (
        f"{tmp_path / 'run'} holds a run of another study: {keys}; choose another output, or "
        f"start again with --fresh."
    )
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_the_order_of_the_tasks_counts(tmp_path):
    begin(tmp_path / "run")
    turned = STUDY.model_copy(update={"tasks": STUDY.tasks[::-1]})
    with (
        pytest.raises(RunError, match="another study: order of tasks differs"),
        RunFolder(tmp_path / "run", turned.to_dict()),
    ):
        pass


def test_changed_data_are_refused(tmp_path):
    begin(tmp_path / "run")
    with pytest.raises(RunError) as caught:
        begin(tmp_path / "run", prints={**PRINTS, "data of mood": "3"})
    assert str(caught.value) == (
        f"{tmp_path / 'run'} holds a run on other data: data of mood changed since it began; "
        f"choose another output, or start again with --fresh."
    )


def test_a_study_that_never_began_leaves_nothing(tmp_path):
    def fail():
        with opened(tmp_path / "runs" / "a"):
            assert (tmp_path / "runs" / "a" / "run.lock").exists()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    with opened(tmp_path / "mine"):
        pass
    assert list((tmp_path / "mine").iterdir()) == []


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_of_other_things_is_refused_untouched(tmp_path, fresh):
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RunError) as caught, opened(tmp_path, fresh=fresh):
        pass
    assert str(caught.value) == (
        f"{tmp_path} holds files but no run of lobes; choose another output, or an empty folder."
    )
    assert sorted(os.listdir(tmp_path)) == ["config.json", "thesis.tex"]


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file is a file; expected a folder for the run"):
        opened(tmp_path / "file").__enter__()
    with pytest.raises(RunError, match=r"Cannot write .*run: Not a directory"):
        opened(tmp_path / "file" / "run").__enter__()


def test_fresh_deletes_what_lobes_wrote_and_nothing_else(tmp_path):
    path = tmp_path / "run"
    with opened(path) as folder:
        folder.begin(PRINTS)
        folder.measurements("scope").measure(ZEROS)
        folder.write_json("results.json", {})
        (path / "checkpoints" / "checkpoint-7").mkdir(parents=True)
        (path / "checkpoints" / "checkpoint-7" / "weights").write_text("")
        folder.write_json("checkpoints/seconds.json", {})
        folder.write_json("comparison.json", {})
        with folder.writing_model({}, "model-multi-seed-0") as model:
            (model / "weights").write_text("")
        with folder.writing_model({"steps": 3}) as model:
            (model / "weights").write_text("")
    (path / "notes.txt").write_text("mine")
    (path / "measurements" / "mine.parquet").write_text("mine")
    (path / "model" / "mine.txt").write_text("mine")
    (path / "checkpoints" / "checkpoint-best").mkdir()
    (path / "checkpoints" / "checkpoint-best" / "mine.txt").write_text("mine")
    with pytest.raises(ZeroDivisionError), opened(path, "seed=1", fresh=True):
        raise ZeroDivisionError  # the new study could not start: the old results stay
    assert (path / "results.json").exists()
    begin(path, "seed=1", fresh=True)
    left = sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())
    assert left == [
        "checkpoints/checkpoint-best/mine.txt",
        "config.json",
        "files.json",
        "measurements/mine.parquet",
        "model/mine.txt",
        "notes.txt",
    ]
    assert json.loads((path / "config.json").read_text())["config"]["seed"] == 1


def test_a_damaged_configuration(tmp_path):
    begin(tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text('{"schema"')
    with pytest.raises(RunError) as caught, opened(tmp_path / "run"):
        pass
    assert str(caught.value) == (
        f"{tmp_path / 'run' / 'config.json'} is damaged; choose another output, or start again "
        f"with --fresh."
    )
    begin(tmp_path / "run", fresh=True)


def test_a_folder_in_use_says_by_whom(tmp_path):
    with opened(tmp_path / "run") as folder:
        folder.begin(PRINTS)
        with (
            pytest.raises(
                RunError, match=rf"is in use by another run \(process {os.getpid()} on .*, since "
            ),
            opened(tmp_path / "run"),
        ):
            pass
        with pytest.raises(RunError, match="is in use"), opened(tmp_path / "run", fresh=True):
            pass
        assert (tmp_path / "run" / "config.json").exists()
    begin(tmp_path / "run")


def test_a_killed_run_leaves_no_lock_and_no_fragments(tmp_path):
    script = """
        import sys, time
        from lobes.experiments.store import RunFolder
        with RunFolder(sys.argv[1], {"seed": 0}) as folder:
            folder.begin({})
            with folder.writing("results.json") as file:
                file.write(b"half")
                file.flush()
                print("writing", flush=True)
                time.sleep(60)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), tmp_path / "run"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "writing\n"
        with pytest.raises(RunError, match=rf"in use by another run \(process {process.pid} on"):
            RunFolder(tmp_path / "run", {"seed": 0}).__enter__()
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert (tmp_path / "run" / ".lobes-tmp-results.json").read_bytes() == b"half"
    with RunFolder(tmp_path / "run", {"seed": 0}) as folder:
        folder.begin({})
    assert sorted(os.listdir(tmp_path / "run")) == ["config.json", "files.json"]


def test_a_folder_that_may_not_be_written(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(RunError) as caught:
        opened(tmp_path / "run").__enter__()
    assert str(caught.value) == (
        f"{tmp_path / 'run'} may not be written; choose another output or change its permissions."
    )
    assert list(tmp_path.iterdir()) == []


def test_the_model_is_there_when_it_is_whole(tmp_path, caplog):
    with opened(tmp_path / "run") as folder:
        folder.begin(PRINTS)
        assert folder.model_record() is None
        with folder.writing_model({"steps": 3}) as model:
            (model / "weights").write_text("12345")
        assert folder.model_record()["steps"] == 3
        assert caplog.messages == []
        (folder.path / "model" / "weights").write_text("1")
        assert folder.model_record() is None
        assert caplog.messages == [f"{folder.path / 'model'} is damaged; it is made again."]


def test_models_by_name(tmp_path):
    with opened(tmp_path / "run") as folder:
        folder.begin(PRINTS)
        with folder.writing_model({"steps": 3}, "model-a") as model:
            (model / "weights").write_text("12345")
        assert folder.model_record() is None
        assert folder.model_record("model-a") == {"steps": 3}
        folder.remove_models("model-b/")
        folder.remove_models("model-a/")
        assert not (tmp_path / "run" / "model-a").exists()


# Whose the folder is, and what in it


@pytest.mark.parametrize(
    "place", ["checkpoints", "measurements", "model", "model-step-3", "run.lock", "files.jsonl"]
)
@pytest.mark.parametrize("fresh", [False, True])
def test_no_link_leads_out_of_a_run(tmp_path, place, fresh):
    path, mine = tmp_path / "run", tmp_path / "mine"
    begin(path)
    (mine / "checkpoint-3").mkdir(parents=True)
    (path / place).unlink(missing_ok=True)
    (path / place).symlink_to(mine)
    with pytest.raises(RunError) as caught, opened(path, fresh=fresh):
        pass
    assert str(caught.value) == (
        f"{path / place} is a link, and lobes writes only inside the run's own folder: put what "
        f"it names in its place, or choose another output."
    )
    assert os.listdir(mine) == ["checkpoint-3"]


def test_a_stranger_s_file_makes_room_and_stays(tmp_path, caplog):
    with opened(tmp_path) as folder:
        folder.begin(PRINTS)
        (tmp_path / "results.json").write_text("mine")
        folder.write_json("results.json", {"n": 1})
        folder.write_json("results.json", {"n": 2})
    assert read_json(tmp_path / "results.json") == {"n": 2}
    assert (tmp_path / "results.json.aside").read_text() == "mine"
    assert caplog.messages == [
        f"{tmp_path / 'results.json'} held what lobes did not write; that is in "
        f"{tmp_path / 'results.json.aside'} now."
    ]


def test_the_list_of_files_says_what_was_written(tmp_path, caplog):
    with opened(tmp_path / "run") as folder:
        folder.begin(PRINTS)
        folder.write_json("results.json", {"n": 1})
        assert folder.holds("results.json")
        assert not folder.holds("predictions.parquet")
        check_files(folder.path, "results.json", "predictions.parquet")
        (folder.path / "results.json").write_text("{}")
        assert not folder.holds("results.json")
        assert caplog.messages == [f"{folder.path / 'results.json'} is damaged; it is made again."]
        with pytest.raises(RunError, match=r"results\.json is damaged: its SHA-256 is not the one"):
            check_files(folder.path, "results.json")
        folder.remove("results.json")
        listed = read_json(folder.path / "files.json")["files"]
        assert listed == {"config.json": digest_of(folder.path / "config.json")}


@pytest.fixture
def measured(tmp_path):
    """A run that was killed after some measurements, and all that is in its folder."""
    with opened(tmp_path) as folder:
        folder.begin(PRINTS)
        before = (tmp_path / "files.json").stat()
        for key in "abc":
            folder.measurements("scope").measure(replace(ZEROS, key=key))
        assert os.path.samestat(before, (tmp_path / "files.json").stat())  # not written anew
    kept = {f"measurements/{path.name}": path for path in (tmp_path / "measurements").iterdir()}
    assert len(kept) == 3
    kept["config.json"] = tmp_path / "config.json"
    return {name: digest_of(path) for name, path in kept.items()}


def test_measurements_are_noted_one_by_one_and_joined_to_the_list_later(tmp_path, measured, caplog):
    assert read_entries(tmp_path) == measured
    assert list(read_json(tmp_path / "files.json")["files"]) == ["config.json"]
    with opened(tmp_path) as folder:
        assert read_json(tmp_path / "files.json")["files"] == measured
        assert not (tmp_path / "files.jsonl").exists()
        folder.measurements("scope").measure(replace(ZEROS, key="d"))
        folder.write_json("results.json", {})
        assert not (tmp_path / "files.jsonl").exists()
        assert len(read_json(tmp_path / "files.json")["files"]) == len(measured) + 2
    assert caplog.messages == []
    begin(tmp_path, fresh=True)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "files.json"]


def test_a_note_that_was_cut_off_is_none(tmp_path, measured, caplog):
    path = tmp_path / "files.jsonl"
    content = path.read_bytes()
    last = list(read_entries(tmp_path))[-1]
    for length in range(content.rindex(b"{"), len(content)):
        path.write_bytes(content[:length])
        assert read_entries(tmp_path) == {k: v for k, v in measured.items() if k != last}
    begin(tmp_path)
    assert caplog.messages == []


def test_a_list_that_was_written_before_its_notes_went_says_the_same(tmp_path, measured):
    content = (tmp_path / "files.jsonl").read_bytes()
    begin(tmp_path)
    (tmp_path / "files.jsonl").write_bytes(content)  # killed before it was removed
    assert read_entries(tmp_path) == measured


@pytest.mark.usefixtures("measured")
def test_a_damaged_note_is_found(tmp_path, caplog):
    path = tmp_path / "files.jsonl"
    content = path.read_bytes()
    for place in range(0, len(content) - 1, 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert read_entries(tmp_path) is None
    with pytest.raises(RunError, match=r"files\.json is damaged. Run the study again"):
        check_files(tmp_path, "results.json")
    begin(tmp_path)
    assert caplog.messages == [f"{tmp_path / 'files.json'} is damaged; it is made again."]
    assert len(read_entries(tmp_path)) == 4


def test_a_note_that_does_not_fit_the_disk_leaves_those_before(tmp_path, measured, monkeypatch):
    sync, path = os.fsync, tmp_path / "files.jsonl"

    def full(file):
        if os.path.samestat(os.fstat(file), path.stat()):
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(file)

    content = path.read_bytes()
    with opened(tmp_path) as folder:
        path.write_bytes(content)
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match="The disk is full: cannot write"):
            folder.measurements("scope").measure(replace(ZEROS, key="d"))
        assert path.read_bytes() == content
        assert len(os.listdir(tmp_path / "measurements")) == 3


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_without_the_list_the_names_tell(tmp_path, damage, caplog):
    with opened(tmp_path) as folder:
        folder.begin(PRINTS)
        folder.write_json("results.json", {})
        folder.measurements("scope").measure(ZEROS)
        with folder.writing_model({"steps": 3}) as model:
            (model / "weights").write_text("12345")
    if damage == "missing":
        (tmp_path / "files.json").unlink()
        check_files(tmp_path, "results.json")
    else:
        content = (tmp_path / "files.json").read_text()
        (tmp_path / "files.json").write_text(content.replace("results", "resulds"))
        with pytest.raises(RunError, match=r"files\.json is damaged. Run the study again"):
            check_files(tmp_path, "results.json")
    (tmp_path / "notes.txt").write_text("mine")
    with opened(tmp_path) as folder:
        assert not folder.holds("results.json")  # made again, of the measurements
        assert folder.model_record() == {"steps": 3}
        folder.measurements("scope").measure(replace(ZEROS, compute=lambda progress: {}))
        folder.write_json("results.json", {})
    warned = [f"{tmp_path / 'files.json'} is damaged; it is made again."]
    assert caplog.messages == (warned if damage == "damaged" else [])
    begin(tmp_path, fresh=True)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "files.json", "notes.txt"]


@pytest.mark.parametrize("other", [False, True])
def test_nothing_is_written_into_a_folder_that_is_no_longer_ours(tmp_path, other):
    path = tmp_path / "run"
    with opened(path) as folder:
        folder.begin(PRINTS)
        shutil.rmtree(path)
        if other:
            begin(path, "seed=3")
        before = {p: p.read_bytes() for p in path.rglob("*")}
        measurements = folder.measurements("scope")
        for write in (
            lambda: folder.write_json("results.json", {}),
            lambda: folder.writing_model({}).__enter__(),
            lambda: measurements.measure(ZEROS),
            folder.check,
        ):
            with pytest.raises(
                RunError, match="was removed, replaced or taken over by another run"
            ):
                write()
    assert {p: p.read_bytes() for p in path.rglob("*")} == before
