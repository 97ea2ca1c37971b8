"""What `lobes` can do with every type of model that transformers has: the rest (test_zoo_b.py)."""

import pytest

from test_zoo_b import check, pytestmark, types  # noqa: F401 - marks
from zoo_checks import one_thread  # noqa: F401 - a fixture


@pytest.mark.parametrize("kind", types(1))
def test_what_lobes_can_do_with_a_type(kind: str):
    check(kind)
