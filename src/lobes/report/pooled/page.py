"""The page of several runs: a function of `runs.json` and nothing else."""

import math

import numpy as np
from markupsafe import Markup

from lobes.dissociation.verdict import ALPHA
from lobes.report import formatting as fmt
from lobes.report import glossary, phrases, settings
from lobes.report.charts import Strip, strip_plot
from lobes.report.colors import tint_of
from lobes.report.glossary import formula
from lobes.report.lesion_words import ABLATE, words_of
from lobes.report.phrases import DEFINITIONS, HEADLINE
from lobes.report.pooled import findings, growth, similarity
from lobes.report.sections import (
    Beside,
    Block,
    Figure,
    InTerminal,
    Page,
    Panel,
    Panels,
    Prose,
    Section,
)
from lobes.report.tables import Cell, Column, Row, Table, Value, marked
from lobes.results import PooledResults
from lobes.results.pooled import PooledDScore, PooledEstimate, PooledPair

ALL_TASKS = "all tasks"
_SHARE = Markup(
    '<abbr title="how much of the variance of the mean the runs make; the rest is the examples’">'
    "Runs’ share</abbr>"
)
_SCORES = (
    Column("Task"),
    Column("D", "points", strong=True),
    Column("Interval", "interval"),
    Column("Single runs", "interval"),
    Column("Share of the runs", "number", "%", digits=0, head=_SHARE),
    Column("p above 0", "p", in_page=False),
)
_TERMINAL = (
    Column("Definition"),
    Column("Task"),
    Column("D", "points"),
    Column("Interval", "interval"),
    Column("Single runs", "interval"),
    Column("p above 0", "p"),
    Column("SDs above exchanges", "points"),
    Column("p (exchange)", "p"),
)
_ACROSS = (
    Column("D", "points", strong=True),
    Column("Interval", "interval"),
    Column("SDs above exchanges", "points"),
    Column("p (exchange)", "p"),
    Column("Exchangeable heads", "count"),
    Column("p (random lesions)", "p", head=Markup("p (random)")),
)
_EFFECT = (Column("Interval", "interval", ends="signed", under=True), Column("p", "p"))
_TESTS = (
    Column("p (Holm)", "p"),
    Column("p (exchange)", "p"),
    Column("p (exchange, Holm)", "p", under=True, lead=f"Holm{fmt.GAP}"),
    Column("Double dissociation"),
)
_BASE = (
    Column("Task"),
    Column("Metric"),
    Column("Kind", in_page=False),
    Column("Mean", "number", strong=True),
    Column("SD", "number"),
    Column("Single runs", "interval", ends="number"),
    Column("Chance", "number"),
    Column("Validation", "count"),
)


def page_of(results: PooledResults) -> Page:
    """Compose the page of several runs taken together."""
    sections = (
        findings.section(results),
        _runs(results),
        _dissociation(results),
        _lesions(results),
        _pairs(results),
        growth.section(results),
        similarity.section(results),
        _base(results),
        _settings(results),
    )
    kind = f"report of {fmt.plural(len(results.runs), 'run')}"
    return Page.of(results, kind, sections, _glossary(results))


def _glossary(results: PooledResults) -> tuple[glossary.Entry, ...]:
    level, words = fmt.percent(results.level), words_of(results.lesioning)
    in_spreads = phrases.in_spreads(results.tasks)
    return (
        (
            "Run",
            "One whole study: a model, trained and measured by itself. Runs differ in their seed, "
            "or in their model; the tasks are the same.",
        ),
        (
            "Interval",
            f"{level}, for the mean over runs of this kind and examples of this kind: Student’s t "
            f"with the variance of the runs and that of the validation examples, which all runs "
            f"share.",
        ),
        (
            "Runs’ share",
            "How much of the variance of the mean comes from the runs. Where it is near 100 %, "
            "more runs would help most; near 0 %, more validation examples.",
        ),
        ("Ablate", ABLATE[results.lesioning.value]),
        ("Lesion", words.definition),
        *glossary.EXCHANGES,
        (
            "p (exchange)",
            "(1 + number of exchanges with at least this D-score) / (1 + their number), all "
            "averaged over the runs.",
        ),
        glossary.OVER_FRACTIONS,
        (
            "p (random)",
            "The same against random lesions, of as many heads drawn at random: whether important "
            "heads are unlike random heads, not whether they belong to tasks. It decides nothing.",
        ),
        ("p (Holm)", "Corrected for the number of pairs."),
        *((glossary.SPREAD,) if in_spreads else ()),
        *glossary.d_scores(results.lesioning, in_spreads=in_spreads),
    )


