"""The page of a sweep: a function of `sweep.json` and nothing else."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lobes.dissociation.verdict import WORDS, Verdict
from lobes.report import formatting as fmt
from lobes.report import glossary, phrases, settings
from lobes.report.charts import Strip, strip_plot
from lobes.report.sections import Block, Figure, Page, Prose, Section
from lobes.report.sweep_models import effect_unit, over_the_models
from lobes.report.tables import Cell, Column, Row, Table, Value, marked
from lobes.results import SweepResults
from lobes.results.sweep import SweptRun

_MOST = 60  # rows of the figure
_PAGES = {"run": "report.html", "compare": "comparison.html", "transfer": "transfer.html"}


def page_of(results: SweepResults) -> Page:
    """Compose the page of a sweep."""
    sections = (_runs(results), _seeds(results), over_the_models(results), _failed(results))
    axes = fmt.listing([*results.axes])
    return Page(
        kind=f"sweep of {fmt.plural(len(results.runs), 'run')}",
        source=results.FILE,
        name=results.name or "lobes",
        created=results.created,
        version=results.lobes,
        title=f"What differs with {axes}?",
        sections=tuple(each for each in sections if each is not None),
        glossary=_glossary(results),
    )


def _glossary(results: SweepResults) -> tuple[glossary.Entry, ...]:
    if results.command != "run":
        return ()
    return (
        ("Run", "One whole study, in a folder of its own, with a page of its own."),
        ("Base", "The score of a task with nothing ablated."),
        (
            "D-score",
            "How much more a task suffers from the lesion of its own important heads than from "
            "those of the other tasks. The page of a run has the formula.",
        ),
    )


def _runs(results: SweepResults) -> Section:
    failed = len(results.failed)
    text = (
        f"Each row is a study of its own: the base study with the values of "
        f"{fmt.listing([*results.axes])} in that row. {_reading(results)}"
    )
    if failed:
        text += f" {fmt.plural(failed, 'run')} failed, as said below."
    blocks: tuple[Block, ...] = (Prose(text), *_figure(results), _table(results))
    return Section("runs", "The runs", blocks, contents="Runs")


def _figure(results: SweepResults) -> tuple[Figure, ...]:
    """The D-score of each run with its interval, unless there are too many to see."""
    strips = []
    for run in results.runs[: _MOST + 1]:
        numbers = run.specialized.numbers if run.specialized else {}
        label = ", ".join(_written(run.values[axis]) for axis in results.axes)
        mean, low, high = (numbers.get(name, math.nan) for name in ("mean", "low", "high"))
        strips.append(Strip(label, mean, low, high, ()))
    if len(strips) > _MOST:
        return ()
    title = f"D-scores of the runs by {fmt.listing([*results.axes])}, in percent"
    drawing = strip_plot(strips, title, in_words=_in_words)
    return () if drawing is None else (Figure("d-scores", drawing),)


def _in_words(strip: Strip) -> str:
    if math.isnan(strip.value):
        return f"{strip.label}: undefined."
    ends = fmt.interval(strip.low, strip.high)
    return f"{strip.label}: {fmt.points(strip.value)} %, interval {ends}."


def _reading(results: SweepResults) -> str:
    if results.command == "compare":
        return (
            "“Held-out” is a method's mean score over tasks and seeds on training data that were "
            "held out: settings can be chosen by it, and then judged on the validation data. The "
            "page of a row gives the reasons of the answers."
        )
    if results.command == "transfer":
        return "Its page gives the reasons of the answers."
    levels = {fmt.percent(run.level) for run in results.runs if run.level is not None}
    level = f" {levels.pop()}" if len(levels) == 1 else ""
    return (
        f"D is the {phrases.HEADLINE} D-score at the fraction that stands out most, in percent, "
        f"with its{level} interval over validation examples; p is over all fractions, against "
        f"exchanged heads. With many runs some reach p ≤ 0.05 by chance: the p of a row speaks "
        f"of that run alone."
    )


def _table(results: SweepResults) -> Table:
    if results.command == "run":
        tasks = [*dict.fromkeys(task for run in results.runs for task in run.base)]
        columns = (*_SCORES, *(Column(f"base {task}", "number") for task in tasks))
        rows = [
            (*_scores(run.specialized), *(run.base.get(task) for task in tasks))
            for run in results.runs
        ]
    else:
        methods = [*dict.fromkeys(method for run in results.runs for method in run.held_out)]
        claims = [*dict.fromkeys(each.claim for run in results.runs for each in run.verdicts)]
        columns = (
            *(Column(f"held-out {method}", "number") for method in methods),
            *(Column(claim) for claim in claims),
        )
        rows = [
            (
                *(run.held_out.get(method) for method in methods),
                *(_with_effect(_on(run, claim)) for claim in claims),
            )
            for run in results.runs
        ]
    return Table(
        "runs",
        "The runs by the values of the settings",
        (*_axes(results), *columns, Column("State")),
        tuple(
            Row((*_values(results, run.values, _href(results, run)), *row, _state(run)))
            for run, row in zip(results.runs, rows, strict=True)
        ),
        terminal="The runs",
    )


_SCORES = (
    Column("D", "points", strong=True),
    Column("Interval", "interval"),
    Column("p", "p"),
    Column("Answer"),
)


def _scores(found: Verdict | None) -> tuple[Value | Cell, ...]:
    """D, its interval, p and the answer; undefined where there is no verdict.

    What is marked follows the answer: an interval above 0 alone shows nothing.
    """
    numbers = {} if found is None else found.numbers
    span = numbers.get("low"), numbers.get("high")
    yes = found is not None and found.answer == "yes"
    interval = marked(span, "beyond") if yes else span
    return numbers.get("mean"), interval, numbers.get("p"), _answer(found)


def _answer(found: Verdict | None) -> Cell:
    if found is None:
        return Cell(fmt.UNDEFINED)
    return Cell(WORDS[found.answer].lower(), title=phrases.headline(found))


def _with_effect(found: Verdict | None) -> Cell:
    """The answer, and the effect with its interval: `no: −0.001 (−0.002 to 0.000)`."""
    answer = _answer(found)
    if found is None or not {"mean", "low", "high"} <= found.numbers.keys():
        return answer
    kind, write = effect_unit(found)
    mean, low, high = (found.numbers[name] for name in ("mean", "low", "high"))
    unit = " %" if kind == "points" else ""
    text = f"{answer.value}: {write(mean)}{unit} ({fmt.interval(low, high, write)})"
    return Cell(text, title=answer.title)


def _on(run: SweptRun, claim: str) -> Verdict | None:
    return next((each for each in run.verdicts if each.claim == claim), None)


def _axes(results: SweepResults, without: Sequence[str] = ()) -> tuple[Column, ...]:
    return tuple(Column(axis, right=True) for axis in results.axes if axis not in without)


def _values(
    results: SweepResults, values: Mapping[str, Any], href: str, without: Sequence[str] = ()
) -> tuple[Cell, ...]:
    """The values of a row's axes, the first of which leads to the page of the row."""
    axes = [axis for axis in results.axes if axis not in without]
    return tuple(
        Cell(_written(values.get(axis)), href="" if place else href)
        for place, axis in enumerate(axes)
    )


