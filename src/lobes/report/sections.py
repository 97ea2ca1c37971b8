"""What a page is made of: sections of blocks, the same for every kind of results.

A page module has one function, `page_of(results) -> Page`. `page.html` writes a page,
`terminal.shown` prints its tables and findings, and `tables` and `figures` list what an export
writes, each under its name.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from lobes.dissociation.verdict import Answer
from lobes.report.axes import MarkShape
from lobes.report.drawing import Drawing
from lobes.report.grids import count_grid, heat_grid, table_grid
from lobes.report.maps import CountMaps, HeatMap, HeatMaps, map_table
from lobes.report.tables import Table
from lobes.results.base import Results


@dataclass(frozen=True)
class Prose:
    """A paragraph; `text` is escaped unless it is markup. A `note` warns, `quiet` is small."""

    text: str | Markup
    look: Literal["", "note", "quiet", "axis", "formula"] = ""


@dataclass(frozen=True)
class Fact:
    """A label and its value."""

    label: str
    value: str


@dataclass(frozen=True)
class Facts:
    """Labeled values: side by side (`facts`), or one below the other (`heads`)."""

    items: tuple[Fact, ...]
    look: Literal["facts", "heads"] = "facts"


@dataclass(frozen=True)
class Settings:
    """Titled lists of settings, all open but the last."""

    groups: tuple[tuple[str, tuple[Fact, ...]], ...]


@dataclass(frozen=True)
class Figure:
    """A figure under a name that is unique on its page."""

    name: str
    drawing: Drawing


@dataclass(frozen=True)
class Key:
    """How a curve is drawn, and its name; its kind and mark are those of `charts.Points`."""

    kind: str
    label: str
    mark: MarkShape = "none"
    band: bool = False


@dataclass(frozen=True)
class Keys:
    """The key of charts with the same curves: over them, or (`axis`) over a single one."""

    items: tuple[Key, ...]
    look: Literal["legend", "axis"] = "legend"


@dataclass(frozen=True)
class Ramp:
    """The key of the tints; `end` is the change of the strongest, `12 %`, of a `unit`."""

    end: str
    unit: str = "the base score"


@dataclass(frozen=True)
class Panel:
    """Blocks under a title of their own; `title` is one level below the blocks around it."""

    title: str
    blocks: "tuple[Block, ...]"
    chip: str = ""
    headline: bool = False


@dataclass(frozen=True)
class Panels:
    """Panels side by side: boxed (`panels`), or plain, for charts of different widths.

    Those of a `glance` show on the first screen what other sections show in full; files hold that
    once.
    """

    items: tuple[Panel, ...]
    look: Literal["panels", "charts", "charts wide", "curves", "glance"] = "panels"


@dataclass(frozen=True)
class Beside:
    """Blocks side by side where there is room: two matrices, or (`pair`) a figure and its table."""

    blocks: "tuple[Block, ...]"
    look: Literal["two", "pair"] = "two"


@dataclass(frozen=True)
class Details:
    """Blocks that are folded away under a summary."""

    summary: str | Markup
    blocks: "tuple[Block, ...]"


@dataclass(frozen=True)
class Choice:
    """One of several `options` that a reader chooses in the page's bar; the script needs none.

    Without styles, and in print, all are shown.
    """

    name: str
    legend: str
    options: tuple[str, ...]
    chosen: int


@dataclass(frozen=True)
class Alternatives:
    """A panel for each option of the page's choice."""

    choice: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class InTerminal:
    """Blocks that a terminal shows and a page does not."""

    blocks: "tuple[Block, ...]"


@dataclass(frozen=True)
class InFiles:
    """Blocks whose tables and figures are exported and that a page does not show."""

    blocks: "tuple[Block, ...]"


