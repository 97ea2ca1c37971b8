"""What a comparison found, in words: does IAT improve performance, does it specialize heads?

The method's claims 4 and 3 (docs/method.md#claims), each with its own answer; `differences.py` says
when a difference over seeds counts.
"""

import math
from collections.abc import Mapping, Sequence

from lobes.dissociation.verdict import (
    SMALLEST_D_CHANGE,
    SMALLEST_GAIN,
    Answer,
    gained,
)
from lobes.metrics import Standing
from lobes.report import formatting as fmt
from lobes.report.differences import (
    AFTER,
    Difference,
    difference_of,
    highest,
    in_words,
    main_pair,
    model_of,
    not_usable,
    seed_caveats,
    seeds_of,
)
from lobes.report.findings import (
    DEFINITIONS,
    HEADLINE,
    Findings,
    Results,
    over_others,
    some,
    standing,
)


def chosen_before_iat(comparison: Results) -> list[int]:
    """The seeds whose selected checkpoint is from before IAT began: both methods are one there."""
    record = comparison.get("iat") or {}
    selected = (comparison.get("selected") or {}).get("iat") or ()
    switch = fmt.number(record.get("switch_step"))
    pairs = zip(comparison["seeds"], selected, strict=False)
    return [seed for seed, step in pairs if fmt.number(step) <= switch]


def performance(comparison: Results) -> Findings:
    """Claim 4: whether training the important heads makes the model better at its tasks."""
    entry = main_pair(comparison["summary"])
    names = [task["name"] for task in comparison["tasks"]]
    tasks = f"the task {names[0]}" if len(names) == 1 else f"the {len(names)} tasks"
    if 1 < len(names) <= 4:
        tasks += f" ({fmt.listing(names)})"
    if entry is None:
        return Findings(
            question=f"How good is {model_of(comparison)} at {tasks}?",
            answer="open",
            headline="There is nothing to compare: only one method was run.",
            sentences=(),
            caveats=tuple(seed_caveats(comparison)),
        )
    first, second = AFTER[entry["first"]], AFTER[entry["second"]]
    answer, headline = _performance_answer(comparison, entry)
    return Findings(
        question=f"Is {model_of(comparison)} better at {tasks} {first} than {second}?",
        answer=answer,
        headline=headline,
        sentences=tuple(_performance_sentences(comparison, entry)),
        caveats=tuple(_performance_caveats(comparison, entry)),
    )


def specialization(comparison: Results) -> Findings | None:
    """Claim 3: whether IAT raises the D-scores; None where they were not measured."""
    entries = comparison["summary"].get("d_scores") or []
    if not entries:
        return None
    fraction = max(entry["fraction"] for entry in entries)
    by_definition = {e["definition"]: e for e in entries if e["fraction"] == fraction}
    entry = by_definition[HEADLINE]
    answer, headline = _specialization_answer(comparison, entry)
    return Findings(
        question=f"Does IAT make the attention heads of {model_of(comparison)} more specialized?",
        answer=answer,
        headline=headline,
        sentences=tuple(_specialization_sentences(comparison, entry, by_definition, entries)),
        caveats=tuple(_specialization_caveats(comparison, entry)),
    )


def _mostly_before(comparison: Results) -> str:
    """The headline where too few seeds show IAT at all, or nothing."""
    early, count = len(chosen_before_iat(comparison)), len(comparison["seeds"])
    if 2 * early <= count:
        return ""
    which = "every seed" if early == count else f"{early} of {count} seeds"
    return (
        f"Inconclusive: in {which} the chosen checkpoint is from before IAT began, so that both "
        f"are one and the same model."
    )


def _performance_answer(comparison: Results, entry: Results) -> tuple[Answer, str]:
    first, second = AFTER[entry["first"]], AFTER[entry["second"]]
    if entry["first"] == "iat" and _mostly_before(comparison) and _seeds(comparison) > 1:
        return "open", _mostly_before(comparison)
    answer, cause = gained(
        Difference.of(entry["mean"]),
        SMALLEST_GAIN,
        seeds=_seeds(comparison),
        above_chance=_above_chance(comparison, entry),
    )
    headlines = {
        "higher": f"Yes: the mean score over the tasks is higher {first}.",
        "lower": f"No: the mean score over the tasks is lower {first}.",
        "negligible": f"No: if there is any gain {first}, it is below {SMALLEST_GAIN}, the "
        f"smallest of interest.",
        "undecided": f"Inconclusive: the seeds do not tell the score {first} from that {second}.",
    }
    reason = not_usable(cause, "a score", "both reach the same mean score")
    return answer, reason or headlines[cause]


