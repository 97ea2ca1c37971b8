"""CSV and TSV as people have them: quotes, delimiters, and headers where none is expected."""

import csv
import io

import pandas as pd
import pytest

from lobes.errors import ConfigError, DataError
from lobes.tasks.sources import load_split, load_task

TEXTS = ['He said "hi"', "plain", '"quoted" at first', 'at last "quoted"', '"all of it"', '""']


def load(path, **given):
    task = load_task("x", train=path, validation=path, text="text", **given)
    return [text for (text,) in task.train.texts]


def written(quoting, delimiter="\t", texts=TEXTS):
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, quoting=quoting, lineterminator="\n")
    writer.writerow(["text", "label"])
    writer.writerows([text, i % 2] for i, text in enumerate(texts))
    return file.getvalue()


@pytest.mark.parametrize("quoting", ["QUOTE_MINIMAL", "QUOTE_ALL", "QUOTE_NONNUMERIC"])
def test_quotes_that_a_program_wrote_are_undone(tmp_path, quoting):
    path = tmp_path / "data.tsv"
    path.write_text(written(getattr(csv, quoting)))
    assert load(path) == TEXTS
    pd.DataFrame({"text": TEXTS, "label": [0, 1] * 3}).to_csv(path, sep="\t", index=False)
    assert load(path) == TEXTS
    wide = [*TEXTS[1:], "two\nlines", "a\ttab"]
    path.write_text(written(getattr(csv, quoting), texts=wide))
    assert load(path, quoting="minimal") == wide
    if quoting != "QUOTE_MINIMAL":
        assert load(path) == wide
        return
    with pytest.raises(DataError, match='where quotes hold a cell together, set quoting = "minim'):
        load(path)


@pytest.mark.parametrize(
    "texts",
    [
        TEXTS,
        ['"all of it"', '"and this"'],
        ['5" tall', '"He said ""hi"""'],
        ['"never closed', "plain"],
        ['closed only"', "plain"],
    ],
)
def test_quotes_that_no_program_wrote_are_characters(tmp_path, texts):
    path = tmp_path / "data.tsv"
    rows = "".join(f"{text}\t{i % 2}\n" for i, text in enumerate(texts))
    path.write_text(f"text\tlabel\n{rows}")
    assert load(path) == texts


def test_quotes_of_glue_are_characters_whatever_they_look_like(tmp_path):
    (tmp_path / "SST-2").mkdir()
    for split in ("train", "dev"):
        text = 'sentence\tlabel\n"He said ""hi"""\t0\n"so"\t1\n'
        (tmp_path / "SST-2" / f"{split}.tsv").write_text(text)
    task = load_task("sst2", data_dir=tmp_path)
    assert task.train.texts == (('"He said ""hi"""',), ('"so"',))


def test_the_settings_say_how_cells_are_told_apart(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text(written(csv.QUOTE_MINIMAL, ";"))
    assert load(path, delimiter=";") == TEXTS
    path.write_text('text|label\n"a|0\nb"|1\n')
    assert load(path, delimiter="|", quoting="none") == ['"a', 'b"']
    split = load_split(
        "x", "test", train=path, test=path, text="text", delimiter="|", quoting="none"
    )
    assert split.labels.tolist() == [0, 1]
    path.write_text(written(csv.QUOTE_MINIMAL, "\t"))
    assert load(path, delimiter="\t") == TEXTS


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"delimiter": ";;"}, "The delimiter is ';;': expected one character, such as ';' or '"),
        ({"delimiter": '"'}, "The delimiter is '\"': expected one character"),
        ({"quoting": "all"}, """The quoting is 'all': expected "minimal" \\(cells in double quo"""),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, given, message):
    with pytest.raises(ConfigError, match=message):
        load(tmp_path / "data.csv", **given)


def test_the_settings_are_for_cells_of_text(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "a", "label": 0}\n')
    with pytest.raises(DataError, match="leave out the settings delimiter and quoting, which are"):
        load(path, delimiter=";")


@pytest.mark.parametrize(
    "header", ["Class Index,Title,Description\n", '"class","title","text"\n', ""]
)
def test_ag_news_with_and_without_a_header(tmp_path, header):
    (tmp_path / "ag_news_csv").mkdir()
    rows = "".join(f'{i % 4 + 1},"T {i}","D {i}"\n' for i in range(8))
    for split in ("train", "test"):
        (tmp_path / "ag_news_csv" / f"{split}.csv").write_text(header + rows)
    task = load_task("ag", data_dir=tmp_path)
    assert task.train.labels.tolist() == [0, 1, 2, 3] * 2
    assert task.train.texts[0] == ("T 0 D 0",)


def test_a_first_line_that_is_no_header_is_not_dropped(tmp_path):
    (tmp_path / "ag_news_csv").mkdir()
    for split in ("train", "test"):
        (tmp_path / "ag_news_csv" / f"{split}.csv").write_text("x,T,D\n1,T,D\n2,T,D\n")
    with pytest.raises(DataError, match="row 0 has the label 'x'"):
        load_task("ag", data_dir=tmp_path)


SNLI = ["pairID", "sentence1", "sentence2"]


def test_the_gold_label_of_snli_is_the_last_cell(tmp_path):
    """GLUE's train.tsv names one annotator's label, but has the labels of one or of five."""
    (tmp_path / "SNLI").mkdir()
    lines = [
        [*SNLI, "label1", "gold_label"],
        ["0", "a", "b", "entailment", "entailment"],
        ["1", "c", "d", "neutral", "entailment", "neutral", "neutral", "neutral", "neutral"],
        ["2", "e", "f", "contradiction", "contradiction"],
        ["3", "g", "h", "neutral", "-"],
    ]
    for split in ("train", "dev", "test"):
        text = "\n".join("\t".join(line) for line in lines)
        (tmp_path / "SNLI" / f"{split}.tsv").write_text(text)
    task = load_task("snli", data_dir=tmp_path)
    assert task.train.labels.tolist() == [0, 1, 2]
    assert task.train.texts == (("a", "b"), ("c", "d"), ("e", "f"))


def test_the_diagnostic_examples_may_lie_beside_mnli(tmp_path):
    (tmp_path / "MNLI").mkdir()
    (tmp_path / "MNLI/diagnostic.tsv").write_text("index\tsentence1\tsentence2\n0\ta\tb\n")
    assert load_split("mnli", "test_diagnostic", data_dir=tmp_path).texts == (("a", "b"),)


def test_a_label_column_that_is_there_twice_is_refused_where_labels_may_be_missing(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("text,label,label\na,0,1\n")
    with pytest.raises(DataError, match="has the column 'label' twice"):
        load_split("x", "test", train=path, test=path, text="text")


@pytest.mark.parametrize(
    "content",
    [
        b"text,label\r\na,0\r\nb,1\r\n",
        b"text,label\ra,0\rb,1",
        b"\xef\xbb\xbftext,label\na,0\nb,1\n",
        b'"text","label"\n"a","0"\n"b","1"',
        b"text,label\n\na,0\n\n\nb,1\n\n",
    ],
    ids=["CRLF", "CR", "byte-order mark", "quotes around all", "blank lines"],
)
def test_the_same_table_however_its_lines_end(tmp_path, content):
    path = tmp_path / "data.csv"
    path.write_bytes(content)
    assert load(path) == ["a", "b"]
    path.write_bytes(b"text,label\na\x00b,0\nc,1\n")
    assert load(path) == ["a\x00b", "c"]
