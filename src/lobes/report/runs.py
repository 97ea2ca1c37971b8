"""Several runs of one study as one page: a function of `runs.json` and nothing else."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.text import Text

from lobes.dissociation.verdict import ALPHA
from lobes.report import figures, settings
from lobes.report import formatting as fmt
from lobes.report.figures import StripPlot
from lobes.report.findings import (
    DEFINITIONS,
    HEADLINE,
    Findings,
    Results,
    divisor,
    size_of,
    warning,
)
from lobes.report.lesions import TINTS, double_of
from lobes.report.over_seeds import level_of, mean, numbers
from lobes.report.page import render_page
from lobes.report.parts import Fact, MatrixCell, MatrixRow, Section
from lobes.report.runs_findings import (
    Estimate,
    mean_tasks,
    models_of,
    runs_findings,
    score_of,
)
from lobes.report.tabular import Figure, Table
from lobes.report.terminal import findings_lines, plain_table, title_line
from lobes.results import PooledResults, checked, content_of

ALL_TASKS = "all tasks"


@dataclass(frozen=True)
class EstimateRow:
    """A mean D-score over the runs; `beyond` says that its interval lies above 0."""

    label: str
    value: str
    interval: str
    spread: str
    share: str
    p: str
    beyond: bool
    is_mean: bool


@dataclass(frozen=True)
class RunsPanel:
    """One definition of the D-score at the largest fraction; `p` is against random lesions."""

    definition: str
    is_headline: bool
    plot: StripPlot | None
    rows: tuple[EstimateRow, ...]
    p: str


@dataclass(frozen=True)
class Runs:
    """Everything that the page of several runs shows; `spreads` and `pairs` may be empty."""

    name: str
    created: str
    version: str
    findings: Findings
    facts: tuple[Fact, ...]
    n_runs: int
    tasks: tuple[str, ...]
    title: str
    controls: str
    runs: Table
    panels: tuple[RunsPanel, ...]
    across: Table
    scores: tuple[MatrixRow, ...]
    spreads: tuple[MatrixRow, ...]
    pairs: Table | None
    base: Table
    weak: tuple[str, ...]
    level: str
    settings: tuple[Section, ...]

    def figures(self) -> list[Figure]:
        """Every figure of the page, with its name, geometry and the macro that draws it."""
        return [
            Figure(f"strip-{place}", panel.plot.title, panel.plot, "strip")
            for place, panel in enumerate(self.panels)
            if panel.plot is not None
        ]

    def tables(self) -> list[Table]:
        """Every table of the page as text: name, caption, header, rows."""
        matrices = [_matrix_table("scores", _SCORES, self.scores, self.tasks)]
        if self.spreads:
            matrices.append(_matrix_table("spread", _SPREAD, self.spreads, self.tasks))
        scores = [_panel_table(place, panel) for place, panel in enumerate(self.panels)]
        pairs = [self.pairs] if self.pairs else []
        return [self.runs, *scores, self.across, *matrices, *pairs, self.base]


_SCORES = "Score of every task under each lesion, mean over the runs"
_SPREAD = "Its standard deviation over the runs"
_HEADER = ("Task", "D", "Interval", "Single runs", "Share of the runs", "p above 0")


def render(content: PooledResults | Mapping[str, Any]) -> str:
    """The whole page. Raises `RunError` when the content is damaged or of a newer version."""
    shown = view(content)
    columns = [{"name": name} for name in shown.tasks]
    return render_page("runs.html", report=shown, columns=columns, tints=TINTS)


def tables(content: PooledResults | Mapping[str, Any]) -> list[RenderableType]:
    """What the terminal shows: the runs, the headline's D-scores, and the findings in words.

    Raises `RunError` when the content is damaged or of a newer version.
    """
    shown = view(content)
    title = f"D-scores in percent, means over {fmt.plural(shown.n_runs, 'run')}, {shown.title}"
    return [
        _terminal_table(shown.runs),
        Group(title_line(title), _score_lines(shown)),
        findings_lines(shown.findings),
    ]


def view(content: PooledResults | Mapping[str, Any]) -> Runs:
    """What the page of several runs shows; `content` are results, or the content of their file.

    Raises `RunError` when the content is damaged or of another version.
    """
    return _view(content_of(checked(content, PooledResults, "This content")))


def _view(content: Results) -> Runs:
    entries = sorted(content["fractions"], key=lambda entry: entry["fraction"])
    entry = entries[-1]
    scores, spreads = _matrices(content, entry)
    names = tuple(str(task["name"]) for task in content["tasks"])
    weak = (str(task["name"]) for task in mean_tasks(content) if warning(task))
    return Runs(
        name=content.get("name") or "lobes",
        created=str(content.get("created") or ""),
        version=str(content.get("lobes") or ""),
        findings=runs_findings(content),
        facts=_facts(content, entry),
        n_runs=len(content["runs"]),
        tasks=names,
        title=size_of(entry),
        controls=fmt.plural(int(entry["n_controls"]), "random lesion"),
        runs=_runs(content, entries),
        panels=tuple(_panel(content, entry, name) for name in DEFINITIONS),
        across=_across(entries),
        scores=scores,
        spreads=spreads,
        pairs=_pairs(entry),
        base=_base(content),
        weak=tuple(weak),
        level=level_of(content),
        settings=_settings(content),
    )


def _facts(content: Results, entry: Results) -> tuple[Fact, ...]:
    models, n_controls = models_of(content), int(entry["n_controls"])
    return (
        Fact("Model" if len(models) == 1 else "Models", fmt.listing(models)),
        Fact("Runs", str(len(content["runs"]))),
        Fact("Tasks", str(len(content["tasks"]))),
        Fact("Largest lesion", size_of(entry)),
        Fact("Controls", f"{n_controls} in each run" if n_controls else "none"),
    )


def _runs(content: Results, entries: Sequence[Results]) -> Table:
    """Each run's own D-score by the headline's definition, at every fraction."""
    scores = [numbers([e["dissociation"][HEADLINE]["means"]])[0] for e in entries]
    rows = tuple(
        (
            str(run["name"]),
            str(run.get("model") or fmt.UNDEFINED),
            settings.plain(run.get("seed")),
            fmt.thousands(run.get("steps")),
            *(fmt.points(column[place]) for column in scores),
        )
        for place, run in enumerate(content["runs"])
    )
    caption = f"The {HEADLINE} D-score of each run in percent (mean over its tasks), by fraction"
    labels = (fmt.percent(fmt.number(e["fraction"])) for e in entries)
    return Table("runs", caption, ("Run", "Model", "Seed", "Steps", *labels), rows, left=2)


def _panel(content: Results, entry: Results, definition: str) -> RunsPanel:
    data = entry["dissociation"][definition]
    labels = [ALL_TASKS, *(task["name"] for task in content["tasks"])]
    found = [Estimate.of(each) for each in (data["mean"], *data["tasks"])]
    values = numbers(data["values"])
    singles = [numbers([data["means"]])[0], *(list(column) for column in zip(*values, strict=True))]
    strips = [
        figures.Strip(label, one.mean, one.low, one.high, [v for v in single if v == v], place == 0)
        for place, (label, one, single) in enumerate(zip(labels, found, singles, strict=True))
    ]
    title = f"{definition} D-scores of the runs at {size_of(entry)}, in percent"
    return RunsPanel(
        definition=definition,
        is_headline=definition == HEADLINE,
        plot=figures.strip_plot(strips, title, in_words=_in_words),
        rows=tuple(_row(strip, one) for strip, one in zip(strips, found, strict=True)),
        p=fmt.p_value(score_of(entry, definition).p),
    )


def _in_words(strip: figures.Strip) -> str:
    text = f"{strip.label}: {fmt.points(strip.value)} %"
    if math.isfinite(strip.low):
        text += f", interval {fmt.interval(strip.low, strip.high)}"
    if strip.controls:
        text += f", single runs {fmt.interval(min(strip.controls), max(strip.controls))}"
    return f"{text}."


def _row(strip: figures.Strip, found: Estimate) -> EstimateRow:
    spread, share = fmt.UNDEFINED, fmt.UNDEFINED
    if len(strip.controls) > 1:
        spread = fmt.interval(min(strip.controls), max(strip.controls))
    if math.isfinite(found.from_runs):
        share = f"{fmt.fixed(100 * found.from_runs, 0)} %"
    return EstimateRow(
        label=strip.label,
        value=fmt.points(found.mean),
        interval=fmt.interval(found.low, found.high),
        spread=spread,
        share=share,
        p=fmt.p_value(found.p),
        beyond=found.low > 0,
        is_mean=strip.is_mean,
    )


def _across(entries: Sequence[Results]) -> Table:
    """The model's D-score by every definition at every fraction, with its p."""

    def cells(entry: Results, definition: str) -> tuple[str, str, str]:
        score = score_of(entry, definition)
        span = fmt.interval(score.estimate.low, score.estimate.high)
        return fmt.points(score.estimate.mean), span, fmt.p_value(score.p)

    rows = tuple(
        (
            definition,
            fmt.percent(fmt.number(entry["fraction"])),
            *cells(entry, definition),
        )
        for definition in DEFINITIONS
        for entry in reversed(entries)
    )
    header = ("Definition", "Heads lesioned", "D", "Interval", "p")
    caption = "The D-score over the runs (mean over tasks) in percent; p against random lesions"
    return Table("across", caption, header, rows)


