"""Jobs in other processes: handed out, given to others where a worker ends, and told in words."""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from multiprocessing import AuthenticationError
from pathlib import Path

import pytest
import torch

from lobes.errors import ConfigError, DataError, RunError
from lobes.workers import Job, Pool, WorkerSettings, started
from lobes.workers import pool as pool_module
from lobes.workers.connected import ConnectedExecutor, connect
from lobes.workers.local import LocalLauncher, shares

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Workers find `pool_jobs`, as they have this process's `sys.path`."""
    monkeypatch.syspath_prepend(str(HERE))


def pool_of(folder: Path, number: int = 2, entry: str = "pool_jobs:Jobs") -> Pool:
    pool = started(WorkerSettings(number), entry, folder / "logs")
    pool.begin(str(folder))
    return pool


def jobs(*names: str) -> list[Job]:
    return [Job((name, number), f"{name} {number}") for number, name in enumerate(names)]


def finished(pool: Pool, given: list[Job]) -> dict[str, object]:
    """{name of the job: its value, or its error}"""
    pool.submit(given)
    found = [pool.next() for _ in given]
    return {each.job.name: each.error or each.value for each in found}


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_every_job_is_computed_once_whatever_ends_meanwhile(tmp_path, caplog):
    given = jobs("square", "die_once", "refuse", "square", "stumble", "die_once", "square", "pid")
    with pool_of(tmp_path) as pool:
        found = finished(pool, given)
    assert found.pop("square 0") == 0
    assert found.pop("square 3") == 9
    assert found.pop("square 6") == 36
    assert found.pop("die_once 1") == 1
    assert found.pop("die_once 5") == 5
    assert found.pop("pid 7") != os.getpid()
    assert isinstance(found["refuse 2"], DataError)
    assert str(found["refuse 2"]) == "Row 2 has no label."
    assert isinstance(found["stumble 4"], RunError)
    assert "failed in a way it should not: KeyError: 4" in str(found["stumble 4"])
    gone = [each for each in caplog.messages if "is gone" in each]
    assert len(gone) == 2
    assert "ended by the signal SIGKILL, as where memory runs out" in gone[0]
    assert "It is started again." in gone[0]
    assert "KeyError" in "".join(path.read_text() for path in (tmp_path / "logs").iterdir())


@pytest.mark.parametrize(("name", "why"), [("die", "SIGKILL"), ("starve", "out of memory")])
def test_a_job_that_ends_every_worker_is_given_up(tmp_path, name, why):
    with pool_of(tmp_path, 1) as pool:
        found = finished(pool, jobs(name, "square"))
    assert found["square 1"] == 1
    message = str(found[f"{name} 0"])
    assert f"A worker ended 3 times while it computed {name} 0: " in message
    assert why in message
    assert "Give fewer workers" in message


def test_no_more_workers_are_started_than_there_are_jobs(tmp_path):
    with pool_of(tmp_path, 3) as pool:
        finished(pool, jobs("square"))
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["worker-0.log"]


def test_progress_of_a_job_is_told(tmp_path):
    told = []
    with pool_of(tmp_path, 1) as pool:
        pool.progress = lambda job, done, total: told.append((job.name, done, total))
        finished(pool, jobs("slow"))
    assert told
    assert {(name, total) for name, _, total in told} == {("slow 0", 7)}


def test_a_worker_that_says_nothing_for_long_is_named_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(pool_module, "_LONGEST", 0.05)
    monkeypatch.setattr(pool_module, "_SILENT", 0.2)

    class Go(logging.Handler):
        def emit(self, record):
            (tmp_path / "go").touch()

    monkeypatch.setattr(pool_module.logger, "handlers", [*pool_module.logger.handlers, Go()])
    with pool_of(tmp_path, 1) as pool:
        assert finished(pool, jobs("wait", "square")) == {"wait 0": 0, "square 1": 1}
    (said,) = [each for each in caplog.messages if "has said nothing" in each]
    assert said.startswith(f"Worker 0 on {socket.gethostname()} has said nothing for 0 min, ")
    assert "computing wait 0." in said


def test_a_worker_that_cannot_begin_says_why(tmp_path):
    pool = started(WorkerSettings(1), "pool_jobs:Jobs", tmp_path / "logs")
    pool.begin("nowhere")
    with pool, pytest.raises(RunError, match=r"Worker 0 on \S+ cannot begin: There is no folder"):
        finished(pool, jobs("square"))


