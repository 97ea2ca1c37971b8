"""Everything that belongs to one fraction of lesioned heads: matrices, overlap, D-scores, pairs."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int

from lobes.dissociation.verdict import controls_needed, is_significant, smallest_p
from lobes.heads import HeadSet
from lobes.report import figures
from lobes.report import formatting as fmt
from lobes.report.dose import control_scores
from lobes.report.findings import (
    DEFINITIONS,
    HEADLINE,
    Results,
    control_bases,
    controls_of,
    divisor,
    is_double,
    model_score,
    pair_caveat,
    size_of,
)
from lobes.report.parts import (
    AcrossRow,
    Fraction,
    MatrixCell,
    MatrixRow,
    PairRow,
    Panel,
    ScoreRow,
)
from lobes.report.tabular import MOST_PAIRS, MOST_TASKS, Table

TINTS = 10


def lesion_of(entry: Results, task: str) -> HeadSet:
    """The heads lesioned for a task."""
    return HeadSet.parse(entry["lesions"].get(task, ""))


def _changes(
    results: Results, rows: Sequence[Sequence[object]], bases: Sequence[float] = ()
) -> list[list[float]]:
    """Scores as changes in percent of the base score; nan where nothing may be divided by it."""
    bases = bases or [divisor(task) for task in results["tasks"]]
    return [
        [100 * (fmt.number(score) - base) / base for score, base in zip(row, bases, strict=True)]
        for row in rows
    ]


def widest_change(results: Results, entries: Sequence[Results]) -> float:
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
    scores = control_scores(entry, n_tasks)
    finite = np.isfinite(scores)
    number = finite.sum(axis=0)
    total = np.where(finite, scores, 0.0).sum(axis=0)
    return [float(t / n) if n else math.nan for t, n in zip(total, number, strict=True)]


def _matrices(
    results: Results, entry: Results, widest: float
) -> tuple[tuple[MatrixRow, ...], tuple[MatrixRow, ...]]:
    """The lesion matrix as scores and as changes in percent of the base."""
    names = [task["name"] for task in results["tasks"]]
    scores = [[fmt.number(value) for value in row] for row in entry["scores"]]
    lowest = [_lowest([row[j] for row in scores]) for j in range(len(names))]
    rows: list[tuple[str, Literal["base", "task", "control"], list[float]]] = [
        ("nothing (base)", "base", [fmt.number(task["base"]) for task in results["tasks"]])
    ]
    rows += [(name, "task", row) for name, row in zip(names, scores, strict=True)]
    control = _control_mean(entry, len(names))
    if control is not None:
        rows.append(("random heads (mean)", "control", control))
    raw, change = [], []
    for index, (label, kind, values) in enumerate(rows):
        bases = control_bases(results) if kind == "control" else ()
        shifts = _changes(results, [values], bases)[0]
        marks = [
            (
                _tint(shift, widest),
                kind == "task" and index - 1 == j,
                kind == "task" and value == lowest[j],
            )
            for j, (value, shift) in enumerate(zip(values, shifts, strict=True))
        ]
        raw.append(_row(label, kind, [fmt.fixed(value) for value in values], marks))
        change.append(_row(label, kind, [fmt.points(shift) for shift in shifts], marks))
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


def fraction_of(
    results: Results, index: int, entry: Results, widest: float, *, whole: bool
) -> Fraction:
    """One fraction; of many tasks a summary, with the matrices and all pairs if `whole`."""
    is_large = len(results["tasks"]) > MOST_TASKS
    raw, change = _matrices(results, entry, widest) if whole or not is_large else ((), ())
    shared, sizes = _shared_heads(results, entry)
    chosen = entry["pairs"] if whole or not is_large else strongest(entry["pairs"])
    n_controls, n_pairs = int(entry["n_controls"]), len(entry["pairs"])
    return Fraction(
        index=index,
        label=fmt.percent(fmt.number(entry["fraction"])),
        title=f"{size_of(entry)} ({entry['n_heads']} heads)",
        controls=controls_of(entry),
        smallest_p=fmt.p_value(smallest_p(n_controls)),
        raw=raw,
        change=change,
        overlap=_overlap(results, shared, sizes) if whole or not is_large else (),
        summary=_summary(results, index, entry, shared, sizes) if is_large else None,
        by_chance=_by_chance(results, entry),
        panels=tuple(_panel(results, entry, name) for name in DEFINITIONS)
        if entry.get("dissociation")
        else (),
        pairs=tuple(_pair(pair, n_controls, n_pairs) for pair in chosen),
        n_pairs=n_pairs,
        n_double=sum(is_double(pair) for pair in entry["pairs"]),
        pair_note=pair_caveat(entry["pairs"], n_controls),
    )


def strongest(pairs: Sequence[Results]) -> list[Results]:
    """The `MOST_PAIRS` pairs of tasks that dissociate most, the most first."""

    def order(pair: Results) -> tuple[bool, float, float]:
        effects = pair["effects"]
        values = [fmt.number(e["mean"] if isinstance(e, dict) else e) for e in effects]
        p, least = fmt.number(pair["p_holm"]), min(values)
        return (
            not pair["double_dissociation"],
            p if p == p else math.inf,
            -least if least == least else math.inf,
        )

    return sorted(pairs, key=order)[:MOST_PAIRS]


def _shared_heads(
    results: Results, entry: Results
) -> tuple[Int[np.ndarray, "tasks tasks"], Int[np.ndarray, " tasks"]]:
    """How many heads every two tasks' lesions share, and how many each has."""
    places = {
        (site["index"], head): place
        for place, (site, head) in enumerate(
            (site, head) for site in results["model"]["sites"] for head in range(site["n_heads"])
        )
    }
    chosen = np.zeros((len(results["tasks"]), len(places)), dtype=np.int64)
    for row, task in zip(chosen, results["tasks"], strict=True):
        row[[places[head] for head in lesion_of(entry, task["name"])]] = 1
    shared = (chosen.astype(np.float64) @ chosen.T).astype(np.int64)
    return shared, np.diagonal(shared)


