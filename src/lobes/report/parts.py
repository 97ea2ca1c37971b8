"""What a report is made of: frozen values, every number already text.

`view.py` fills them from results; the templates and the terminal lay them out.
"""

from dataclasses import dataclass
from typing import Literal

from lobes.report.agreement import Agreement
from lobes.report.claims import Claim
from lobes.report.dose import DoseResponse
from lobes.report.examples import Examples
from lobes.report.figures import LineChart, StripPlot
from lobes.report.findings import Findings
from lobes.report.growth import Growth
from lobes.report.learning import LearningCurves
from lobes.report.tabular import Table
from lobes.report.task_similarity import Similarity


@dataclass(frozen=True)
class Fact:
    """A label and its value."""

    label: str
    value: str


@dataclass(frozen=True)
class TaskRow:
    """A task's base score; `base_x` and `chance_x` are places from 0 to 100 on the same track.

    `warning` is `near chance` or `below chance`, or nothing.
    """

    name: str
    metric: str
    outputs: str
    n_train: str
    n_validation: str
    base: str
    chance: str
    above: str
    skill: str
    base_x: float | None
    chance_x: float | None
    warning: str


@dataclass(frozen=True)
class HeatCell:
    """A head: its importance in percent of the largest, and where it stands in the order.

    `shade` and `rank_shade` index the palette; `lesioned` lists the fractions (as indices) whose
    lesion for this task contains the head.
    """

    text: str
    score: str
    rank: int
    shade: int
    rank_shade: int
    lesioned: tuple[int, ...]


@dataclass(frozen=True)
class HeatMap:
    """One task's importance map; a cell is None where a site has no such head."""

    task: str
    largest: str
    rows: tuple[tuple[HeatCell | None, ...], ...]


@dataclass(frozen=True)
class SiteLabel:
    """The head of a map's row: the site's number, what tells its path apart, the whole path."""

    number: int
    short: str
    name: str


@dataclass(frozen=True)
class Importance:
    """All maps, how they were estimated, and the most important heads of every task.

    `bias` says where the estimate ranks a site wrongly.
    """

    method: str
    bias: str
    n_heads: int
    columns: int
    label_width: int
    sites: tuple[SiteLabel, ...]
    maps: tuple[HeatMap, ...]
    top: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class MatrixCell:
    """A score under a lesion; `tint` is negative for a loss, positive for a gain, up to ±10."""

    text: str
    tint: int
    own: bool
    lowest: bool


@dataclass(frozen=True)
class MatrixRow:
    """A lesion and what it does to every task."""

    label: str
    kind: Literal["base", "task", "control"]
    cells: tuple[MatrixCell, ...]


@dataclass(frozen=True)
class ScoreRow:
    """One line of a table of D-scores; `beyond` says p ≤ 0.05.

    `standardized` is the distance from the random lesions' mean in their standard deviations.
    """

    label: str
    value: str
    interval: str
    controls: str
    p: str
    beyond: bool
    is_mean: bool
    standardized: str
    on_sample: str


@dataclass(frozen=True)
class Panel:
    """One definition of the D-score at one fraction.

    `standardized` and `on_sample` say whether the table has these columns.
    """

    definition: str
    is_headline: bool
    note: str
    plot: StripPlot | None
    rows: tuple[ScoreRow, ...]
    standardized: bool
    on_sample: bool


@dataclass(frozen=True)
class PairRow:
    """A pair of tasks: what each loses by its own lesion more than by the other's.

    `details` say each effect's interval and its size in percent of the base, where known. `p_holm`
    is the paired test's, `p_controls` that against random lesions, both corrected; `double` is
    `yes`, `not shown` or `too few controls`.
    """

    first: str
    second: str
    effects: tuple[str, str]
    details: tuple[str, str]
    p_values: tuple[str, str]
    p_holm: str
    p_controls: str
    double: str


@dataclass(frozen=True)
class Fraction:
    """Everything that belongs to one fraction of lesioned heads.

    `by_chance` is the overlap that two random lesions of this size have on average. Of many tasks
    `summary` says what the matrices, then left empty, say of each, and `pairs` are the strongest of
    `n_pairs`.
    """

    index: int
    label: str
    title: str
    controls: str
    smallest_p: str
    raw: tuple[MatrixRow, ...]
    change: tuple[MatrixRow, ...]
    overlap: tuple[MatrixRow, ...]
    by_chance: str
    summary: Table | None
    panels: tuple[Panel, ...]
    pairs: tuple[PairRow, ...]
    n_pairs: int
    n_double: int
    pair_note: str


@dataclass(frozen=True)
class AcrossRow:
    """The model's D-score by one definition at every fraction: (value, interval, p) each."""

    definition: str
    cells: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Training:
    """How the model was trained, with a loss curve and a score curve for each task."""

    facts: tuple[Fact, ...]
    charts: tuple[tuple[str, LineChart | None, LineChart | None], ...]


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
class Report:
    """Everything that a report shows; parts that were not measured are None or empty.

    `no_ratio` names the tasks whose base score nothing may be divided by.
    """

    name: str
    created: str
    version: str
    findings: Findings
    claims: tuple[Claim, ...]
    control_notes: tuple[str, ...]
    facts: tuple[Fact, ...]
    tasks: tuple[TaskRow, ...]
    no_ratio: tuple[str, ...]
    importance: Importance | None
    largest_change: str
    fractions: tuple[Fraction, ...]
    headline_fraction: int
    across: tuple[AcrossRow, ...]
    dose: DoseResponse | None
    similarity: Similarity | None
    growth: Growth | None
    agreement: Agreement | None
    examples: Examples | None
    training: Training | None
    trained: Trained | None
    settings: tuple[Section, ...]


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
    specialisation: Findings | None
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
