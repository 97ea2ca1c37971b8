"""Run a sweep: every combination in a folder of its own, and a page over all of them."""

import contextlib
import os
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lobes.config.sweep import Command, PlannedRun, Sweep, load_sweeps, name_of
from lobes.dissociation.verdict import SPECIALIZED, Verdict
from lobes.errors import ConfigError, LobesError, RunError, at
from lobes.experiments.manifest import check_files
from lobes.experiments.methods import with_defaults
from lobes.experiments.outputs import check_output
from lobes.experiments.reports import check_pooled, report_runs, write_files
from lobes.experiments.same_study import check_settings, has_effect
from lobes.experiments.several_runs import KIND, Shows, folder_of, is_finished, make_runs
from lobes.experiments.store import held
from lobes.experiments.transfer import ready_to_transfer
from lobes.report.page import html, write_page
from lobes.report.pages import page_name, page_of
from lobes.results import ComparisonResults, RunResults, SweepResults, as_bytes, read
from lobes.results.of_matrix import opening
from lobes.results.sweep import SweptRun, SweptSeeds
from lobes.workers import WorkerSettings

SEED = "seed"


def plan_sweeps(
    path: str | os.PathLike[str],
    settings: Sequence[str] = (),
    output: Path | None = None,
    *,
    fresh: bool = False,
    part: str | None = None,
) -> tuple[Sweep, ...]:
    """Return the sweeps of a file: the one that it is, or those of its parts, or this `part`.

    `settings` change the base studies, `output` is the folder of all. Raises `ConfigError` and
    `RunError` for all that can be known to fail before the first run: what no study takes, settings
    that an axis takes the place of, axes that change nothing, and folders that hold other runs
    or what lobes did not write.
    """
    sweeps = load_sweeps(path, settings, output, part)
    for setting in settings:
        _check_no_axis(setting, sweeps)
    made = [(sweep.command, [run.study for run in sweep.runs]) for sweep in sweeps]
    check_settings(settings, made)
    return tuple(_checked(sweep, path, fresh=fresh) for sweep in sweeps)


def _check_no_axis(setting: str, sweeps: Sequence[Sweep]) -> None:
    """Raise `ConfigError` for a setting of the base study that no run would have."""
    key = setting.partition("=")[0].strip()
    if all(key in sweep.axes for sweep in sweeps):
        raise ConfigError(
            f"The setting {setting} has no effect: {key} is an axis, whose values every run takes; "
            f"change them in the file."
        )


def _checked(sweep: Sweep, path: str | os.PathLike[str], *, fresh: bool) -> Sweep:
    sweep = replace(sweep, runs=tuple(_ready(run, sweep.command, path) for run in sweep.runs))
    studies = [run.study for run in sweep.runs]
    for key, values in sweep.axes.items():
        if len(values) > 1 and not has_effect(key, studies, sweep.command):
            raise ConfigError(
                f"{os.fspath(path)}: axes.{key} changes nothing that `lobes {sweep.command}` "
                f"measures of this study, so that its runs would be the same; leave it out."
            )
    for run in sweep.runs:
        folder_of(run, sweep.command, fresh=fresh).check_study()
    check_output(sweep.folder / SweepResults.FILE)
    check_output(sweep.folder / page_name(SweepResults))
    for name, _ in _pooled(sweep):
        check_pooled(sweep.folder / name)
    return sweep


def states(sweep: Sweep) -> list[dict[str, Any]]:
    """Return {"run", "values", "state"} of each run: finished, begun or not begun."""
    return [
        {"run": str(run.folder), "values": dict(run.values), "state": _state(run, sweep.command)}
        for run in sweep.runs
    ]


