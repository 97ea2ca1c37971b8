"""The tests see wrong types and shapes: in functions, methods, dataclasses and results."""

from types import ModuleType

import jaxtyping
import numpy as np
import pytest

import lobes.heads
from lobes import metric_formulas
from lobes.dissociation.over_runs import change_over_runs
from lobes.heads import HeadLayout, HeadSet
from lobes.progress import duration
from lobes.tasks.task import TaskSpec
from typechecking import Tests, checked

LABELS = np.array([0, 1, 1])


def test_shapes_must_agree_between_arguments():
    predictions, weights = np.zeros((2, 3), dtype=int), np.ones((5, 3), dtype=int)
    assert metric_formulas.accuracy(LABELS, predictions, weights).shape == (2, 5)
    with pytest.raises(jaxtyping.TypeCheckError, match="weights"):
        metric_formulas.accuracy(LABELS, predictions, np.ones((5, 4), dtype=int))


def test_a_result_of_another_shape_is_seen(monkeypatch):
    monkeypatch.setattr(metric_formulas, "_ratio", lambda top, below: np.zeros((1, 1, 1)))
    with pytest.raises(jaxtyping.TypeCheckError, match="return"):
        metric_formulas.f1(LABELS, np.zeros((2, 3), dtype=int), np.ones((5, 3), dtype=int))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: HeadLayout(sites="none"),
        lambda: HeadSet.parse(3),
        lambda: TaskSpec(name=3, text=("a",), label="b", labels=None, metric="f1"),
        lambda: next(metric_formulas.blocks("two", 3)),
    ],
    ids=["dataclass", "method", "dataclass with defaults", "generator"],
)
def test_wrong_types_are_seen(wrong):
    with pytest.raises(jaxtyping.TypeCheckError):
        wrong()


def test_every_function_of_a_module_is_checked():
    own = [each for each in vars(lobes.heads).values() if _is_of(lobes.heads, each)]
    assert own
    assert all(hasattr(each, "__wrapped__") for each in own)


def _is_of(module: ModuleType, each: object) -> bool:
    return callable(each) and not isinstance(each, type) and each.__module__ == module.__name__


def test_a_hint_that_only_type_checkers_import_is_any():
    def one(value: "NotHere", number: int) -> None: ...

    checked(one)("anything", 1)
    with pytest.raises(jaxtyping.TypeCheckError):
        checked(one)("anything", "1")


@pytest.mark.parametrize(
    ("function", "wrong", "right"),
    [
        (duration, ("an hour",), (3600.0,)),
        (change_over_runs, (np.ones(3), np.ones(2)), (np.ones(3), np.ones(3))),  # other shapes
    ],
)
def test_the_first_calls_of_each_test_are_checked(function, wrong, right):
    for _ in range(Tests.CALLS - 1):
        function(*right)
    with pytest.raises(jaxtyping.TypeCheckError):
        function(*wrong)
    function(*right)  # no longer
    Tests.number += 1  # as each test begins
    with pytest.raises(jaxtyping.TypeCheckError):
        function(*wrong)
