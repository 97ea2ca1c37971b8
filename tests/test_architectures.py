"""docs/architectures.md speaks of the types that the tests examine."""

import re
from pathlib import Path

import pytest
import transformers

import zoo

PAGE = (Path(__file__).parent.parent / "docs" / "architectures.md").read_text(encoding="utf-8")


def test_the_page_has_every_type_once():
    if f"transformers {transformers.__version__} has" not in PAGE:
        pytest.skip("the page is about another version of transformers")
    named = re.findall(r"^(?:\| |- )`([^`]+)`", PAGE, flags=re.MULTILINE)
    (none,) = re.findall(r"^`.*`\.$", PAGE, flags=re.MULTILINE)
    named += re.findall(r"`([^`]+)`", none)
    timm = {kind for kind in zoo.TYPES if kind.startswith("timm.")}
    assert set(named) >= set(zoo.TYPES) - timm
    assert sorted(named) == sorted(set(named) & set(zoo.TYPES)), (
        "make architectures writes the page anew"
    )


@pytest.mark.parametrize("check", ["prune", "gate", "build", "inputs"])
def test_the_page_gives_the_reasons_that_the_tests_hold(check: str):
    if f"transformers {transformers.__version__} has" not in PAGE:
        pytest.skip("the page is about another version of transformers")
    missing = [reason for reason in zoo.EXCEPTIONS[check] if reason not in PAGE]
    assert missing == [], "make architectures writes the page anew"
