"""Every figure and every table of a report, listed: what an export writes, one file each.

A name is unique in its report and is also the id on the page: `raw-2`, `strip-2-0`, `pairs-1`.
"""

from collections.abc import Iterable, Iterator, Sequence

from lobes.dissociation.verdict import WORDS
from lobes.report.charts import Chart
from lobes.report.parts import CountMap, Fraction, HeatMap, MatrixRow, Report
from lobes.report.tabular import Figure, Row, Table


def figures(report: Report) -> list[Figure]:
    """All figures of the page, from top to bottom."""
    return list(_figures(report))


def tables(report: Report) -> list[Table]:
    """All tables of the page, heat maps among them, from top to bottom."""
    return list(_tables(report))


def _charts(name: str, charts: Iterable[Chart | None]) -> Iterator[Figure]:
    for index, chart in enumerate(charts):
        if chart is not None:
            yield Figure(f"{name}-{index}", chart.title, chart, "chart")


def _figures(report: Report) -> Iterator[Figure]:
    if report.dose:
        yield from _charts("dose", report.dose.charts)
    for fraction in report.fractions:
        for place, panel in enumerate(fraction.panels):
            if panel.plot is not None:
                name = f"strip-{fraction.index}-{place}"
                yield Figure(name, panel.plot.title, panel.plot, "strip")
    if report.similarity:
        yield from _charts("likeness", (measure.chart for measure in report.similarity.measures))
    if report.growth:
        yield from _charts("growth", report.growth.charts)
        yield from _charts("growth-task", report.growth.task_charts)
    if report.agreement:
        yield from _charts("agreement", report.agreement.charts)
    for index, (_, loss, score) in enumerate(report.training.charts if report.training else ()):
        for kind, chart in (("loss", loss), ("score", score)):
            if chart is not None:
                yield Figure(f"{kind}-{index}", chart.title, chart, "line", kind)


def _tables(report: Report) -> Iterator[Table]:
    names = tuple(task.name for task in report.tasks)
    if len(report.claims) > 1:
        yield _claims(report)
    yield _base(report)
    yield from _importance(report)
    for fraction in report.fractions:
        yield from _lesions(fraction, names)
    if report.dose:
        yield report.dose.table
    yield from (_overlap(fraction, names) for fraction in report.fractions if fraction.overlap)
    if len(report.fractions) > 1 and report.across:
        header = ("Definition", *(fraction.label for fraction in report.fractions))
        rows = tuple(
            (row.definition, *(f"{v} ({span}), p {p}" for v, span, p in row.cells))
            for row in report.across
        )
        yield Table("across", ACROSS, header, rows)
    for fraction in report.fractions:
        yield from _scores(fraction)
    if report.across:
        yield from (_pairs(fraction) for fraction in report.fractions)
    if report.similarity:
        yield from report.similarity.tables
    if report.growth:
        yield from report.growth.tables
    if report.agreement:
        yield report.agreement.table
    if report.examples:
        yield from (group.table for group in report.examples.tasks)
    yield from _trained(report)


ACROSS = (
    "The model’s D-score (mean over tasks) at every fraction, in percent, with its interval and p"
)
BASE = "Score of every task with nothing ablated, and the score that chance gives"
CLAIMS = "What this run says on the claims of the method, each with its reason"


def _claims(report: Report) -> Table:
    header = ("Claim", "Answer", "Reason", "How sure")
    rows = tuple((c.statement, WORDS[c.answer].lower(), c.headline, c.sure) for c in report.claims)
    return Table("claims-table", CLAIMS, header, rows, left=4)


def _base(report: Report) -> Table:
    header = (
        *("Task", "Metric", "Base", "Chance", "Above chance", "Way to perfect"),
        *("Validation", "Training"),
    )
    rows = tuple(
        (t.name, t.metric, t.base, t.chance, t.above, t.skill, t.n_validation, t.n_train)
        for t in report.tasks
    )
    return Table("base", BASE, header, rows, left=2)


