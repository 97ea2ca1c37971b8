"""Describe tasks for `lobes tasks`: all known ones, or one with sizes, lengths and examples.

Everything comes back as plain values, for JSON and for tables.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from lobes.config.settings import TaskConfig
from lobes.config.study import StudyConfig
from lobes.errors import ConfigError, DataError, LobesError
from lobes.tasks.columns import listed, suggest
from lobes.tasks.known import KNOWN, HubSource, KnownTask, known_task
from lobes.tasks.sources import Split, TaskSource, load_published, load_split
from lobes.tasks.task import Task, TaskSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# So many examples of a split are tokenized to measure lengths, drawn by a fixed seed.
MEASURED = 10_000

# So many examples are shown.
SHOWN = 3

Lengths = Int[np.ndarray, " examples"]
Splits = dict[str, Split | LobesError]


def known_tasks() -> list[dict[str, Any]]:
    """Return the facts of every known task, in their order."""
    return [_facts(task) for task in KNOWN.values()]


def describe_task(
    name: str,
    *,
    study: StudyConfig | None = None,
    data_dir: str | None = None,
    model: str | None = None,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Return a task with the sizes of its splits, labels, token lengths and three examples.

    The task is one of `study` where there is one, else a known task, whose data are in `data_dir`
    or wherever `load_task` finds them. Lengths are those under the tokenizer of `model`, by
    default the study's; without either they are left out, as for images. Splits that are nowhere
    to be found are listed with the reason.

    Raises DataError where no split can be read, and for names that are not known.
    """
    task = _task_of(name, study)
    source = task.source(data_dir or (study.data_dir if study else None))
    is_text = task.image is None
    if task.is_known:
        facts = _facts(known_task(name))
        splits = _load_splits(source, facts["splits"])
    else:
        loaded = load_published(source)
        facts = _own_facts(source, loaded)
        splits = _published(source, loaded)
    model = model or (study.model if study else None)
    trusted = trust_remote_code or (study is not None and study.trust_remote_code)
    tokenizer = _tokenizer(model, trusted) if is_text else None
    longest = study.max_length if study else None
    names = facts["labels"]
    return {
        **facts,
        "model": model,
        "sizes": [
            {"split": split, "missing": str(found)}
            if isinstance(found, LobesError)
            else {"split": split, **_measure(found, names, tokenizer, longest)}
            for split, found in splits.items()
        ],
        "examples": _examples(splits, names),
    }


def _facts(task: KnownTask) -> dict[str, Any]:
    spec = TaskSpec(task.name, task.text, task.label, task.labels, task.metric)
    return _described(spec, task.other_metrics, task.splits, task.hub)


def _own_facts(source: TaskSource, loaded: Task) -> dict[str, Any]:
    """The same of a task of the user's own, whose labels and metric its data tell."""
    others = [split for split in ("validation", "test") if getattr(source, split) is not None]
    return _described(loaded, (), ("train", *others), source)


def _described(
    task: TaskSpec,
    other_metrics: Sequence[str],
    splits: Sequence[str],
    hub: HubSource | TaskSource | None,
) -> dict[str, Any]:
    return {
        "name": task.name,
        "text": list(task.text),
        **({"image": task.image} if task.image else {}),
        "label": task.label if isinstance(task.label, str) else list(task.label),
        "multi_label": task.is_multi_label,
        "labels": None if task.labels is None else list(task.labels),
        "metrics": [task.metric, *other_metrics],
        "splits": list(splits),
        "hub": None if hub is None else hub.dataset,
        "config": None if hub is None else hub.config,
    }


def _task_of(name: str, study: StudyConfig | None) -> TaskConfig:
    named = {task.name: task for task in study.tasks} if study else {}
    if name in named:
        return named[name]
    if name in KNOWN:
        return TaskConfig.model_validate({"name": name})
    if study is None:
        known_task(name)  # refuses it
    raise DataError(
        f"{name!r} is neither a task of the study nor a known task; the study has {listed(named)}."
        + suggest(name, (*named, *KNOWN))
    )


