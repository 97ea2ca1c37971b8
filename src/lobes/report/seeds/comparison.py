"""The page of a comparison of ways to train: does IAT improve performance and specialization?

Claims 4 and 3 (`specialization.py`) of docs/method.md#claims, each with its own answer.
"""

from collections.abc import Sequence

import numpy as np

from lobes.dissociation.verdict import Answer
from lobes.dissociation.verdicts_over_seeds import AFTER, better
from lobes.metrics import Standing
from lobes.report import formatting as fmt
from lobes.report import glossary, phrases, trained_heads
from lobes.report.lesion_words import in_short
from lobes.report.sections import Fact, Facts, Findings, Page, Prose, Section
from lobes.report.seeds import parts, specialization
from lobes.report.seeds.parts import NAMES, Line, in_words, level_of, seeds_of
from lobes.report.tables import Cell, Column, Row, Table
from lobes.results.over_seeds import ComparisonResults, Differences

# What each way to train is, with its source.
WAYS = {
    "single": "A model of its own for each task, trained on that task alone.",
    "multi": "One encoder for all tasks, a classifier for each; every batch comes from one task.",
    "iat": "The same training up to the switch; after it, each task trains its own important heads "
    "only.",
    "frozen": "Only the classifiers are trained.",
    "probe": "A ridge regression on the outputs of the encoder as it is, solved in closed form.",
    "sum": "The examples of multi-task training, a micro-batch of every task in each step; the "
    "losses are added up. So it is in the methods that follow, which weigh the tasks.",
    "pcgrad": "Each task’s gradient loses its components against the others’ (Yu et al. 2020).",
    "mgda": "The convex combination of the gradients with the smallest norm (Désidéri 2012; Sener "
    "and Koltun 2018).",
    "cagrad": "The direction near the mean gradient that most helps the task worst off (Liu et al. "
    "2021).",
    "imtl": "The direction with equal projections on the tasks’ gradients (Liu et al. 2021).",
    "famo": "Weights of the losses, learned so that all fall at the same rate (Liu et al. 2023).",
    "uncertainty": "Weights of the losses, learned as the uncertainty of each task (Kendall et al. "
    "2018).",
    "tuned": "A sum with the weights of a grid that do best on held-out data, to compare such "
    "methods with (Xin et al. 2022; Kurin et al. 2022).",
}
# Methods against interference between tasks
INTERFERENCE = ("sum", "pcgrad", "mgda", "cagrad", "imtl", "famo", "uncertainty", "tuned")
AGAINST = {"single": "single-task training", "tuned": "a tuned sum of the losses"}


def page_of(results: ComparisonResults) -> Page:
    """The page of a comparison."""
    level, lesioning = level_of(results), results.lesioning
    lesions = glossary.d_scores(lesioning) if lesioning is not None else ()
    exchange = glossary.EXCHANGES[:1] if results.exchanged is not None else ()
    return parts.page(
        results,
        "comparison",
        _performance(results),
        _facts(results),
        (
            _scores(results),
            _weights(results),
            parts.differences(
                results,
                "The first",
                {
                    (e.first, e.second): _score_lines(results, e)
                    for e in results.summary.differences
                },
                first="Task",
                axis="difference in score",
            ),
            specialization.findings(results),
            specialization.d_scores(results),
            trained_heads.over_seeds(results, results.names),
            _seeds(results),
            parts.data(
                "Data",
                "Numbers of examples: trained on, held out of the training, and for the scores",
                results.tasks,
            ),
            parts.settings(
                results,
                "Training",
                {
                    f"{NAMES[method]}, a seed": found.seconds.mean
                    for method, found in results.summary.methods.items()
                },
            ),
        ),
        (
            *glossary.over_seeds(level),
            *((NAMES[m], WAYS[m]) for m in results.methods),
            *lesions,
            *exchange,
        ),
    )


