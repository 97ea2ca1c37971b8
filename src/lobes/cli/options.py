"""The arguments and options that several commands have, each declared once."""

import enum
from pathlib import Path
from typing import Annotated

import typer

# Of every command (`app.command` adds them)
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Debug = Annotated[
    bool,
    typer.Option(
        "--debug", envvar="LOBES_DEBUG", help="Show tracebacks and the notices of libraries."
    ),
]

# Of commands on a study
Study = Annotated[Path, typer.Argument(help="The study, a TOML file.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the study; repeatable."),
]
Folder = Annotated[
    Path | None, typer.Option("--output", help="The run's folder, instead of the study's `output`.")
]
FolderBeside = Annotated[
    Path | None,
    typer.Option(
        "--output",
        help="The folder, instead of the study's `output` with the command's name added.",
    ),
]
Part = Annotated[
    str | None, typer.Option(metavar="NAME", help="Of a sweep's file: only this of its [[parts]].")
]
Controls = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="How often to exchange the tasks' heads, instead of the study's `iap.controls`.",
    ),
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Start again: delete what an earlier run left there.")
]

# Of commands whose work can be spread over processes
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=4096,
        help="Compute in so many processes at once, each with its share of the cores, or a GPU of "
        "its own.",
    ),
]


class Where(enum.StrEnum):
    """Where workers are."""

    local = "local"
    ray = "ray"
    slurm = "slurm"


On = Annotated[
    Where, typer.Option(help="Where workers run: this machine, a Ray cluster, jobs of Slurm.")
]
DevicesPerWorker = Annotated[
    int | None, typer.Option(min=1, help="How many GPUs each worker gets; by default one.")
]
WorkerOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--worker-option",
        metavar="KEY=VALUE",
        help="Of Ray `address`, of Slurm an option of sbatch, such as partition=gpu; repeatable.",
    ),
]

# Of commands that write a page
Open = Annotated[bool, typer.Option("--open", help="Open the page in a browser.")]

# Of commands that write a new folder from a model
To = Annotated[Path, typer.Option(help="The folder to write.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code that the model brings.")
]
