"""The demo: its model and sentences, fetched as packages and checked; its two tasks; its study.

The model is all-MiniLM-L6-v2. The sentences are those that Hutto and Gilbert (2014) had rated by
people from -4 (most negative) to 4, in four domains. Two tasks over the *same* sentences make a
controlled study: what a lesion does to one task and not to the other cannot be the sentences.
"""

import html
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lobes.config.study import StudyConfig
from lobes.data.cache import cache_folder
from lobes.data.packaged_models import packaged_model
from lobes.data.packages import (
    Log,
    Packaged,
    archive_of,
    copy_member,
    fetch_packages,
)
from lobes.errors import ConfigError, DataError
from lobes.files import beside
from lobes.modeling.packaged import packaged
from lobes.tasks.ag_pair import LABELS as RELATIONS
from lobes.tasks.ag_pair import ag_pairs

MODEL = "all-MiniLM-L6-v2"
SENTIMENTS = ("negative", "positive")

# Each domain's file among the sentences, in the order of the classes.
DOMAINS = {
    "film": "movieReviewSnippets_GroundTruth.txt",
    "editorial": "nytEditorialSnippets_GroundTruth.txt",
    "tweet": "tweets_GroundTruth.txt",
    "product": "amazonReviewSnippets_GroundTruth.txt",
}

# A mean rating nearer to 0 than this is neither positive nor negative, and left out.
NEUTRAL = 0.5

_INNER_ARCHIVE = "additional_resources/hutto_ICWSM_2014.tar.gz"


# Chosen so that the whole run takes a few minutes on two CPU cores without bf16: short sentences,
# and exchanged heads that are measured on a sample of them.
DATA = {"train_size": 3200, "validation_size": 960, "max_words": 16, "seed": 0}
# The others ask what a sentence says and where it comes from: unlike questions with the same
# inputs, so that one pass of the encoder serves both. Pairs would take twice as long again.
LEFT_OUT = "domain-pair"


@dataclass(frozen=True, slots=True)
class DemoAssets:
    """Two folders: the model with its tokenizer, and the files of rated sentences."""

    model: Path
    sentences: Path


def fetch(cache: Path | None = None, log: Log | None = None) -> DemoAssets:
    """Return the demo's model and sentences, downloaded with pip unless they are in the cache.

    Every archive is checked by its SHA-256 before anything in it is used, by pip and again here.
    A folder in the cache appears whole or not at all. `log` is called with a sentence before what
    takes long. Raises DataError when the registry cannot be reached, when it gives another file
    than the one expected, and when the cache cannot be written.
    """
    wanted = [packaged(packaged_model(MODEL)), _sentences()]
    model, sentences = fetch_packages(wanted, "the demo's model and sentences", cache, log)
    return DemoAssets(model, sentences)


def demo_study(assets: DemoAssets, output: Path) -> StudyConfig:
    """Write the demo's data and return its study, whose run goes to `output`.

    `assets` are what `fetch` returns. The data go into the cache beside the downloads: the run's
    folder holds what the run made, and nothing else.
    """
    folder = cache_folder() / f"demo-{'-'.join(map(str, DATA.values()))}"
    study = {
        "name": "demo",
        "model": str(assets.model.absolute()),
        "output": str(output),
        "seed": DATA["seed"],
        "max_length": 128,
        "tasks": [
            task for task in write_demo_data(assets, folder, **DATA) if task["name"] != LEFT_OUT
        ],
        "training": {"steps": 150, "batch_size": 32, "learning_rate": 1e-4},
        "iap": {
            "fractions": [0.3],
            "controls": 39,  # with the fewest that allow p ≤ 0.05, 19, a single deal decides
            "control_examples": 320,
            "importance_examples": 2400,  # of 600 the halves agree too little
            "similarity_examples": 100,
        },
    }
    return StudyConfig.from_dict(study, source="the demo")


def write_demo_data(
    assets: DemoAssets,
    folder: Path,
    *,
    train_size: int = 6400,
    validation_size: int = 1600,
    seed: int = 0,
    max_words: int | None = None,
) -> list[dict[str, Any]]:
    """Write tasks of the sentences as four Parquet files; return them as a study names tasks.

    `sentences.train.parquet` and `sentences.validation.parquet` serve both `sentiment` (negative
    or positive) and `domain` (film, editorial, tweet or product): the same sentences in the same
    order. `pairs.….parquet` are the AG-Pair construction over them, made within each split:
    `domain-pair` asks whether two sentences are of the same domain. No text is in both splits.

    Every combination of domain and sentiment has the same number of sentences, or one more: the
    chance levels are 1/2, 1/4 and 1/2, and neither label says anything about the other. Left out
    are ratings nearer to 0 than `NEUTRAL`, repeated texts, and sentences of more than `max_words`
    words.

    Each dict has the keys of a study's `[[tasks]]` table. Raises ConfigError for more sentences
    than there are.
    """
    import pyarrow
    import pyarrow.parquet

    tables = _tables(assets, train_size, validation_size, seed, max_words)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        with beside(folder / f"{name}.parquet") as file:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return [
        {
            "name": name,
            "train": str(folder / f"{kind}.train.parquet"),
            "validation": str(folder / f"{kind}.validation.parquet"),
            "text": list(text),
            "label": label,
            "labels": list(labels),
        }
        for name, kind, text, label, labels in _TASKS
    ]


