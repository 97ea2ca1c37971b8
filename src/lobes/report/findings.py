"""What a study found, in words: the same sentences for the page and for the terminal.

The answer is that of `lobes.dissociation.verdict`, by the headline D-score (`column`,
docs/method.md#d-scores) at the largest fraction: the same rule that a lesion matrix answers by.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lobes.dissociation.verdict import (
    ALPHA,
    SPECIALIZED,
    Answer,
    Verdict,
    controls_needed,
    is_significant,
    smallest_p,
)
from lobes.metrics import Standing, get_metric
from lobes.report import formatting as fmt

HEADLINE = "column"
DEFINITIONS = ("column", "row", "relative")

TRUSTED = 0.7  # below this rank correlation with exact ablation, importance is doubtful

Results = dict[str, Any]


@dataclass(frozen=True)
class Findings:
    """The question, the answer and its reasons; `caveats` say what weakens the answer."""

    question: str
    answer: Answer
    headline: str
    sentences: tuple[str, ...]
    caveats: tuple[str, ...]


@dataclass(frozen=True)
class Score:
    """One definition's D-score of the whole model at one fraction, in percent; nan = undefined."""

    mean: float
    low: float
    high: float
    p: float
    controls: tuple[float, ...]
    note: str

    @property
    def reached(self) -> int:
        """How many random lesions dissociate at least as much: p = (1 + reached) / (1 + R).

        Taken back from p, so that the sentence and p agree also where values tie but for rounding.
        """
        return round(self.p * (1 + len(self.controls))) - 1 if math.isfinite(self.p) else 0


def findings(results: Results) -> Findings:
    """The findings of a study; `results` as `read_results` returns them."""
    verdict = verdict_of(results)
    return Findings(
        question=_question(results),
        answer=verdict.answer,
        headline=shown_headline(verdict),
        sentences=tuple(_sentences(results)),
        caveats=tuple(_caveats(results)),
    )


def largest(results: Results) -> Results | None:
    """The entry of the largest fraction, the one the headline speaks of."""
    fractions = results["fractions"]
    return max(fractions, key=lambda entry: entry["fraction"]) if fractions else None


def model_score(entry: Results | None, definition: str = HEADLINE) -> Score | None:
    """The model's D-score in one fraction's entry, or None where the entry has none."""
    if entry is None or not entry.get("dissociation"):
        return None
    data = entry["dissociation"][definition]
    low, high = data["mean_interval"] or (None, None)
    controls = (fmt.number(value) for value in data.get("control_means") or ())
    return Score(
        mean=fmt.number(data["mean"]),
        low=fmt.number(low),
        high=fmt.number(high),
        p=fmt.number(data["mean_p"]),
        controls=tuple(value for value in controls if math.isfinite(value)),
        note=data.get("note") or "",
    )


def skill(task: Results) -> float:
    """How far the base score lies on the way from chance (0) to perfect (1)."""
    base, chance = fmt.number(task["base"]), fmt.number(task["chance"])
    return (base - chance) / (1 - chance) if chance < 1 else math.nan


def standing(task: Results) -> Standing:
    """Where the base score lies in relation to chance (`Metric.standing`)."""
    base, chance = fmt.number(task["base"]), fmt.number(task["chance"])
    n = fmt.number(task.get("n_validation"))
    return get_metric(task["metric"]).standing(base, chance, n if math.isfinite(n) else 0)


def near_chance(task: Results) -> bool:
    """Whether the model does not do the task clearly better than chance.

    A lesion could then show nothing: there is nothing to lose.
    """
    return standing(task) != "above"


def below_chance(task: Results) -> bool:
    """Whether the model does clearly worse than chance, as where labels were exchanged."""
    return standing(task) == "below"


def warning(task: Results) -> str:
    """`near chance`, `below chance`, or nothing, for a table."""
    return {"above": "", "near": "near chance", "below": "below chance"}[standing(task)]


def chance_caveats(tasks: Sequence[Results], who: str, verb: str) -> list[str]:
    """What is said of tasks that are not done clearly better than chance.

    `who` is "The model" with `verb` "is", or in the plural.
    """
    names = {
        place: [task["name"] for task in tasks if standing(task) == place]
        for place in ("near", "below")
    }
    caveats = []
    if names["near"]:
        caveats.append(
            f"{who} {verb} near chance on {some(names['near'])}: where there is little to lose, a "
            f"lesion can show little, and ratios to the base score mislead."
        )
    if names["below"]:
        caveats.append(
            f"{who} {verb} below chance on {some(names['below'])}; are the labels in another order?"
        )
    return caveats