def run_sweep(
    sweep: Sweep,
    *,
    fresh: bool = False,
    shows: Shows | None = None,
    workers: WorkerSettings | None = None,
) -> tuple[SweepResults, Path]:
    """Make the runs of a sweep that are not finished; return what they found, and the page.

    Runs that fail are among the results, and tried again by the next call. `workers` make several
    runs at once. Raises `RunError` where another process has the sweep, or workers cannot work.
    """
    with held(sweep.folder):
        logs = sweep.folder / "logs"
        made = make_runs(
            sweep.runs, sweep.command, fresh=fresh, shows=shows, workers=workers, logs=logs
        )
        with contextlib.closing(made):
            failures = {run.name: error for run, error in made if error is not None}
        results = SweepResults(
            **opening(sweep.name),
            verdicts=(),
            command=sweep.command,
            axes=dict(sweep.axes),
            runs=tuple(_run(run, sweep.command, failures.get(run.name)) for run in sweep.runs),
            seeds=tuple(
                _seeds(sweep.folder, name, runs, failures) for name, runs in _pooled(sweep)
            ),
        )
        write_files([(results.FILE, as_bytes(results))], sweep.folder)
        page = sweep.folder / page_name(SweepResults)
        return results, write_page(html(page_of(results)), page)


def check_all_ran(sweeps: Sequence[SweepResults]) -> None:
    """Raise `RunError`, which names the runs that failed, where there are any."""
    failed = [(run.name, str(run.error)) for results in sweeps for run in results.failed]
    number = sum(len(results.runs) for results in sweeps)
    if failed:
        raise RunError(
            f"{len(failed)} of {number} runs failed ({named_errors(failed)}). The same command "
            f"tries them again, and keeps what is finished."
        )


def named_errors(failed: Sequence[tuple[str, str]]) -> str:
    """Return what up to three (run, error) failed for, in half a sentence."""
    named = "; ".join(f"{name}: {error.rstrip('.')}" for name, error in failed[:3])
    return named + (f"; and {len(failed) - 3} more" if len(failed) > 3 else "")


def _ready(run: PlannedRun, command: Command, path: str | os.PathLike[str]) -> PlannedRun:
    """The run with all that its command needs, or refused."""
    with at(f"{os.fspath(path)}: {run.name}"):
        if command == "compare":
            return replace(run, study=with_defaults(run.study))
        if command == "transfer":
            return replace(run, study=ready_to_transfer(run.study))
        return run


def _state(run: PlannedRun, command: Command) -> str:
    if is_finished(run, command):
        return "finished"
    return "begun" if folder_of(run, command).goes_on else "not begun"


def _pooled(sweep: Sweep) -> list[tuple[str, list[PlannedRun]]]:
    """The folders of pooled results, and the runs of each: those that differ in their seeds."""
    if sweep.command != "run" or len(sweep.axes.get(SEED, ())) < 2:
        return []
    groups: dict[str, list[PlannedRun]] = {}
    for run in sweep.runs:
        groups.setdefault(name_of(_without_seed(run.labels), "seeds"), []).append(run)
    return [*groups.items()]


def _without_seed(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != SEED}


def _run(run: PlannedRun, command: Command, error: LobesError | None) -> SweptRun:
    found = None
    if error is None:
        try:
            check_files(run.folder, KIND[command].FILE)
            found = read(run.folder, KIND[command])
        except RunError as damage:
            error = damage
    tasks = found.tasks if isinstance(found, RunResults) else ()
    held_out = found.held_out if isinstance(found, ComparisonResults) else {}
    return SweptRun(
        name=run.name,
        values=dict(run.values),
        error=None if error is None else str(error),
        base={task.name: task.base for task in tasks},
        held_out={method: float(np.mean(scores)) for method, scores in held_out.items()},
        level=None if found is None else found.level,
        verdicts=() if found is None else found.verdicts,
    )


def _seeds(
    folder: Path, name: str, runs: Sequence[PlannedRun], failed: Container[str]
) -> SweptSeeds:
    """Take the runs together that have results."""
    done = [run for run in runs if run.name not in failed]
    verdict, error = None, None
    further: tuple[Verdict, ...] = ()
    try:
        if len(done) < 2:
            raise RunError("Fewer than two of these runs have results.")
        pooled, _ = report_runs([run.folder for run in done], folder / name)
        verdict = pooled.verdict_on(SPECIALIZED)
        further = tuple(each for each in pooled.verdicts if each is not verdict)
    except LobesError as found:
        error = str(found)
    return SweptSeeds(
        name=name,
        values=_without_seed(runs[0].values),
        runs=tuple(run.name for run in done),
        error=error,
        verdict=verdict,
        further=further,
    )
