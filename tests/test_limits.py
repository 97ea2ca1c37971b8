"""Extreme values of every numeric setting: one sentence each, or a valid study; never a hang."""

import math
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from lobes import IAT, limits
from lobes.config.study import SECTIONS, StudyConfig, load_study, override
from lobes.errors import ConfigError, DataError
from lobes.limits import Limit
from lobes.measure.iap import IapSettings
from lobes.tasks.task import TaskSpec
from lobes.training.arguments import training_arguments
from lobes.training.sampling import TaskBatchSampler
from lobes.training.selection import BestWeights

EXTREME = (
    0, -0.0, 1, -1, 2, 0.5, 1 - 1e-17, 5e-324, -5e-324, 1e-300, 1e300, -1e300, 2_000_000_000,
    2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63, -(2**63) - 1, 10**30, 10**400, -(10**400), 10**5000,
    math.inf, -math.inf, math.nan, True, False, "1", "", "a lot", None, [], [1], {}, 1j,
)  # fmt: skip
TASK = {"name": "new", "train": "a.csv", "text": "a"}
STUDY = {"name": "a", "model": "org/m", "tasks": [{**TASK, "name": "one"}, {**TASK, "name": "two"}]}


def numeric_settings() -> Iterator[tuple[str, str]]:
    """(table, key) of every setting of a study that is a number, or a list of numbers."""
    for table, section in SECTIONS.items():
        for key, field in section.model_fields.items():
            if _is_number(field.annotation):
                yield table, key


def _is_number(annotation: Any) -> bool:
    if get_origin(annotation) in (types.UnionType, Union, tuple):
        return any(_is_number(part) for part in get_args(annotation))
    return annotation in (int, float) or (
        hasattr(annotation, "__metadata__") and annotation.__origin__ in (int, float)
    )


def study_with(table: str, key: str, value: Any) -> dict[str, Any]:
    if table == "":
        return {**STUDY, key: value}
    if table == "tasks":
        return {**STUDY, "tasks": [STUDY["tasks"][0], {**STUDY["tasks"][1], key: value}]}
    if table == "transfer":
        return {**STUDY, "transfer": {"task": TASK, key: value}}
    if table == "transfer.task":
        return {**STUDY, "transfer": {"task": {**TASK, key: value}}}
    return {**STUDY, table: {key: value}}


SETTINGS = list(numeric_settings())


def test_the_numeric_settings_are_found() -> None:
    assert len(SETTINGS) >= 36
    assert {("", "seed"), ("iap", "fractions"), ("transfer", "batch_size")} <= set(SETTINGS)


@pytest.mark.parametrize(("table", "key"), SETTINGS)
def test_every_number_of_a_study_is_bounded(table: str, key: str) -> None:
    refused = 0
    for value in EXTREME:
        for given in (value, [value]) if key in ("fractions", "penalties") else (value,):
            try:
                StudyConfig.from_dict(study_with(table, key, given))
            except ConfigError as error:
                check_sentence(str(error), key)
                refused += 1
            else:
                assert_number(given[0] if isinstance(given, list) else given)
    assert refused >= 15


def assert_number(value: Any) -> None:
    assert isinstance(value, int | float | None)
    assert not isinstance(value, bool)
    assert value is None or abs(value) <= 1e300


def check_sentence(said: str, key: str) -> None:
    assert key in said
    assert said.endswith(".")
    assert not said.endswith("..")
    assert "\n" not in said
    assert len(said) < 400


def settings_of_the_library() -> dict[str, Any]:
    """{"what.setting": a call with a value for it}."""
    calls: dict[str, Any] = {}
    for name in ("alpha", "delta", "refresh", "importance_examples", "seed"):
        calls[f"IAT.{name}"] = lambda value, name=name: IAT(**{name: value})
    for name in (
        "controls", "keep_per_site", "importance_examples", "control_examples", "seed"
    ):  # fmt: skip
        calls[f"IapSettings.{name}"] = lambda value, name=name: IapSettings(**{name: value})
    for name in ("batch_size", "seed", "temperature", "epochs", "group"):
        calls[f"sampler.{name}"] = lambda value, name=name: TaskBatchSampler(
            [7, 5], **{"batch_size": 3, "sampling": "annealed", name: value}
        )
    for name in (
        "steps", "epochs", "batch_size", "learning_rate", "weight_decay", "warmup", "accumulate",
        "seed", "save_every", "evaluate_every", "log_every",
    ):  # fmt: skip
        calls[f"arguments.{name}"] = lambda value, name=name: training_arguments(
            "nowhere", device="cpu", precision="fp32", **{name: value}
        )
    calls["best.evaluations"] = BestWeights
    return calls


