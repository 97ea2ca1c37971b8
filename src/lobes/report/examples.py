"""Which validation examples flip under which lesion, read from a run's folder.

An example flips when its prediction is right with nothing ablated and wrong under a task's lesion,
or the other way round; of a regression the largest changes of the error are shown. All counts are
over all examples. Shown are at most `MOST` for each task: most of them flip under the task's
own lesion and no other, some under its own and others, some under others only; where there are
more than fit, a draw with a fixed seed chooses.

`predictions.parquet` is read in pieces and only its rows of task lesions at the largest fraction
are kept, `texts.parquet` in pieces for the examples shown: a million rows need little memory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lobes.report import formatting as fmt
from lobes.report.findings import Results, largest
from lobes.report.tabular import MOST_TASKS, Table
from lobes.results import RunResults, checked, content_of
from lobes.results.tables import TaskRows, read_task_lesions, read_texts

MOST = 40
QUOTAS = (24, 10, 6)  # of the groups, in their order
LONGEST = 280  # characters of a text that are shown at once
LONGEST_FULL = 4000  # characters of a text that are shown at all
SEED = 0

Kind = Literal["lost", "gained"]


@dataclass(frozen=True)
class Text:
    """A text of an example; `rest` is shown on demand, `cut` says that even more was left out."""

    start: str
    rest: str
    cut: bool


@dataclass(frozen=True)
class Change:
    """What an example's prediction becomes under a lesion of `task` (its number)."""

    task: int
    name: str
    kind: Kind
    prediction: str