def _published(source: TaskSource, loaded: Task) -> Splits:
    """Every split of a task of the user's own, of which only the test split is left to be read."""
    splits: Splits = {
        split: Split.of(examples)
        for split in ("train", "validation")
        if (examples := getattr(loaded, split)) is not None
    }
    if source.test is not None:
        labels = loaded.labels if isinstance(loaded.label, str) else None
        known = replace(source, labels=labels, metric=loaded.metric)
        splits["test"] = _split_or_error(known, "test")
    return splits


def _load_splits(source: TaskSource, names: Sequence[str]) -> Splits:
    """Every split, or the error with which it was refused; raised where all are refused."""
    found = {split: _split_or_error(source, split) for split in names}
    errors = [split for split in found.values() if isinstance(split, LobesError)]
    if len(errors) == len(found):
        raise errors[0]
    return found


def _split_or_error(source: TaskSource, split: str) -> Split | LobesError:
    try:
        return load_split(source, split)
    except (DataError, ConfigError) as error:
        return error


def _tokenizer(model: str | None, trust_remote_code: bool) -> "PreTrainedTokenizerBase | None":
    if model is None:
        return None
    from lobes.modeling.pretrained import load_tokenizer

    return load_tokenizer(model, trust_remote_code=trust_remote_code)


def _measure(
    split: Split,
    names: list[str] | None,
    tokenizer: "PreTrainedTokenizerBase | None",
    longest: int | None,
) -> dict[str, Any]:
    """A split's number of examples, of examples of each label, and of tokens."""
    measured: dict[str, Any] = {"examples": len(split), "labels": None, "tokens": None}
    if split.labels is not None and names is not None:
        several = split.labels.ndim > 1
        counts = split.labels.sum(0) if several else np.bincount(split.labels, minlength=len(names))
        measured["labels"] = dict(zip(names, counts.tolist(), strict=True))
    elif split.labels is not None:
        low, mean, high = (float(f(split.labels)) for f in (np.min, np.mean, np.max))
        measured["labels"] = {"least": low, "mean": mean, "greatest": high}
    if tokenizer is not None and len(split):
        measured["tokens"] = _tokens(_lengths(split, tokenizer), longest)
    return measured


def _lengths(split: Split, tokenizer: "PreTrainedTokenizerBase") -> Lengths:
    texts = split.texts
    if len(texts) > MEASURED:
        chosen = np.random.default_rng(0).choice(len(texts), size=MEASURED, replace=False)
        texts = tuple(texts[i] for i in chosen)
    columns = [list(column) for column in zip(*texts, strict=True)]
    encoded = tokenizer(*columns, truncation=False, padding=False, verbose=False)
    return np.array([len(ids) for ids in encoded["input_ids"]])


def _tokens(lengths: Lengths, longest: int | None) -> dict[str, Any]:
    """Quantiles of the lengths, and the share above the study's `max_length`, if it has one."""
    median, most = np.quantile(lengths, (0.5, 0.95), method="inverted_cdf").tolist()
    return {
        "measured": len(lengths),
        "shortest": int(lengths.min()),
        "median": int(median),
        "percentile_95": int(most),
        "longest": int(lengths.max()),
        "cut": None if longest is None else float((lengths > longest).mean()),
    }


def _examples(splits: Splits, names: list[str] | None) -> list[dict[str, Any]]:
    """Examples of the first split that is there, drawn by a fixed seed, in its order."""
    split = next(found for found in splits.values() if isinstance(found, Split))
    number = min(SHOWN, len(split))
    chosen = np.sort(np.random.default_rng(0).choice(len(split), size=number, replace=False))
    labels = split.labels
    return [
        {
            "text": list(split.texts[i]),
            **({"image": split.images[i].name} if split.images else {}),
            "label": None if labels is None else _named(labels[i], names),
        }
        for i in chosen
    ]


def _named(label: Any, names: list[str] | None) -> float | str | list[str]:
    """A target, the name of a class, or those of several labels."""
    if names is None:
        return float(label)
    if np.ndim(label):
        return [names[i] for i in np.flatnonzero(label)]
    return names[int(label)]
