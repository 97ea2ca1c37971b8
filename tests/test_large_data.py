"""Large data: read in blocks, the same examples as ever, in bounded memory."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lobes import MultiTaskModel, MultiTaskTrainer, Task, lesion_matrix
from lobes.data import batching, cache, texts
from lobes.errors import DataError
from lobes.experiments.loading import task_fingerprint
from lobes.measure.iap import IapSettings
from lobes.tasks import columns, formats, subsets
from lobes.tasks.examples import Examples
from lobes.tasks.sources import load_split, load_task
from lobes.tasks.subsets import hold_out
from lobes.training.arguments import training_arguments
from tiny_models import tiny_model
from tiny_tasks import tiny_tokenizer


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


LANGUAGES = (
    "هذا \u200fنص\u200e عربي",
    "这是一个句子。",
    "นี่คือประโยค",
    "e\u0301 is é, \u1100\u1161 is 가",
    "👩🏽‍🔬 and 🇸🇪 \ufe0f",
    "Ελληνικά, русский, हिन्दी, اُردُو",
    "NA",
    " blanks ",
)


@pytest.fixture
def blocks(monkeypatch, tmp_path):
    """Blocks of three rows; texts in a file from the first byte on; tokens of all kept."""
    monkeypatch.setenv("LOBES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(formats, "BLOCK", 3)
    monkeypatch.setattr(columns, "_BLOCK", 3)
    monkeypatch.setattr(texts.blocks, "__defaults__", (3,))
    monkeypatch.setattr(cache, "_IN_MEMORY", 0)
    monkeypatch.setattr(batching, "_CHUNK", 3)
    monkeypatch.setattr(batching, "_CACHED", 0)
    return tmp_path


def rows_of(number: int) -> list[dict[str, object]]:
    return [
        {
            "text": f"{LANGUAGES[i % 8]} {i * i % 31}",
            "other": LANGUAGES[i * 3 % 7],
            "label": i * 5 % 3 % 2,
            "kind": "ab"[i % 7 % 2],
        }
        for i in range(number)
    ]


def save(path: Path, rows: list[dict[str, object]], *, end: str = "\n", last: str = "") -> Path:
    """A file of the kind that the suffix names; `end` ends lines, `last` the last one."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=5)
        return path
    if path.suffix == ".jsonl":
        lines = [json.dumps(row, ensure_ascii=i % 2 == 0) for i, row in enumerate(rows)]
    else:
        mark = "," if path.suffix == ".csv" else "\t"
        quote = '"{}"' if mark == "," else "{}"
        lines = [mark.join(map(quote.format, row.values())) for row in rows]
        lines.insert(0, mark.join(rows[0]))
    path.write_bytes((end.join(lines) + last).encode())
    return path


KINDS = ["csv", "tsv", "jsonl", "parquet"]


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize(("end", "last"), [("\n", "\n"), ("\r\n", "\r\n"), ("\n", "")])
def test_blocks_give_what_the_rows_say(blocks, suffix, end, last):
    rows = rows_of(37)
    path = save(blocks / f"data.{suffix}", rows, end=end, last=last)
    task = load_task("x", train=path, validation=path, text=("text", "other"))
    assert isinstance(task.train.texts, texts.Texts)
    assert task.train.texts == tuple((row["text"], row["other"]) for row in rows)
    assert task.train.labels.tolist() == [row["label"] for row in rows]
    kept = [row for row in rows if row["kind"] == "a" and not row["text"].startswith("NA")]
    chosen = load_task(
        "x",
        train=path,
        validation=path,
        text="body",
        columns={"body": "text"},
        label_map={"0": "no", "1": "yes"},
        filter={"kind": "a"},
        leave_out={"body": [row["text"] for row in rows if row["text"].startswith("NA")]},
    )
    assert chosen.train.texts == tuple((row["text"],) for row in kept)
    assert chosen.train.labels.tolist() == [row["label"] for row in kept]
    assert chosen.labels == ("no", "yes")


