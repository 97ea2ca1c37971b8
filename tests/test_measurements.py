"""Each measurement is made once, and a damaged one is never returned."""

import logging
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lobes.errors import RunError
from lobes.experiments.measurements import Measurements
from lobes.measure.steps import Step, changed


class Counter:
    """A measurement that counts how often it is made."""

    def __init__(self, arrays):
        self.arrays = arrays
        self.calls = 0

    def __call__(self, progress):
        self.calls += 1
        progress(self.calls, self.calls)
        return self.arrays


def measured(measurements, key, compute, stage="importance", **about):
    """The arrays of a step that is all there is to an experiment."""

    def plan():
        return (yield [Step(stage, key, f"{stage} of it", compute, **about)])[0]

    return measurements.run(plan())


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
    measured(Measurements(folder, "scope"), "key", Counter(arrays))
    again = Counter({})
    assert_same(measured(Measurements(folder, "scope"), "key", again), arrays)
    assert again.calls == 0


@pytest.fixture
def stored(tmp_path):
    arrays = {"values": np.linspace(0, 1, 77).reshape(7, 11), "counts": np.array([5, 3])}
    measured(Measurements(tmp_path, "scope"), "importance of mood", Counter(arrays))
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
        place = content.index(b"counts")  # in the column of names, which no other part repeats
        content = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    else:
        content = {"truncated": content[:-9], "empty": b"", "foreign": b"text"}[damage]
    path.write_bytes(content)
    again = Counter(arrays)
    with caplog.at_level(logging.WARNING, "lobes"):
        assert_same(
            measured(Measurements(path.parent, "scope"), "importance of mood", again), arrays
        )
    assert again.calls == 1
    assert caplog.messages[0].startswith(f"{path} is damaged (")
    assert caplog.messages[0].endswith("); measured again.")
    measured(Measurements(path.parent, "scope"), "importance of mood", again)
    assert again.calls == 1


def test_any_flipped_bit_is_noticed_or_harmless(stored):
    """A checksum over the values: whatever the damage, what comes back is right."""
    path, arrays = stored
    content = path.read_bytes()
    logging.getLogger("lobes").disabled = True
    try:
        for place in range(0, len(content), 37):
            path.write_bytes(content[:place] + bytes([content[place] ^ 8]) + content[place + 1 :])
            found = measured(
                Measurements(path.parent, "scope"), "importance of mood", Counter(arrays)
            )
            assert_same(found, arrays)
    finally:
        logging.getLogger("lobes").disabled = False


def test_another_key_or_scope_is_another_measurement(tmp_path):
    results = [{"x": np.array([i])} for i in range(3)]
    for scope, key, result in zip("aab", "kll", results, strict=True):
        measured(Measurements(tmp_path, scope), key, Counter(result))
    for scope, key, result in zip("aab", "kll", results, strict=True):
        assert_same(measured(Measurements(tmp_path, scope), key, Counter({})), result)


def test_the_time_of_a_stored_measurement_counts(tmp_path):
    first = Measurements(tmp_path, "scope")
    for task in ("a", "b"):
        for key in (f"importance-{task}", f"importance-{task}-without-3-heads"):
            measured(first, key, Counter({}), task=task)
    measured(first, "importance-of-lesions", Counter({}), "evaluation")
    second = Measurements(tmp_path, "scope")
    assert second.seconds_by_stage == {}
    measured(second, "importance-b", Counter({}), task="b")
    assert list(second.seconds_by_task("importance")) == ["b"]
    assert list(second.seconds_by_stage) == ["importance"]
    by_task, by_stage = first.seconds_by_task("importance"), first.seconds_by_stage
    assert list(by_task) == ["a", "b"]
    assert sum(by_task.values()) == pytest.approx(by_stage["importance"])
    assert list(by_stage) == ["importance", "evaluation"]


def test_a_measurement_that_fails_leaves_nothing(tmp_path):
    def fail(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(Measurements(tmp_path, "scope"), "key", fail)
    with pytest.raises(TypeError, match="Cannot store 'x': an array of numbers, not of"):
        measured(Measurements(tmp_path, "scope"), "key", Counter({"x": np.array(["a"])}))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(RunError, match=r"^The disk is full: cannot write .*key-"):
        measured(Measurements(tmp_path, "scope"), "key", Counter({"x": np.zeros(3)}))
    assert list(tmp_path.iterdir()) == []


def study_of(counter, scope=""):
    """A plan of two steps, and a third that depends on what they gave."""

    def plan():
        first = yield [Step("importance", key, key, counter, scope=scope) for key in "ab"]
        heads = sum(int(arrays["x"]) for arrays in first)
        (last,) = yield [Step("evaluation", f"{heads} heads", "lesions", counter, scope=scope)]
        return heads, int(last["x"])

    return plan()


def test_pending_steps_are_listed_and_computed_anywhere(tmp_path):
    """An executor computes what is pending, in any order, until nothing is."""
    counter = Counter({"x": np.array(5)})
    measurements = Measurements(tmp_path, "scope")
    names = []
    while pending := measurements.pending(study_of(counter), study_of(counter, "other")):
        names.append([(step.key, step.scope) for step in pending])
        assert len(list(tmp_path.iterdir())) == counter.calls  # listing computes nothing
        Measurements(tmp_path, "scope").measure(pending[-1])  # as another process would
    mine, other = [("a", ""), ("b", "")], [("a", "other"), ("b", "other")]
    assert names == [
        [*mine, *other],
        [*mine, other[0]],
        [*mine, ("10 heads", "other")],
        mine,
        mine[:1],
        [("10 heads", "")],
    ]
    assert counter.calls == len(names) == 6
    assert measurements.run(study_of(Counter({}))) == (10, 5)


def test_steps_of_one_title_report_their_part_of_it(tmp_path):
    seen = []
    measurements = Measurements(tmp_path, "scope", progress=lambda *call: seen.append(call))
    counter = Counter({})

    def plan(number):
        return [
            Step("training", str(k), "seed 3", counter, share=(2.0 * k, 2.0, 6.0))
            for k in range(number)
        ]

    def run(number):
        yield plan(number)

    measurements.run(run(1))
    assert seen == [("seed 3", 0, 6000), ("seed 3", 2000, 6000), ("seed 3", 2000, 6000)]
    seen.clear()
    measurements.run(run(2))
    # what was kept is not told, since it would be counted into the speed of what is left
    assert seen[0] == ("seed 3", 2000, 6000)
    assert seen[-1] == ("seed 3", 4000, 6000)
    seen.clear()
    measurements.run(run(3))
    seen.clear()
    measurements.run(run(3))
    assert seen == [("seed 3", 6000, 6000)]
    assert counter.calls == 3


def test_a_changed_plan_keeps_its_result_and_its_steps_in_another_scope(tmp_path):
    counter = Counter({"x": np.array(3)})
    measurements = Measurements(tmp_path, "scope")
    at_step = changed(study_of(counter), lambda step: replace(step, scope="8", stage="growth"))
    assert measurements.run(at_step) == measurements.run(study_of(counter)) == (6, 3)
    assert counter.calls == 6
    assert list(measurements.seconds_by_stage) == ["growth", "importance", "evaluation"]
