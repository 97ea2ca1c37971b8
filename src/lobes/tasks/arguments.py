"""Arguments that a new user may mistype: each mistake becomes one sentence with the remedy."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

from lobes.errors import ConfigError, DataError
from lobes.tasks.columns import listed, suggest

P = ParamSpec("P")
R = TypeVar("R")


def known_arguments(
    name: str, settings: type | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function, called `name` in messages, raise ConfigError for arguments it does not have.

    The message names the nearest of its arguments, where Python has a TypeError. Those of the
    class `settings` are arguments, too.
    """

    def decorate(call: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(call)
        known = [
            parameter.name
            for each in (call, *((settings,) if settings else ()))
            for parameter in inspect.signature(each).parameters.values()
            if parameter.name != "self" and parameter.kind != parameter.VAR_KEYWORD
        ]

        @functools.wraps(call)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            for given in kwargs:
                if given not in known:
                    raise ConfigError(
                        f"{name} has no argument {given!r}."
                        + (suggest(given, known) or f" It has {', '.join(known)}.")
                    )
            try:
                signature.bind(*args, **kwargs)
            except TypeError as error:
                raise ConfigError(
                    f"{name} cannot be called like this ({error}): expected the name first, and "
                    f"all else by keyword, as in train=…, text=…."
                ) from error
            return call(*args, **kwargs)

        return checked

    return decorate


def names_of(argument: str, given: Any) -> tuple[str, ...]:
    """The names of one or several columns; of texts there may be none."""
    names = (given,) if isinstance(given, str) else given
    if given is None and argument == "text":
        names = ()
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise DataError(
            f"has {argument}={given!r}: expected the name of a column, or a list of names."
        )
    return tuple(names)


def label_names(given: Any) -> tuple[str, ...] | None:
    """The class names in order; DataError for what has no order, or is no list of names."""
    if given is None:
        return None
    if isinstance(given, Mapping):
        keys, values = list(given), list(given.values())
        places = range(len(given))
        if set(keys) == set(places):  # id2label
            names = [given[place] for place in places]
        elif set(values) == set(places):  # label2id
            names = sorted(keys, key=lambda key: given[key])
        else:
            names = ["negative", "positive"]
        raise DataError(
            f"has a dictionary as labels: expected the names in the order of the class indices, "
            f"such as labels=({listed(names)})."
        )
    is_set = isinstance(given, set | frozenset)
    if is_set or isinstance(given, str | bytes) or not isinstance(given, Iterable):
        kind = "a set, which has no order," if is_set else repr(given)
        raise DataError(
            f"has {kind} as labels: expected a list of names in the order of the class indices, "
            f'such as labels=("negative", "positive").'
        )
    return tuple(given)