def divisor(task: Results, base: float | None = None) -> float:
    """The base score, or NaN where nothing may be divided by it (`Metric.is_divisor`).

    `base` is another base score of the task, on a sample of the examples. Results of older
    versions know no interval of the base.
    """
    own = fmt.number(task["base"])
    span = task.get("base_interval")
    low = None if span is None else fmt.number(span[0])
    metric = get_metric(task["metric"])
    if not metric.is_divisor(own, low):
        return math.nan
    if base is None:
        return own
    return base if metric.is_divisor(base, None) else math.nan


def controls_of(entry: Results) -> str:
    """`20 random lesions matched by site`."""
    if not entry["n_controls"]:
        return "no random lesions"
    how = {"site": " matched by site", "total": " matched in size"}
    name = fmt.plural(int(entry["n_controls"]), "random lesion")
    return name + how.get(entry.get("matched", ""), "")


def control_bases(results: Results) -> list[float]:
    """Every task's base score on the examples that random lesions were measured on, where known.

    `results["controls"]["base"]` has it where these were a sample; the base score itself otherwise.
    NaN where nothing may be divided by it.
    """
    known = (results.get("controls") or {}).get("base") or {}
    return [
        divisor(task, fmt.number(known.get(task["name"], task["base"])))
        for task in results["tasks"]
    ]


def control_notes(results: Results) -> tuple[str, ...]:
    """How the random lesions were measured, where not each one on all validation examples."""
    controls = results.get("controls") or {}
    notes = []
    sample = controls.get("sample")
    if sample:
        sizes = sorted({int(size) for size in sample.values()})
        size = " to ".join(fmt.thousands(end) for end in sorted({sizes[0], sizes[-1]}))
        notes.append(
            f"Random lesions were measured on a sample of {size} validation examples of each task; "
            f"p compares them with the D-score on these same examples (hollow diamond)."
        )
    if controls.get("stopped"):
        error = fmt.number(controls.get("error"))
        wrong = f", wrong in at most {fmt.percent(error)} of cases" if error == error else ""
        most = fmt.thousands(controls.get("most"))
        notes.append(
            f"The drawing of random lesions stopped before the {most} planned, as soon as it was "
            f"decided on which side of {ALPHA} p lies{wrong}: p says no more than that."
        )
    return tuple(notes)


def size_of(entry: Results) -> str:
    """`30 % of the heads`."""
    return f"{fmt.percent(fmt.number(entry['fraction']))} of the heads"


def _question(results: Results) -> str:
    names = [task["name"] for task in results["tasks"]]
    model = results["model"].get("name") or "the model"
    if len(names) == 1:
        return f"Does the task {names[0]} depend on particular attention heads of {model}?"
    which = f" ({fmt.listing(names)})" if len(names) <= 4 else ""
    return f"Do the {len(names)} tasks{which} depend on different attention heads of {model}?"


def verdict_of(results: Results) -> Verdict:
    """The stored verdict on claim 1."""
    stored = next(each for each in results["verdicts"] if each["claim"] == SPECIALIZED)
    return Verdict(**{**stored, "reasons": tuple(stored["reasons"])})


def shown_headline(verdict: Verdict) -> str:
    """The headline with the signs and spaces of a page."""
    text = verdict.headline.replace("'", "’").replace(" %", f"{fmt.GAP}%")
    return text.replace(" -", " −")


def _sentences(results: Results) -> list[str]:
    entry = largest(results)
    if entry is None:
        return ["No lesion was measured, so there is nothing to compare."]
    if len(results["tasks"]) < 2:
        return [_single_task(results["tasks"][0], entry)]
    score = model_score(entry)
    if score is None:
        return [f"No D-score is given for lesions of {size_of(entry)}."]
    if not math.isfinite(score.mean):
        return [f"At {size_of(entry)} the column D-score is undefined. {score.note}".strip()]
    return [
        _main(results, entry, score),
        *_others(results, entry),
        *_tasks_alone(results, entry),
        *pair_sentences(entry["pairs"], int(entry["n_controls"])),
        *_fractions(results, entry),
    ]


def _single_task(task: Results, entry: Results) -> str:
    own, base = fmt.number(entry["scores"][0][0]), fmt.number(task["base"])
    values = [fmt.number(control[0][0]) for control in entry["control_scores"]]
    text = (
        f"Ablating the {fmt.percent(fmt.number(entry['fraction']))} of heads most important "
        f"to {task['name']} takes its {task['metric']} from {fmt.fixed(base)} to "
        f"{fmt.fixed(own)}"
    )
    if not values:
        return text + "."
    mean = fmt.fixed(sum(values) / len(values))
    return f"{text}; {controls_of(entry)} take it to {mean} on average."