@pytest.mark.parametrize("suffix", KINDS)
def test_a_file_has_the_fingerprint_and_the_tokens_of_the_same_list(blocks, suffix):
    rows = rows_of(53)
    path = save(blocks / f"data.{suffix}", rows)
    given = {"text": "text", "labels": ("0", "1")}
    task = load_task("x", train=path, validation=path, **given)
    plain = Examples(tuple((row["text"],) for row in rows), task.train.labels)
    assert task_fingerprint(task) == task_fingerprint(
        Task("x", train=plain, validation=plain, **given)
    )
    other = Examples((*plain.texts[:-1], ("other",)), plain.labels)
    assert task_fingerprint(task) != task_fingerprint(
        Task("x", train=plain, validation=other, **given)
    )
    tokenizer = tiny_tokenizer()
    ids = [tokenizer(text, truncation=True, max_length=11)["input_ids"] for (text,) in plain.texts]
    for _ in range(2):  # made, then taken from the cache
        encoded = batching.encode(tokenizer, task.train.texts, 11)
        assert encoded.input_ids.tolist() == [i for row in ids for i in row]


def plain_groups(texts) -> dict[tuple[str, ...], list[int]]:
    groups: dict[tuple[str, ...], list[int]] = {}
    for place, text in enumerate(texts):
        groups.setdefault(text, []).append(place)
    return groups


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2)), min_size=20, max_size=70),
    st.floats(0.05, 0.5),
    st.integers(0, 9),
)
@settings(deadline=None, max_examples=80)
def test_draws_are_those_of_the_plain_way(rows, share, seed):
    """What is held out, against loops over groups of equal texts: twice, for both purposes."""
    rows += [(100 + 3 * i + label, label) for i in range(4) for label in range(3)]
    plain = tuple((f"text {text}", "other") for text, _ in rows)
    labels = np.array([label for _, label in rows])
    groups = list(plain_groups(plain).values())

    order = np.random.default_rng([seed, 0]).permutation(len(groups))
    out: set[int] = set()
    for group in order:
        out |= set(groups[group])
        if len(out) >= 0.1 * len(rows):
            break
    made = texts.texts_of(plain, 2)
    _, found = subsets._divided("x", Examples(made, labels), np.random.default_rng([seed, 0]))
    assert found.texts == tuple(plain[i] for i in sorted(out))
    assert found.labels.tolist() == labels[sorted(out)].tolist()

    task = Task("x", train=Examples(made, labels), text=("a", "b"), labels=("p", "q", "r"))
    generator = np.random.default_rng([seed, 3, *b"x"])
    chosen: set[int] = set()
    for label in range(3):
        own = [group for group in groups if labels[group[0]] == label]
        wanted, taken = max(1, int(share * sum(map(len, own)) + 0.5)), 0
        for group in generator.permutation(len(own))[: len(own) - 1] if own else ():
            if taken >= wanted:
                break
            chosen |= set(own[group])
            taken += len(own[group])
    assert hold_out(task, share, seed).validation.texts == tuple(plain[i] for i in sorted(chosen))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "data.csv",
            "text,label\n" + "a,0\nb,1\n" * 5 + "c\n",
            "Task 'x': train: The file '{path}' has 1 cells in line 12, but 2 columns: 'text', "
            "'label'.",
        ),
        (
            "data.csv",
            "text,label\n" + "a,0\nb,1\n" * 5 + '"c,1\n',
            "Task 'x': train: The file '{path}' cannot be read at line 12: unexpected end of data.",
        ),
        (
            "data.csv",
            "text,label\n" + "a,0\nb,1\n" * 5 + " ,1\n",
            "Task 'x': train row 10 has an empty text in 'text'; correct or remove it.",
        ),
        (
            "data.tsv",
            "text\tlabel\n" + "a\t0\nb\t1\n" * 5 + "c\t \n",
            "Task 'x': train row 10 has no label in column 'label' (' '); correct or remove the "
            'row, or leave such rows out with leave_out = {{label = ""}} in the study.',
        ),
        (
            "data.jsonl",
            '{"text": "a", "label": 0}\n\n{"text": "b", "label": 1}\n' * 4 + "{}x",
            "Task 'x': train: The file '{path}' has no JSON in line 13, column 3: Extra data; "
            "expected one object on each line, or one array of objects.",
        ),
        (
            "data.jsonl",
            '{"text": "a", "label": 0}\n{"text": "b", "label": 1}\n' * 4 + '{"text": "c"}',
            "Task 'x': train row 8 has no column 'label'; its columns are 'text'.",
        ),
        (
            "data.jsonl",
            '{"text": "a", "label": 0}\n{"text": "b", "label": 1}\n' * 4 + '{"text": 3}',
            "Task 'x': train row 8 has no column 'label'; its columns are 'text'.",
        ),
        (
            "data.jsonl",
            '{"text": "a", "label": 0}\n{"text": "b", "label": 1}\n' * 4
            + '{"text": 3, "label": 1}',
            "Task 'x': train row 8 has 3 in the text column 'text', which is a whole number and "
            "not text; name another column, or turn it into text.",
        ),
    ],
)
def test_places_are_right_beyond_the_first_block(blocks, name, content, message):
    path = blocks / name
    path.write_text(content)
    with pytest.raises(DataError) as error:
        load_task("x", train=path, validation=path, text="text")
    assert str(error.value) == message.format(path=path)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_bytes_that_are_no_text_are_found_far_into_a_file(tmp_path, mark):
    good = b"text,label\n" + "é long enough,0\n".encode() * 150_000
    path = tmp_path / "data.csv"
    path.write_bytes(mark + good + b"caf\xe9,1\n" + good)
    with pytest.raises(DataError) as error:
        load_task("x", train=path, text="text")
    assert str(error.value) == (
        f"Task 'x': train: The file '{path}' is not UTF-8: byte 0xe9 at offset "
        f"{len(mark) + len(good) + 3}, line 150002; convert it, for example with: "
        f"iconv -f WINDOWS-1252 -t UTF-8."
    )


