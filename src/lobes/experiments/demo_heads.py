"""What the demo shows last: the heads that one task alone needs, and what removing them changes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.special import softmax

from lobes.heads import Head, HeadSet
from lobes.measure.evaluation import evaluate
from lobes.modeling import load_task_model
from lobes.results import RunResults
from lobes.scores import HeadScores
from lobes.tasks.task import Task

HEADS = 3
SENTENCES = 5


@dataclass(frozen=True)
class Removal:
    """What becomes of the tasks without some heads, and the sentences that it shows best.

    `shares[task]` are the heads' importances in percent of the task's largest. `flips[task]` are
    how many of the examples' answers went wrong, how many came right, and how many examples there
    are. `sentences` are those whose right answer lost most, with its probability before and after.
    """

    task: str
    heads: tuple[Head, ...]
    shares: dict[str, tuple[float, ...]]
    flips: dict[str, tuple[int, int, int]]
    sentences: tuple[tuple[str, str, float, float], ...]


def most_specific(results: RunResults, task: str, number: int = HEADS) -> tuple[Head, ...]:
    """Return the heads whose importance to a task exceeds most that to any other task.

    Each map counts in shares of its own largest. Only heads of the task's largest lesion are named;
    none without the map of the task, or with that alone.
    """
    maps = {each.task: _shares(each.values) for each in results.importance}
    if task not in maps or len(maps) == 1:
        return ()
    others = np.max([values for name, values in maps.items() if name != task], axis=0)
    excess = HeadScores(maps[task] - others)
    lesion = HeadSet() if results.largest is None else results.largest.lesion_of(task)
    return tuple(head for head in excess.ranked() if head in lesion)[:number]


def removal(
    results: RunResults, model_folder: Path, tasks: list[Task], task: str, precision: str
) -> Removal | None:
    """Measure the tasks of a finished run without the heads most specific to one of them.

    None where no head is, and where the run trained no model.
    """
    heads = most_specific(results, task)
    if not heads or results.training is None:
        return None
    model = load_task_model(model_folder, tasks)
    found = evaluate(model, tasks, [HeadSet(), HeadSet(heads)], precision=precision)
    maps = {each.task: _shares(each.values) for each in results.importance}
    flips = {}
    for each in tasks:
        before, after = found.predictions(each.name) == found.labels[each.name]
        flips[each.name] = int((before & ~after).sum()), int((~before & after).sum()), len(before)
    own = next(each for each in tasks if each.name == task)
    before, after = _right(found.logits[task], found.labels[task])
    chosen = np.argsort(after - before, kind="stable")[:SENTENCES]
    assert own.validation is not None
    assert own.labels is not None
    return Removal(
        task=task,
        heads=heads,
        shares={
            name: tuple(100 * float(values[h]) for h in heads) for name, values in maps.items()
        },
        flips=flips,
        sentences=tuple(
            (
                " ".join(own.validation.texts[i]),
                own.labels[int(own.validation.labels[i])],
                float(before[i]),
                float(after[i]),
            )
            for i in chosen.tolist()
        ),
    )


def _shares(values: Float[np.ndarray, "sites heads"]) -> Float[np.ndarray, "sites heads"]:
    return values / (np.nanmax(np.abs(values)) or 1.0)


def _right(
    logits: Float[np.ndarray, "lesions examples classes"], labels: np.ndarray
) -> Float[np.ndarray, "lesions examples"]:
    """The probability of the right class."""
    return np.asarray(softmax(logits, axis=-1))[:, np.arange(len(labels)), labels]