def _facts(results: ComparisonResults) -> Facts:
    model = results.model
    lesions = [Fact("Lesions", in_short(results.lesioning))] if results.lesioning else []
    return Facts(
        (
            Fact("Model", model.name),
            Fact("Parameters", fmt.thousands(model.n_parameters)),
            Fact("Attention heads", phrases.heads_of(model)),
            Fact("Tasks", str(len(results.tasks))),
            Fact("Seeds", str(len(results.seeds))),
            Fact("Steps", fmt.thousands(results.training.get("steps"))),
            *trained_heads.in_short(results.iat),
            *lesions,
        )
    )


# --- claim 4: performance


def _performance(results: ComparisonResults) -> Findings:
    names = results.names
    tasks = f"the task {names[0]}" if len(names) == 1 else f"the {len(names)} tasks"
    if 1 < len(names) <= 4:
        tasks += f" ({fmt.listing(names)})"
    if not results.summary.differences:
        question = f"How good is {results.model.name} at {tasks}?"
        return parts.nothing_to_compare(results, question, "only one method was run")
    entry = results.summary.differences[0]
    first, second = AFTER[entry.first], AFTER[entry.second]
    verdict = results.verdict_on(better(entry.first, entry.second))
    return parts.findings(
        verdict,
        f"Is {results.model.name} better at {tasks} {first} than {second}?",
        _performance_sentences(results, entry),
        _performance_caveats(results, entry, verdict.answer),
    )


def _performance_sentences(results: ComparisonResults, entry: Differences) -> list[str]:
    first, second, n_tasks = entry.first, entry.second, len(results.tasks)
    scores = [fmt.fixed(results.summary.methods[way].mean.mean) for way in (first, second)]
    what = f"the mean score of the {n_tasks} tasks" if n_tasks > 1 else "the score"
    sentences = [
        f"Over {seeds_of(results)}, {what} is {scores[0]} {AFTER[first]} and {scores[1]} "
        f"{AFTER[second]}: a difference of {in_words(results, entry.mean.tested)}."
    ]
    if n_tasks > 1:
        sentences += parts.task_by_task(results, entry.tasks, f"the score {AFTER[first]}")
    if (first, second) != ("iat", "multi"):
        return sentences
    for other in results.summary.differences[1:]:
        if (other.first, other.second) == ("multi", "single"):
            sentences.append(_negative_transfer(results, other))
        if other.first == "iat":
            found, against = in_words(results, other.mean.tested), AGAINST[other.second]
            sentences.append(f"Against {against}, IAT makes a difference of {found}.")
        if other.second == "multi" and other.first in INTERFERENCE:
            found = in_words(results, other.mean.tested)
            sentences.append(
                f"Against ordinary multi-task training, {NAMES[other.first]} makes a difference of "
                f"{found}."
            )
    return sentences


def _negative_transfer(results: ComparisonResults, entry: Differences) -> str:
    found, numbers = entry.mean.tested, in_words(results, entry.mean.tested)
    if found.is_worse:
        return (
            f"Ordinary multi-task training falls behind single-task training, by {numbers}: there "
            f"is negative transfer to undo."
        )
    if found.is_better:
        return f"Ordinary multi-task training is ahead of single-task training, by {numbers}."
    return (
        f"Whether ordinary multi-task training harms the tasks cannot be told: against "
        f"single-task training it makes a difference of {numbers}."
    )


def _performance_caveats(
    results: ComparisonResults, entry: Differences, answer: Answer
) -> list[str]:
    caveats = parts.caveats(results, entry.first, entry.second, answer)
    caveats += parts.chance_caveats(
        results.names,
        _standings(results, (entry.first, entry.second)),
        "Near chance on {}: there a difference between two trainings says little.",
        "Below chance on {}; are the labels in another order?",
    )
    metrics = sorted({task.metric_name for task in results.tasks})
    if len(metrics) > 1:
        caveats.append(
            f"The mean over tasks adds different metrics ({fmt.listing(metrics)}); see the tasks "
            f"one by one."
        )
    return caveats


