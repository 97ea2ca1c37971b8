"""Each measurement is made once, and a damaged one is never returned."""

import logging

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lobes.errors import RunError
from lobes.experiments.measurements import Measurements


class Counter:
    """A measurement that counts how often it is made."""

    def __init__(self, arrays):
        self.arrays = arrays
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return self.arrays


def assert_same(first, second):
    assert list(first) == list(second)
    for name, array in first.items():
        assert array.dtype == second[name].dtype
        np.testing.assert_array_equal(array, second[name], strict=True)


@given(
    st.dictionaries(
        st.text(max_size=5),
        hnp.arrays(
            st.sampled_from(["<f8", "<f4", "<i8", "<i4", "|b1"]),
            hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
        ),
        max_size=3,
    )
)
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_what_comes_back_is_what_went_in(tmp_path_factory, arrays):
    folder = tmp_path_factory.mktemp("measurements")
    Measurements(folder, "scope").remember("key", Counter(arrays))
    again = Counter({})
    assert_same(Measurements(folder, "scope").remember("key", again), arrays)
    assert again.calls == 0


@pytest.fixture
def stored(tmp_path):
    arrays = {"values": np.linspace(0, 1, 77).reshape(7, 11), "counts": np.array([5, 3])}
    Measurements(tmp_path, "scope").remember("importance of mood", Counter(arrays))
    (path,) = tmp_path.iterdir()
    return path, arrays


def test_the_file_is_a_table_that_any_reader_opens(stored):
    path, arrays = stored
    assert path.name.startswith("importance-of-mood-")
    table = pq.read_table(path)
    assert table["name"].to_pylist() == ["values", "counts"]
    assert table["numbers"][0].as_py() == arrays["values"].ravel().tolist()


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "foreign"])
def test_a_damaged_file_is_measured_again_with_a_warning(stored, caplog, damage):
    path, arrays = stored
    content = path.read_bytes()
    if damage == "flipped":
        middle = len(content) // 2  # inside the values or their description
        content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    else:
        content = {"truncated": content[:-9], "empty": b"", "foreign": b"text"}[damage]
    path.write_bytes(content)
    again = Counter(arrays)
    with caplog.at_level(logging.WARNING, "lobes"):
        assert_same(
            Measurements(path.parent, "scope").remember("importance of mood", again), arrays
        )
    assert again.calls == 1
    assert caplog.messages[0].startswith(f"{path} is damaged (")
    assert caplog.messages[0].endswith("); measured again.")
    Measurements(path.parent, "scope").remember("importance of mood", again)
    assert again.calls == 1


def test_any_flipped_bit_is_noticed_or_harmless(stored):
    """A checksum over the values: whatever the damage, what comes back is right."""
    path, arrays = stored
    content = path.read_bytes()
    logging.getLogger("lobes").disabled = True
    try:
        for place in range(0, len(content), 37):
            path.write_bytes(content[:place] + bytes([content[place] ^ 8]) + content[place + 1 :])
            found = Measurements(path.parent, "scope").remember(
                "importance of mood", Counter(arrays)
            )
            assert_same(found, arrays)
    finally:
        logging.getLogger("lobes").disabled = False


def test_another_key_or_scope_is_another_measurement(tmp_path):
    results = [{"x": np.array([i])} for i in range(3)]
    for scope, key, result in zip("aab", "kll", results, strict=True):
        Measurements(tmp_path, scope).remember(key, Counter(result))
    for scope, key, result in zip("aab", "kll", results, strict=True):
        assert_same(Measurements(tmp_path, scope).remember(key, Counter({})), result)


def test_the_time_of_a_stored_measurement_counts(tmp_path):
    first = Measurements(tmp_path, "scope")
    for key in ("importance-a", "importance-b", "predictions-0"):
        first.remember(key, Counter({}))
    second = Measurements(tmp_path, "scope")
    assert second.seconds == {}
    second.remember("importance-b", Counter({}))
    assert second.seconds == {"importance-b": first.seconds["importance-b"]}
    assert list(first.seconds) == ["importance-a", "importance-b", "predictions-0"]


def test_a_measurement_that_fails_leaves_nothing(tmp_path):
    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Measurements(tmp_path, "scope").remember("key", fail)
    with pytest.raises(TypeError, match="Cannot store 'x': an array of numbers, not of"):
        Measurements(tmp_path, "scope").remember("key", Counter({"x": np.array(["a"])}))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(RunError, match=r"^The disk is full: cannot write .*key-"):
        Measurements(tmp_path, "scope").remember("key", Counter({"x": np.zeros(3)}))
    assert list(tmp_path.iterdir()) == []