def _importance(report: Report) -> Iterator[Table]:
    importance = report.importance
    if importance is None:
        return
    for index, found in enumerate(importance.maps):
        caption = f"{found.task}: importance of each head, {importance.method}"
        sites = [f"{site.number} {site.name}".strip() for site in importance.sites]
        yield _map(f"map-{index}", caption, found, sites, importance.columns)
    header = ("Rank", *(found.task for found in importance.maps))
    yield Table("top", "Heads as site:head, the most important first", header, importance.top)


def _map(
    name: str, caption: str, found: "HeatMap | CountMap", sites: Sequence[str], columns: int
) -> Table:
    header = ("Site", *(f"Head {head}" for head in range(columns)))
    rows = tuple(
        (site, *("" if cell is None else getattr(cell, "score", cell.text) for cell in row))
        for site, row in zip(sites, found.rows, strict=True)
    )
    return Table(name, caption, header, rows)


def _matrix(name: str, caption: str, rows: "Sequence[MatrixRow]", names: Row, corner: str) -> Table:
    lines = tuple((row.label, *(cell.text for cell in row.cells)) for row in rows)
    return Table(name, caption, (corner, *names), lines)


def _lesions(fraction: Fraction, names: Row) -> Iterator[Table]:
    k, label = fraction.index, fraction.label
    if fraction.summary:
        yield fraction.summary
    if not fraction.raw:
        return
    yield _matrix(f"raw-{k}", f"Scores under each lesion, {label}", fraction.raw, names, "Ablated")
    change = f"Change from the base score in percent, {label}"
    yield _matrix(f"change-{k}", change, fraction.change, names, "Ablated")


def _overlap(fraction: Fraction, names: Row) -> Table:
    caption = (
        f"Overlap of the tasks’ lesions, {fraction.label}; two random lesions of this size: "
        f"{fraction.by_chance} on average"
    )
    return _matrix(f"overlap-{fraction.index}", caption, fraction.overlap, names, "Lesions of")


def _scores(fraction: Fraction) -> Iterator[Table]:
    for place, panel in enumerate(fraction.panels):
        header = ["Task", "D", "Interval", "Random lesions", "p"]
        header += ["SDs"] * panel.standardized + ["D on the sample"] * panel.on_sample
        rows = []
        for row in panel.rows:
            cells = [row.label, row.value, row.interval, row.controls, row.p]
            cells += [row.standardized] * panel.standardized + [row.on_sample] * panel.on_sample
            rows.append(tuple(cells))
        caption = f"{panel.definition} D-scores in percent, {fraction.label}"
        yield Table(f"scores-{fraction.index}-{place}", caption, tuple(header), tuple(rows))


def _pairs(fraction: Fraction) -> Table:
    header = (
        *("First", "Second", "First loses more", "p", "Second loses more", "p", "p (Holm)"),
        *("p (random lesions, Holm)", "Double dissociation"),
    )
    rows = tuple(
        (
            *(pair.first, pair.second),
            *(" ".join(filter(None, (pair.effects[0], pair.details[0]))), pair.p_values[0]),
            *(" ".join(filter(None, (pair.effects[1], pair.details[1]))), pair.p_values[1]),
            *(pair.p_holm, pair.p_controls, pair.double),
        )
        for pair in fraction.pairs
    )
    caption = (
        f"How much more each task of a pair loses by its own lesion, in units of its metric, "
        f"{fraction.label}"
    )
    return Table(f"pairs-{fraction.index}", caption, header, rows, left=2)


def _trained(report: Report) -> Iterator[Table]:
    trained = report.trained
    if trained is None:
        return
    yield Table(
        "trained", "The heads that each task trained", ("Task", *trained.header), trained.rows
    )
    sites = [f"{site.number} {site.name}".strip() for site in trained.sites]
    for index, found in enumerate(trained.maps):
        yield _map(f"map-trained-{index}", found.title, found, sites, trained.columns)
