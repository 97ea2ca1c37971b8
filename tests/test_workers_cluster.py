"""Workers on Ray and Slurm: the same jobs, ends and messages, and the same numbers of a study.

Ray starts once for this module. Submitit's local executor stands in for Slurm.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kill_everywhere import GROWTH
from lobes.config.study import load_study, override
from lobes.errors import ConfigError, DataError, ModelError, RunError
from lobes.experiments import run, study_workers
from lobes.experiments.store import RunFolder
from lobes.workers import Job, Pool, WorkerSettings, started
from lobes.workers.messages import last_words
from plain_results import run_study
from tiny_study import timeless, write_study

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def in_ray():
    """A Ray of 2 CPUs in this process, whose workers find `pool_jobs`."""
    ray = pytest.importorskip("ray")
    path = os.pathsep.join([str(HERE), *filter(None, sys.path)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.setenv("RAY_worker_niceness", "0")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


@pytest.fixture
def slurm(monkeypatch) -> WorkerSettings:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), *filter(None, sys.path)]))
    return WorkerSettings(2, "slurm", options={"cluster": "local"})


def pool_of(settings: WorkerSettings, folder: Path, entry: str = "pool_jobs:Jobs") -> Pool:
    pool = started(settings, entry, folder / "logs")
    assert isinstance(pool, Pool)
    pool.begin(str(folder))
    return pool


def finished(pool: Pool, *names: str) -> dict[str, object]:
    """{name of the job: its value, or its error}"""
    pool.submit([Job((name, number), f"{name} {number}") for number, name in enumerate(names)])
    found = [pool.next() for _ in names]
    return {each.job.name: each.error or each.value for each in found}


def check_jobs(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    """Check that every job is computed once, whatever ends meanwhile."""
    told = []
    with pool:
        pool.progress = lambda job, done, total: told.append((job.name, done, total))
        found = finished(pool, "square", "die_once", "refuse", "square", "stumble", "slow", "pid")
    assert found["square 0"] == 0
    assert found["square 3"] == 9
    assert found["die_once 1"] == 1
    assert found["slow 5"] == 5
    assert found["pid 6"] != os.getpid()
    assert isinstance(found["refuse 2"], DataError)
    assert str(found["refuse 2"]) == "Row 2 has no label."
    assert "failed in a way it should not: KeyError: 4" in str(found["stumble 4"])
    assert {(name, total) for name, _, total in told if total > 1} == {("slow 5", 7)}
    (gone,) = [each for each in caplog.messages if "is gone" in each]
    assert "It is started again." in gone


def test_jobs_on_ray(in_ray, tmp_path, caplog):
    check_jobs(pool_of(WorkerSettings(2, "ray"), tmp_path), caplog)
    assert "its worker process has died" in caplog.text
    assert in_ray.is_initialized()  # it is not ours to end
    assert in_ray.util.list_named_actors() == []
    logs = "".join(path.read_text() for path in (tmp_path / "logs").iterdir())
    assert "KeyError: 4" in logs


def test_jobs_on_slurm(slurm, tmp_path, caplog):
    check_jobs(pool_of(slurm, tmp_path), caplog)
    folder = tmp_path / "logs/slurm"
    assert folder.stat().st_mode & 0o77 == 0  # jobs' files hold the key
    assert not [*folder.glob("*.pkl")]
    assert "KeyError: 4" in "".join(path.read_text() for path in folder.glob("*.err"))


@pytest.mark.parametrize("on", ["ray", "slurm"])
def test_a_worker_that_cannot_work_says_why(on, request, tmp_path):
    if on == "ray":
        request.getfixturevalue("in_ray")
        settings = WorkerSettings(1, "ray")
    else:
        settings = request.getfixturevalue("slurm")
    with (
        pool_of(settings, tmp_path, "pool_jobs:OtherVersions") as pool,
        pytest.raises(RunError, match=r"Worker 0 on \S+ has other versions: torch 0\.3\.1 there"),
    ):
        finished(pool, "square")


def test_a_ray_worker_that_cannot_begin_says_why(in_ray, tmp_path):
    with (
        pool_of(WorkerSettings(1, "ray"), tmp_path, "no_such_module:Jobs") as pool,
        pytest.raises(RunError, match=r"No worker is left: .*No module named 'no_such_module'"),
    ):
        finished(pool, "square")


@pytest.mark.parametrize(
    ("number", "devices", "options", "message"),
    [
        (3, None, {}, r"^The Ray cluster has 2 CPUs and 0 GPUs, too little for 3 workers with 1"),
        (1, 2, {}, r"too little for 1 workers? with 1 CPU and 2 GPUs each: give fewer workers"),
        (2, None, {"num_cpus": "many"}, r"^--worker-option num_cpus=many is not understood: of"),
        (2, None, {"partition": "gpu"}, r"^--worker-option partition=gpu is not understood: of"),
    ],
)
def test_what_ray_cannot_give_is_refused(in_ray, tmp_path, number, devices, options, message):
    with pytest.raises((RunError, ConfigError), match=message):
        pool_of(WorkerSettings(number, "ray", devices, options), tmp_path)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "127.0.0.1:9",
            r"^There is no Ray cluster at 127\.0\.0\.1:9: Connection refused\. Give the",
        ),
        ("ray://head:10001", r"^The address 'ray://head:10001' of a Ray cluster is not understood"),
        ("head", r"^The address 'head' of a Ray cluster is not understood: expected HOST:PORT"),
    ],
)
def test_an_address_without_a_cluster_is_refused(tmp_path, monkeypatch, address, message):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    settings = WorkerSettings(2, "ray", options={"address": address})
    with pytest.raises((RunError, ConfigError), match=message):
        pool_of(settings, tmp_path)
    assert not [*tmp_path.iterdir()]


def test_resources_of_a_worker_can_be_said(in_ray, tmp_path):
    settings = WorkerSettings(3, "ray", options={"num_cpus": "0.5"})
    with pool_of(settings, tmp_path) as pool:
        assert finished(pool, "square") == {"square 0": 0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"partitoin": "gpu", "cluster": "local"}, r"^--worker-option partitoin=gpu: Slurm has no"),
        ({"timeout_min": "long", "cluster": "local"}, r"^Slurm's options are not understood: .*'?"),
        ({"cluster": "torque"}, r"^Slurm's options are not understood: .*torque"),
        ({}, r"^There is no `sbatch` on this machine"),
    ],
)
def test_what_slurm_cannot_take_is_refused(slurm, tmp_path, monkeypatch, options, message):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises((RunError, ConfigError), match=message):
        pool_of(WorkerSettings(2, "slurm", options=options), tmp_path)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(("on", "library"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_missing_library_is_named_with_the_command(tmp_path, monkeypatch, on, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigError, match=rf"need {library}: pip install 'lobes\[{on}\]'"):
        started(WorkerSettings(2, on), "pool_jobs:Jobs", tmp_path)


def test_a_worker_that_does_not_find_its_driver_says_where_it_looked(slurm, tmp_path, caplog):
    settings = WorkerSettings(1, "slurm", options={**slurm.options, "host": "no-such-host.invalid"})
    with (
        pool_of(settings, tmp_path) as pool,
        pytest.raises(RunError, match=r"cannot connect to its driver at no-such-host.invalid"),
    ):
        finished(pool, "square")
    assert "--worker-option host=NAME" in caplog.text


def test_the_last_line_of_a_log_is_told(tmp_path):
    log = tmp_path / "log"
    assert last_words(log) == f", and there is no log {log}"
    log.write_text("Traceback\n  x\nlobes.errors.RunError: There is no model.\n\n")
    assert last_words(log) == f", and {log} says why: There is no model"


@pytest.mark.slow
def test_what_a_dead_drivers_worker_wrote_of_a_training_is_taken_over(tmp_path):
    study = override(load_study(write_study(tmp_path / "in")), *GROWTH)
    plain = timeless(run_study(override(study, f"output={tmp_path / 'plain'}")))
    study = override(study, f"output={tmp_path / 'run'}")

    def die(stage: str, done: int, total: int) -> None:
        if stage == "training" and done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(study, stages=("train",), progress=die)
    with RunFolder(study.output, study.to_dict()) as folder:  # as a worker's, which records nothing
        written = [name for name in folder.manifest.files if name != "config.json"]
        assert written == ["checkpoints/seconds.json", "model-step-3/training.json"]
        folder.manifest.forget(written)
        folder.expect_model()
    assert timeless(run_study(study)) == plain
    names = [{path.name for path in (tmp_path / each).iterdir()} for each in ("run", "plain")]
    assert names[0] == names[1]


@pytest.mark.slow
def test_a_worker_without_the_models_file_says_so_and_leaves_nothing(tmp_path, monkeypatch):
    study = load_study(write_study(tmp_path / "in"))
    run_study(override(study, *GROWTH, f"output={tmp_path / 'trained'}"), stages=("train",))
    settings = ("training.enabled=false", f"model={tmp_path / 'trained/model'}")
    study = override(study, *settings, f"output={tmp_path / 'run'}")

    def begin(*arguments):
        (tmp_path / "trained/model").rename(tmp_path / "trained/gone")
        return study_workers.begin(*arguments)

    monkeypatch.setattr(run, "begin", begin)
    with pytest.raises(ModelError, match=r"^There is no folder '\S+trained/model'"):
        run_study(study, workers=WorkerSettings(1))
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"config.json", "files.json", "logs"}


ALONE = """
import sys
from pathlib import Path
from lobes.workers import Job, WorkerSettings, started
with started(WorkerSettings(2, "ray"), "pool_jobs:Jobs", Path(sys.argv[1]) / "logs") as pool:
    pool.begin(sys.argv[1])
    pool.submit([Job(("die_once", 0), "0"), Job(("pid", 1), "1")])
    pids = {pool.next().value, pool.next().value}
    pool.submit([Job(("hang", 0), "a"), Job(("hang", 1), "b")])
    while len(list(Path(sys.argv[1]).glob("hangs-*"))) < 2:
        pool._hear()
    print("begun", flush=True)
    pool.next()
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_ray_of_our_own_says_nothing_and_ends_with_its_driver(tmp_path, how):
    pytest.importorskip("ray")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    before = set(_processes_of_ray())
    driver = subprocess.Popen(
        [sys.executable, "-c", ALONE, str(tmp_path)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the whole group
    )
    assert driver.stdout is not None
    said = driver.stdout.readline()
    assert said == "begun\n", (said, driver.stderr.read())
    assert set(_processes_of_ray()) - before
    if how == signal.SIGINT:
        os.killpg(driver.pid, how)
    else:
        driver.kill()
    out, complaints = driver.communicate(timeout=120)
    assert out == ""
    if how == signal.SIGINT:
        assert complaints.rstrip().endswith("KeyboardInterrupt")
    end = time.monotonic() + 60
    while left := set(_processes_of_ray()) - before:
        assert time.monotonic() < end, left
        time.sleep(0.2)


def _processes_of_ray() -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_text()
        except OSError:
            continue
        # its agents report the end to what is gone, and give up after a minute
        if any(name in text for name in ("raylet/raylet", "gcs_server", "ray::RayWorker")):
            found.append(int(path.parent.name))
    return found


@pytest.mark.slow
def test_a_study_on_a_cluster_has_the_numbers_of_one_process(in_ray, slurm, tmp_path):
    study = override(load_study(write_study(tmp_path / "in")), *GROWTH)
    plain = timeless(run_study(override(study, f"output={tmp_path / 'plain'}")))
    for settings in (WorkerSettings(2, "ray"), slurm):
        folder = tmp_path / settings.on
        assert timeless(run_study(override(study, f"output={folder}"), workers=settings)) == plain
        names = {path.name for path in folder.iterdir()}
        assert names == {path.name for path in (tmp_path / "plain").iterdir()} | {"logs"}
        with RunFolder(folder, override(study, f"output={folder}").to_dict()) as run:
            assert run.holds("model/training.json")
