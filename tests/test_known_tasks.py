"""The known tasks: their facts, and their data from a folder in every layout, and from the hub."""

import json
import re
from pathlib import Path

import datasets
import numpy as np
import pytest

from lobes.config.study import load_study
from lobes.errors import ConfigError, DataError
from lobes.metrics import get_metric
from lobes.tasks.known import KNOWN, XNLI_LANGUAGES, known_task
from lobes.tasks.sources import load_split, load_task

PAIR, NLI, TEXT = ("sentence1", "sentence2"), ("premise", "hypothesis"), ("text",)

# docs/tasks.md: classes (0 for regression), text columns, metrics with the main one first.
TABLE = {
    "cola": (2, ("sentence",), ("matthews",)),
    "sst2": (2, ("sentence",), ("accuracy",)),
    "mrpc": (2, PAIR, ("f1", "accuracy")),
    "qqp": (2, ("question1", "question2"), ("f1", "accuracy")),
    "stsb": (0, PAIR, ("spearman", "pearson")),
    "mnli": (3, NLI, ("accuracy",)),
    "qnli": (2, ("question", "sentence"), ("accuracy",)),
    "rte": (2, PAIR, ("accuracy",)),
    "wnli": (2, PAIR, ("accuracy",)),
    "snli": (3, NLI, ("accuracy",)),
    "scitail": (2, NLI, ("accuracy",)),
    "cmnli": (3, NLI, ("accuracy",)),
    "ag": (4, TEXT, ("accuracy",)),
    "imdb": (2, TEXT, ("accuracy",)),
    "yelp_p": (2, TEXT, ("accuracy",)),
    "yelp_f": (5, TEXT, ("accuracy",)),
    "dbpedia": (14, TEXT, ("accuracy",)),
    "yahoo": (10, TEXT, ("accuracy",)),
    "sogou": (6, TEXT, ("accuracy",)),
    "ag-pair": (2, ("news1", "news2"), ("accuracy",)),
} | {f"xnli-{language}": (3, NLI, ("accuracy",)) for language in XNLI_LANGUAGES}