def test_a_map_and_a_filter_count_rows_over_all_blocks(blocks):
    rows = rows_of(31)
    rows[20]["label"] = 7
    path = save(blocks / "data.csv", rows)
    with pytest.raises(DataError) as error:
        load_task(
            "x",
            train=path,
            text="text",
            label_map={"0": "no", "1": "yes"},
            filter={"kind": rows[20]["kind"]},
        )
    place = sum(row["kind"] == rows[20]["kind"] for row in rows[:20])
    assert str(error.value) == (
        f"Task 'x': train row {place} of those that are kept has the label '7', which label_map "
        f"lacks: it has '0', '1'; add it, or leave such rows out."
    )
    with pytest.raises(DataError) as error:
        load_task("x", train=path, text="text", filter={"kind": "c"})
    assert str(error.value) == (
        "Task 'x': train has 31 rows, none of which the filter keeps; check the values of 'kind'."
    )


@pytest.mark.parametrize("left_out", [{}, {"label": "odd"}, {"kind": "x"}])
def test_what_labels_are_is_decided_by_all_rows(blocks, left_out):
    """Labels are text where one is, be it in the last row, and be that row left out."""
    rows = rows_of(29)
    rows[-1] |= {"label": "odd", "kind": "x"}
    path = save(blocks / "data.csv", rows)
    labels = ("0", "1", "odd") if not left_out else ("0", "1")
    task = load_task("x", train=path, validation=path, text="text", leave_out=left_out)
    assert task.labels == labels
    assert len(task.train) == (28 if left_out else 29)
    rows[-1] |= {"label": 0.5}
    task = load_task("x", train=save(path, rows), validation=path, text="text")
    assert task.is_regression


