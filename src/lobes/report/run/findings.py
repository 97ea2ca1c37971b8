"""What a run found, in words: the stored verdict on claim 1, its reasons, what weakens it."""

import math
from collections.abc import Sequence

import numpy as np

from lobes.dissociation.statistics import n_reached
from lobes.dissociation.verdict import (
    ALPHA,
    SPECIALIZED,
    all_fractions,
    is_significant,
    smallest_p,
)
from lobes.report import formatting as fmt
from lobes.report import lesion_words, phrases
from lobes.report.lesion_words import in_short, words_of
from lobes.report.phrases import HEADLINE
from lobes.report.run import glance
from lobes.report.sections import Fact, Facts, Findings, Section
from lobes.results import RunResults
from lobes.results.fractions import DScore, Fraction
from lobes.results.run import RELIABLE, TRUSTED


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
        glance=glance.figures(results),
    )


def how_sure(results: RunResults) -> str:
    """How sure the answer is: the D-score, its interval and p."""
    entry, over = results.strongest, results.over_fractions
    score = _headline_score(entry)
    if entry is None or score is None or not math.isfinite(score.mean):
        return fmt.UNDEFINED
    text = f"D-score {_percent(score.mean)} (interval {fmt.interval(*score.mean_interval)})"
    if over is not None and math.isfinite(over.p):
        several = len(results.fractions) > 1
        where = f" over {all_fractions(len(results.fractions))}" if several else ""
        text += f", {fmt.p_equals(over.p)}{where}, {_exchanged(results)}"
    return text


def _exchanged(results: RunResults) -> str:
    """`39 exchanges, up to 12 heads that can be exchanged`."""
    sizes = [entry.exchangeable for entry in results.fractions]
    upto = "up to " if len(set(sizes)) > 1 else ""
    exchanges = phrases.exchanges(results.fractions[-1].n_controls)
    return f"{exchanges}, {upto}{fmt.plural(max(sizes), 'head')} that can be exchanged"


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
    facts = []
    if model.name:  # a matrix that was made in Python does not know its model
        facts += [Fact("Model", model.name), Fact("Parameters", fmt.thousands(model.n_parameters))]
    facts += [
        Fact("Attention heads", phrases.heads_of(model)),
        Fact("Tasks", str(len(results.tasks))),
    ]
    if entry is not None:
        facts.append(Fact("Lesions", in_short(results.lesioning)))
        facts.append(Fact(words_of(results.lesioning).largest, phrases.size_of(entry.fraction)))
        if len(results.tasks) > 1:
            facts.append(Fact("Exchanges", fmt.thousands(entry.n_controls)))
            most = max(each.exchangeable for each in results.fractions)
            facts.append(Fact("Exchangeable heads", fmt.thousands(most)))
        facts.append(Fact("Random lesions", fmt.thousands(entry.n_random)))
    return facts


def _sentences(results: RunResults) -> list[str]:
    entry = results.strongest
    if entry is None or results.largest is None:
        return ["No lesion was measured, so there is nothing to compare."]
    if len(results.tasks) < 2:
        return [_single_task(results, entry)]
    score, size = _headline_score(entry), phrases.size_of(entry.fraction)
    if score is None:
        return [f"No D-score is given for lesions of {size}."]
    if not math.isfinite(score.mean):
        return [f"At {size} the {HEADLINE} D-score is undefined. {score.note or ''}".strip()]
    pairs_at = f" at {phrases.size_of(results.largest.fraction)}"
    return [
        *_over_fractions(results),
        _main(results, entry, score),
        *_looked(results),
        *_against_random(entry, score),
        _other_definitions(results, entry, score),
        *_tasks_alone(results, entry, score),
        *phrases.pair_sentences(results.largest, results.standings, pairs_at),
        *_other_fractions(results, entry, score),
    ]


def _single_task(results: RunResults, entry: Fraction) -> str:
    task, words = results.tasks[0], words_of(results.lesioning)
    text = (
        f"{words.doing} {fmt.percent(entry.fraction)} of heads most important to {task.name} takes "
        f"its {task.metric_name} from {fmt.fixed(task.base)} to {fmt.fixed(entry.scores[0, 0])}"
    )
    if entry.n_random:
        mean = fmt.fixed(float(np.mean(entry.random_scores)))
        text += f"; {phrases.random_of(entry)} take it to {mean} on average"
    return f"{text}. With one task there is nothing to exchange its heads with."


def _over_fractions(results: RunResults) -> list[str]:
    """What all fractions say together: the test that the answer follows."""
    over, number = results.over_fractions, len(results.fractions)
    if over is None or number < 2 or not math.isfinite(over.p) or not _can_exchange(results):
        return []
    most = max(each.exchangeable for each in results.fractions)
    return [
        f"Over {all_fractions(number)} {phrases.p_with_heads(over.p, most, 'up to ')}: "
        f"{phrases.dealt(results.fractions[-1].n_controls)}, at all fractions together, and the "
        f"D-score that stands out most was compared with that of each deal."
    ]


def _looked(results: RunResults) -> list[str]:
    """Whether the study stopped at its look, and what p is then."""
    controls, over = results.controls, results.over_fractions
    if controls.look is None or over is None:
        return []
    number, most = results.fractions[-1].n_controls, fmt.thousands(controls.most)
    if not controls.stopped:
        return [
            f"After {controls.look} exchanges p was not settled, so that all {most} were measured; "
            f"p over all fractions takes that look into account."
        ]
    if not math.isfinite(over.p):
        return [f"Heads were exchanged {number} times, not {most}: there is no D-score to test."]
    reached = n_reached(over.p, number)
    return [
        f"Heads were exchanged {number} times, not {most}: {reached or 'none'} of these deals "
        f"{'dissociates' if reached < 2 else 'dissociate'} as much, which settles on which side of "
        f"{ALPHA} p lies. p is that of {number} exchanges; with iap.stop = false the same command "
        f"measures the others, too."
    ]