def _seeds(comparison: Results) -> int:
    return len(comparison["seeds"])


def _above_chance(comparison: Results, entry: Results) -> bool:
    """Whether enough tasks are done clearly better than chance by one of the two methods.

    Two of them, or the task where there is only one.
    """
    above = sum(place == "above" for place in _standings(comparison, entry))
    return above >= min(2, len(comparison["tasks"]))


def _performance_sentences(comparison: Results, entry: Results) -> list[str]:
    first, second = entry["first"], entry["second"]
    methods = comparison["summary"]["methods"]
    scores = [fmt.fixed(fmt.number(methods[m]["mean"]["mean"])) for m in (first, second)]
    n_tasks = len(comparison["tasks"])
    what = f"the mean score of the {n_tasks} tasks" if n_tasks > 1 else "the score"
    sentences = [
        f"Over {seeds_of(comparison)}, {what} is {scores[0]} {AFTER[first]} and {scores[1]} "
        f"{AFTER[second]}: a difference of {in_words(comparison, Difference.of(entry['mean']))}."
    ]
    if n_tasks > 1:
        sentences += _task_by_task(comparison, entry["tasks"], f"the score {AFTER[first]}")
    against = difference_of(comparison["summary"], "multi", "single")
    if against is not None and against is not entry and first == "iat":
        sentences.append(_negative_transfer(comparison, Difference.of(against["mean"])))
    against = difference_of(comparison["summary"], "iat", "single")
    if against is not None and first == "iat" and second != "single":
        text = in_words(comparison, Difference.of(against["mean"]))
        sentences.append(f"Against single-task training, IAT makes a difference of {text}.")
    return sentences


def _negative_transfer(comparison: Results, found: Difference) -> str:
    numbers = in_words(comparison, found)
    if found.is_worse:
        return (
            f"Ordinary multi-task training falls behind single-task training, by {numbers}: there "
            f"is negative transfer to undo."
        )
    if found.is_better:
        return f"Ordinary multi-task training is ahead of single-task training, by {numbers}."
    return (
        f"Whether ordinary multi-task training harms the tasks cannot be told: against "
        f"single-task training it makes a difference of {numbers}."
    )


def _task_by_task(comparison: Results, entries: Sequence[Results], what: str) -> list[str]:
    """On which tasks `what` differs, each by its own corrected test; silent for one seed."""
    if len(comparison["seeds"]) < 2:
        return []
    names = [task["name"] for task in comparison["tasks"]]
    found = [Difference.of(entry, "p_holm") for entry in entries]
    better = [n for n, each in zip(names, found, strict=True) if each.is_better]
    worse = [n for n, each in zip(names, found, strict=True) if each.is_worse]
    parts = []
    if better:
        parts.append(f"higher on {some(better)}")
    if worse:
        parts.append(f"lower on {some(worse)}")
    if not parts:
        return ["Task by task, no difference can be told (Holm-corrected)."]
    return [f"Task by task (Holm-corrected), {what} is {fmt.listing(parts)}."]


def _performance_caveats(comparison: Results, entry: Results) -> list[str]:
    caveats = seed_caveats(comparison)
    if entry["first"] == "iat":
        caveats += _before_caveats(comparison)
    places = _standings(comparison, entry)
    named = [task["name"] for task in comparison["tasks"]]
    near = [name for name, place in zip(named, places, strict=True) if place == "near"]
    below = [name for name, place in zip(named, places, strict=True) if place == "below"]
    if near:
        caveats.append(
            f"Near chance on {some(near)}: there a difference between two trainings says little."
        )
    if below:
        caveats.append(f"Below chance on {some(below)}; are the labels in another order?")
    metrics = sorted({task["metric"] for task in comparison["tasks"]})
    if len(metrics) > 1:
        caveats.append(
            f"The mean over tasks adds different metrics ({fmt.listing(metrics)}); see the tasks "
            f"one by one."
        )
    return caveats


