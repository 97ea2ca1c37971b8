"""How far the cheap importance scores can be trusted: against ablating each head by itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from lobes.dissociation.dscores import mean_where, shared_tasks
from lobes.report import formatting as fmt
from lobes.report.charts import Chart, Points, chart
from lobes.report.findings import Results, doubtful, some
from lobes.report.tabular import Table

ONE_TOKEN = {"first": "first", "pooler": "first", "last": "last"}  # which token a pooling reads


@dataclass(frozen=True)
class Agreement:
    """A scatter of the heads for each task, and the numbers; `weak` names the tasks to doubt.

    `best` is a sentence on the estimate that agrees best, empty where only one was compared.
    """

    charts: tuple[Chart | None, ...]
    table: Table
    weak: tuple[str, ...]
    best: str


def agreement(results: Results) -> Agreement | None:
    """The agreement part of a report; None where no head was ablated by itself."""
    found = results.get("agreement")
    if not found:
        return None
    cheap = {entry["task"]: entry["values"] for entry in results["importance"]}
    fractions = sorted({one["fraction"] for entry in found for one in entry["overlap"]})
    rows = []
    for entry in found:
        overlap = {one["fraction"]: fmt.number(one["value"]) for one in entry["overlap"]}
        shares = [fmt.fixed(overlap[p], 2) if p in overlap else "–" for p in fractions]
        rho = fmt.fixed(fmt.number(entry["spearman"]))
        rows.append((entry["task"], fmt.thousands(entry["n_examples"]), rho, *shares))
    header: tuple[str, ...] = ("Task", "Examples", "Rank correlation")
    header += tuple(f"Top {fmt.percent(p)}" for p in fractions)
    return Agreement(
        charts=tuple(_chart(entry, cheap.get(entry["task"], ())) for entry in found),
        table=Table(
            "agreement",
            "The importance estimate against the exact rise of the loss when one head is ablated; "
            "overlap (Jaccard) of the most important heads",
            header,
            tuple(rows),
        ),
        weak=doubtful(results),
        best=_best(results),
    )


def bias(results: Results) -> str:
    """What is wrong with this importance where the classifiers read one token only, or nothing."""
    token = _token_read(results)
    used = {(entry["method"], entry.get("aggregate")) for entry in results["importance"]}
    if not token or ("taylor", "token") not in used:
        return ""
    text = (
        f"The classifiers read the {token} token only. At the last site a head counts at that "
        f'position alone, and the mean over all tokens (aggregate = "token") makes the heads '
        f"there look far less important than they are."
    )
    return f"{text} {_best(results) or _UNMEASURED}"


_UNMEASURED = (
    "Which estimate agrees best with exact ablation was not measured here: "
    "`iap.agreement_examples = 200` does."
)


def _token_read(results: Results) -> str:
    """`first` or `last` where the classifiers read this token only, or nothing."""
    pooling = str(results["model"].get("pooling"))
    tasks = (results.get("config") or {}).get("tasks") or ()
    if pooling == "pooler" and any(isinstance(t, dict) and t.get("image") for t in tasks):
        return ""  # an image encoder's pooler may be a mean over all patches
    if any(isinstance(task, dict) and task.get("prompt") for task in tasks):
        return "last"
    return ONE_TOKEN.get(pooling, "")


def _best(results: Results) -> str:
    """Which first-order estimate agrees best with exact ablation, over the tasks that have all."""
    found = [entry for entry in results.get("agreement") or () if entry.get("estimates")]
    if not found:
        return ""
    settings = [(one["aggregate"], one["normalize"]) for one in found[0]["estimates"]]
    values = np.array(
        [[fmt.number(one["spearman"]) for one in entry["estimates"]] for entry in found]
    ).T  # [estimates, tasks]
    means = mean_where(shared_tasks(values), values)
    if not np.isfinite(means).all():
        return ""
    order = np.argsort(-means, kind="stable")
    shown = [f"{_named(*settings[k])} {fmt.fixed(float(means[k]), 2)}" for k in order]
    left = [
        entry["task"] for entry, kept in zip(found, shared_tasks(values), strict=True) if not kept
    ]
    over = f", without {some(left)}" if left else ""
    return (
        f"Agreeing best with exact ablation: {shown[0]} (rank correlation, mean over the "
        f"tasks{over}); then {fmt.listing(shown[1:])}."
    )


def _named(aggregate: str, normalize: str) -> str:
    return f'aggregate = "{aggregate}"' + (
        f' with normalize = "{normalize}"' if normalize != "none" else ""
    )


def _chart(entry: Results, cheap: Sequence[Sequence[object]]) -> Chart | None:
    estimate = [fmt.number(value) for value in chain.from_iterable(cheap)]
    exact = [fmt.number(value) for value in chain.from_iterable(entry["values"])]
    if len(estimate) != len(exact):
        return None
    rho = fmt.fixed(fmt.number(entry["spearman"]), 2)
    return chart(
        [Points("heads", "heads", estimate, exact, joined=False, cloud=True)],
        f"{entry['task']}: exact rise of the loss against the estimate, for each head",
        axes=("estimated importance", "rise of the loss"),
        description=f"{fmt.plural(len(exact), 'head')}; rank correlation {rho}.",
    )
