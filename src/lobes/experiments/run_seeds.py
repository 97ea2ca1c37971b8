"""Run a study with several seeds, in folders beside each other, and pool the runs."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from lobes.config.study import StudyConfig, override
from lobes.errors import ConfigError
from lobes.experiments.loading import Loaded
from lobes.experiments.reports import check_pooled, report_runs
from lobes.experiments.run import run_study
from lobes.limits import as_path
from lobes.progress import StageProgress
from lobes.results.base import Results


def run_seeds(
    study: StudyConfig,
    seeds: int,
    *,
    fresh: bool = False,
    progress: Callable[[Path], AbstractContextManager[StageProgress]] | None = None,
    tell: Callable[[Loaded], None] | None = None,
) -> tuple[Results, Path]:
    """Run a study with `seeds` seeds from its own on; return their pooled results and the page.

    The runs are in `OUTPUT-seed0`, `OUTPUT-seed1` …, and what they say together in
    `OUTPUT-seeds`. What is finished is not run again, so the same call continues after an
    interruption, and with a larger number adds seeds. `progress(folder)` shows one run. Raises
    `ConfigError` where nothing is trained, and what `run_study` and `report_runs` raise.
    """
    if not study.training.enabled:
        raise ConfigError(
            "--seeds trains a model with each seed, and training.enabled is false: expected a "
            "study that trains."
        )
    base, last = _base(study.output), study.seed + seeds - 1
    override(study, f"seed={last}")  # that it may be is known before the first run
    as_path("The last run", f"{base}-seed{last}", written=True)
    together, folders = Path(f"{base}-seeds"), list[Path]()
    check_pooled(together)
    for seed in range(study.seed, last + 1):
        folder = Path(f"{base}-seed{seed}")
        one = override(study, f"seed={seed}").model_copy(update={"output": str(folder)})
        first: dict[str, Any] = {"tell": tell} if not folders else {}
        if progress is None:
            run_study(one, fresh=fresh, **first)
        else:
            with progress(folder) as shown:
                run_study(one, fresh=fresh, progress=shown, **first)
        folders.append(folder)
    return report_runs(folders, together)


def _base(output: str) -> Path:
    """The output with a name of its own, which that of a folder with dots only is not."""
    path = Path(output)
    return path if path.name not in ("", "..") else path.resolve()
