"""What a run found, in words: the stored verdict on claim 1, its reasons, what weakens it."""

import math
from collections.abc import Sequence

import numpy as np

from lobes.dissociation.verdict import (
    ALPHA,
    SPECIALIZED,
    controls_needed,
    is_significant,
    smallest_p,
)
from lobes.report import formatting as fmt
from lobes.report import phrases
from lobes.report.phrases import HEADLINE
from lobes.report.sections import Fact, Facts, Findings, Section
from lobes.results import RunResults
from lobes.results.run import RELIABLE, TRUSTED, DScore, Fraction


def section(results: RunResults) -> Section:
    """The answer with its reasons, and what was measured."""
    found = findings(results)
    facts = (Facts(tuple(_facts(results))),)
    return Section("findings", found.headline, facts, contents="Findings", findings=found)


def findings(results: RunResults) -> Findings:
    """The question, the stored answer, its reasons and its caveats."""
    verdict = results.verdict_on(SPECIALIZED)
    return Findings(
        question=_question(results),
        answer=verdict.answer,
        headline=phrases.headline(verdict),
        sentences=tuple(_sentences(results)),
        caveats=tuple(_caveats(results)),
    )


def how_sure(results: RunResults) -> str:
    """How sure the answer is: the D-score, its interval and p."""
    entry = results.largest
    score = _headline_score(entry)
    if entry is None or score is None or not math.isfinite(score.mean):
        return fmt.UNDEFINED
    text = f"D-score {_percent(score.mean)} (interval {fmt.interval(*score.mean_interval)})"
    if math.isfinite(score.mean_p):
        text += f", {fmt.p_equals(score.mean_p)} against {controls_of(entry)}"
    return text


def controls_of(entry: Fraction) -> str:
    """`20 random lesions matched by site`."""
    return phrases.controls(entry.n_controls, entry.matched)


def _headline_score(entry: Fraction | None) -> DScore | None:
    return entry.dissociation.column if entry is not None and entry.dissociation else None


def _percent(value: float) -> str:
    return f"{fmt.points(value)}{fmt.GAP}%"


def _question(results: RunResults) -> str:
    names, model = results.names, results.model.name or "the model"
    if len(names) == 1:
        return f"Does the task {names[0]} depend on particular attention heads of {model}?"
    which = f" ({fmt.listing(names)})" if len(names) <= 4 else ""
    return f"Do the {len(names)} tasks{which} depend on different attention heads of {model}?"


def _facts(results: RunResults) -> list[Fact]:
    model, entry = results.model, results.largest
    facts = [
        Fact("Model", model.name or fmt.UNDEFINED),
        Fact("Parameters", fmt.thousands(model.n_parameters)),
        Fact("Attention heads", f"{model.n_heads} in {fmt.plural(len(model.sites), 'site')}"),
        Fact("Tasks", str(len(results.tasks))),
    ]
    if entry is not None:
        facts.append(Fact("Largest lesion", phrases.size_of(entry.fraction)))
        facts.append(Fact("Controls", controls_of(entry)))
    return facts


def _sentences(results: RunResults) -> list[str]:
    entry = results.largest
    if entry is None:
        return ["No lesion was measured, so there is nothing to compare."]
    if len(results.tasks) < 2:
        return [_single_task(results, entry)]
    score, size = _headline_score(entry), phrases.size_of(entry.fraction)
    if score is None:
        return [f"No D-score is given for lesions of {size}."]
    if not math.isfinite(score.mean):
        return [f"At {size} the {HEADLINE} D-score is undefined. {score.note or ''}".strip()]
    return [
        _main(results, entry, score),
        _other_definitions(results, entry, score),
        *_tasks_alone(results, entry, score),
        *phrases.pair_sentences(entry.pairs, entry.n_controls),
        *_other_fractions(results, score),
    ]


def _single_task(results: RunResults, entry: Fraction) -> str:
    task = results.tasks[0]
    text = (
        f"Ablating the {fmt.percent(entry.fraction)} of heads most important to {task.name} takes "
        f"its {task.metric} from {fmt.fixed(task.base)} to {fmt.fixed(entry.scores[0, 0])}"
    )
    if not entry.n_controls:
        return text + "."
    mean = fmt.fixed(float(np.mean(entry.control_scores)))
    return f"{text}; {controls_of(entry)} take it to {mean} on average."


def _main(results: RunResults, entry: Fraction, score: DScore) -> str:
    text = (
        f"At {phrases.size_of(entry.fraction)} ({entry.n_heads} heads for each task) the model’s "
        f"{HEADLINE} D-score is {_percent(score.mean)} "
        f"({fmt.percent(results.level)} interval {fmt.interval(*score.mean_interval)})"
    )
    count = score.n_controls
    if not count:
        return text + "."
    reached = {0: "none", count: "all"}.get(score.reached, fmt.thousands(score.reached))
    verb = "does" if reached in ("none", "1") else "do"
    p = fmt.p_equals(score.mean_p)
    return f"{text}; of {controls_of(entry)}, {reached} {verb} as much ({p})."


