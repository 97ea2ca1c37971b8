"""Claim 3 on the page of a comparison: does IAT make the attention heads more specialized?

See docs/method.md#claims.
"""

import math

from markupsafe import Markup

from lobes.dissociation.verdicts_over_seeds import AFTER, SPECIALIZED_BY_IAT
from lobes.report import formatting as fmt
from lobes.report import lesion_words
from lobes.report.lesion_words import words_of
from lobes.report.phrases import (
    DEFINITIONS,
    HEADLINE,
    above,
    over_others,
    size_of,
    some,
)
from lobes.report.sections import Block, Panels, Prose, Section
from lobes.report.seeds import parts
from lobes.report.seeds.parts import D_DIFFERENCE, in_words, seeds_of
from lobes.report.tables import Cell, Column, Row, Table, marked
from lobes.results.over_seeds import (
    ComparisonResults,
    DScoreSummary,
    ExchangedDScores,
    ExchangedSummary,
)


def findings(results: ComparisonResults) -> Section | None:
    """The claim's own answer; None without D-scores."""
    entry = results.summary.headline(HEADLINE)
    if entry is None:
        return None
    question = f"Does IAT make the attention heads of {results.model.name} more specialized?"
    found = parts.findings(
        results.verdict_on(SPECIALIZED_BY_IAT),
        question,
        _sentences(results, entry),
        _caveats(results, entry),
    )
    return Section("specialization", question, (), "Specialization", found)


def _sentences(results: ComparisonResults, entry: DScoreSummary) -> list[str]:
    without, with_iat = (fmt.points(each.mean.mean) for each in (entry.multi, entry.iat))
    sentences = [
        f"At {size_of(entry.fraction)} the model’s {HEADLINE} D-score, over {seeds_of(results)}, "
        f"is {without}{fmt.GAP}% {AFTER['multi']} and {with_iat}{fmt.GAP}% {AFTER['iat']}: a "
        f"difference of {in_words(results, entry.difference.mean.tested, D_DIFFERENCE)}.",
        *parts.task_by_task(results, entry.difference.tasks, "the D-score"),
    ]
    found = results.summary.exchanged
    if found is not None and math.isfinite(found.difference.mean):
        before = above(found.multi.mean, "that of exchanged heads", "standard deviations")
        after, p = above(found.iat.mean, "it", ""), found.difference.p
        tail = f" (of the difference {fmt.p_equals(p)})" if math.isfinite(p) else ""
        sentences.insert(
            1,
            f"The D-score lies {before} {AFTER['multi']}, and {after} {AFTER['iat']}{tail}.",
        )
    d_scores = sorted(results.summary.d_scores, key=lambda each: each.fraction)
    others = [
        f"{each.definition} {_briefly(results, each, entry)}"
        for each in d_scores
        if each.fraction == entry.fraction and each.definition != HEADLINE
    ]
    if others:
        sentences.append(f"By the other definitions the difference is: {fmt.listing(others)}.")
    rest = [
        f"{_briefly(results, each, entry)} at {size_of(each.fraction)}"
        for each in d_scores
        if each.definition == HEADLINE and each.fraction != entry.fraction
    ]
    if rest:
        sentences.append(f"At the other fractions the {HEADLINE} difference is {'; '.join(rest)}.")
    return sentences


def _briefly(results: ComparisonResults, entry: DScoreSummary, headline: DScoreSummary) -> str:
    found = entry.difference.mean
    tail = f" ({fmt.p_equals(found.p)})" if math.isfinite(found.p) else ""
    values, expected = ([task.mean for task in each.difference.tasks] for each in (entry, headline))
    return f"{fmt.points(found.mean)}{tail}{over_others(results.names, values, expected)}"


def _caveats(results: ComparisonResults, entry: DScoreSummary) -> list[str]:
    caveats = parts.before_iat_caveats(results, "iat", "multi")
    undefined = [
        name
        for name, task in zip(results.names, entry.difference.tasks, strict=True)
        if not math.isfinite(task.mean)
    ]
    if undefined:
        caveats.append(
            f"The mean leaves out {some(undefined)}, without a D-score in some seed: the base "
            f"score lies too near 0, or its interval includes 0."
        )
    assert results.lesioning is not None
    return caveats + lesion_words.caveats(results.lesioning)