def _matrices(
    content: Results, entry: Results
) -> tuple[tuple[MatrixRow, ...], tuple[MatrixRow, ...]]:
    """The mean lesion matrix, tinted by the change from the base, and its spread over the runs."""
    names = [task["name"] for task in content["tasks"]]
    base = numbers(content["base"])
    runs = [numbers(scores) for scores in entry["scores"]]
    rows: list[tuple[str, Literal["base", "task"], list[list[float]]]] = [
        ("nothing (base)", "base", base)
    ]
    rows += [(name, "task", [run[i] for run in runs]) for i, name in enumerate(names)]
    means = [[mean(list(column)) for column in zip(*values, strict=True)] for _, _, values in rows]
    divisors = _divisors(content)
    changes = [
        [100 * (score - base) / base for score, base in zip(row, divisors, strict=True)]
        for row in means
    ]
    widest = max([5.0, *(abs(c) for row in changes for c in row if math.isfinite(c))])
    scores, spreads = [], []
    for place, (label, kind, values) in enumerate(rows):
        tints = [
            round(change / widest * TINTS) if change == change else 0 for change in changes[place]
        ]
        texts = [fmt.fixed(value) for value in means[place]]
        apart = [fmt.fixed(_deviation(list(column))) for column in zip(*values, strict=True)]
        scores.append(_matrix_row(label, kind, texts, tints, place - 1))
        spreads.append(_matrix_row(label, kind, apart, [0] * len(texts), place - 1))
    return tuple(scores), tuple(spreads) if len(content["runs"]) > 1 else ()