@dataclass(frozen=True)
class Html:
    """Markup that no other block makes; `style` are CSS rules for it, `tables` what it shows."""

    markup: Markup
    style: str = ""
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Findings:
    """A question, the answer and its reasons; `caveats` say what weakens the answer.

    A page shows the figures of `glance` under the first sentence.
    """

    question: str
    answer: Answer
    headline: str
    sentences: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()
    glance: Panels | None = None


Block = (
    Prose
    | Facts
    | Settings
    | Table
    | Figure
    | Keys
    | Ramp
    | HeatMaps
    | CountMaps
    | Panels
    | Beside
    | Details
    | Alternatives
    | InTerminal
    | InFiles
    | Html
    | Findings
)


@dataclass(frozen=True)
class Section:
    """A titled part of a page; `contents` names it in the page's list of parts, "" leaves it out.

    With `findings` the section shows them over its blocks, their headline as its title. A section
    with `asks`, the reader's question that it answers, is folded on a page.
    """

    id: str
    title: str
    blocks: tuple[Block, ...]
    contents: str = ""
    findings: Findings | None = None
    asks: str = ""


@dataclass(frozen=True)
class Page:
    """A whole page; `sections` without None and in order.

    `kind` says what it is, `report`, and `source` the file that it was made from. `title` is the
    question of the first section. `script` names the page's own script, if it has one.
    """

    kind: str
    source: str
    name: str
    created: str
    version: str
    title: str
    sections: tuple[Section, ...]
    glossary: tuple[tuple[str | Markup, str | Markup], ...] = ()
    choice: Choice | None = None
    script: str = ""

    @classmethod
    def of(
        cls,
        results: Results,
        kind: str,
        sections: Iterable[Section | None],
        glossary: tuple[tuple[str | Markup, str | Markup], ...],
        *,
        choice: Choice | None = None,
        script: str = "",
    ) -> "Page":
        """The page of these results; the first section has the findings, None is left out."""
        shown = tuple(section for section in sections if section is not None)
        assert shown[0].findings is not None
        return cls(
            kind=kind,
            source=results.FILE,
            name=results.name or "lobes",
            created=results.created,
            version=results.lobes,
            title=shown[0].findings.question,
            sections=shown,
            glossary=glossary,
            choice=choice,
            script=script,
        )


def blocks_of(page: Page) -> Iterator[Block]:
    """Every block of a page, from top to bottom, those inside others too."""
    for section in page.sections:
        if section.findings is not None:
            yield section.findings
        yield from _inside(section.blocks)


def _inside(blocks: tuple[Block, ...]) -> Iterator[Block]:
    for block in blocks:
        yield block
        match block:
            case Panels(look="glance"):
                continue
            case Panels(items=panels) | Alternatives(panels=panels):
                for panel in panels:
                    yield from _inside(panel.blocks)
            case Beside() | Details() | InFiles():
                yield from _inside(block.blocks)


def tables(page: Page) -> list[Table]:
    """Every table of a page, the maps of heads among them, from top to bottom."""
    found: list[Table] = []
    for block in blocks_of(page):
        match block:
            case Table():
                found.append(block)
            case Html():
                found += block.tables
            case HeatMaps() | CountMaps():
                found += [map_table(each, block.sites) for each in block.maps]
    return found


def figures(page: Page) -> list[Figure]:
    """Every figure of a page from top to bottom; maps and matrices are figures, too."""
    found: list[Figure] = []
    for block in blocks_of(page):
        match block:
            case Figure():
                found.append(block)
            case Table(look="matrix"):
                found.append(Figure(block.name, table_grid(block)))
            case HeatMaps():
                found += [Figure(each.name, _heat_grid(each, block)) for each in block.maps]
            case CountMaps():
                found += [Figure(each.name, count_grid(each, block.sites)) for each in block.maps]
    return found


def _heat_grid(found: HeatMap, block: HeatMaps) -> Drawing:
    lesion = "" if block.headline is None else f"{block.lesions[block.headline]} {block.done}"
    return heat_grid(found, block.sites, block.headline, found.caption, lesion)
