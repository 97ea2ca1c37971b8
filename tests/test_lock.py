"""The lock of a run's folder where the kernel's does not hold: network file systems.

A file system without flock, and another machine, are what the system calls say they are: `flock`
raises, or is granted to everybody, and the host has another name.
"""

import errno
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from lobes.errors import RunError
from lobes.experiments import lock
from lobes.experiments.lock import FolderLock
from lobes.experiments.store import SCHEMA, RunFolder

FOREVER = 1e6


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Signs of life every few milliseconds. Whoever waits for one that comes need not wait long."""
    for name, seconds in {"BEAT": 0.01, "SILENT": 60.0, "SETTLE": 0.3, "POLL": 0.005}.items():
        monkeypatch.setattr(lock, name, seconds)


@pytest.fixture
def without_flock(request, monkeypatch):
    code = getattr(request, "param", errno.ENOSYS)

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(lock.fcntl, "flock", refuse)


@pytest.fixture
def granted_to_all(monkeypatch):
    """Each machine keeps its own locks, as NFS with `nolock` and Lustre with `localflock` do."""
    monkeypatch.setattr(lock.fcntl, "flock", lambda *_: None)


def on_another_machine(monkeypatch, host="node-2"):
    monkeypatch.setattr(lock.socket, "gethostname", lambda: host)
    monkeypatch.setattr(lock, "_kernel", lambda: host)


def locked(folder):
    return FolderLock(folder / "run.lock", SCHEMA)


def abandoned(folder, **changed):
    """The file of a process on another machine that was killed."""
    owner = {**SCHEMA, "pid": 11, "host": "node-7", "kernel": "x", "id": "7", "flock": True}
    owner |= {"since": "2026-01-02 03:04:05"} | changed
    (folder / "run.lock").write_text(json.dumps(owner).ljust(512))


@pytest.mark.parametrize(
    "without_flock", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL], indirect=True
)
@pytest.mark.usefixtures("without_flock")
def test_without_flock_a_second_run_is_refused(tmp_path):
    with RunFolder(tmp_path / "run", {"seed": 0}) as folder:
        folder.begin({})
        with pytest.raises(RunError) as caught:
            RunFolder(tmp_path / "run", {"seed": 0}).__enter__()
        folder.write_json("results.json", {})
        assert folder.holds("results.json")
    host = lock.socket.gethostname()
    assert str(caught.value).startswith(
        f"{tmp_path / 'run'} is in use by another run (process {os.getpid()} on {host}, since 20"
    )
    with RunFolder(tmp_path / "run", {"seed": 0}) as folder:  # at once: the first has ended
        assert folder.goes_on
    assert not (tmp_path / "run" / "run.lock").exists()


@pytest.mark.usefixtures("granted_to_all")
def test_another_machine_is_refused_where_each_has_its_own_locks(tmp_path, monkeypatch):
    first = locked(tmp_path)
    on_another_machine(monkeypatch)
    with pytest.raises(RunError, match=rf"in use by another run \(process {os.getpid()} on "):
        locked(tmp_path)
    assert first.is_ours()
    first.release()
    locked(tmp_path).release()


@pytest.mark.usefixtures("without_flock")
def test_what_a_killed_process_left_is_taken_after_a_silence(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(lock, "SILENT", 0.1)
    abandoned(tmp_path)
    taken = locked(tmp_path)
    assert caplog.messages == [
        f"{tmp_path / 'run.lock'} names process 11 on node-7, which may have been killed: "
        f"waiting up to 0.1 s for a sign of life."
    ]
    assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()
    taken.release()


def test_a_silence_is_awaited_after_another_machine_only(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(lock, "SILENT", FOREVER)
    here = {"host": lock.socket.gethostname(), "kernel": lock._kernel()}
    for owner in ({"host": here["host"]}, {"kernel": here["kernel"]}, here):
        abandoned(tmp_path, **owner)
        locked(tmp_path).release()
    (tmp_path / "run.lock").write_text('{"schema": "lobes-run", "pid": 3, "host": "of old"}')
    locked(tmp_path).release()
    assert caplog.messages == []
    monkeypatch.setattr(lock, "SILENT", 0.1)
    for owner in ({}, {**here, "flock": False}):
        abandoned(tmp_path, **owner)
        locked(tmp_path).release()
    assert len(caplog.messages) == 2


def test_an_empty_file_is_given_the_time_to_be_filled(tmp_path, monkeypatch):
    (tmp_path / "run.lock").touch()
    monkeypatch.setattr(lock, "SILENT", FOREVER)
    locked(tmp_path).release()


def test_a_file_that_its_owner_removes_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "SILENT", FOREVER)
    abandoned(tmp_path)
    threading.Timer(0.1, (tmp_path / "run.lock").unlink).start()
    taken = locked(tmp_path)
    assert taken.is_ours()
    taken.release()


def together(monkeypatch, folder, number):
    """So many take the folder's lock at the same moment; those that got it."""
    barrier = threading.Barrier(number)
    monkeypatch.setattr(lock, "SETTLE", 1.5)  # on a busy machine, too, all have written by then

    def take(_):
        barrier.wait()
        try:
            return locked(folder)
        except RunError as error:
            assert "is in use by another run" in str(error)  # noqa: PT017 - one of them gets it
            return None

    with ThreadPoolExecutor(number) as pool:
        return [taken for taken in pool.map(take, range(number)) if taken is not None]


@pytest.mark.usefixtures("without_flock")
def test_one_of_several_gets_a_new_lock(tmp_path, monkeypatch):
    (first,) = together(monkeypatch, tmp_path, 7)
    assert first.is_ours()
    first.release()


@pytest.mark.usefixtures("without_flock")
def test_one_of_several_takes_over_what_a_killed_process_left(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "SILENT", 0.1)
    silent, barrier = FolderLock._stays_silent, threading.Barrier(3)

    def at_once(self, owner):
        found = silent(self, owner)
        barrier.wait()  # all have found it silent before the first one writes
        return found

    monkeypatch.setattr(FolderLock, "_stays_silent", at_once)
    abandoned(tmp_path)
    (first,) = together(monkeypatch, tmp_path, 3)
    assert first.is_ours()
    first.release()


@pytest.mark.usefixtures("without_flock")
def test_a_process_that_slept_too_long_writes_no_more(tmp_path, monkeypatch):
    path = tmp_path / "run"
    with RunFolder(path, {"seed": 0}) as folder:
        folder.begin({})
        folder._lock._ended.set()  # suspended: no sign of life
        folder._lock._beats.join()
        monkeypatch.setattr(lock, "SILENT", 0.1)
        with RunFolder(path, {"seed": 0}) as second:
            with pytest.raises(RunError, match="taken over by another run while this"):
                folder.write_json("results.json", {})
            second.write_json("results.json", {})
    assert (path / "results.json").exists()


def test_a_lock_lives_on_while_its_server_is_away(tmp_path, monkeypatch):
    taken, beats = locked(tmp_path), []

    def fail(*_):
        beats.append(1)
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as away:
        away.setattr(lock.os, "fsync", fail)
        while len(beats) < 3:
            pass
    assert taken._beats.is_alive()
    taken.release()
    assert not (tmp_path / "run.lock").exists()
