"""How values of the library look outside a report: in a notebook, as a data frame, as a figure.

`lobes.shown.Shown` finds this module by its name. A value in a notebook is made of the sections
and blocks of a report; its style is that of the report, kept to the value's own element.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache, singledispatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from lobes.dissociation import Dissociation, LesionMatrix
from lobes.errors import ConfigError, RunError
from lobes.heads import HeadLayout
from lobes.report import colors, drawing, frames
from lobes.report.maps import HeatMaps, heat_map, site_labels
from lobes.report.page import draw, html, is_page, own_text, write_page
from lobes.report.pages import page_of
from lobes.report.run import base, findings, importance, lesions
from lobes.report.sections import (
    Alternatives,
    Block,
    Details,
    InTerminal,
    Prose,
    Section,
    blocks_of,
)
from lobes.report.tables import Column, Row, Table
from lobes.results import RunResults
from lobes.results.base import Results
from lobes.results.of_matrix import matrix_results
from lobes.scores import HeadScores

if TYPE_CHECKING:
    import matplotlib.figure

ELEMENT = "lobes-value"
MOST_SITES = 100  # a layout of more is cut short in a notebook


def html_of(value: object) -> Markup:
    """The value as a fragment of HTML that brings its own style."""
    blocks = Markup("").join(draw(block, 4) for block in blocks_for(value))
    return Markup('<div class="{}"><style>{}</style>{}</div>').format(
        ELEMENT, Markup(_style()), blocks
    )


def frame_of(value: object) -> Any:
    """The value as a pandas data frame."""
    return frames.frame_of(value)


def plot(value: object, kind: str | None, ax: Any) -> "matplotlib.figure.Figure":
    """The value as a figure of matplotlib.

    Raises `ConfigError` where matplotlib is not installed, or for a kind that there is not.
    """
    try:
        from lobes.report import plots
    except ImportError as error:
        raise ConfigError(
            'Figures are drawn by matplotlib, which is not installed: pip install "lobes[plot]".'
        ) from error
    return plots.plot(value, kind, ax)


def write_report(matrix: LesionMatrix, path: Path, name: str) -> Path:
    """Write the report of a lesion matrix, and return where it is.

    Raises `RunError` for a file there that is no page of lobes.
    """
    if path.is_file() and not is_page(path):
        raise RunError(
            f"{path} exists, and it is no page of lobes: give another place, or remove it first."
        )
    page = replace(page_of(matrix_results(matrix, name)), source="a LesionMatrix")
    return write_page(html(page), path)


@singledispatch
def blocks_for(value: object) -> list[Block]:
    """What a notebook shows of a value."""
    raise TypeError(f"a {type(value).__name__} has no look")


@blocks_for.register
def _(value: HeadLayout) -> list[Block]:
    columns = (
        Column("Site", "count"),
        Column("Name"),
        Column("Heads", "count"),
        Column("Width of a head", "count"),
        Column("Attention"),
        Column("Can be pruned"),
    )
    rows = tuple(
        Row(
            (
                site.index,
                site.name,
                site.n_heads,
                site.head_dim,
                f"{site.kind}, {site.attention}",
                "yes" if site.prunable else site.reason,
            )
        )
        for site in value.sites[:MOST_SITES]
    )
    more = f", the first {MOST_SITES} of them" if len(value) > MOST_SITES else ""
    caption = f"{value.total} heads at {len(value)} sites{more}"
    return [Table("layout", caption, columns, rows)]


@blocks_for.register
def _(value: HeadScores) -> list[Block]:
    about = ", ".join(f"{key} {escape(found)}" for key, found in value.settings.items())
    title = str(value.settings.get("task", "importance"))
    maps = HeatMaps(
        sites=site_labels([str(site) for site in range(len(value.values))]),
        maps=(heat_map("map", title, title, value, []),),
    )
    return [maps, *([Prose(Markup(about), "quiet")] if about else [])]


@blocks_for.register
def _(value: LesionMatrix) -> list[Block]:
    return blocks_for(matrix_results(value, "lesion matrix"))


@blocks_for.register
def _(value: Dissociation) -> list[Block]:
    score = value.column
    rows = [
        Row((task, float(d), (float(low), float(high)), float(p)))
        for task, d, (low, high), p in zip(
            value.tasks, score.values, score.interval, score.p_values, strict=True
        )
    ]
    rows.append(Row(("Mean", score.mean, score.mean_interval, score.mean_p), "mean"))
    columns = (
        Column("Task"),
        Column("D-score", "points", "%", strong=True),
        Column(f"{100 * value.level:g} % interval", "interval"),
        Column("p (exchange)", "p"),
    )
    caption = (
        f"How much more each task loses by its own lesion, {100 * value.fraction:g} % of heads"
    )
    return [Prose(value.verdict()), Table("d-scores", caption, columns, tuple(rows))]


@blocks_for.register
def _(value: RunResults) -> list[Block]:
    open_parts = (findings.section(value), base.section(value))
    folded = (importance.section(value), lesions.section(value))
    return [
        *(block for part in open_parts for block in _shown(part)),
        *(Details(part.title, tuple(_shown(part))[1:]) for part in folded if part is not None),
    ]


@blocks_for.register
def _(value: Results) -> list[Block]:
    """What the terminal shows of a page: its findings, then the tables with a title for it."""
    page = page_of(value)
    opening = [*_shown(page.sections[0])]
    tables: list[Block] = [
        table
        for block in blocks_of(page)
        for table in (block.blocks if isinstance(block, InTerminal) else (block,))
        if isinstance(table, Table) and table.terminal and table not in opening
    ]
    return [*opening, *tables]


def _shown(section: Section) -> Iterator[Block]:
    """The blocks of a section under its title; of alternatives the last, the largest lesions."""
    title = section.findings.headline if section.findings else section.title
    yield Prose(Markup("<strong>{}</strong>").format(title))
    if section.findings:
        yield section.findings
    for block in section.blocks:
        yield from block.panels[-1].blocks if isinstance(block, Alternatives) else (block,)


@cache
def _style() -> str:
    """The style of the report, for the element of one value only."""
    sheet = own_text("report.css") + drawing.css() + colors.css()
    shades = "".join(
        f".s{place} {{ background: {shade.background}; color: {shade.text}; }}\n"
        for place, shade in enumerate(colors.palette())
    )
    own = sheet.replace(":root", "&").replace("\nbody {", "\n& {").replace("  body {", "  & {")
    rings = '.heat td[class*=" f"]::after { display: block; }'
    hidden = ".legend .switch, .js-only, .skip, #readout { display: none; }"
    rest = (
        f"& {{ padding: .5rem; max-width: 74rem; }} {hidden}\n"
        "dd { margin-left: 0 !important; } p:has(> strong:only-child) { margin-top: 1.4rem; }"
    )  # pages around a value may indent what is defined in a list
    return f".{ELEMENT} {{\n{own}\n{shades}\n{rings}\n{rest}\n}}"
