"""Values that show themselves: in a notebook, as a data frame, as a figure.

How a value looks is the report's business, which lies above every value in the import layers. So
`lobes.report.showing` is looked up by its name when a value is first shown, as `lobes/__init__.py`
looks up public names: a value that is not shown never imports it.
"""

from importlib import import_module
from typing import Any


class Shown:
    """What a value of the library offers to whoever looks at it."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        """Return the value as a notebook shows it: the report's own tables and maps."""
        return str(showing().html_of(self))

    def to_frame(self) -> Any:
        """Return the value as a pandas `DataFrame`, one row for each thing that was measured."""
        return showing().frame_of(self)

    def plot(self, kind: str | None = None, *, ax: Any = None) -> Any:
        """Draw the value with matplotlib, for a paper, and return the `Figure`.

        `kind` chooses among the figures of a value (docs/export.md); `ax` are the axes to draw
        into, where the figure has only one. Raises `ConfigError` for a kind that there is not, and
        where matplotlib is not installed (`pip install "lobes[plot]"`).
        """
        return showing().plot(self, kind, ax)


def showing() -> Any:
    """Return the module that knows how values look."""
    return import_module("lobes.report.showing")
