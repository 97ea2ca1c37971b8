"""How important every head is to every task, and which heads were lesioned for it."""

import math
from functools import reduce
from itertools import combinations

from markupsafe import Markup

from lobes.dissociation.similarity import corrected_for_noise, importance_correlation
from lobes.heads import HeadSet
from lobes.report import formatting as fmt
from lobes.report import phrases
from lobes.report.grids import all_maps
from lobes.report.lesion_words import words_of
from lobes.report.maps import HeatMaps, heat_map, site_labels
from lobes.report.run import agreement
from lobes.report.sections import Block, Details, Figure, InFiles, Prose, Section
from lobes.report.tables import MOST_PAIRS, MOST_TASKS, Cell, Column, Row, Table
from lobes.results import RunResults
from lobes.results.fractions import Fraction
from lobes.results.run import RELIABLE, Importance
from lobes.scores import HeadScores

MOST_TOP_HEADS = 12

_METHODS = {
    "taylor": "first-order (Taylor) estimate",
    "integrated_gradients": "integrated gradients",
    "gates": "how far learned gates keep the head, mean over seeds",
    "ablation": "rise of the loss when the head alone is ablated",
}
_MEANS = {
    "token": "mean over tokens",
    "sequence": "mean over examples",
    "signed": "mean over examples with its sign",
}


def section(results: RunResults, *, whole: bool = False) -> Section | None:
    """The maps of all tasks and their most important heads; None where no map was measured.

    Of many tasks the table of pairs holds some, evenly chosen; all of them if `whole`.
    """
    found = results.importance
    if not found:
        return None
    top = _top({each.task: HeadScores(each.values) for each in found})
    bias = agreement.bias(results)
    return Section(
        "importance",
        "Importance of the heads",
        (
            Prose(_reading(results, _method(found[0]))),
            *([Prose(bias, "note")] if bias else ()),
            maps_of(results),
            InFiles((together(results),)),
            *_reliability(results),
            Details(f"The {len(top.rows)} most important heads of every task", (top,)),
            *_likeness(results, whole),
        ),
        contents="Importance",
        asks="Which heads does each task depend on, and how sure is that?",
    )


def maps_of(results: RunResults) -> HeatMaps:
    """The map of every task whose importance was measured."""
    method = _method(results.importance[0])
    return HeatMaps(
        sites=site_labels([site.name for site in results.model.sites]),
        maps=tuple(
            heat_map(
                f"map-{place}",
                each.task,
                f"{each.task}: importance of each head, {method}",
                HeadScores(each.values),
                [entry.lesion_of(each.task) for entry in results.fractions],
            )
            for place, each in enumerate(results.importance)
        ),
        lesions=tuple(fmt.percent(entry.fraction) for entry in results.fractions),
        headline=len(results.fractions) - 1 if results.fractions else None,
        done=words_of(results.lesioning).lesioned,
    )


def together(results: RunResults, name: str = "maps") -> Figure:
    """The maps of all tasks in one figure, the heads outlined that only this task's lesion has."""
    entry, found = results.strongest or results.largest, maps_of(results)
    rings, outlined = [HeadSet() for _ in found.maps], ""
    if entry is not None:
        rings = [own_heads(entry, each.task) for each in found.maps]
        outlined = f"; outlined: only in this task’s lesion, {fmt.percent(entry.fraction)}"
    description = " ".join(
        f"{each.task}: {fmt.plural(len(heads), 'head')} outlined ({heads or 'none'})."
        for each, heads in zip(found.maps, rings, strict=True)
    )
    title = f"Importance of the heads to each task{outlined}"
    return Figure(name, all_maps(found, rings, title, description))


def own_heads(entry: Fraction, task: str) -> HeadSet:
    """The heads that a task's lesion has and no other task's."""
    others = (heads for name, heads in entry.lesions.items() if name != task)
    return reduce(HeadSet.__sub__, others, entry.lesion_of(task))


