"""The path of a problem is put before its message in one place."""

import pytest

from lobes.errors import ConfigError, DataError, ModelError, at


def test_a_message_continues_the_place_or_follows_a_colon():
    for kind, message, expected in (
        (DataError, "row 3 has no label.", "Task 'x': train row 3 has no label."),
        (ConfigError, "The delimiter is 3.", "Task 'x': train: The delimiter is 3."),
        (DataError, "'a b' is a folder.", "Task 'x': train: 'a b' is a folder."),
    ):
        with pytest.raises(kind) as caught, at("Task 'x': train"):
            raise kind(message)
        assert str(caught.value) == expected


def test_places_nest_and_the_cause_stays():
    cause = OSError("gone")
    with pytest.raises(DataError) as caught, at("Task 'x': train"), at("The file 'a'"):
        raise DataError("is damaged.") from cause
    assert str(caught.value) == "Task 'x': train: The file 'a' is damaged."
    assert caught.value.__cause__ is cause


def test_other_errors_are_left_alone():
    with pytest.raises(ModelError, match=r"^no heads$"), at("Task 'x'"):
        raise ModelError("no heads")


def test_an_error_of_the_consumer_gets_no_place_of_the_generator():
    def rows():
        with at("The file 'a'"):
            yield 1
            raise DataError("is damaged.")

    def refuse(found):
        for _ in found:
            raise DataError("bad row")

    with pytest.raises(DataError, match=r"^bad row$"):
        refuse(rows())
    with pytest.raises(DataError, match=r"^The file 'a' is damaged\.$"):
        list(rows())
