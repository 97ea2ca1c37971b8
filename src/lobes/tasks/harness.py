"""Tasks of lm-evaluation-harness, with its own documents, prompts, examples in them and metric.

The harness makes the requests of a task: for each document a context and its continuations, whose
log-likelihoods decide. `harness_task` keeps them as a `Task` with two columns of text, the context
and its continuations as JSON, so that such a task is stored, compared and shown as any other. The
right answer is the one that the harness's own metric calls right.
"""

import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import lru_cache
from io import StringIO
from typing import Any

import numpy as np

from lobes import limits
from lobes.errors import ConfigError, DataError, at, first_line
from lobes.limits import LONGEST_NAME
from lobes.tasks.columns import listed, suggest
from lobes.tasks.examples import Examples
from lobes.tasks.generation import judge_of, written_prompt
from lobes.tasks.task import Task, TaskSpec

logger = logging.getLogger("lobes")

TEXT = ("context", "continuations")
# of the harness, in the order in which one is taken where none is named
HARNESS_METRICS = ("acc", "acc_norm", "acc_bytes")
# what `lm_eval.simple_evaluate` draws examples in prompts with
FEWSHOT_SEED = 1234
# of a task without data to compute importance from, one part in so many is kept for it
_KEPT_APART = 5
# whether the harness's own task files are known, too
_DEFAULTS = True
_IMPOSSIBLE = -1e9


@dataclass(frozen=True, slots=True)
class Continuation:
    """A text after a context; its log-likelihood is divided by `length`, 1 for none."""

    context: str
    text: str
    length: int = 1


def harness() -> Any:
    """Return the module `lm_eval`; `ConfigError` where it is not installed."""
    try:
        with silent():
            import lm_eval
            import lm_eval.tasks
    except ImportError as error:
        raise ConfigError(
            "Tasks of lm-evaluation-harness need lm_eval, which is not installed: pip install "
            "'lobes[lm-eval]'."
        ) from error
    return lm_eval


@contextmanager
def silent() -> Iterator[None]:
    """Keep the harness's log and progress bars off the terminal inside the block."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with redirect_stderr(StringIO()):
            yield
    finally:
        logger.setLevel(level)


def harness_name(lm_eval: str) -> str:
    """Return the name that a task of the harness has where it is given none of its own."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", lm_eval)[:LONGEST_NAME]


def harness_task(
    lm_eval: str,
    *,
    name: str | None = None,
    metric: str | None = None,
    limit: int | None = None,
    fewshot: int | None = None,
    include: str | os.PathLike[str] | None = None,
    train_size: int | None = None,
    train: bool = True,
    seed: int = 0,
) -> Task:
    """Return a task of lm-evaluation-harness, answered by log-likelihoods or by generated text.

    `limit` and `fewshot` are the harness's `--limit` and `--num_fewshot`, `include` its
    `--include_path`: a folder of task files. `metric` is "acc", "acc_norm" or "acc_bytes"; of a
    task that generates text any metric that it has and that is a mean of values from 0 to 1, such
    as "exact_match" or, where it has several filters, "exact_match,strict-match". None takes the
    first of these that the task has.

    `validation` are the documents that the harness measures. `train`, from which importance is
    computed, are others: as many (or `train_size`), drawn with `seed` from the task's training
    split; without one from its validation split, where the harness measures the test split; without
    both the documents after the first `limit`, or, where none are left, the last fifth of them,
    which are then not measured. `train=False` leaves them out.

    Raises `ConfigError` where lm_eval is not installed, for settings that do not fit the task, and
    for tasks that measure perplexity or sample text; `DataError` for a task that does not exist,
    whose data cannot be read, or that has a document with no or several right answers.
    """
    for key, value in (("limit", limit), ("train_size", train_size)):
        if value is not None:
            limits.check_number(key, value, limits.EXAMPLES)
    if fewshot is not None:
        limits.check_number("fewshot", fewshot, limits.EXAMPLES_OR_NONE)
    limits.check_number("seed", seed, limits.SEED)
    with at(f"Task {name or harness_name(lm_eval)!r}"):
        task = load_harness_task(lm_eval, include)
        _check_kind(task, lm_eval)
        set_fewshot(task, lm_eval, fewshot)
        return _Reader(lm_eval, task, include, fewshot, metric, seed).task(
            name or harness_name(lm_eval), limit, train_size, train
        )


