"""Files that are whole or absent, whatever goes wrong on the way."""

import errno
import hashlib
import json
import os
import re
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lobes import files as disk
from lobes.errors import DataError, RunError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_whole(tmp_path):
    with disk.writing(tmp_path / "sub" / "a.bin") as file:
        file.write(b"whole")
        assert names(tmp_path / "sub") == [".lobes-tmp-a.bin"]
    assert names(tmp_path / "sub") == ["a.bin"]
    assert (tmp_path / "sub" / "a.bin").read_bytes() == b"whole"


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError("other")])
def test_an_interrupted_write_leaves_the_old_file(tmp_path, failure):
    (tmp_path / "a.bin").write_bytes(b"old")

    def interrupted():
        with disk.writing(tmp_path / "a.bin") as file:
            file.write(b"ne")
            raise failure

    with pytest.raises((KeyboardInterrupt, ValueError)):
        interrupted()
    assert names(tmp_path) == ["a.bin"]
    assert (tmp_path / "a.bin").read_bytes() == b"old"


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (
            errno.ENOSPC,
            "The disk is full: cannot write {path}; make room, then run the same command again "
            "and it continues.",
        ),
        (
            errno.EROFS,
            "{path} may not be written; choose another output or change its permissions.",
        ),
        (errno.EIO, "Cannot write {path}: Input/output error."),
    ],
)
def test_what_the_disk_refuses(tmp_path, monkeypatch, step, number, sentence):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, step, refuse)
    path = tmp_path / "a.bin"
    with pytest.raises(RunError) as caught, disk.writing(path) as file:
        file.write(b"x")
    assert str(caught.value) == sentence.format(path=path)
    assert names(tmp_path) == []


def test_a_file_larger_than_the_system_takes(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, limits[1]))
    try:
        with (
            pytest.raises(RunError, match=r"^The disk is full: cannot write .*a\.bin; make room"),
            disk.writing(tmp_path / "a.bin") as file,
        ):
            file.write(b"x" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == []


def test_nothing_is_written_through_a_link(tmp_path):
    """Neither one at the target, nor one at the name under which a file comes into being."""
    for name in ("a.bin", ".lobes-tmp-a.bin"):
        (tmp_path / "mine").write_text("mine")
        (tmp_path / name).symlink_to(tmp_path / "mine")
        with disk.writing(tmp_path / "a.bin") as file:
            file.write(b"whole")
        assert (tmp_path / "mine").read_text() == "mine"
        assert not (tmp_path / "a.bin").is_symlink()
        (tmp_path / "a.bin").unlink()


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at inline_container.cc:668] . unexpected pos 64 vs 0"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_in_the_words_of_a_library(tmp_path, error):
    with pytest.raises(RunError, match=r"^The disk is full"), disk.disk_faults(tmp_path):
        raise error


def test_other_errors_pass_unchanged(tmp_path):
    for error in (DataError("No space left"), KeyError("x"), OSError("no number")):
        with pytest.raises(type(error)) as caught, disk.disk_faults(tmp_path):
            raise error
        assert caught.value is error


def test_a_folder_appears_when_it_is_whole(tmp_path):
    with disk.writing_folder(tmp_path / "model", {"steps": 7}, "done.json") as folder:
        (folder / "weights").write_bytes(b"12345")
        (folder / "inner").mkdir()
        (folder / "inner" / "words").write_bytes(b"123")
        assert not (tmp_path / "model").exists()
    assert names(tmp_path) == ["model"]
    assert disk.read_folder(tmp_path / "model", "done.json") == {"steps": 7}
    listed = json.loads((tmp_path / "model" / "done.json").read_text())["files"]
    assert {name: file["bytes"] for name, file in listed.items()} == {
        "inner/words": 3,
        "weights": 5,
    }
    assert listed["weights"]["sha256"] == hashlib.sha256(b"12345").hexdigest()
    disk.remove_folder(tmp_path / "model", "done.json")
    assert names(tmp_path) == []


