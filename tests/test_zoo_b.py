"""What `lobes` can do with every type of model that transformers has: the other eleven twelfths.

Slow, that the suite stays short: `make test-slow` runs it, and so does every check of a change.
"""

import pytest
import transformers

import zoo
from zoo_checks import differences, one_thread  # noqa: F401 - a fixture

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not transformers.__version__.startswith(zoo.VERSION),
        reason=f"what does not work is listed for transformers {zoo.VERSION}",
    ),
    # torch's, about how it computes what a type asks for
    pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning"),
]


@pytest.mark.parametrize("kind", [kind for n, kind in enumerate(zoo.TYPES) if n % 12])
def test_what_lobes_can_do_with_a_type(kind: str):
    if kind.startswith("timm."):
        pytest.importorskip("timm")
    assert differences(kind) == []