def _summary(
    results: Results,
    index: int,
    entry: Results,
    shared: Int[np.ndarray, "tasks tasks"],
    sizes: Int[np.ndarray, " tasks"],
) -> Table:
    """What the matrices of many tasks say of each task, in a line."""
    names = [task["name"] for task in results["tasks"]]
    scores = np.array([[fmt.number(value) for value in row] for row in entry["scores"]])
    others = ~np.eye(len(names), dtype=bool)
    random = _control_mean(entry, len(names)) or [math.nan] * len(names)
    either = sizes[:, None] + sizes - shared
    overlap = np.where(others, shared / np.maximum(either, 1), -1.0)
    lines = []
    for j, task in enumerate(results["tasks"]):
        column = scores[:, j]
        finite = np.isfinite(column).any()
        rest = column[others[j]]
        near = int(overlap[j].argmax())
        lines.append(
            (
                names[j],
                fmt.fixed(fmt.number(task["base"])),
                fmt.fixed(float(column[j])),
                fmt.fixed(float(rest.mean())),
                fmt.fixed(random[j]),
                names[int(np.nanargmin(column))] if finite else fmt.UNDEFINED,
                fmt.fixed(float(overlap[j][others[j]].mean()), 2),
                fmt.fixed(float(overlap[j][near]), 2),
                names[near],
            )
        )
    header = (
        *("Task", "Base", "Own lesion", "Others’ lesions, mean", "Random, mean", "Lowest under"),
        *("Overlap, mean", "Largest overlap", "With"),
    )
    size = fmt.percent(fmt.number(entry["fraction"]))
    caption = f"Each task’s score under lesions, and the overlap of its lesion with others, {size}"
    return Table(f"summary-{index}", caption, header, tuple(lines))


def _overlap(
    results: Results,
    shared: Int[np.ndarray, "tasks tasks"],
    sizes: Int[np.ndarray, " tasks"],
) -> tuple[MatrixRow, ...]:
    """How many heads the lesions of every two tasks share: the Jaccard index, and the count."""
    names = [task["name"] for task in results["tasks"]]
    if len(names) < 2:
        return ()
    both, alone = shared.tolist(), sizes.tolist()

    def cell(i: int, j: int) -> MatrixCell:
        either = alone[i] + alone[j] - both[i][j]
        if i == j or not either:
            return MatrixCell(fmt.plural(alone[i], "head"), 0, False, False)
        share = both[i][j] / either
        return MatrixCell(f"{share:.2f} · {both[i][j]}", round(TINTS * share), False, False)

    places = range(len(names))
    return tuple(
        MatrixRow(name, "task", tuple(cell(i, j) for j in places)) for i, name in enumerate(names)
    )


def _by_chance(results: Results, entry: Results) -> str:
    """The overlap of two random lesions of this size: n²/N heads shared of 2n − n²/N."""
    total = sum(site["n_heads"] for site in results["model"]["sites"])
    share = int(entry["n_heads"]) / total
    return f"{share / (2 - share):.2f}"


