"""Measure two parts of `results.json` beside the lesions: agreement and similarity.

Agreement: how well the first-order importance agrees with ablating every head by itself.
Similarity: how alike the tasks are, against the D-scores of their pairs
(docs/method.md#task-similarity).
"""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from lobes import limits
from lobes.discovery import find_heads
from lobes.dissociation import LesionMatrix
from lobes.dissociation.similarity import (
    corrected_for_noise,
    importance_correlation,
    overlap,
    trends,
)
from lobes.experiments.loading import Loaded
from lobes.heads import HeadSet
from lobes.measure.importance import head_importance
from lobes.measure.similarity import gradient_similarity, lesion_cka
from lobes.measure.steps import Arrays, Plan, Step
from lobes.measure.workload import examples_of
from lobes.modeling import MultiTaskModel
from lobes.progress import Progress
from lobes.scores import HeadScores
from lobes.tasks.task import Task

logger = logging.getLogger("lobes")

# The first-order estimates that are compared with exact ablation, by "aggregate" and "normalize".
AGGREGATES = limits.AGGREGATE.names
# What the gradients of all tasks may take together; a larger model goes without this measure.
MOST_GRADIENT_BYTES = 4 * 2**30


def agreement_plan(loaded: Loaded, matrix: LesionMatrix) -> Plan[list[dict[str, Any]] | None]:
    """Return the part "agreement" of the results; None where it is not asked for, or has no sense.

    Each lesioned task's importance against the exact rise of its loss when one head is ablated:
    Spearman's correlation over the heads, and the overlap of the most important ones. "estimates"
    are the correlations of every first-order estimate, from the same examples as the exact one.
    """
    iap = loaded.study.iap
    if not iap.agreement_examples or iap.method == "ablation":
        return None
    tasks = [task for task in loaded.tasks if task.name in matrix.importance]
    steps = [step(loaded, task) for task in tasks for step in (_exact, _estimates)]
    found = yield steps
    return [
        _agreement(matrix, task, exact, estimates)
        for task, exact, estimates in zip(tasks, found[::2], found[1::2], strict=True)
    ]


def _exact(loaded: Loaded, task: Task) -> Step:
    """The rise of a task's loss when each head is ablated by itself, as lesions ablate."""
    most, value = loaded.study.iap.agreement_examples, loaded.study.iap.importance_value

    def compute(progress: Progress) -> Arrays:
        exact = _importance(loaded, task, progress, method="ablation", value=value)
        found = {"values": exact.values, "examples": np.array(exact.settings["examples"])}
        return found if exact.halves is None else found | {"halves": exact.halves}

    title, named = f"each head of {task.name}", "" if value == "zero" else f"-{value}"
    return Step("agreement", f"ablation-{task.name}-{most}{named}", title, compute, task.name)


def _estimates(loaded: Loaded, task: Task) -> Step:
    """A task's first-order importance by every aggregate, from the examples of the exact one."""
    most = loaded.study.iap.agreement_examples

    def compute(progress: Progress) -> Arrays:
        return {
            aggregate: _importance(loaded, task, progress, aggregate=aggregate).values
            for aggregate in AGGREGATES
        }

    title = f"estimates for {task.name}"
    return Step("agreement", f"estimates-{task.name}-{most}", title, compute, task.name)


def _importance(loaded: Loaded, task: Task, progress: Progress, **options: Any) -> HeadScores:
    return head_importance(
        loaded.model,
        task,
        precision=loaded.precision,
        split=loaded.study.iap.importance_split,
        max_examples=loaded.study.iap.agreement_examples,
        seed=loaded.study.iap_seed,
        progress=progress,
        **options,
    )