def _standings(comparison: Results, entry: Results) -> list[Standing]:
    """For each task, where the better of the two methods stands in relation to chance."""
    methods = comparison["summary"]["methods"]
    places = []
    for index, task in enumerate(comparison["tasks"]):
        means = [methods[entry[side]]["tasks"][index]["mean"] for side in ("first", "second")]
        places.append(standing({**task, "base": highest(means)}))
    return places


def _before_caveats(comparison: Results) -> list[str]:
    early = chosen_before_iat(comparison)
    if not early:
        return []
    seeds = f"seed {early[0]}" if len(early) == 1 else f"seeds {some([str(s) for s in early])}"
    return [
        f"In {seeds} ({len(early)} of {len(comparison['seeds'])}) the checkpoint chosen on held-out"
        f" data is from before IAT began: there the two methods give the same model, and a "
        f"difference of 0."
    ]


def _specialization_answer(comparison: Results, entry: Results) -> tuple[Answer, str]:
    if _mostly_before(comparison) and _seeds(comparison) > 1:
        return "open", _mostly_before(comparison)
    answer, cause = gained(
        Difference.of(entry["difference"]["mean"]),
        SMALLEST_D_CHANGE,
        seeds=_seeds(comparison),
        above_chance=_above_chance(comparison, {"first": "iat", "second": "multi"}),
    )
    headlines = {
        "higher": "Yes: after IAT the tasks depend more on heads of their own.",
        "lower": "No: after IAT the tasks depend less on heads of their own.",
        "negligible": f"No: if IAT raises the D-score, it is by less than {SMALLEST_D_CHANGE:g} %, "
        f"the smallest change of interest.",
        "undecided": "Inconclusive: the seeds do not tell the D-scores with and without IAT apart.",
    }
    reason = not_usable(cause, "the D-score", "the D-scores with and without IAT are the same")
    return answer, reason or headlines[cause]


def _specialization_sentences(
    comparison: Results,
    entry: Results,
    by_definition: Mapping[str, Results],
    entries: Sequence[Results],
) -> list[str]:
    means = {m: fmt.points(fmt.number(entry[m]["mean"]["mean"])) for m in ("multi", "iat")}
    found = Difference.of(entry["difference"]["mean"])
    sentences = [
        f"At {_of_heads(entry)} the model’s {HEADLINE} D-score, over {seeds_of(comparison)}, is "
        f"{means['multi']}{fmt.GAP}% {AFTER['multi']} and {means['iat']}{fmt.GAP}% "
        f"{AFTER['iat']}: a difference of {in_words(comparison, found, fmt.points)}.",
        *_task_by_task(comparison, entry["difference"]["tasks"], "the D-score"),
    ]
    others = [
        f"{name} {_briefly(comparison, by_definition[name], entry)}"
        for name in DEFINITIONS
        if name != HEADLINE and name in by_definition
    ]
    if others:
        sentences.append(f"By the other definitions the difference is: {fmt.listing(others)}.")
    rest = [
        f"{_briefly(comparison, other, entry)} at {_of_heads(other)}"
        for other in sorted(entries, key=lambda other: other["fraction"])
        if other["definition"] == HEADLINE and other is not entry
    ]
    if rest:
        sentences.append(f"At the other fractions the {HEADLINE} difference is {'; '.join(rest)}.")
    return sentences


def _specialization_caveats(comparison: Results, entry: Results) -> list[str]:
    caveats = _before_caveats(comparison)
    names = [task["name"] for task in comparison["tasks"]]
    undefined = [
        name
        for name, task in zip(names, entry["difference"]["tasks"], strict=True)
        if not math.isfinite(fmt.number(task["mean"]))
    ]
    if undefined:
        caveats.append(
            f"The mean leaves out {some(undefined)}, without a D-score in some seed: the base "
            f"score lies too near 0, or its interval includes 0."
        )
    return caveats


def _of_heads(entry: Results) -> str:
    return f"{fmt.percent(fmt.number(entry['fraction']))} of the heads"


def _briefly(comparison: Results, entry: Results, headline: Results) -> str:
    found = Difference.of(entry["difference"]["mean"])
    tail = f" ({fmt.p_equals(found.p)})" if math.isfinite(found.p) else ""
    names = [task["name"] for task in comparison["tasks"]]
    values, expected = (
        [task["mean"] for task in each["difference"]["tasks"]] for each in (entry, headline)
    )
    return f"{fmt.points(found.mean)}{tail}{over_others(names, values, expected)}"
