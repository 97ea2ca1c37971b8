"""Phrases that the pages of one run, of several runs and of comparisons share."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from lobes.dissociation.verdict import (
    ALPHA,
    Verdict,
    barred_pairs,
    controls_needed,
    is_significant,
    smallest_p,
)
from lobes.metrics import Standing
from lobes.report import formatting as fmt
from lobes.report.tables import Cell, marked
from lobes.results.base import ModelRecord, TaskRecord, Vector
from lobes.results.fractions import Fraction, Pair
from lobes.results.pooled import PooledFraction, PooledPair

HEADLINE = "column"  # the D-score that verdicts speak of (docs/method.md#d-scores)
DEFINITIONS = ("column", "row", "relative")
EXCHANGE = (
    "An exchange deals the important heads out to the tasks again: each task’s lesion keeps its "
    "size, each head stays in as many lesions as before, and which task it belongs to is random."
)
NOTHING_TO_EXCHANGE = (
    "The tasks share all of their important heads, so that none can be exchanged: nothing tells "
    "these tasks apart."
)
IN_COLOR = f"A p of at most {ALPHA} is in color."


def headline(verdict: Verdict) -> str:
    """The headline of a verdict with the signs and spaces of a page."""
    text = verdict.headline.replace("'", "’").replace(" %", f"{fmt.GAP}%").replace(" -", " −")
    return re.sub(r"(?<=\d),(?=\d{3})", "\u202f", text)


def some(items: Sequence[str], most: int = 6) -> str:
    """A listing that stops after `most` items and says how many it leaves out."""
    if len(items) <= most:
        return fmt.listing(items)
    return f"{', '.join(items[: most - 1])} and {len(items) - most + 1} more"


def size_of(fraction: float) -> str:
    """`30 % of the heads`."""
    return f"{fmt.percent(fraction)} of the heads"


def random_lesions(number: int, matched: str = "") -> str:
    """`5 random lesions matched by site`; `matched` is "site", "total" or empty."""
    if not number:
        return "no random lesions"
    how = {"site": " matched by site", "total": " matched in size"}
    return fmt.plural(number, "random lesion") + how.get(matched, "")


def random_of(entry: Fraction) -> str:
    """`5 random lesions matched by site`."""
    return random_lesions(entry.n_random, entry.matched)


def exchanges(number: int) -> str:
    """`39 exchanges`, `no exchanges`."""
    return fmt.plural(number, "exchange") if number else "no exchanges"


def dealt(number: int) -> str:
    """`the important heads were dealt out to the tasks again, 39 times`."""
    times = "once" if number == 1 else f"{fmt.thousands(number)} times"
    return f"the important heads were dealt out to the tasks again, {times}"


def exchanges_between(number: int) -> str:
    """`59 exchanges between the two tasks`."""
    many = fmt.plural(number, "exchange") if number else "exchanges"
    return f"{many} of heads between the two tasks"


def p_with_heads(p: float, exchangeable: int, bound: str = "") -> str:
    """`p = 0.03, 12 heads that can be exchanged`; `bound` is "up to ", "at least " or empty."""
    return f"{fmt.p_equals(p)}, {bound}{fmt.plural(exchangeable, 'head')} that can be exchanged"


def undefined_deals(means: Vector) -> str:
    """`3 of these without a D-score; `, of exchanges that count as reaching it; or nothing."""
    number = int(np.isnan(means).sum())
    return f"{fmt.thousands(number)} of these without a D-score; " if number else ""


def tested(p: float) -> float | Cell:
    """The p of a test for a table, marked where it is significant."""
    return marked(p, "beyond") if is_significant(p) else p


def above(distance: float, what: str, unit: str = "SDs") -> str:
    """`4.1 SDs above exchanged heads`, or `below`; nothing where the distance is undefined."""
    if not math.isfinite(distance):
        return ""
    side = "below" if distance < 0 else "above"
    return f"{fmt.fixed(abs(distance), 1)}{fmt.GAP * bool(unit)}{unit} {side} {what}"


def least_possible(p: float, number: int) -> str:
    """`, the smallest that so few allow`, of a p above 0.05 that could not be smaller; or nothing.

    `number` is how many lesions p compares with.
    """
    least = smallest_p(number)
    at_least = math.isclose(p, least) and not is_significant(least)
    return ", the smallest that so few allow" if at_least else ""


def exchange_caveats(entries: Sequence[Fraction] | Sequence[PooledFraction]) -> list[str]:
    """Why exchanges cannot tell: there is nothing to exchange, there are none or too few."""
    number = min(entry.n_controls for entry in entries)
    if not all(entry.dissociation for entry in entries):
        return []  # the verdict says what is missing
    if not any(entry.exchangeable for entry in entries):
        return [NOTHING_TO_EXCHANGE]
    if not number:
        return [
            f"Without exchanges of the tasks’ heads nothing tells whether heads belong to tasks: "
            f"set {controls_needed()} controls or more."
        ]
    least = smallest_p(number)
    if is_significant(least):
        return []
    return [
        f"{fmt.plural(number, 'exchange')} can give no p below {fmt.p_value(least)}: set "
        f"{controls_needed()} controls or more to be able to reach p ≤ {ALPHA}, 100 or more and "
        f"iap.stop = false for p < 0.01."
    ]


def heads_of(model: ModelRecord) -> str:
    """`72 in 6 layers`."""
    word = fmt.site_word([site.name for site in model.sites])
    return f"{model.n_heads} in {fmt.plural(len(model.sites), word)}"


def outputs(task: TaskRecord) -> str:
    """What a task asks for: `regression`, `4 classes`, `generated text`, …"""
    if task.metric == "generated":
        return "generated text"
    if task.labels is None:
        return "a number for each example" if task.scale.is_unbounded else "regression"
    if task.multi_label:
        return f"{fmt.plural(len(task.labels), 'label')}, any number each"
    return fmt.plural(len(task.labels), "class", "classes")


def in_spreads(tasks: Sequence[TaskRecord]) -> bool:
    """Whether changes are in units of the examples' spread, which means of losses need."""
    return any(task.scale.is_unbounded for task in tasks)


