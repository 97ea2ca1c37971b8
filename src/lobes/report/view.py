"""From results to what is shown.

`view(results)` is the whole report as data (`parts.py`); the templates and the terminal only lay
it out. Sentences come from `findings.py`, coordinates from `figures.py`.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from lobes.heads import HeadScores, HeadSet
from lobes.report import figures, settings, trained, words
from lobes.report.findings import (
    DEFINITIONS,
    HEADLINE,
    LEVEL,
    Results,
    controls_of,
    findings,
    largest,
    model_score,
    near_chance,
    size_of,
    skill,
    smallest_p,
)
from lobes.report.parts import (
    AcrossRow,
    Fact,
    Fraction,
    HeatCell,
    HeatMap,
    Importance,
    MatrixCell,
    MatrixRow,
    PairRow,
    Panel,
    Report,
    ScoreRow,
    Section,
    TaskRow,
    Trained,
    Training,
)
from lobes.report.source import check_results, damage_named

MOST_TOP_HEADS = 12
TINTS = 10


def view(results: Results) -> Report:
    """What the report of these results shows; `results` as `read_results` returns them.

    Raises `RunError` when a part of the results is missing or has the wrong shape.
    """
    results = check_results(results)
    with damage_named():
        return _view(results)


def _view(results: Results) -> Report:
    entries = sorted(results["fractions"], key=lambda entry: entry["fraction"])
    widest = _widest_change(results, entries)
    head = largest(results)
    return Report(
        name=results.get("name") or "lobes",
        created=str(results.get("created") or ""),
        version=str(results.get("lobes") or ""),
        findings=findings(results),
        facts=_facts(results, head),
        tasks=tuple(_task(task) for task in results["tasks"]),
        importance=_importance(results, entries),
        largest_change=f"{widest:.0f} %",
        fractions=tuple(
            _fraction(results, index, entry, widest) for index, entry in enumerate(entries)
        ),
        headline_fraction=len(entries) - 1,
        across=_across(entries),
        training=_training(results),
        trained=_trained(results, head),
        settings=_settings(results),
    )


def _facts(results: Results, head: Results | None) -> tuple[Fact, ...]:
    sites = results["model"]["sites"]
    total = sum(site["n_heads"] for site in sites)
    facts = [
        Fact("Model", str(results["model"].get("name") or words.UNDEFINED)),
        Fact("Parameters", words.thousands(results["model"].get("n_parameters"))),
        Fact("Attention heads", f"{total} in {words.plural(len(sites), 'site')}"),
        Fact("Tasks", str(len(results["tasks"]))),
    ]
    if head is not None:
        facts.append(Fact("Largest lesion", f"{words.percent(head['fraction'])} of the heads"))
        facts.append(Fact("Controls", controls_of(head)))
    return tuple(facts)


def _task(task: Results) -> TaskRow:
    base, chance = words.number(task["base"]), words.number(task["chance"])
    start = -1.0 if min([value for value in (base, chance) if value == value], default=0) < 0 else 0

    def place(value: float) -> float | None:
        return round(100 * (value - start) / (1 - start), 1) if math.isfinite(value) else None

    share = 100 * skill(task)
    return TaskRow(
        name=task["name"],
        metric=task["metric"],
        outputs=words.outputs(task),
        n_train=words.thousands(task.get("n_train")),
        n_validation=words.thousands(task.get("n_validation")),
        base=words.fixed(base),
        chance=words.fixed(chance),
        above=words.fixed(base - chance, sign=True),
        skill=f"{words.fixed(share, 0)} %" if math.isfinite(share) else words.UNDEFINED,
        base_x=place(base),
        chance_x=place(chance),
        near_chance=near_chance(task),
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
        n_heads=scores[0].total,
        columns=scores[0].values.shape[1],
        label_width=max(len(site.short) for site in labels),
        sites=labels,
        maps=tuple(
            _heat_map(entry["task"], score, [_lesion(e, entry["task"]) for e in entries])
            for entry, score in zip(maps, scores, strict=True)
        ),
        top=tuple(top),
    )


def _scores(entry: Results) -> HeadScores:
    rows = [[words.number(value) for value in row] for row in entry["values"]]
    width = max(len(row) for row in rows)
    return HeadScores(np.array([row + [math.nan] * (width - len(row)) for row in rows]))


def _lesion(entry: Results, task: str) -> HeadSet:
    return HeadSet.parse(entry["lesions"].get(task, ""))


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
        parts.append(f"{words.thousands(entry['n_examples'])} examples for each task")
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
            text=words.fixed(100 * value / peak, 0),
            score=words.significant(value),
            rank=rank,
            shade=round((value - low) / (high - low) * last) if high > low else 0,
            rank_shade=round((len(ranks) - rank) / max(1, len(ranks) - 1) * last),
            lesioned=tuple(k for k, lesion in enumerate(lesions) if (site, head) in lesion),
        )

    n_sites, width = values.shape
    return HeatMap(
        task=task,
        largest=words.significant(peak),
        rows=tuple(tuple(cell(s, h) for h in range(width)) for s in range(n_sites)),
    )


def _changes(results: Results, rows: Sequence[Sequence[object]]) -> list[list[float]]:
    """Scores as changes in percent of the base score; nan where the base is under 0.05."""
    bases = [words.number(task["base"]) for task in results["tasks"]]
    return [
        [
            100 * (words.number(score) - base) / base if base >= 0.05 else math.nan
            for score, base in zip(row, bases, strict=True)
        ]
        for row in rows
    ]


def _widest_change(results: Results, entries: Sequence[Results]) -> float:
    """The largest change of any score under a task's lesion, in percent: the end of the tints."""
    changes = [
        abs(change)
        for entry in entries
        for row in _changes(results, entry["scores"])
        for change in row
        if math.isfinite(change)
    ]
    return math.ceil(max([5.0, *changes]))


