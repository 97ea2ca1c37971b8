"""`lobes predict`: a run's model answers a whole split, with labels or without.

GLUE's test splits become the files that its site takes (`tasks/glue.py`); any other split becomes
a TSV file with the probability of each label.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from scipy.special import expit, softmax

from lobes.config.settings import TaskConfig
from lobes.config.study import StudyConfig
from lobes.errors import ConfigError, DataError, RunError
from lobes.experiments.loading import load_tasks, model_fingerprint
from lobes.experiments.open_model import trained_model
from lobes.experiments.outputs import OutputFolder
from lobes.experiments.run import given_model
from lobes.experiments.stored_study import check_same_model, stored_study
from lobes.measure.evaluation import predict_logits, predictions_of
from lobes.metrics import get_metric
from lobes.modeling import TaskModel, load_task_model
from lobes.modeling.precision import resolve_precision
from lobes.progress import StageProgress
from lobes.report.table_files import spreadsheet_cell
from lobes.tasks.columns import listed, suggest
from lobes.tasks.glue import SUBMISSIONS, submission_lines
from lobes.tasks.known import known_task
from lobes.tasks.sources import Split, load_split
from lobes.tasks.task import TaskSpec

logger = logging.getLogger("lobes")

# Part of GLUE's submission, but of no use to anyone else: it may be missing.
OPTIONAL = "test_diagnostic"


def predict_run(
    run: Path,
    to: Path,
    *,
    split: str = "test",
    tasks: Sequence[str] | None = None,
    study: StudyConfig | None = None,
    trust_remote_code: bool = False,
    progress: StageProgress | None = None,
) -> dict[str, Any]:
    """Write the predictions of a run's model for a split of its tasks to the folder `to`.

    `tasks` are the names of those to predict, by default all. The data are those that the run
    began with, or where `study` is given, what its tasks of the same names say now. Returns
    {"run", "split", "predictions": [{"task", "split", "examples", "metric", "score", "file"}]};
    the score is None where the labels are hidden.

    Python code that the model brings runs with `trust_remote_code`, or where `study` says so: what
    the run's own folder says about trust does not count.

    Raises `RunError` where there is no run or no trained model, `ConfigError` for a task that the
    run does not have, and `DataError` for a split that cannot be read; nothing is written then.
    """
    trusted = trust_remote_code or (study is not None and study.trust_remote_code)
    stored = stored_study(run, trust_remote_code=trusted)
    data = study or stored
    chosen = _chosen(tasks, stored, data)
    model = _model(run, stored).to("cuda" if torch.cuda.is_available() else "cpu")
    found = [
        (task, name, examples)
        for task in _with_split(chosen, split, by_name=tasks is not None)
        for name, examples in _splits(task, model.spec(task.name), split, data).items()
    ]
    files = [_file_of(task, name) for task, name, _ in found]
    outputs = OutputFolder(to, files)
    precision = resolve_precision(stored.precision, model.device)
    records = []
    for (task, name, examples), file in zip(found, files, strict=True):
        spec = model.spec(task.name)

        def step(done: int, total: int, what: str = f"predicting {task.name}") -> None:
            if progress:
                progress(what, done, total)

        logits = predict_logits(model, task.name, examples, precision=precision, progress=step)
        with outputs.writing(file) as target:
            records.append(_write(target, file, spec, name, examples, logits, task.is_known))
    return {"run": str(run), "split": split, "predictions": records}


def _chosen(
    names: Sequence[str] | None, stored: StudyConfig, data: StudyConfig
) -> list[TaskConfig]:
    """The tasks to predict, with the sources of their data."""
    trained = [task.name for task in stored.tasks]
    sources = {task.name: task for task in data.tasks}
    for name in names or ():
        if name not in trained:
            raise ConfigError(
                f"The run has no task {name!r}; expected one of {listed(trained)}."
                + suggest(name, trained)
            )
    chosen = list(dict.fromkeys(names or trained))
    for name in chosen:
        if name not in sources:
            raise ConfigError(
                f"The study given with --study has no task {name!r}, which the run was trained "
                f"on: add it, or choose other tasks with --task."
            )
    return [sources[name] for name in chosen]


def _with_split(chosen: list[TaskConfig], split: str, *, by_name: bool) -> list[TaskConfig]:
    """The tasks that have test data, where those are asked for; the others are named.

    A task that the user named is kept, so that the answer is an error.
    """
    without = [
        task.name
        for task in chosen
        if split == "test" and task.test is None and task.dataset is None and not task.is_known
    ]
    if not without or by_name:
        return chosen
    if len(without) == len(chosen):
        raise DataError(
            "No task of the run has test data: add `test = …` to its tasks in a study and name "
            "that with --study, or choose another split, for example --split validation."
        )
    logger.warning(
        "%s: no test data, so nothing is predicted there; add `test = …` in a study and name it "
        "with --study.",
        ", ".join(without[:5]) + ", …" * (len(without) > 5),
    )
    return [task for task in chosen if task.name not in without]


def _splits(task: TaskConfig, spec: TaskSpec, split: str, data: StudyConfig) -> dict[str, Split]:
    """The splits that a name stands for: MNLI has several of each.

    Labels are the model's, in its order, whatever the study or the training data say by now.
    """
    source = task.source(data.data_dir)
    if not task.is_known:
        labels = None if isinstance(task.label, tuple) else spec.labels
        source = replace(source, labels=labels, metric=spec.metric)
    held_out = task.validation is None and task.dataset is None and not task.is_known
    if split == "validation" and held_out:  # no file of its own: what the run held out
        same = task.model_copy(update={"labels": source.labels, "metric": spec.metric})
        (loaded,) = load_tasks(data.model_copy(update={"tasks": (same,)}))
        examples = loaded.validation
        assert examples is not None  # load_task holds some out
        return {split: Split.of(examples)}
    names = [split]
    if task.is_known:
        known = known_task(task.name).splits
        names = [name for name in known if name == split or name.startswith(f"{split}_")] or names
    found = {}
    for name in names:
        try:
            found[name] = load_split(source, name)
        except DataError as error:
            if name != OPTIONAL or split == OPTIONAL:
                raise
            logger.warning("%s GLUE's site asks for AX.tsv, too.", error)
    return found


def _model(run: Path, study: StudyConfig) -> TaskModel:
    """The run's trained model, or the one that it measured as it was."""
    trained = trained_model(run)
    if trained is not None:
        return load_task_model(trained, trust_remote_code=study.trust_remote_code)
    if study.training.enabled:
        raise RunError(
            f"There is no trained model in {run} yet: finish the run with `lobes run` first."
        )
    model = given_model(study, load_tasks(study))
    check_same_model(run, model_fingerprint(model))
    return model


