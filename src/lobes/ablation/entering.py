"""Context managers that say so where they were called without `with`, and so did nothing."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ContextDecorator, contextmanager
from functools import cache, partial, wraps
from typing import Any, ParamSpec, TypeVar

logger = logging.getLogger("lobes")

P = ParamSpec("P")
T = TypeVar("T")


def warns_unentered(
    function: Callable[P, Iterator[T]],
) -> Callable[P, AbstractContextManager[T]]:
    """Make a context manager of a generator function, as `contextlib.contextmanager` does.

    One that goes away without having been entered logs a warning, once for each function.
    """
    make: Callable[..., AbstractContextManager[Any]] = contextmanager(function)

    @wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        return _Block(function.__name__, partial(make, *args, **kwargs))

    return called


class _Block(ContextDecorator):
    """What such a function returns: a block, made anew each time that it is entered."""

    def __init__(self, name: str, make: Callable[[], AbstractContextManager[Any]]) -> None:
        self._name, self._make = name, make
        self._made, self._entered = [make()], list[AbstractContextManager[Any]]()
        self._is_unused = True  # last: arguments that do not fit have raised by now

    def _recreate_cm(self) -> Any:
        """Return the block of one call, where this one decorates a function."""
        self._is_unused = False
        return _Block(self._name, self._make)

    def __enter__(self) -> Any:
        self._is_unused = False
        block = self._made.pop() if self._made else self._make()
        entered = block.__enter__()
        self._entered.append(block)
        return entered

    def __exit__(self, *error: Any) -> bool | None:
        return self._entered.pop().__exit__(*error)

    def __repr__(self) -> str:
        return f"<{_advice(self._name)}>"

    def __del__(self) -> None:
        if getattr(self, "_is_unused", False) and not sys.is_finalizing():
            _warn(self._name)


def _advice(name: str) -> str:
    return (
        f"lobes.{name}(…) does nothing by itself: write `with lobes.{name}(…):`, and run the "
        f"model inside the block"
    )


@cache
def _warn(name: str) -> None:
    logger.warning("%s.", _advice(name))
