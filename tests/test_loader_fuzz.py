"""Malformed files by the thousand: each is read, or refused in one sentence, and nothing else."""

import gzip
import json
from pathlib import Path

import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lobes.errors import LobesError
from lobes.tasks.formats import rows_of_sheets
from lobes.tasks.known import KNOWN
from lobes.tasks.sources import load_split, load_task
from lobes.tasks.task import Task

fuzz = settings(
    max_examples=500,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

briefly = settings(fuzz, max_examples=150)

CELLS = st.one_of(
    st.sampled_from(
        [
            *("", " ", "0", "1", "-1", "2", "1.0", "nan", "inf", "1e999", "-", "NA", "+0", "0x1"),
            *("positive", "entailment", "contradictory", "9" * 400, "९", "²", "1_0", "\ufeff"),
            *('"', '""', 'a "b', "\x00", "\x1a", "\u2028", "\x85", "\ud7ff", "\U0010ffff", "\\N"),
        ]
    ),
    st.text(max_size=5),
)
HEADERS = st.sampled_from(
    [
        *(["text", "label"], ["label", "text"], ["text", "label", "label"], ["text"], [""], []),
        *(["sentence", "label"], ["index", "sentence"], ["sentence1", "sentence2", "gold_label"]),
        ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"],
    ]
)
JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-2, 3),
        st.sampled_from([10**30, -(2**63), 2**63, 10**400, 1e308, float("nan"), float("inf")]),
        st.floats(),
        CELLS,
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(CELLS, inner, max_size=2),
    max_leaves=4,
)
KEYS = ("text", "label", "sentence1", "sentence2", "gold_label")
RAW_LINES = st.sampled_from(
    [
        '{"text": "\\ud800", "label": 0}',
        '{"text": "a", "label": ' + "9" * 5000 + "}",
        "[" * 100_000,
        '{"text": "a", "text": "b", "label": 1}',
        "{",
        "null",
        "\x00",
        '{"text": "a", "label": Infinity}',
    ]
)


@st.composite
def delimited(draw, mark):
    """A table in which a row may have any number of cells, and its bytes may be damaged."""
    header = draw(HEADERS)
    rows = draw(st.lists(st.lists(CELLS, max_size=6), max_size=5))
    if draw(st.booleans()):  # as many cells as columns, so that what they hold is looked at
        rows = [[*row, "a", "1", "b", "0", "c", "d"][: len(header)] for row in rows]
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    return draw(damaged(end.join(mark.join(row) for row in [header, *rows]).encode()))


@st.composite
def json_lines(draw):
    """Objects with the right keys, any JSON, and lines that are none."""
    rows = st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, JSON)).map(json.dumps)
    lines = draw(st.lists(st.one_of(rows, rows, JSON.map(json.dumps), RAW_LINES), max_size=5))
    return draw(damaged("\n".join(lines).encode()))


@st.composite
def json_array(draw):
    """One array of objects, on one line or on many, or what looks like one."""
    row = st.one_of(st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, JSON)), JSON)
    rows = draw(st.lists(row, max_size=5))
    text = json.dumps(rows, indent=draw(st.sampled_from([None, 0, 2])))
    return draw(damaged((draw(st.sampled_from(["", "\n", " ", "["])) + text).encode()))


@st.composite
def quoted(draw, mark):
    """A table as programs write it: some cells in quotes, those inside doubled or not."""
    cell = st.one_of(
        CELLS,
        CELLS.map(lambda text: f'"{text.replace(chr(34), 2 * chr(34))}"'),
        CELLS.map(lambda text: f'"{text}"'),
    )
    rows = draw(st.lists(st.lists(cell, min_size=2, max_size=2), max_size=5))
    header = draw(st.sampled_from([["text", "label"], ['"text"', '"label"'], ["sep=;"]]))
    text = "\n".join(mark.join(row) for row in [header, *rows])
    return draw(damaged(text.encode()))


@st.composite
def damaged(draw, content):
    """The bytes as they are, in another encoding, cut, or with bytes put in."""
    kind = draw(st.sampled_from(["none", "none", "cut", "insert", "overwrite", "UTF-16", "mark"]))
    place = draw(st.integers(0, len(content)))
    new = draw(st.binary(min_size=1, max_size=4))
    if kind == "cut":
        return content[:place]
    if kind == "insert":
        return content[:place] + new + content[place:]
    if kind == "overwrite":
        return content[:place] + new + content[place + len(new) :]
    if kind == "UTF-16":
        return content.decode().encode("utf-16")
    return b"\xef\xbb\xbf" + content if kind == "mark" else content