def _file_of(task: TaskConfig, split: str) -> str:
    """The name of the file with the predictions of a split."""
    submission = SUBMISSIONS.get((task.name, split)) if task.is_known else None
    return f"{task.name}.{split}.tsv" if submission is None else submission.file


def _write(
    target: IO[bytes],
    file: str,
    spec: TaskSpec,
    split: str,
    examples: Split,
    logits: np.ndarray,
    is_known: bool,
) -> dict[str, Any]:
    """Write one file, and say what it holds."""
    predictions = predictions_of(logits, spec)
    submission = SUBMISSIONS.get((spec.name, split)) if is_known else None
    if submission is None:
        lines = _lines(spec, examples, predictions, logits)
    else:
        lines = submission_lines(spec.name, split, predictions)
        if len(examples) != submission.examples:
            logger.warning(
                "%s has %d predictions, but GLUE's site takes %d: the data are not the whole "
                "split %r of %s.",
                file,
                len(examples),
                submission.examples,
                split,
                spec.name,
            )
    target.writelines(f"{line}\n".encode() for line in lines)
    score = None
    if examples.labels is not None:
        score = float(get_metric(spec.metric)(examples.labels, predictions))
    return {
        "task": spec.name,
        "split": split,
        "examples": len(examples),
        "metric": spec.metric,
        "score": score,
        "file": file,
    }


def _lines(
    spec: TaskSpec, examples: Split, predictions: np.ndarray, logits: np.ndarray
) -> Iterator[str]:
    """The lines of a TSV file: index, the label where it is known, prediction, probabilities.

    Several labels of one example are a JSON list, and each has a probability of its own. For
    images the index is followed by the file. Text that a spreadsheet would take for a formula gets
    an apostrophe in front; the files for GLUE hold only GLUE's own label names and numbers.
    """
    names = None if spec.labels is None else [" ".join(label.split()) for label in spec.labels]

    def shown(value: Any) -> str:
        if names is None:
            return f"{value:.6g}"
        if spec.is_multi_label:
            return json.dumps([names[i] for i in np.flatnonzero(value)], ensure_ascii=False)
        return spreadsheet_cell(names[value])

    logits = logits.astype(np.float64)
    probabilities = expit(logits) if spec.is_multi_label else softmax(logits, axis=-1)
    columns: list[tuple[str, Iterable[str]]] = [("index", map(str, range(len(predictions))))]
    if examples.images is not None:
        files = (" ".join(picture.name.split()) for picture in examples.images)
        columns.append(("image", map(spreadsheet_cell, files)))
    if examples.labels is not None:
        columns.append(("label", map(shown, examples.labels)))
    columns.append(("prediction", map(shown, predictions.tolist())))
    for name, own in zip(names or (), probabilities.T, strict=False):
        columns.append((f"p_{name}", (f"{value:.6g}" for value in own)))
    headers, values = zip(*columns, strict=True)
    yield "\t".join(headers)
    yield from map("\t".join, zip(*values, strict=True))
