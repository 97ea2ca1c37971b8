"""The executor for where workers are to run, and a pool over it."""

from contextlib import AbstractContextManager
from pathlib import Path

from lobes.errors import ConfigError
from lobes.workers.connected import ConnectedExecutor
from lobes.workers.local import LocalLauncher, shares
from lobes.workers.pool import Executor, Pool
from lobes.workers.settings import WorkerSettings


def started(settings: WorkerSettings, entry: str, logs: Path) -> AbstractContextManager[Pool]:
    """Return a pool of workers, which start with its `with` block; their logs go into `logs`.

    `entry`, "module:name", names the function that makes of a specification what computes jobs.
    Raises `ConfigError` where the executor's library is not installed, and `RunError` where it
    cannot be reached.
    """
    return Pool(_executor(settings, entry, logs), settings.number, is_remote=settings.on != "local")


def _executor(settings: WorkerSettings, entry: str, logs: Path) -> Executor:
    if settings.on == "ray":
        from lobes.workers.on_ray import RayExecutor

        return RayExecutor(settings, entry, logs)
    if settings.on == "slurm":
        from lobes.workers.slurm import SlurmLauncher

        return ConnectedExecutor(SlurmLauncher(settings, entry, logs))
    there = visible_gpus()
    if settings.devices is not None and settings.devices > len(there):
        raise ConfigError(
            f"Each worker is to have {settings.devices} GPUs, and this machine has {len(there)}: "
            f"expected fewer, or no --devices-per-worker."
        )
    gpus = shares(there, settings.number, settings.devices or 1)
    return ConnectedExecutor(LocalLauncher(entry, settings.number, logs, gpus))


def visible_gpus() -> list[str]:
    """Return the GPUs of this process, as CUDA_VISIBLE_DEVICES names them."""
    import os

    import torch

    number = torch.cuda.device_count()  # of those that it names the first that are there
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    return told.split(",")[:number] if told else [str(each) for each in range(number)]