# What is publicly known of the hub's data sets: columns, and splits besides "train".
HUB = {
    "nyu-mll/glue": (
        "sentence sentence1 sentence2 question question1 question2 premise hypothesis label idx",
        "validation test validation_matched validation_mismatched test_matched test_mismatched",
    ),
    "stanfordnlp/snli": ("premise hypothesis label", "validation test"),
    "allenai/scitail": ("premise hypothesis label", "validation test"),
    "clue/clue": ("sentence1 sentence2 label idx", "validation test"),
    "facebook/xnli": ("premise hypothesis label", "validation test"),
    "fancyzhx/ag_news": ("text label", "test"),
    "stanfordnlp/imdb": ("text label", "test unsupervised"),
    "fancyzhx/yelp_polarity": ("text label", "test"),
    "Yelp/yelp_review_full": ("text label", "test"),
    "fancyzhx/dbpedia_14": ("title content label", "test"),
    "community-datasets/yahoo_answers_topics": (
        "id topic question_title question_content best_answer",
        "test",
    ),
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A folder of data never leads to the hub; tests of the hub put their own loader in place."""

    def load_dataset(*arguments, **settings):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.delenv("LOBES_DATA", raising=False)


def save(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def test_the_table_of_known_tasks():
    assert len(KNOWN) == 35
    for name, task in KNOWN.items():
        n_classes, text, metrics = TABLE[name]
        assert name == task.name
        assert (len(task.labels or ()), task.text) == (n_classes, text)
        assert (task.metric, *task.other_metrics) == metrics
        assert all(get_metric(metric).for_regression == (n_classes == 0) for metric in metrics)
        assert task.splits[0] == "train"
        assert set(task.hidden) <= set(task.splits)
        for source in task.downloads:
            assert set(source.files) <= set(task.splits)
            assert len(source.text) == len(text)


def test_label_names_stand_in_the_order_of_the_published_class_indices():
    first = {name: task.labels[0] for name, task in KNOWN.items() if task.labels}
    assert {name for name, label in first.items() if label == "entailment"} == {
        *("mnli", "qnli", "rte", "snli", "cmnli"),
        *(f"xnli-{language}" for language in XNLI_LANGUAGES),
    }
    negative = ("cola", "sst2", "mrpc", "qqp", "wnli", "imdb", "yelp_p")
    assert [first[name].split("_")[0] for name in negative] == [
        *("unacceptable", "negative", "not", "not", "not", "negative", "negative")
    ]
    assert KNOWN["snli"].labels == ("entailment", "neutral", "contradiction")
    assert KNOWN["ag"].labels == ("World", "Sports", "Business", "Sci/Tech")
    assert KNOWN["ag-pair"].labels == ("same", "different")
    assert KNOWN["scitail"].labels == ("entails", "neutral")


@pytest.mark.parametrize("name", [name for name in KNOWN if KNOWN[name].hub])
def test_columns_and_splits_of_the_hub(name):
    hub = KNOWN[name].hub
    columns, splits = (words.split() for words in HUB[hub.dataset])
    assert {column for part in hub.text for column in part} | {hub.label} <= set(columns)
    assert set(hub.splits) == set(KNOWN[name].splits)
    assert set(hub.splits.values()) <= {"train", *splits}
    configs = {"nyu-mll/glue": name, "facebook/xnli": name[5:], "clue/clue": name}
    configs["allenai/scitail"] = "tsv_format"
    assert hub.config == configs.get(hub.dataset)


def test_both_splits_of_mnli():
    mnli = known_task("mnli")
    assert mnli.validation == "validation_matched"
    assert mnli.splits[1:] == (
        "validation_matched",
        "validation_mismatched",
        "test_matched",
        "test_mismatched",
        "test_diagnostic",
    )


@pytest.mark.parametrize(
    ("name", "hint"), [("ssst2", "Did you mean 'sst2'?"), ("xnli-d", "Did you mean 'xnli-de'?")]
)
def test_a_misspelt_name_is_told_the_nearest(name, hint):
    with pytest.raises(DataError, match="is not a known task") as error:
        known_task(name)
    assert str(error.value).endswith(hint)
    with pytest.raises(ConfigError) as config_error:
        load_task(name)
    assert str(config_error.value).endswith(hint)
    with pytest.raises(DataError, match=r"is not a known task\. The known tasks are cola, sst2, "):
        known_task("%")


GLUE = {
    "cola": ("CoLA", "gj04\t{}\t*\t{}", None, ("index\tsentence", "0\t{}")),
    "sst2": ("SST-2", "{1}\t{0}", "sentence\tlabel", ("index\tsentence", "0\t{}")),
    "mrpc": (
        "MRPC",
        "{}\t1\t2\t{}\tother",
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        ("index\t#1 ID\t#2 ID\t#1 String\t#2 String", "0\t1\t2\t{}\tother"),
    ),
    "qqp": (
        "QQP",
        "7\t1\t2\t{1}\tother\t{0}",
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        ("id\tquestion1\tquestion2", "0\t{}\tother"),
    ),
    "stsb": (
        "STS-B",
        "0\tg\tf\ty\t1\ts\ts\t{1}\tother\t{0}",
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        ("index\tsentence1\tsentence2", "0\t{}\tother"),
    ),
    "qnli": (
        "QNLI",
        "0\t{1}\tother\t{0}",
        "index\tquestion\tsentence\tlabel",
        ("index\tquestion\tsentence", "0\t{}\tother"),
    ),
    "rte": (
        "RTE",
        "0\t{1}\tother\t{0}",
        "index\tsentence1\tsentence2\tlabel",
        ("index\tsentence1\tsentence2", "0\t{}\tother"),
    ),
    "wnli": (
        "WNLI",
        "0\t{1}\tother\t{0}",
        "index\tsentence1\tsentence2\tlabel",
        ("index\tsentence1\tsentence2", "0\t{}\tother"),
    ),
}


@pytest.mark.parametrize("name", GLUE)
@pytest.mark.parametrize("folder", ["as downloaded", "by the task's name"])
def test_the_files_of_glue(tmp_path, name, folder):
    own, row, header, (test_header, test_row) = GLUE[name]
    known = KNOWN[name]
    cells = {"qnli": _names, "rte": _names, "stsb": ("1.25", "4.000")}.get(name, ("1", "0"))
    cells = known.labels[::-1] if cells is _names else cells
    place = tmp_path / (own if folder == "as downloaded" else name)
    texts = ['a "quoted word', "naïve – 東京", '5" tall', "NA"]
    lines = [row.format(cells[i % 2], text) for i, text in enumerate(texts)]
    save(place / "train.tsv", *([header] if header else []), *lines)
    save(place / "dev.tsv", *([header] if header else []), *lines[:2])
    save(place / "test.tsv", test_header, test_row.format("hidden"))
    task = load_task(name, data_dir=tmp_path)
    assert [example[0] for example in task.train.texts] == texts
    assert all(example[1:] == ("other",) * (len(known.text) - 1) for example in task.train.texts)
    assert task.train.labels.tolist() == ([1.25, 4.0] if name == "stsb" else [1, 0]) * 2
    assert len(task.validation) == 2
    test = load_split(name, "test", data_dir=tmp_path)
    assert (test.texts[0][0], test.labels) == ("hidden", None)


_names = object()


def test_lines_of_qqp_that_are_cut_short_are_left_out(tmp_path):
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"
    for name in ("train", "dev"):
        save(
            tmp_path / "QQP" / f"{name}.tsv",
            header,
            "1\t1\t2\ta\tb\t1",
            "2\t1\t2\ta",
            "3\t1\t2\tc\td\t0",
        )
    task = load_task("qqp", data_dir=tmp_path)
    assert task.train.texts == (("a", "b"), ("c", "d"))


@pytest.mark.parametrize("kind", ["TSV", "JSON lines"])
def test_both_halves_of_mnli_and_pairs_without_a_gold_label(tmp_path, kind):
    rows = [(f"p{i}", f"h{i}", label) for i, label in enumerate("ecn-")]
    names = {"e": "entailment", "n": "neutral", "c": "contradiction", "-": "-"}
    for split in ("train", "dev_matched", "dev_mismatched"):
        triples = [(f"{split} {p}", h, names[label]) for p, h, label in rows]
        if kind == "TSV":
            header = "index\tsentence1\tsentence2\tlabel1\tgold_label"
            lines = [f"0\t{p}\t{h}\t{label}\t{label}" for p, h, label in triples]
            save(tmp_path / "MNLI" / f"{split}.tsv", header, *lines)
        else:
            keys = ("sentence1", "sentence2", "gold_label")
            lines = [json.dumps(dict(zip(keys, triple, strict=True))) for triple in triples]
            save(tmp_path / "multinli_1.0" / f"multinli_1.0_{split}.jsonl", *lines)
    task = load_task("mnli", data_dir=tmp_path)
    assert task.train.labels.tolist() == [0, 2, 1]
    assert task.validation.texts[0] == ("dev_matched p0", "h0")
    other = load_task("mnli", data_dir=tmp_path, validation="validation_mismatched")
    assert other.validation.texts[0] == ("dev_mismatched p0", "h0")
    with pytest.raises(DataError, match="has no split 'dev': expected one of train, validation_m"):
        load_task("mnli", data_dir=tmp_path, validation="dev")


def test_the_folders_of_imdb(tmp_path):
    for split in ("train", "test"):
        for label in ("neg", "pos"):
            for number in (10, 2):
                save(
                    tmp_path / "aclImdb" / split / label / f"{number}_7.txt", f"{label} é {number}"
                )
    save(tmp_path / "aclImdb" / "train" / "unsup" / "0_0.txt", "no label")
    task = load_task("imdb", data_dir=tmp_path)
    assert task.train.texts == (("neg é 10\n",), ("neg é 2\n",), ("pos é 10\n",), ("pos é 2\n",))
    assert task.validation.labels.tolist() == [0, 0, 1, 1]
    (tmp_path / "aclImdb" / "test" / "pos" / "2_7.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"'.*2_7.txt' is not UTF-8: byte 0xe9 at offset 3"):
        load_task("imdb", data_dir=tmp_path)
    for path in (tmp_path / "aclImdb" / "test" / "pos").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"no text file in .*labeled 'positive': unpack"):
        load_task("imdb", data_dir=tmp_path)


def test_the_files_of_snli(tmp_path):
    for split in ("train", "dev", "test"):
        lines = [
            json.dumps({"gold_label": label, "sentence1": f"{split} {i}", "sentence2": "h"})
            for i, label in enumerate(("neutral", "-", "contradiction", "entailment"))
        ]
        save(tmp_path / "snli_1.0" / f"snli_1.0_{split}.jsonl", *lines)
    task = load_task("snli", data_dir=tmp_path)
    assert task.train.texts == (("train 0", "h"), ("train 2", "h"), ("train 3", "h"))
    assert task.train.labels.tolist() == [1, 2, 0]
    test = load_split("snli", "test", data_dir=tmp_path)
    assert test.labels.tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("name", "folder", "cells", "text"),
    [
        ("ag", "ag_news_csv", '"{}","A title","And, more"', "A title And, more"),
        ("yelp_p", "yelp_review_polarity_csv", '"{}","A ""good"" one"', 'A "good" one'),
        ("dbpedia", "dbpedia_csv", '{},"Title"," text"', "Title  text"),
        ("yahoo", "yahoo_answers_csv", '"{}","q","","a"', "q a"),
    ],
)
def test_corpora_of_topics_as_csv(tmp_path, name, folder, cells, text):
    n_classes = len(KNOWN[name].labels)
    lines = [cells.format(i) for i in range(1, n_classes + 1)]
    save(tmp_path / folder / "train.csv", *lines)
    save(tmp_path / folder / "test.csv", *lines[::-1])
    task = load_task(name, data_dir=tmp_path)
    assert task.train.texts[0] == (text,)
    assert task.train.labels.tolist() == list(range(n_classes))
    assert task.validation.labels.tolist() == list(range(n_classes))[::-1]
    save(tmp_path / folder / "train.csv", lines[0], cells.format(n_classes + 1))
    with pytest.raises(DataError, match=f"row 1 has the label '{n_classes + 1}' in column 'label'"):
        load_task(name, data_dir=tmp_path)


def test_the_files_of_xnli_scitail_and_cmnli(tmp_path):
    lines = [
        json.dumps({"language": language, "gold_label": label, "sentence1": "p", "sentence2": "h"})
        for language in ("de", "fr")
        for label in ("neutral", "contradiction", "entailment")
    ]
    save(tmp_path / "XNLI-1.0" / "xnli.dev.jsonl", *lines)
    train = ("premise\thypo\tlabel", "p\th\tcontradictory", "p\th\tneutral")
    save(tmp_path / "XNLI-MT-1.0" / "multinli" / "multinli.train.de.tsv", *train)
    german = load_task("xnli-de", data_dir=tmp_path)
    assert german.train.labels.tolist() == [2, 1]
    assert german.validation.labels.tolist() == [1, 2, 0]
    assert load_task("xnli-fr", data_dir=tmp_path).train is None
    for split in ("train", "dev"):
        save(
            tmp_path / "SciTailV1.1" / "tsv_format" / f"scitail_1.0_{split}.tsv",
            "p\th\tneutral",
            "p\th\tentails",
        )
        save(
            tmp_path / "cmnli_public" / f"{split}.json",
            *(
                json.dumps({"sentence1": "一", "sentence2": "二", "label": label})
                for label in ("neutral", "-", "contradiction")
            ),
        )
    assert load_task("scitail", data_dir=tmp_path).train.labels.tolist() == [1, 0]
    assert load_task("cmnli", data_dir=tmp_path).train.labels.tolist() == [1, 2]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_the_tasks_own_columns_in_any_kind_of_file(tmp_path, suffix):
    rows = [("a", "0"), ("b", "positive" if suffix == "tsv" else "1")]
    rows = [("a", "negative"), rows[1]] if suffix == "tsv" else rows
    for split in ("train", "validation"):
        path = tmp_path / "sst2" / f"{split}.{suffix}"
        if suffix == "jsonl":
            save(path, *(json.dumps({"sentence": t, "label": int(n)}) for t, n in rows))
        else:
            mark = "," if suffix == "csv" else "\t"
            save(path, mark.join(("sentence", "label")), *map(mark.join, rows))
    task = load_task("sst2", data_dir=tmp_path)
    assert task.train.texts == (("a",), ("b",))
    assert task.train.labels.tolist() == [0, 1]


def test_one_word_may_stand_before_the_suffix_and_two_files_are_refused(tmp_path):
    rows = ("sentence\tlabel", "a\t0", "b\t1")
    save(tmp_path / "sst2" / "train.half.tsv", *rows)
    save(tmp_path / "sst2" / "validation.tsv", *rows)
    assert len(load_task("sst2", data_dir=tmp_path).train) == 2
    save(tmp_path / "sst2" / "train.third.tsv", *rows)
    save(tmp_path / "sst2" / "train.csv", "sentence,label", "a,0", "b,1", "c,1")
    assert len(load_task("sst2", data_dir=tmp_path).train) == 3
    (tmp_path / "sst2" / "train.csv").unlink()
    with pytest.raises(DataError) as error:
        load_task("sst2", data_dir=tmp_path)
    assert str(error.value) == (
        f"Task 'sst2': train: '{tmp_path / 'sst2'}' has 2 files for train: 'train.half.tsv', "
        f"'train.third.tsv'; keep one, or name it with train=… and validation=…."
    )


def test_the_matched_split_of_mnli_may_leave_the_word_out(tmp_path):
    rows = ("premise\thypothesis\tlabel", "a\tb\t0", "c\td\t2")
    for split in ("train", "validation", "test"):
        save(tmp_path / "mnli" / f"{split}.tsv", *rows)
    save(tmp_path / "mnli" / "validation_mismatched.tsv", *rows, "e\tf\t1")
    assert len(load_task("mnli", data_dir=tmp_path).validation) == 2
    assert len(load_split("mnli", "validation_mismatched", data_dir=tmp_path)) == 3
    assert len(load_split("mnli", "test", data_dir=tmp_path)) == 2


def test_a_folder_without_the_task_never_leads_to_the_hub(tmp_path, monkeypatch):
    (tmp_path / "sst-2").mkdir()
    with pytest.raises(DataError) as error:
        load_task("sst2", data_dir=tmp_path)
    assert str(error.value) == (
        f"Task 'sst2': validation: '{tmp_path}' has no file for validation: expected "
        f"sst2/validation.parquet (or .csv, .tsv, .jsonl) or SST-2/dev.tsv. Did you mean 'sst-2'?"
    )
    monkeypatch.setenv("LOBES_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"train: There is no folder '.*nowhere' with the data of"):
        load_task("sst2")
    monkeypatch.delenv("LOBES_DATA")
    with pytest.raises(DataError, match="'sogou': train: The data are not on the hub: name the fo"):
        load_task("sogou")


def test_what_is_known_is_not_described_again(tmp_path):
    with pytest.raises(ConfigError, match="Task 'sst2' is a known task, whose columns and labels"):
        load_task("sst2", text="sentence", data_dir=tmp_path)
    with pytest.raises(ConfigError, match="Task 'sst2' has no text columns: name one or two"):
        load_task("sst2", train="x.csv")


def hub(monkeypatch, **columns):
    """Put in place of the hub one that gives these columns; returns what was asked of it."""
    asked = []
    names = columns.pop("names", None)

    def load_dataset(dataset, config, *, split):
        asked.append((dataset, config, split))
        data = datasets.Dataset.from_dict(columns)
        return data.cast_column("label", datasets.ClassLabel(names=names)) if names else data

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_the_hub_is_asked_for_the_right_splits(monkeypatch):
    asked = hub(monkeypatch, premise=["a", "b"], hypothesis=["c", "d"], label=[0, 2])
    load_task("mnli", validation="validation_mismatched")
    assert asked == [
        ("nyu-mll/glue", "mnli", "train"),
        ("nyu-mll/glue", "mnli", "validation_mismatched"),
    ]
    asked.clear()
    load_task("xnli-sw")
    assert asked == [("facebook/xnli", "sw", "train"), ("facebook/xnli", "sw", "validation")]
    hub(monkeypatch, premise=["a"], hypothesis=["c"], label=[-1])
    assert load_split("mnli", "test").labels is None


def test_label_numbers_of_the_hub_are_read_by_name(monkeypatch):
    names = ["neutral", "entailment", "contradiction"]
    hub(
        monkeypatch,
        sentence1=["a", "b", "c", "d"],
        sentence2=["e", "f", "g", "h"],
        label=[0, 1, -1, 2],
        names=names,
    )
    task = load_task("cmnli")
    assert task.train.texts == (("a", "e"), ("b", "f"), ("d", "h"))
    assert task.train.labels.tolist() == [1, 0, 2]


def test_columns_of_the_hub_that_make_one_text(monkeypatch):
    asked = hub(monkeypatch, title=["T", "U"], content=["one", ""], label=[13, 0])
    task = load_task("dbpedia")
    assert asked[1] == ("fancyzhx/dbpedia_14", None, "test")
    assert task.train.texts == (("T one",), ("U",))
    assert task.train.labels.tolist() == [13, 0]


def test_a_stratified_sample_has_the_classes_in_their_shares(tmp_path):
    labels = [0] * 60 + [1] * 30 + [2] * 7
    for split in ("train", "validation"):
        lines = [f"text {i},{label}" for i, label in enumerate(labels)]
        save(tmp_path / f"{split}.csv", "text,label", *lines)
    given = {"train": "train.csv", "validation": "validation.csv", "folder": tmp_path}
    drawn = [
        load_task("x", **given, text="text", train_size=31, stratified=True, seed=seed).train
        for seed in (0, 0, 1)
    ]
    assert np.bincount(drawn[0].labels).tolist() == [19, 10, 2]
    assert drawn[0].texts == drawn[1].texts != drawn[2].texts
    with pytest.raises(ConfigError, match="a regression has no classes to draw from"):
        load_task("x", **given, text="text", metric="pearson", train_size=31, stratified=True)


def test_columns_labels_and_rows_may_be_chosen(tmp_path):
    rows = ["Text A,grade,year,language", "a,pos,1999,de", "b,neg,2000,de", "c,?,2000,de"]
    rows += ["d,pos,2001,en", "e,pos,2000,fr"]
    save(tmp_path / "data.csv", *rows)
    path = tmp_path / "data.csv"
    given = {
        "train": path,
        "validation": path,
        "text": "text",
        "columns": {"text": "Text A", "label": "grade"},
        "labels": ("bad", "good"),
        "label_map": {"pos": "good", "neg": "bad"},
    }
    task = load_task("x", **given, filter={"language": ["de", "en"]}, leave_out={"grade": "?"})
    assert task.train.texts == (("a",), ("b",), ("d",))
    assert task.train.labels.tolist() == [1, 0, 1]
    one = load_task(
        "x", **given, filter={"year": 2000, "language": ("de", "fr")}, leave_out={"label": "?"}
    )
    assert one.train.texts == (("b",), ("e",))
    with pytest.raises(DataError) as error:
        load_task("x", **given)
    assert str(error.value) == (
        "Task 'x': train row 2 of those that are kept has the label '?', which label_map lacks: "
        "it has 'pos', 'neg'; add it, or leave such rows out."
    )
    with pytest.raises(DataError, match="has 5 rows, none of which the filter keeps; check"):
        load_task("x", **given, filter={"language": "it"})
    with pytest.raises(DataError, match=r"has no column 'langage'.* Did you mean 'language'\?"):
        load_task("x", **given, filter={"langage": "it"})


def test_classes_of_a_data_set_go_by_their_names(monkeypatch):
    hub(monkeypatch, text=["a", "b", "c"], label=[2, 0, 1], names=["no", "maybe", "yes"])
    task = load_task(
        "x", dataset="org/x", text="text", validation="test", leave_out={"label": "maybe"}
    )
    assert task.labels == ("no", "yes")
    assert task.train.texts == (("a",), ("b",))
    own = {"labels": ("nein", "vielleicht", "ja"), "leave_out": {"text": "b"}}
    renamed = load_task("x", dataset="org/x", text="text", validation="test", **own)
    assert renamed.train.labels.tolist() == [2, 1]
    mapped = {"labels": ("-", "+"), "label_map": {"no": "-", "maybe": "-", "yes": "+"}}
    two = load_task("x", dataset="org/x", text="text", validation="test", **mapped)
    assert two.train.labels.tolist() == [1, 0, 0]


def test_a_split_of_ones_own_needs_no_labels(tmp_path):
    save(tmp_path / "train.csv", "text,label", "a,0", "b,1")
    save(tmp_path / "test.csv", "text", "c")
    given = {"train": tmp_path / "train.csv", "text": "text"}
    split = load_split("x", "test", **given, test=tmp_path / "test.csv")
    assert (split.texts, split.labels) == ((("c",),), None)
    assert load_split("x", "train", **given).labels.tolist() == [0, 1]
    for split in ("test", "dev"):
        with pytest.raises(ConfigError, match=f"names no file for the split '{split}': give it"):
            load_split("x", split, **given)


def test_labels_of_a_split_are_numbered_as_those_of_the_training_data(tmp_path):
    save(tmp_path / "train.csv", "text,label", "a,x", "b,y", "c,z")
    save(tmp_path / "test.csv", "text,label", "d,z", "e,z")
    given = {"train": tmp_path / "train.csv", "test": tmp_path / "test.csv", "text": "text"}
    assert load_split("x", "test", **given).labels.tolist() == [2, 2]
    save(tmp_path / "test.csv", "text,label", "d,z", "e,w")
    with pytest.raises(DataError, match="'x': test row 1 has the label 'w' in column 'label', wh"):
        load_split("x", "test", **given)


PAGE = (Path(__file__).parents[1] / "docs" / "tasks.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("block", re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL))
def test_the_studies_of_the_page_can_be_read(tmp_path, block):
    path = tmp_path / "study.toml"
    path.write_text(("" if "model =" in block else 'model = "m"\n') + block, encoding="utf-8")
    assert load_study(path).tasks


def test_the_page_lists_every_known_task_and_download():
    for name, task in KNOWN.items():
        assert name.startswith("xnli-") or f"`{name}`" in PAGE
        for download in task.downloads:
            assert f"{download.folders[0]}/" in PAGE
