"""What a study found, in words: the same sentences for the page and for the terminal.

The answer is "yes" only where the headline D-score (`column`, METHOD section 5) at the largest
fraction lies beyond its matched random lesions (p < 0.05) and its interval lies above 0. It is
"open" where the data cannot decide, and the headline says why.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lobes.report import words

LEVEL = 0.05
HEADLINE = "column"
DEFINITIONS = ("column", "row", "relative")

Results = dict[str, Any]
Answer = Literal["yes", "no", "open"]


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
    answer, headline = _verdict(results)
    return Findings(
        question=_question(results),
        answer=answer,
        headline=headline,
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
    controls = (words.number(value) for value in data.get("control_means") or ())
    return Score(
        mean=words.number(data["mean"]),
        low=words.number(low),
        high=words.number(high),
        p=words.number(data["mean_p"]),
        controls=tuple(value for value in controls if math.isfinite(value)),
        note=data.get("note") or "",
    )


def skill(task: Results) -> float:
    """How far the base score lies on the way from chance (0) to perfect (1)."""
    base, chance = words.number(task["base"]), words.number(task["chance"])
    return (base - chance) / (1 - chance) if chance < 1 else math.nan


def near_chance(task: Results) -> bool:
    """Whether the model hardly does the task, so that no lesion could show anything.

    True below a tenth of the way from chance to perfect; for accuracy also within two standard
    errors of chance, √(c (1 − c) / n) each.
    """
    base, chance = words.number(task["base"]), words.number(task["chance"])
    if not math.isfinite(base):
        return True
    return skill(task) < 0.1 or base - chance < _noise(task)


def below_chance(task: Results) -> bool:
    """Whether the model does worse than chance by as much, as where labels were exchanged."""
    base, chance = words.number(task["base"]), words.number(task["chance"])
    return skill(task) < -0.1 and chance - base > _noise(task)


def _noise(task: Results) -> float:
    """Two standard errors of chance for accuracy; 0 for other metrics."""
    n, chance = words.number(task.get("n_validation")), words.number(task["chance"])
    if task["metric"] != "accuracy" or not n > 0:
        return 0.0
    return 2 * math.sqrt(chance * (1 - chance) / n)


def smallest_p(n_controls: int) -> float:
    """The smallest p that so many random lesions allow, 1 / (1 + R); nan without any."""
    return 1 / (1 + n_controls) if n_controls else math.nan


def controls_of(entry: Results) -> str:
    """`20 random lesions matched by site`."""
    if not entry["n_controls"]:
        return "no random lesions"
    how = {"site": " matched by site", "total": " matched in size"}
    name = words.plural(int(entry["n_controls"]), "random lesion")
    return name + how.get(entry.get("matched", ""), "")


def control_bases(results: Results) -> list[float]:
    """Every task's base score on the examples that random lesions were measured on, where known.

    `results["controls"]["base"]` has it where these were a sample; the base score itself otherwise.
    """
    known = (results.get("controls") or {}).get("base") or {}
    return [words.number(known.get(task["name"], task["base"])) for task in results["tasks"]]


def control_notes(results: Results) -> tuple[str, ...]:
    """How the random lesions were measured, where not each one on all validation examples."""
    controls = results.get("controls") or {}
    notes = []
    sample = controls.get("sample")
    if sample:
        sizes = sorted({int(size) for size in sample.values()})
        size = " to ".join(words.thousands(end) for end in sorted({sizes[0], sizes[-1]}))
        notes.append(
            f"Random lesions were measured on a sample of {size} validation examples of each task; "
            f"p compares them with the D-score on these same examples (hollow diamond)."
        )
    if controls.get("stopped"):
        error = words.number(controls.get("error"))
        wrong = f", wrong in at most {words.percent(error)} of cases" if error == error else ""
        most = words.thousands(controls.get("most"))
        notes.append(
            f"The drawing of random lesions stopped before the {most} planned, as soon as it was "
            f"decided on which side of {LEVEL} p lies{wrong}: p says no more than that."
        )
    return tuple(notes)


def size_of(entry: Results) -> str:
    """`30 % of the heads`."""
    return f"{words.percent(words.number(entry['fraction']))} of the heads"


def _question(results: Results) -> str:
    names = [task["name"] for task in results["tasks"]]
    model = results["model"].get("name") or "the model"
    if len(names) == 1:
        return f"Does the task {names[0]} depend on particular attention heads of {model}?"
    which = f" ({words.listing(names)})" if len(names) <= 4 else ""
    return f"Do the {len(names)} tasks{which} depend on different attention heads of {model}?"


def _verdict(results: Results) -> tuple[Answer, str]:
    if len(results["tasks"]) < 2:
        return "open", "Cannot be said: a dissociation needs at least two tasks, here is one."
    entry = largest(results)
    score = model_score(entry)
    if entry is None or score is None:
        return "open", "Cannot be said: no lesions were measured."
    if not math.isfinite(score.mean):
        return "open", "Cannot be said: the D-score is undefined here."
    weak = [near_chance(task) for task in results["tasks"]]
    if all(weak):
        return (
            "open",
            "Cannot be said: the model does none of the tasks clearly better than chance.",
        )
    return _tested(entry, score)


def _tested(entry: Results, score: Score) -> tuple[Answer, str]:
    """The verdict from a defined D-score, its interval and its random lesions."""
    controls = int(entry["n_controls"])
    if not controls or not math.isfinite(score.p):
        return "open", "Cannot be said: no random lesions were measured to compare with."
    floor = smallest_p(controls)
    if floor >= LEVEL and score.reached == 0:
        return "open", (
            f"Cannot be said yet: the D-score exceeds all {controls} random lesions, but so few "
            f"allow no p below {words.p_value(floor)}."
        )
    if score.p >= LEVEL:
        return "no", "No: the D-score does not stand out from random lesions of the same size."
    if score.high < 0:
        return "no", "No: the tasks suffer less from their own lesion than from the others’."
    if not score.low > 0:
        return "open", "Cannot be said: the D-score beats chance, but its interval includes 0."
    return "yes", "Yes: each task’s own heads matter more to it than the other tasks’ heads."


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
        *_pairs(entry),
        *_fractions(results, entry),
    ]


def _single_task(task: Results, entry: Results) -> str:
    own, base = words.number(entry["scores"][0][0]), words.number(task["base"])
    values = [words.number(control[0][0]) for control in entry["control_scores"]]
    text = (
        f"Ablating the {words.percent(words.number(entry['fraction']))} of heads most important "
        f"to {task['name']} takes its {task['metric']} from {words.fixed(base)} to "
        f"{words.fixed(own)}"
    )
    if not values:
        return text + "."
    mean = words.fixed(sum(values) / len(values))
    return f"{text}; {controls_of(entry)} take it to {mean} on average."


def _main(results: Results, entry: Results, score: Score) -> str:
    text = (
        f"At {size_of(entry)} ({entry['n_heads']} heads for each task) the model’s {HEADLINE} "
        f"D-score is {words.points(score.mean)}{words.GAP}% "
        f"({_level(results)} interval {words.interval(score.low, score.high)})"
    )
    count = len(score.controls)
    if not count:
        return text + "."
    reached = {0: "none", count: "all"}.get(score.reached, words.thousands(score.reached))
    verb = "does" if reached in ("none", "1") else "do"
    return f"{text}; of {controls_of(entry)}, {reached} {verb} as much ({words.p_equals(score.p)})."


def _level(results: Results) -> str:
    level = words.number(results["iap"].get("level"))
    return words.percent(level if math.isfinite(level) else 0.95)


def _others(results: Results, entry: Results) -> list[str]:
    parts = []
    for definition in DEFINITIONS[1:]:
        score = model_score(entry, definition)
        if score is None or not math.isfinite(score.mean):
            parts.append(f"{definition} is undefined")
        else:
            tail = f" ({words.p_equals(score.p)})" if math.isfinite(score.p) else ""
            over = _over_others(results, entry, definition, entry)
            parts.append(f"{definition} {words.points(score.mean)}{words.GAP}%{tail}{over}")
    return [f"By the other two definitions: {words.listing(parts)}."]


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
    if not smallest_p(int(entry["n_controls"])) < LEVEL:
        return []
    names = [task["name"] for task in results["tasks"]]
    p_values = [words.number(p) for p in entry["dissociation"][HEADLINE]["p_values"]]
    beyond = [name for name, p in zip(names, p_values, strict=True) if p < LEVEL]
    if len(beyond) == len(names):
        which = "every task is"
    elif not beyond:
        which = "no task is"
    else:
        which = f"{some(beyond)} {'is' if len(beyond) == 1 else 'are'}"
    rest = f", {len(beyond)} of {len(names)}" if 0 < len(beyond) < len(names) else ""
    return [f"One at a time (uncorrected), {which} beyond random lesions{rest}."]


def _pairs(entry: Results) -> list[str]:
    pairs = entry["pairs"]
    if not pairs:
        return []
    double = [f"{pair['first']} with {pair['second']}" for pair in pairs if _is_double(pair)]
    test = f"a double dissociation (Holm-corrected p < {LEVEL})"
    if len(pairs) == 1:
        return [f"The two tasks {'show' if double else 'do not show'} {test}."]
    if not double:
        return [f"Of {len(pairs)} pairs of tasks, none shows {test}."]
    if len(double) == len(pairs):
        return [f"All {len(pairs)} pairs of tasks show {test}."]
    verb = "shows" if len(double) == 1 else "show"
    return [f"Of {len(pairs)} pairs of tasks, {len(double)} {verb} {test}: {some(double)}."]


def _is_double(pair: Results) -> bool:
    return bool(pair["double_dissociation"])


def over_others(names: Sequence[str], values: Sequence[object], headline: Sequence[object]) -> str:
    """`, over a and b` where a mean over tasks is not over those of the headline's; or nothing.

    `values` and `headline` are the tasks' own values, as they stand in `results.json`.
    """
    defined, expected = (
        [
            name
            for name, value in zip(names, each, strict=True)
            if math.isfinite(words.number(value))
        ]
        for each in (values, headline)
    )
    return f", over {some(defined)}" if defined and defined != expected else ""


def some(items: Sequence[str], most: int = 6) -> str:
    """A listing that stops after `most` items and says how many it leaves out."""
    if len(items) <= most:
        return words.listing(items)
    return f"{', '.join(items[: most - 1])} and {len(items) - most + 1} more"


def _fractions(results: Results, headline: Results) -> list[str]:
    """How the other fractions answer, each with its own D-score."""
    parts = []
    for entry in sorted(results["fractions"], key=lambda entry: entry["fraction"]):
        score = model_score(entry)
        if entry is headline or score is None:
            continue
        tail = f", {words.p_equals(score.p)}" if math.isfinite(score.p) else ""
        size = words.percent(words.number(entry["fraction"]))
        over = _over_others(results, entry, HEADLINE, headline)
        parts.append(f"{words.points(score.mean)}{words.GAP}% at {size} of the heads{tail}{over}")
    return [f"At the other fractions the {HEADLINE} D-score is {'; '.join(parts)}."] * bool(parts)


def _caveats(results: Results) -> list[str]:
    entry = largest(results)
    caveats = []
    weak = [task["name"] for task in results["tasks"] if near_chance(task)]
    if weak:
        caveats.append(
            f"The model is near chance on {some(weak)}: where there is little to lose, a lesion "
            f"can show little, and ratios to the base score mislead."
        )
    if entry is not None and len(results["tasks"]) > 1:
        caveats += _control_caveats(entry)
        caveats += _interval_caveats(entry)
    if results["iap"].get("order", "descending") == "ascending":
        caveats.append("These lesions take the least important heads first (ascending order).")
    return caveats


def _control_caveats(entry: Results) -> list[str]:
    controls = int(entry["n_controls"])
    if not controls:
        return ["Without random lesions nothing tells specialisation from mere damage."]
    floor = smallest_p(controls)
    if floor < LEVEL:
        return []
    return [
        f"{words.plural(controls, 'random lesion')} can give no p below {words.p_value(floor)}: "
        f"set 20 controls or more to be able to reach p < {LEVEL}, 100 or more for p < 0.01."
    ]


def _interval_caveats(entry: Results) -> list[str]:
    score = model_score(entry)
    caveats = []
    if score is not None and score.low <= 0 <= score.high:
        caveats.append(
            "The interval of the headline D-score includes 0: more validation examples would "
            "narrow it."
        )
    notes: dict[str, list[str]] = {}
    for definition in DEFINITIONS:
        other = model_score(entry, definition)
        if other is not None and other.note:
            notes.setdefault(other.note, []).append(definition)
    caveats += [f"On {words.listing(names)}: {note}" for note, names in notes.items()]
    return caveats