def _other_definitions(results: RunResults, entry: Fraction, headline: DScore) -> str:
    assert entry.dissociation is not None
    parts = []
    for definition, score in entry.dissociation.by_definition.items():
        if definition == HEADLINE:
            continue
        if not math.isfinite(score.mean):
            parts.append(f"{definition} is undefined")
            continue
        tail = f" ({fmt.p_equals(score.mean_p)})" if math.isfinite(score.mean_p) else ""
        over = phrases.over_others(results.names, score.values, headline.values)
        parts.append(f"{definition} {_percent(score.mean)}{tail}{over}")
    return f"By the other two definitions: {fmt.listing(parts)}."


def _tasks_alone(results: RunResults, entry: Fraction, score: DScore) -> list[str]:
    """Which tasks are beyond chance one at a time; silent where the controls cannot tell."""
    if not is_significant(smallest_p(entry.n_controls)):
        return []
    names = results.names
    beyond = [
        name for name, p in zip(names, score.p_values, strict=True) if is_significant(float(p))
    ]
    if len(beyond) == len(names):
        which = "every task is"
    elif not beyond:
        which = "no task is"
    else:
        which = f"{phrases.some(beyond)} {'is' if len(beyond) == 1 else 'are'}"
    rest = f", {len(beyond)} of {len(names)}" if 0 < len(beyond) < len(names) else ""
    return [f"One at a time (uncorrected), {which} beyond random lesions{rest}."]


def _other_fractions(results: RunResults, headline: DScore) -> list[str]:
    """How the other fractions answer, each with its own D-score."""
    parts = []
    for entry in results.fractions[:-1]:
        score = _headline_score(entry)
        if score is None:
            continue
        tail = f", {fmt.p_equals(score.mean_p)}" if math.isfinite(score.mean_p) else ""
        over = phrases.over_others(results.names, score.values, headline.values)
        parts.append(f"{_percent(score.mean)} at {phrases.size_of(entry.fraction)}{tail}{over}")
    return [f"At the other fractions the {HEADLINE} D-score is {'; '.join(parts)}."] * bool(parts)


def _caveats(results: RunResults) -> list[str]:
    entry = results.largest
    standings = {task.name: task.standing(task.base) for task in results.tasks}
    caveats = phrases.chance_caveats(standings, "The model", "is")
    caveats += _importance_caveats(results)
    if entry is not None and len(results.tasks) > 1:
        caveats += _control_caveats(entry)
        caveats += _same_lesions(entry)
        caveats += _interval_caveats(entry)
    if results.iap.get("order") == "ascending":
        caveats.append("These lesions take the least important heads first (ascending order).")
    if results.keeps:
        caveats.append(
            "A lesion keeps the heads of its task and ablates all others, so that the scores say "
            "whether these heads suffice: a task’s own lesion should cost it least."
        )
    stand_in = {"mean": "mean context", "resample": "context for another example"}
    if results.iap.get("value") in stand_in:
        caveats.append(
            f"An ablated head gives its {stand_in[results.iap['value']]} in the place of zeros."
        )
    return caveats


def _importance_caveats(results: RunResults) -> list[str]:
    parts = [f"{each.task} ({fmt.fixed(each.spearman, 2)})" for each in results.doubtful]
    noisy = [f"{each.task} ({fmt.fixed(each.reliability, 2)})" for each in results.noisy]
    return [
        f"The importance that chose the lesions is noisy: its reliability, how well random halves "
        f"of the examples agree, is below {RELIABLE} for {phrases.some(noisy)}."
    ] * bool(noisy) + [
        f"The importance that chose the lesions is doubtful: its rank correlation with ablating "
        f"every head by itself is below {TRUSTED} for {phrases.some(parts)}."
    ] * bool(parts)


def _control_caveats(entry: Fraction) -> list[str]:
    number = entry.n_controls
    if not number:
        return ["Without random lesions nothing tells specialization from mere damage."]
    caveats = []
    if not is_significant(smallest_p(number)):
        caveats.append(
            f"{fmt.plural(number, 'random lesion')} can give no p below "
            f"{fmt.p_value(smallest_p(number))}: set {controls_needed()} controls or more to "
            f"be able to reach p ≤ {ALPHA}, 100 or more for p < 0.01."
        )
    lacking = phrases.pair_caveat(len(entry.pairs), number)
    return [*caveats, lacking] if lacking else caveats


def _same_lesions(entry: Fraction) -> list[str]:
    """What is said of tasks whose lesions are one set: nothing can tell these tasks apart."""
    tasks_of: dict[str, list[str]] = {}
    for task, heads in entry.lesions.items():
        tasks_of.setdefault(str(heads), []).append(task)
    return [
        f"The lesions of {phrases.some(tasks)} are the same {fmt.plural(entry.n_heads, 'head')}: "
        f"they cannot dissociate these tasks, whatever the number of examples."
        for tasks in tasks_of.values()
        if len(tasks) > 1
    ]


def _interval_caveats(entry: Fraction) -> Sequence[str]:
    if entry.dissociation is None:
        return ()
    caveats = []
    low, high = entry.dissociation.column.mean_interval
    if low <= 0 <= high and low < high:
        caveats.append(
            "The interval of the headline D-score includes 0: more validation examples would "
            "narrow it."
        )
    notes: dict[str, list[str]] = {}
    for definition, score in entry.dissociation.by_definition.items():
        if score.note:
            notes.setdefault(score.note, []).append(definition)
    return [*caveats, *(f"On {fmt.listing(names)}: {note}" for note, names in notes.items())]
