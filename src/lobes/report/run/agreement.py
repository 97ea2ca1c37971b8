"""How far the cheap importance scores can be trusted: against ablating each head by itself."""

from collections.abc import Mapping

import numpy as np

from lobes.report import formatting as fmt
from lobes.report.charts import Points, chart
from lobes.report.phrases import some
from lobes.report.sections import Figure, Panel, Panels, Prose, Section
from lobes.report.tables import Column, Row, Table
from lobes.results import RunResults
from lobes.results.beside_lesions import Agreement, Estimate

ONE_TOKEN = {"first": "first", "pooler": "first", "last": "last"}  # which token a pooling reads


def section(results: RunResults) -> Section | None:
    """The section; None where no head was ablated by itself."""
    if not results.agreement:
        return None
    text = (
        "Each head was ablated by itself, and the exact rise of the task’s loss compared with the "
        "estimate that chose the lesions. Each dot is a head. High rank correlation and much the "
        "same top heads: the estimate finds the heads that matter one at a time. It says nothing "
        "on heads that replace each other."
    )
    best, weak = _best(results), [each.task for each in results.doubtful]
    remarks = [Prose(best)] if best else []
    if weak:
        doubt = "The estimate is doubtful (rank correlation below 0.7) for"
        remarks.append(Prose(f"{doubt} {', '.join(weak)}.", "note"))
    estimated = {each.task: each.values for each in results.importance}
    panels = [
        _panel(place, each, estimated[each.task])
        for place, each in enumerate(results.agreement)
        if each.task in estimated
    ]
    return Section(
        "agreement",
        "How far the importance scores can be trusted",
        (
            *(Prose(text), *remarks),
            Panels(tuple(panel for panel in panels if panel is not None), "charts"),
            _table(results.agreement),
        ),
        contents="Agreement",
        asks="Does the importance agree with an exact measurement?",
    )


def bias(results: RunResults) -> str:
    """What is wrong with this importance where the classifiers read one token only, or nothing."""
    token = _token_read(results)
    used = {(each.method, each.aggregate) for each in results.importance}
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


def _token_read(results: RunResults) -> str:
    """`first` or `last` where the classifiers read this token only, or nothing."""
    found = results.config.get("tasks")
    tasks = [task for task in found if isinstance(task, Mapping)] if isinstance(found, list) else []
    if results.model.pooling == "pooler" and any(task.get("image") for task in tasks):
        return ""  # an image encoder's pooler may be a mean over all patches
    if any(task.get("prompt") for task in tasks):
        return "last"
    return ONE_TOKEN.get(results.model.pooling or "", "")


def _best(results: RunResults) -> str:
    """Which first-order estimate agrees best with exact ablation, over the tasks that have all."""
    estimates, left_out = results.estimates
    if not estimates:
        return ""
    shown = [f"{_named(each)} {fmt.fixed(each.spearman, 2)}" for each in estimates]
    over = f", without {some(left_out)}" if left_out else ""
    return (
        f"Agreeing best with exact ablation: {shown[0]} (rank correlation, mean over the "
        f"tasks{over}); then {fmt.listing(shown[1:])}."
    )


def _named(estimate: Estimate) -> str:
    with_norm = f' with normalize = "{estimate.normalize}"' * (estimate.normalize != "none")
    return f'aggregate = "{estimate.aggregate}"{with_norm}'


def _panel(place: int, found: Agreement, estimate: np.ndarray) -> Panel | None:
    exact = [float(value) for value in found.values.flat]
    rho = fmt.fixed(found.spearman, 2)
    drawn = chart(
        [
            Points(
                "heads",
                "heads",
                [float(value) for value in estimate.flat],
                exact,
                joined=False,
                cloud=True,
            )
        ],
        f"{found.task}: exact rise of the loss against the estimate, for each head",
        axes=("estimated importance", "rise of the loss"),
        description=f"{fmt.plural(int(np.isfinite(exact).sum()), 'head')}; rank correlation {rho}.",
    )
    if drawn is None:
        return None
    blocks = (Prose("rise of the loss", "axis"), Figure(f"agreement-{place}", drawn))
    return Panel(found.task, blocks)


def _table(found: tuple[Agreement, ...]) -> Table:
    fractions = sorted({one.fraction for each in found for one in each.overlap})
    rows = []
    for each in found:
        overlap = {one.fraction: one.value for one in each.overlap}
        shares = [overlap.get(fraction) for fraction in fractions]
        rows.append(Row((each.task, each.n_examples, each.spearman, *shares, each.reliability)))
    return Table(
        "agreement",
        "The importance estimate against the exact rise of the loss when one head is ablated; "
        "overlap (Jaccard) of the most important heads. No estimate can agree better than the "
        "square root of the exact rise’s own reliability",
        (
            Column("Task"),
            Column("Examples", "count"),
            Column("Rank correlation", "number"),
            *(Column(f"Top {fmt.percent(p)}", "number", digits=2) for p in fractions),
            Column("Reliability of the exact", "number", digits=2),
        ),
        tuple(rows),
    )