def load_harness_task(
    lm_eval: str, include: str | os.PathLike[str] | None = None, **changes: Any
) -> Any:
    """Return the harness's own object of a single task, with settings of its file changed.

    Paths in its `dataset_kwargs` may hold `${NAME}`, which the environment replaces. Raises
    `DataError` for a name that is no task, and where its data cannot be read.
    """
    manager = task_manager([lm_eval], include)
    _check_single(manager, lm_eval)
    config = manager.task_index[lm_eval].cfg or {}
    given = config.get("dataset_kwargs")
    if given is not None:
        changes = {"dataset_kwargs": _expanded(given), **changes}
    # the harness changes a registered task's settings where it is one of a group
    group = {"group": "lobes", "task": [{"task": lm_eval, **changes}]}
    try:
        with silent():
            return manager.load(group)["tasks"][lm_eval]
    except DataError:
        raise
    except Exception as error:  # of the task's file or code, its data, the hub
        where = config.get("dataset_path")
        raise DataError(
            f"The harness cannot load {lm_eval!r} with the data set {where!r}, and says: "
            f"{first_line(error)}. Check the task's file, its data, and the connection where they "
            f"are on the hub."
        ) from error


def task_manager(names: Sequence[str], include: str | os.PathLike[str] | None = None) -> Any:
    """Return a `TaskManager` of the harness that knows the names.

    The harness's own thousands of task files, which take long to scan, are read only where a name
    is not among those of `include`. Raises `DataError` for a folder that does not exist and for
    names of no task or group of tasks.
    """
    folder = None if include is None else os.path.abspath(os.path.expanduser(include))
    if folder is not None and not os.path.isdir(folder):
        raise DataError(f"There is no folder {folder}; expected one of task files (.yaml).")
    if folder is not None:
        manager = _manager(folder, False)
        if all(name in manager.task_index for name in names):
            return manager
    return _checked(_manager(folder, _DEFAULTS), names, folder)


@lru_cache(maxsize=4)
def _manager(include: str | None, defaults: bool) -> Any:
    tasks = harness().tasks
    with silent():
        return tasks.TaskManager(include_path=include, include_defaults=defaults)


def _checked(manager: Any, names: Sequence[str], folder: str | None) -> Any:
    where = f"{folder} has no file of it"
    if folder is None:
        where = "task files of your own are found with `include` (--include FOLDER)"
    for name in names:
        if name not in manager.task_index:
            raise DataError(
                f"There is no task {name!r} in lm-evaluation-harness; `lm_eval ls tasks` lists "
                f"them, and {where}." + suggest(name, manager.all_subtasks)
            )
    return manager


def _check_single(manager: Any, name: str) -> None:
    if name in manager.all_subtasks:
        return
    entry = manager.task_index[name]
    parts = sorted(entry.tags) or [
        part if isinstance(part, str) else str(part.get("task"))
        for part in (entry.cfg or {}).get("task", ())
    ]
    raise ConfigError(
        f"{name!r} is a group of tasks of lm-evaluation-harness: name single tasks, such as "
        f"{listed(parts[:3])}."
    )


def _expanded(value: Any) -> Any:
    """A value with `${NAME}` replaced in every text in it."""
    if isinstance(value, str):

        def put(match: re.Match[str]) -> str:
            if match[1] not in os.environ:
                raise DataError(
                    f"The task's file names the environment variable {match[1]}, which is not set; "
                    f"set it, for example `export {match[1]}=FOLDER`."
                )
            return os.environ[match[1]]

        return re.sub(r"\$\{(\w+)\}", put, value)
    if isinstance(value, dict):
        return {key: _expanded(each) for key, each in value.items()}
    return [_expanded(each) for each in value] if isinstance(value, list) else value


def _check_kind(task: Any, lm_eval: str) -> None:
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        raise ConfigError(
            f"{lm_eval!r} measures perplexity (loglikelihood_rolling): expected a task of "
            f"lm-evaluation-harness with answers (multiple_choice, loglikelihood or "
            f"generate_until)."
        )
    if getattr(task, "MULTIMODAL", False):
        raise ConfigError(f"{lm_eval!r} has pictures or sound: expected a task of texts.")
    if "acc_mutual_info" in getattr(task, "_metric_fn_list", {}):
        raise ConfigError(
            f"{lm_eval!r} has the metric acc_mutual_info, which needs more than the likelihoods of "
            f"the answers: take it out of the metric_list of a copy of the task's file."
        )


