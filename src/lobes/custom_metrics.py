"""Metrics of the user's own: a function, with its range and its chance level.

Statistics need more than a score: D-scores divide by what a task has to lose, and a score is shown
beside chance. So a metric is declared once, and from then on goes by its name, as lobes' own do. A
package declares one under the entry point group `lobes.metrics`; `get_metric` looks there.

The cost: lobes' own metrics score many resamples at once, a function one after the other.
"""

import inspect
import json
import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from numbers import Real
from types import CodeType
from typing import Any, Literal, get_args

import numpy as np

from lobes.errors import ConfigError, DataError, first_line
from lobes.limits import LONGEST_NAME, Choice, check_choice, short
from lobes.metrics import DECLARED, MEANS, METRICS, OF_ONES_OWN, Metric

Judged = Literal["classes", "labels", "numbers"]
ScoreFunction = Callable[[Any, Any], Any]

# So many resamples show before a run whether a function can score them.
_TRIED = 20


def custom_metric(
    name: str,
    function: ScoreFunction,
    *,
    chance: float | Callable[[Any], Any],
    low: float = 0.0,
    high: float = 1.0,
    judges: Judged = "classes",
    version: str = "",
) -> Metric:
    """Declare a metric of one's own, and return it; from then on `Task(metric=name)` knows it.

    `function(labels, predictions)` returns the score of one array of predictions, a number from
    `low` to `high`, where more is better (negate an error), or NaN where it is undefined. It must
    not depend on the order of the examples, and is called with resamples of them, often some
    thousand times. `judges` says of what: "classes" (class indices [examples], those of a
    task's `labels` in their order), "labels" (several for an example: 0 and 1 [examples, classes])
    or "numbers" (a regression, [examples]). `low` and `high` lie between −1 and 1: divide a score
    on another scale by its largest value.

    `chance` is what is scored without looking at the input: a number, or a function of the labels.

    A name means the metric declared last. A run is continued with the same metric only: its range,
    its function's source with the plain values that it holds (those of a `functools.partial`, of an
    object that is called, of variables around the function), and `version`, which stands for all
    else that the function depends on.

    Raises `ConfigError` for a name that is taken by one of lobes' own metrics, and for a range, a
    chance level or a version that cannot be.
    """
    if not isinstance(name, str) or not re.fullmatch(rf"[A-Za-z0-9_-]{{1,{LONGEST_NAME}}}", name):
        raise ConfigError(
            f"{short(name)} cannot be a metric's name: use up to {LONGEST_NAME} letters, digits, "
            f"'-' and '_'."
        )
    if name in METRICS or name in MEANS:
        raise ConfigError(f"{name!r} is one of lobes' own metrics: choose another name.")
    where = f"The metric {name!r}"
    if not callable(function):
        raise ConfigError(
            f"{where} is a function of labels and predictions, not {short(function)}."
        )
    check_choice("judges", judges, Choice(get_args(Judged)))
    ends = (low, high)
    if not (all(map(_is_number, ends)) and -1 <= low < high <= 1):
        raise ConfigError(
            f"{where} has low = {short(low)} and high = {short(high)}; expected -1 ≤ low < high ≤ "
            f"1: divide a score on another scale by its largest value."
        )
    if not callable(chance) and not (_is_number(chance) and low <= chance <= high):
        raise ConfigError(
            f"{where} has chance = {short(chance)}; expected a number from {low:g} to {high:g}, or "
            f"a function of the labels."
        )
    if not isinstance(version, str):
        raise ConfigError(f'{where} has version = {short(version)}; expected a text, such as "2".')
    bounds = (float(low), float(high))
    about = [name, *bounds, judges, version, _held(function)]
    about.append(_held(chance) if callable(chance) else float(chance))
    found = _metric(
        name,
        bounds,
        judges,
        partial(_resampled, name, bounds, function),
        partial(_chance, name, bounds, chance),
        json.dumps(about),
    )
    DECLARED[name] = found
    return found


def try_out(metric: Metric, labels: np.ndarray) -> None:
    """Call a metric of the user's own as a run will, before the run; those of lobes need not be.

    The labels in another order and one class for all stand for predictions, on some resamples.
    Raises `DataError` where its function fails or leaves its range.
    """
    if not metric.fingerprint:
        return
    generator, n = np.random.default_rng(0), len(labels)
    weights = generator.multinomial(n, np.full(n, 1 / n), size=_TRIED)
    rows = np.stack([generator.permutation(labels), np.repeat(labels[:1], n, axis=0)])
    metric.weighted(labels, rows, np.vstack([np.ones((1, n)), weights]))
    metric.chance(labels)


