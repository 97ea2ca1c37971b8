"""Files that are whole or absent, whatever goes wrong on the way."""

import errno
import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lobes import disk
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


def test_a_device_that_is_really_full(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    (tmp_path / ".lobes-tmp-a.bin").symlink_to("/dev/full")
    with (
        pytest.raises(RunError, match=r"^The disk is full: cannot write .*a\.bin; make room"),
        disk.writing(tmp_path / "a.bin") as file,
    ):
        file.write(b"x" * 10_000)
    assert names(tmp_path) == []


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
    assert listed == {"inner/words": 3, "weights": 5}
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
    (tmp_path / "copy" / "done.json").write_text("{")
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