def _main(results: Results, entry: Results, score: Score) -> str:
    text = (
        f"At {size_of(entry)} ({entry['n_heads']} heads for each task) the model’s {HEADLINE} "
        f"D-score is {fmt.points(score.mean)}{fmt.GAP}% "
        f"({_level(results)} interval {fmt.interval(score.low, score.high)})"
    )
    count = len(score.controls)
    if not count:
        return text + "."
    reached = {0: "none", count: "all"}.get(score.reached, fmt.thousands(score.reached))
    verb = "does" if reached in ("none", "1") else "do"
    return f"{text}; of {controls_of(entry)}, {reached} {verb} as much ({fmt.p_equals(score.p)})."


def _level(results: Results) -> str:
    level = fmt.number(results["iap"].get("level"))
    return fmt.percent(level if math.isfinite(level) else 0.95)


def _others(results: Results, entry: Results) -> list[str]:
    parts = []
    for definition in DEFINITIONS[1:]:
        score = model_score(entry, definition)
        if score is None or not math.isfinite(score.mean):
            parts.append(f"{definition} is undefined")
        else:
            tail = f" ({fmt.p_equals(score.p)})" if math.isfinite(score.p) else ""
            over = _over_others(results, entry, definition, entry)
            parts.append(f"{definition} {fmt.points(score.mean)}{fmt.GAP}%{tail}{over}")
    return [f"By the other two definitions: {fmt.listing(parts)}."]


def _over_others(results: Results, entry: Results, definition: str, headline: Results) -> str:
    """Names the tasks of a D-score that the headline's is not over."""
    names = [task["name"] for task in results["tasks"]]
    values, expected = (
        each["dissociation"][name]["values"]
        for each, name in ((entry, definition), (headline, HEADLINE))
    )
    return over_others(names, values, expected)


def _tasks_alone(results: Results, entry: Results) -> list[str]:
    """Which tasks are beyond chance one at a time; silent where the controls cannot tell."""
    if not is_significant(smallest_p(int(entry["n_controls"]))):
        return []
    names = [task["name"] for task in results["tasks"]]
    p_values = [fmt.number(p) for p in entry["dissociation"][HEADLINE]["p_values"]]
    beyond = [name for name, p in zip(names, p_values, strict=True) if is_significant(p)]
    if len(beyond) == len(names):
        which = "every task is"
    elif not beyond:
        which = "no task is"
    else:
        which = f"{some(beyond)} {'is' if len(beyond) == 1 else 'are'}"
    rest = f", {len(beyond)} of {len(names)}" if 0 < len(beyond) < len(names) else ""
    return [f"One at a time (uncorrected), {which} beyond random lesions{rest}."]


def pair_sentences(pairs: Sequence[Results], n_controls: int, where: str = "") -> list[str]:
    """Which pairs of tasks are doubly dissociated, or how many controls that takes."""
    if not pairs:
        return []
    lacking = pair_caveat(pairs, n_controls)
    if lacking:
        return [lacking]
    double = [f"{pair['first']} with {pair['second']}" for pair in pairs if is_double(pair)]
    test = f"a double dissociation{where} (Holm-corrected p ≤ {ALPHA})"
    if len(pairs) == 1:
        return [f"The two tasks {'show' if double else 'do not show'} {test}."]
    if not double:
        return [f"Of {len(pairs)} pairs of tasks, none shows {test}."]
    if len(double) == len(pairs):
        return [f"All {len(pairs)} pairs of tasks show {test}."]
    verb = "shows" if len(double) == 1 else "show"
    return [f"Of {len(pairs)} pairs of tasks, {len(double)} {verb} {test}: {some(double)}."]


def is_double(pair: Results) -> bool:
    """Whether a pair is doubly dissociated, as tested against random lesions, too.

    Results of older versions tested pairs on the examples only, which is not enough.
    """
    return bool(pair["double_dissociation"]) and "p_controls_holm" in pair


def pair_caveat(pairs: Sequence[Results], n_controls: int) -> str:
    """How many random lesions a double dissociation takes, where there are fewer; or nothing."""
    needed = controls_needed(len(pairs))
    if any("p_controls_holm" not in pair for pair in pairs):
        return (
            "These results are of a version that did not test pairs of tasks against random "
            "lesions, so that no pair can be called a double dissociation: run the study again."
        )
    if not pairs or n_controls >= needed:
        return ""
    verb = "is" if n_controls == 1 else "are"
    which = "the pair" if len(pairs) == 1 else f"any of {len(pairs)} pairs"
    return (
        f"{fmt.plural(n_controls, 'random lesion')} {verb} too few to call {which} of tasks a "
        f"double dissociation: {needed} or more can reach a Holm-corrected p ≤ {ALPHA}."
    )


