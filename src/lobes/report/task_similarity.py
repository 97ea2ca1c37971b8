"""How alike the tasks are, against how far each pair dissociates (claim 2).

`results["similarity"]` holds a table of tasks for each measure, the D-score of each pair, and the
trend: negative where less alike tasks dissociate more.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from lobes.dissociation.verdict import SMALLEST_CORRELATION, Answer, is_significant
from lobes.report import formatting as fmt
from lobes.report.charts import Chart, Points, chart
from lobes.report.findings import Results
from lobes.report.tabular import MOST_PAIRS, MOST_TASKS, Table

NAMES = {
    "importance": "rank correlation of the importance maps",
    "overlap": "overlap of the lesions (Jaccard)",
    "gradient": "cosine of the tasks’ mean gradients",
    "cka": "linear CKA of the encoder’s output under the two lesions",
}
# Measured without the lesions. The others are made from the very heads that the D-scores lesion,
# so that some correlation with those is there by construction.
INDEPENDENT = ("gradient",)


@dataclass(frozen=True)
class Measure:
    """One measure of similarity: its scatter and its trend, as text."""

    name: str
    meaning: str
    independent: bool
    chart: Chart | None
    trend: str
    note: str


@dataclass(frozen=True)
class Similarity:
    """All measures, the pairs of tasks as a table, the trends as a table."""

    fraction: str
    measures: tuple[Measure, ...]
    tables: tuple[Table, ...]


@dataclass(frozen=True)
class Trend:
    """The trend of one measure; nan = undefined, and `note` says why."""

    name: str
    correlation: float
    low: float
    high: float
    p: float
    p_holm: float
    note: str

    @property
    def holds(self) -> bool:
        """Less alike tasks dissociate more, beyond chance after correction, interval below 0."""
        return is_significant(self.p_holm) and self.high < 0


def similarity(results: Results, *, whole: bool = False) -> Similarity | None:
    """The similarity part of a report; None where nothing was measured.

    Of many tasks, charts and tables hold some of the pairs, evenly chosen; all of them if `whole`.
    """
    found = results.get("similarity")
    if not found:
        return None
    names = [task["name"] for task in results["tasks"]]
    pairs = list(combinations(range(len(names)), 2))
    if not whole:
        pairs = pairs[:: math.ceil(len(pairs) / MOST_PAIRS)] if len(names) > MOST_TASKS else pairs
    apart = [fmt.number(found["pair_d_scores"][i][j]) for i, j in pairs]
    trends = trends_of(results)
    tables = {
        one["name"]: [fmt.number(one["values"][i][j]) for i, j in pairs]
        for one in found["measures"]
    }
    labels = [f"{names[i]}, {names[j]}" for i, j in pairs]
    return Similarity(
        fraction=fmt.percent(fmt.number(found["fraction"])),
        measures=tuple(_measure(trend, tables[trend.name], apart, labels) for trend in trends),
        tables=(
            _trend_table(trends, found),
            _pair_table(names, pairs, math.comb(len(names), 2), apart, tables),
        ),
    )


def trends_of(results: Results) -> list[Trend]:
    """The trends of all measures."""
    trends = []
    for one in results["similarity"]["measures"]:
        trend = one["trend"]
        correlation, low, high, p, p_holm = map(
            fmt.number, (trend["correlation"], *trend["interval"], trend["p"], trend["p_holm"])
        )
        note = trend["note"] or ""
        trends.append(Trend(one["name"], correlation, low, high, p, p_holm, note))
    return trends


def verdict(results: Results) -> tuple[Answer, str, str]:
    """Claim 2 (less alike tasks dissociate more): the answer, the headline, how sure it is."""
    trends = trends_of(results)
    defined = [trend for trend in trends if math.isfinite(trend.correlation)]
    if not defined:
        reason = next((trend.note for trend in trends if trend.note), "no measure is defined.")
        return "open", f"Inconclusive: {reason[0].lower()}{reason[1:]}", fmt.UNDEFINED
    holding = [trend.name for trend in defined if trend.holds]
    best = min(defined, key=lambda trend: _order(trend, holding))
    sure = (
        f"{NAMES.get(best.name, best.name)}: correlation "
        f"{fmt.fixed(best.correlation, 2, sign=True)} (interval {_span(best)}), "
        f"{fmt.p_equals(best.p)} by exchanging tasks, "
        f"{fmt.p_equals(best.p_holm)} corrected for {fmt.plural(len(defined), 'measure')}"
    )
    if any(name in INDEPENDENT for name in holding):
        return "yes", "Yes: the less alike two tasks are, the more they dissociate.", sure
    if holding:
        others = any(trend.name in INDEPENDENT for trend in trends)
        hint = "" if others else " Setting iap.similarity_examples adds one that is not."
        return (
            "open",
            "Inconclusive: only measures made from the lesioned heads themselves go with "
            f"the D-scores, which is partly so by construction.{hint}",
            sure,
        )
    n_tasks = len(results["tasks"])
    floor = len(defined) / math.factorial(min(n_tasks, 20))
    if not is_significant(floor):
        return (
            "open",
            f"Inconclusive: {n_tasks} tasks allow no corrected p below {fmt.p_value(floor)}.",
            sure,
        )
    smallest = fmt.fixed(-SMALLEST_CORRELATION, 1)
    reaching = [trend.name for trend in defined if not trend.low > -SMALLEST_CORRELATION]
    if reaching:
        return (
            "open",
            f"Inconclusive: no measure of similarity goes with the D-scores beyond chance, but the "
            f"interval of {fmt.listing(reaching)} reaches a correlation of {smallest}, the "
            f"smallest of interest.",
            sure,
        )
    return (
        "no",
        f"No: no measure of similarity goes with the D-scores beyond chance, and every interval "
        f"excludes a correlation of {smallest}, the smallest of interest.",
        sure,
    )


def _order(trend: Trend, holding: Sequence[str]) -> tuple[bool, float, float]:
    """Which trend a verdict speaks of first: an independent one that holds, then the smallest p."""
    decides = trend.name in INDEPENDENT and trend.name in holding
    return not decides, trend.p_holm, trend.correlation


def _span(trend: Trend) -> str:
    return fmt.interval(trend.low, trend.high, lambda end: fmt.fixed(end, 2, sign=True))


def _measure(
    trend: Trend, alike: Sequence[float], apart: Sequence[float], labels: Sequence[str]
) -> Measure:
    title = f"D-score of each pair of tasks against their similarity, by {trend.name}"
    meaning = NAMES.get(trend.name, trend.name)
    points = Points("pairs", "pairs", alike, apart, names=labels, joined=False)
    text = "no trend"
    if math.isfinite(trend.correlation):
        text = (
            f"correlation {fmt.fixed(trend.correlation, 2, sign=True)} ({_span(trend)}), "
            f"{fmt.p_equals(trend.p)}"
        )
    return Measure(
        name=trend.name,
        meaning=meaning,
        independent=trend.name in INDEPENDENT,
        chart=chart(
            [points],
            title,
            axes=("similarity", "pair D-score, %"),
            description=f"{fmt.plural(len(alike), 'pair')} of tasks; {text}.",
        ),
        trend=text,
        note=trend.note,
    )


def _trend_table(trends: Sequence[Trend], found: Results) -> Table:
    examples = [fmt.thousands(one.get("n_examples")) for one in found["measures"]]
    rows = tuple(
        (
            trend.name,
            NAMES.get(trend.name, fmt.UNDEFINED),
            fmt.fixed(trend.correlation, 2, sign=True),
            _span(trend),
            fmt.p_value(trend.p),
            fmt.p_value(trend.p_holm),
            n,
        )
        for trend, n in zip(trends, examples, strict=True)
    )
    return Table(
        "trends",
        "Spearman’s correlation of similarity with the D-score over the pairs of tasks; negative: "
        "less alike tasks dissociate more",
        ("Measure", "What it is", "Correlation", "Interval", "p", "p (Holm)", "Examples"),
        rows,
        left=2,
    )


def _which(shown: int, n_pairs: int) -> str:
    if shown == n_pairs:
        return "Every pair of tasks"
    return f"{fmt.thousands(shown)} of {fmt.thousands(n_pairs)} pairs of tasks, evenly chosen"


def _pair_table(
    names: Sequence[str],
    pairs: Sequence[tuple[int, int]],
    n_pairs: int,
    apart: Sequence[float],
    tables: dict[str, list[float]],
) -> Table:
    rows = tuple(
        (
            *(names[i], names[j], fmt.points(apart[k])),
            *(fmt.fixed(values[k], sign=True) for values in tables.values()),
        )
        for k, (i, j) in enumerate(pairs)
    )
    return Table(
        "likeness",
        f"{_which(len(pairs), n_pairs)}: its D-score in percent, and how alike the two are by each "
        f"measure",
        ("First", "Second", "Pair D-score", *tables),
        rows,
        left=2,
    )