def columns_of_parquet():
    """Columns of every kind that Parquet knows, right ones among them."""
    texts = pa.array(["a", "b", "c"])
    numbers = pa.array([0, 1, 0])
    odd = [
        pa.array([b"\xff", b"b", None]),
        pa.array([[1], [], None]),
        pa.array([{"a": 1}, {"a": 2}, {"a": 3}]),
        pa.array([None, None, None]),
        pa.array([1.5, float("nan"), None]),
        pa.array([0.0, 1.0, float("inf")]),
        pa.array([2**63, 2**64 - 1, 0], pa.uint64()),
        pa.array([0, 1, 2]).cast(pa.timestamp("ns")),
        pa.array([0, 1, 2], pa.date32()),
        pa.array([0, 1, 2]).cast(pa.decimal128(21, 1)),
        pa.array([True, False, None]),
        pa.array([0.0, 1.0, 0.5], pa.float16()),
        pa.array([-(2**62), 2**62, 0]).cast(pa.duration("us")),
        texts.dictionary_encode(),
        pa.StringArray.from_buffers(
            3,
            pa.py_buffer(bytes([0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0])),
            pa.py_buffer(b"\xffab"),
        ),
    ]
    return [texts, numbers, *odd]


@pytest.fixture(scope="module")
def workbook(tmp_path_factory):
    """The bytes of a workbook of Excel's; without its reader there is none to try."""
    pytest.importorskip("openpyxl")
    path = tmp_path_factory.mktemp("workbook") / "data.xlsx"
    pandas.DataFrame({"text": ["a", "b", "c"], "label": [0, 1, 0]}).to_excel(path, index=False)
    return path.read_bytes()


@pytest.fixture(scope="module")
def parquet_folder(tmp_path_factory):
    """A folder with a file for each kind of text and of label column, and one without rows."""
    folder = tmp_path_factory.mktemp("parquet")
    columns = columns_of_parquet()
    tables = [pa.table({"text": columns[0], "label": label}) for label in columns]
    tables += [pa.table({"text": text, "label": columns[1]}) for text in columns]
    for number, table in enumerate([*tables, tables[1][:0]]):
        pq.write_table(table, folder / f"{number:02}.parquet")
    return folder


def outcome(load, *arguments, **given) -> str:
    """ "read", or "refused" after a look at the sentence; any other exception is the finding."""
    try:
        found = load(*arguments, **given)
    except LobesError as error:
        sentence = str(error)
        assert "\n" not in sentence
        assert sentence.endswith((".", "?")), sentence
        sentence.encode()
        return "refused"
    for examples in (found,) if load is load_split else (found.train, found.validation):
        for texts in examples.texts if examples is not None else ():
            "".join(texts).encode()
    return "read"


def load(path: Path, content: bytes, metric: str | None) -> None:
    path.write_bytes(content)
    outcome(load_task, "x", train=path, text="text", metric=metric)
    outcome(load_task, "x", train=path, validation=path, text="text", labels=("0", "1"))
    outcome(load_split, "x", "test", train=path, test=path, text="text")
    outcome(
        load_task,
        "x",
        train=path,
        validation=path,
        text="a",
        columns={"a": "text"},
        label_map={"0": "no", "1": "yes", "a": "no"},
        leave_out={"a": ["", "None"]},
        fold_labels=True,
        metric=metric,
    )


def load_as(path: Path, content: bytes, **given: object) -> None:
    path.write_bytes(content)
    outcome(load_task, "x", train=path, text="text", **given)
    given |= {"labels": ("0", "1"), "leave_out": {"label": ["", -1]}, "filter": {"label": [0, "1"]}}
    outcome(load_task, "x", train=path, validation=path, text="text", fold_labels=True, **given)


METRICS = st.sampled_from([None, "accuracy", "spearman"])


@fuzz
@given(content=delimited(","), metric=METRICS)
def test_csv(tmp_path, content, metric):
    load(tmp_path / "data.csv", content, metric)


@fuzz
@given(content=delimited("\t"), metric=METRICS)
@example(b"text\tlabel\tlabel\na\t1\tb", None)
def test_tsv(tmp_path, content, metric):
    load(tmp_path / "data.tsv", content, metric)


@fuzz
@given(content=json_lines(), metric=METRICS)
@example(b'{"text": "\\ud800", "label": 0}\n{"text": "b", "label": 1}', None)
@example(b'{"text": [], "label": [[]]}', None)
def test_json_lines(tmp_path, content, metric):
    load(tmp_path / "data.jsonl", content, metric)