def _runs(results: PooledResults) -> Section:
    """Each run's own D-score by the headline's definition, at every fraction."""
    sizes = (Column(fmt.percent(entry.fraction), "points") for entry in results.fractions)
    means = np.array([entry.dissociation.column.means for entry in results.fractions])
    caption = f"The {HEADLINE} D-score of each run in percent (mean over its tasks), by fraction"
    table = Table(
        "runs",
        caption,
        (
            Column("Run"),
            Column("Model"),
            Column("Seed", right=True),
            Column("Steps", "count"),
            *sizes,
        ),
        tuple(
            Row((run.name, run.model, settings.plain(run.seed), run.steps, *own))
            for run, own in zip(results.runs, means.T.tolist(), strict=True)
        ),
        terminal=caption,
    )
    text = (
        "Each run is a study of its own: a model, its own choice of important heads, its own "
        "lesions. The report of a single run says more about it."
    )
    return Section("runs", "The runs", (Prose(text), table), contents="Runs")


def _dissociation(results: PooledResults) -> Section:
    found = results.strongest.dissociation.by_definition
    panels = (_panel(results, k, name, score) for k, (name, score) in enumerate(found.items()))
    blocks: tuple[Block, ...] = (
        Prose(_reading(results)),
        Panels(tuple(panels)),
        Prose("Each panel has its own scale.", "quiet"),
        _across(results),
        InTerminal((_in_terminal(results),)),
    )
    return Section("dissociation", "D-scores over the runs", blocks, contents="D-scores")


def _reading(results: PooledResults) -> Markup:
    entry, level = results.strongest, fmt.percent(results.level)
    interval = f" with its {level} interval over runs and validation examples"
    most = ", where the D-score stands out most" if len(results.fractions) > 1 else ""
    exchanges = f": here {fmt.plural(entry.n_controls, 'exchange')} in each run, averaged over them"
    return Markup(
        "At {}{}. A D-score says, in percent of {}, how much {} a task loses by its "
        "own lesion than by the lesions of others. A gray dot is a single run, a diamond the "
        "mean{}. <strong>Column</strong> is the definition to trust. The D-score must also stand "
        "out from that of exchanged heads{}. {}"
    ).format(
        phrases.size_of(entry.fraction),
        most,
        phrases.unit_of(results.tasks),
        words_of(results.lesioning).costs,
        interval if len(results.runs) > 1 else "",
        exchanges if entry.n_controls else "",
        phrases.EXCHANGE if entry.exchangeable else phrases.NOTHING_TO_EXCHANGE,
    )


def _panel(results: PooledResults, place: int, name: str, score: PooledDScore) -> Panel:
    strips = [
        Strip(label, one.mean, one.low, one.high, runs, is_mean=k == 0)
        for k, (label, one, runs) in enumerate(_estimates(results, score))
    ]
    size = phrases.size_of(results.strongest.fraction)
    drawing = strip_plot(
        strips, f"{name} D-scores of the runs at {size}, in percent", in_words=_in_words
    )
    figure = () if drawing is None else (Figure(f"strip-{place}", drawing),)
    shown = formula(name, results.lesioning, in_spreads=phrases.in_spreads(results.tasks))
    return Panel(
        name,
        (
            Prose(shown, "formula"),
            Beside((*figure, _scores(results, place, name, score)), "pair"),
        ),
        chip="headline" if name == HEADLINE else "",
        headline=name == HEADLINE,
    )


def _estimates(
    results: PooledResults, score: PooledDScore
) -> list[tuple[str, PooledEstimate, list[float]]]:
    """The mean of all tasks, then each task: name, mean over the runs, values of single runs."""
    names = (ALL_TASKS, *results.names)
    values = np.column_stack([score.means, score.values])
    singles = ([value for value in column if math.isfinite(value)] for column in values.T.tolist())
    return list(zip(names, (score.mean, *score.tasks), singles, strict=True))


def _in_words(strip: Strip) -> str:
    text = f"{strip.label}: {fmt.points(strip.value)} %"
    if math.isfinite(strip.low):
        text += f", interval {fmt.interval(strip.low, strip.high)}"
    if strip.controls:
        text += f", single runs {fmt.interval(min(strip.controls), max(strip.controls))}"
    return f"{text}."


