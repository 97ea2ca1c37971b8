"""How important every head is to every task, and which heads were lesioned for it."""

from markupsafe import Markup

from lobes.heads import HeadScores
from lobes.report import formatting as fmt
from lobes.report.maps import HeatMaps, heat_map, site_labels
from lobes.report.run import agreement
from lobes.report.sections import Details, Prose, Section
from lobes.report.tables import Column, Row, Table
from lobes.results import RunResults
from lobes.results.run import Importance

MOST_TOP_HEADS = 12

_METHODS = {
    "taylor": "first-order (Taylor) estimate",
    "ablation": "rise of the loss when the head alone is ablated",
}
_MEANS = {"token": "mean over tokens", "sequence": "mean over examples"}


def section(results: RunResults) -> Section | None:
    """The maps of all tasks and their most important heads; None where no map was measured."""
    found = results.importance
    if not found:
        return None
    scores = {each.task: HeadScores(each.values) for each in found}
    method = _method(found[0])
    maps = HeatMaps(
        sites=site_labels([site.name for site in results.model.sites]),
        maps=tuple(
            heat_map(
                f"map-{place}",
                task,
                f"{task}: importance of each head, {method}",
                score,
                [entry.lesion_of(task) for entry in results.fractions],
            )
            for place, (task, score) in enumerate(scores.items())
        ),
        lesions=tuple(fmt.percent(entry.fraction) for entry in results.fractions),
        headline=len(results.fractions) - 1 if results.fractions else None,
    )
    top = _top(scores)
    bias = agreement.bias(results)
    return Section(
        "importance",
        "Importance of the heads",
        (
            Prose(_reading(results, method)),
            *([Prose(bias, "note")] if bias else ()),
            maps,
            Details(f"The {len(top.rows)} most important heads of every task", (top,)),
        ),
        contents="Importance",
    )


def _reading(results: RunResults, method: str) -> Markup:
    ring = "; a ring marks the heads that are lesioned for the task" if results.fractions else ""
    return Markup(
        "How much each task’s loss depends on each of the {} heads: {}. A row is a site (an "
        "attention block, in the order of execution), a column a head. The number is the head’s "
        'importance in percent of the largest in the map{}. <span class="js-only" hidden>Point at '
        "a head, or move with the arrow keys, to see it in every task.</span>"
    ).format(results.model.n_heads, method, ring)


def _method(found: Importance) -> str:
    """How the importance was estimated, `first-order (Taylor) estimate, mean over tokens`."""
    parts = [_METHODS.get(found.method, found.method)]
    if found.aggregate and found.method != "ablation":
        parts.append(_MEANS.get(found.aggregate, found.aggregate))
    if found.normalize == "layer":
        parts.append("each site divided by its norm")
    if found.n_examples:
        parts.append(f"{fmt.thousands(found.n_examples)} examples for each task")
    return ", ".join(parts)


def _top(scores: dict[str, HeadScores]) -> Table:
    ranked = [score.ranked()[:MOST_TOP_HEADS] for score in scores.values()]
    rows = tuple(
        Row((rank, *(f"{site}:{head}" for site, head in heads)))
        for rank, heads in enumerate(zip(*ranked, strict=True), start=1)
    )
    return Table(
        "top",
        "Heads as site:head, the most important first",
        (Column("Rank", "count"), *(Column(task, right=True) for task in scores)),
        rows,
        look="plain",
    )