def _control_mean(entry: Results, n_tasks: int) -> list[float] | None:
    """Each task's score under random lesions: the mean over replicates and matched lesions."""
    if not entry["control_scores"]:
        return None
    everything = [row for control in entry["control_scores"] for row in control]
    means = []
    for task in range(n_tasks):
        values = [words.number(row[task]) for row in everything]
        finite = [value for value in values if math.isfinite(value)]
        means.append(sum(finite) / len(finite) if finite else math.nan)
    return means


def _matrices(
    results: Results, entry: Results, widest: float
) -> tuple[tuple[MatrixRow, ...], tuple[MatrixRow, ...]]:
    """The lesion matrix as scores and as changes in percent of the base."""
    names = [task["name"] for task in results["tasks"]]
    scores = [[words.number(value) for value in row] for row in entry["scores"]]
    lowest = [_lowest([row[j] for row in scores]) for j in range(len(names))]
    rows: list[tuple[str, Literal["base", "task", "control"], list[float]]] = [
        ("nothing (base)", "base", [words.number(task["base"]) for task in results["tasks"]])
    ]
    rows += [(name, "task", row) for name, row in zip(names, scores, strict=True)]
    control = _control_mean(entry, len(names))
    if control is not None:
        rows.append(("random heads (mean)", "control", control))
    raw, change = [], []
    for index, (label, kind, values) in enumerate(rows):
        shifts = _changes(results, [values])[0]
        marks = [
            (
                _tint(shift, widest),
                kind == "task" and index - 1 == j,
                kind == "task" and value == lowest[j],
            )
            for j, (value, shift) in enumerate(zip(values, shifts, strict=True))
        ]
        raw.append(_row(label, kind, [words.fixed(value) for value in values], marks))
        change.append(_row(label, kind, [words.points(shift) for shift in shifts], marks))
    return tuple(raw), tuple(change)


def _lowest(column: Sequence[float]) -> float:
    """The lowest defined score; nan where it does not differ from the others."""
    finite = [value for value in column if math.isfinite(value)]
    return min(finite) if len(set(finite)) > 1 else math.nan


def _row(
    label: str,
    kind: Literal["base", "task", "control"],
    texts: Sequence[str],
    marks: Sequence[tuple[int, bool, bool]],
) -> MatrixRow:
    cells = (MatrixCell(text, *mark) for text, mark in zip(texts, marks, strict=True))
    return MatrixRow(label, kind, tuple(cells))


def _tint(shift: float, widest: float) -> int:
    if not math.isfinite(shift):
        return 0
    return max(-TINTS, min(TINTS, round(shift / widest * TINTS)))


