"""How the D-scores of several runs changed over their trainings (docs/method.md#growth)."""

import math

import numpy as np

from lobes.dissociation.verdict import MORE_SPECIALIZED
from lobes.report import phrases
from lobes.report.lesion_words import words_of
from lobes.report.phrases import HEADLINE
from lobes.report.sections import Findings, InTerminal, Prose, Section
from lobes.report.tables import Column, Row, Table
from lobes.results import PooledResults

_QUESTION = "Are the heads more specialized after multi-task training than before?"
_COLUMNS = (
    Column("Run"),
    Column("Before", "points"),
    Column("After", "points"),
    Column("Change", "points", strong=True),
    Column("Interval", "interval"),
)


def section(results: PooledResults) -> Section | None:
    """The answer, and each run before and after; None where growth was not measured alike."""
    found = results.growth
    if found is None:
        return None
    verdict = results.verdict_on(MORE_SPECIALIZED)
    answer, left_out = phrases.headline(verdict), _left_out(results)
    where = f"{phrases.size_of(found.fraction)} {words_of(results.lesioning).lesioned}"
    caption = (
        f"The {HEADLINE} D-score of each run before and after multi-task training, in percent, "
        f"with {where}"
    )
    values = (found.before, found.after, found.changes, found.intervals)
    rows = [
        Row((run.name, before, after, change, tuple(interval)))
        for run, before, after, change, interval in zip(
            results.runs, *(each.tolist() for each in values), strict=True
        )
    ]
    mean = found.change
    if len(rows) > 1:
        ends = (float(found.before.mean()), float(found.after.mean()))
        rows.append(Row(("mean", *ends, mean.mean, (mean.low, mean.high)), "mean"))
    table = Table("growth", caption, _COLUMNS, tuple(rows), terminal=caption)
    return Section(
        "growth",
        "Before and after the training",
        (
            InTerminal((Findings(MORE_SPECIALIZED, verdict.answer, answer, left_out),)),
            Prose(" ".join((_QUESTION, answer, _reading(mean.low), *left_out))),
            table,
        ),
        contents="Growth",
    )


def _reading(low: float) -> str:
    text = (
        "Before the training linear probes stand in for the classifiers. A run’s interval is that "
        "of the validation examples alone"
    )
    if math.isfinite(low):
        text += (
            "; that of the mean is over runs and examples, and rather too wide, since it takes the "
            "examples to move all runs alike"
        )
    return f"{text}. The report of a single run shows each task."


def _left_out(results: PooledResults) -> tuple[str, ...]:
    """Which tasks the means leave out, and in which runs: a sentence, or none."""
    values = results.growth.values if results.growth is not None else None
    if values is None or not np.isnan(values).any():
        return ()
    parts = []
    for task, column in zip(results.names, np.isnan(values).T.tolist(), strict=True):
        runs = [run.name for run, is_out in zip(results.runs, column, strict=True) if is_out]
        if runs:
            parts.append(task if all(column) else f"{task} (in {phrases.some(runs)})")
    return (
        "The means leave out tasks without a D-score at one of the two ends, and so may differ "
        f"from the D-scores of the runs above: {'; '.join(parts)}.",
    )
