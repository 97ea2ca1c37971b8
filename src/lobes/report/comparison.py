"""The comparison of ways to train, over seeds: a function of `comparison.json` and nothing else."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from lobes.report import comparison_findings, over_seeds, settings, trained
from lobes.report import formatting as fmt
from lobes.report.colors import TINTS
from lobes.report.findings import HEADLINE, Results, warning
from lobes.report.over_seeds import NAMES, mean, numbers, score_cell
from lobes.report.page import render_page
from lobes.report.parts import (
    Comparison,
    DifferencePanel,
    DScoreRow,
    Fact,
    MeanRow,
    SeedTable,
    Trained,
)
from lobes.report.terminal import findings_lines, plain_table, title_line
from lobes.results import ComparisonResults, checked, content_of

ALL_TASKS = "all tasks (mean)"


def render(comparison: ComparisonResults | Mapping[str, Any]) -> str:
    """The whole page. Raises `RunError` when the comparison is damaged or of a newer version."""
    return render_page("comparison.html", report=view(comparison), tints=TINTS)


def tables(comparison: ComparisonResults | Mapping[str, Any]) -> list[RenderableType]:
    """What the terminal shows: scores, differences, D-scores, and the findings in words.

    Raises `RunError` when the comparison is damaged or of a newer version.
    """
    shown = view(comparison)
    title = f"Scores on the validation examples, means over seeds with {shown.level} intervals"
    parts: list[RenderableType] = [
        over_seeds.means_table(title.replace(fmt.GAP, " "), "task", shown.methods, shown.scores)
    ]
    if shown.panels:
        parts.append(over_seeds.difference_table("Differences", "task", shown.panels))
    if shown.d_scores:
        parts.append(_d_score_table(shown))
    parts.append(findings_lines(shown.findings))
    if shown.specialization is not None:
        parts.append(findings_lines(shown.specialization))
    return parts


def view(comparison: ComparisonResults | Mapping[str, Any]) -> Comparison:
    """What the page shows; `comparison` are results, or the content of their file.

    Raises `RunError` when the content is damaged or of another version.
    """
    return _view(content_of(checked(comparison, ComparisonResults, "This content")))


def _view(comparison: Results) -> Comparison:
    return Comparison(
        name=comparison.get("name") or "lobes",
        created=str(comparison.get("created") or ""),
        version=str(comparison.get("lobes") or ""),
        findings=comparison_findings.performance(comparison),
        facts=_facts(comparison),
        specialization=comparison_findings.specialization(comparison),
        methods=tuple(NAMES[method] for method in comparison["methods"]),
        scores=_scores(comparison),
        panels=_panels(comparison),
        d_scores=_d_scores(comparison),
        d_panel=_d_panel(comparison),
        trained=_trained(comparison),
        seeds=_seeds(comparison),
        tasks=over_seeds.compared_tasks(comparison["tasks"]),
        level=over_seeds.level_of(comparison),
        settings=_settings(comparison),
    )


def _facts(comparison: Results) -> tuple[Fact, ...]:
    model, training = comparison["model"], comparison.get("training") or {}
    sites = model["sites"]
    total = sum(site["n_heads"] for site in sites)
    return (
        Fact("Model", str(model.get("name") or fmt.UNDEFINED)),
        Fact("Parameters", fmt.thousands(model.get("n_parameters"))),
        Fact("Attention heads", f"{total} in {fmt.plural(len(sites), 'site')}"),
        Fact("Tasks", str(len(comparison["tasks"]))),
        Fact("Seeds", str(len(comparison["seeds"]))),
        Fact("Steps", fmt.thousands(training.get("steps"))),
    )


def _scores(comparison: Results) -> tuple[MeanRow, ...]:
    """A row for each task and one for their mean; near chance where no method does it better."""
    methods = [comparison["summary"]["methods"][method] for method in comparison["methods"]]
    rows = []
    for index, task in enumerate(comparison["tasks"]):
        found = [method["tasks"][index] for method in methods]
        rows.append(
            MeanRow(
                label=task["name"],
                chance=fmt.fixed(fmt.number(task["chance"])),
                cells=tuple(score_cell(each) for each in found),
                is_mean=False,
                warning=warning({**task, "base": over_seeds.best(found)}),
            )
        )
    if len(rows) > 1:
        chance = mean([fmt.number(task["chance"]) for task in comparison["tasks"]])
        cells = tuple(score_cell(method["mean"]) for method in methods)
        rows.append(MeanRow(ALL_TASKS, fmt.fixed(chance), cells, True, ""))
    return tuple(rows)


def _panels(comparison: Results) -> tuple[DifferencePanel, ...]:
    panels = []
    for number, entry in enumerate(comparison["summary"]["differences"]):
        first, second = (numbers(comparison["scores"][entry[side]]) for side in ("first", "second"))
        labels, found, singles = _rows(comparison, entry, first, second)
        panels.append(
            over_seeds.panel(
                entry,
                labels,
                found,
                singles,
                axis="difference in score",
                headline=number == 0,
            )
        )
    return tuple(panels)


def _rows(
    comparison: Results,
    entry: Results,
    first: Sequence[Sequence[float]],
    second: Sequence[Sequence[float]],
) -> tuple[list[str], list[Results], list[list[float]]]:
    """Labels, estimates and single seeds' differences: the mean over tasks first, then each."""
    labels = [task["name"] for task in comparison["tasks"]]
    differences = [
        [a - b for a, b in zip(*pair, strict=True)] for pair in zip(first, second, strict=True)
    ]
    singles = [list(column) for column in zip(*differences, strict=True)]
    if len(labels) == 1:
        return labels, entry["tasks"], singles
    kept = [k for k, each in enumerate(entry["tasks"]) if each["mean"] is not None]
    if entry["mean"]["mean"] is None:
        kept = []
    means = [mean([row[k] for k in kept]) for row in differences]
    return [ALL_TASKS, *labels], [entry["mean"], *entry["tasks"]], [means, *singles]