def _divisors(content: Results) -> list[float]:
    """The mean base score of each task; NaN where it cannot be divided by in some run."""
    intervals = content.get("base_intervals") or [[None] * len(content["tasks"])] * len(
        content["base"]
    )
    runs = [
        [
            divisor({**task, "base": base, "base_interval": span})
            for task, base, span in zip(content["tasks"], *each, strict=True)
        ]
        for each in zip(numbers(content["base"]), intervals, strict=True)
    ]
    return [mean(list(column)) for column in zip(*runs, strict=True)]


def _deviation(values: Sequence[float]) -> float:
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return math.nan
    return statistics.stdev(values)


def _matrix_row(
    label: str, kind: Literal["base", "task"], texts: Sequence[str], tints: Sequence[int], own: int
) -> MatrixRow:
    cells = (
        MatrixCell(text, tint, place == own, False)
        for place, (text, tint) in enumerate(zip(texts, tints, strict=True))
    )
    return MatrixRow(label, kind, tuple(cells))


def _pairs(entry: Results) -> Table | None:
    """What each task of a pair loses by its own lesion more than by the other's, over the runs."""
    if not entry["pairs"]:
        return None

    def effect(data: Results) -> tuple[str, str, str]:
        one = Estimate.of(data)
        return (
            _signed(one.mean),
            fmt.interval(one.low, one.high, _signed),
            fmt.p_value(one.p),
        )

    rows = tuple(
        (
            *(str(pair["first"]), str(pair["second"])),
            *effect(pair["effects"][0]),
            *effect(pair["effects"][1]),
            fmt.p_value(fmt.number(pair["p_holm"])),
            fmt.p_value(fmt.number(pair.get("p_controls_holm"))),
            double_of(pair, int(entry["n_controls"]), len(entry["pairs"])),
        )
        for pair in entry["pairs"]
    )
    header = (
        *("First", "Second", "First loses more", "Interval", "p"),
        *("Second loses more", "Interval", "p", "p (Holm)", "p (random lesions, Holm)"),
        "Double dissociation",
    )
    caption = (
        "How much more each task of a pair loses by its own lesion than by the other’s, in units "
        "of its metric: means over the runs"
    )
    return Table("pairs", caption, header, rows, left=2)


