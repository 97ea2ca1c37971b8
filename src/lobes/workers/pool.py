"""Hand jobs out to workers, and bring back what they computed, whichever of them end meanwhile."""

import logging
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from lobes import errors
from lobes.errors import LobesError, RunError
from lobes.workers.messages import Message, what_differs

# How often a job is given out, and how often a worker is started again that ends at once.
_TRIES = 3
# Seconds between two looks at whether there is anything else to do.
_LONGEST = 5.0
# Seconds after which it is said that workers have not begun.
_PATIENCE = 120.0
# Seconds without a word from a worker that computes, after which that is said.
_SILENT = 900.0

logger = logging.getLogger("lobes")


@runtime_checkable
class Executor(Protocol):
    """Where workers run: it starts them, and carries messages to them and back."""

    def start(self, workers: Sequence[int]) -> None:
        """Start workers, each of which says "hello" sooner or later."""

    def send(self, worker: int, message: Message) -> None:
        """Say something to a worker."""

    def receive(self, timeout: float) -> list[tuple[int, Message]]:
        """Return what workers said, and which of them are "gone"; wait `timeout` s at most."""

    def stop(self, worker: int) -> None:
        """End a worker at once."""

    @property
    def awaited(self) -> str:
        """What workers that have not begun wait for, in half a sentence."""

    def close(self) -> None:
        """End all workers."""


class Place(NamedTuple):
    """What is computed: some units of the step with this full key, in the plan of this number.

    It is here, and not with the plans, so that a worker that needs no torch does not import it.
    """

    plan: int
    key: str
    first: int
    last: int


@dataclass(frozen=True)
class Job:
    """Something to compute: `what` is for the worker, `name` for people.

    `what` is a value that can be pickled, small and hashable.
    """

    what: Any
    name: str


@dataclass(frozen=True)
class Finished:
    """A job with its value, or the error that it ended with."""

    job: Job
    value: Any = None
    error: LobesError | None = None
    seconds: float = 0.0


@dataclass
class _Worker:
    jobs: list[Job] = field(default_factory=list)
    host: str = ""
    started: float = field(default_factory=time.monotonic)
    said_hello: bool = False
    is_ready: bool = False
    ends: int = 0  # since it last finished a job
    since: float = 0.0  # when it began its first job
    heard: float = 0.0  # when it last said something, or got work
    said_silent: bool = False