def test_a_folder_that_is_not_whole_is_not_read(tmp_path):
    model = tmp_path / "model"
    assert disk.read_folder(model, "done.json") is None
    with disk.writing_folder(model, {}, "done.json") as folder:
        (folder / "weights").write_bytes(b"12345")
    shutil.copytree(model, tmp_path / "copy")
    (model / "weights").write_bytes(b"123")
    assert disk.read_folder(model, "done.json") is None
    marker = tmp_path / "copy" / "done.json"
    whole = marker.read_text()
    assert disk.read_folder(tmp_path / "copy", "done.json") == {}
    for damaged in ("{", whole.replace("weights", "weighty"), whole.replace("5", "6", 1)):
        marker.write_text(damaged)
        assert disk.read_folder(tmp_path / "copy", "done.json") is None
    marker.write_text(whole)
    (tmp_path / "copy" / "weights").write_bytes(b"12346")
    assert disk.read_folder(tmp_path / "copy", "done.json") is None


def test_an_interrupted_folder_leaves_the_old_one(tmp_path):
    def write(content, failure=None):
        with disk.writing_folder(tmp_path / "model", {}, "done.json") as folder:
            (folder / "weights").write_bytes(content)
            if failure:
                raise failure

    write(b"old")
    with pytest.raises(KeyboardInterrupt):
        write(b"half", KeyboardInterrupt)
    assert names(tmp_path) == ["model"]
    assert (tmp_path / "model" / "weights").read_bytes() == b"old"
    write(b"new")
    assert (tmp_path / "model" / "weights").read_bytes() == b"new"
    assert names(tmp_path) == ["model"]


def test_what_is_replaced_survives_until_the_new_folder_is_in_place(tmp_path):
    """Killed between the two renames, the old folder is put back by the next call."""
    model, replace = tmp_path / "model", os.replace

    def write(content):
        with disk.writing_folder(model, {}, "done.json") as folder:
            (folder / "weights").write_bytes(content)

    def kill(source, target):
        if str(source).endswith(".lobes-tmp-model"):
            os._exit(9)
        replace(source, target)

    write(b"old")
    child = os.fork()
    if not child:
        os.replace = kill
        write(b"new")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert (tmp_path / ".lobes-old-model" / "weights").read_bytes() == b"old"
    disk.restore(model, "done.json")
    assert (model / "weights").read_bytes() == b"old"
    write(b"new")
    assert (model / "weights").read_bytes() == b"new"
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("damaged", [False, True])
def test_what_others_put_into_a_folder_is_set_aside(tmp_path, caplog, damaged):
    for number in (1, 2):
        with disk.writing_folder(tmp_path / "model", {"n": number}, "done.json") as folder:
            (folder / "weights").write_bytes(b"1")
        (tmp_path / "model" / ".DS_Store").write_text(str(number))
        if damaged:
            (tmp_path / "model" / "done.json").write_text("{")
    with disk.writing_folder(tmp_path / "model", {"n": 3}, "done.json") as folder:
        (folder / "weights").write_bytes(b"1")
    assert disk.read_folder(tmp_path / "model", "done.json") == {"n": 3}
    assert names(tmp_path) == ["model", "model.aside", "model.aside-2"]
    left = [".DS_Store", "weights"] if damaged else [".DS_Store"]  # nobody knows whose that was
    assert names(tmp_path / "model.aside") == names(tmp_path / "model.aside-2") == left
    assert caplog.messages[0] == (
        f"{tmp_path / 'model'} held what lobes did not write; that is in "
        f"{tmp_path / 'model.aside'} now."
    )


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_a_folder_s_files_get_the_rights_of_any_new_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        with disk.writing_folder(tmp_path / "model", {}, "done.json") as folder:
            (folder / "weights").touch(0o600)
            (folder / "words").touch(0o666)
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()}
    assert modes == {0o666 & ~mask}


def test_only_the_listed_files_are_removed(tmp_path):
    with disk.writing_folder(tmp_path / "model", {}, "done.json") as folder:
        (folder / "weights").write_bytes(b"1")
    (tmp_path / "model" / "notes.txt").write_text("mine")
    disk.remove_folder(tmp_path / "model", "done.json")
    assert names(tmp_path / "model") == ["notes.txt"]