def _standings(results: ComparisonResults, methods: Sequence[str]) -> list[Standing]:
    """For each task, where the best of these methods stands in relation to chance."""
    best = results.summary.best(methods)
    return [task.standing(score) for task, score in zip(results.tasks, best, strict=True)]


def _scores(results: ComparisonResults) -> Section:
    level, chances = level_of(results), [task.chance for task in results.tasks]
    places = _standings(results, results.methods)
    rows: list[tuple[str, float, Standing | None]] = [
        *zip(results.names, chances, places, strict=True)
    ]
    found = {way: list(results.summary.methods[way].tasks) for way in results.methods}
    if len(rows) > 1:
        rows.append((parts.ALL_TASKS, float(np.mean(chances)), None))
        for way, estimates in found.items():
            estimates.append(results.summary.methods[way].mean)
    text = (
        f"Each task’s score on its validation examples, which took no part in the "
        f"training or the choice of a checkpoint: mean over the seeds, and its {level} interval. "
        f"To compare two ways to train, read the differences below: they are taken seed by seed, "
        f"and their intervals are mostly narrower than these suggest."
    )
    table = parts.means(
        "Scores of every way to train, means over seeds",
        "Task",
        found,
        rows,
        f"Scores on the validation examples, means over seeds with {level} intervals",
    )
    return Section("scores", "Scores", (Prose(text), table), contents="Scores")


def _weights(results: ComparisonResults) -> Section | None:
    """How the methods against interference weighed the tasks."""
    if not results.weights:
        return None
    text = (
        "The mean weight of each task’s gradient or loss over the steps, and over the seeds. Only "
        "their proportions can be compared between methods."
    )
    means = {method: np.mean(each, axis=0).tolist() for method, each in results.weights.items()}
    rows = zip(results.names, *means.values(), strict=True)
    table = Table(
        "weights",
        "Mean weight of each task",
        (Column("Task"), *(Column(NAMES[method], "number") for method in means)),
        tuple(Row(row) for row in rows),
        look="plain",
    )
    return Section("weights", "Weights of the tasks", (Prose(text), table), contents="Weights")


def _score_lines(results: ComparisonResults, entry: Differences) -> list[Line]:
    first, second = (results.summary.methods[way].seeds for way in (entry.first, entry.second))
    singles = results.scores[entry.first] - results.scores[entry.second]
    return parts.lines_of_tasks(results, entry, singles, first - second)


# --- single seeds


def _seeds(results: ComparisonResults) -> Section:
    columns: list[tuple[Column, Sequence[Cell | float]]] = []
    for method in results.methods:
        scores = results.summary.methods[method].seeds.tolist()
        columns.append((Column(f"{NAMES[method]}: score", "number"), scores))
        checkpoint = Column(f"{NAMES[method]}: checkpoint", "text", right=True)
        columns.append((checkpoint, _checkpoints(results, method)))
    once = results.training.get("evaluations") == 1
    which = (
        "weights, the last ones"
        if once
        else "checkpoint that the held-out part of the training data chose"
    )
    return parts.single_seeds(
        results,
        f"The mean score over the tasks on the validation examples, and the step of the {which}.",
        "Mean score of every seed, and the step of its weights",
        columns,
    )


def _checkpoints(results: ComparisonResults, method: str) -> list[Cell]:
    """The step of each seed, or those of several models; undefined without checkpoints."""
    cells = []
    for seed, steps in zip(results.seeds, results.selected[method] or (), strict=False):
        several = steps if isinstance(steps, tuple) else (steps,)
        before = " (before IAT)" if method == "iat" and seed in results.before_iat else ""
        cells.append(Cell(", ".join(map(fmt.thousands, several)) + before))
    return cells or [Cell(None) for _ in results.seeds]