def _agreement(
    matrix: LesionMatrix, task: Task, exact_found: Arrays, estimates: Arrays
) -> dict[str, Any]:
    """One task's entry."""
    cheap = matrix.importance[task.name]
    exact = HeadScores(exact_found["values"], halves=exact_found.get("halves"))
    of_all = {aggregate: HeadScores(estimates[aggregate]) for aggregate in AGGREGATES}
    return {
        "task": task.name,
        "n_examples": int(exact_found["examples"]),
        "spearman": importance_correlation([cheap, exact])[0, 1],
        "reliability": exact.reliability,
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
            for aggregate, scores in of_all.items()
            for normalize, estimate in (("none", scores), ("layer", scores.normalized()))
        ],
    }


def similarity_plan(loaded: Loaded, matrix: LesionMatrix) -> Plan[dict[str, Any] | None]:
    """Return the part "similarity" of the results; None for one task, or tasks without lesions."""
    if len(matrix.tasks) < 2 or len(matrix.importance) < len(matrix.tasks):
        return None
    fraction = matrix.fractions[-1]
    lesions = [matrix.lesion(task, fraction).heads for task in matrix.tasks]
    scores = list(matrix.importance.values())
    reliable = [each.reliability for each in scores]
    measures: dict[str, tuple[np.ndarray, int | None]] = {
        "importance": (corrected_for_noise(importance_correlation(scores), reliable), None),
        "overlap": (overlap(lesions), None),
    }
    iap = loaded.study.iap
    if iap.similarity_examples:
        every = find_heads(loaded.model).all_heads()
        ablated = [every - heads for heads in lesions] if matrix.keep else lesions
        steps = _similarities(loaded, ablated)
        found = yield list(steps.values())
        for name, arrays in zip(steps, found, strict=True):
            split = iap.importance_split if name == "gradient" else "validation"
            measures[name] = arrays["values"], _used(loaded.tasks, split, iap.similarity_examples)
    observed, correlations = trends(
        matrix,
        {name: table for name, (table, _) in measures.items()},
        fraction,
        resamples=iap.resamples,
        seed=loaded.study.iap_seed,
        level=iap.level,
    )
    return {
        "fraction": fraction,
        "pair_d_scores": observed,
        "measures": [
            {
                "name": trend.measure,
                "values": measures[trend.measure][0],
                "corrected": trend.measure == "importance" and bool(np.isfinite(reliable).all()),
                "n_examples": measures[trend.measure][1],
                "trend": {
                    "correlation": trend.correlation,
                    "interval": trend.interval,
                    "p": trend.p,
                    "p_holm": trend.p_holm,
                    "note": trend.note,
                },
            }
            for trend in correlations
        ],
    }


def _similarities(loaded: Loaded, lesions: Sequence[HeadSet]) -> dict[str, Step]:
    """The similarities that take runs of the model."""
    study, model, tasks = loaded.study, loaded.model, loaded.tasks
    most = study.iap.similarity_examples
    options: dict[str, Any] = {"max_examples": most, "seed": study.iap_seed}
    steps = {}
    size = 4 * len(tasks) * sum(parameter.numel() for parameter in model.parameters())
    if size > MOST_GRADIENT_BYTES:
        logger.warning(
            "The tasks' gradients would take %.0f GiB: their cosine is left out of the "
            "similarities.",
            size / 2**30,
        )
    else:
        measure = partial(gradient_similarity, model, tasks, **options)
        split = study.iap.importance_split
        steps["gradient"] = Step(
            "similarity",
            f"gradients-{most}",
            "gradients",
            lambda progress: {"values": measure(split=split, progress=progress)},
        )
    if isinstance(model, MultiTaskModel):
        compare = partial(lesion_cka, model, tasks, lesions, **options)
        steps["cka"] = Step(
            "similarity",
            f"cka-{most}-{'|'.join(map(str, lesions))}",
            "representations",
            lambda progress: {"values": compare(precision=loaded.precision, progress=progress)},
        )
    return steps


def _used(tasks: Sequence[Task], split: str, most: int) -> int:
    """How many examples the largest task gives where at most `most` of a split are taken."""
    return max(min(most, len(examples_of(task, split))) for task in tasks)
