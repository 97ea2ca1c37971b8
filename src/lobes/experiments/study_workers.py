"""The workers of a study: started for its folder, and told what they measure."""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lobes.config.study import StudyConfig
from lobes.experiments.store import RunFolder
from lobes.modeling.precision import resolve_precision
from lobes.workers import Pool, WorkerSettings, started

# What workers run, and the job of training a study's model.
ENTRY = "lobes.experiments.worker:StudyWork"
TRAINING = "training"


@dataclass(frozen=True)
class StudySpec:
    """What a worker is told: a command's study, its folder, and how it is measured.

    `precision` is "fp32" or "bf16", `here` is the driver's working directory.
    """

    command: str
    study: StudyConfig
    folder: Path
    precision: str
    here: Path


@contextlib.contextmanager
def pool_of(settings: WorkerSettings | None, folder: RunFolder) -> Iterator[Pool | None]:
    """Yield a pool whose workers log into the run's folder; None without settings."""
    if settings is None:
        yield None
        return
    logs = folder.path / "logs"
    try:
        with started(settings, ENTRY, logs) as pool:
            yield pool
    finally:
        folder.sweep()  # what workers left that were ended
        if not (folder.path / "config.json").exists():  # it did not begin
            shutil.rmtree(logs, ignore_errors=True)


def begin(pool: Pool | None, study: StudyConfig, folder: RunFolder, device: str) -> str:
    """Return the precision in which a study is measured, and tell workers to measure it.

    Without workers, and with those of this machine, it is that of `device`; else that of theirs.
    """
    if pool is not None and pool.is_remote and study.precision == "auto":
        precision: str = "bf16" if pool.facts()["bf16"] else "fp32"
    else:
        precision = resolve_precision(study.precision, device)
    if pool is not None:
        pool.begin(StudySpec(folder.command, study, folder.path.resolve(), precision, Path.cwd()))
    return precision
