"""The command-line application: common options, and how a failure ends a command."""

import errno
import functools
import inspect
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from lobes import __version__
from lobes.cli.options import Debug, Json, Quiet
from lobes.errors import LobesError
from lobes.limits import check_path

if TYPE_CHECKING:
    from lobes.cli.terminal import ProgressDisplay

# Whether --debug stands before the command's name.
_DEBUG = ContextVar("debug", default=False)
# The options of every command, which `command` adds to its own.
_COMMON = [
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=option)
    for name, option in (("as_json", Json), ("quiet", Quiet), ("debug", Debug))
]

_FIRST_STEPS = """\
lobes finds, measures and trains the specialized attention heads of a transformer.

First steps:
  lobes demo               train and measure a packaged model: about five minutes
  lobes heads MODEL        where the heads of a model are, for example gpt2
  lobes init mood.csv      write a study for your own data
  lobes run study.toml     train, measure, report
  lobes doctor             what is installed here, and what is missing

`lobes --help` lists all commands; `lobes COMMAND --help` has an example of each.
"""


class _Commands(TyperGroup):
    """The commands; without one, what to do first."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            typer.echo(_FIRST_STEPS, nl=False)
            ctx.exit()
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Commands,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find, measure and train the specialized attention heads of a transformer.",
)


def main() -> None:
    """Run the command `lobes`, as its entry point."""
    # Before torch starts its threads: one that waits for another sleeps instead of spinning. On a
    # quiet machine that costs a few percent at most; beside another busy process, spinning
    # threads keep the cores from those they wait for, and all takes about ten times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # closed by who started us
            setattr(sys, stream, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    _end_well_when_terminated()
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt as error:  # before a command could say so itself
        sys.exit(_code_of(error))
    except OSError as error:  # of what no command wrote: --help, --version
        if not _is_of_output(error):
            raise
        sys.exit(_without_output(error))


class _Terminated(KeyboardInterrupt):
    """SIGTERM, by which `kill`, containers and schedulers end a process: it ends as by Ctrl-C."""


def _end_well_when_terminated() -> None:
    ours = os.getpid()

    def terminated(number: int, frame: FrameType | None) -> None:
        if os.getpid() == ours:
            raise _Terminated
        signal.signal(number, signal.SIG_DFL)  # a fork of this process ends at once
        os.kill(os.getpid(), number)

    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, terminated)


def _code_of(error: KeyboardInterrupt) -> int:
    return 128 + (signal.SIGTERM if isinstance(error, _Terminated) else signal.SIGINT)


@dataclass(frozen=True)
class Output:
    """What a command tells: its record on stdout, progress and notices on stderr.

    Every command takes one as its first argument, made from the options --json and --quiet.
    """

    as_json: bool
    quiet: bool

    def progress(self, run: Path | None = None) -> "ProgressDisplay":
        """Return the progress of a call, to be shown on stderr inside a `with` block.

        It is also kept in the log of `run`, the folder of the run that the call makes.
        """
        from lobes.cli.terminal import ProgressDisplay

        return ProgressDisplay(quiet=self.quiet, run=run)

    def show(
        self, record: Any, table: Callable[[Any], None] | None = None, *, saved: str = ""
    ) -> None:
        """Print a record as JSON or as its table, and then on stderr what was saved where."""
        from lobes.cli.terminal import say

        if self.as_json:
            values = record.to_dict() if hasattr(record, "to_dict") else record
            print(json.dumps(values, ensure_ascii=False, indent=1))
        elif table is not None:
            table(record)
        if saved:
            say(saved)

    def open(self, page: Path) -> None:
        """Open a page in the user's browser."""
        import webbrowser

        webbrowser.open(page.resolve().as_uri())


def command(*, resumable: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command with the common options; its failures become one line and an exit code."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def guarded(*, as_json: bool, quiet: bool, debug: bool, **arguments: Any) -> None:
            def call() -> None:
                _check_paths(arguments)
                function(Output(as_json, quiet), **arguments)

            if code := _guarded(call, resumable=resumable, debug=debug or _DEBUG.get()):
                raise typer.Exit(code)

        _, *own = inspect.signature(function, eval_str=True).parameters.values()
        # typer reads a command's options from its signature
        guarded.__signature__ = inspect.Signature([*own, *_COMMON])  # type: ignore[attr-defined]
        app.command(name=function.__name__.replace("_", "-"))(guarded)
        return guarded

    return register


def _guarded(call: Callable[[], None], *, resumable: bool, debug: bool) -> int:
    """Run a command, and return its exit code; with `debug` a failure shows its traceback."""
    from lobes.cli import terminal

    terminal.set_up(debug=debug)
    try:
        call()
        sys.stdout.flush()
        return 0
    except KeyboardInterrupt as error:
        more = " The same command continues where it stopped." if resumable else ""
        terminal.say(f"{'Terminated' if isinstance(error, _Terminated) else 'Interrupted'}.{more}")
        return _code_of(error)
    except Exception as error:
        if isinstance(error, OSError) and _is_of_output(error):
            return _without_output(error)
        told = str(error)
        if not isinstance(error, LobesError):
            told = (
                f"lobes failed in a way it should not ({type(error).__name__}: {error}); "
                f"--debug shows where."
            )
        terminal.say(f"Error: {told}")
        if debug:
            traceback.print_exc()
        return 1


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
    from lobes.cli import terminal

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still to be written goes nowhere
    if error.errno != errno.EPIPE:
        terminal.say(f"Error: cannot write to the standard output: {error.strerror}.")
    return 1


def _show_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"lobes {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _lobes(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=_show_version),
    ] = False,
    debug: Debug = False,
) -> None:
    _DEBUG.set(debug)
