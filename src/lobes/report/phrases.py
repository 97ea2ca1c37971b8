"""Phrases that the pages of one run, of several runs and of comparisons share."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from lobes.dissociation.verdict import ALPHA, Verdict, controls_needed
from lobes.metrics import Standing
from lobes.report import formatting as fmt
from lobes.results.base import TaskRecord
from lobes.results.pooled import PooledPair
from lobes.results.run import Pair

HEADLINE = "column"  # the D-score that verdicts speak of (docs/method.md#d-scores)
DEFINITIONS = ("column", "row", "relative")


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


def controls(number: int, matched: str = "") -> str:
    """`20 random lesions matched by site`; `matched` is "site", "total" or empty."""
    if not number:
        return "no random lesions"
    how = {"site": " matched by site", "total": " matched in size"}
    return fmt.plural(number, "random lesion") + how.get(matched, "")


def outputs(task: TaskRecord) -> str:
    """What a task asks for: `regression`, `4 classes`, `28 labels, any number each`."""
    if task.labels is None:
        return "regression"
    if task.multi_label:
        return f"{fmt.plural(len(task.labels), 'label')}, any number each"
    return fmt.plural(len(task.labels), "class", "classes")


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
            f"{who} {verb} below chance on {some(below)}; are the labels in another order?"
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
    pairs: Sequence[Pair] | Sequence[PooledPair], n_controls: int, where: str = ""
) -> list[str]:
    """Which pairs of tasks are doubly dissociated, or how many controls that takes."""
    if not pairs:
        return []
    lacking = pair_caveat(len(pairs), n_controls)
    if lacking:
        return [lacking]
    double = [f"{pair.first} with {pair.second}" for pair in pairs if pair.double_dissociation]
    test = f"a double dissociation{where} (Holm-corrected p ≤ {ALPHA})"
    if len(pairs) == 1:
        return [f"The two tasks {'show' if double else 'do not show'} {test}."]
    if not double:
        return [f"Of {len(pairs)} pairs of tasks, none shows {test}."]
    if len(double) == len(pairs):
        return [f"All {len(pairs)} pairs of tasks show {test}."]
    verb = "shows" if len(double) == 1 else "show"
    return [f"Of {len(pairs)} pairs of tasks, {len(double)} {verb} {test}: {some(double)}."]


def pair_caveat(n_pairs: int, n_controls: int) -> str:
    """How many random lesions a double dissociation takes, where there are fewer; or nothing."""
    needed = controls_needed(n_pairs)
    if not n_pairs or n_controls >= needed:
        return ""
    verb = "is" if n_controls == 1 else "are"
    which = "the pair" if n_pairs == 1 else f"any of {n_pairs} pairs"
    return (
        f"{fmt.plural(n_controls, 'random lesion')} {verb} too few to call {which} of tasks a "
        f"double dissociation: {needed} or more can reach a Holm-corrected p ≤ {ALPHA}."
    )


def double_of(pair: Pair | PooledPair, n_controls: int, n_pairs: int) -> str:
    """What a table says of a pair: `yes`, `not shown`, or that the random lesions are too few."""
    if pair.double_dissociation:
        return "yes"
    return "not shown" if n_controls >= controls_needed(n_pairs) else "too few controls"
