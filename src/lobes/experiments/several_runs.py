"""Make several runs, each a whole study in a folder of its own: here in turn, or on workers.

A run that fails does not stop the others. With workers a job is a whole run: the worker holds the
run's folder as a command would, and only how the run ended comes back.
"""

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from lobes.config.study import StudyConfig
from lobes.config.sweep import Command, PlannedRun
from lobes.errors import LobesError, RunError, first_line
from lobes.experiments.compare import compare_study
from lobes.experiments.loading import Loaded
from lobes.experiments.run import run_study
from lobes.experiments.run_log import RunLog
from lobes.experiments.store import RunFolder
from lobes.experiments.transfer import transfer_study
from lobes.progress import Progress, StageProgress, duration
from lobes.report.pages import page_name
from lobes.results import ComparisonResults, RunResults, TransferResults
from lobes.workers import Job, WorkerSettings, started

# A run, and what it failed by.
Ended = tuple[PlannedRun, LobesError | None]

ENTRY = "lobes.experiments.several_runs:RunWork"

_MAKE: dict[Command, Callable[..., Any]] = {
    "run": run_study,
    "compare": compare_study,
    "transfer": transfer_study,
}
KIND: dict[Command, type[RunResults | ComparisonResults | TransferResults]] = {
    "run": RunResults,
    "compare": ComparisonResults,
    "transfer": TransferResults,
}


@dataclass(frozen=True)
class Shows:
    """How runs are shown while they are made.

    `progress(folder)` shows what is done for one folder, `say(line)` how many runs are done;
    `tell` is that of `run_study`, for the first run here.
    """

    progress: Callable[[Path], AbstractContextManager[StageProgress]] | None = None
    say: Callable[[str], None] | None = None
    tell: Callable[[Loaded], None] | None = None

    def on(self, folder: Path) -> AbstractContextManager[StageProgress | None]:
        """Return the progress of what is done for this folder."""
        return contextlib.nullcontext() if self.progress is None else self.progress(folder)


def folder_of(run: PlannedRun, command: Command, *, fresh: bool = False) -> RunFolder:
    """Return a run's folder, not yet held."""
    return RunFolder(run.folder, run.study.to_dict(), command=command, fresh=fresh)


def is_finished(run: PlannedRun, command: Command) -> bool:
    """Whether a run's folder holds its results and its page."""
    kind = KIND[command]
    return folder_of(run, command).is_finished(kind.FILE, page_name(kind))


def make_runs(
    runs: Sequence[PlannedRun],
    command: Command = "run",
    *,
    fresh: bool = False,
    shows: Shows | None = None,
    workers: WorkerSettings | None = None,
    logs: Path,
) -> Generator[Ended, None, None]:
    """Make runs, and yield each with what it failed by, as soon as it has ended.

    A finished run is checked and not made again. `workers` make several at once; what they print
    goes into `logs`. Close the iterator where you leave it before its end.
    """
    shows = shows or Shows()
    done = set() if fresh else {run.name for run in runs if is_finished(run, command)}
    first = sorted(runs, key=lambda run: run.name not in done)  # a look at these takes no time
    count = _Count(len(runs), done, shows.say)
    if workers is None:
        made = _here(first, command, fresh, shows)
    else:
        made = _on_workers(first, command, fresh, shows, workers, logs, len(done))
    with contextlib.closing(made):
        for run, error in made:
            count.end(run, error)
            yield run, error


def _here(
    runs: Sequence[PlannedRun], command: Command, fresh: bool, shows: Shows
) -> Generator[Ended, None, None]:
    for number, run in enumerate(runs):
        tell = {"tell": shows.tell} if command == "run" and number == 0 else {}
        error: LobesError | None = None
        if shows.say is not None:
            shows.say(f"Run {number + 1} of {len(runs)}: {run.name}.")
        try:
            with shows.on(run.folder) as progress:
                _MAKE[command](run.study, fresh=fresh, progress=progress, **tell)
        except LobesError as found:
            error = found
        except Exception as found:
            error = RunError(
                f"it failed in a way it should not ({type(found).__name__}: {first_line(found)})"
            )
            error.__cause__ = found
        yield run, error


def _on_workers(
    runs: Sequence[PlannedRun],
    command: Command,
    fresh: bool,
    shows: Shows,
    workers: WorkerSettings,
    logs: Path,
    before: int,
) -> Generator[Ended, None, None]:
    """`before` runs were finished before, and say nothing of how long the others take."""
    with started(workers, ENTRY, logs) as pool, shows.on(logs.parent) as progress:
        told = shlex.join(sys.argv[1:])
        pool.begin(RunsSpec(command, tuple(run.study for run in runs), fresh, Path.cwd(), told))
        jobs = iter([Job(number, run.name) for number, run in enumerate(runs)])
        under_way, note = dict[Job, None](), getattr(progress, "note", None)
        if note is not None:
            pool.progress = lambda job, _, __: note("runs", _names(under_way, job))
        if progress is not None:
            progress("runs", before, len(runs))
        pool.submit([*islice(jobs, workers.number)])  # no more: none waits behind a long run
        for done in range(1, len(runs) + 1):
            finished = pool.next()
            pool.submit([*islice(jobs, 1)])
            under_way.pop(finished.job, None)
            yield runs[finished.job.what], finished.error
            if progress is not None and done > before:
                progress("runs", done, len(runs))


def _names(under_way: dict[Job, None], job: Job) -> str:
    """The jobs that were heard of and have not ended, this one among them."""
    under_way[job] = None
    return f"under way: {'; '.join(each.name for each in under_way)}"


@dataclass
class _Count:
    """How many runs are done, and about how long the others take."""

    total: int
    finished: set[str]  # before
    say: Callable[[str], None] | None
    done: int = 0
    failed: int = 0
    begun: float = field(default_factory=time.monotonic)

    def end(self, run: PlannedRun, error: LobesError | None) -> None:
        """Note that a run has ended, and say so."""
        self.done += 1
        self.failed += error is not None
        if run.name in self.finished:
            self.begun = time.monotonic()
        if self.say is None:
            return
        if error is not None:
            self.say(f"{run.name} failed: {error}")
        text = f"{self.done} of {self.total} runs done"
        if self.failed:
            text += f", {self.failed} of them failed"
        made, left = self.done - len(self.finished), self.total - self.done
        if made > 0 and left:
            text += f", about {duration((time.monotonic() - self.begun) * left / made)} left"
        self.say(f"{text}.")


@dataclass(frozen=True)
class RunsSpec:
    """What a worker is told: the command, the study of each run, the driver's folder and words."""

    command: Command
    studies: tuple[StudyConfig, ...]
    fresh: bool
    here: Path
    told: str


class RunWork:
    """Makes runs, by their numbers."""

    def __init__(self, spec: RunsSpec) -> None:
        if spec.here.is_dir():
            os.chdir(spec.here)
        self.spec = spec

    def __call__(self, number: int, progress: Progress) -> None:
        study = self.spec.studies[number]
        log = RunLog(Path(study.output), self.spec.told)
        log.begin()
        try:
            shown = partial(_reach, log, progress)
            _MAKE[self.spec.command](study, fresh=self.spec.fresh, progress=shown)
        except BaseException as error:
            log.end(error)
            raise
        log.end(None)


def _reach(log: RunLog, progress: Progress, stage: str, done: int, total: int) -> None:
    log.reach(stage, done, total)
    progress(done, total)
