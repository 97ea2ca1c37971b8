"""The 35 known tasks (docs/tasks.md): what each is, and where its data are published.

`KNOWN` holds them by name. A task's facts are one frozen value: its text columns, its label names
in the order of the class indices, its metrics, its splits, the hub's data set with the names that
columns and splits have there, and the files of its original download. Nothing here reads data:
`sources.py` does, from the hub, and `folders.py`, from a local folder.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypeVar

from lobes.errors import DataError
from lobes.tasks.columns import suggest

# A column of a file: its name, or its number (from 0) where the file has no header.
Column = str | int
C = TypeVar("C", str, Column)


_SPLITS = _TRAIN, _DEV, _TEST = "train", "validation", "test"


@dataclass(frozen=True, slots=True)
class HubSource:
    """A task's data set on the hub.

    `text[i]` are the hub's columns whose texts, joined by a blank, are text column i of the task.
    `splits` leads from the task's splits to
    the hub's, and `configs` from splits that are in another configuration to that.
    """

    dataset: str
    config: str | None
    text: tuple[tuple[str, ...], ...]
    label: str = "label"
    splits: Mapping[str, str] = field(
        default_factory=lambda: {split: split for split in _SPLITS}, hash=False
    )
    configs: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Download:
    """The files of a task's original download, in a folder named as one of `folders`.

    `files` leads from the task's splits to file names, `text` is as in `HubSource`. Files of the
    splits `headless` have no header, and columns by number; `test_text` are the columns of test
    files that differ. Classes that are numbers begin at `first_class`; `spelling` leads from other
    spellings of labels to the task's own, and rows labeled `no_label` are left out. `only` keeps
    the rows that hold a value in a column. With `ragged`, lines with too few cells are left out,
    as every reader of that file does. With `label_last`, a line may have more labels than the
    header has names, and the label that counts is its last cell.

    With `by_folder`, `files` are folders: each of their folders named there holds one text file
    for each example of one label, {"neg": "negative", …}.
    """

    folders: tuple[str, ...]
    files: Mapping[str, str] = field(hash=False)
    text: tuple[tuple[Column, ...], ...]
    label: Column = "label"
    headless: tuple[str, ...] = ()
    test_text: tuple[tuple[Column, ...], ...] | None = None
    first_class: int = 0
    spelling: Mapping[str, str] = field(default_factory=dict, hash=False)
    no_label: str | None = None
    only: tuple[str, str] | None = None
    ragged: bool = False
    label_last: bool = False
    by_folder: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class KnownTask:
    """One of the known tasks.

    `labels` are the class names in the order of the class indices, None for regression. `metric`
    is the main metric. `hidden` are the splits that are published without labels.
    """

    name: str
    text: tuple[str, ...]
    labels: tuple[str, ...] | None
    metric: str = "accuracy"
    other_metrics: tuple[str, ...] = ()
    splits: tuple[str, ...] = ("train", "validation", "test")
    hidden: tuple[str, ...] = ()
    hub: HubSource | None = None
    downloads: tuple[Download, ...] = ()
    label: str = "label"

    @property
    def validation(self) -> str:
        """The split that is the validation data unless another is named."""
        return next(split for split in self.splits if split.startswith("validation"))

    def split(self, name: str) -> str:
        """Return the split called `name`; the first word of a split's name is enough.

        Raises DataError where there is no such split.
        """
        for split in self.splits:
            if split == name or split.startswith(f"{name}_"):
                return split
        raise DataError(
            f"Task {self.name!r} has no split {name!r}: expected one of {', '.join(self.splits)}."
        )


def known_task(name: str) -> KnownTask:
    """Return the known task called `name`; DataError, with the nearest name, for another name."""
    if name not in KNOWN:
        raise DataError(
            f"{name!r} is not a known task."
            + (suggest(name, KNOWN) or f" The known tasks are {', '.join(KNOWN)}.")
        )
    return KNOWN[name]


_LANGUAGES = "ar, bg, de, el, en, es, fr, hi, ru, sw, th, tr, ur, vi, zh"
XNLI_LANGUAGES = tuple(_LANGUAGES.split(", "))

_WORDS = ("train", "dev", "test")
_PAIR = ("sentence1", "sentence2")
_NLI = ("premise", "hypothesis")
_THREE_WAY = ("entailment", "neutral", "contradiction")
_TWO_WAY = ("entailment", "not_entailment")
_MNLI_SPLITS = (
    "train",
    "validation_matched",
    "validation_mismatched",
    "test_matched",
    "test_mismatched",
    "test_diagnostic",
)


def _each(columns: tuple[C, ...]) -> tuple[tuple[C, ...], ...]:
    """Texts of one column each."""
    return tuple((column,) for column in columns)


def _named(pattern: str) -> dict[str, str]:
    """The files of the three splits, by the words that corpora call them by."""
    return {split: pattern.format(name) for split, name in zip(_SPLITS, _WORDS, strict=True)}


def _glue(
    name: str,
    folder: str,
    text: tuple[str, ...],
    labels: tuple[str, ...] | None,
    *,
    metrics: tuple[str, ...] = ("accuracy",),
    file_text: tuple[Column, ...] | None = None,
    open_test: bool = False,
    **download: Any,
) -> KnownTask:
    """A task of GLUE: on the hub in one data set, in the download one folder of TSV files."""
    test_text = _each(text) if "headless" in download else None
    files = Download(
        (folder,), _named("{}.tsv"), _each(file_text or text), test_text=test_text, **download
    )
    return KnownTask(
        name,
        text,
        labels,
        metrics[0],
        metrics[1:],
        hidden=() if open_test else (_TEST,),
        hub=HubSource("nyu-mll/glue", name, _each(text)),
        downloads=(files,),
    )


def _gold(folder: str, files: Mapping[str, str], **download: Any) -> Download:
    """Files of pairs with a gold label, which is "-" where the annotators disagreed."""
    return Download((folder,), files, _each(_PAIR), "gold_label", **{"no_label": "-", **download})


def _mnli() -> KnownTask:
    tsv = {split: f"{split.replace('validation', 'dev')}.tsv" for split in _MNLI_SPLITS[:5]}
    lines = {
        split: f"multinli_1.0_{split.replace('validation', 'dev')}.jsonl"
        for split in _MNLI_SPLITS[:3]
    }
    # GLUE's diagnostic examples, which a model trained on MNLI answers
    diagnostic = (("AX", "AX.tsv"), ("diagnostic", "diagnostic.tsv"), ("MNLI", "diagnostic.tsv"))
    hub = HubSource(
        "nyu-mll/glue",
        "mnli",
        _each(_NLI),
        splits={**{split: split for split in _MNLI_SPLITS}, "test_diagnostic": "test"},
        configs={"test_diagnostic": "ax"},
    )
    downloads = (
        _gold("MNLI", tsv, label_last=True),
        _gold("multinli_1.0", lines),
        *(_gold(folder, {"test_diagnostic": file}, no_label=None) for folder, file in diagnostic),
    )
    return KnownTask(
        "mnli",
        _NLI,
        _THREE_WAY,
        splits=_MNLI_SPLITS,
        hidden=_MNLI_SPLITS[3:],
        hub=hub,
        downloads=downloads,
    )


def _xnli(language: str) -> KnownTask:
    """XNLI in one language; its training data are those of MNLI, translated by machine."""
    people = {_DEV: "xnli.dev.jsonl", _TEST: "xnli.test.jsonl"}
    machine = Download(
        ("XNLI-MT-1.0",),
        {_TRAIN: f"multinli/multinli.train.{language}.tsv"},
        _each(("premise", "hypo")),
        spelling={"contradictory": "contradiction"},
    )
    hub = HubSource("facebook/xnli", language, _each(_NLI))
    downloads = (_gold("XNLI-1.0", people, only=("language", language)), machine)
    return KnownTask(f"xnli-{language}", _NLI, _THREE_WAY, hub=hub, downloads=downloads)


def _topics(
    name: str,
    labels: tuple[str, ...],
    dataset: str,
    *columns: str,
    label: str = "label",
    folder: str | None = None,
    n_cells: int = 1,
) -> KnownTask:
    """A corpus without a validation set, whose official test set takes its place.

    So do the published code and the literature on these corpora. In the download, CSV files
    without a header: a class from 1, then `n_cells` cells of text.
    """
    hub = HubSource(dataset, None, (columns,), label, {_TRAIN: "train", _DEV: "test"})
    downloads: tuple[Download, ...] = ()
    if folder is not None:
        files = {_TRAIN: "train.csv", _DEV: "test.csv"}
        text = (tuple(range(1, n_cells + 1)),)
        downloads = (Download((folder,), files, text, 0, headless=(_TRAIN, _DEV), first_class=1),)
    return KnownTask(name, ("text",), labels, splits=(_TRAIN, _DEV), hub=hub, downloads=downloads)


def _imdb() -> KnownTask:
    """One file for each review, in a folder for each label."""
    task = _topics("imdb", ("negative", "positive"), "stanfordnlp/imdb", "text")
    files = {_TRAIN: "train", _DEV: "test"}
    by_folder = {"neg": "negative", "pos": "positive"}
    return replace(
        task, downloads=(Download(("aclImdb",), files, (("text",),), by_folder=by_folder),)
    )


_STARS = ("1 star", "2 stars", "3 stars", "4 stars", "5 stars")
_DBPEDIA = (
    "Company",
    "EducationalInstitution",
    "Artist",
    "Athlete",
    "OfficeHolder",
    "MeanOfTransportation",
    "Building",
    "NaturalPlace",
    "Village",
    "Animal",
    "Plant",
    "Album",
    "Film",
    "WrittenWork",
)
_YAHOO = (
    "Society & Culture",
    "Science & Mathematics",
    "Health",
    "Education & Reference",
    "Computers & Internet",
    "Sports",
    "Business & Finance",
    "Entertainment & Music",
    "Family & Relationships",
    "Politics & Government",
)
# The six classes of Sun et al. (2019), who cut this corpus; it is not on the hub.
_SOGOU = ("sports", "house", "business", "entertainment", "women", "technology")

_TASKS = (
    _glue(
        "cola",
        "CoLA",
        ("sentence",),
        ("unacceptable", "acceptable"),
        metrics=("matthews",),
        file_text=(3,),
        label=1,
        headless=(_TRAIN, _DEV),
    ),
    _glue("sst2", "SST-2", ("sentence",), ("negative", "positive")),
    _glue(
        "mrpc",
        "MRPC",
        _PAIR,
        ("not_equivalent", "equivalent"),
        metrics=("f1", "accuracy"),
        file_text=("#1 String", "#2 String"),
        label="Quality",
        open_test=True,
    ),
    _glue(
        "qqp",
        "QQP",
        ("question1", "question2"),
        ("not_duplicate", "duplicate"),
        metrics=("f1", "accuracy"),
        label="is_duplicate",
        ragged=True,
    ),
    _glue("stsb", "STS-B", _PAIR, None, metrics=("spearman", "pearson"), label="score"),
    _mnli(),
    _glue("qnli", "QNLI", ("question", "sentence"), _TWO_WAY),
    _glue("rte", "RTE", _PAIR, _TWO_WAY),
    _glue("wnli", "WNLI", _PAIR, ("not_entailment", "entailment")),
    KnownTask(
        "snli",
        _NLI,
        _THREE_WAY,
        hub=HubSource("stanfordnlp/snli", None, _each(_NLI)),
        downloads=(
            _gold("snli_1.0", _named("snli_1.0_{}.jsonl"), label_last=True),
            _gold("SNLI", _named("{}.tsv"), label_last=True),
        ),
    ),
    KnownTask(
        "scitail",
        _NLI,
        ("entails", "neutral"),
        hub=HubSource("allenai/scitail", "tsv_format", _each(_NLI)),
        downloads=(
            Download(
                ("SciTailV1.1",),
                _named("tsv_format/scitail_1.0_{}.tsv"),
                ((0,), (1,)),
                2,
                headless=_SPLITS,
            ),
        ),
    ),
    KnownTask(
        "cmnli",
        _NLI,
        _THREE_WAY,
        hidden=(_TEST,),
        hub=HubSource("clue/clue", "cmnli", _each(_PAIR)),
        downloads=(Download(("cmnli_public",), _named("{}.json"), _each(_PAIR), no_label="-"),),
    ),
    *map(_xnli, XNLI_LANGUAGES),
    _topics(
        "ag",
        ("World", "Sports", "Business", "Sci/Tech"),
        "fancyzhx/ag_news",
        "text",
        folder="ag_news_csv",
        n_cells=2,
    ),
    _imdb(),
    _topics(
        "yelp_p",
        ("negative", "positive"),
        "fancyzhx/yelp_polarity",
        "text",
        folder="yelp_review_polarity_csv",
    ),
    _topics("yelp_f", _STARS, "Yelp/yelp_review_full", "text", folder="yelp_review_full_csv"),
    _topics(
        "dbpedia",
        _DBPEDIA,
        "fancyzhx/dbpedia_14",
        "title",
        "content",
        folder="dbpedia_csv",
        n_cells=2,
    ),
    _topics(
        "yahoo",
        _YAHOO,
        "community-datasets/yahoo_answers_topics",
        "question_title",
        "question_content",
        "best_answer",
        label="topic",
        folder="yahoo_answers_csv",
        n_cells=3,
    ),
    KnownTask("sogou", ("text",), _SOGOU, splits=(_TRAIN, _DEV)),
    KnownTask("ag-pair", ("news1", "news2"), ("same", "different"), splits=(_TRAIN, _DEV)),
)

KNOWN: Mapping[str, KnownTask] = MappingProxyType({task.name: task for task in _TASKS})
