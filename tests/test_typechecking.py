"""The checks of types and shapes that run under every test find what they are there for."""

import jaxtyping
import numpy as np
import pytest

from lobes.dissociation.over_runs import change_over_runs
from lobes.progress import duration
from typechecking import Tests


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
