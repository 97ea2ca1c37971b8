"""Every figure and every table of each kind of page, under names that stay: what is exported.

Maps and matrices, tables on a page, are figures here too, under the same name.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from lobes.report import sections, tables
from lobes.report.drawing import Drawing
from lobes.report.grids import count_grid
from lobes.report.parts import (
    ComparedTask,
    Comparison,
    DifferencePanel,
    MeanRow,
    SeedTable,
    Trained,
    Transfer,
)
from lobes.report.sections import Page
from lobes.report.tabular import Table

Shown = Comparison | Transfer | Page


class Drawn(NamedTuple):
    """A figure under its name."""

    name: str
    drawing: Drawing


def figures_of(report: Shown) -> list[Drawn]:
    """All figures of a page, from top to bottom, then its maps and matrices."""
    if isinstance(report, Page):
        return [Drawn(f.name, f.drawing) for f in sections.figures(report)]
    found = list(_over_seeds(report))
    return [*found, *(Drawn(name, grid) for name, grid in _trained_grids(report.trained))]


def tables_of(report: Shown) -> Sequence[Table | tables.Table]:
    """All tables of a page, from top to bottom."""
    if isinstance(report, Page):
        return sections.tables(report)
    if isinstance(report, Comparison):
        return list(_comparison(report))
    return list(_transfer(report))


def _over_seeds(report: Comparison | Transfer) -> Iterator[Drawn]:
    if isinstance(report, Transfer) and report.curves is not None:
        yield Drawn("learning", report.curves)
    for place, panel in enumerate(report.panels):
        if panel.plot is not None:
            yield Drawn(f"difference-{place}", panel.plot)
    if isinstance(report, Comparison) and report.d_panel is not None and report.d_panel.plot:
        yield Drawn("d-difference", report.d_panel.plot)


def _trained_grids(trained: Trained | None) -> Iterator[tuple[str, Drawing]]:
    if trained is not None:
        for place, found in enumerate(trained.maps):
            yield f"map-trained-{place}", count_grid(found, trained.sites)


def _comparison(report: Comparison) -> Iterator[Table]:
    caption = "Scores of every way to train, means over seeds"
    yield _means("scores", caption, "Task", report.methods, report.scores)
    yield from _differences(report.panels, "Task")
    if report.d_scores:
        header = ("Definition", "Heads lesioned", "multi-task", "Interval", "IAT", "Interval")
        rows = tuple(
            (
                row.definition,
                row.fraction,
                *(text for cell in row.cells for text in (cell.value, cell.interval)),
                *(row.difference.value, row.difference.interval, row.difference.p),
            )
            for row in report.d_scores
        )
        caption = "The model’s D-score in percent, means over tasks and seeds"
        yield Table("d-scores", caption, (*header, "Difference", "Interval", "p"), rows)
    if report.d_panel is not None:
        yield _difference("d-difference", report.d_panel, "Task")
    yield from _rest(report.trained, report.seeds, report.tasks)


def _transfer(report: Transfer) -> Iterator[Table]:
    caption = "Score from each start, means over seeds"
    yield _means("scores", caption, "Training examples", report.starts, report.scores)
    yield from _differences(report.panels, "Training examples")
    yield from _rest(report.trained, report.seeds, report.sources)


def _means(
    name: str, caption: str, first: str, columns: Sequence[str], rows: Sequence[MeanRow]
) -> Table:
    header = (first, *(text for column in columns for text in (column, "Interval")), "chance")
    lines = tuple(
        (row.label, *(text for c in row.cells for text in (c.value, c.interval)), row.chance)
        for row in rows
    )
    return Table(name, caption, header, lines)


def _differences(panels: Iterable[DifferencePanel], first: str) -> Iterator[Table]:
    for place, panel in enumerate(panels):
        yield _difference(f"difference-{place}", panel, first)


def _difference(name: str, panel: DifferencePanel, first: str) -> Table:
    rows = tuple((row.label, row.value, row.interval, row.p, row.p_holm) for row in panel.rows)
    caption = f"{panel.title}: mean over seeds, interval, paired t-test"
    return Table(name, caption, (first, "Difference", "Interval", "p", "p (Holm)"), rows)


def _rest(
    trained: Trained | None, seeds: SeedTable, tasks: Sequence[ComparedTask]
) -> Iterator[Table]:
    if trained is not None:
        caption = "The heads that each task trained, over the seeds"
        yield Table("trained", caption, ("Task", *trained.header), trained.rows)
        sites = [f"{site.number} {site.name}".strip() for site in trained.sites]
        columns = [f"Head {head}" for head in range(trained.columns)]
        for place, found in enumerate(trained.maps):
            cells = [["" if cell is None else cell.text for cell in row] for row in found.rows]
            lines = tuple((site, *row) for site, row in zip(sites, cells, strict=True))
            yield Table(f"map-trained-{place}", found.title, ("Site", *columns), lines)
    yield Table("seeds", "Every seed by itself", ("Seed", *seeds.header), seeds.rows)
    header = ("Task", "Metric", "Kind", "Training", "Held out", "Validation")
    rows = tuple(
        (t.name, t.metric, t.outputs, t.n_train, t.n_held_out, t.n_validation) for t in tasks
    )
    yield Table("data", "Numbers of examples", header, rows, left=3)
