"""Workers as jobs of Slurm, submitted by submitit."""

import contextlib
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lobes.errors import ConfigError, RunError, first_line

if TYPE_CHECKING:
    from lobes.workers.executors import WorkerSettings

# Minutes that a worker's job may run, unless the options say: a day.
_TIMEOUT = 24 * 60


class SlurmLauncher:
    """Submits each worker as a job, the first ones as a job array.

    Options are those of Slurm's `sbatch`, as submitit names them ("partition", "gpus_per_node",
    "mem", "account" …), or submitit's own ("timeout_min", "cpus_per_task"); "host" is the name of
    this machine for the nodes, and "cluster" may be "local", which runs jobs as processes here.
    """

    def __init__(self, settings: "WorkerSettings", entry: str, logs: Path) -> None:
        try:
            import submitit
        except ImportError as error:
            raise ConfigError(
                "Workers on Slurm need submitit: pip install 'lobes[slurm]', or leave out --on "
                "slurm for workers on this machine."
            ) from error
        self.entry = entry
        options: dict[str, Any] = {
            key: int(value) if value.isdigit() else value for key, value in settings.options.items()
        }
        cluster = options.pop("cluster", None)
        self.host = str(options.pop("host", "127.0.0.1" if cluster == "local" else hostname()))
        if settings.devices is not None:
            options.setdefault("gpus_per_node", settings.devices)
        options.setdefault("timeout_min", _TIMEOUT)
        try:
            self._executor = submitit.AutoExecutor(folder=logs / "slurm", cluster=cluster)
            self._executor.update_parameters(name="lobes", **_named(self._executor, options))
        except Exception as error:  # submitit raises several kinds
            raise RunError(
                f"No workers on Slurm: {first_line(error)}. This needs `sbatch` on this machine, "
                f"and options that submitit knows."
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
        return f"its job {job.job_id} ended ({job.state}), and {job.paths.stderr} says why"

    def stop(self, worker: int) -> None:
        """Cancel a job."""
        job = self._jobs.pop(worker, None)
        if job is not None:
            with contextlib.suppress(Exception):
                job.cancel()


def hostname() -> str:
    """Return the name by which other machines find this one."""
    return socket.getfqdn()


def _named(executor: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Options under submitit's names: Slurm's own begin with "slurm_"."""
    shared = {"timeout_min", "cpus_per_task", "gpus_per_node", "mem_gb", "tasks_per_node", "nodes"}
    found = {}
    for key, value in options.items():
        plain = key.replace("-", "_")
        named = plain if plain in shared or plain.startswith("slurm_") else f"slurm_{plain}"
        found[named] = value
    return found


def _serve(address: list[Any], key: bytes, number: int, entry: str) -> None:
    """What a job runs: a worker that connects to its driver."""
    from lobes.workers.serving import serve

    serve(address, key, number, entry)
