"""Workers as actors of Ray: one for each device, which holds its model."""

import contextlib
import logging
import math
import os
import re
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lobes.errors import ConfigError, RunError, first_line
from lobes.workers.local import cores
from lobes.workers.messages import Message
from lobes.workers.serving import Reporter, attempted, found, hello
from lobes.workers.settings import WorkerSettings

# Seconds between two looks at how far jobs are.
_EVERY = 1.0
# Jobs are computed in one thread of an actor, and another one answers how far they are.
_GROUPS = {"jobs": 1, "watch": 1}


class RayWorker:
    """The actor: what `serving.serve` does, as methods."""

    def __init__(self, number: int, entry: str, logs: Path) -> None:
        self.number, self.entry = number, entry
        self._progress = 0, 1
        with (
            contextlib.suppress(OSError),  # Ray keeps what is printed where there is no folder
            open(logs / f"worker-{number}.log", "ab") as log,
        ):
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)

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

    Without one, a Ray of this machine is started for the purpose, and ended with the pool. Other
    options are what each worker gets of a cluster: "num_cpus", "num_gpus", "memory" in bytes, and
    resources of the cluster's own.
    """

    def __init__(self, settings: WorkerSettings, entry: str, logs: Path) -> None:
        try:
            with _environment(RAY_DEDUP_LOGS_SKIP_REGEX=".*"):  # read as it is imported first
                import ray
        except ImportError as error:
            raise ConfigError(
                "Workers on Ray need ray: pip install 'lobes[ray]', or leave out --on ray for "
                "workers on this machine."
            ) from error
        self.ray, self.entry, self.logs = ray, entry, logs.absolute()
        given = dict(settings.options)
        address = given.pop("address", None) or os.environ.get("RAY_ADDRESS")
        wanted = {key: _number(key, value) for key, value in given.items()}
        self._is_ours = not ray.is_initialized()
        self._actors: dict[int, Any] = {}
        self._refs: dict[Any, tuple[int, str]] = {}
        self._looked = 0.0
        if self._is_ours:
            if address is not None:
                _check_address(address)
            _connect(ray, address, settings.number)
        try:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            self._wanted = _wanted(wanted, settings, nodes)
            self.logs.mkdir(parents=True, exist_ok=True)
        except BaseException:
            self.close()
            raise
        of_their_own = {
            key: self._wanted.pop(key)
            for key in [*self._wanted]
            if key not in ("num_cpus", "num_gpus", "memory")
        }
        options: dict[str, Any] = {**self._wanted, "resources": of_their_own, "max_restarts": 0}
        remote: Any = ray.remote  # whose types know nothing of groups
        self._actor = remote(concurrency_groups=_GROUPS, **options)(RayWorker)

    def start(self, workers: Sequence[int]) -> None:
        """Start actors."""
        for worker in workers:
            self._actors[worker] = self._actor.remote(worker, self.entry, self.logs)
            self._call(worker, "hello")

    def send(self, worker: int, message: Message) -> None:
        """Call an actor's method."""
        self._call(worker, *message)

    def receive(self, timeout: float) -> list[tuple[int, Message]]:
        """Return what actors answered."""
        self._look()
        if not self._refs:  # all are gone, and not started again
            return []
        refs = [*self._refs]
        ready, _ = self.ray.wait(refs, num_returns=1, timeout=min(timeout, _EVERY))
        if ready:  # all that are there, in the order of their calls
            ready, _ = self.ray.wait(refs, num_returns=len(refs), timeout=0)
        return [said for ref in ready if (said := self._answer(ref)) is not None]

    def stop(self, worker: int) -> None:
        """Kill an actor."""
        self._forget(worker)
        actor = self._actors.pop(worker, None)
        if actor is not None:
            with contextlib.suppress(Exception):
                self.ray.kill(actor)

    @property
    def awaited(self) -> str:
        """What workers that have not begun wait for."""
        each = " and ".join(f"{key}={value:g}" for key, value in self._wanted.items())
        return f"Ray looks for places with {each}"

    def close(self) -> None:
        """Kill all actors, and a Ray that was started for them."""
        for worker in [*self._actors]:
            self.stop(worker)
        if self._is_ours:
            self.ray.shutdown()

    def _answer(self, ref: Any) -> tuple[int, Message] | None:
        """What an actor said; None where another of its answers told that it is gone."""
        if ref not in self._refs:
            return None
        worker, _ = self._refs.pop(ref)
        try:
            return worker, self.ray.get(ref)
        except self.ray.exceptions.RayError as error:
            self._forget(worker)
            return worker, ("gone", _why(error))

    def _call(self, worker: int, method: str, *arguments: Any) -> None:
        group = "watch" if method == "progress" else "jobs"
        call = getattr(self._actors[worker], method).options(concurrency_group=group)
        self._refs[call.remote(*arguments)] = worker, method

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