def double_of(pair: Results, n_controls: int, n_pairs: int) -> str:
    """What a table says of a pair: `yes`, `not shown`, or that the random lesions are too few."""
    if is_double(pair):
        return "yes"
    return "not shown" if n_controls >= controls_needed(n_pairs) else "too few controls"


def over_others(names: Sequence[str], values: Sequence[object], headline: Sequence[object]) -> str:
    """`, over a and b` where a mean over tasks is not over those of the headline's; or nothing.

    `values` and `headline` are the tasks' own values, as they stand in `results.json`.
    """
    defined, expected = (
        [name for name, value in zip(names, each, strict=True) if math.isfinite(fmt.number(value))]
        for each in (values, headline)
    )
    return f", over {some(defined)}" if defined and defined != expected else ""


def some(items: Sequence[str], most: int = 6) -> str:
    """A listing that stops after `most` items and says how many it leaves out."""
    if len(items) <= most:
        return fmt.listing(items)
    return f"{', '.join(items[: most - 1])} and {len(items) - most + 1} more"


def _fractions(results: Results, headline: Results) -> list[str]:
    """How the other fractions answer, each with its own D-score."""
    parts = []
    for entry in sorted(results["fractions"], key=lambda entry: entry["fraction"]):
        score = model_score(entry)
        if entry is headline or score is None:
            continue
        tail = f", {fmt.p_equals(score.p)}" if math.isfinite(score.p) else ""
        size = fmt.percent(fmt.number(entry["fraction"]))
        over = _over_others(results, entry, HEADLINE, headline)
        parts.append(f"{fmt.points(score.mean)}{fmt.GAP}% at {size} of the heads{tail}{over}")
    return [f"At the other fractions the {HEADLINE} D-score is {'; '.join(parts)}."] * bool(parts)


def _caveats(results: Results) -> list[str]:
    entry = largest(results)
    caveats = chance_caveats(results["tasks"], "The model", "is")
    caveats += _importance_caveats(results)
    if entry is not None and len(results["tasks"]) > 1:
        caveats += _control_caveats(entry)
        caveats += _interval_caveats(entry)
    if results["iap"].get("order", "descending") == "ascending":
        caveats.append("These lesions take the least important heads first (ascending order).")
    return caveats


def doubtful(results: Results) -> tuple[str, ...]:
    """The tasks whose importance agrees badly with ablating every head by itself."""
    found = results.get("agreement") or ()
    return tuple(e["task"] for e in found if not fmt.number(e["spearman"]) >= TRUSTED)


def _importance_caveats(results: Results) -> list[str]:
    names = set(doubtful(results))
    if not names:
        return []
    parts = [
        f"{entry['task']} ({fmt.fixed(fmt.number(entry['spearman']), 2)})"
        for entry in results["agreement"]
        if entry["task"] in names
    ]
    return [
        f"The importance that chose the lesions is doubtful: its rank correlation with ablating "
        f"every head by itself is below {TRUSTED} for {some(parts)}."
    ]


def _control_caveats(entry: Results) -> list[str]:
    controls = int(entry["n_controls"])
    if not controls:
        return ["Without random lesions nothing tells specialization from mere damage."]
    caveats = []
    if not is_significant(smallest_p(controls)):
        caveats.append(
            f"{fmt.plural(controls, 'random lesion')} can give no p below "
            f"{fmt.p_value(smallest_p(controls))}: set {controls_needed()} controls or more to "
            f"be able to reach p ≤ {ALPHA}, 100 or more for p < 0.01."
        )
    lacking = pair_caveat(entry["pairs"], controls)
    return [*caveats, lacking] if lacking else caveats


def _same_lesions(entry: Results) -> list[str]:
    """What is said of tasks whose lesions are one set: nothing can tell these tasks apart."""
    tasks_of: dict[str, list[str]] = {}
    for task, heads in entry["lesions"].items():
        tasks_of.setdefault(heads, []).append(task)
    return [
        f"The lesions of {some(tasks)} are the same {fmt.plural(entry['n_heads'], 'head')}: "
        f"they cannot dissociate these tasks, whatever the number of examples."
        for tasks in tasks_of.values()
        if len(tasks) > 1
    ]


def _interval_caveats(entry: Results) -> list[str]:
    score = model_score(entry)
    caveats = _same_lesions(entry)
    if score is not None and score.low <= 0 <= score.high and score.low < score.high:
        caveats.append(
            "The interval of the headline D-score includes 0: more validation examples would "
            "narrow it."
        )
    notes: dict[str, list[str]] = {}
    for definition in DEFINITIONS:
        other = model_score(entry, definition)
        if other is not None and other.note:
            notes.setdefault(other.note, []).append(definition)
    caveats += [f"On {fmt.listing(names)}: {note}" for note, names in notes.items()]
    return caveats