def _scores(results: PooledResults, place: int, name: str, score: PooledDScore) -> Table:
    rows = tuple(
        Row((label, *_cells(one, runs), 100 * one.share_of_runs, one.p), "" if k else "mean")
        for k, (label, one, runs) in enumerate(_estimates(results, score))
    )
    caption = f"{name} D-scores in percent"
    if math.isfinite(score.p_controls):
        caption += f"; against exchanged heads: {fmt.p_equals(score.p_controls)}"
    return Table(f"d-scores-{place}", caption, _SCORES, rows)


def _cells(found: PooledEstimate, runs: list[float]) -> tuple[Value | Cell, ...]:
    """D, its interval and the range of the single runs, of which there must be two."""
    return (
        found.mean,
        (found.low, found.high),
        (min(runs), max(runs)) if len(runs) > 1 else None,
    )


def _in_terminal(results: PooledResults) -> Table:
    """The headline's D-scores of every task, the other definitions' of the model."""
    entry, rows = results.strongest, []
    for name, score in entry.dissociation.by_definition.items():
        shown = _estimates(results, score)[: None if name == HEADLINE else 1]
        for k, (label, one, runs) in enumerate(shown):
            last = ("", "") if k else (score.standardized, score.p_controls)
            first, kind = ("", "") if k else (name, "mean")
            rows.append(Row((first, label, *_cells(one, runs), one.p, *last), kind))
    title = (
        f"D-scores in percent, means over {fmt.plural(len(results.runs), 'run')}, "
        f"{phrases.size_of(entry.fraction)}"
    )
    return Table("d-scores", title, _TERMINAL, tuple(rows), terminal=title)


def _across(results: PooledResults) -> Table:
    """The model's D-score by every definition at every fraction, and p over all fractions."""
    rows = []
    for definition in DEFINITIONS:
        for entry in results.fractions:
            score = entry.dissociation.by_definition[definition]
            mean = score.mean
            rows.append(
                Row(
                    (
                        *(definition, fmt.percent(entry.fraction)),
                        *(mean.mean, (mean.low, mean.high)),
                        *(score.standardized, score.p_controls, entry.exchangeable),
                        marked(score.random_p, "quiet"),
                    )
                )
            )
        if definition == HEADLINE and len(results.fractions) > 1:
            rows.append(_over_fractions(results))
    caption = (
        "The D-score over the runs (mean over tasks) in percent: against exchanged heads, which "
        "tests whether heads belong to tasks, and against random lesions, a weaker reading; "
        "exchangeable heads: of the run with fewest"
    )
    title = (
        f"D-scores in percent over {fmt.plural(len(results.runs), 'run')} (mean over tasks), "
        f"against exchanged heads and random lesions"
    )
    columns = (Column("Definition"), Column(words_of(results.lesioning).heads), *_ACROSS)
    return Table("across", caption, columns, tuple(rows), terminal=title)


def _over_fractions(results: PooledResults) -> Row:
    """The test that the verdict follows, as a row."""
    over = results.over_fractions
    most = max(entry.exchangeable for entry in results.fractions)
    distance = float(np.nanmax([-math.inf, *over.standardized]))
    p = phrases.tested(over.p)
    cells = (HEADLINE, "all fractions", None, None, distance, p, most, None)
    return Row(cells, "mean")


def _lesions(results: PooledResults) -> Section:
    """The mean lesion matrix, tinted by the change from the base, and its spread over the runs."""
    entry = results.largest
    means = np.vstack([results.mean_base, entry.mean_scores])
    changes = 100 * (means - results.divisors) / results.divisors
    caption = f"Score, mean over the runs, {phrases.size_of(entry.fraction)}"
    matrices = [_matrix(results, "scores", caption, means, changes)]
    if len(results.runs) > 1:
        deviations = np.vstack([results.base_deviations, entry.score_deviations])
        caption = "Standard deviation over the runs"
        matrices.append(_matrix(results, "spread", caption, deviations, np.zeros_like(changes)))
    words = words_of(results.lesioning)
    text = (
        f"A row {words.does} of a lesion: in each run, those that matter most to that task there. "
        f"A column is a task, measured. The frame marks a task under its own lesion; orange is a "
        f"loss against the base score, blue a gain."
    )
    blocks = (Prose(text), Beside(tuple(matrices)))
    return Section("lesions", "Lesion matrix over the runs", blocks, contents="Lesions")