def d_scores(results: ComparisonResults) -> Section | None:
    """The D-scores of both ways to train, and their differences; None without D-scores."""
    entry = results.summary.headline(HEADLINE)
    if entry is None or results.lesioning is None:
        return None
    words = words_of(results.lesioning)
    text = Markup(
        "A lesion {} most important to a task; a D-score says, in percent of the base "
        "score, how much {} a task loses by its own lesion than by the lesions of others. "
        "<strong>Column</strong> is the definition to trust. Whether heads "
        "are specialized is for the report of a single run to say; here the two ways to train are "
        "compared with each other."
    ).format(words.does, words.costs)
    own = next(
        each
        for each in results.d_scores
        if (each.fraction, each.definition) == (entry.fraction, HEADLINE)
    )
    singles, means = own.iat - own.multi, entry.iat.seeds - entry.multi.seeds
    panel, _ = parts.difference(
        results,
        "d-difference",
        ("iat", "multi"),
        parts.lines_of_tasks(results, entry.difference, singles, means),
        first="Task",
        axis=f"difference in {HEADLINE} D-score, %",
        column=D_DIFFERENCE,
        is_headline=True,
    )
    blocks: tuple[Block, ...] = (
        Prose(text),
        _d_score_table(results, entry, words.heads),
        Panels((panel,)),
    )
    if results.exchanged is not None and results.summary.exchanged is not None:
        blocks += _exchanged(results.exchanged, results.summary.exchanged)
    return Section("d-scores", "D-scores with and without IAT", blocks)


def _exchanged(measured: ExchangedDScores, found: ExchangedSummary) -> tuple[Block, ...]:
    """How far the D-scores lie above those of the same heads dealt out to the tasks again."""
    text = (
        f"The heads of the tasks’ lesions were also dealt out to the tasks again, "
        f"{fmt.plural(measured.n_controls, 'time')} with each seed, at "
        f"{size_of(measured.fraction)}: a D-score says more where it lies far above those of such "
        f"exchanges. The distance does not grow only because the lesions of one way to train are "
        f"more severe."
    )
    difference = found.difference
    rows = (
        Row(("multi-task", found.multi.mean, (found.multi.low, found.multi.high), math.nan)),
        Row(("IAT", found.iat.mean, (found.iat.low, found.iat.high), math.nan)),
        Row(
            (
                "IAT − multi-task",
                difference.mean,
                (difference.low, difference.high),
                difference.p,
            ),
            "mean",
        ),
    )
    table = Table(
        "d-scores-exchanged",
        "How far the mean column D-score lies above that of exchanged heads, in their standard "
        "deviations, mean over seeds with intervals",
        (
            Column("After"),
            Column("Distance", "signed", digits=2),
            Column("Interval", "interval", ends="signed", digits=2),
            Column("p", "p"),
        ),
        rows,
        look="plain",
        terminal="Distance of the D-scores from those of exchanged heads, in standard deviations",
    )
    return Prose(text), table


def _d_score_table(results: ComparisonResults, headline: DScoreSummary, heads: str) -> Table:
    """The model's D-scores: the largest fraction first, the headline definition first."""
    found = sorted(
        results.summary.d_scores,
        key=lambda each: (-each.fraction, DEFINITIONS.index(each.definition)),
    )
    interval = Column("Interval", "interval", under=True)
    return Table(
        "d-scores",
        "The model’s D-score in percent, means over tasks and seeds with intervals",
        (
            Column("Definition"),
            Column(heads, "percent"),
            *(Column("multi-task", "points"), interval, Column("IAT", "points"), interval),
            *(D_DIFFERENCE, Column("Interval", "interval"), Column("p", "p")),
        ),
        tuple(_d_score_row(entry, entry is headline) for entry in found),
        look="plain",
        terminal="D-scores in percent, means over tasks and seeds",
    )


def _d_score_row(entry: DScoreSummary, is_headline: bool) -> Row:
    difference = entry.difference.mean
    tested = difference.tested
    counts = tested.is_better or tested.is_worse
    estimates = [each.mean for each in (entry.multi, entry.iat)]
    return Row(
        (
            Cell(entry.definition, chip="headline" if is_headline else ""),
            entry.fraction,
            *(cell for each in estimates for cell in (each.mean, (each.low, each.high))),
            difference.mean,
            (difference.low, difference.high),
            marked(difference.p, "beyond") if counts else difference.p,
        ),
        "mean" if is_headline else "",
    )