def _d_scores(comparison: Results) -> tuple[DScoreRow, ...]:
    """The model's D-scores: the largest fraction first, the headline definition first."""
    entries = comparison["summary"].get("d_scores") or []
    largest = max((entry["fraction"] for entry in entries), default=None)
    return tuple(
        DScoreRow(
            fraction=fmt.percent(fmt.number(entry["fraction"])),
            definition=entry["definition"],
            cells=(
                score_cell(entry["multi"]["mean"], fmt.points),
                score_cell(entry["iat"]["mean"], fmt.points),
            ),
            difference=over_seeds.difference_row(
                entry["definition"], entry["difference"]["mean"], fmt.points
            ),
            is_headline=entry["fraction"] == largest and entry["definition"] == HEADLINE,
        )
        for entry in sorted(entries, key=lambda entry: -entry["fraction"])
    )


def _d_panel(comparison: Results) -> DifferencePanel | None:
    """The headline's D-scores task by task."""
    summaries = [
        each
        for each in comparison["summary"].get("d_scores") or []
        if each["definition"] == HEADLINE
    ]
    if not summaries:
        return None
    summary = max(summaries, key=lambda each: each["fraction"])
    entry = next(
        each
        for each in comparison["d_scores"]
        if (each["fraction"], each["definition"]) == (summary["fraction"], HEADLINE)
    )
    labels, found, singles = _rows(
        comparison, summary["difference"], numbers(entry["iat"]), numbers(entry["multi"])
    )
    return over_seeds.panel(
        {"first": "iat", "second": "multi"},
        labels,
        found,
        singles,
        axis=f"difference in {HEADLINE} D-score, %",
        show=fmt.points,
        headline=True,
    )


def _trained(comparison: Results) -> Trained | None:
    record = comparison.get("iat")
    if not record:
        return None
    names = [task["name"] for task in comparison["tasks"]]
    return trained.by_seeds(record, comparison["model"]["sites"], names, comparison["seeds"])


def _seeds(comparison: Results) -> SeedTable:
    """Each seed's mean score by each method, the step of its checkpoint, and the time."""
    methods, early = comparison["methods"], set(comparison_findings.chosen_before_iat(comparison))
    header = [f"{NAMES[method]}: {what}" for method in methods for what in ("score", "checkpoint")]
    rows = []
    for index, seed in enumerate(comparison["seeds"]):
        row = [str(seed)]
        for method in methods:
            scores = numbers(comparison["scores"][method])[index]
            selected = (comparison["selected"].get(method) or {}) and (
                comparison["selected"][method][index]
            )
            before = " (before IAT)" if method == "iat" and seed in early else ""
            row += [fmt.fixed(mean(scores)), f"{_steps(selected)}{before}"]
        rows.append(row)
    return over_seeds.seed_table(header, rows)


def _steps(selected: object) -> str:
    """One step, or those of several models; – for a method without checkpoints."""
    if isinstance(selected, list):
        return ", ".join(fmt.thousands(step) for step in selected)
    return fmt.thousands(selected)


def _settings(comparison: Results) -> tuple[Any, ...]:
    seconds = {
        NAMES[method]: fmt.number(comparison["summary"]["methods"][method]["seconds"]["mean"])
        for method in comparison["methods"]
    }
    times = {**comparison.get("times", {}), **{f"{k}, a seed": v for k, v in seconds.items()}}
    return settings.sections(
        {
            "Training": comparison.get("training") or {},
            "IAT": trained.settings_of(comparison.get("iat") or {}),
            "Environment": comparison.get("environment") or {},
            "Time": settings.durations(times),
            "Configuration": comparison.get("config") or {},
        }
    )


def _d_score_table(shown: Comparison) -> RenderableType:
    table = plain_table(
        "heads", "D-score", "multi-task", "IAT", "difference", "interval", "p", left=2
    )
    for row in shown.d_scores:
        style = "bold" if row.is_headline else ""
        table.add_row(
            Text(row.fraction.replace(fmt.GAP, " "), style),
            Text(row.definition, style),
            Text(row.cells[0].value, style),
            Text(row.cells[1].value, style),
            Text(row.difference.value, style),
            Text(row.difference.interval),
            Text(row.difference.p, "green" if row.difference.beyond else ""),
        )
    return Group(title_line("D-scores in percent, means over tasks and seeds"), table)
