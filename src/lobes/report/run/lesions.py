"""The lesion matrices of every fraction, and how much the tasks' lesions overlap."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from lobes.dissociation.dose import dose
from lobes.dissociation.similarity import overlap, overlap_by_chance, shared_heads
from lobes.heads import HeadSet
from lobes.report import formatting as fmt
from lobes.report import phrases
from lobes.report.colors import TINTS, tint_of
from lobes.report.lesion_words import words_of
from lobes.report.sections import (
    Alternatives,
    Beside,
    Block,
    InFiles,
    Panel,
    Prose,
    Ramp,
    Section,
)
from lobes.report.tables import ENDS, MOST_TASKS, Cell, Column, Mark, Row, Table
from lobes.results import RunResults
from lobes.results.fractions import Fraction

OVERLAP = "Jaccard index · number of heads that both lesions hold"


def is_large(results: RunResults) -> bool:
    """Whether there are so many tasks that a page summarizes their matrices."""
    return len(results.tasks) > MOST_TASKS


def title_of(entry: Fraction) -> str:
    """`30 % of the heads (21 heads)`."""
    return f"{phrases.size_of(entry.fraction)} ({entry.n_heads} heads)"


def section(results: RunResults, *, whole: bool = False) -> Section | None:
    """The matrices of each fraction, or what they say of each of many tasks.

    With `whole` files hold the matrices of many tasks, too. None where nothing was lesioned.
    """
    if not results.fractions:
        return None
    widest = _widest_change(results)
    panels = []
    for place, entry in enumerate(results.fractions):
        blocks: tuple[Block, ...] = (
            _summarized(results, place, widest, whole)
            if is_large(results)
            else (Beside(_matrices(results, place, widest)),)
        )
        panels.append(Panel(title_of(entry), blocks))
    return Section(
        "lesions",
        "Lesion matrices",
        (
            Prose(_reading(results)),
            Ramp(f"{widest:.0f} %", phrases.unit_of(results.tasks)),
            Alternatives("fraction", tuple(panels)),
        ),
        contents="Lesions",
        asks="What does each lesion cost each task?",
    )


def overlap_section(results: RunResults) -> Section | None:
    """How many heads every two tasks' lesions share; None for one task and for many."""
    if not results.fractions or len(results.tasks) < 2 or is_large(results):
        return None
    done = words_of(results.lesioning).lesioned
    text = (
        f"How many of two tasks’ {done} heads are the same: the Jaccard index (shared / in "
        "either) and, after the dot, the number shared. Little overlap does not yet mean "
        "specialization, since a head may be replaceable; and two lesions that overlap much can "
        "hardly dissociate."
    )
    panels = tuple(
        Panel(title_of(entry), (_overlap(results, place), InFiles((_shared(results, place),))))
        for place, entry in enumerate(results.fractions)
    )
    return Section(
        "overlap",
        "Overlap of the important heads",
        (Prose(text), Alternatives("fraction", panels)),
        contents="Overlap",
        asks="How many heads do the tasks’ lesions share?",
    )


def _reading(results: RunResults) -> Markup:
    words = words_of(results.lesioning)
    text = (
        "Each row {} chosen for one task; each column measures one task. {}The tint "
        "is the change from the base score, the same scale at every fraction.{}"
    )
    down = Markup(
        "<strong>Read down a column:</strong> where heads are specialized, a task loses {} under "
        "its own lesion, so the framed cell on the diagonal is the column’s {} ({}). Whole rows "
        "may differ too, since some sets of heads matter to everything. "
    ).format(words.most, words.end, ENDS[words.end])
    without = [task.name for task in results.tasks if math.isnan(task.base_divisor)]
    no_ratio = (
        f" No change in percent for {', '.join(without)}: the interval of the base score includes "
        f"0, or the score is too near it."
    )
    several = len(results.tasks) > 1
    return Markup(text).format(words.does, down if several else "", no_ratio if without else "")


def _widest_change(results: RunResults) -> float:
    """The largest change of any score under a task's lesion, in percent: the end of the tints."""
    changes = [
        np.abs(_changed(entry.scores, results.bases, results.divisors)).ravel()
        for entry in results.fractions
    ]
    return math.ceil(np.nanmax([5.0, *np.concatenate(changes)]))


def _changed(
    scores: Float[np.ndarray, "*lesions tasks"],
    bases: Float[np.ndarray, " tasks"],
    divisors: Float[np.ndarray, " tasks"],
) -> Float[np.ndarray, "*lesions tasks"]:
    """Scores as changes from the base scores in percent of `divisors`; NaN where one is NaN."""
    return 100 * (scores - bases) / divisors