def _fraction(results: Results, index: int, entry: Results, widest: float) -> Fraction:
    raw, change = _matrices(results, entry, widest)
    pairs = tuple(_pair(pair) for pair in entry["pairs"])
    return Fraction(
        index=index,
        label=words.percent(words.number(entry["fraction"])),
        title=f"{size_of(entry)} ({entry['n_heads']} heads)",
        controls=controls_of(entry),
        smallest_p=words.p_value(smallest_p(int(entry["n_controls"]))),
        raw=raw,
        change=change,
        panels=tuple(_panel(results, entry, name) for name in DEFINITIONS)
        if entry.get("dissociation")
        else (),
        pairs=pairs,
        n_double=sum(pair.double for pair in pairs),
    )


def _panel(results: Results, entry: Results, definition: str) -> Panel:
    data = entry["dissociation"][definition]
    names = [task["name"] for task in results["tasks"]]
    mean = model_score(entry, definition)
    assert mean is not None
    strips = [figures.Strip("all tasks", mean.mean, mean.low, mean.high, mean.controls, True)]
    p_values = [mean.p]
    for i, name in enumerate(names):
        low, high = (words.number(end) for end in data["interval"][i])
        controls = [words.number(row[i]) for row in data["control_values"]]
        finite = [value for value in controls if math.isfinite(value)]
        strips.append(figures.Strip(name, words.number(data["values"][i]), low, high, finite))
        p_values.append(words.number(data["p_values"][i]))
    title = f"{definition} D-scores at {size_of(entry)}, in percent, against random lesions"
    return Panel(
        definition=definition,
        is_headline=definition == HEADLINE,
        note=data.get("note") or "",
        plot=figures.strip_plot(strips, title),
        rows=tuple(_score_row(strip, p) for strip, p in zip(strips, p_values, strict=True)),
    )


def _score_row(strip: figures.Strip, p: float) -> ScoreRow:
    controls = words.UNDEFINED
    if strip.controls:
        controls = words.interval(min(strip.controls), max(strip.controls))
    return ScoreRow(
        label=strip.label,
        value=words.points(strip.value),
        interval=words.interval(strip.low, strip.high),
        controls=controls,
        p=words.p_value(p),
        beyond=p < LEVEL,
        is_mean=strip.is_mean,
    )


def _pair(pair: Results) -> PairRow:
    first, second = (words.number(effect) for effect in pair["effects"])
    p_first, p_second = (words.number(p) for p in pair["p_values"])
    return PairRow(
        first=pair["first"],
        second=pair["second"],
        effects=(words.fixed(first, sign=True), words.fixed(second, sign=True)),
        p_values=(words.p_value(p_first), words.p_value(p_second)),
        p_holm=words.p_value(words.number(pair["p_holm"])),
        double=bool(pair["double_dissociation"]),
    )


def _across(entries: Sequence[Results]) -> tuple[AcrossRow, ...]:
    if not entries or not all(entry.get("dissociation") for entry in entries):
        return ()
    rows = []
    for definition in DEFINITIONS:
        scores = [score for entry in entries if (score := model_score(entry, definition))]
        cells = tuple(
            (words.points(s.mean), words.interval(s.low, s.high), words.p_value(s.p))
            for s in scores
        )
        rows.append(AcrossRow(definition, cells))
    return tuple(rows)


def _training(results: Results) -> Training | None:
    training = results.get("training")
    if not training:
        return None
    facts = (
        Fact("Steps", words.thousands(training.get("steps"))),
        Fact("Sampling", str(training.get("sampling") or words.UNDEFINED)),
        Fact("Time", words.duration(words.number(training.get("seconds")))),
        Fact("Precision", str(training.get("precision") or words.UNDEFINED)),
        Fact("Seed", settings.plain(training.get("seed"))),
    )
    charts = []
    for task in results["tasks"]:
        name = task["name"]
        losses = [
            (words.number(entry["step"]), words.number(entry["loss"]))
            for entry in training.get("losses") or ()
            if entry["task"] == name
        ]
        scores = [
            (words.number(entry["step"]), words.number(entry["scores"].get(name)))
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
    lesions = {name: _lesion(head, name) for name in names} if head is not None else {}
    size = words.percent(words.number(head["fraction"])) if head is not None else ""
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