def set_fewshot(task: Any, lm_eval: str, fewshot: int | None) -> None:
    """Set the number of examples in prompts as `simple_evaluate` does.

    Raises `ConfigError` where the task's file forbids them.
    """
    own = task.get_config("num_fewshot")
    if fewshot is not None and own == 0 and fewshot != 0:
        raise ConfigError(
            f"{lm_eval!r} has num_fewshot: 0 in its file, which the harness never changes: leave "
            f"fewshot = {fewshot} out."
        )
    task.set_config(key="num_fewshot", value=own or 0 if fewshot is None else fewshot)


@dataclass(frozen=True)
class _Reader:
    """Turns a task of the harness into one of lobes."""

    lm_eval: str
    source: Any
    include: str | os.PathLike[str] | None
    fewshot: int | None
    metric: str | None
    seed: int

    @property
    def is_choice(self) -> bool:
        return bool(self.source.OUTPUT_TYPE == "multiple_choice")

    @property
    def generates(self) -> bool:
        return bool(self.source.OUTPUT_TYPE == "generate_until")

    def task(self, name: str, limit: int | None, size: int | None, train: bool) -> Task:
        """Return the task with its documents; see `harness_task`."""
        total = len(self.source.eval_docs)
        measured = total if limit is None else min(limit, total)
        learned: list[list[Any]] | None = None
        if train:
            other, places = self._other_documents(measured, total)
            if other is None and not len(places):
                measured = total - max(1, total // _KEPT_APART)
                if measured < 1:
                    raise DataError(
                        f"{self.lm_eval!r} has {total} document{'' if total == 1 else 's'}, and "
                        f"importance is computed from others than those that are measured: "
                        f"expected two or more."
                    )
                places = np.arange(measured, total)
                logger.warning(
                    "Task %r has no documents beside those to measure: the last %d of %d are kept "
                    "for the importance of heads, and the first %d are measured.",
                    *(name, total - measured, total, measured),
                )
            chosen = _drawn(places, size or measured, self.seed)
            learned = _requests(other or self.source, samples=chosen)
        tested = _requests(self.source, limit=measured)
        if self.source.OUTPUT_TYPE == "generate_until":
            return self._generated(name, learned, tested)
        splits = [None if each is None else self._documents(each) for each in (learned, tested)]
        return self._made(name, splits[0], splits[1] or [])

    def _generated(
        self, name: str, learned: list[list[Any]] | None, tested: list[list[Any]]
    ) -> Task:
        """The task whose answers are generated: every example's target is the highest value, 1."""
        given = {"validation": [each for (each,) in tested]}
        if learned is not None:
            given["train"] = [each for (each,) in learned]
        requests = [*given["validation"], *given.get("train", ())]
        judge = judge_of(self.lm_eval, self.source, requests, self.metric)
        splits = {
            split: Examples(tuple(written_prompt(judge, one) for one in each), np.ones(len(each)))
            for split, each in given.items()
        }
        spec = TaskSpec(name, TEXT, "answer", None, "generated", source_metric=judge.shown)
        return Task.of(spec, train=splits.get("train"), validation=splits["validation"])

    def _other_documents(self, measured: int, total: int) -> tuple[Any, np.ndarray]:
        """A task whose documents are another split's, or None for the rest of these; and places."""
        config = self.source.config
        own = config.test_split or config.validation_split
        splits = (config.training_split, config.validation_split)
        split = next((each for each in splits if each not in (None, own)), None)
        if split is None:
            return None, np.arange(measured, total)
        changes: dict[str, Any] = {"test_split": split}
        if self.source.get_config("num_fewshot") and self.source.fewshot_cfg.split is None:
            # so that the harness never puts a document into its own prompt
            changes["fewshot_split"] = config.training_split or split
        other = load_harness_task(self.lm_eval, self.include, **changes)
        set_fewshot(other, self.lm_eval, self.fewshot)
        return other, np.arange(len(other.eval_docs))

    def _documents(self, requests: Sequence[Sequence[Any]]) -> "list[_Document]":
        return [self._document(each) for each in requests]

    def _document(self, requests: Sequence[Any]) -> "_Document":
        source, doc = self.source, requests[0].doc
        given = [request.args for request in requests]
        metric, right = self._right_answers(source, doc, len(given))
        if len(right) != 1:
            raise DataError(
                f"Document {requests[0].doc_id} has {len(right) or 'no'} right answers of "
                f"{len(given)} by {metric}: lobes measures tasks with one."
            )
        lengths, choices = [1] * len(given), None
        if self.is_choice:
            choices = tuple(source.doc_to_choice(doc))
            if metric != "acc":
                as_counted = choices if metric == "acc_norm" else (c.encode() for c in choices)
                lengths = [len(choice) for choice in as_counted]
        found = [Continuation(each[0], each[1], n) for each, n in zip(given, lengths, strict=True)]
        return _Document(tuple(found), right[0], choices, metric)

    def _right_answers(self, source: Any, doc: Any, number: int) -> tuple[str, list[int]]:
        """The metric, and the outcomes for which the harness's own one gives 1.

        Those are that an answer is by far the likeliest; of a single continuation, that it is not
        (0) or is (1) what greedy decoding gives.
        """
        if self.is_choice:
            outcomes = [
                [(0.0 if k == right else _IMPOSSIBLE, k == right) for k in range(number)]
                for right in range(number)
            ]
        else:
            outcomes = [[(-1.0, False)], [(-1.0, True)]]
        with silent():
            found = [source.process_results(doc, outcome) for outcome in outcomes]
        known = [each for each in HARNESS_METRICS if each in found[0]]
        metric = self.metric or (known[0] if known else "")
        if metric not in known:
            raise ConfigError(
                f"{self.lm_eval!r} has the metrics {listed(found[0])}"
                + (f", and not {metric!r}" if metric else "")
                + f": lobes measures {listed(HARNESS_METRICS)}."
            )
        return metric, [k for k, each in enumerate(found) if each[metric] == 1]

    def _made(
        self, name: str, learned: "list[_Document] | None", tested: "list[_Document]"
    ) -> Task:
        documents = [*(learned or ()), *tested]
        labels: tuple[str, ...] = ("other", "given")
        if self.is_choice:
            longest = max(len(document.continuations) for document in documents)
            labels = tuple(map(str, range(max(longest, 2))))
            named = {document.choices for document in documents}
            fixed = tuple(map(str.strip, (named.pop() or ()) if len(named) == 1 else ()))
            if len(set(filter(None, fixed))) == len(labels):
                labels = fixed
        metric, own = "accuracy" if self.is_choice else "greedy", documents[0].metric
        spec = TaskSpec(name, TEXT, "answer", labels, metric, source_metric=own)
        splits = [None if each is None else _examples(each) for each in (learned, tested)]
        return Task.of(spec, train=splits[0], validation=splits[1])


@dataclass(frozen=True, slots=True)
class _Document:
    """A document's continuations, which outcome is right by which metric, its choices' texts."""

    continuations: tuple[Continuation, ...]
    right: int
    choices: tuple[str, ...] | None
    metric: str


def _requests(
    source: Any, *, limit: int | None = None, samples: Iterable[int] | None = None
) -> list[list[Any]]:
    """The requests of some documents, made by the harness, for each document."""
    with silent():
        source.set_fewshot_seed(seed=FEWSHOT_SEED)
        try:
            # a set: the harness looks up every document's number in it
            source.build_all_requests(limit=limit, samples=set(samples) if samples else None)
        except Exception as error:  # of the task's file or code
            raise DataError(
                f"The harness cannot make the prompts of {source.config.task!r}, and says: "
                f"{first_line(error)}. Check the task's file and its data."
            ) from error
    requests: dict[int, list[Any]] = defaultdict(list)
    for instance in source.instances:
        requests[instance.doc_id].append(instance)
    return list(requests.values())


def _drawn(places: np.ndarray, size: int, seed: int) -> list[int]:
    """So many of the places, in their order."""
    if size < len(places):
        places = np.random.default_rng(seed).choice(places, size, replace=False)
    return sorted(places.tolist())


def _examples(documents: Sequence[_Document]) -> Examples:
    texts = tuple(written(document.continuations) for document in documents)
    return Examples(texts, np.array([document.right for document in documents], dtype=np.int64))


def written(continuations: Sequence[Continuation]) -> tuple[str, str]:
    """Return an example's texts: the first continuation's context, and all of them as JSON."""
    context = continuations[0].context
    rows = [
        {"text": each.text}
        | ({"length": each.length} if each.length != 1 else {})
        | ({"context": each.context} if each.context != context else {})
        for each in continuations
    ]
    return context, json.dumps(rows, ensure_ascii=False)


def continuations_of(texts: Sequence[str]) -> list[Continuation]:
    """Return what `written` wrote."""
    context, rows = texts
    return [
        Continuation(row.get("context", context), row["text"], row.get("length", 1))
        for row in json.loads(rows)
    ]