def _signed(value: float) -> str:
    return fmt.fixed(value, sign=True)


def _base(content: Results) -> Table:
    rows = []
    for task, values in zip(
        content["tasks"], zip(*numbers(content["base"]), strict=True), strict=True
    ):
        finite = [value for value in values if math.isfinite(value)]
        span = fmt.interval(min(finite), max(finite), fmt.fixed) if finite else fmt.UNDEFINED
        rows.append(
            (
                str(task["name"]),
                f"{task['metric']} · {fmt.outputs(task)}",
                fmt.fixed(mean(list(values))),
                fmt.fixed(_deviation(list(values))),
                span,
                fmt.fixed(fmt.number(task["chance"])),
                fmt.thousands(task.get("n_validation")),
            )
        )
    header = ("Task", "Metric", "Mean", "SD", "Single runs", "Chance", "Validation")
    caption = "Score of every task with nothing ablated, over the runs, and the score of chance"
    return Table("base", caption, header, tuple(rows), left=2)


def _settings(content: Results) -> tuple[Section, ...]:
    runs = {
        str(run["name"]): f"{run.get('created') or fmt.UNDEFINED}, lobes {run.get('lobes') or '?'}"
        for run in content["runs"]
    }
    statistics_of = {
        "level": content.get("level"),
        "resamples": content.get("resamples"),
        "significance level": ALPHA,
    }
    return settings.sections({"Statistics": statistics_of, "The runs": runs})


def _matrix_table(
    name: str, caption: str, rows: Sequence[MatrixRow], tasks: Sequence[str]
) -> Table:
    lines = tuple((row.label, *(cell.text for cell in row.cells)) for row in rows)
    return Table(name, caption, ("Ablated", *tasks), lines)


def _panel_table(place: int, panel: RunsPanel) -> Table:
    rows = tuple((r.label, r.value, r.interval, r.spread, r.share, r.p) for r in panel.rows)
    caption = f"{panel.definition} D-scores over the runs, in percent"
    return Table(f"d-scores-{place}", caption, _HEADER, rows)


def _terminal_table(table: Table) -> Group:
    shown = plain_table(*(title.replace(fmt.GAP, " ") for title in table.header), left=table.left)
    for row in table.rows:
        shown.add_row(*(Text(cell) for cell in row))
    return Group(title_line(table.caption), shown)


def _score_lines(shown: Runs) -> RenderableType:
    header = ("definition", "task", "D", "interval", "single runs", "p above 0", "p (controls)")
    table = plain_table(*header, left=2)
    for panel in shown.panels:
        for row in panel.rows if panel.is_headline else panel.rows[:1]:
            style = "bold" if row.is_mean else ""
            table.add_row(
                Text(panel.definition if row.is_mean else "", style),
                Text(row.label, style),
                Text(row.value, style),
                Text(row.interval, "green" if row.beyond else ""),
                Text(row.spread),
                Text(row.p),
                Text(panel.p if row.is_mean else "", style),
            )
    return table
