"""Large data: read in blocks, the same examples as ever, in bounded memory."""

import csv
from pathlib import Path

import numpy as np
import pytest

from lobes.study.splits import hold_out
from lobes.tasks.sources import load_task


def drawn_file(path: Path) -> Path:
    """101 rows over 61 possible first texts, so that groups of equal texts are of several sizes."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["text", "other", "label"])
        for i in range(101):
            table.writerow([f"text {i * i % 61}", f"other {i % 2}", "abc"[i**3 % 7 % 3]])
    return path


# What lobes drew before data were read in blocks: the numbers in the first texts.
DRAWN = [
    ("text", {}, [9, 45, 34, 58, 58, 34, 45, 9, 9, 45, 34, 58, 58], [0, 1, 4, 16, 25, 36, 49, 3]),
    ("text", {"size": 7}, [9, 45, 34, 34, 9, 9, 45], [47, 42, 57, 46, 27, 14, 20, 36]),
    (
        "text",
        {"size": 7, "stratified": True},
        [9, 34, 58, 45, 9, 45, 34],
        [3, 47, 19, 5, 19, 12, 39, 25],
    ),
    (
        ("text", "other"),
        {},
        [0, 4, 9, 16, 45, 41, 57, 60, 60, 57, 41],
        [1, 25, 36, 49, 3, 20, 39, 60],
    ),
    (("text", "other"), {"size": 7}, [0, 4, 9, 16, 45, 41, 60], [12, 56, 5, 58, 41, 19, 49, 16]),
]


def numbers(examples) -> list[int]:
    return [int(texts[0].split()[1]) for texts in examples.texts]


@pytest.mark.parametrize(("text", "given", "validation", "train"), DRAWN)
def test_the_same_seed_draws_the_same_examples_as_ever(tmp_path, text, given, validation, train):
    sizes = {"train_size": 13, "validation_size": given["size"]} if "size" in given else {}
    task = load_task(
        "x",
        train=drawn_file(tmp_path / "data.csv"),
        text=text,
        seed=3,
        stratified=given.get("stratified", False),
        **sizes,
    )
    assert numbers(task.validation) == validation
    assert numbers(task.train)[:8] == train


def test_the_same_examples_are_held_out_to_choose_by(tmp_path):
    task = load_task("x", train=drawn_file(tmp_path / "data.csv"), text="text", seed=3)
    held_out = hold_out(task, 0.2, 5).validation
    half = [16, 49, 60, 47, 52, 46, 46, 52, 47, 60, 49, 16]
    assert numbers(held_out) == half + half[:8]
    assert held_out.labels.tolist() == [
        *(1, 0, 1, 0, 0, 1, 0, 0, 0, 1, 0, 1, 1, 0, 1, 1, 0, 0, 1, 0),
    ]
    assert np.issubdtype(held_out.labels.dtype, np.int64)
