"""Workers as actors of Ray: one for each device, which holds its model."""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lobes.errors import ConfigError, RunError, first_line
from lobes.workers.local import cores
from lobes.workers.messages import Message
from lobes.workers.serving import Reporter, attempted, found, hello

if TYPE_CHECKING:
    from lobes.workers.executors import WorkerSettings

# Seconds between two looks at how far jobs are.
_EVERY = 1.0


class RayWorker:
    """The actor: what `serving.serve` does, as methods."""

    def __init__(self, number: int, entry: str) -> None:
        self.number, self.entry = number, entry
        self._progress = 0, 1

    def hello(self) -> Message:
        """Say what this worker is."""
        return "hello", hello(self.entry)

    def begin(self, spec: Any) -> Message:
        """Make what computes jobs."""

        def make() -> None:
            self._compute = found(self.entry)(spec)

        return attempted(make, "ready")

    def job(self, what: Any) -> Message:
        """Compute a job."""
        self._progress = 0, 1
        report = Reporter(lambda done, total: setattr(self, "_progress", (done, total)))
        return attempted(lambda: self._compute(what, report), "done")

    def progress(self) -> Message:
        """Say how far the job is."""
        return "progress", *self._progress


class RayExecutor:
    """An `Executor` of actors on the cluster at "address", or that RAY_ADDRESS names.

    Without one, a Ray of this machine is started for the purpose, and ended with the pool.
    """

    def __init__(self, settings: "WorkerSettings", entry: str) -> None:
        try:
            import ray
        except ImportError as error:
            raise ConfigError(
                "Workers on Ray need ray: pip install 'lobes[ray]', or leave out --on ray for "
                "workers on this machine."
            ) from error
        self.ray, self.entry = ray, entry
        address = settings.options.get("address") or os.environ.get("RAY_ADDRESS")
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            _connect(ray, address, settings.number)
        total = ray.cluster_resources()
        wanted = {"num_cpus": max(1, int(total.get("CPU", 1)) // settings.number)}
        devices = settings.devices or (1 if total.get("GPU") else 0)
        if devices:
            wanted = {"num_cpus": 1, "num_gpus": devices}
        for name, resource in (("num_cpus", "CPU"), ("num_gpus", "GPU")):
            if wanted.get(name, 0) * settings.number > total.get(resource, 0):
                self.close()
                raise RunError(
                    f"The Ray cluster has {total.get(resource, 0):g} {resource}s, and "
                    f"{settings.number} workers need {wanted[name] * settings.number}: give fewer "
                    f"workers."
                )
        # a second thread answers how far the first one is
        self._actor = ray.remote(RayWorker).options(max_concurrency=2, max_restarts=0, **wanted)
        self._actors: dict[int, Any] = {}
        self._refs: dict[Any, tuple[int, str]] = {}
        self._looked = 0.0

    def start(self, workers: Sequence[int]) -> None:
        """Start actors."""
        for worker in workers:
            self._actors[worker] = self._actor.remote(worker, self.entry)
            self._call(worker, "hello")

    def send(self, worker: int, message: Message) -> None:
        """Call an actor's method."""
        self._call(worker, *message)

    def receive(self, timeout: float) -> list[tuple[int, Message]]:
        """Return what actors answered."""
        self._look()
        if not self._refs:  # all are gone, and not started again
            return []
        ready, _ = self.ray.wait([*self._refs], timeout=min(timeout, _EVERY))
        heard: list[tuple[int, Message]] = []
        for ref in ready:
            worker, _ = self._refs.pop(ref)
            try:
                said = self.ray.get(ref)
            except self.ray.exceptions.RayError as error:
                said = "gone", _why(error)
                self._forget(worker)
            heard.append((worker, said))
        return heard

    def stop(self, worker: int) -> None:
        """Kill an actor."""
        self._forget(worker)
        actor = self._actors.pop(worker, None)
        if actor is not None:
            with contextlib.suppress(Exception):
                self.ray.kill(actor)

    def close(self) -> None:
        """Kill all actors, and a Ray that was started for them."""
        for worker in [*getattr(self, "_actors", ())]:
            self.stop(worker)
        if self._is_ours:
            self.ray.shutdown()

    def _call(self, worker: int, method: str, *arguments: Any) -> None:
        ref = getattr(self._actors[worker], method).remote(*arguments)
        self._refs[ref] = worker, method

    def _look(self) -> None:
        """Ask those that compute how far they are."""
        now = time.monotonic()
        if now - self._looked < _EVERY:
            return
        self._looked = now
        asked = {worker for worker, method in self._refs.values() if method == "progress"}
        busy = {worker for worker, method in self._refs.values() if method == "job"}
        for worker in busy - asked:
            self._call(worker, "progress")

    def _forget(self, worker: int) -> None:
        self._refs = {ref: about for ref, about in self._refs.items() if about[0] != worker}


def _connect(ray: Any, address: str | None, number: int) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is not None:
            ray.init(address=address, **quiet)
        else:
            path = os.pathsep.join(filter(None, sys.path))
            ray.init(
                num_cpus=max(cores(), number),
                include_dashboard=False,
                runtime_env={"env_vars": {"PYTHONPATH": path}},
                **quiet,
            )
    except Exception as error:  # ray raises many kinds
        where = f"at {address}" if address is not None else "on this machine"
        raise RunError(
            f"There is no Ray cluster {where} to be reached: {first_line(error)}. Give the address "
            f"of one, or none to start Ray on this machine."
        ) from error


def _why(error: BaseException) -> str:
    """What became of an actor, in half a sentence."""
    text = " ".join(str(error).split())
    if "memory" in text.lower() and "oom" in text.lower():
        return "Ray killed it because memory ran out"
    return f"its actor died ({text[:200]})"
