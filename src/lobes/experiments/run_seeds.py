"""Run a study with several seeds, in folders beside each other, and pool the runs."""

import contextlib
from pathlib import Path

from lobes.config.study import StudyConfig, override
from lobes.config.sweep import PlannedRun
from lobes.errors import ConfigError
from lobes.experiments.reports import check_pooled, report_runs
from lobes.experiments.several_runs import Shows, make_runs
from lobes.limits import SEED, as_path
from lobes.results.base import Results
from lobes.workers import WorkerSettings


def run_seeds(
    study: StudyConfig,
    seeds: int,
    *,
    fresh: bool = False,
    shows: Shows | None = None,
    workers: WorkerSettings | None = None,
) -> tuple[Results, Path]:
    """Run a study with `seeds` seeds from its own on; return their pooled results and the page.

    The runs are in `OUTPUT-seed0`, `OUTPUT-seed1` …, and what they say together in
    `OUTPUT-seeds`. What is finished is not run again, so the same call continues after an
    interruption, and with a larger number adds seeds. `workers` make several runs at once. Raises
    `ConfigError` where nothing is trained, and what `run_study` and `report_runs` raise.
    """
    if not study.training.enabled:
        raise ConfigError(
            "--seeds trains a model with each seed, and training.enabled is false: expected a "
            "study that trains."
        )
    last = study.seed + seeds - 1
    if last > SEED.most:
        raise ConfigError(
            f"{seeds:,} seeds from {study.seed} on end with {last}; expected a last seed of at "
            f"most {SEED.most:,}."
        )
    as_path("The last run", study.beside(f"-seed{last}"), written=True)
    together, runs = Path(study.beside("-seeds")), list[PlannedRun]()
    check_pooled(together)
    for seed in range(study.seed, last + 1):
        update = {"output": study.beside(f"-seed{seed}")}
        one = override(study, f"seed={seed}").model_copy(update=update)
        runs.append(PlannedRun(f"seed={seed}", {"seed": seed}, one))
    made = make_runs(runs, fresh=fresh, shows=shows, workers=workers, logs=together / "logs")
    with contextlib.closing(made):
        for _, error in made:
            if error is not None:
                raise error
    return report_runs([run.folder for run in runs], together)