@dataclass(frozen=True)
class Example:
    """One example that flips: its texts, label, prediction with nothing ablated, and changes."""

    number: int
    texts: tuple[Text, ...]
    label: str
    base: str
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Group:
    """The examples of a task that flip in one way; `total` counts all, shown or not."""

    title: str
    total: str
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class TaskExamples:
    """One task's flips: a table of counts under every lesion, and the examples shown."""

    task: str
    summary: str
    regression: bool
    table: Table
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Examples:
    """The per-example part of a report; `notes` say what is left out and why."""

    fraction: str
    lesions: tuple[tuple[int, str], ...]
    tasks: tuple[TaskExamples, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Flips:
    """One task: labels and base predictions [examples], predictions under lesions [lesions, …].

    `change` is +1 where an example is lost under a lesion, −1 where it is gained; of a regression
    the growth of the absolute error. What was not measured is NaN.
    """

    labels: np.ndarray
    base: np.ndarray
    under: np.ndarray
    change: np.ndarray
    regression: bool


@dataclass(frozen=True)
class _Choice:
    """A group of a task's examples: how many there are, and the numbers of those shown."""

    title: str
    total: int
    shown: list[int]


def examples_of(
    folder: str | Path, found: RunResults | Mapping[str, Any], *, whole: bool = False
) -> Examples | None:
    """The examples that flip in a run's folder; None where it holds no predictions to read.

    `found` are the folder's own results. Of many tasks, only what a task's own lesion flips is
    read, or what any lesion flips if `whole`. Raises `RunError` when a file is damaged.
    """
    folder, results = Path(folder), content_of(checked(found, RunResults))
    entry = largest(results)
    if entry is None or not (folder / "predictions.parquet").is_file():
        return None
    names = [task["name"] for task in results["tasks"]]
    lesioned = [k for k, name in enumerate(names) if name in entry["lesions"]]
    own_only = len(names) > MOST_TASKS and not whole
    shown = {
        k: [k] if own_only else lesioned for k in (lesioned if own_only else range(len(names)))
    }
    rows = read_task_lesions(folder, names, entry["fraction"], own_only=own_only)
    flips = {
        k: each
        for k, mine in shown.items()
        if (each := _flips(rows[k], mine, results["tasks"][k]["labels"] is None)) is not None
    }
    chosen = {k: _chosen(found, k, shown[k]) for k, found in flips.items()}
    wanted = {(k, number) for k, groups in chosen.items() for one in groups for number in one.shown}
    texts = read_texts(folder, names, wanted)
    return Examples(
        fraction=fmt.percent(fmt.number(entry["fraction"])),
        lesions=() if own_only else tuple((k, names[k]) for k in lesioned),
        tasks=tuple(
            _task(results["tasks"][k], k, names, shown[k], flips[k], chosen[k], texts)
            for k in flips
        ),
        notes=_notes(names, flips, (folder / "texts.parquet").is_file(), own_only),
    )


def _flips(rows: TaskRows, lesioned: Sequence[int], regression: bool) -> _Flips | None:
    """One task's predictions; None where it has none that are one number for each example."""
    if not len(rows.lesion):
        return None
    lesion, example = rows.lesion, rows.example.astype(np.int64)
    number = int(example.max()) + 1
    labels, base = np.full(number, np.nan), np.full(number, np.nan)
    under = np.full((len(lesioned), number), np.nan)
    labels[example] = rows.label
    base[example[lesion == -1]] = rows.prediction[lesion == -1]
    place = np.full(max(int(lesion.max()), *lesioned, -1) + 1, -1)
    place[np.array(lesioned, dtype=np.int64)] = np.arange(len(lesioned))
    known = (lesion >= 0) & (place[lesion] >= 0)
    under[place[lesion[known]], example[known]] = rows.prediction[known]
    if np.isnan(labels).all() or np.isnan(base).all():
        return None
    if regression:
        change = np.abs(under - labels) - np.abs(base - labels)
    else:
        change = (base == labels).astype(float) - (under == labels)
        change[np.isnan(under)] = np.nan
    return _Flips(labels, base, under, change, regression)


def _chosen(flips: _Flips, task: int, lesioned: Sequence[int]) -> list[_Choice]:
    """Which examples are shown, in groups."""
    own = lesioned.index(task) if task in lesioned else None
    if flips.regression:
        size = np.nan_to_num(np.abs(flips.change if own is None else flips.change[own : own + 1]))
        largest_change = size.max(axis=0)
        order = np.argsort(-largest_change, kind="stable")[: MOST // 2]
        shown = [int(k) for k in order if largest_change[k] > 0]
        return [_Choice("The largest changes of the error", int((largest_change > 0).sum()), shown)]
    flipped = np.nan_to_num(flips.change) != 0
    several = flipped.sum(axis=0)
    by_own = flipped[own] if own is not None else np.zeros(len(several), dtype=bool)
    kinds = {
        "Under its own lesion and no other": by_own & (several == 1),
        "Under its own lesion and others": by_own & (several > 1),
        "Under other lesions only": ~by_own & (several > 0),
    }
    if lesioned == [task]:
        kinds = {"Under its own lesion": by_own}
    found = [np.flatnonzero(mask) for mask in kinds.values()]
    numbers = _shares([len(one) for one in found])
    generator = np.random.default_rng([SEED, task])
    drawn = [
        sorted(generator.choice(one, number, replace=False).tolist())
        for one, number in zip(found, numbers, strict=True)
    ]
    return [
        _Choice(title, len(one), shown)
        for title, one, shown in zip(kinds, found, drawn, strict=True)
        if shown
    ]


def _shares(there: Sequence[int]) -> list[int]:
    """How many of each group are shown: its quota, then in order what others leave free."""
    numbers = [min(n, quota) for n, quota in zip(there, QUOTAS, strict=False)]
    for k, n in enumerate(there):
        numbers[k] += min(n - numbers[k], MOST - sum(numbers))
    return numbers


def _task(
    found: Results,
    task: int,
    names: Sequence[str],
    lesioned: Sequence[int],
    flips: _Flips,
    chosen: Sequence[_Choice],
    texts: Mapping[tuple[int, int], tuple[str, ...]],
) -> TaskExamples:
    show = _Answers([str(label) for label in found["labels"] or ()])

    def example(number: int) -> Example:
        return Example(
            number=number,
            texts=tuple(_text(text) for text in texts.get((task, number), ())),
            label=show(flips.labels[number]),
            base=show(flips.base[number]),
            changes=tuple(
                Change(
                    task=lesion,
                    name=names[lesion],
                    kind="lost" if flips.change[k, number] > 0 else "gained",
                    prediction=show(flips.under[k, number]),
                )
                for k, lesion in enumerate(lesioned)
                if flips.change[k, number] != 0 and not np.isnan(flips.change[k, number])
            ),
        )

    return TaskExamples(
        task=names[task],
        summary=_summary(flips, task, lesioned),
        regression=flips.regression,
        table=_counts(flips, task, names, lesioned),
        groups=tuple(
            Group(one.title, fmt.thousands(one.total), tuple(example(k) for k in one.shown))
            for one in chosen
        ),
    )


@dataclass(frozen=True)
class _Answers:
    """Shows a label or a prediction: a class by its name, a regression's value as a number."""

    labels: Sequence[str]

    def __call__(self, value: float) -> str:
        if not np.isfinite(value):
            return fmt.UNDEFINED
        if not self.labels:
            return fmt.fixed(float(value), 2)
        place = int(value)
        return self.labels[place] if 0 <= place < len(self.labels) else str(place)


def _text(value: object) -> Text:
    text = str(value)
    if len(text) <= LONGEST:
        return Text(text, "", False)
    return Text(text[:LONGEST], text[LONGEST:LONGEST_FULL], len(text) > LONGEST_FULL)


def _summary(flips: _Flips, task: int, lesioned: Sequence[int]) -> str:
    number = fmt.plural(int(np.isfinite(flips.base).sum()), "example")
    if task not in lesioned:
        return f"no lesion of its own, {number}"
    change = flips.change[lesioned.index(task)]
    worse, better = (fmt.thousands(int((np.sign(change) == sign).sum())) for sign in (1, -1))
    if flips.regression:
        return f"of {number}, the error grows for {worse} and shrinks for {better}"
    return f"of {number}, {worse} right → wrong, {better} wrong → right"


def _counts(flips: _Flips, task: int, names: Sequence[str], lesioned: Sequence[int]) -> Table:
    change = np.nan_to_num(flips.change)
    alone = (change != 0).sum(axis=0) == 1
    rows = []
    for k, lesion in enumerate(lesioned):
        worse, better = int((change[k] > 0).sum()), int((change[k] < 0).sum())
        if flips.regression:
            last = fmt.fixed(float(change[k].mean()), 3, sign=True)
        else:
            last = fmt.thousands(int(((change[k] != 0) & alone).sum()))
        rows.append((names[lesion], fmt.thousands(worse), fmt.thousands(better), last))
    header = ("Lesion of", "Right → wrong", "Wrong → right", "Under this lesion only")
    if flips.regression:
        header = ("Lesion of", "Error grows", "Error shrinks", "Mean change of the error")
    caption = f"{names[task]}: how many examples change under each task’s lesion"
    return Table(f"flips-{task}", caption, header, tuple(rows))


def _notes(
    names: Sequence[str], flips: Mapping[int, _Flips], texts: bool, own_only: bool
) -> tuple[str, ...]:
    notes = []
    if own_only:
        notes.append(
            f"Of more than {MOST_TASKS} tasks the page shows what a task’s own lesion flips; "
            f"counts for every lesion are in the exported tables, flips-0.csv and on."
        )
    missing = [name for k, name in enumerate(names) if k not in flips]
    if missing:
        notes.append(
            f"Left out: {fmt.listing(missing)}, whose answers are not one class or one number "
            f"for each example."
        )
    if flips and not texts:
        notes.append(
            "The texts were not kept with this run, so examples are shown by their number."
        )
    return tuple(notes)