def _number(key: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise ConfigError(
            f"--worker-option {key}={value} is not understood: of Ray expected address=HOST:PORT, "
            f"or how much of a resource each worker gets, such as num_cpus=4."
        )
    return int(number) if number.is_integer() else number


def _wanted(
    options: Mapping[str, float], settings: WorkerSettings, nodes: Sequence[Mapping[str, float]]
) -> dict[str, float]:
    """What each worker gets of the cluster: what options say, else a GPU or a share of the cores.

    Raises `RunError` where the cluster has less; what options ask for may be there later.
    """
    gpus = settings.devices or int(any(node.get("GPU") for node in nodes))
    given: dict[str, float] = {"num_gpus": gpus} if gpus else {}
    if options:
        return {**given, **options}
    most = 1 if gpus else int(max((node.get("CPU", 0) for node in nodes), default=0))
    for cpus in range(most, 0, -1):
        wanted = {**given, "num_cpus": cpus}
        if sum(_places(node, wanted) for node in nodes) >= settings.number:
            return wanted
    there = [
        f"{sum(node.get(name, 0) for node in nodes):g} {name}s" for name in _RESOURCES.values()
    ]
    each = f"1 CPU and {gpus} GPU{'s' * (gpus > 1)}" if gpus else "1 CPU"
    raise RunError(
        f"The Ray cluster has {' and '.join(there)}, too little for {settings.number} workers with "
        f"{each} each: give fewer workers, or say what each gets of a cluster that grows, such as "
        f"--worker-option num_cpus=1."
    )


# {what an actor asks for: what nodes call it}
_RESOURCES = {"num_cpus": "CPU", "num_gpus": "GPU"}


def _places(node: Mapping[str, float], wanted: Mapping[str, float]) -> int:
    return min(int(node.get(_RESOURCES[key], 0) // each) for key, each in wanted.items())


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Set variables of this process for the time of a block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _check_address(address: str) -> None:
    """Raise where no cluster can be at an address: Ray itself tries for minutes, and aloud."""
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if not port.isdigit() or "://" in address:
        raise ConfigError(
            f"The address {address!r} of a Ray cluster is not understood: expected HOST:PORT of "
            f"its head, as `ray start` says it, or auto on one of its nodes."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise RunError(
            f"There is no Ray cluster at {address}: {first_line(error)}. Give the address of one, "
            f"or none to start Ray on this machine."
        ) from error


def _connect(ray: Any, address: str | None, number: int) -> None:
    """Connect to a cluster, or start Ray here: without its dashboard, and saying nothing."""
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    told = {
        # its own processes inherit these
        "RAY_USAGE_STATS_ENABLED": os.environ.get("RAY_USAGE_STATS_ENABLED", "0"),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else it warns of a change to come
    }
    try:
        if address is not None:
            with _environment(**told):
                ray.init(address=address, **quiet)
        else:
            told["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
            told["RAY_worker_niceness"] = "0"  # else workers yield to all other processes
            with _environment(**told):
                ray.init(num_cpus=max(cores(), number), include_dashboard=False, **quiet)
    except Exception as error:  # ray raises many kinds
        where = f"at {address}" if address is not None else "on this machine"
        raise RunError(
            f"There is no Ray cluster {where} to be reached: {first_line(error)}. Give the address "
            f"of one, or none to start Ray on this machine."
        ) from error


def _why(error: BaseException) -> str:
    """What became of an actor, in half a sentence."""
    from ray.exceptions import RayTaskError

    text = str(error).strip()
    if "OUT_OF_MEMORY" in text or "low on memory" in text:
        return "Ray ended it because the memory of its node ran out"
    if isinstance(error, RayTaskError) or getattr(error, "actor_init_failed", False):
        return f"it cannot begin ({text.splitlines()[-1].rstrip('.')})"  # of what it raised
    because = re.search(r"because (its [^.]+)\.", text)
    return because.group(1) if because else f"its actor died ({first_line(error)})"
