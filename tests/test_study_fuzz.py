"""Malformed study files by the thousand: each is read, or refused in one sentence."""

import random
from pathlib import Path
from typing import Any

import pytest

from damage import outcome
from lobes.config.study import load_study

BASE = """\
model = "model"
seed = 3
tasks = [{name = "mood", train = "a.csv", text = "t", labels = ["bad", "good"]}, {name = "sst2"}]
training = {steps = 7, batch_size = 5, enabled = true}
iat = {alpha = 0.3}
iap = {fractions = [0.1, 0.3], controls = 20, lesion_tasks = ["mood"]}
compare = {seeds = 2}
transfer = {seeds = 2, task = {name = "topic", train = "b.csv", text = "t"}}
growth = {checkpoints = 3}
"""
VALUES = (
    *('""', '"x"', '"\\u0000"', '"../.."', f'"{"y" * 5_000}"', "'''a\nb'''", '"${HOME}"', '"~"'),
    *("0", "-1", "1", "3.5", "1e400", "nan", "-inf", "9" * 19, "9" * 5_000, "0x10", "true"),
    *("[]", "[[]]", "[1, 'a']", '["mood", "mood"]', "{}", "{a = {b = {}}}", '{name = "mood"}'),
    *("1979-05-27", "07:32:00", "1979-05-27T07:32:00Z", '[{name = "mood"}, {name = "mood"}]'),
    *("[" * 5_000 + "]" * 5_000, "{a = " * 5_000 + "1" + "}" * 5_000, "[" * 5_000, "=", '"""'),
)
KEYS = ("model", "name", "output", "seed", "tasks", "training", "iat", "iap", "compare", "transfer")
KEYS += ("growth", "controls", "unknown", '""', '"a.b"', "a.b.c", "tasks.name", "precision")


def _malformed(generator: random.Random) -> bytes:
    """A study with some lines that are wrong, gone, doubled or cut, and bytes that are no text."""
    lines = BASE.splitlines()
    for _ in range(generator.randrange(1, 4)):
        place = generator.randrange(len(lines))
        line, key = lines[place], generator.choice(KEYS)
        lines[place : place + 1] = generator.choice(
            [
                [f"{line.partition('=')[0] or key} = {generator.choice(VALUES)}"],
                [line.replace(*generator.choice(INSIDE), 1)],
                [line, f"{key} = {generator.choice(VALUES)}"],
                [f"[{key}]", line],
                [line, line],
                [line[: generator.randrange(len(line) + 1)]],
                [],
            ]
        ) or ["# nothing"]
    content = "\n".join(lines).encode()
    if generator.random() < 0.1:
        place = generator.randrange(len(content))
        content = content[:place] + generator.choice([b"\xff", b"\x00", b"\r"]) + content[place:]
    return content.decode("latin-1").encode("utf-16") if generator.random() < 0.02 else content


INSIDE = [
    ("= 7", "= [7]"),
    ('"mood"', "5"),
    ('"t"', '["t", 3]'),
    ("0.3", '"0.3"'),
    ("[0.1, 0.3]", "0.1"),
    ("true", '"yes"'),
    ('{name = "sst2"}', '{name = "sst2", name = "x"}'),
    ('["bad", "good"]', '["bad", "bad"]'),
    ("= 2", f"= {'9' * 40}"),
]


def _read(path: Path, generator: random.Random) -> Any:
    settings = []
    if generator.random() < 0.3:
        settings = [f"{generator.choice(KEYS)}={generator.choice(VALUES)}"]
    return load_study(path, settings)


def _found(folder: Path, seeds: range) -> set[str]:
    found = set()
    for seed in seeds:
        generator = random.Random(seed)
        path = folder / "study.toml"
        path.write_bytes(_malformed(generator))
        try:
            found.add(outcome(_read, path, generator))
        except Exception as error:
            error.add_note(f"seed {seed}: {path.read_bytes()[:2_000]!r}")
            raise
    return found


def test_malformed_studies_are_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert outcome(load_study, _plain(tmp_path)) == "read"
    assert _found(tmp_path, range(300)) == {"read", "refused"}


@pytest.mark.slow
def test_many_malformed_studies_are(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    _found(tmp_path, range(300, 3_000))


def _plain(folder: Path) -> Path:
    path = folder / "plain.toml"
    path.write_text(BASE.replace(', lesion_tasks = ["mood"]', ""))
    return path
