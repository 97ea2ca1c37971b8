"""What all commands share: the application, common options, and what becomes of failures."""

import errno
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
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # closed by who started us
            setattr(sys, stream, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:  # before a command could say so itself
        sys.exit(130)
    except OSError as error:  # of what no command wrote: --help, --version
        if not _is_of_output(error):
            raise
        sys.exit(_without_output(error))


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
            except LobesError as error:
                terminal.tell(error)
                if debug:
                    traceback.print_exc()
            except Exception as error:
                if isinstance(error, OSError) and _is_of_output(error):
                    raise typer.Exit(_without_output(error)) from error
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


def _is_of_output(error: OSError) -> bool:
    """Whether an error is of standard output: one of a file has its name, or was told already."""
    failed = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
    return error.errno in failed and error.filename is None


def _without_output(error: OSError) -> int:
    """Go on without standard output, and return the exit code, 1 as of any Python program.

    A reader that has gone, such as `head`, is no failure worth a word; a full disk is.
    """
    from lobes import terminal

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still to be written goes nowhere
    if error.errno != errno.EPIPE:
        terminal.say(f"Error: cannot write to the standard output: {error.strerror}.")
    return 1


@app.callback(invoke_without_command=True)
def _lobes(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True)
    ] = False,
) -> None:
    if version:
        typer.echo(f"lobes {__version__}")
        raise typer.Exit
