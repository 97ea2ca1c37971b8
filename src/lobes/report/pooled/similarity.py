"""How alike the tasks are, against how far each pair dissociates, over several runs (claim 2)."""

import numpy as np

from lobes.dissociation.verdict import LESS_ALIKE
from lobes.report import phrases
from lobes.report.sections import Findings, InTerminal, Prose, Section
from lobes.report.tables import Column, Row, Table
from lobes.results import PooledResults

_COLUMNS = (
    Column("Measure"),
    Column("What it is"),
    Column("Correlation", "signed", digits=2, strong=True),
    Column("Interval", "interval", ends="signed", digits=2),
    Column("Single runs", "interval", ends="signed", digits=2),
    Column("p", "p"),
    Column("p (Holm)", "p"),
)
_QUESTION = "Do two tasks dissociate more, the less alike they are?"


def section(results: PooledResults) -> Section | None:
    """The answer, and each measure over the runs; None where not all runs measured it alike."""
    found = results.similarity
    if found is None:
        return None
    verdict = results.verdict_on(LESS_ALIKE)
    answer = phrases.headline(verdict)
    rows = []
    for one in found.measures:
        trend, known = one.trend, one.correlations[np.isfinite(one.correlations)]
        single = (float(known.min()), float(known.max())) if len(known) > 1 else None
        what = phrases.measure_in_words(one.name, corrected=one.corrected)
        numbers = (trend.correlation, trend.interval, single, trend.p, trend.p_holm)
        rows.append(Row((one.name, what, *numbers)))
    caption = (
        f"Spearman’s correlation of similarity with the D-score over the pairs of tasks at "
        f"{phrases.size_of(found.fraction)}, mean over the runs; negative: less alike tasks "
        f"dissociate more"
    )
    text = (
        f"{_QUESTION} {answer} In each run the correlation is that of its own similarities with "
        "its own D-scores. For p, which is one-sided, the tasks are exchanged in all runs alike. "
        "Measures made from the heads of the lesions themselves go with the D-scores partly by "
        "construction."
    )
    notes: dict[str, list[str]] = {}
    for one in found.measures:
        if one.trend.note:
            notes.setdefault(one.trend.note, []).append(one.name)
    text += "".join(f" {phrases.some(names)}: {note}" for note, names in notes.items())
    return Section(
        "likeness",
        "Similarity of tasks",
        (
            InTerminal((Findings(LESS_ALIKE, verdict.answer, answer),)),
            Prose(text),
            Table("trends", caption, _COLUMNS, tuple(rows), terminal=caption),
        ),
        contents="Similarity",
    )