def test_a_fault_on_another_machine_names_it(tmp_path):
    with pool_of(tmp_path, 1, "pool_jobs:Elsewhere") as pool:
        found = finished(pool, jobs("refuse", "fill"))
    assert isinstance(found["refuse 0"], DataError)
    assert str(found["refuse 0"]) == "Worker 0 on node-3: Row 0 has no label."
    assert isinstance(found["fill 1"], RunError)
    assert str(found["fill 1"]) == (
        "Worker 0 on node-3: The disk is full: cannot write /scratch/tokens; make room, then run "
        "the same command again and it continues."
    )


def test_workers_begin_again_with_another_specification(tmp_path):
    with pool_of(tmp_path, 1) as pool:
        assert finished(pool, jobs("where")) == {"where 0": str(tmp_path)}
        pool.begin(str(tmp_path / "else"))
        assert finished(pool, jobs("where")) == {"where 0": str(tmp_path / "else")}


def test_a_worker_of_other_versions_is_refused(tmp_path):
    with (
        pool_of(tmp_path, 1, "pool_jobs:OtherVersions") as pool,
        pytest.raises(RunError, match=r"Worker 0 on \S+ has other versions: torch 0\.3\.1 there"),
    ):
        finished(pool, jobs("square"))


def test_a_worker_that_cannot_be_started_is_not_tried_for_ever(tmp_path):
    with (
        pool_of(tmp_path, 1, "no_such_module:Jobs") as pool,
        pytest.raises(RunError, match=r"No worker is left: .* exited with code 1, and \S+ says"),
    ):
        finished(pool, jobs("square"))
    assert "No module named 'no_such_module'" in (tmp_path / "logs/worker-0.log").read_text()


def test_workers_end_with_the_block(tmp_path):
    with pool_of(tmp_path) as pool:
        pool.submit(jobs("hang", "hang"))
        _until(lambda: len(hanging(tmp_path)) == 2, pool)
    assert not any(map(is_alive, hanging(tmp_path)))


DRIVER = """
import sys
from pathlib import Path
from test_workers import jobs, pool_of
with pool_of(Path(sys.argv[1])) as pool:
    pool.submit(jobs("hang", "hang"))
    print("begun", flush=True)
    pool.next()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_driver(tmp_path, how):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with driver:
        _until(lambda: len(hanging(tmp_path)) == 2)
        driver.send_signal(how)
    _until(lambda: not any(map(is_alive, hanging(tmp_path))))


def hanging(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("hangs-")) for path in folder.glob("hangs-*")]


def _until(holds, pool=None) -> None:
    end = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end
        if pool is None:
            time.sleep(0.1)
        else:
            pool._hear()


def test_a_stranger_at_the_socket_neither_gets_in_nor_in_the_way(tmp_path):
    executor = ConnectedExecutor(LocalLauncher("pool_jobs:Jobs", 1, tmp_path / "logs"))
    silent = socket.socket(socket.AF_UNIX)
    silent.connect(executor._address)
    with pytest.raises((AuthenticationError, OSError, EOFError)):
        connect(executor._address, b"not the key")
    with Pool(executor, 1) as pool:
        pool.begin(str(tmp_path))
        assert finished(pool, jobs("square", "square")) == {"square 0": 0, "square 1": 1}
    silent.close()


def test_gpus_are_shared_out():
    assert shares([], 3, 1) is None
    assert shares(["0", "1", "2", "3"], 4, 1) == [["0"], ["1"], ["2"], ["3"]]
    assert shares(["4", "5", "6", "7"], 2, 2) == [["4", "5"], ["6", "7"]]
    assert shares(["0"], 2, 1) == [["0"], ["0"]]


def test_cores_are_shared_out(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert LocalLauncher("", 2, tmp_path).threads == 3
    assert LocalLauncher("", 11, tmp_path).threads == 1


@pytest.mark.parametrize("given", [{"number": 0}, {"number": 2, "devices": 0}])
def test_no_workers_or_devices_are_refused(given):
    with pytest.raises(ConfigError, match="expected 1 or more"):
        WorkerSettings(**given)


def test_options_of_a_cluster_are_not_lost_on_this_machine():
    with pytest.raises(ConfigError, match=r"options, and there is partition: .* --on slurm"):
        WorkerSettings(2, options={"partition": "gpu"})


@pytest.mark.parametrize(
    ("there", "number", "each"),
    [("", 0, 1), ("3", 1, 2), ("2,5", 2, 3), ("-1", 0, 1), ("2,9", 1, 2)],
)
def test_more_gpus_than_there_are_are_refused(tmp_path, monkeypatch, there, number, each):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", there)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
    with pytest.raises(ConfigError, match=f"{each} GPUs, and this machine has {number}: "):
        started(WorkerSettings(2, devices=each), "pool_jobs:Jobs", tmp_path / "logs")
    assert not (tmp_path / "logs").exists()
