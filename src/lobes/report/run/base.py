"""The score of every task with nothing ablated: what a lesion can take away."""

from markupsafe import Markup

from lobes.report import phrases
from lobes.report.charts import track
from lobes.report.sections import Prose, Section
from lobes.report.tables import TRACK_HEAD, Cell, Column, Mark, Row, Table
from lobes.results import RunResults
from lobes.results.run import MeasuredTask

_NORMALIZED = Markup('<abbr title="(base − chance) / (1 − chance)">Normalized score</abbr>')
COLUMNS = (
    Column("Task"),
    Column("Metric"),
    Column("Base", "number", strong=True),
    Column("Interval", "interval", ends="number"),
    Column("Chance", "number"),
    Column("Above chance", "signed"),
    Column("Normalized score", "number", "%", digits=0, head=_NORMALIZED, in_terminal=False),
    Column("Figure", "drawing", head=TRACK_HEAD),
    Column("Validation", "count", in_terminal=False),
    Column("Training", "count", in_terminal=False),
)


def section(results: RunResults) -> Section:
    """The table of base scores beside chance."""
    is_trained = any(task.n_train for task in results.tasks)
    table = Table(
        "base",
        "Score of every task with nothing ablated, and the score that chance gives",
        COLUMNS if is_trained else COLUMNS[:-1],
        tuple(_row(task, is_trained) for task in results.tasks),
        look="plain",
        terminal="Base scores",
    )
    text = (
        "The model with all its heads, on each task’s validation examples. A lesion can only show "
        "what a task has to lose: the distance to chance."
    )
    if phrases.in_spreads(results.tasks):
        text += " The mean of losses or scores that a user defines has no chance level."
    return Section(
        "base",
        "Base scores",
        (Prose(text), table),
        contents="Base scores",
        asks="Is there something to lose?",
    )


def _row(task: MeasuredTask, is_trained: bool) -> Row:
    warning = phrases.warning(task.standing(task.base))
    marks: frozenset[Mark] = frozenset({"warn"} if warning else ())
    return Row(
        (
            Cell(task.name, chip=warning, marks=marks),
            Cell(task.metric_name, note=f" · {phrases.outputs(task)}", marks=frozenset({"metric"})),
            task.base,
            task.base_interval,
            task.chance,
            task.base - task.chance,
            100 * task.skill(task.base),
            track(task.base, task.chance),
            task.n_validation,
            *([task.n_train] * is_trained),
        )
    )
