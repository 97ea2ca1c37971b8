"""Maps of all heads: a row for each site, a column for each head.

A heat map shows how important each head is to a task, a count map how many tasks (or seeds)
trained it. On a page both are tables; a file holds a map as a table and as a figure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lobes.heads import Head, HeadSet
from lobes.report import formatting as fmt
from lobes.report.colors import SHADES, TINTS
from lobes.report.tables import Column, Row, Table
from lobes.scores import HeadScores


@dataclass(frozen=True)
class SiteLabel:
    """The head of a map's row: the site's number, what tells its path apart, the whole path."""

    number: int
    short: str
    name: str


@dataclass(frozen=True)
class HeatCell:
    """A head: its importance, that in percent of the largest, and where it stands in the order.

    `shade` and `rank_shade` index the palette; `lesioned` lists the fractions (as indices) whose
    lesion for this task contains the head.
    """

    value: float
    share: float
    rank: int
    shade: int
    rank_shade: int
    lesioned: tuple[int, ...]

    @property
    def text(self) -> str:
        """The share as a reader sees it."""
        return fmt.fixed(self.share, 0)

    @property
    def score(self) -> str:
        """The importance as a reader sees it."""
        return fmt.significant(self.value)


@dataclass(frozen=True)
class HeatMap:
    """One task's importance map; a cell is None where a site has no such head."""

    name: str
    task: str
    caption: str
    peak: float
    rows: tuple[tuple[HeatCell | None, ...], ...]

    @property
    def largest(self) -> str:
        """What stands for 100 %."""
        return fmt.significant(self.peak)


@dataclass(frozen=True)
class HeatMaps:
    """The importance maps of all tasks.

    `lesions` name the fractions of heads that were lesioned, and `headline` is the one whose heads
    an exported figure rings; `done` is what a lesion did to them.
    """

    sites: tuple[SiteLabel, ...]
    maps: tuple[HeatMap, ...]
    lesions: tuple[str, ...] = ()
    headline: int | None = None
    done: str = "lesioned"


@dataclass(frozen=True)
class CountCell:
    """How many have the head, and who they are; `tint` grows with their number to `TINTS`."""

    value: int
    tint: int
    who: str

    @property
    def text(self) -> str:
        """The count as a reader sees it."""
        return str(self.value)


@dataclass(frozen=True)
class CountMap:
    """A titled map of counts; a cell is None where a site has no such head."""

    name: str
    title: str
    rows: tuple[tuple[CountCell | None, ...], ...]


@dataclass(frozen=True)
class CountMaps:
    """Maps of counts over the same sites."""

    sites: tuple[SiteLabel, ...]
    maps: tuple[CountMap, ...]


def site_labels(names: Sequence[str]) -> tuple[SiteLabel, ...]:
    """The sites' numbers with what tells their module paths apart."""
    shorts = fmt.site_labels(names)
    return tuple(
        SiteLabel(index, "" if short == str(index) else short, name)
        for index, (name, short) in enumerate(zip(names, shorts, strict=True))
    )


def heat_map(
    name: str, task: str, caption: str, scores: HeadScores, lesions: Sequence[HeadSet]
) -> HeatMap:
    """A task's map; `lesions` are its lesions at every fraction, ascending."""
    values = scores.values
    peak = float(np.nanmax(np.abs(values))) or 1.0
    low, high = min(0.0, float(np.nanmin(values))), max(0.0, float(np.nanmax(values)))
    ranks = {head: rank for rank, head in enumerate(scores.ranked(), start=1)}
    last = SHADES - 1

    def cell(site: int, head: int) -> HeatCell | None:
        if (site, head) not in ranks:
            return None
        value, rank = scores[site, head], ranks[site, head]
        return HeatCell(
            value=value,
            share=100 * value / peak,
            rank=rank,
            shade=round((value - low) / (high - low) * last) if high > low else 0,
            rank_shade=round((len(ranks) - rank) / max(1, len(ranks) - 1) * last),
            lesioned=tuple(k for k, lesion in enumerate(lesions) if (site, head) in lesion),
        )

    n_sites, width = values.shape
    rows = tuple(tuple(cell(s, h) for h in range(width)) for s in range(n_sites))
    return HeatMap(name, task, caption, peak, rows)


def count_map(
    name: str, title: str, n_heads: Sequence[int], who: Mapping[Head, Sequence[str]], most: int
) -> CountMap:
    """How many of `most` have each head, and who; `n_heads` is the number of heads of each site."""

    def cell(site: int, head: int) -> CountCell | None:
        if head >= n_heads[site]:
            return None
        owners = who.get((site, head), ())
        tint = round(TINTS * len(owners) / most)
        return CountCell(len(owners), tint, fmt.listing(owners) or "none")

    width = max(n_heads)
    rows = tuple(tuple(cell(s, h) for h in range(width)) for s in range(len(n_heads)))
    return CountMap(name, title, rows)


def map_table(found: HeatMap | CountMap, sites: Sequence[SiteLabel]) -> Table:
    """The map as a table for files."""
    is_heat = isinstance(found, HeatMap)
    names = [f"{site.number} {site.name}".strip() for site in sites]
    return Table(
        name=found.name,
        caption=found.caption if isinstance(found, HeatMap) else found.title,
        columns=(
            Column("Site"),
            *(
                Column(f"Head {head}", "significant" if is_heat else "count")
                for head in range(len(found.rows[0]))
            ),
        ),
        rows=tuple(
            Row((name, *("" if cell is None else cell.value for cell in row)))
            for name, row in zip(names, found.rows, strict=True)
        ),
    )


def width_of(block: HeatMaps | CountMaps) -> float:
    """About how wide one map is on a page, in rem."""
    longest = max(len(site.short) for site in block.sites)
    return round(len(block.maps[0].rows[0]) * 1.665 + 1.7 + longest * 0.4, 2)