@briefly
@given(content=json_array(), metric=METRICS, is_gzip=st.booleans())
def test_json_arrays(tmp_path, content, metric, is_gzip):
    content = gzip.compress(content) if is_gzip else content
    load(tmp_path / f"data.json{'.gz' * is_gzip}", content, metric)


@briefly
@given(
    data=st.data(),
    mark=st.sampled_from([";", "|", "\t", ",", " "]),
    quoting=st.sampled_from([None, None, "minimal", "none"]),
    suffix=st.sampled_from(["csv", "tsv", "jsonl"]),
)
def test_delimiters_and_quoting(tmp_path, data, mark, quoting, suffix):
    content = data.draw(quoted(mark))
    given = {"delimiter": data.draw(st.sampled_from([mark, None])), "quoting": quoting}
    load_as(tmp_path / f"data.{suffix}", content, **given)


@briefly
@given(
    content=st.one_of(delimited(","), json_lines(), st.binary(max_size=30)),
    kept=st.sampled_from([None, None, -1, -8, 12, 20]),
    place=st.integers(0, 200),
    change=st.sampled_from([0, 0, 1, 255]),
    suffix=st.sampled_from(["csv", "tsv", "jsonl", "json", "parquet", "txt"]),
)
def test_gzip(tmp_path, content, kept, place, change, suffix):
    packed = bytearray(gzip.compress(content)[:kept])
    packed[place % len(packed)] ^= change
    load_as(tmp_path / f"data.{suffix}.gz", bytes(packed))


@briefly
@given(
    rows=st.lists(st.lists(st.one_of(JSON, st.just("")), max_size=3), max_size=4),
    names=st.lists(CELLS, max_size=3),
    empty=st.booleans(),
)
def test_sheets_of_a_workbook(tmp_path, rows, names, empty):
    """What a workbook's sheets may hold, as its reader gives it: rows as long as the longest."""
    width = max(map(len, [*rows, names]), default=0)
    sheet = [row + [""] * (width - len(row)) for row in [["text", "label", *names][:width], *rows]]
    sheets = {"a": sheet, "b": [] if empty else sheet}

    def read(name, **given):
        found = rows_of_sheets(sheets, ("text",))
        return Task(name, train=found, text="text", **given)

    outcome(read, "x")
    outcome(read, "x", labels=("0", "1"), fold_labels=True)


@briefly
@given(
    changes=st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 255)), max_size=3),
    kept=st.sampled_from([None, None, -1, 300]),
)
def test_workbooks(tmp_path_factory, workbook, changes, kept):
    content = bytearray(workbook)
    for place, value in changes:
        content[place % len(content)] = value
    load_as(tmp_path_factory.mktemp("xlsx") / "data.xlsx", bytes(content[:kept]))


@fuzz
@given(
    number=st.integers(0, 200),
    changes=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=3),
    kept=st.sampled_from([None, None, None, -1, -8, 300]),
    metric=METRICS,
)
def test_parquet(tmp_path, parquet_folder, number, changes, kept, metric):
    files = sorted(parquet_folder.iterdir())
    content = bytearray(files[number % len(files)].read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    load(tmp_path / "data.parquet", bytes(content[:kept]), metric)


@fuzz
@given(
    content=st.binary(max_size=60),
    suffix=st.sampled_from(["csv", "tsv", "jsonl", "json", "csv.gz", "parquet", "xlsx", "txt"]),
)
def test_any_bytes(tmp_path, content, suffix):
    load(tmp_path / f"data.{suffix}", content, None)


@fuzz
@given(name=st.sampled_from(sorted(KNOWN)), data=st.data())
def test_downloads_of_known_tasks(tmp_path_factory, name, data):
    folder = tmp_path_factory.mktemp("known")
    task = KNOWN[name]
    for download in task.downloads:
        content = data.draw(
            st.one_of(delimited("\t"), delimited(","), json_lines(), st.binary(max_size=9))
        )
        for file in download.files.values():
            path = folder / download.folders[0] / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    outcome(load_task, name, data_dir=folder)
    for split in task.splits:
        outcome(load_split, name, split, data_dir=folder)


def test_the_fuzz_reads_and_refuses(tmp_path):
    """The checks above see both outcomes, and would see another exception."""
    path = tmp_path / "data.csv"
    path.write_bytes(b"text,label\na,0\nb,1\n")
    assert outcome(load_task, "x", train=path, validation=path, text="text") == "read"
    path.write_bytes(b"text,label\na\n")
    assert outcome(load_task, "x", train=path, text="text") == "refused"
    with pytest.raises(TypeError):
        outcome(int, [])
