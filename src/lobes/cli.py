"""The command line: arguments in, one call, a table or JSON out.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 failed with one sentence
that says what to do, 2 wrong usage, 130 interrupted. Nothing heavy is imported before a command
needs it.
"""

import functools
import json
import os
import sys
import traceback
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lobes import __version__
from lobes.errors import LobesError

if TYPE_CHECKING:
    import lobes.study.config

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find, measure and train the specialised attention heads of a transformer.",
)


class Export(StrEnum):
    """The values of `lobes prune --export`."""

    native = "native"
    zeroed = "zeroed"


Study = Annotated[Path, typer.Argument(help="The study, a TOML file.", show_default=False)]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the study; repeatable."),
]
Output = Annotated[
    Path | None,
    typer.Option(help="The run's folder, instead of the study's `output`.", show_default=False),
]
Beside = Annotated[
    Path | None,
    typer.Option(
        help="The folder, instead of the study's `output` with the command's name added.",
        show_default=False,
    ),
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Start again: delete what an earlier run left there.")
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code that the model brings.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and libraries' notices.")]


def main() -> None:
    """The entry point of the command `lobes`."""
    # Before torch starts its threads: one that waits for another sleeps instead of spinning. On a
    # quiet machine that costs a few per cent at most; beside another busy process, spinning
    # threads keep the cores from those they wait for, and all takes about ten times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        app()
    except KeyboardInterrupt:  # before a command could say so itself
        sys.exit(130)


def _command(*, resumable: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command: its failures become one line and an exit code."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def guarded(*args: Any, debug: bool, **kwargs: Any) -> None:
            from lobes import terminal

            terminal.set_up(debug=debug)
            code = 1
            try:
                function(*args, debug=debug, **kwargs)
                sys.stdout.flush()
                return
            except KeyboardInterrupt:
                code = 130
                more = " The same command continues where it stopped." if resumable else ""
                terminal.say(f"Interrupted.{more}")
            except BrokenPipeError:  # the reader of our output, such as `head`, has gone
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            except LobesError as error:
                terminal.tell(error)
                if debug:
                    traceback.print_exc()
            except Exception as error:
                terminal.say(
                    f"Error: lobes failed in a way it should not ({type(error).__name__}: "
                    f"{error}); --debug shows where."
                )
                if debug:
                    traceback.print_exc()
            raise typer.Exit(code)

        app.command(name=function.__name__.strip("_"))(guarded)
        return guarded

    return register


@app.callback(invoke_without_command=True)
def _lobes(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True)
    ] = False,
) -> None:
    if version:
        print(f"lobes {__version__}")
        raise typer.Exit


