"""Which validation examples flip under which lesion, read from a run's folder.

`predictions.parquet` is read in pieces and only its rows of task lesions at the largest fraction
are kept, `texts.parquet` in pieces for the examples shown: a million rows need little memory.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from markupsafe import Markup

from lobes.dissociation.flips import Flips, Group, GroupName, flips
from lobes.report import formatting as fmt
from lobes.report.lesion_words import words_of
from lobes.report.page import macro
from lobes.report.sections import Html, Prose, Section
from lobes.report.tables import MOST_TASKS, Column, Row, Table
from lobes.results import RunResults
from lobes.results.tables import read_task_lesions, read_texts

LONGEST = 280  # characters of a text that are shown at once
LONGEST_FULL = 4000  # characters of a text that are shown at all

TITLES: Mapping[GroupName, str] = {
    "own only": "Under its own lesion and no other",
    "own and others": "Under its own lesion and others",
    "others only": "Under other lesions only",
    "own": "Under its own lesion",
    "error": "The largest changes of the error",
}

Texts = Mapping[tuple[int, int], tuple[str, ...]]


def section(results: RunResults, folder: str | Path, *, whole: bool = False) -> Section | None:
    """The examples that flip in a run's folder; None where it holds no predictions to read.

    `results` are the folder's own. Of many tasks, only what a task's own lesion flips is read, or
    what any lesion flips if `whole`. Raises `RunError` when a file is damaged.
    """
    folder, found = Path(folder), results.largest
    if found is None or not (folder / "predictions.parquet").is_file():
        return None
    own_only = len(results.tasks) > MOST_TASKS and not whole
    flipped = _read(results, folder, own_only)
    groups = {task: each.groups(task) for task, each in flipped.items()}
    chosen = {(k, one) for k, each in groups.items() for group in each for one in group.chosen}
    texts = read_texts(folder, results.names, chosen)
    notes = _notes(results.names, flipped, (folder / "texts.parquet").is_file(), own_only)
    lesion = words_of(results.lesioning).of
    text = (
        f"Validation examples whose prediction {lesion} {fmt.percent(found.fraction)} of the heads "
        f"turns from right to wrong, or from wrong to right. The counts are over all "
        f"examples; of those that flip, some are shown for each task, most of them such that only "
        f"the task’s own lesion flips. Read them to see what kind of example is lost, not how many."
    )
    lesions = [] if own_only else [(k, results.names[k]) for k in _lesioned(results)]
    shown = (_shown(results, flipped, groups, texts, lesions),) if flipped else ()
    return Section(
        "examples",
        "Which examples flip",
        (Prose(text), *(Prose(note, "note") for note in notes), *shown),
        contents="Examples",
        asks="Which examples change their answer?",
    )


def _lesioned(results: RunResults) -> list[int]:
    """The numbers of the tasks that have a lesion of their own."""
    found = results.largest
    return [k for k, name in enumerate(results.names) if found and name in found.lesions]


def _read(results: RunResults, folder: Path, own_only: bool) -> dict[int, Flips]:
    """What flips of each task whose predictions are one number for each example."""
    assert results.largest is not None
    lesioned = _lesioned(results)
    rows = read_task_lesions(folder, results.names, results.largest.fraction, own_only=own_only)
    found = {
        task: flips(
            rows[task].lesion,
            rows[task].example,
            rows[task].label,
            rows[task].prediction,
            [task] if own_only else lesioned,
            regression=results.tasks[task].labels is None,
        )
        for task in (lesioned if own_only else range(len(results.tasks)))
    }
    return {task: each for task, each in found.items() if each is not None}


def _shown(
    results: RunResults,
    flipped: Mapping[int, Flips],
    groups: Mapping[int, Sequence[Group]],
    texts: Texts,
    lesions: Sequence[tuple[int, str]],
) -> Html:
    tables = {task: _counts(each, task, results.names) for task, each in flipped.items()}
    parts = "".join(
        macro(
            "flips.html",
            "task_examples",
            {
                "task": task,
                "names": results.names,
                "summary": _summary(each, task),
                "table": tables[task],
                "flips": each,
                "groups": [(TITLES[group.name], group) for group in groups[task]],
                "texts": texts,
                "answer": partial(_answer, results.tasks[task].labels or ()),
                "ends": (LONGEST, LONGEST_FULL),
            },
        )
        for task, each in flipped.items()
    )
    return Html(
        Markup(macro("flips.html", "filters", lesions) + parts),
        style=macro("flips.html", "filter_rules", lesions),
        tables=tuple(tables.values()),
    )


def _answer(labels: Sequence[str], value: float) -> str:
    """A label or a prediction as shown: a class by its name, a regression's value as a number."""
    if not np.isfinite(value):
        return fmt.UNDEFINED
    if not labels:
        return fmt.fixed(float(value), 2)
    place = int(value)
    return labels[place] if 0 <= place < len(labels) else str(place)


def _summary(found: Flips, task: int) -> str:
    number = fmt.plural(found.number, "example")
    if task not in found.lesions:
        return f"no lesion of its own, {number}"
    own = found.lesions.index(task)
    worse, better = (fmt.thousands(int(each[own])) for each in (found.worse, found.better))
    if found.regression:
        return (
            f"of {number}, under its own lesion the error grows for {worse} and shrinks for "
            f"{better}"
        )
    return f"of {number}, its own lesion turns {worse} right → wrong, {better} wrong → right"


def _counts(found: Flips, task: int, names: Sequence[str]) -> Table:
    if found.regression:
        titles, last = ("Error grows", "Error shrinks"), found.mean_change
        column = Column("Mean change of the error", "signed")
    else:
        titles, last = ("Right → wrong", "Wrong → right"), found.alone
        column = Column("Under this lesion only", "count")
    return Table(
        f"flips-{task}",
        f"{names[task]}: how many examples change under each task’s lesion",
        (Column("Lesion of"), *(Column(title, "count") for title in titles), column),
        tuple(
            Row((names[lesion], int(worse), int(better), last_one.item()))
            for lesion, worse, better, last_one in zip(
                found.lesions, found.worse, found.better, last, strict=True
            )
        ),
    )


def _notes(
    names: Sequence[str], flipped: Mapping[int, Flips], texts: bool, own_only: bool
) -> list[str]:
    notes = []
    if own_only:
        notes.append(
            f"Of more than {MOST_TASKS} tasks the page shows what a task’s own lesion flips; "
            f"counts for every lesion are in the exported tables, flips-0.csv and on."
        )
    missing = [name for k, name in enumerate(names) if k not in flipped]
    if missing:
        notes.append(
            f"Left out: {fmt.listing(missing)}, whose answers are not one class or one number "
            f"for each example."
        )
    if flipped and not texts:
        notes.append(
            "The texts were not kept with this run, so examples are shown by their number."
        )
    return notes