# name, the kind of file, text columns, label column, label names
_TASKS = (
    ("sentiment", "sentences", ("sentence",), "sentiment", SENTIMENTS),
    ("domain", "sentences", ("sentence",), "domain", tuple(DOMAINS)),
    ("domain-pair", "pairs", ("sentence1", "sentence2"), "relation", RELATIONS),
)


@dataclass(frozen=True, slots=True)
class Sentence:
    """One rated sentence: its text, its domain, and its mean rating from -4 to 4."""

    text: str
    domain: str
    rating: float

    @property
    def sentiment(self) -> str:
        """The class name of the rating's sign."""
        return SENTIMENTS[int(self.rating > 0)]


def read_sentences(folder: Path) -> list[Sentence]:
    """Return all different sentences with a clear sentiment, domain by domain.

    Texts that differ in case or blanks only count as one; the first is kept. Entities of HTML
    (`&amp;`), which stand in the tweets, are resolved.
    """
    sentences: dict[str, Sentence] = {}
    for domain, name in DOMAINS.items():
        try:
            lines = (folder / name).read_text(encoding="utf-8").split("\n")
            for line in filter(None, lines):
                _, rating, text = line.split("\t")
                text = html.unescape(text).strip()
                sentence = Sentence(text, domain, float(rating))
                if text and abs(sentence.rating) >= NEUTRAL:
                    sentences.setdefault(" ".join(text.casefold().split()), sentence)
        except (OSError, ValueError) as error:
            raise DataError(
                f"The demo's sentences are damaged: {str(folder / name)!r} cannot be read; "
                f"remove the folder, so that it is made anew."
            ) from error
    return list(sentences.values())


def _tables(
    assets: DemoAssets, train_size: int, validation_size: int, seed: int, max_words: int | None
) -> dict[str, list[dict[str, str]]]:
    """{name of a file: its rows}, for both kinds of file and both splits."""
    generator = np.random.default_rng(seed)
    sentences = read_sentences(assets.sentences)
    if max_words is not None:
        sentences = [s for s in sentences if len(s.text.split()) <= max_words]
    splits = _balanced(sentences, train_size, validation_size, generator)
    tables = {}
    for split, chosen in splits.items():
        tables[f"sentences.{split}"] = [
            {"sentence": s.text, "sentiment": s.sentiment, "domain": s.domain} for s in chosen
        ]
        pairs = ag_pairs([s.text for s in chosen], [s.domain for s in chosen], seed=generator)
        examples = pairs.examples()
        tables[f"pairs.{split}"] = [
            {"sentence1": first, "sentence2": second, "relation": RELATIONS[label]}
            for (first, second), label in zip(examples.texts, examples.labels, strict=True)
        ]
    return tables


def _balanced(
    sentences: list[Sentence],
    train_size: int,
    validation_size: int,
    generator: np.random.Generator,
) -> dict[str, list[Sentence]]:
    """Two disjoint samples, each with equal numbers of every domain and sentiment, shuffled."""
    cells = [(domain, sentiment) for domain in DOMAINS for sentiment in SENTIMENTS]
    sizes = {"train": train_size, "validation": validation_size}
    chosen: dict[str, list[Sentence]] = {split: [] for split in sizes}
    members = [[s for s in sentences if (s.domain, s.sentiment) == cell] for cell in cells]
    most = len(cells) * min(map(len, members))
    if min(sizes.values()) < len(cells) or train_size + validation_size > most:
        raise ConfigError(
            f"The demo has {most} sentences in {len(cells)} equal parts (domain by sentiment): "
            f"{train_size} for training and {validation_size} for validation cannot be drawn; "
            f"choose {len(cells)} or more for each and {most} or fewer in all."
        )
    for number, cell in enumerate(members):
        order = iter(generator.permutation(len(cell)))
        for split, size in sizes.items():
            share = size // len(cells) + (number < size % len(cells))
            chosen[split] += [cell[next(order)] for _ in range(share)]
    return {
        split: [part[i] for i in generator.permutation(len(part))] for split, part in chosen.items()
    }


def _sentences() -> Packaged:
    """The package of the sentences."""
    archive = archive_of("vaderSentiment")
    folder = f"{archive.sha256[:8]}/rated-sentences"
    return Packaged((archive,), folder, tuple(DOMAINS.values()), _extract_sentences)


def _extract_sentences(archives: Sequence[Path], folder: Path) -> None:
    (archive,) = archives
    with tarfile.open(archive) as outer:
        root = archive.name.removesuffix(".tar.gz")
        copy_member(_member(outer, f"{root}/LICENSE.txt"), folder / "LICENSE.txt")
        with tarfile.open(fileobj=_member(outer, f"{root}/{_INNER_ARCHIVE}")) as inner:
            for name in DOMAINS.values():
                copy_member(_member(inner, f"hutto_ICWSM_2014/{name}"), folder / name)


def _member(archive: tarfile.TarFile, name: str) -> Any:
    """One file, opened: no path, link or mode that the archive states has any effect."""
    source = archive.extractfile(name)
    if source is None:
        raise KeyError(f"{name} is not a file")
    return source