def _can_exchange(results: RunResults) -> bool:
    return any(entry.exchangeable for entry in results.fractions)


def _main(results: RunResults, entry: Fraction, score: DScore) -> str:
    stands_out = len(results.fractions) > 1 and math.isfinite(score.mean_standardized)
    most = ", where it stands out most," if stands_out else ""
    text = (
        f"At {phrases.size_of(entry.fraction)} ({entry.n_heads} heads for each task){most} the "
        f"model’s {HEADLINE} D-score is {_percent(score.mean)} "
        f"({fmt.percent(results.level)} interval {fmt.interval(*score.mean_interval)})"
    )
    count = entry.n_controls
    if not count or not entry.exchangeable or not math.isfinite(score.mean_p):
        return text + "."
    distance = phrases.above(score.mean_standardized, "exchanged heads")
    reached = {0: "none", count: "all"}.get(score.reached, fmt.thousands(score.reached))
    verb = "dissociates" if reached in ("none", "1") else "dissociate"
    how = "of these deals" if len(results.fractions) > 1 else f"{phrases.dealt(count)}, and"
    p = results.p_at(entry, score)
    return (
        f"{text}{', ' * bool(distance)}{distance}; {how} {reached} {verb} as much "
        f"({phrases.undefined_deals(score.control_means)}"
        f"{phrases.p_with_heads(p, entry.exchangeable)})."
    )


def _against_random(entry: Fraction, score: DScore) -> list[str]:
    """The weaker reading: how far important heads are unlike random heads."""
    if not entry.n_random or not math.isfinite(score.random_p):
        return []
    distance = phrases.above(score.random_standardized, "their mean")
    least = phrases.least_possible(score.random_p, entry.n_random)
    return [
        f"A second, weaker reading, which decides nothing: against {phrases.random_of(entry)} "
        f"{fmt.p_equals(score.random_p)}{least}{', ' * bool(distance)}{distance}."
    ]


def _other_definitions(results: RunResults, entry: Fraction, headline: DScore) -> str:
    assert entry.dissociation is not None
    parts = []
    for definition, score in entry.dissociation.by_definition.items():
        if definition == HEADLINE:
            continue
        if not math.isfinite(score.mean):
            parts.append(f"{definition} is undefined")
            continue
        tested = math.isfinite(score.mean_p) and entry.exchangeable
        tail = f" ({fmt.p_equals(score.mean_p)})" if tested else ""
        over = phrases.over_others(results.names, score.values, headline.values)
        parts.append(f"{definition} {_percent(score.mean)}{tail}{over}")
    return f"By the other two definitions: {fmt.listing(parts)}."


def _tasks_alone(results: RunResults, entry: Fraction, score: DScore) -> list[str]:
    """Which tasks stand out one at a time; silent where the exchanges cannot tell."""
    if not is_significant(smallest_p(entry.n_controls)) or not entry.exchangeable:
        return []
    names = [n for n, p in zip(results.names, score.p_values, strict=True) if math.isfinite(p)]
    beyond = [
        name
        for name, p in zip(results.names, score.p_values, strict=True)
        if is_significant(float(p))
    ]
    if len(beyond) == len(results.names):
        which = "every task is"
    elif not beyond:
        which = "no task is"
    else:
        which = f"{phrases.some(beyond)} {'is' if len(beyond) == 1 else 'are'}"
    defined = " with a D-score" * (len(names) < len(results.names))
    rest = (
        f", {len(beyond)} of {len(names)}{defined}" if 0 < len(beyond) < len(results.names) else ""
    )
    return [
        f"One at a time, {which} beyond exchanged heads{rest} (p ≤ {ALPHA} uncorrected: a "
        f"description, not a test)."
    ]


def _other_fractions(results: RunResults, shown: Fraction, headline: DScore) -> list[str]:
    """How the other fractions answer, each with its own D-score."""
    parts = []
    for entry in results.fractions:
        score = _headline_score(entry)
        if score is None or entry is shown:
            continue
        tested = math.isfinite(score.mean_p) and entry.exchangeable
        tail = f", {fmt.p_equals(score.mean_p)}" if tested else ""
        over = phrases.over_others(results.names, score.values, headline.values)
        parts.append(f"{_percent(score.mean)} at {phrases.size_of(entry.fraction)}{tail}{over}")
    return [f"At the other fractions the {HEADLINE} D-score is {'; '.join(parts)}."] * bool(parts)


def _caveats(results: RunResults) -> list[str]:
    entry = results.strongest
    caveats = phrases.chance_caveats(results.standings, "The model", "is")
    caveats += _importance_caveats(results)
    if entry is not None and len(results.tasks) > 1:
        caveats += phrases.exchange_caveats(results.fractions)
        caveats += _same_lesions(entry) if _can_exchange(results) else []
        caveats += _interval_caveats(entry)
    if results.iap.get("order") == "ascending":
        caveats.append("These lesions take the least important heads first (ascending order).")
    return [*caveats, *_iat_caveats(results), *lesion_words.caveats(results.lesioning)]


def _iat_caveats(results: RunResults) -> list[str]:
    if results.training is None or results.training.iat is None:
        return []
    steps, of = (fmt.thousands(n) for n in (results.training.iat.steps, results.training.steps))
    return [phrases.iat_caveat(f"The last {steps} of {of} training steps were")]


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