def _matrix(
    results: PooledResults, name: str, caption: str, values: np.ndarray, changes: np.ndarray
) -> Table:
    """All heads, then each task's lesion."""
    words = words_of(results.lesioning)
    widest = np.nanmax([5.0, *np.abs(changes).ravel()])
    rows = []
    for place, label in enumerate((words.base, *results.names)):
        cells = (
            Cell(
                value,
                tint=tint_of(change, widest),
                marks=frozenset({"own"} if task == place - 1 else ()),
            )
            for task, (value, change) in enumerate(
                zip(values[place].tolist(), changes[place].tolist(), strict=True)
            )
        )
        rows.append(Row((label, *cells), "task" if place else "base"))
    columns = (words.rows, *(Column(task, "number") for task in results.names))
    return Table(name, caption, columns, tuple(rows), look="matrix", note=words.note)


def _pairs(results: PooledResults) -> Section | None:
    """What each task of a pair loses by its own lesion more than by the other's, over the runs."""
    entry = results.largest
    if not entry.pairs:
        return None

    def row(pair: PooledPair) -> Row:
        effects = (
            value for one in pair.effects for value in (one.mean, (one.low, one.high), one.p)
        )
        double = phrases.double_of(pair, entry, results.standings)
        cell = marked(double, "chip", "good") if double == "yes" else marked(double, "quiet")
        tests = (pair.p_holm, pair.p_controls, pair.p_controls_holm)
        return Row((pair.first, pair.second, *effects, *tests, cell))

    costs = words_of(results.lesioning).costs
    caption = (
        f"How much {costs} each task of a pair loses by its own lesion than by the other’s, in "
        "units of its metric: means over the runs; p and p (Holm) are over runs and examples, p "
        f"(exchange) is against {phrases.exchanges_between(entry.n_pair_controls)}"
    )
    text = (
        f"Two tasks are doubly dissociated when each loses {costs} by its own lesion than by the "
        "other’s, over the runs: the larger of the two p, corrected for the number of pairs "
        "(Holm), which says that other runs and examples would show the same of such lesions. The "
        "smaller difference must also stand out from the same with heads exchanged between the two "
        "tasks in each run, averaged over the runs and corrected likewise, which says that the "
        "heads belong to the tasks."
    )
    if len(results.runs) == 1:
        text += " One run gives neither interval nor p."
    columns = (
        *(Column("First"), Column("Second")),
        *(Column(f"First loses {costs}", "signed"), *_EFFECT),
        *(Column(f"Second loses {costs}", "signed"), *_EFFECT),
        *_TESTS,
    )
    table = Table("pairs", caption, columns, tuple(map(row, entry.pairs)))
    return Section("pairs", "Pairs of tasks", (Prose(text), table), contents="Pairs")


def _base(results: PooledResults) -> Section:
    rows = []
    values = zip(results.mean_base.tolist(), results.base_deviations.tolist(), strict=True)
    for task, (mean, deviation), runs in zip(results.tasks, values, results.base.T, strict=True):
        known = runs[np.isfinite(runs)]
        kind = phrases.outputs(task)
        warning = phrases.warning(results.standings[task.name])
        rows.append(
            Row(
                (
                    Cell(task.name, chip=warning, marks=frozenset({"warn"} if warning else ())),
                    Cell(task.metric_name, note=f" · {kind}", marks=frozenset({"metric"})),
                    kind,
                    mean,
                    deviation,
                    (float(known.min()), float(known.max())) if known.size else None,
                    task.chance,
                    task.n_validation,
                )
            )
        )
    caption = "Score of every task with nothing ablated, over the runs, and the score of chance"
    text = "The models with all their heads, on each task’s validation examples."
    table = Table("base", caption, _BASE, tuple(rows))
    return Section("base", "Base scores", (Prose(text), table), contents="Base scores")


def _settings(results: PooledResults) -> Section:
    return settings.section(
        {
            "Statistics": {
                "level": results.level,
                "resamples": results.resamples,
                "significance level": ALPHA,
            },
            "The runs": {run.name: f"{run.created}, lobes {run.lobes}" for run in results.runs},
        }
    )
