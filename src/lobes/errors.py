"""Every error that `lobes` raises on purpose.

    LobesError
    ├── HeadError      a head that does not exist, or a set of heads that cannot be read
    ├── DataError      a task's data: a missing column, an unknown label, an empty file …
    ├── ConfigError    a setting or a study file that says something impossible
    ├── ModelError     a model that cannot be loaded, or that `lobes` cannot handle
    └── RunError       a run's folder: in use, damaged, of another study; a full disk

Each message says what was given, what was expected, and what to do. An error that was made from
another one keeps it as its cause. The command line prints the message and exits with code 1;
`--debug` adds the traceback, causes included.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class LobesError(Exception):
    """The base of every error that `lobes` raises on purpose."""


class HeadError(LobesError, ValueError):
    """A head that does not exist in a model, or a set of heads that cannot be read."""


class DataError(LobesError, ValueError):
    """A task's data cannot be used as it is."""


class ConfigError(LobesError, ValueError):
    """A setting, an argument or a study file that says something impossible."""


class ModelError(LobesError, ValueError):
    """A model that cannot be loaded, or whose attention `lobes` cannot handle."""


class RunError(LobesError, RuntimeError):
    """A run's folder is in use, damaged, or belongs to another study."""


class InUseError(RunError):
    """A folder that another run uses now."""


@contextmanager
def at(place: str) -> Iterator[None]:
    """Put `place` before the message of a DataError or ConfigError that is raised in the block.

    A message that begins in lower case continues the place: "Task 'mood': train" and "row 3 has
    no label" make one sentence. Any other is a sentence of its own and follows a colon. Rows that
    are read lazily raise their errors where they are iterated, so iterate them in the block.
    """
    try:
        yield
    except (DataError, ConfigError) as error:
        # changed in place: a new error would hide the traceback and the cause of this one
        message = str(error)
        error.args = (f"{place}{' ' if message[:1].islower() else ': '}{message}",)
        raise


def first_line(error: BaseException) -> str:
    """What a library's error says, in half a sentence: without its number and its end of line."""
    text = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")
