"""Run lm-evaluation-harness on a model under a lesion, or pruned, and on its base."""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from torch import nn

from lobes.ablation import ablate as ablated
from lobes.discovery import find_heads
from lobes.errors import ConfigError, DataError, first_line
from lobes.experiments.loading import measuring_device
from lobes.experiments.open_model import check_model
from lobes.experiments.outputs import check_record
from lobes.files import beside
from lobes.heads import HeadSet
from lobes.modeling.causal import load_causal
from lobes.progress import StageProgress
from lobes.tasks.columns import listed
from lobes.tasks.harness import harness, load_harness_task, set_fewshot, silent, task_manager

PathLike = str | os.PathLike[str]
Key = tuple[str, str]  # a task and its metric
Row = dict[str, float | int | None]  # a score, its standard error, and how many documents it is of

SCHEMA = "lobes-evaluation"
logger = logging.getLogger("lobes")

# Draws for the standard error of what is no mean; the harness takes fewer for corpus metrics.
_DRAWS = 1000


def evaluate_with_harness(
    model: str,
    tasks: Sequence[str],
    *,
    ablate: str | None = None,
    base: str | None = None,
    include: PathLike | None = None,
    limit: int | None = None,
    fewshot: int | None = None,
    batch_size: int = 8,
    output: Path | None = None,
    trust_remote_code: bool = False,
    progress: StageProgress | None = None,
) -> dict[str, Any]:
    """Return the harness's scores of a model, and those of `base`, as plain values for JSON.

    With heads to `ablate` the base is the model itself, where no other is named. Generation is
    under the lesion, too. Standard errors are the harness's, from the documents' values or, where a
    metric is no mean, from 1,000 bootstrap draws (100 for corpus metrics); None where it has none.
    `output` is a file for the same JSON, which replaces only what an earlier call wrote.
    Raises `ConfigError` where lm_eval is not installed and for `fewshot` where a task's file
    forbids examples in its prompts (in a group that is a warning), `HeadError` for heads that the
    model does not have, `ModelError` for what is no causal language model, `DataError` for tasks
    that do not exist or whose data cannot be read, and `RunError` for an `output` that is another
    file.
    """
    if not tasks:
        raise ConfigError("No task was given: expected names such as --tasks hellaswag,piqa.")
    if output is not None:
        if output.is_dir() or not output.absolute().parent.is_dir():
            raise ConfigError(
                f"{output} cannot be written: expected a file in a folder that exists."
            )
        check_record(output, SCHEMA)
    manager = task_manager(tasks, include)
    network, tokenizer = _loaded(model, trust_remote_code)
    heads = HeadSet.of(ablate or (), find_heads(network))
    settings = {"limit": limit, "num_fewshot": fewshot}

    def scores(one: nn.Module, own: Any, stage: str) -> dict[Key, Row]:
        if progress:
            progress(stage, 0, 1)
        found = _scores(one, own, tasks, manager, include, batch_size, settings)
        if progress:
            progress(stage, 1, 1)
        return found

    with ablated(network, heads):
        found = scores(network, tokenizer, "evaluation")
    others: Mapping[Key, Row] = {}
    if base is not None:
        del network
        others = scores(*_loaded(base, trust_remote_code), "evaluation of the base")
    elif heads:
        others = scores(network, tokenizer, "evaluation of the base")
    record = {
        "schema": SCHEMA,
        "model": model,
        "base": base or (model if heads else None),
        "ablated": str(heads),
        "limit": limit,
        "fewshot": fewshot,
        "scores": [
            {
                "task": task,
                "metric": metric,
                **row,
                "base": others.get((task, metric), {}).get("score"),
                "base_error": others.get((task, metric), {}).get("error"),
            }
            for (task, metric), row in found.items()
        ],
    }
    if output is not None:
        with beside(output) as file:
            file.write_text(json.dumps(record, ensure_ascii=False, indent=1), encoding="utf-8")
    return record


def _loaded(model: str, trust_remote_code: bool) -> tuple[nn.Module, Any]:
    check_model(Path(model))
    network, tokenizer = load_causal(model, trust_remote_code=trust_remote_code)
    return network.to(measuring_device()).eval(), tokenizer


def _scores(
    model: nn.Module,
    tokenizer: Any,
    tasks: Sequence[str],
    manager: Any,
    include: PathLike | None,
    batch_size: int,
    settings: Mapping[str, Any],
) -> dict[Key, Row]:
    """What `lm_eval.simple_evaluate` says of a model."""
    single = set(manager.all_subtasks)
    chosen = [load_harness_task(name, include) if name in single else name for name in tasks]
    fewshot = settings["num_fewshot"]
    for name, task in zip(tasks, chosen, strict=True):
        if name in single:
            set_fewshot(task, name, fewshot)
    try:
        with silent(), _in_this_process():
            from lm_eval.models.huggingface import HFLM

            found = harness().simple_evaluate(
                HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
                tasks=chosen,
                task_manager=manager,
                bootstrap_iters=_DRAWS,
                log_samples=False,
                **settings,
            )
    except Exception as error:  # of a task's code, or its data
        raise DataError(
            f"lm-evaluation-harness cannot measure {', '.join(tasks)}, and says: "
            f"{first_line(error)}."
        ) from error
    shots = {name: number for name, number in found["n-shot"].items() if name in single}
    kept = [name for name, number in shots.items() if fewshot not in (None, number)]
    if kept:
        logger.warning(
            "The files of %s say num_fewshot: 0, which the harness never changes: these tasks of a "
            "group were measured without examples in their prompts.",
            listed(kept),
        )
    return dict(_values(found["results"]))


def _values(results: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[Key, Row]]:
    for task, row in results.items():
        for key, value in row.items():
            metric, _, filtered = key.partition(",")
            if filtered and not metric.endswith("_stderr") and isinstance(value, int | float):
                error = row.get(f"{metric}_stderr,{filtered}")
                found = {
                    "score": value,
                    "error": error if isinstance(error, int | float) else None,
                    "documents": row.get("sample_len"),
                }
                yield (task, metric if filtered == "none" else f"{metric} ({filtered})"), found


@contextmanager
def _in_this_process() -> Iterator[None]:
    """Keep the harness from drawing in processes of its own, and what it prints from the output."""
    before = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        with redirect_stdout(StringIO()), _without_git():
            yield
    finally:
        if before is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = before


@contextmanager
def _without_git() -> Iterator[None]:
    """Keep the harness from asking git for a version, which git denies on stderr elsewhere."""
    from lm_eval import evaluator

    asked = evaluator.get_git_commit_hash
    evaluator.get_git_commit_hash = lambda: None
    try:
        yield
    finally:
        evaluator.get_git_commit_hash = asked