@_command(resumable=True)
def demo(
    output: Annotated[Path, typer.Option(help="The run's folder.")] = Path("runs/demo"),
    settings: Settings = None,
    fetch_only: Annotated[
        bool, typer.Option("--fetch-only", help="Only download the model and the sentences.")
    ] = False,
    fresh: Fresh = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """The whole pipeline on a packaged model and real sentences of four domains.

    Example: lobes demo --output runs/demo
    """
    from lobes.study.config import override
    from lobes.study.demo import demo_study
    from lobes.study.demo_data import fetch
    from lobes.terminal import say

    assets = fetch(log=None if quiet else say)
    if not fetch_only:
        study = override(demo_study(assets, output), *(settings or ()))
        _run_stages(study, ("train", "iap", "report"), fresh, as_json, quiet)


@_command(resumable=True)
def run(
    study: Study,
    settings: Settings = None,
    output: Output = None,
    fresh: Fresh = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train, measure, report; an interrupted run continues where it stopped.

    Example: lobes run study.toml --set iap.controls=20
    """
    _run_stages(_study(study, settings, output), ("train", "iap", "report"), fresh, as_json, quiet)


@_command(resumable=True)
def train(
    study: Study,
    settings: Settings = None,
    output: Output = None,
    fresh: Fresh = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Only train the study's model on its tasks.

    Example: lobes train study.toml --output runs/first
    """
    _run_stages(_study(study, settings, output), ("train",), fresh, as_json, quiet)


@_command(resumable=True)
def iap(
    study: Study,
    model: Annotated[
        str | None,
        typer.Option(
            help="A model trained elsewhere: a folder that lobes saved, or a "
            "ForSequenceClassification model with one task.",
            show_default=False,
        ),
    ] = None,
    settings: Settings = None,
    output: Output = None,
    fresh: Fresh = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Only measure: importance, lesions, controls, D-scores, report.

    Example: lobes iap study.toml --model runs/first/model
    """
    chosen = _study(study, settings, output)
    if model is not None:
        from lobes.study.config import with_trained_model

        chosen = with_trained_model(chosen, model)
    _run_stages(chosen, ("iap", "report"), fresh, as_json, quiet)


@_command(resumable=True)
def compare(
    study: Study,
    settings: Settings = None,
    output: Beside = None,
    fresh: Fresh = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare single-task, multi-task, IAT, frozen and probed models, over several seeds.

    Example: lobes compare study.toml --set compare.seeds=3
    """
    from lobes.study.compare import compare_study
    from lobes.terminal import Progress

    chosen = _beside(_study(study, settings, output), output, "compare")
    with Progress(quiet=quiet) as progress:
        results = compare_study(chosen, fresh=fresh, progress=progress)
    _show(results, Path(chosen.output, "comparison.html"), as_json)


@_command(resumable=True)
def transfer(
    study: Study,
    settings: Settings = None,
    output: Beside = None,
    fresh: Fresh = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Fine-tune on a new task after training on several, with IAT and without.

    Example: lobes transfer study.toml --set transfer.seeds=3
    """
    from lobes.study.transfer import transfer_study
    from lobes.terminal import Progress

    chosen = _beside(_study(study, settings, output), output, "transfer")
    with Progress(quiet=quiet) as progress:
        results = transfer_study(chosen, fresh=fresh, progress=progress)
    _show(results, Path(chosen.output, "transfer.html"), as_json)


@_command()
def export(
    run: Annotated[
        Path, typer.Argument(help="The folder of a run, or a saved model.", show_default=False)
    ],
    task: Annotated[
        str, typer.Option(help="Which of the model's tasks to export.", show_default=False)
    ],
    to: Annotated[Path, typer.Option(help="The folder to write.", show_default=False)],
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """One task of a trained model, as a folder that transformers loads without lobes.

    Example: lobes export runs/demo --task sentiment --to sentiment-model
    """
    from lobes.study.export import export_run
    from lobes.terminal import say

    folder = export_run(run, task, to)
    if as_json:
        print(json.dumps({"task": task, "folder": str(folder)}))
    say(f"Model: {folder}")


@_command()
def report(
    run: Annotated[
        Path,
        typer.Argument(
            help="The folder of a finished run, comparison or transfer study.", show_default=False
        ),
    ],
    html: Annotated[
        Path | None,
        typer.Option(help="Where to write the page, instead of into the run's folder."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write the report of a finished run again, and print its tables.

    Example: lobes report runs/demo --html demo.html
    """
    from lobes.study.reports import report_again

    results, page = report_again(run, html)
    _show(results, page, as_json)


@_command()
def tasks(
    name: Annotated[
        str | None,
        typer.Argument(help="A known task, or one of the study's.", show_default=False),
    ] = None,
    study: Annotated[
        Path | None, typer.Option(help="A study, for its tasks and tokenizer.", show_default=False)
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="A folder that holds the data of known tasks.", show_default=False),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Whose tokenizer counts tokens.", show_default=False)
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """The known tasks, or one task with its sizes, token lengths and three examples.

    Example: lobes tasks sst2 --model bert-base-uncased
    """
    from lobes.study.config import load_study
    from lobes.study.tasks import describe_task, known_tasks
    from lobes.terminal import show_task, show_tasks

    if name is None:
        known = known_tasks()
        if as_json:
            print(json.dumps(known, indent=1))
        else:
            show_tasks(known)
        return
    task = describe_task(
        name,
        study=load_study(study) if study else None,
        data_dir=str(data_dir) if data_dir else None,
        model=model,
        trust_remote_code=trust_remote_code,
    )
    if as_json:
        print(json.dumps(task, indent=1, ensure_ascii=False))
    else:
        show_task(task)


@_command()
def heads(
    model: Annotated[
        str,
        typer.Argument(
            help="A model of the hub, a folder that holds one, pruned or not, or a run's folder.",
            show_default=False,
        ),
    ],
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Where a model's attention heads are, and which can be ablated, trained alone and pruned.

    Example: lobes heads bert-base-uncased
    """
    from lobes.study.models import describe_heads, find_model_heads
    from lobes.terminal import show_heads

    layout = find_model_heads(model, trust_remote_code=trust_remote_code)
    if as_json:
        print(json.dumps({"model": model, **describe_heads(layout)}, indent=1))
    else:
        show_heads(layout, model)


@_command()
def prune(
    to: Annotated[Path, typer.Option(help="The folder to write.", show_default=False)],
    model: Annotated[
        str | None,
        typer.Argument(
            help="A model of the hub or a folder; with --from-run by default the run's model.",
            show_default=False,
        ),
    ] = None,
    drop: Annotated[
        str | None,
        typer.Option(
            metavar="HEADS",
            help='The heads to remove, as "0:1,5 3:2" (site:head,head).',
            show_default=False,
        ),
    ] = None,
    from_run: Annotated[
        Path | None,
        typer.Option(
            help="Remove the heads that were the least important in this run.", show_default=False
        ),
    ] = None,
    fraction: Annotated[
        float | None,
        typer.Option(help="With --from-run: which share of all heads.", show_default=False),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="With --from-run: the least important for this task. Without it: those with the "
            "lowest rank among all heads, as a mean over the run's tasks.",
            show_default=False,
        ),
    ] = None,
    export: Annotated[
        Export | None,
        typer.Option(
            help="For transformers without lobes: with fewer heads in its own configuration, or at "
            "full size with zeros.",
            show_default=False,
        ),
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Tokens of each text on which the speed is measured; 128 where it is not given.",
            show_default=False,
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Replace what `lobes prune` wrote there before.")
    ] = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Remove heads for good: a smaller model whose outputs equal ablation.

    Example: lobes prune bert-base-uncased --drop "0:1,5 3:2" --to smaller

    Example: lobes prune --from-run runs/demo --fraction 0.3 --task sentiment --to smaller
    """
    from lobes.study.choice import Choice
    from lobes.study.prune import prune_model
    from lobes.terminal import Progress, say, show_pruning

    kind: Any = export and export.value
    choice = Choice(drop=drop, run=from_run, fraction=fraction, task=task)
    with Progress(quiet=quiet) as progress:
        record = prune_model(
            choice,
            to,
            model=model,
            export=kind,
            length=length,
            fresh=fresh,
            trust_remote_code=trust_remote_code,
            progress=progress,
        )
    if as_json:
        print(json.dumps({**record, "folder": str(to)}, ensure_ascii=False, indent=1))
    else:
        show_pruning(record)
    say(f"Model: {to}")


def _study(
    path: Path, settings: list[str] | None, output: Path | None
) -> "lobes.study.config.StudyConfig":
    from lobes.study.config import load_study

    study = load_study(path, settings or ())
    return study if output is None else study.model_copy(update={"output": str(output)})


def _beside(
    study: "lobes.study.config.StudyConfig", output: Path | None, command: str
) -> "lobes.study.config.StudyConfig":
    """The study with a folder of its own for the command, beside the run's."""
    if output is not None:
        return study
    return study.model_copy(update={"output": f"{study.output.rstrip('/')}-{command}"})


def _run_stages(
    study: "lobes.study.config.StudyConfig",
    stages: tuple[str, ...],
    fresh: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    from lobes.study.run import run_study
    from lobes.terminal import Progress

    with Progress(quiet=quiet) as progress:
        results = run_study(study, stages=stages, fresh=fresh, progress=progress)
    if "iap" in stages:
        _show(results, Path(study.output, "report.html"), as_json)
    else:
        _show_training(results, Path(study.output, "model"), as_json)


def _show_training(training: dict[str, Any], model: Path, as_json: bool) -> None:
    """What a training recorded on stdout, and on stderr where its model lies."""
    from lobes.terminal import say, show_training

    if as_json:
        print(json.dumps(training, ensure_ascii=False, indent=1))
    else:
        show_training(training)
    say(f"Model: {model}")


def _show(results: dict[str, Any], page: Path, as_json: bool) -> None:
    """Results on stdout, and on stderr where their page lies."""
    from lobes.terminal import say, show_results

    if as_json:
        print(json.dumps(results, ensure_ascii=False, indent=1))
    else:
        show_results(results)
    say(f"Report: {page}")