@dataclass(frozen=True)
class _Line:
    """A row of a matrix: every task's score, its interval, its change in percent and its marks."""

    label: str
    kind: str
    scores: np.ndarray
    intervals: np.ndarray
    changes: np.ndarray
    marks: tuple[frozenset[Mark], ...]

    def of_scores(self, widest: float) -> Row:
        """The scores, each with its interval in the column under it."""
        cells = zip(self._cells(self.scores, widest), self.intervals.tolist(), strict=True)
        return Row((self.label, *(value for c, i in cells for value in (c, tuple(i)))), self.kind)

    def of_changes(self, widest: float) -> Row:
        """The changes; pointing at one shows the score itself."""
        rows = zip(self._cells(self.changes, widest), self.scores, self.intervals, strict=True)
        cells = (replace(cell, title=_score(value, *ends)) for cell, value, ends in rows)
        return Row((self.label, *cells), self.kind)

    def _cells(self, values: np.ndarray, widest: float) -> Iterator[Cell]:
        """These values, tinted by the changes."""
        for value, change, marks in zip(values.tolist(), self.changes, self.marks, strict=True):
            shown = marks if math.isfinite(value) else marks & {"own"}
            yield Cell(value, tint=tint_of(change, widest), marks=shown)


def _score(value: float, low: float, high: float) -> str:
    """`0.812 (0.790 to 0.833)`."""
    ends = fmt.interval(low, high, fmt.fixed)
    return fmt.fixed(value) + ("" if ends == fmt.UNDEFINED else f" ({ends})")


def _lines(results: RunResults, place: int) -> list[_Line]:
    """The rows of a matrix: all heads, each task's lesion, the mean of random lesions."""
    entry, divisors = results.fractions[place], results.divisors
    n = len(results.tasks)
    unmarked, unknown = (frozenset[Mark](),) * n, np.full((n, n, 2), np.nan)
    base, words = results.bases, words_of(results.lesioning)
    of_base = np.array([task.base_interval for task in results.tasks])
    intervals = unknown if entry.score_intervals is None else entry.score_intervals
    lines = [_Line(words.base, "base", base, of_base, _changed(base, base, divisors), unmarked)]
    ends = _ends(entry.scores, words.end)
    for i, (name, at_end) in enumerate(zip(results.names, ends, strict=True)):
        marks = tuple(_marks(i == j, words.end if at else None) for j, at in enumerate(at_end))
        scores = entry.scores[i]
        changes = _changed(scores, base, divisors)
        lines.append(_Line(name, "task", scores, intervals[i], changes, marks))
    if entry.n_random:
        random = dose(entry.scores, entry.random_scores).random
        change = _changed(random, results.control_bases, results.control_divisors)
        name = "random heads (mean)"
        lines.append(_Line(name, "control", random, unknown[0], change, unmarked))
    return lines


def changes(results: RunResults, place: int) -> Table:
    """The matrix of a fraction as changes in percent of the base scores."""
    return _matrices(results, place, _widest_change(results))[1]


def _matrices(results: RunResults, place: int, widest: float) -> tuple[Table, Table]:
    """The matrix of a fraction as scores, and as changes in percent of the base scores."""
    entry, lines = results.fractions[place], _lines(results, place)
    label = fmt.percent(entry.fraction)
    words = words_of(results.lesioning)
    terminal = f"Scores under lesions of {title_of(entry)}; rows: {words.whose}"
    is_headline = entry is results.largest and not is_large(results)
    return (
        Table(
            f"raw-{place}",
            f"Scores under each lesion, {label}",
            (words.rows, *(column for name in results.names for column in _with_interval(name))),
            tuple(line.of_scores(widest) for line in lines),
            _look(results),
            note=words.note,
            terminal=terminal if is_headline else "",
        ),
        Table(
            f"change-{place}",
            f"Change from the base score in {phrases.percent_of(results.tasks)}, {label}",
            (words.rows, *(Column(name, "points") for name in results.names)),
            tuple(line.of_changes(widest) for line in lines),
            _look(results),
            note=words.note,
        ),
    )


def _with_interval(name: str) -> tuple[Column, Column]:
    """The column of a task's scores, and that of their intervals under it."""
    interval = Column("Interval", "interval", ends="number", under=True, in_terminal=False)
    return Column(name, "number"), interval


def _look(results: RunResults) -> Literal["tight", "matrix"]:
    """A matrix is a figure, too; of so many tasks that would show nothing."""
    return "tight" if is_large(results) else "matrix"