def test_a_forged_list_removes_nothing_elsewhere(tmp_path):
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    (tmp_path / "model").mkdir()
    listed = {"files": {"../outside.txt": 4, str(outside): 4}}
    (tmp_path / "model" / "done.json").write_text(json.dumps(listed))
    disk.remove_folder(tmp_path / "model", "done.json")
    assert names(tmp_path) == ["outside.txt"]


def test_nothing_behind_a_link_is_removed(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "weights").write_text("mine")
    with disk.writing_folder(tmp_path / "model", {}, "done.json") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "weights").write_bytes(b"1")
    shutil.rmtree(tmp_path / "model" / "inner")
    (tmp_path / "model" / "inner").symlink_to(tmp_path / "mine")
    disk.remove_folder(tmp_path / "model", "done.json")
    assert names(tmp_path / "mine") == ["weights"]
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    (tmp_path / "mine" / "done.json").write_bytes(disk.to_json({"files": {"weights": 4}}))
    disk.remove_folder(tmp_path / "link", "done.json")
    assert names(tmp_path / "mine") == ["done.json", "weights"]


@given(st.data())
def test_any_other_character_breaks_the_seal_or_says_the_same(tmp_path_factory, data):
    value = {"a": [0.1, None, -3], "é": {"words": "some"}, "b": True, "n": 1e-30}
    text = disk.to_json(value, seal=True).decode()
    place = data.draw(st.integers(0, len(text) - 1))
    other = text[:place] + data.draw(st.characters(codec="utf-8")) + text[place + 1 :]
    path = tmp_path_factory.mktemp("seal") / "a.json"
    path.write_text(other, newline="")
    found = disk.read_json(path)
    # a flaw in the seal's own name leaves the rest as it is
    assert found is None or {key: found.get(key) for key in value} == value


def test_json_of_arrays_and_of_what_json_has_no_word_for(tmp_path):
    value = {"a": np.array([[1.5, np.nan]]), "b": (np.int64(3), float("inf")), 5: "é", "c": None}
    assert json.loads(disk.to_json(value)) == {
        "a": [[1.5, None]],
        "b": [3, None],
        "5": "é",
        "c": None,
    }


parts = st.lists(st.one_of(st.text(max_size=3), st.binary(max_size=3)), max_size=4)


@given(parts, parts)
def test_a_fingerprint_tells_lists_of_parts_apart(first, second):
    encoded = [[p.encode() if isinstance(p, str) else p for p in ps] for ps in (first, second)]
    same = disk.fingerprint(*first) == disk.fingerprint(*second)
    assert same == (encoded[0] == encoded[1])


def test_a_fingerprint_sees_shape_and_type_of_an_array():
    array = np.arange(6)
    prints = {
        disk.fingerprint(a)
        for a in (array, array.reshape(2, 3), array.reshape(3, 2), array.astype(float))
    }
    assert len(prints) == 4
    assert disk.fingerprint(array.reshape(2, 3).T.copy().T) in prints


@pytest.mark.parametrize("is_folder", [False, True])
def test_what_is_made_beside_its_place_has_it_when_it_is_whole(tmp_path, is_folder):
    target = tmp_path / "made"

    def make(path, content):
        if is_folder:
            path.mkdir()
        (path / "a" if is_folder else path).write_text(content)

    def content():
        return (target / "a" if is_folder else target).read_text()

    def interrupted():
        with disk.beside(target) as made:
            make(made, "half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == []
    with disk.beside(target) as first, disk.beside(target) as second:  # as two processes do
        make(first, "first")
        make(second, "second")
        assert not target.exists()
    # the second was there before the first: a file is replaced, a folder stays
    assert content() == ("second" if is_folder else "first")
    assert names(tmp_path) == ["made"]
    if is_folder:
        disk.remove_at_once(target)
        assert names(tmp_path) == []


def test_one_module_gives_files_their_names():
    source = Path(disk.__file__).parent
    renaming = re.compile(r"os\.(replace|rename|umask)|mkstemp|mkdtemp|NamedTemporaryFile")
    found = [path.name for path in source.rglob("*.py") if renaming.search(path.read_text("utf-8"))]
    assert found == ["files.py"]
    assert "umask" not in Path(disk.__file__).read_text("utf-8")
