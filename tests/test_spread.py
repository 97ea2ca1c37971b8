"""How steps are dealt out to workers, and how what comes back is kept."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lobes.experiments.manifest import read_entries
from lobes.experiments.spread import divided
from lobes.experiments.store import RunFolder
from lobes.files import digest_of
from lobes.measure.steps import Step, carry_out, together


def step(key, size=32, divisible=True):
    nothing = (lambda first, last, progress: {}) if divisible else None
    return Step("evaluation", key, "lesions", lambda progress: {}, size=size, part=nothing)


def units(places, key):
    return [(place.first, place.last) for place, each in places if each.key == key]


@pytest.mark.parametrize(
    ("groups", "workers", "jobs"),
    [(4, 2, 4), (5, 2, 6), (1, 2, 2), (3, 4, 12), (1, 64, 4), (7, 3, 9), (2, 2, 2)],
)
def test_the_last_groups_are_divided_so_that_all_workers_end_together(groups, workers, jobs):
    steps = [step(str(number)) for number in range(groups)]
    places = divided(3, steps, workers)
    assert len(places) == jobs
    assert {place.plan for place, _ in places} == {3}
    for number in range(groups):
        ends = units(places, str(number))
        assert ends[0][0] == 0
        assert ends[-1][1] == 32
        assert [last for _, last in ends[:-1]] == [first for first, _ in ends[1:]]
        assert all(last - first >= 8 for first, last in ends)
    whole = [number for number in range(groups) if len(units(places, str(number))) == 1]
    assert whole == [*range(groups if jobs == groups else groups - groups % workers)]


def test_what_cannot_be_divided_stays_whole():
    steps = [step("importance", 1, divisible=False), step("few", 7)]
    assert [place.key for place, _ in divided(0, steps, 5)] == ["importance", "few"]


def test_plans_together_take_each_others_groups():
    counts = []

    def plan(name, groups):
        total = 0
        for number in range(groups):
            keys = [f"{name}{number}{k}" for k in range(2)]
            found = yield [
                Step("s", key, key, lambda progress, n=number: {"x": np.array(n)}) for key in keys
            ]
            total += sum(int(each["x"]) for each in found)
        return name, total

    def counted():
        inner, found = together(plan("a", 3), plan("b", 1), plan("c", 0), plan("d", 2)), None
        while True:
            try:
                group = inner.send(found)
            except StopIteration as end:
                return end.value
            counts.append([each.key for each in group])
            found = yield group

    result = carry_out(counted(), lambda each: each.compute(lambda done, total: None))
    assert result == [("a", 6), ("b", 0), ("c", 0), ("d", 2)]
    assert counts == [
        ["a00", "a01", "b00", "b01", "d00", "d01"],
        ["a10", "a11", "d10", "d11"],
        ["a20", "a21"],
    ]


def test_measurements_are_written_by_several_threads(tmp_path):
    with RunFolder(tmp_path / "run", {}) as folder:
        folder.begin({})
        measurements = folder.measurements("scope")
        steps = [step(f"predictions-{number}") for number in range(41)]
        arrays = [{"x": np.full(7, number)} for number in range(41)]
        with ThreadPoolExecutor(5) as threads:
            kept = threads.map(measurements.keep, steps, arrays, [0.0] * 41)
            assert len([*kept]) == 41
        for each, array in zip(steps, arrays, strict=True):
            np.testing.assert_array_equal(measurements.load(each)["x"], array["x"])
    with RunFolder(tmp_path / "run", {}) as folder:
        entries = folder.manifest.files
        written = [*(tmp_path / "run/measurements").iterdir()]
        assert len(written) == 41
        for path in written:
            assert entries[f"measurements/{path.name}"] == digest_of(path)
    assert read_entries(tmp_path / "run") == entries
