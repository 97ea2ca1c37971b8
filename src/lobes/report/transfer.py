"""Transfer to a new task, over seeds: a function of `transfer.json` and nothing else."""

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType

from lobes.report import formatting as fmt
from lobes.report import over_seeds, settings, trained
from lobes.report.colors import TINTS
from lobes.report.findings import Results, warning
from lobes.report.learning import LearningCurves, Start, learning_curves
from lobes.report.over_seeds import NAMES, numbers, score_cell
from lobes.report.page import render_page
from lobes.report.parts import (
    DifferencePanel,
    Fact,
    MeanRow,
    Section,
    SeedTable,
    Trained,
    Transfer,
)
from lobes.report.terminal import findings_lines
from lobes.report.transfer_findings import transfer_findings
from lobes.results import TransferResults, checked, content_of


def render(transfer: TransferResults | Mapping[str, Any]) -> str:
    """The whole page. Raises `RunError` when the study is damaged or of a newer version."""
    return render_page("transfer.html", report=view(transfer), tints=TINTS)


def tables(transfer: TransferResults | Mapping[str, Any]) -> list[RenderableType]:
    """What the terminal shows: scores, differences, and the findings in words.

    Raises `RunError` when the study is damaged or of a newer version.
    """
    shown = view(transfer)
    title = f"{shown.metric} on the new task, means over seeds with {shown.level} intervals"
    title = title.replace(fmt.GAP, " ")
    parts: list[RenderableType] = [
        over_seeds.means_table(title, "training", shown.starts, shown.scores)
    ]
    if shown.panels:
        parts.append(over_seeds.difference_table("Differences", "training", shown.panels))
    return [*parts, findings_lines(shown.findings)]


def view(transfer: TransferResults | Mapping[str, Any]) -> Transfer:
    """What the page shows; `transfer` are results, or the content of their file.

    Raises `RunError` when the content is damaged or of another version.
    """
    return _view(content_of(checked(transfer, TransferResults, "This content")))


def _view(transfer: Results) -> Transfer:
    return Transfer(
        name=transfer.get("name") or "lobes",
        created=str(transfer.get("created") or ""),
        version=str(transfer.get("lobes") or ""),
        findings=transfer_findings(transfer),
        facts=_facts(transfer),
        metric=str(transfer["task"]["metric"]),
        starts=tuple(NAMES[start] for start in transfer["starts"]),
        curves=_curves(transfer),
        scores=_scores(transfer),
        panels=_panels(transfer),
        trained=_trained(transfer),
        seeds=_seeds(transfer),
        sources=over_seeds.compared_tasks(transfer["sources"]),
        level=over_seeds.level_of(transfer),
        settings=_settings(transfer),
    )


def _facts(transfer: Results) -> tuple[Fact, ...]:
    model, task = transfer["model"], transfer["task"]
    return (
        Fact("Model", str(model.get("name") or fmt.UNDEFINED)),
        Fact("New task", f"{task['name']} ({task['metric']}, {fmt.outputs(task)})"),
        Fact("Its training examples", fmt.thousands(task.get("n_train"))),
        Fact("Its validation examples", fmt.thousands(task.get("n_validation"))),
        Fact("Trained before on", fmt.plural(len(transfer["sources"]), "task")),
        Fact("Seeds", str(len(transfer["seeds"]))),
    )


def _labels(transfer: Results) -> list[str]:
    """`17 (1 %)` for each size."""
    pairs = zip(transfer["sizes"], transfer["fractions"], strict=True)
    return [f"{fmt.thousands(size)} ({fmt.percent(share)})" for size, share in pairs]


def _curves(transfer: Results) -> LearningCurves | None:
    summary, task = transfer["summary"]["starts"], transfer["task"]

    def each(start: str, part: str) -> list[float]:
        return [fmt.number(estimate[part]) for estimate in summary[start]]

    starts = [
        Start(start, NAMES[start], each(start, "mean"), each(start, "low"), each(start, "high"))
        for start in transfer["starts"]
    ]
    seeds = [
        value
        for start in transfer["starts"]
        for row in numbers(transfer["scores"][start])
        for value in row
    ]
    title = f"{task['name']}: {task['metric']} against the number of training examples"
    chance = fmt.number(task["chance"])
    return learning_curves(starts, transfer["sizes"], seeds, chance, title)


def _scores(transfer: Results) -> tuple[MeanRow, ...]:
    task, summary = transfer["task"], transfer["summary"]["starts"]
    rows = []
    for index, label in enumerate(_labels(transfer)):
        found = [summary[start][index] for start in transfer["starts"]]
        rows.append(
            MeanRow(
                label=label,
                chance=fmt.fixed(fmt.number(task["chance"])),
                cells=tuple(score_cell(each) for each in found),
                is_mean=False,
                warning=warning({**task, "base": over_seeds.best(found)}),
            )
        )
    return tuple(rows)


def _panels(transfer: Results) -> tuple[DifferencePanel, ...]:
    panels = []
    for number, entry in enumerate(transfer["summary"]["differences"]):
        first, second = (numbers(transfer["scores"][entry[side]]) for side in ("first", "second"))
        seeds = zip(first, second, strict=True)
        differences = [[a - b for a, b in zip(*pair, strict=True)] for pair in seeds]
        panels.append(
            over_seeds.panel(
                entry,
                _labels(transfer),
                entry["fractions"],
                [list(column) for column in zip(*differences, strict=True)],
                axis=f"difference in {transfer['task']['metric']}",
                headline=number == 0,
            )
        )
    return tuple(panels)


def _trained(transfer: Results) -> Trained | None:
    record = transfer.get("iat")
    if not record:
        return None
    names = [task["name"] for task in transfer["sources"]]
    return trained.by_seeds(record, transfer["model"]["sites"], names, transfer["seeds"])


def _seeds(transfer: Results) -> SeedTable:
    """Every single score: a row for each seed, a column for each start and size."""
    starts = transfer["starts"]
    header = [
        f"{NAMES[start]}, {fmt.thousands(size)}" for start in starts for size in transfer["sizes"]
    ]
    scores = [numbers(transfer["scores"][start]) for start in starts]
    rows = [
        [str(seed), *(fmt.fixed(value) for each in scores for value in each[index])]
        for index, seed in enumerate(transfer["seeds"])
    ]
    return over_seeds.seed_table(header, rows)


def _settings(transfer: Results) -> tuple[Section, ...]:
    seconds = {
        f"{NAMES[start]}, all trainings": sum(map(fmt.number, values))
        for start, values in (transfer.get("seconds") or {}).items()
    }
    return settings.sections(
        {
            "Fine-tuning": transfer.get("training") or {},
            "IAT": trained.settings_of(transfer.get("iat") or {}),
            "Environment": transfer.get("environment") or {},
            "Time": settings.durations({**transfer.get("times", {}), **seconds}),
            "Configuration": transfer.get("config") or {},
        }
    )
