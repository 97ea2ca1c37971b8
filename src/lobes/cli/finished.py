"""Commands on what runs left in their folders: export, predict and report."""

from pathlib import Path
from typing import Annotated

import typer

from lobes.cli.app import Output, command
from lobes.cli.options import Open, To, TrustRemoteCode


@command()
def export(
    out: Output,
    run: Annotated[Path, typer.Argument(help="The folder of a run, or a saved model.")],
    task: Annotated[str, typer.Option(help="Which of the model's tasks to export.")],
    to: To,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Write one task of a model for transformers alone.

    A classification model that transformers loads without lobes.

    Example: lobes export runs/demo --task sentiment --to sentiment-model
    """
    from lobes.experiments.open_model import export_run

    folder = export_run(run, task, to, trust_remote_code=trust_remote_code)
    out.show({"task": task, "folder": str(folder)}, saved=f"Model: {folder}")


@command()
def predict(
    out: Output,
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    to: To,
    split: Annotated[
        str,
        typer.Option(help="The split to predict; for MNLI, `test` means all of its test splits."),
    ] = "test",
    task: Annotated[list[str] | None, typer.Option(help="Only this task; repeatable.")] = None,
    study: Annotated[
        Path | None,
        typer.Option(help="The study file, if it names other data than when the run began."),
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Predict a split with a trained model.

    Labels with their probabilities, or GLUE's submission files.

    Example: lobes predict runs/glue --split test --to predictions
    """
    from lobes.cli.tables import show_predictions
    from lobes.config.study import load_study
    from lobes.experiments.predict import predict_run

    data = load_study(study) if study else None
    with out.progress() as progress:
        record = predict_run(
            run,
            to,
            split=split,
            tasks=task,
            study=data,
            trust_remote_code=trust_remote_code,
            progress=progress,
        )
    out.show({**record, "folder": str(to)}, show_predictions, saved=f"Predictions: {to}")


@command()
def report(
    out: Output,
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="The folder of a run, comparison or transfer study; or several finished runs of "
            "the same tasks, to be pooled.",
        ),
    ],
    html: Annotated[
        Path | None, typer.Option(help="Where to write the page, instead of into the run's folder.")
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write every figure (SVG, PNG, PDF) and every table (CSV, LaTeX) there, too.",
        ),
    ] = None,
    png: Annotated[bool, typer.Option(help="With --figures: PNG beside SVG.")] = True,
    pdf: Annotated[
        bool, typer.Option("--pdf", help="With --figures: PDF beside SVG, for LaTeX.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            help="With several runs: the folder for their pooled results; runs/together by default."
        ),
    ] = None,
    open_page: Open = False,
) -> None:
    """Report on a run, or on several runs together.

    Writes the page again and prints its tables; of a run that is not finished says how far it is.

    Example: lobes report runs/demo --open

    Example: lobes report runs/seed0 runs/seed1 runs/seed2 --output runs/seeds
    """
    from lobes.cli.tables import show_results, show_unfinished
    from lobes.cli.terminal import say
    from lobes.errors import ConfigError
    from lobes.experiments.reports import report_again, report_runs, write_exhibits
    from lobes.experiments.unfinished import unfinished_run

    source = runs[0]
    if len(runs) == 1 and output is not None:
        raise ConfigError(
            f"--output is the folder of what several runs say together, and {source} is one; give "
            f"the place of its page with --html, or that of its figures and tables with --figures."
        )
    if figures is None and (pdf or not png):
        raise ConfigError(
            f"{'--pdf' if pdf else '--no-png'} is about the figures that --figures writes; name a "
            f"folder for them with --figures DIR."
        )
    record = unfinished_run(source) if len(runs) == 1 else None
    if record is not None:
        out.show(record, show_unfinished, saved=record["note"])
        return
    if len(runs) == 1:
        results, page = report_again(source, html)
    else:
        source = output or Path("runs/together")
        results, page = report_runs(runs, source, html)
    out.show(results, show_results, saved=f"Report: {page}")
    if figures is not None:
        files = write_exhibits(source, figures, png=png, pdf=pdf)
        say(f"Figures and tables: {figures} ({len(files)} files)")
    if open_page:
        out.open(page)