def _written(value: Any) -> str:
    """A value as text; tables as JSON, and "" for a setting that was taken out."""
    if value == "":
        return "left out"
    return json.dumps(value) if isinstance(value, dict) else settings.plain(value)


def _href(results: SweepResults, run: SweptRun) -> str:
    return "" if run.error else f"{run.name}/{_PAGES[results.command]}"


def _state(run: SweptRun) -> Cell:
    return marked("failed", "chip", "warn") if run.error else Cell("finished")


def _seeds(results: SweepResults) -> Section | None:
    """What the runs of several seeds say together, for each combination of the other axes."""
    if not results.seeds:
        return None
    text = (
        "The runs that differ in their seed alone, taken together as by lobes report: D is the "
        "mean over the runs, its interval is over runs and validation examples. This, not a "
        "single row above, says whether a result holds for models like these."
    )
    some_fail = any(each.error for each in results.seeds)
    rows = tuple(
        Row(
            (
                Cell("pooled", href="" if each.error else f"{each.name}/runs.html"),
                *_values(results, each.values, "", ["seed"]),
                len(each.runs),
                *_scores(each.verdict),
                *([each.error or ""] if some_fail else []),
            )
        )
        for each in results.seeds
    )
    columns = (
        Column("Page", in_terminal=False, in_files=False),
        *_axes(results, ["seed"]),
        Column("Runs", "count"),
        *_SCORES,
        *([Column("Why not")] if some_fail else []),
    )
    caption = "The runs of several seeds together"
    table = Table("seeds", caption, columns, rows, terminal=caption)
    return Section("seeds", "Over the seeds", (Prose(text), table), contents="Seeds")


def _failed(results: SweepResults) -> Section | None:
    if not results.failed:
        return None
    rows = tuple(Row((run.name, run.error)) for run in results.failed)
    caption = "The runs that failed, and why"
    table = Table("failed", caption, (Column("Run"), Column("Why")), rows, terminal=caption)
    blocks: tuple[Block, ...] = (
        Prose("The same command tries these again, and keeps those that are finished.", "note"),
        table,
    )
    return Section("failed", "Runs that failed", blocks, contents="Failed")
