"""A study on workers ends with the numbers of one process, whatever ends on the way."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path

import pytest

from kill_everywhere import COMPARED, GROWTH, NEW_TASK
from lobes.config.study import load_study, override
from lobes.errors import RunError
from lobes.workers import WorkerSettings, executors
from lobes.workers.local import LocalLauncher
from plain_results import compare_study, run_study, transfer_study
from tiny_study import write_study

HERE = Path(__file__).parent
LOBES = [sys.executable, "-c", "from lobes.cli import main; main()"]
# Enough exchanges for the look at 39 of them, and lesions of each pair of groups.
RUN = (*GROWTH, "iap.controls=80")
TIMES = {"seconds", "created", "times", "total", "output", "importance_seconds"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    path = write_study(folder)
    (folder / "transfer.toml").write_text(path.read_text(encoding="utf-8") + NEW_TASK)
    return folder


def study(inputs: Path, command: str, output: Path):
    path = inputs / ("transfer.toml" if command == "transfer" else "study.toml")
    settings = RUN if command == "run" else (*COMPARED, f"{command}.seeds=2")
    return override(load_study(path), *settings, f"output={output}")


COMMANDS = {"run": run_study, "compare": compare_study, "transfer": transfer_study}


@pytest.fixture(scope="module")
def expected(inputs, tmp_path_factory):
    """A command's results in one process."""
    folder = tmp_path_factory.mktemp("expected")

    @cache
    def results(command):
        return without_times(COMMANDS[command](study(inputs, command, folder / command)))

    return results


def without_times(results):
    if isinstance(results, dict):
        kept = {key: value for key, value in results.items() if key not in TIMES}
        return {key: without_times(value) for key, value in kept.items()}
    return [without_times(value) for value in results] if isinstance(results, list) else results


def left_over(folder: Path) -> list[str]:
    """What a finished run's folder holds that it should not."""
    names = [path.name for path in folder.rglob("*")]
    return [
        name
        for name in names
        if name.startswith((".lobes", "model-", "checkpoint")) or name.endswith(".aside")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_two_workers_give_the_numbers_of_one_process(inputs, expected, tmp_path, command):
    made = study(inputs, command, tmp_path / "run")
    results = COMMANDS[command](made, workers=WorkerSettings(2))
    assert without_times(results) == expected(command)
    assert left_over(tmp_path / "run") == []
    assert (tmp_path / "run/logs/worker-1.log").exists()


class Killer:
    """Kills a random worker every now and then, as often as it is told to."""

    def __init__(self, monkeypatch, times: int, every: float) -> None:
        self.left, self.every = times, every
        self.pids: dict[int, int] = {}
        self._over = threading.Event()
        start = LocalLauncher._start

        def noted(launcher, worker, told):
            start(launcher, worker, told)
            self.pids[worker] = launcher._processes[worker].pid

        monkeypatch.setattr(LocalLauncher, "_start", noted)
        self._thread = threading.Thread(target=self._kill, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _kill(self) -> None:
        chance = random.Random(self.left)
        while self.left and not self._over.wait(chance.uniform(0.5, 1.5) * self.every):
            if self.pids:
                try:
                    os.kill(chance.choice([*self.pids.values()]), signal.SIGKILL)
                    self.left -= 1
                except ProcessLookupError:
                    pass


@pytest.mark.slow
def test_a_worker_is_killed_at_any_moment(inputs, expected, tmp_path, monkeypatch, caplog):
    with Killer(monkeypatch, times=1, every=6.0):
        results = run_study(study(inputs, "run", tmp_path / "run"), workers=WorkerSettings(2))
    assert without_times(results) == expected("run")
    assert left_over(tmp_path / "run") == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_workers_are_killed_many_times(inputs, expected, tmp_path, monkeypatch):
    """Where a job or all workers are given up, the same command continues; `make kills`: 50."""
    kills, rounds, wanted = 0, 0, int(os.environ.get("LOBES_TEST_KILLS", "8"))
    while kills < wanted:
        with Killer(monkeypatch, times=wanted - kills, every=7.0) as killer:
            given = killer.left
            output = tmp_path / f"run-{rounds}"
            for _ in range(20):
                try:
                    results = run_study(study(inputs, "run", output), workers=WorkerSettings(2))
                    break
                except RunError as error:
                    told = str(error)
                assert "hat was measured is kept" in told
        kills += given - killer.left
        rounds += 1
        monkeypatch.undo()
        assert without_times(results) == expected("run")
        assert left_over(output) == []


DRIVER = """
import sys
sys.path[:0] = [sys.argv[1]]
from pathlib import Path
from test_workers_studies import COMMANDS, study
from lobes.workers import WorkerSettings
inputs, command, output, workers = sys.argv[2:]
settings = WorkerSettings(int(workers)) if workers != "0" else None
COMMANDS[command](study(Path(inputs), command, Path(output)), workers=settings)
"""


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "transfer"])
def test_a_killed_driver_is_continued_by_another_kind(inputs, expected, tmp_path, command):
    """With two workers, in one process, with three workers: killed after some measurements each."""
    output, there = tmp_path / "run", 0
    for workers in (2, 0):
        arguments = [str(HERE), str(inputs), command, str(output), str(workers)]
        driver = subprocess.Popen([sys.executable, "-c", DRIVER, *arguments])
        with driver:
            end = time.monotonic() + 300
            while driver.poll() is None and time.monotonic() < end:
                if len([*output.glob("measurements/*.parquet")]) > there:
                    driver.kill()
                time.sleep(0.02)
        there = len([*output.glob("measurements/*.parquet")])
        assert there > 0
    made = study(inputs, command, output)
    results = COMMANDS[command](made, workers=WorkerSettings(3))
    assert without_times(results) == expected(command)
    assert left_over(output) == []


@pytest.mark.slow
def test_a_worker_with_other_data_is_refused(inputs, tmp_path, monkeypatch):
    """Its file is another one when it reads it, as on a machine with files of its own."""
    other = tmp_path / "inputs"
    write_study(other)
    data = other / "mood.validation.csv"
    made = study(other, "run", tmp_path / "run")

    class Changing(LocalLauncher):
        def _start(self, worker, told):
            text = data.read_text(encoding="utf-8")
            swapped = text.replace("good", "?").replace("bad", "good").replace("?", "bad")
            data.write_text(swapped, encoding="utf-8")
            super()._start(worker, told)

    monkeypatch.setattr(executors, "LocalLauncher", Changing)
    with pytest.raises(RunError, match="A worker's model or data are not those of this process"):
        run_study(made, workers=WorkerSettings(1))


def test_a_study_that_cannot_begin_leaves_nothing(inputs, tmp_path):
    made = override(study(inputs, "run", tmp_path / "run"), "iap.fractions=[0.01]")
    with pytest.raises(Exception, match="is not one head"):
        run_study(made, workers=WorkerSettings(2))
    assert not (tmp_path / "run").exists()


def test_workers_of_a_command_are_counted(inputs, tmp_path):
    """Options that say how workers are, without how many."""
    done = subprocess.run(
        [*LOBES, "run", str(inputs / "study.toml"), "--on=slurm"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: How many workers there are to be is not said")
