"""`lobes ag-pair`: corpora in every format become files of pairs."""

import csv
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from lobes.errors import ConfigError, DataError, LobesError, RunError
from lobes.experiments.ag_pair import make_pairs
from lobes.tasks.ag_pair import ag_pairs
from lobes.tasks.sources import load_split, load_task

TOPICS = ("World", "Sports", "Business", "Sci/Tech")


@pytest.fixture
def news(tmp_path):
    """AG's News as it is handed out: class, title, description, all in quotes, no header."""
    path = tmp_path / "train.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        for number in range(41):
            title = f'"Quoted" title {number}, é'
            writer.writerow([number % 4 + 1, title, f"line one of {number}\nand tab\ttoo"])
    return path


def articles(news) -> list[str]:
    with news.open(encoding="utf-8", newline="") as file:
        return [f"{title} - {text}" for _, title, text in csv.reader(file)]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_ag_news_becomes_the_known_task(news, tmp_path, suffix):
    target = tmp_path / "shelf" / "ag-pair" / f"train.{suffix}"
    record = make_pairs(news, target, seed=3)
    assert record == {
        "articles": 41,
        "topics": {"Business": 10, "Sci/Tech": 10, "Sports": 10, "World": 11},
        "pairs": 41,
        "same": 20,
        "different": 21,
        "seed": 3,
        "file": str(target),
    }
    split = load_split("ag-pair", "train", data_dir=tmp_path / "shelf")
    expected = ag_pairs(articles(news), [TOPICS[i % 4] for i in range(41)], seed=3).examples()
    assert split.texts == expected.texts
    assert split.labels.tolist() == expected.labels.tolist()
    words = Counter(text for pair in split.texts for text in pair)
    assert words == Counter(articles(news) * 2)


def test_any_file_with_topics(tmp_path):
    rows = [{"head": f"h{i}", "body": f"b{i}", "section": f"s{i % 3}"} for i in range(24)]
    source = tmp_path / "news.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    record = make_pairs(source, tmp_path / "out.tsv", text=["head", "body"], topic="section")
    assert record["topics"] == {"s0": 8, "s1": 8, "s2": 8}
    task = load_task(
        "pairs",
        train=tmp_path / "out.tsv",
        text=["news1", "news2"],
        labels=["same", "different"],
        seed=1,
    )
    both = [*task.train.texts, *task.validation.texts]
    assert Counter(text for pair in both for text in pair) == {f"h{i} - b{i}": 2 for i in range(24)}


def test_whole_numbers_are_topics(tmp_path):
    table = pyarrow.table({"text": [f"t{i}" for i in range(8)], "label": [i % 2 for i in range(8)]})
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    record = make_pairs(tmp_path / "in.parquet", tmp_path / "out.csv")
    assert record["topics"] == {"0": 4, "1": 4}
    assert record["same"] == 4


def test_what_cannot_be_paired_leaves_nothing(news, tmp_path):
    target = tmp_path / "out" / "pairs.csv"
    lines = ["text,label", *(f"t{i},{'rare' if i == 8 else 'common'}" for i in range(9))]
    (tmp_path / "one.csv").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "five.csv").write_text('"1","a","b"\n"5","c","d"\n', encoding="utf-8")
    (tmp_path / "real.csv").write_text("text,label\na,0.5\nb,0.25\n", encoding="utf-8")
    table = pyarrow.table({"text": ["a", "b"], "label": [0.5, 1.0]})
    pyarrow.parquet.write_table(table, tmp_path / "real.parquet")
    (tmp_path / "there.csv").write_text("mine", encoding="utf-8")
    for source, other, options, kind, sentence in (
        ("one.csv", target, {}, DataError, "has no AG-Pair: The topic 'common' has 8 of 9 article"),
        ("five.csv", target, {}, DataError, "row 1 (from 0) has the class '5': AG's News has the"),
        ("real.parquet", target, {}, DataError, "numbers with a fraction in the column 'label'"),
        ("one.csv", target, {"topic": "labl"}, DataError, "Did you mean 'label'?"),
        ("train.csv", target.with_suffix(".tsv"), {}, DataError, "row 0 (from 0) has a tab or a"),
        ("train.csv", target.with_suffix(".xls"), {}, ConfigError, "expected one of .csv, .tsv, "),
        ("train.csv", tmp_path / "there.csv", {}, RunError, "is there already; choose another"),
        ("none.csv", target, {}, DataError, "There is no file 'none.csv'"),
    ):
        with pytest.raises(LobesError) as error:
            make_pairs(tmp_path / source, other, **options)
        assert isinstance(error.value, kind)
        assert sentence in str(error.value)
    assert not target.parent.exists()
    assert (tmp_path / "there.csv").read_text(encoding="utf-8") == "mine"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no peak memory to be read")
def test_memory_stays_near_the_size_of_the_corpus(tmp_path):
    """The pairs are written as they come: only the articles are held, and once."""
    script = (
        "import re, sys\n"
        "from pathlib import Path\n"
        "from lobes.experiments.ag_pair import make_pairs\n"
        "make_pairs(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "status = Path('/proc/self/status').read_text()\n"
        "print(1024 * int(re.search(r'VmHWM:\\s+(\\d+) kB', status).group(1)))\n"
    )

    def peak(number: int, suffix: str) -> int:
        words = " ".join(map(str, np.random.default_rng(0).integers(10**6, size=300)))
        table = pyarrow.table(
            {
                "text": [f"{i} {words}" for i in range(number)],
                "label": [i % 4 for i in range(number)],
            }
        )
        source = tmp_path / f"{number}.parquet"
        pyarrow.parquet.write_table(table, source, compression="zstd")
        target = tmp_path / f"{number}.{suffix}"
        arguments = [sys.executable, "-c", script, str(source), str(target)]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        return int(done.stdout)

    small, large = peak(100, "csv"), peak(20_000, "csv")
    corpus = (tmp_path / "20000.csv").stat().st_size / 2
    assert large - small < 5 * corpus