def unit_of(tasks: Sequence[TaskRecord]) -> str:
    """What changes of scores and D-scores are in percent of."""
    if in_spreads(tasks):
        return "the standard deviation of the examples’ values with nothing ablated"
    return "the base score"


def percent_of(tasks: Sequence[TaskRecord]) -> str:
    """`percent`, of the base score where nothing else is said."""
    return "percent of the standard deviation" if in_spreads(tasks) else "percent"


def warning(standing: Standing) -> str:
    """`near chance`, `below chance`, or nothing, for a table."""
    return {"above": "", "near": "near chance", "below": "below chance"}[standing]


def chance_caveats(standings: Mapping[str, Standing], who: str, verb: str) -> list[str]:
    """What is said of tasks that are not done clearly better than chance; `standings` by task.

    `who` is "The model" with `verb` "is", or in the plural.
    """
    near, below = ([t for t, s in standings.items() if s == place] for place in ("near", "below"))
    caveats = []
    if near:
        caveats.append(
            f"{who} {verb} near chance on {some(near)}: where there is little to lose, a "
            f"lesion can show little, and ratios to the base score mislead."
        )
    if below:
        caveats.append(
            f"{who} {verb} below chance on {some(below)}: a guess that does not look at "
            f"the example would score better. Are the labels in another order?"
        )
    return caveats


def over_others(names: Sequence[str], values: Iterable[float], expected: Iterable[float]) -> str:
    """`, over a and b` where a mean over tasks is not over those of the headline's; or nothing.

    `values` and `expected` are the tasks' own values, those of the mean and the headline's; NaN is
    undefined.
    """
    defined, others = (
        [name for name, value in zip(names, each, strict=True) if math.isfinite(value)]
        for each in (values, expected)
    )
    return f", over {some(defined)}" if defined and defined != others else ""


def pair_sentences(
    entry: Fraction | PooledFraction, standings: Mapping[str, Standing], where: str = ""
) -> list[str]:
    """Which pairs of tasks are doubly dissociated, or what that takes; `standings` by task."""
    if not entry.pairs:
        return []
    above = [standing == "above" for standing in standings.values()]
    barred = [barred_pairs([*standings], above)] * (not all(above))
    if sum(above) < 2:
        return barred
    return [pair_caveat(entry) or _doubles(entry.pairs, where), *barred]


def _doubles(pairs: Sequence[Pair] | Sequence[PooledPair], where: str) -> str:
    double = [f"{pair.first} with {pair.second}" for pair in pairs if pair.double_dissociation]
    test = f"a double dissociation{where} (Holm-corrected p ≤ {ALPHA})"
    if len(pairs) == 1:
        return f"The two tasks {'show' if double else 'do not show'} {test}."
    if not double:
        return f"Of {len(pairs)} pairs of tasks, none shows {test}."
    if len(double) == len(pairs):
        return f"All {len(pairs)} pairs of tasks show {test}."
    verb = "shows" if len(double) == 1 else "show"
    return f"Of {len(pairs)} pairs of tasks, {len(double)} {verb} {test}: {some(double)}."


def pair_caveat(entry: Fraction | PooledFraction) -> str:
    """How many exchanges a double dissociation takes, where there are fewer; or nothing."""
    n_pairs = len(entry.pairs)
    needed = controls_needed(n_pairs)
    if not n_pairs or entry.n_pair_controls >= needed:
        return ""
    number = entry.n_pair_controls or entry.n_controls
    if not number:
        return "Without exchanges of heads no pair of tasks can be called a double dissociation."
    verb = "is" if number == 1 else "are"
    which = "the pair" if n_pairs == 1 else f"any of {n_pairs} pairs"
    return (
        f"{fmt.plural(number, 'exchange')} {verb} too few to call {which} of tasks a double "
        f"dissociation: {needed} or more can reach a Holm-corrected p ≤ {ALPHA}."
    )


def double_of(
    pair: Pair | PooledPair,
    entry: Fraction | PooledFraction,
    standings: Mapping[str, Standing],
    lacking: str = "too few exchanges",
) -> str:
    """What a table says of a pair.

    `yes`, `not shown`, `not above chance` where a task is not (`standings` by task), or `lacking`
    where no test could tell.
    """
    if pair.double_dissociation:
        return "yes"
    if not standings[pair.first] == standings[pair.second] == "above":
        return "not above chance"
    return "not shown" if entry.n_pair_controls >= controls_needed(len(entry.pairs)) else lacking


def iat_caveat(opening: str) -> str:
    """Return what is said of models that were trained with IAT; `opening` says which, or when."""
    return (
        f"{opening} IAT, which trains each task’s most important heads for it: the answers are "
        f"about training with it, not about ordinary multi-task training."
    )


_MEASURES = {
    "importance": "rank correlation of the importance maps",
    "overlap": "overlap of the lesions (Jaccard)",
    "gradient": "cosine of the tasks’ mean gradients",
    "cka": "linear CKA of the encoder’s output under the two lesions",
}


def measure_in_words(name: str, *, corrected: bool) -> str:
    """Return what a measure of similarity is."""
    words = _MEASURES.get(name, name)
    return f"{words}, corrected for noise" if corrected else words
