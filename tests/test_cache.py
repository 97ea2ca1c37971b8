"""What is kept from one run to the next is whole, checked, and never in the way."""

import json
import logging
import multiprocessing
import os
import resource
import shutil
import time

import numpy as np
import pytest

from lobes.data.cache import cache_folder, load, save
from lobes.files import remove_at_once

ARRAYS = {
    "ids": np.arange(700_001, dtype=np.int32),
    "none": np.empty(0, dtype=np.int64),
    "marks": np.array([3, -1, 2], dtype=np.int8),
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LOBES_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def check(found) -> None:
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)
        assert not found[name].flags.writeable


def entries(folder) -> list[str]:
    return sorted(path.name for path in (folder / "tokens").iterdir())


def test_arrays_come_back(folder):
    assert load("tokens/a") is None
    save("tokens/a", ARRAYS)
    check(load("tokens/a"))
    assert load("tokens/b") is None
    assert entries(folder) == ["a"]


def test_a_second_entry_under_the_same_key_changes_nothing(folder):
    save("tokens/a", ARRAYS)
    save("tokens/a", {"other": np.zeros(3)})
    check(load("tokens/a"))
    assert entries(folder) == ["a"]


def cut(entry):
    with open(entry / "ids", "r+b") as file:
        file.truncate(2000)


def lengthen(entry):
    with open(entry / "marks", "ab") as file:
        file.write(b"\0")


def change(entry):
    with open(entry / "ids", "r+b") as file:
        file.seek(2_000_003)
        byte = file.read(1)
        file.seek(2_000_003)
        file.write(bytes([byte[0] ^ 1]))


def rewrite(text):
    return lambda entry: (entry / "arrays.json").write_text(text)


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        lengthen,
        change,
        lambda entry: (entry / "marks").unlink(),
        lambda entry: (entry / "arrays.json").unlink(),
        rewrite(""),
        rewrite("[1]"),
        rewrite('{"ids": {"dtype": "<i4"}}'),
        rewrite(json.dumps({"marks": {"dtype": "no type", "size": 3, "checksum": 0}})),
    ],
    ids=["cut", "longer", "one bit", "no file", "no record", "empty", "a list", "half", "no type"],
)
def test_a_damaged_entry_is_noticed_and_made_anew(folder, caplog, damage):
    save("tokens/a", ARRAYS)
    damage(folder / "tokens" / "a")
    assert load("tokens/a") is None
    assert caplog.messages == [f"{folder / 'tokens' / 'a'} cannot be read and is made anew."]
    assert entries(folder) == []
    save("tokens/a", ARRAYS)
    check(load("tokens/a"))


def test_an_entry_that_another_process_removed_first_leaves_nothing(folder):
    save("tokens/a", ARRAYS)
    with pytest.raises(FileNotFoundError):
        remove_at_once(folder / "tokens" / "gone")
    assert entries(folder) == ["a"]


def test_what_is_mapped_stays_when_the_folder_is_deleted(folder):
    save("tokens/a", ARRAYS)
    found = load("tokens/a")
    shutil.rmtree(folder)
    check(found)
    assert load("tokens/a") is None


def test_a_full_disk_keeps_nothing_and_says_so(folder, caplog):
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old[1]))
    try:
        save("tokens/a", ARRAYS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert load("tokens/a") is None
    assert entries(folder) == []
    assert caplog.messages == [
        f"File too large: nothing can be kept in {folder / 'tokens'}, so that the next run makes "
        f"it again."
    ]


def test_a_file_in_the_place_of_the_folder_keeps_nothing_and_says_so(folder, caplog):
    folder.write_text("in the way")
    assert load("tokens/a") is None
    save("tokens/a", ARRAYS)
    assert load("tokens/a") is None
    assert len(caplog.messages) == 1
    assert folder.read_text() == "in the way"


def write_and_read(number: int, start) -> None:
    start.wait()
    for turn in range(20):
        key = f"tokens/{turn % 3}"
        found = load(key)
        if found is None:
            save(key, ARRAYS)
            found = load(key)
        if found is not None:  # else another process has just removed it
            check(found)
        if turn % 5 == number:
            shutil.rmtree(cache_folder() / key, ignore_errors=True)


def test_processes_at_once_do_not_harm_each_other(folder):
    context = multiprocessing.get_context("spawn")
    start = context.Event()
    processes = [context.Process(target=write_and_read, args=(i, start)) for i in range(3)]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert set(entries(folder)) <= {"0", "1", "2"}


def test_entries_that_nobody_reads_are_removed(folder):
    for name in ("old", "read", "new"):
        save(f"tokens/{name}", ARRAYS)
    (folder / "tokens" / ".lobes-tmp-killed").mkdir()
    (folder / "other").mkdir()
    long_ago = time.time() - 40 * 24 * 3600
    for path in ("tokens/old", "tokens/read", "tokens/.lobes-tmp-killed", "other"):
        os.utime(folder / path, (long_ago, long_ago))
    check(load("tokens/read"))
    save("tokens/next", ARRAYS)
    assert entries(folder) == ["new", "next", "read"]
    assert (folder / "other").is_dir()


def test_the_log_is_quiet_where_all_is_well(caplog):
    with caplog.at_level(logging.INFO):
        save("tokens/a", ARRAYS)
        load("tokens/a")
    assert caplog.messages == []