@pytest.mark.parametrize("setting", settings_of_the_library())
def test_every_number_of_the_library_is_bounded(setting: str) -> None:
    call, name = settings_of_the_library()[setting], setting.split(".")[1]
    refused = 0
    for value in EXTREME:
        try:
            made = call(value)
        except ConfigError as error:
            check_sentence(str(error), name)
            refused += 1
        except TypeCheckError:  # annotations are checked in tests only
            refused += 1
        else:
            assert_number(value)
            if isinstance(made, TaskBatchSampler):
                assert sum(map(len, made)) >= 3
    assert refused >= 15


@pytest.mark.parametrize("number", ["9" * 5000, "1e400", "0x" + "f" * 5000, "-inf", "[" * 3000])
def test_numbers_that_toml_cannot_say(number: str, tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(f'model = "a/b"\ntasks = ["rte"]\nseed = {number}\n')
    with pytest.raises(ConfigError) as caught:
        load_study(path)
    assert len(str(caught.value)) < 400
    with pytest.raises(ConfigError):
        override(StudyConfig.from_dict(STUDY), f"training.steps={number}")


def test_the_trainings_of_a_comparison_have_seeds_too() -> None:
    last = 2**32 - 1
    StudyConfig.from_dict({**STUDY, "seed": last - 4, "compare": {"seeds": 5}})
    with pytest.raises(ConfigError, match=r"compare\.seeds is 6; expected a last seed of at most"):
        StudyConfig.from_dict({**STUDY, "seed": last - 4, "compare": {"seeds": 6}})


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (Limit("a number", 1, 10_000), "a number from 1 to 10,000"),
        (Limit("a share", 0, 0.5, whole=False, above=True), "a share above 0 and at most 0.5"),
        (Limit("a share", 0, 1, whole=False, below=True), "a share from 0 and below 1"),
    ],
)
def test_a_limit_in_words(limit: Limit, words: str) -> None:
    assert str(limit) == words
    assert limit.allows(np.int64(1)) is (limit.most >= 1 and not limit.below)
    assert limit.allows(limit.least) is not limit.above
    for value in (np.float64("nan"), True, "1", None, 1j, 10**400, -1, [1]):
        assert not limit.allows(value)


@pytest.mark.parametrize(
    "name", ["a" * 101, "ü" * 51, "..", ".", " ", "a/b", "a\nb", "a\0", "nul.x"]
)
def test_names_that_no_folder_can_have(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        StudyConfig.from_dict({**STUDY, "name": name})
    check_sentence(str(caught.value), "name is ")
    with pytest.raises(DataError):
        TaskSpec(name, ("text",), "label", ("no", "yes"), "accuracy")


@pytest.mark.parametrize("key", ["output", "data_dir", "model", "train"])
@pytest.mark.parametrize("part", ["a" * 256, "a\0b", "/".join(["ab"] * 2000)])
def test_paths_that_no_file_system_takes(key: str, part: str) -> None:
    given = f"./{part}"
    study = {**STUDY, key: given}
    if key == "train":
        study = {**STUDY, "tasks": [{**TASK, "train": given}]}
    with pytest.raises(ConfigError) as caught:
        StudyConfig.from_dict(study)
    check_sentence(str(caught.value), key)


def test_what_is_written_leaves_room_for_temporary_names() -> None:
    limits.check_path("a file", "a" * 255)
    limits.check_path("a folder", "a" * 200, written=True)
    with pytest.raises(ConfigError, match="a part of 201 bytes"):
        limits.check_path("a folder", "b/" + "a" * 201 + "/b", written=True)
