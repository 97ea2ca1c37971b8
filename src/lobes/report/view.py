"""From results to what is shown.

`view(results)` is the whole report as data (`parts.py`); the templates and the terminal only lay
it out. Sentences come from `findings.py`, coordinates from `figures.py`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lobes.heads import HeadScores, HeadSet
from lobes.report import figures, settings, trained
from lobes.report import formatting as fmt
from lobes.report.agreement import agreement, bias
from lobes.report.claims import claims
from lobes.report.dose import dose_response
from lobes.report.examples import Examples
from lobes.report.findings import (
    Results,
    control_notes,
    controls_of,
    divisor,
    findings,
    largest,
    skill,
    warning,
)
from lobes.report.growth import growth
from lobes.report.lesions import across, fraction_of, lesion_of, widest_change
from lobes.report.parts import (
    Fact,
    HeatCell,
    HeatMap,
    Importance,
    Report,
    Section,
    TaskRow,
    Trained,
    Training,
)
from lobes.report.task_similarity import similarity
from lobes.results import RunResults, checked, content_of

MOST_TOP_HEADS = 12


def view(
    results: RunResults | Mapping[str, Any],
    examples: Examples | None = None,
    *,
    whole: bool = False,
) -> Report:
    """What the report of these results shows; `results` or the content of their file.

    `examples` are what `examples_of` reads from the run's folder, beside the results. `whole` keeps
    every matrix and every pair of tasks, for exports, where a page of many tasks has less. Raises
    `RunError` when the content is damaged or of another version.
    """
    return _view(content_of(checked(results, RunResults)), examples, whole)


def _view(results: Results, examples: Examples | None, whole: bool) -> Report:
    entries = sorted(results["fractions"], key=lambda entry: entry["fraction"])
    widest = widest_change(results, entries)
    head = largest(results)
    found = findings(results)
    return Report(
        name=results.get("name") or "lobes",
        created=str(results.get("created") or ""),
        version=str(results.get("lobes") or ""),
        findings=found,
        claims=claims(results, found),
        control_notes=control_notes(results),
        facts=_facts(results, head),
        tasks=tuple(_task(task) for task in results["tasks"]),
        no_ratio=tuple(t["name"] for t in results["tasks"] if math.isnan(divisor(t))),
        importance=_importance(results, entries),
        largest_change=f"{widest:.0f} %",
        fractions=tuple(
            fraction_of(results, index, entry, widest, whole=whole)
            for index, entry in enumerate(entries)
        ),
        headline_fraction=len(entries) - 1,
        across=across(entries),
        dose=dose_response(results, entries),
        similarity=similarity(results, whole=whole),
        growth=growth(results),
        agreement=agreement(results),
        examples=examples,
        training=_training(results),
        trained=_trained(results, head),
        settings=_settings(results),
    )


def _facts(results: Results, head: Results | None) -> tuple[Fact, ...]:
    sites = results["model"]["sites"]
    total = sum(site["n_heads"] for site in sites)
    facts = [
        Fact("Model", str(results["model"].get("name") or fmt.UNDEFINED)),
        Fact("Parameters", fmt.thousands(results["model"].get("n_parameters"))),
        Fact("Attention heads", f"{total} in {fmt.plural(len(sites), 'site')}"),
        Fact("Tasks", str(len(results["tasks"]))),
    ]
    if head is not None:
        facts.append(Fact("Largest lesion", f"{fmt.percent(head['fraction'])} of the heads"))
        facts.append(Fact("Controls", controls_of(head)))
    return tuple(facts)


def _task(task: Results) -> TaskRow:
    base, chance = fmt.number(task["base"]), fmt.number(task["chance"])
    start = -1.0 if min([value for value in (base, chance) if value == value], default=0) < 0 else 0

    def place(value: float) -> float | None:
        return round(100 * (value - start) / (1 - start), 1) if math.isfinite(value) else None

    share = 100 * skill(task)
    return TaskRow(
        name=task["name"],
        metric=task["metric"],
        outputs=fmt.outputs(task),
        n_train=fmt.thousands(task.get("n_train")),
        n_validation=fmt.thousands(task.get("n_validation")),
        base=fmt.fixed(base),
        chance=fmt.fixed(chance),
        above=fmt.fixed(base - chance, sign=True),
        skill=f"{fmt.fixed(share, 0)} %" if math.isfinite(share) else fmt.UNDEFINED,
        base_x=place(base),
        chance_x=place(chance),
        warning=warning(task),
    )


def _importance(results: Results, entries: Sequence[Results]) -> Importance | None:
    maps = results["importance"]
    if not maps:
        return None
    scores = [_scores(entry) for entry in maps]
    labels = trained.site_labels(results["model"]["sites"])
    ranked = [score.ranked() for score in scores]
    top = [
        (str(rank + 1), *(f"{order[rank][0]}:{order[rank][1]}" for order in ranked))
        for rank in range(min(MOST_TOP_HEADS, scores[0].total))
    ]
    return Importance(
        method=_method(maps[0]),
        bias=bias(results),
        n_heads=scores[0].total,
        columns=scores[0].values.shape[1],
        label_width=max(len(site.short) for site in labels),
        sites=labels,
        maps=tuple(
            _heat_map(entry["task"], score, [lesion_of(e, entry["task"]) for e in entries])
            for entry, score in zip(maps, scores, strict=True)
        ),
        top=tuple(top),
    )


def _scores(entry: Results) -> HeadScores:
    rows = [[fmt.number(value) for value in row] for row in entry["values"]]
    width = max(len(row) for row in rows)
    return HeadScores(np.array([row + [math.nan] * (width - len(row)) for row in rows]))


def _method(entry: Results) -> str:
    names = {
        "taylor": "first-order (Taylor) estimate",
        "ablation": "rise of the loss when the head alone is ablated",
    }
    parts = [names.get(entry["method"], str(entry["method"]))]
    if entry.get("aggregate") and entry["method"] != "ablation":
        means = {"token": "mean over tokens", "sequence": "mean over examples"}
        parts.append(means.get(entry["aggregate"], str(entry["aggregate"])))
    if entry.get("normalize") == "layer":
        parts.append("each site divided by its norm")
    if entry.get("n_examples"):
        parts.append(f"{fmt.thousands(entry['n_examples'])} examples for each task")
    return ", ".join(parts)


def _heat_map(task: str, scores: HeadScores, lesions: Sequence[HeadSet]) -> HeatMap:
    values = scores.values
    peak = float(np.nanmax(np.abs(values))) or 1.0
    low, high = min(0.0, float(np.nanmin(values))), max(0.0, float(np.nanmax(values)))
    ranks = {head: rank for rank, head in enumerate(scores.ranked(), start=1)}
    last = figures.SHADES - 1

    def cell(site: int, head: int) -> HeatCell | None:
        if (site, head) not in ranks:
            return None
        value, rank = scores[site, head], ranks[site, head]
        return HeatCell(
            text=fmt.fixed(100 * value / peak, 0),
            score=fmt.significant(value),
            rank=rank,
            shade=round((value - low) / (high - low) * last) if high > low else 0,
            rank_shade=round((len(ranks) - rank) / max(1, len(ranks) - 1) * last),
            lesioned=tuple(k for k, lesion in enumerate(lesions) if (site, head) in lesion),
        )

    n_sites, width = values.shape
    return HeatMap(
        task=task,
        largest=fmt.significant(peak),
        rows=tuple(tuple(cell(s, h) for h in range(width)) for s in range(n_sites)),
    )


def _training(results: Results) -> Training | None:
    training = results.get("training")
    if not training:
        return None
    facts = (
        Fact("Steps", fmt.thousands(training.get("steps"))),
        Fact("Sampling", str(training.get("sampling") or fmt.UNDEFINED)),
        Fact("Time", fmt.duration(fmt.number(training.get("seconds")))),
        Fact("Precision", str(training.get("precision") or fmt.UNDEFINED)),
        Fact("Seed", settings.plain(training.get("seed"))),
    )
    charts = []
    for task in results["tasks"]:
        name = task["name"]
        losses = [
            (fmt.number(entry["step"]), fmt.number(entry["loss"]))
            for entry in training.get("losses") or ()
            if entry["task"] == name
        ]
        scores = [
            (fmt.number(entry["step"]), fmt.number(entry["scores"].get(name)))
            for entry in training.get("scores") or ()
        ]
        charts.append(
            (
                name,
                figures.line_chart(losses, f"{name}: training loss"),
                figures.line_chart(scores, f"{name}: validation {task['metric']}"),
            )
        )
    return Training(facts, tuple(charts))


def _trained(results: Results, head: Results | None) -> Trained | None:
    """Which heads IAT trained, and how many of them are still among the task's most important."""
    record = _iat(results)
    if not record:
        return None
    names = [task["name"] for task in results["tasks"]]
    lesions = {name: lesion_of(head, name) for name in names} if head is not None else {}
    size = fmt.percent(fmt.number(head["fraction"])) if head is not None else ""
    return trained.by_tasks(record, results["model"]["sites"], names, lesions, size)


def _settings(results: Results) -> tuple[Section, ...]:
    return settings.sections(
        {
            "Lesions and statistics": results["iap"],
            "IAT": trained.settings_of(_iat(results)),
            "Environment": results.get("environment") or {},
            "Time": settings.durations(results.get("times")),
            "Configuration": results.get("config") or {},
        }
    )


def _iat(results: Results) -> Results:
    """What the training recorded of IAT; empty where there was none."""
    return (results.get("training") or {}).get("iat") or {}
