"""How far two things can be told from cheap numbers: exact importance, and similar tasks.

Both are parts of `results.json` that cost runs of the model beside the lesions, each measured
once: how well the first-order importance agrees with ablating every head by itself, and how
alike the tasks are, against the D-scores of their pairs (docs/method.md#task-similarity).
"""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from lobes.config.study import StudyConfig
from lobes.dissociation import LesionMatrix
from lobes.dissociation.similarity import importance_correlation, overlap, trends
from lobes.heads import HeadScores, HeadSet
from lobes.measure.evaluation import examples_of
from lobes.measure.iap import Measurement, Remember
from lobes.measure.importance import head_importance
from lobes.measure.similarity import gradient_similarity, lesion_cka
from lobes.modeling import MultiTaskModel, TaskModel
from lobes.progress import StageProgress
from lobes.tasks.task import Task

logger = logging.getLogger("lobes")

# The first-order estimates that are compared with exact ablation, by "aggregate" and "normalize".
AGGREGATES = ("token", "sequence")
# What the gradients of all tasks may take together; a larger model goes without this measure.
MOST_GRADIENT_BYTES = 4 * 2**30


def measure_agreement(
    study: StudyConfig,
    model: TaskModel,
    tasks: Sequence[Task],
    matrix: LesionMatrix,
    precision: str,
    remember: Remember,
    progress: StageProgress | None = None,
) -> list[dict[str, Any]] | None:
    """The part "agreement" of the results; None where it is not asked for, or has no sense.

    Each lesioned task's importance against the exact rise of its loss when one head is ablated:
    Spearman's correlation over the heads, and the overlap of the most important ones. "estimates"
    are the correlations of every first-order estimate, from the same examples as the exact one.
    """
    iap = study.iap
    if not iap.agreement_examples or iap.method == "ablation":
        return None
    found = []
    for task in tasks:
        if task.name not in matrix.importance:
            continue
        stage = f"each head of {task.name}"

        def compute(task: Task = task, stage: str = stage) -> Measurement:
            exact = head_importance(
                model,
                task,
                method="ablation",
                precision=precision,
                split=iap.importance_split,
                max_examples=iap.agreement_examples,
                seed=study.iap_seed,
                progress=progress and partial(progress, stage),
            )
            return {"values": exact.values, "examples": np.array(exact.settings["examples"])}

        kept = remember(f"ablation-{task.name}-{iap.agreement_examples}", compute)
        cheap, exact = matrix.importance[task.name], HeadScores(kept["values"])
        estimates = _estimates(study, model, task, precision, remember, progress)
        found.append(
            {
                "task": task.name,
                "n_examples": int(kept["examples"]),
                "spearman": importance_correlation([cheap, exact])[0, 1],
                "overlap": [
                    {
                        "fraction": fraction,
                        "value": overlap([cheap.top(fraction), exact.top(fraction)])[0, 1],
                    }
                    for fraction in matrix.fractions
                ],
                "values": exact.values,
                "estimates": [
                    {
                        "aggregate": aggregate,
                        "normalize": normalize,
                        "spearman": importance_correlation([estimate, exact])[0, 1],
                    }
                    for aggregate, scores in estimates.items()
                    for normalize, estimate in (("none", scores), ("layer", scores.normalized()))
                ],
            }
        )
    return found


def _estimates(
    study: StudyConfig,
    model: TaskModel,
    task: Task,
    precision: str,
    remember: Remember,
    progress: StageProgress | None,
) -> dict[str, HeadScores]:
    """A task's first-order importance by every aggregate, from the examples of the exact one."""
    most, stage = study.iap.agreement_examples, f"estimates for {task.name}"

    def compute() -> Measurement:
        return {
            aggregate: head_importance(
                model,
                task,
                aggregate=aggregate,
                precision=precision,
                split=study.iap.importance_split,
                max_examples=most,
                seed=study.iap_seed,
                progress=progress and partial(progress, stage),
            ).values
            for aggregate in AGGREGATES
        }

    kept = remember(f"estimates-{task.name}-{most}", compute)
    return {aggregate: HeadScores(kept[aggregate]) for aggregate in AGGREGATES}


def measure_similarity(
    study: StudyConfig,
    model: TaskModel,
    tasks: Sequence[Task],
    matrix: LesionMatrix,
    precision: str,
    remember: Remember,
    progress: StageProgress | None = None,
) -> dict[str, Any] | None:
    """The part "similarity" of the results; None for one task, or where some have no lesion."""
    if len(matrix.tasks) < 2 or len(matrix.importance) < len(matrix.tasks):
        return None
    fraction = matrix.fractions[-1]
    lesions = [matrix.lesion(task, fraction).heads for task in matrix.tasks]
    measures: dict[str, tuple[np.ndarray, int | None]] = {
        "importance": (importance_correlation(list(matrix.importance.values())), None),
        "overlap": (overlap(lesions), None),
    }
    if study.iap.similarity_examples:
        measures |= _measured(study, model, tasks, lesions, precision, remember, progress)
    observed, found = trends(
        matrix,
        {name: table for name, (table, _) in measures.items()},
        fraction,
        resamples=study.iap.resamples,
        seed=study.iap_seed,
        level=study.iap.level,
    )
    return {
        "fraction": fraction,
        "pair_d_scores": observed,
        "measures": [
            {
                "name": trend.measure,
                "values": measures[trend.measure][0],
                "n_examples": measures[trend.measure][1],
                "trend": {
                    "correlation": trend.correlation,
                    "interval": trend.interval,
                    "p": trend.p,
                    "p_holm": trend.p_holm,
                    "note": trend.note,
                },
            }
            for trend in found
        ],
    }


def _measured(
    study: StudyConfig,
    model: TaskModel,
    tasks: Sequence[Task],
    lesions: Sequence[HeadSet],
    precision: str,
    remember: Remember,
    progress: StageProgress | None,
) -> dict[str, tuple[np.ndarray, int | None]]:
    """The similarities that take runs of the model."""
    most = study.iap.similarity_examples
    found: dict[str, tuple[np.ndarray, int | None]] = {}
    size = 4 * len(tasks) * sum(parameter.numel() for parameter in model.parameters())
    if size > MOST_GRADIENT_BYTES:
        logger.warning(
            "The tasks' gradients would take %.0f GiB: their cosine is left out of the "
            "similarities.",
            size / 2**30,
        )
    else:
        settings: dict[str, Any] = {"split": study.iap.importance_split, "max_examples": most}
        shown = progress and partial(progress, "gradients")
        kept = remember(
            f"gradients-{most}",
            lambda: {
                "values": gradient_similarity(
                    model, tasks, **settings, seed=study.iap_seed, progress=shown
                )
            },
        )
        found["gradient"] = (kept["values"], _used(tasks, study.iap.importance_split, most))
    if isinstance(model, MultiTaskModel):
        shown = progress and partial(progress, "representations")
        kept = remember(
            f"cka-{most}-{'|'.join(map(str, lesions))}",
            lambda: {
                "values": lesion_cka(
                    model,
                    tasks,
                    lesions,
                    max_examples=most,
                    seed=study.iap_seed,
                    precision=precision,
                    progress=shown,
                )
            },
        )
        found["cka"] = (kept["values"], _used(tasks, "validation", most))
    return found


def _used(tasks: Sequence[Task], split: str, most: int) -> int:
    """How many examples the largest task gives where at most `most` of a split are taken."""
    return max(min(most, len(examples_of(task, split))) for task in tasks)