class Pool:
    """`number` workers, each of which computes one job at a time.

    Workers are started as there are jobs for them, and ended with the `with` block.
    `progress(job, done, total)` is called as jobs go. `is_remote` says that workers may be on
    other machines.
    """

    def __init__(self, executor: Executor, number: int, *, is_remote: bool = False) -> None:
        self.executor = executor
        self.number = number
        self.is_remote = is_remote
        self.progress: Callable[[Job, int, int], None] | None = None
        self._spec: Any = None
        self._begun = False
        self._workers: dict[int, _Worker] = {}
        self._started = 0  # how many there ever were, without those started again
        self._last = ""  # why the last worker that is gone ended
        self._said_late = False
        self._facts: dict[str, Any] | None = None
        self._waiting: deque[Job] = deque()
        self._tries: dict[Job, int] = {}
        self._finished: deque[Finished] = deque()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.executor.close()

    def facts(self) -> dict[str, Any]:
        """Return what the first worker that is there says of itself."""
        self._start(1)
        while self._facts is None:
            self._check_workers()
            self._hear()
        return self._facts

    def begin(self, spec: Any) -> None:
        """Give workers the specification of what they compute, those that come later as well."""
        self._spec, self._begun = spec, True
        for number, worker in self._workers.items():
            if worker.said_hello:
                worker.is_ready = False
                self.executor.send(number, ("begin", spec))

    def warm_up(self) -> None:
        """Start all workers, and wait until they can take jobs."""
        self._start(self.number)
        while not all(worker.is_ready for worker in self._workers.values()):
            self._check_workers()
            self._hear()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Add jobs, to be handed out in this order."""
        self._waiting.extend(jobs)
        self._start(len(self._waiting) + sum(len(each.jobs) for each in self._workers.values()))
        self._hand_out()

    def next(self) -> Finished:
        """Return a job that is finished, as soon as there is one.

        Raises `RunError` where no worker is left, or where one cannot begin.
        """
        while not self._finished:
            self._check_workers()
            self._hear()
        return self._finished.popleft()

    def _check_workers(self) -> None:
        if self._started and not self._workers:
            raise RunError(
                f"No worker is left: each ended {_TRIES} times, the last one because {self._last}. "
                f"What was measured is kept, and the same command continues."
            )

    def _start(self, number: int) -> None:
        """Start workers until there have been `number`, or as many as there may be."""
        new = [*range(self._started, min(number, self.number))]
        if new:
            self._workers.update((each, _Worker()) for each in new)
            self._started = new[-1] + 1
            self.executor.start(new)

    def _hear(self) -> None:
        for number, (said, *rest) in self.executor.receive(_LONGEST):
            if number in self._workers:
                self._workers[number].heard = time.monotonic()
                getattr(self, f"_on_{said}")(number, self._workers[number], *rest)
        self._hand_out()
        self._say_who_is_late()
        self._say_who_is_silent()

    def _say_who_is_late(self) -> None:
        """Say once which workers have not begun, and what they wait for."""
        since = time.monotonic() - _PATIENCE
        late = [worker for worker in self._workers.values() if not worker.said_hello]
        if not self._said_late and any(worker.started < since for worker in late):
            self._said_late = True
            logger.warning(
                "%d of %d workers have not begun after %.0f s (%s); they get work as soon as they "
                "are there, and Ctrl-C ends the wait.",
                len(late),
                len(self._workers),
                _PATIENCE,
                self.executor.awaited,
            )

    def _say_who_is_silent(self) -> None:
        """Say once of each worker that computes without a word for long: it may hang."""
        for number, worker in self._workers.items():
            silent = time.monotonic() - worker.heard
            if worker.jobs and silent > _SILENT and not worker.said_silent:
                worker.said_silent = True
                logger.warning(
                    "Worker %d on %s has said nothing for %.0f min, computing %s. If it hangs, "
                    "end its process, which gives its work to another; or press Ctrl-C: the same "
                    "command continues.",
                    number,
                    worker.host,
                    silent / 60,
                    worker.jobs[0].name,
                )

    def _on_hello(self, number: int, worker: _Worker, facts: dict[str, Any]) -> None:
        worker.host = facts["host"]
        differing = what_differs(facts["versions"])
        if differing:
            raise RunError(
                f"Worker {number} on {worker.host} has other versions: {differing}. Install the "
                f"same there."
            )
        self._facts = self._facts or facts
        worker.said_hello = True
        if self._begun:
            self.executor.send(number, ("begin", self._spec))

    def _on_ready(self, number: int, worker: _Worker, _: Any) -> None:
        worker.is_ready = True

    def _on_progress(self, number: int, worker: _Worker, done: int, total: int) -> None:
        if worker.jobs and self.progress is not None:
            self.progress(worker.jobs[0], done, total)

    def _on_done(self, number: int, worker: _Worker, value: Any) -> None:
        worker.ends = 0
        now = time.monotonic()
        self._finished.append(Finished(worker.jobs.pop(0), value, seconds=now - worker.since))
        worker.since = now
        self._hand_out()  # before what was computed is kept

    def _on_failed(self, number: int, worker: _Worker, kind: str, message: str) -> None:
        where = f"Worker {number} on {worker.host}"
        if not worker.is_ready:
            raise RunError(f"{where} cannot begin: {message}")
        worker.ends = 0
        worker.since = time.monotonic()
        if kind:
            if worker.host != socket.gethostname():  # where files and disks may be others
                message = f"{where}: {message}"
            error: LobesError = getattr(errors, kind, RunError)(message)
        else:
            error = RunError(f"{where} failed in a way it should not: {message}; see its log.")
        self._finished.append(Finished(worker.jobs.pop(0), error=error))

    def _on_gone(self, number: int, worker: _Worker, why: str) -> None:
        """Give a worker's jobs to others, and start it again unless that was in vain before."""
        self.executor.stop(number)
        first, rest = worker.jobs[:1], worker.jobs[1:]
        for job in first:
            self._tries[job] = self._tries.get(job, 0) + 1
        spent = [job for job in first if self._tries[job] >= _TRIES]
        self._waiting.extendleft(reversed([job for job in [*first, *rest] if job not in spent]))
        for job in spent:
            self._finished.append(Finished(job, error=RunError(_spent(job, why))))
        ends = 0 if spent else worker.ends + 1  # of a job that ends any worker it is no fault
        self._last = why
        logger.warning(
            "Worker %d%s is gone: %s.%s",
            number,
            f" on {worker.host}" if worker.host else "",
            why,
            " It is started again." if ends < _TRIES else "",
        )
        if ends < _TRIES:
            self._workers[number] = _Worker(ends=ends)
            self.executor.start([number])
            return
        del self._workers[number]

    def _hand_out(self) -> None:
        """Give every worker a job, and while there are many a second one to begin at once."""
        for depth in (1, 2) if len(self._waiting) > len(self._workers) else (1,):
            for number, worker in self._workers.items():
                if not self._waiting:
                    return
                if worker.is_ready and len(worker.jobs) < depth:
                    job = self._waiting.popleft()
                    if not worker.jobs:
                        worker.since = worker.heard = time.monotonic()
                    worker.jobs.append(job)
                    self.executor.send(number, ("job", job.what))


def _spent(job: Job, why: str) -> str:
    return (
        f"A worker ended {_TRIES} times while it computed {job.name}: {why}. Give fewer workers, "
        f"so that each has more memory, or look into its log; what was measured is kept."
    )
