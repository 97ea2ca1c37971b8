"""The parts that the pages of comparisons and of transfer studies share."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lobes.dissociation.seeds import Difference
from lobes.dissociation.verdict import Answer, Verdict
from lobes.metrics import Standing
from lobes.report import formatting as fmt
from lobes.report.charts import Strip, strip_plot
from lobes.report.phrases import IN_COLOR, headline, outputs, some, warning
from lobes.report.sections import (
    Beside,
    Block,
    Facts,
    Figure,
    Findings,
    InTerminal,
    Page,
    Panel,
    Panels,
    Prose,
    Section,
)
from lobes.report.settings import durations, section
from lobes.report.tables import Cell, Column, Row, Table, marked, stacked, text_of
from lobes.results.over_seeds import (
    ComparedTask,
    ComparisonResults,
    Estimate,
    OverSeeds,
    RowDifference,
    TaskDifferences,
)
from lobes.results.over_seeds import Difference as StoredDifference

FEW_SEEDS = 5
ALL_TASKS = "all tasks (mean)"

# What stands at the head of a column.
NAMES = {
    "single": "single-task",
    "multi": "multi-task",
    "iat": "IAT",
    "frozen": "frozen encoder",
    "probe": "linear probe",
    "sum": "plain sum",
    "pcgrad": "PCGrad",
    "mgda": "MGDA",
    "cagrad": "CAGrad",
    "imtl": "IMTL-G",
    "famo": "FAMO",
    "uncertainty": "uncertainty weighting",
    "tuned": "tuned sum",
    "pretrained": "pre-trained",
}

DIFFERENCE = Column("Difference", "signed", digits=4, strong=True)
D_DIFFERENCE = Column("Difference", "points", strong=True)


# --- the page and its findings


def page(
    results: OverSeeds,
    kind: str,
    found: Findings,
    facts: Facts,
    sections: Iterable[Section | None],
    glossary: tuple[tuple[str, str], ...],
) -> Page:
    """The page that begins with these findings and facts."""
    first = Section("findings", "Findings", (facts,), "Findings", found)
    return Page.of(results, kind, (first, *sections), glossary)


def findings(
    verdict: Verdict, question: str, sentences: Iterable[str], caveats: Iterable[str]
) -> Findings:
    """A stored verdict as the findings of a section."""
    return Findings(question, verdict.answer, headline(verdict), (*sentences,), (*caveats,))


def nothing_to_compare(results: OverSeeds, question: str, why: str) -> Findings:
    """The findings of a study with a single way to train, or a single start."""
    return Findings(
        question,
        "open",
        f"There is nothing to compare: {why}.",
        caveats=tuple(_seed_caveats(results, "open")),
    )


def caveats(results: OverSeeds, first: str, second: str, answer: Answer) -> list[str]:
    """What few seeds, and weights from before IAT, cannot show of one way against another."""
    return [*_seed_caveats(results, answer), *before_iat_caveats(results, first, second)]


def _seed_caveats(results: OverSeeds, answer: Answer) -> list[str]:
    """Why few seeds leave a question open; a yes or a no has taken their wide intervals in."""
    count = len(results.seeds)
    if count == 1:
        return ["With one seed there is neither an interval nor a test: run three or more."]
    if count < FEW_SEEDS and answer == "open":
        return [
            f"{count} seeds make wide intervals: only a large difference can show. Run "
            f"{FEW_SEEDS} or more."
        ]
    return []


def before_iat_caveats(results: OverSeeds, first: str, second: str) -> list[str]:
    """In which seeds the chosen weights of IAT say nothing about it."""
    early = results.before_iat
    if first != "iat" or not early:
        return []
    seeds = f"seed {early[0]}" if len(early) == 1 else f"seeds {some([str(s) for s in early])}"
    same = "the same model as" if second == "multi" else "a model of"
    return [
        f"In {seeds} ({len(early)} of {len(results.seeds)}) the checkpoint chosen on held-out data "
        f"is from before IAT began: there IAT gives {same} ordinary multi-task training"
        + (", and a difference of 0." if second == "multi" else ".")
    ]


def chance_caveats(
    labels: Sequence[str], standings: Sequence[Standing], near: str, below: str
) -> list[str]:
    """What is said of scores that are not clearly better than chance; `{}` is which they are."""
    found = []
    for place, sentence in (("near", near), ("below", below)):
        names = [name for name, each in zip(labels, standings, strict=True) if each == place]
        if names:
            found.append(sentence.format(some(names)))
    return found


def higher_and_lower(names: Sequence[str], found: Iterable[RowDifference]) -> dict[str, list[str]]:
    """The rows in which the first is "higher", and "lower"; each where there are such rows."""
    tested = dict(zip(names, (each.tested for each in found), strict=True))
    higher = [name for name, each in tested.items() if each.is_better]
    lower = [name for name, each in tested.items() if each.is_worse]
    return {how: rows for how, rows in {"higher": higher, "lower": lower}.items() if rows}


def task_by_task(
    results: ComparisonResults, found: Sequence[RowDifference], what: str
) -> list[str]:
    """On which tasks `what` differs, each by its own corrected test; silent for one seed."""
    if len(results.seeds) < 2:
        return []
    rows = higher_and_lower(results.names, found)
    said = [f"{how} on {some(names)}" for how, names in rows.items()]
    if not said:
        return ["Task by task, no difference can be told (Holm-corrected)."]
    return [f"Task by task (Holm-corrected), {what} is {fmt.listing(said)}."]


def level_of(results: OverSeeds) -> str:
    """`95 %`."""
    return fmt.percent(results.level)


def seeds_of(results: OverSeeds) -> str:
    """`5 seeds`."""
    return fmt.plural(len(results.seeds), "seed")


def in_words(
    results: OverSeeds, found: Difference, column: Column = DIFFERENCE, corrected: str = ""
) -> str:
    """`+0.0061 (95 % interval −0.0010 to +0.0132, p = 0.070)`; without what is undefined.

    `corrected` says how p is corrected: the interval is not.
    """
    text = text_of(found.mean, column)
    if not math.isfinite(found.low):
        return text
    span = text_of((found.low, found.high), _interval(column))
    return f"{text} ({level_of(results)} interval {span}, {corrected}{fmt.p_equals(found.p)})"


# --- means


def means(
    caption: str,
    first: str,
    estimates: Mapping[str, Sequence[Estimate]],
    rows: Sequence[tuple[str, float, Standing | None]],
    terminal: str,
) -> Table:
    """Mean scores with their intervals, a column for each way to train.

    `rows` are the label, the chance level, and how the best stands to it; None is the mean.
    """
    columns = [
        column
        for method in estimates
        for column in (
            Column(NAMES[method], "number", strong=True),
            Column("Interval", "interval", ends="number", under=True),
        )
    ]
    lines = []
    for place, (label, chance, standing) in enumerate(rows):
        chip = "" if standing is None else warning(standing)
        name = Cell(label, chip=chip, marks=frozenset({"warn"} if chip else ()))
        found = [each[place] for each in estimates.values()]
        cells = [cell for each in found for cell in (each.mean, (each.low, each.high))]
        lines.append(Row((name, *cells, chance), "mean" if standing is None else ""))
    columns = [Column(first), *columns, Column("chance", "number")]
    return Table("scores", caption, (*columns,), (*lines,), look="plain", terminal=terminal)


# --- differences


@dataclass(frozen=True)
class Line:
    """A difference, and those of the single seeds."""

    label: str
    found: StoredDifference
    singles: np.ndarray

    @property
    def is_mean(self) -> bool:
        """Whether it is the mean over the other lines, which is tested by itself."""
        return not isinstance(self.found, RowDifference)


def lines_of_tasks(
    results: ComparisonResults, entry: TaskDifferences, singles: np.ndarray, means: np.ndarray
) -> list[Line]:
    """The mean over tasks first, then each; `singles` are [seeds, tasks], `means` [seeds]."""
    lines = [
        Line(name, found, own)
        for name, found, own in zip(results.names, entry.tasks, singles.T, strict=True)
    ]
    return lines if len(lines) == 1 else [Line(ALL_TASKS, entry.mean, means), *lines]


def difference(
    results: OverSeeds,
    name: str,
    pair: tuple[str, str],
    lines: Sequence[Line],
    *,
    first: str,
    axis: str,
    column: Column = DIFFERENCE,
    is_headline: bool = False,
) -> tuple[Panel, Table]:
    """One way to train against another: a panel with figure and table, and the table by itself."""
    title = " − ".join(NAMES[way] for way in pair)
    strips = [
        Strip(
            label=line.label,
            value=line.found.mean,
            low=line.found.low,
            high=line.found.high,
            controls=line.singles[np.isfinite(line.singles)].tolist(),
            is_mean=line.is_mean,
        )
        for line in lines
    ]

    def described(strip: Strip) -> str:
        text = f"{strip.label}: {text_of(strip.value, column)}"
        if math.isfinite(strip.low):
            text += f", interval {text_of((strip.low, strip.high), _interval(column))}"
        if strip.controls:
            ends = min(strip.controls), max(strip.controls)
            text += f", single seeds {text_of(ends, _interval(column))}"
        return text + "."

    table = Table(
        name,
        f"{title}: mean over seeds, {level_of(results)} interval, paired t-test",
        (Column(first), column, _interval(column), Column("p", "p"), Column("p (Holm)", "p")),
        tuple(_row(line) for line in lines),
    )
    plot = strip_plot(strips, f"{title}: {axis}, over seeds", axis, described)
    figures = () if plot is None else (Figure(name, plot),)
    chip = "headline" if is_headline else ""
    return Panel(title, (Beside((*figures, table), "pair"),), chip, is_headline), table


def _row(line: Line) -> Row:
    found = line.found
    counts = found.tested.is_better or found.tested.is_worse
    p = marked(found.p, "beyond") if counts and line.is_mean else found.p
    p_holm: float | Cell | None = None
    if isinstance(found, RowDifference):
        p_holm = marked(found.p_holm, "beyond") if counts else found.p_holm
    cells = (line.label, found.mean, (found.low, found.high), p, p_holm)
    return Row(cells, "mean" if line.is_mean else "")


def _interval(column: Column) -> Column:
    return Column("Interval", "interval", ends=column.kind, digits=column.digits)


def differences(
    results: OverSeeds,
    what: str,
    lines: Mapping[tuple[str, str], Sequence[Line]],
    *,
    first: str,
    axis: str,
) -> Section | None:
    """Every way to train against another, as `lines` by pair; `what` is subtracted, `The first`."""
    if not lines:
        return None
    found = [
        difference(
            results,
            f"difference-{place}",
            pair,
            own,
            first=first,
            axis=axis,
            is_headline=place == 0,
        )
        for place, (pair, own) in enumerate(lines.items())
    ]
    text = (
        f"{what} minus the second, above 0 where the first is better. A diamond is the mean over "
        f"the seeds with its interval, a gray dot a single seed. {IN_COLOR}"
    )
    tables = {panel.title: table for panel, table in found}
    blocks: tuple[Block, ...] = (
        Prose(text),
        Panels(tuple(panel for panel, _ in found)),
        *([Prose("Each panel has its own scale.", "quiet")] if len(found) > 1 else ()),
        InTerminal((stacked("Difference of", tables, "differences", "Differences"),)),
    )
    return Section("differences", "Differences", blocks, contents="Differences")


# --- seeds and data


def single_seeds(
    results: OverSeeds,
    text: str,
    caption: str,
    columns: Sequence[tuple[Column, Sequence[Cell | float]]],
) -> Section:
    """What every seed gave; `columns` have a value for each."""
    rows = zip(*(values for _, values in columns), strict=True)
    table = Table(
        "seeds",
        caption,
        (Column("Seed"), *(column for column, _ in columns)),
        tuple(Row((str(seed), *cells)) for seed, cells in zip(results.seeds, rows, strict=True)),
    )
    blocks = (Prose(text), table) if text else (table,)
    return Section("seeds", "Single seeds", blocks, contents="Seeds")


def settings(results: OverSeeds, trained: str, seconds: Mapping[str, float]) -> Section:
    """The settings; `trained` is whose `results.training` are, `seconds` are beside the total."""
    return section(
        {
            trained: results.training,
            "IAT": results.iat.settings if results.iat else {},
            "Environment": results.environment,
            "Time": durations({**results.times, **seconds}),
            "Configuration": results.config,
        }
    )


def data(title: str, caption: str, tasks: Sequence[ComparedTask]) -> Section:
    """The tasks with the sizes of their data."""
    columns = (
        Column("Task"),
        Column("Metric"),
        Column("Kind", in_page=False),
        *(Column(name, "count") for name in ("Training", "Held out", "Validation")),
    )
    rows = tuple(
        Row(
            (
                task.name,
                replace(marked(task.metric_name, "metric"), note=f" · {outputs(task)}"),
                outputs(task),
                task.n_train,
                task.n_held_out,
                task.n_validation,
            )
        )
        for task in tasks
    )
    table = Table("data", caption, columns, rows, look="plain")
    return Section("data", title, (table,), contents="Data")
