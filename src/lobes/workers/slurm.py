"""Workers as jobs of Slurm, submitted by submitit."""

import contextlib
import os
import shutil
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lobes.errors import ConfigError, RunError, first_line
from lobes.workers.messages import last_words
from lobes.workers.settings import WorkerSettings

# Minutes that a worker's job may run, unless the options say: a day.
_TIMEOUT = 24 * 60
# Options that submitit has for every kind of cluster.
_SHARED = {"timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node"}
# Lists of lines in submitit.
_LISTS = {"setup", "teardown", "srun_args"}
# A worker is one task on one node; the rest is no text.
_NOT_OURS = {"nodes", "ntasks_per_node", "num_gpus", "additional_parameters", "job_name"}


class SlurmLauncher:
    """Submits each worker as a job, the first ones as a job array.

    Options are those of Slurm's `sbatch` that submitit knows ("partition", "gpus_per_node", "mem",
    "account", "time" …), or "timeout_min"; "host" is the name of this machine for the nodes, and
    "cluster" may be "local", which runs jobs as processes here.
    """

    def __init__(self, settings: WorkerSettings, entry: str, logs: Path) -> None:
        try:
            import submitit
        except ImportError as error:
            raise ConfigError(
                "Workers on Slurm need submitit: pip install 'lobes[slurm]', or leave out --on "
                "slurm for workers on this machine."
            ) from error
        self.entry = entry
        options: dict[str, Any] = {
            key.replace("-", "_"): int(value) if value.isdecimal() else value
            for key, value in settings.options.items()
        }
        cluster = options.pop("cluster", "slurm")
        self.host = str(options.pop("host", "127.0.0.1" if cluster == "local" else hostname()))
        if cluster == "slurm" and shutil.which("sbatch") is None:
            raise RunError(
                "There is no `sbatch` on this machine, so there are no workers on Slurm: run the "
                "command on a login node, or leave out --on slurm for workers on this machine."
            )
        if settings.devices is not None:
            options.setdefault("gpus_per_node", settings.devices)
        options.setdefault("timeout_min", _TIMEOUT)
        named = _named(options)
        self._is_local = cluster == "local"
        is_new = not logs.exists()
        folder = logs / "slurm"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # jobs' files hold the key
            self._executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
            self._executor.update_parameters(name="lobes", **named)
        except Exception as error:  # submitit raises several kinds
            if is_new:
                shutil.rmtree(logs, ignore_errors=True)
            raise RunError(
                f"Slurm's options are not understood: {first_line(error)}. Expected what submitit "
                f"takes, such as --worker-option partition=gpu."
            ) from error
        self._jobs: dict[int, Any] = {}

    def start(self, workers: Sequence[int], address: Any, key: bytes) -> None:
        """Submit jobs."""
        try:
            with self._executor.batch():
                jobs = [
                    self._executor.submit(_serve, list(address), key, worker, self.entry)
                    for worker in workers
                ]
        except Exception as error:
            raise RunError(f"Slurm takes no job: {first_line(error)}.") from error
        self._jobs.update(zip(workers, jobs, strict=True))

    def ended(self, worker: int) -> str | None:
        """Return how a job ended."""
        job = self._jobs.get(worker)
        if job is None or not job.done():
            return None
        return f"its job {job.job_id} ended ({job.state}){last_words(job.paths.stderr)}"

    def stop(self, worker: int) -> None:
        """Cancel a job, and remove what only it needed."""
        job = self._jobs.pop(worker, None)
        if job is not None:
            if self._is_local and not _has_ended(job, 1.0):  # as its connection was closed
                with contextlib.suppress(OSError):
                    os.kill(int(job.job_id), signal.SIGTERM)  # which says nothing
            if not self._is_local or not _has_ended(job, 5.0):
                with contextlib.suppress(Exception):
                    job.cancel()
                _has_ended(job, 5.0 if self._is_local else 0.0)
            for path in (job.paths.submitted_pickle, job.paths.result_pickle):
                with contextlib.suppress(OSError):
                    path.unlink()

    @property
    def awaited(self) -> str:
        """What workers that have not begun wait for."""
        jobs = ", ".join(str(job.job_id) for job in self._jobs.values())
        return f"Slurm has not begun the jobs {jobs} yet, or they do not find {self.host}"


def _has_ended(job: Any, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not job.done() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(job.done())


def hostname() -> str:
    """Return the name by which other machines find this one."""
    return socket.getfqdn()


def _named(options: dict[str, Any]) -> dict[str, Any]:
    """Options under submitit's names: Slurm's own begin with "slurm_".

    Raises `ConfigError` for one that is not among them.
    """
    from submitit.slurm.slurm import SlurmExecutor

    own = SlurmExecutor._valid_parameters() - _NOT_OURS
    found: dict[str, Any] = {}
    for key, value in options.items():
        plain = key.removeprefix("slurm_")
        if plain not in _SHARED and plain not in own:
            raise ConfigError(
                f"--worker-option {key}={value}: Slurm has no option {key!r} that submitit knows; "
                f"expected one of {', '.join(sorted({*_SHARED, *own, 'host', 'cluster'}))}."
            )
        found[plain if plain in _SHARED else f"slurm_{plain}"] = (
            [value] if plain in _LISTS else value
        )
    return found


def _serve(address: list[Any], key: bytes, number: int, entry: str) -> None:
    """What a job runs: a worker that connects to its driver."""
    from lobes.workers.serving import serve

    serve(address, key, number, entry)
