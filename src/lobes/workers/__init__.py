"""Compute jobs in other processes: on this machine, on a Ray cluster or with Slurm.

`Pool` hands jobs out, replaces workers that end, and gives their jobs to others. An `Executor` says
where the workers are: `local.py`, `slurm.py` (both over `connected.py`) or `on_ray.py`. A worker
runs `serving.py`. What a job is only the function knows that computes it, which a worker finds by
its name; the driver alone writes results.
"""

from lobes.workers.executors import started
from lobes.workers.pool import Finished, Job, Place, Pool
from lobes.workers.settings import WorkerSettings

__all__ = ["Finished", "Job", "Place", "Pool", "WorkerSettings", "started"]
