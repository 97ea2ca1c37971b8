"""What a report is made of: frozen values, every number already text.

The pages fill them from results; the templates and the terminal lay them out.
"""

from dataclasses import dataclass

from lobes.report.figures import StripPlot
from lobes.report.findings import Findings
from lobes.report.learning import LearningCurves


@dataclass(frozen=True)
class Fact:
    """A label and its value."""

    label: str
    value: str


@dataclass(frozen=True)
class SiteLabel:
    """The head of a map's row: the site's number, what tells its path apart, the whole path."""

    number: int
    short: str
    name: str


@dataclass(frozen=True)
class CountCell:
    """A head and who trained it: the tasks, or the seeds; `tint` grows with their number to 10."""

    text: str
    tint: int
    who: str


@dataclass(frozen=True)
class CountMap:
    """A titled map of all heads; a cell is None where a site has no such head."""

    title: str
    rows: tuple[tuple[CountCell | None, ...], ...]


@dataclass(frozen=True)
class Trained:
    """The heads that IAT trained: a table with a row for each task, and maps.

    `header` names the columns after the task's.
    """

    facts: tuple[Fact, ...]
    sentence: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lists: tuple[tuple[str, str], ...]
    columns: int
    label_width: int
    sites: tuple[SiteLabel, ...]
    maps: tuple[CountMap, ...]


@dataclass(frozen=True)
class Section:
    """A titled list of settings."""

    title: str
    facts: tuple[Fact, ...]


@dataclass(frozen=True)
class ScoreCell:
    """A mean over seeds and its interval."""

    value: str
    interval: str


@dataclass(frozen=True)
class MeanRow:
    """A line of a table of scores: a task or a size, and a cell for each way to train."""

    label: str
    chance: str
    cells: tuple[ScoreCell, ...]
    is_mean: bool
    warning: str


@dataclass(frozen=True)
class DifferenceRow:
    """A difference between two ways to train; `beyond` says that the p that counts is ≤ 0.05."""

    label: str
    value: str
    interval: str
    p: str
    p_holm: str
    beyond: bool
    is_mean: bool


@dataclass(frozen=True)
class DifferencePanel:
    """One way to train against another, as a figure and as a table."""

    title: str
    is_headline: bool
    plot: StripPlot | None
    rows: tuple[DifferenceRow, ...]


@dataclass(frozen=True)
class DScoreRow:
    """The model's D-score without and with IAT, by one definition at one fraction."""

    fraction: str
    definition: str
    cells: tuple[ScoreCell, ScoreCell]
    difference: DifferenceRow
    is_headline: bool


@dataclass(frozen=True)
class ComparedTask:
    """A task and how much data it has."""

    name: str
    metric: str
    outputs: str
    n_train: str
    n_held_out: str
    n_validation: str


@dataclass(frozen=True)
class SeedTable:
    """What each seed gave: a header after the seed's column, and a row for each seed."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Comparison:
    """Everything that the page of a comparison shows."""

    name: str
    created: str
    version: str
    findings: Findings
    facts: tuple[Fact, ...]
    specialization: Findings | None
    methods: tuple[str, ...]
    scores: tuple[MeanRow, ...]
    panels: tuple[DifferencePanel, ...]
    d_scores: tuple[DScoreRow, ...]
    d_panel: DifferencePanel | None
    trained: Trained | None
    seeds: SeedTable
    tasks: tuple[ComparedTask, ...]
    level: str
    settings: tuple[Section, ...]


@dataclass(frozen=True)
class Transfer:
    """Everything that the page of a transfer study shows."""

    name: str
    created: str
    version: str
    findings: Findings
    facts: tuple[Fact, ...]
    metric: str
    starts: tuple[str, ...]
    curves: LearningCurves | None
    scores: tuple[MeanRow, ...]
    panels: tuple[DifferencePanel, ...]
    trained: Trained | None
    seeds: SeedTable
    sources: tuple[ComparedTask, ...]
    level: str
    settings: tuple[Section, ...]