def test_a_data_set_of_the_hub_is_read_in_blocks(blocks, monkeypatch):
    rows = [{**row, "kind": "ab".index(row["kind"])} for row in rows_of(25)]
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "other": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["no", "yes"]),
            "kind": datasets.ClassLabel(names=["a", "b"]),
        }
    )
    data = datasets.Dataset.from_list(rows, features=features)
    read = []
    select = datasets.Dataset.select

    def counted(self, indices, *args, **kwargs):
        read.append(len(indices))
        return select(self, indices, *args, **kwargs)

    monkeypatch.setattr(datasets.Dataset, "select", counted)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: data)
    task = load_task("x", dataset="some/data", validation="train", text="text")
    assert task.labels == ("no", "yes")
    assert task.train.texts == tuple((row["text"],) for row in rows)
    assert read == [*[3] * 8, 1] * 2
    chosen = load_task(
        "x", dataset="some/data", validation="train", text="text", filter={"kind": "b"}
    )
    assert chosen.train.texts == tuple((row["text"],) for row in rows if row["kind"] == 1)
    assert chosen.labels == ("no", "yes")


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("hidden", ["no column", "-1"])
def test_a_split_without_labels(blocks, suffix, hidden):
    rows = rows_of(11)
    test = [{**row, "label": -1} for row in rows]
    if hidden == "no column":
        test = [{"text": row["text"], "other": row["other"]} for row in rows]
    train = save(blocks / f"train.{suffix}", rows)
    given = {"train": train, "test": save(blocks / f"test.{suffix}", test), "text": "text"}
    split = load_split("x", "test", **given)
    assert split.texts == tuple((row["text"],) for row in rows)
    assert split.labels is None
    if hidden == "-1":  # one label that is there, in the last block
        test[-1]["label"] = 1
        save(blocks / f"test.{suffix}", test)
        with pytest.raises(DataError, match=r"test row 0 has the label -1 .* Labels of -1 mark"):
            load_split("x", "test", **given)


@pytest.mark.parametrize("number", [1, 3])
def test_fewer_examples_than_a_batch_are_trained_and_measured(tmp_path, number):
    rows = [
        {"text": f"the boat was {word}", "label": 0.5 * i}
        for i, word in enumerate(("sad", "fine", "dull")[:number])
    ]
    task = Task("few", train=rows, validation=rows, text="text", metric="spearman")
    model = MultiTaskModel(tiny_model("bert"), tiny_tokenizer(), [task], max_length=31)
    args = training_arguments(str(tmp_path), steps=2, batch_size=32, precision="fp32")
    trainer = MultiTaskTrainer(model, args, tasks=[task])
    trainer.train()
    assert [np.isfinite(record["loss"]) for record in trainer.losses] == [True]
    matrix = lesion_matrix(model, [task], IapSettings(fractions=(0.5,), controls=2))
    assert len(matrix.scores(0.5)) == 1


MEASURE = """
import sys
from lobes.data import cache
from lobes.data.batching import encode
from lobes.tasks.sources import load_task
from tiny_tasks import tiny_tokenizer

def peak():
    with open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith("VmHWM")).split()[1]) / 1024

def read(path):
    task = load_task("x", train=path, validation=few, text="text", labels=("0", "1"))
    return encode(tiny_tokenizer(), task.train.texts, 31)

cache._IN_MEMORY = 2**20
few, many = sys.argv[1:]
read(few)
before = peak()
encoded = read(many)
print(len(encoded), peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's own figures")
def test_memory_is_a_fraction_of_the_file(tmp_path):
    """What a large file takes in another process beyond a small one, against its size."""
    word = "x" * 1990
    few, many = (tmp_path / f"{name}.csv" for name in ("few", "many"))
    for path, number in ((few, 11_000), (many, 30_000)):
        with path.open("w") as file:
            file.write("text,label\n")
            file.writelines(f"{word} {i},{i % 2}\n" for i in range(number))
    size = many.stat().st_size / 2**20
    path = os.pathsep.join([*sys.path, str(Path(__file__).parent)])
    out = subprocess.run(
        [sys.executable, "-c", MEASURE, str(few), str(many)],
        env={**os.environ, "PYTHONPATH": path, "LOBES_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=True,
    )
    number, more = map(float, out.stdout.split())
    assert number == 30_000
    assert size > 50
    assert more < 0.4 * size, f"{more} of {size} MiB"
    print(more, size)