def _ends(scores: Float[np.ndarray, "tasks tasks"], end: Mark) -> np.ndarray:
    """Which scores are the `end` of their column, where the scores of the column differ."""
    signed = -scores if end == "highest" else scores
    known = np.where(np.isfinite(signed), signed, np.inf)
    least = known.min(axis=0)
    differ = np.where(np.isfinite(signed), signed, -np.inf).max(axis=0) > least
    return (known == least) & np.isfinite(least) & differ


def _marks(is_own: bool, end: Mark | None) -> frozenset[Mark]:
    marks: list[Mark] = ["own"] * is_own
    return frozenset([*marks, end] if end else marks)


def _lesions(results: RunResults, place: int) -> list[HeadSet]:
    return [results.fractions[place].lesion_of(name) for name in results.names]


def _overlap(results: RunResults, place: int) -> Table:
    """The Jaccard index of every two tasks' lesions; a page also shows the number shared."""
    entry, lesions = results.fractions[place], _lesions(results, place)
    shares, counts = overlap(lesions), shared_heads(lesions)

    def cell(i: int, j: int) -> Cell:
        share, count = float(shares[i, j]), int(counts[i, j])
        if i == j or not math.isfinite(share):
            return Cell(share, text=fmt.plural(int(counts[i, i]), "head"))
        return Cell(share, text=f"{share:.2f} · {count}", tint=round(TINTS * share))

    n_tasks = len(results.tasks)
    chance = overlap_by_chance(entry.n_heads, results.model.n_heads)
    return Table(
        f"overlap-{place}",
        f"Overlap of the tasks’ lesions, {fmt.percent(entry.fraction)}; two random lesions of this "
        f"size: {chance:.2f} on average",
        (Column("Lesions of"), *(Column(name, "number", digits=2) for name in results.names)),
        tuple(
            Row((name, *(cell(i, j) for j in range(n_tasks))), "task")
            for i, name in enumerate(results.names)
        ),
        _look(results),
        note=OVERLAP,
    )


def _shared(results: RunResults, place: int) -> Table:
    """The number of heads that every two tasks' lesions share, for files."""
    counts = shared_heads(_lesions(results, place)).tolist()
    return Table(
        f"shared-{place}",
        f"Heads in both lesions, {fmt.percent(results.fractions[place].fraction)}",
        (Column("Lesions of"), *(Column(name, "count") for name in results.names)),
        tuple(Row((name, *row)) for name, row in zip(results.names, counts, strict=True)),
    )


def _summarized(results: RunResults, place: int, widest: float, whole: bool) -> tuple[Block, ...]:
    """What the matrices of many tasks say of each task; with `whole` the matrices, for files."""
    files = (
        (
            *_matrices(results, place, widest),
            _overlap(results, place),
            _shared(results, place),
        )
        if whole
        else ()
    )
    note = (
        f"Of more than {MOST_TASKS} tasks the page shows what the matrices say of each. The "
        f"matrices are in the exported tables, raw-{place}.csv, change-{place}.csv and "
        f"overlap-{place}.csv (lobes report RUN --figures DIR)."
    )
    return _summary(results, place), Prose(note, "note"), InFiles(files)


def _summary(results: RunResults, place: int) -> Table:
    entry, names = results.fractions[place], results.names
    found, words = dose(entry.scores, entry.random_scores), words_of(results.lesioning)
    shares = overlap(_lesions(results, place))
    np.fill_diagonal(shares, np.nan)
    rows = []
    for j, name in enumerate(names):
        column, near = entry.scores[:, j], _largest(shares[j])
        at = np.nanargmax if words.end == "highest" else np.nanargmin
        end = names[int(at(column))] if np.isfinite(column).any() else None
        rows.append(
            Row(
                (
                    *(name, results.tasks[j].base, found.own[j], found.others[j], found.random[j]),
                    *(end, float(np.nanmean(shares[j]))),
                    *(float(shares[j, near]), names[near]),
                )
            )
        )
    caption = (
        f"Each task’s score under lesions, and the overlap of its lesion with others, "
        f"{fmt.percent(entry.fraction)}"
    )
    terminal = caption if entry is results.largest else ""
    columns = (
        Column("Task"),
        Column("Base", "number"),
        Column("Own lesion", "number"),
        Column("Others’ lesions, mean", "number"),
        Column("Random, mean", "number"),
        Column(f"{words.end.capitalize()} under", right=True),
        Column("Overlap, mean", "number", digits=2),
        Column("Largest overlap", "number", digits=2),
        Column("With", right=True),
    )
    return Table(f"summary-{place}", caption, columns, tuple(rows), terminal=terminal)


def _largest(values: np.ndarray) -> int:
    return int(np.where(np.isfinite(values), values, -1.0).argmax())
