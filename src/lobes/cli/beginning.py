"""Commands before the first study: init, doctor."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from lobes.cli.app import Output, command


@command()
def init(
    out: Output,
    data: Annotated[
        list[str],
        typer.Argument(metavar="DATA...", help="Files of training data, or names of known tasks."),
    ],
    to: Annotated[Path, typer.Option(help="The study to write; it must not exist yet.")] = Path(
        "study.toml"
    ),
    model: Annotated[
        str | None,
        typer.Option(help="A model of the hub or a folder; by default MiniLM."),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(help="The column of texts; twice for pairs. By default the data decide."),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(help="A column of labels, a task each; by default the data decide."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a key of a task; repeatable."),
    ] = None,
) -> None:
    """Write a study for your data.

    Columns, classes and metric are read off the data; files of other splits beside them are found.

    Example: lobes init mood.csv answered.jsonl --to study.toml
    """
    from lobes.cli.tables import show_new_study
    from lobes.experiments.new_study import MODEL, new_study

    path = shlex.quote(str(to))
    record = new_study(
        data,
        to,
        model=MODEL if model is None else model,
        text=text,
        label=label,
        settings=settings or (),
    )
    out.show(
        record, show_new_study, saved=f"Study: {to}. Next: lobes plan {path}, lobes run {path}"
    )


@command()
def doctor(out: Output) -> None:
    """Say what is installed here and what is missing.

    Versions, devices, precision, speed, folders and extras.

    Example: lobes doctor
    """
    from lobes.cli.tables import show_examined
    from lobes.experiments.doctor import examined

    out.show(examined(), show_examined)
