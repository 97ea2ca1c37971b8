"""What all commands share: the application, common options, and what becomes of failures."""

import functools
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lobes import __version__
from lobes.errors import LobesError
from lobes.limits import check_path

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find, measure and train the specialised attention heads of a transformer.",
)


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


def command(*, resumable: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command: its failures become one line and an exit code."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def guarded(*args: Any, debug: bool, **kwargs: Any) -> None:
            from lobes import terminal

            terminal.set_up(debug=debug)
            code = 1
            try:
                _check_paths(kwargs)
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

        app.command(name=function.__name__.replace("_", "-"))(guarded)
        return guarded

    return register


def _check_paths(arguments: Mapping[str, Any]) -> None:
    """Refuse paths that no file system takes before anything is done."""
    for name, value in arguments.items():
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, Path):
                check_path(f"The path {name}", path, written=name in ("to", "output"))


@app.callback(invoke_without_command=True)
def _lobes(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True)
    ] = False,
) -> None:
    if version:
        print(f"lobes {__version__}")
        raise typer.Exit