def declared_elsewhere(name: str, bounds: tuple[float, float]) -> Metric:
    """Return what is known of a metric by its name and range alone: all but its scores."""
    if not -1 <= bounds[0] < bounds[1] <= 1:
        raise ConfigError(f"{name!r} has no range of a metric: {short(bounds)}.")

    def unknown(*_: Any) -> Any:
        raise ConfigError(f"The function of the metric {name!r} is not known here. {OF_ONES_OWN}")

    return _metric(name, bounds, "classes", unknown, unknown, name)


def _metric(
    name: str,
    bounds: tuple[float, float],
    judges: Judged,
    formula: Callable[..., Any],
    chance_level: Callable[..., Any],
    fingerprint: str,
) -> Metric:
    return Metric(
        name,
        *bounds,
        formula,
        chance_level,
        for_regression=judges == "numbers",
        for_multi_label=judges == "labels",
        fingerprint=fingerprint,
    )


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _held(value: Any, around: tuple[int, ...] = ()) -> Any:
    """What tells one function from another, as JSON: its text, and the plain values it holds.

    Of other values than plain ones and functions, the type; `around` are the ids of what holds it.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if id(value) in around:
        return "..."
    inner = partial(_held, around=(*around, id(value)))
    if isinstance(value, np.ndarray | np.generic):
        return [str(value.dtype), inner(value.tolist())]
    if isinstance(value, list | tuple):
        return [inner(each) for each in value]
    if isinstance(value, Mapping):
        return [[inner(key), inner(each)] for key, each in value.items()]
    if isinstance(value, partial):
        return [inner(value.func), inner(value.args), inner(value.keywords)]
    if inspect.ismethod(value):
        return [inner(value.__func__), inner(value.__self__)]
    function = inspect.unwrap(value) if callable(value) else value
    if inspect.isfunction(function):
        values = [_around(function), function.__defaults__, function.__kwdefaults__]
        return [_source(function), *(inner(each) for each in values if each)]
    if callable(function) and not inspect.isroutine(function) and not isinstance(function, type):
        return [_source(type(function)), inner(getattr(function, "__dict__", {}))]
    return _source(function if hasattr(function, "__qualname__") else type(function))


def _around(function: Any) -> dict[str, Any]:
    """The values of the variables around a function that it uses, but for those not yet set."""
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):
            found[name] = cell.cell_contents
    return found


def _source(kind: Any) -> Any:
    """The text of a function or a class; where it is not known its code, or else its name."""
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        code = getattr(kind, "__code__", None)
        return f"{kind.__module__}.{kind.__qualname__}" if code is None else _code(code)


def _code(code: CodeType) -> list[Any]:
    constants = [_code(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return [code.co_code.hex(), *code.co_names, constants]


def _resampled(
    name: str,
    bounds: tuple[float, float],
    function: ScoreFunction,
    labels: np.ndarray,
    predictions: np.ndarray,
    weights: np.ndarray,
) -> np.ndarray:
    """The scores of every row of predictions on every resample, each written out."""
    values = np.full((len(predictions), len(weights)), np.nan)
    for column, counts in enumerate(weights):
        places = np.repeat(np.arange(len(counts)), counts.astype(np.int64))
        if len(places):
            for row, each in enumerate(predictions):
                values[row, column] = _checked(
                    name, bounds, partial(function, labels[places], each[places])
                )
    return values


def _chance(
    name: str,
    bounds: tuple[float, float],
    chance: float | Callable[[Any], Any],
    labels: np.ndarray,
) -> float:
    if not callable(chance):
        return float(chance)
    return _checked(f"{name} (chance)", bounds, partial(chance, labels.copy()))


def _checked(name: str, bounds: tuple[float, float], call: Callable[[], Any]) -> float:
    """What a user's function returns; `DataError` where that is no number in the range."""
    try:
        found = call()
        value = float(found)
    except Exception as error:  # whatever a user's function raises
        raise DataError(
            f"The function of the metric {name!r} failed: {type(error).__name__}: "
            f"{first_line(error)}."
        ) from error
    low, high = bounds
    if math.isnan(value):
        return value
    if not low - 1e-9 <= value <= high + 1e-9:
        raise DataError(
            f"The function of the metric {name!r} returned {value:g}, and its range is declared "
            f"as {low:g} to {high:g}: declare another low or high."
        )
    return min(max(value, low), high)