def _reading(results: RunResults, method: str) -> Markup:
    done = words_of(results.lesioning).lesioned
    ring = f"; a ring marks the heads that are {done} for the task" if results.fractions else ""
    word = fmt.site_word([site.name for site in results.model.sites])
    is_signed = any((each.values < 0).any() for each in results.importance)
    signed = " of either sign (below 0: without the head the loss should fall)" * is_signed
    return Markup(
        "How much each task’s loss depends on each of the {} heads: {}. A row is a {} (an "
        "attention block, in the order of execution), a column a head. The number is the head’s "
        "importance in percent of the largest in the map{}{}. "
        '<span class="js-only" hidden>Point at a head, or move with the arrow keys, to see it in '
        "every task.</span>"
    ).format(results.model.n_heads, method, word, signed, ring)


def _method(found: Importance) -> str:
    """How the importance was estimated, `first-order (Taylor) estimate, mean over tokens`."""
    parts = [_METHODS.get(found.method, found.method)]
    if found.aggregate and found.method not in ("ablation", "gates"):
        parts.append(_MEANS.get(found.aggregate, found.aggregate))
    if found.normalize == "layer":
        parts.append("each site divided by its norm")
    if found.n_examples:
        parts.append(f"{fmt.thousands(found.n_examples)} examples for each task")
    return ", ".join(parts)


def _reliability(results: RunResults) -> tuple[Block, ...]:
    """How far each map would be the same from other examples; nothing where that is unknown."""
    found = results.importance
    if all(math.isnan(each.reliability) for each in found):
        return ()
    in_batches = phrases.in_spreads(results.tasks)
    setting = "more batches in train" if in_batches else "iap.importance_examples"
    needed = [_needed(each, setting) for each in found]
    rows = tuple(
        Row(
            (
                each.task,
                Cell(each.reliability, marks=frozenset(["warn"] * (each in results.noisy))),
                *(each.n_examples, each.n_available),
                *([more] if any(needed) else ()),
            )
        )
        for each, more in zip(found, needed, strict=True)
    )
    title = "Reliability of the importance"
    return (
        Table(
            "reliability",
            f"{title}: the rank correlation of two random halves of the examples, stepped up to "
            f"all of them; from {RELIABLE} on the map is taken to be about the heads, not the "
            f"examples",
            (
                Column("Task"),
                Column("Reliability", "number", digits=2),
                Column("Examples", "count"),
                Column("Available", "count"),
                *([Column(f"For {RELIABLE}")] if any(needed) else ()),
            ),
            rows,
            terminal=title,
        ),
    )


def _needed(found: Importance, setting: str) -> str:
    """What would make a map reliable, with the setting for it; empty where it is."""
    if not found.reliability < RELIABLE:
        return ""
    needed = found.examples_needed
    if needed is None:
        return "the halves do not agree at all: no number of examples can be told"
    text = f"about {fmt.thousands(needed)} examples"
    if found.n_available is None or needed <= found.n_available:
        return f"{text} ({setting})"
    return f"{text}; there are no more than {fmt.thousands(found.n_available)}"


def _likeness(results: RunResults, whole: bool) -> tuple[Block, ...]:
    """How alike the maps of every two tasks are, as measured and without their noise."""
    found = results.importance
    if len(found) < 2:
        return ()
    measured = importance_correlation([HeadScores(each.values) for each in found])
    corrected = corrected_for_noise(measured, [each.reliability for each in found])
    is_corrected = corrected is not measured
    pairs = list(combinations(range(len(found)), 2))
    if len(found) > MOST_TASKS and not whole:
        pairs = pairs[:: math.ceil(len(pairs) / MOST_PAIRS)]
    table = Table(
        "importance-pairs",
        "Rank correlation of two tasks’ importance, as measured"
        + (
            " and divided by the square root of the product of their reliabilities (within ±1; "
            "undefined where one is not above 0)"
        )
        * is_corrected,
        (
            Column("First"),
            Column("Second"),
            Column("Correlation", "signed", digits=2),
            *([Column("Corrected for noise", "signed", digits=2)] * is_corrected),
        ),
        tuple(
            Row(
                (
                    *(found[i].task, found[j].task, float(measured[i, j])),
                    *([float(corrected[i, j])] * is_corrected),
                )
            )
            for i, j in pairs
        ),
    )
    which = "some of the" if len(pairs) < math.comb(len(found), 2) else "the"
    return (Details(f"How alike {which} maps of two tasks are", (table,)),)


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
