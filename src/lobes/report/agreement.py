"""How far the cheap importance scores can be trusted: against ablating each head by itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from lobes.report import words
from lobes.report.charts import Chart, Points, chart
from lobes.report.findings import Results
from lobes.report.tabular import Table

TRUSTED = 0.7  # below this rank correlation the report warns


@dataclass(frozen=True)
class Agreement:
    """A scatter of the heads for each task, and the numbers; `weak` names the tasks to doubt."""

    charts: tuple[Chart | None, ...]
    table: Table
    weak: tuple[str, ...]


def agreement(results: Results) -> Agreement | None:
    """The agreement part of a report; None where no head was ablated by itself."""
    found = results.get("agreement")
    if not found:
        return None
    cheap = {entry["task"]: entry["values"] for entry in results["importance"]}
    fractions = sorted({one["fraction"] for entry in found for one in entry["overlap"]})
    rows = []
    for entry in found:
        overlap = {one["fraction"]: words.number(one["value"]) for one in entry["overlap"]}
        shares = [words.fixed(overlap[p], 2) if p in overlap else "–" for p in fractions]
        rho = words.fixed(words.number(entry["spearman"]))
        rows.append((entry["task"], words.thousands(entry["n_examples"]), rho, *shares))
    header: tuple[str, ...] = ("Task", "Examples", "Rank correlation")
    header += tuple(f"Top {words.percent(p)}" for p in fractions)
    return Agreement(
        charts=tuple(_chart(entry, cheap.get(entry["task"], ())) for entry in found),
        table=Table(
            "agreement",
            "The importance estimate against the exact rise of the loss when one head is ablated; "
            "overlap (Jaccard) of the most important heads",
            header,
            tuple(rows),
        ),
        weak=tuple(
            entry["task"] for entry in found if not words.number(entry["spearman"]) >= TRUSTED
        ),
    )


def _chart(entry: Results, cheap: Sequence[Sequence[object]]) -> Chart | None:
    estimate = [words.number(value) for value in chain.from_iterable(cheap)]
    exact = [words.number(value) for value in chain.from_iterable(entry["values"])]
    if len(estimate) != len(exact):
        return None
    rho = words.fixed(words.number(entry["spearman"]), 2)
    return chart(
        [Points("heads", "heads", estimate, exact, joined=False, cloud=True)],
        f"{entry['task']}: exact rise of the loss against the estimate, for each head",
        axes=("estimated importance", "rise of the loss"),
        description=f"{words.plural(len(exact), 'head')}; rank correlation {rho}.",
    )
