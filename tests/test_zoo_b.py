"""What `lobes` can do with every type of model that transformers has: half of the other types.

Slow, that the suite stays short: `make test-slow` runs it, with the other half in test_zoo_c.py at
the same time. LOBES_TYPES=1/6 takes a sixth of the types, always the same ones.
"""

import os
import zlib

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


SHARE, _, PARTS = os.environ.get("LOBES_TYPES", "1/1").partition("/")


def types(half: int) -> list[str]:
    """The types of one half, 0 or 1, that are not in test_zoo_a.py."""
    others = [kind for n, kind in enumerate(zoo.TYPES) if n % 24]
    wanted = [kind for kind in others if zlib.crc32(kind.encode()) % int(PARTS) < int(SHARE)]
    return wanted[half::2]


@pytest.mark.parametrize("kind", types(0))
def test_what_lobes_can_do_with_a_type(kind: str):
    check(kind)


def check(kind: str) -> None:
    if kind.startswith("timm."):
        pytest.importorskip("timm")
    assert differences(kind) == []