def _panel(results: Results, entry: Results, definition: str) -> Panel:
    data = entry["dissociation"][definition]
    names = [task["name"] for task in results["tasks"]]
    mean = model_score(entry, definition)
    assert mean is not None
    sampled = results["controls"]["sample"] is not None
    on_mean = fmt.number(data["compared_mean"]) if sampled else math.nan
    strips = [
        figures.Strip("all tasks", mean.mean, mean.low, mean.high, mean.controls, True, on_mean)
    ]
    p_values = [mean.p]
    distances = [fmt.number(v) for v in (data["mean_standardized"], *data["standardized"])]
    for i, name in enumerate(names):
        low, high = (fmt.number(end) for end in data["interval"][i])
        controls = [fmt.number(row[i]) for row in data["control_values"]]
        finite = [value for value in controls if math.isfinite(value)]
        value = fmt.number(data["values"][i])
        on_sample = fmt.number(data["compared"][i]) if sampled else math.nan
        strips.append(figures.Strip(name, value, low, high, finite, False, on_sample))
        p_values.append(fmt.number(data["p_values"][i]))
    title = f"{definition} D-scores at {size_of(entry)}, in percent, against random lesions"
    return Panel(
        definition=definition,
        is_headline=definition == HEADLINE,
        note=data.get("note") or "",
        plot=figures.strip_plot(strips, title),
        rows=tuple(
            _score_row(strip, p, distance)
            for strip, p, distance in zip(strips, p_values, distances, strict=True)
        ),
        standardized=any(map(math.isfinite, distances)),
        on_sample=sampled,
    )


def _score_row(strip: figures.Strip, p: float, distance: float) -> ScoreRow:
    controls = fmt.UNDEFINED
    if strip.controls:
        controls = fmt.interval(min(strip.controls), max(strip.controls))
    return ScoreRow(
        label=strip.label,
        value=fmt.points(strip.value),
        interval=fmt.interval(strip.low, strip.high),
        controls=controls,
        p=fmt.p_value(p),
        beyond=is_significant(p),
        is_mean=strip.is_mean,
        standardized=fmt.points(distance),
        on_sample=fmt.points(strip.on_sample),
    )


def _pair(pair: Results, n_controls: int, n_pairs: int) -> PairRow:
    first, second = (fmt.number(effect) for effect in pair["effects"])
    p_first, p_second = (fmt.number(p) for p in pair["p_values"])
    return PairRow(
        first=pair["first"],
        second=pair["second"],
        effects=(fmt.fixed(first, sign=True), fmt.fixed(second, sign=True)),
        details=_details(pair),
        p_values=(fmt.p_value(p_first), fmt.p_value(p_second)),
        p_holm=fmt.p_value(fmt.number(pair["p_holm"])),
        p_controls=fmt.p_value(fmt.number(pair.get("p_controls_holm"))),
        double=double_of(pair, n_controls, n_pairs),
    )


def double_of(pair: Results, n_controls: int, n_pairs: int) -> str:
    """What a table says of a pair: `yes`, `not shown`, or that the random lesions are too few."""
    if is_double(pair):
        return "yes"
    return "not shown" if n_controls >= controls_needed(n_pairs) else "too few controls"


def _details(pair: Results) -> tuple[str, str]:
    """`−0.01 to +0.04; +3.2 % of base`: each effect's interval and relative size, where known."""
    spans = pair.get("effect_intervals") or [[None, None]] * 2
    shares = pair.get("relative_effects") or [None] * 2

    def text(span: Sequence[object], share: object) -> str:
        low, high = (fmt.number(end) for end in span)
        between = fmt.interval(low, high, lambda end: fmt.fixed(end, sign=True))
        percent = fmt.points(fmt.number(share))
        parts = [between] * (between != fmt.UNDEFINED)
        parts += [f"{percent}{fmt.GAP}% of base"] * (percent != fmt.UNDEFINED)
        return f"({'; '.join(parts)})" if parts else ""

    first, second = (text(span, share) for span, share in zip(spans, shares, strict=True))
    return first, second


def across(entries: Sequence[Results]) -> tuple[AcrossRow, ...]:
    if not entries or not all(entry.get("dissociation") for entry in entries):
        return ()
    rows = []
    for definition in DEFINITIONS:
        scores = [score for entry in entries if (score := model_score(entry, definition))]
        cells = tuple(
            (fmt.points(s.mean), fmt.interval(s.low, s.high), fmt.p_value(s.p)) for s in scores
        )
        rows.append(AcrossRow(definition, cells))
    return tuple(rows)
