"""What several runs found together, in words: the stored verdict, its reasons, what weakens it."""

import math
from collections.abc import Mapping
from itertools import combinations

from lobes.dissociation.verdict import SPECIALIZED, all_fractions
from lobes.metrics import Standing
from lobes.report import formatting as fmt
from lobes.report import lesion_words, phrases
from lobes.report.lesion_words import in_short, words_of
from lobes.report.phrases import HEADLINE
from lobes.report.sections import Fact, Facts, Findings, Section
from lobes.results import PooledResults
from lobes.results.pooled import PooledDScore, PooledFraction

FEW_RUNS = 5


def section(results: PooledResults) -> Section:
    """The answer with its reasons, and what was measured."""
    found = findings(results)
    facts = (Facts(tuple(_facts(results))),)
    return Section("findings", found.headline, facts, contents="Findings", findings=found)


def findings(results: PooledResults) -> Findings:
    """The question, the stored answer, its reasons and its caveats."""
    verdict = results.verdict_on(SPECIALIZED)
    return Findings(
        question=_question(results),
        answer=verdict.answer,
        headline=phrases.headline(verdict),
        sentences=tuple(_sentences(results)),
        caveats=tuple(_caveats(results)),
    )


def _facts(results: PooledResults) -> list[Fact]:
    models, entry = results.models, results.largest
    most = max(each.exchangeable for each in results.fractions)
    return [
        Fact("Model" if len(models) == 1 else "Models", fmt.listing(models)),
        Fact("Runs", str(len(results.runs))),
        Fact("Tasks", str(len(results.tasks))),
        Fact("Lesions", in_short(results.lesioning)),
        Fact(words_of(results.lesioning).largest, phrases.size_of(entry.fraction)),
        Fact("Exchanges", f"{entry.n_controls} in each run" if entry.n_controls else "none"),
        Fact("Exchangeable heads", f"{_bound(results)}{most}"),
    ]


def _bound(results: PooledResults) -> str:
    """What stands before a number of exchangeable heads, which is of the run with fewest."""
    return "at least " if len(results.runs) > 1 else ""


def _question(results: PooledResults) -> str:
    names, models, number = results.names, results.models, len(results.runs)
    which = f" ({fmt.listing(names)})" if len(names) <= 4 else ""
    of = models[0] if len(models) == 1 else f"{len(models)} models"
    opening = "In one run" if number == 1 else f"Over {number} runs"
    return (
        f"{opening}, do the {len(names)} tasks{which} depend on different attention heads of {of}?"
    )


def _sentences(results: PooledResults) -> list[str]:
    entry = results.strongest
    score, size = entry.dissociation.column, phrases.size_of(entry.fraction)
    if not math.isfinite(score.mean.mean):
        return [f"At {size} the {HEADLINE} D-score is undefined."]
    return [
        *_over_fractions(results),
        _main(results, entry, score),
        *_against_random(results, entry, score),
        *_spread(results, score),
        _other_definitions(results, entry, score),
        *_tasks_alone(results, score),
        *_pairs(results.largest, results.standings),
        *_other_fractions(results, entry, score),
    ]


def _main(results: PooledResults, entry: PooledFraction, score: PooledDScore) -> str:
    several, mean = len(results.runs) > 1, score.mean
    stands_out = len(results.fractions) > 1 and math.isfinite(score.standardized)
    most = ", where it stands out most," if stands_out else ""
    text = (
        f"At {phrases.size_of(entry.fraction)}{most} the {HEADLINE} D-score is "
        f"{_percent(mean.mean)}"
    )
    if several:
        text += " on average"
    if math.isfinite(mean.low):
        level, span = fmt.percent(results.level), fmt.interval(mean.low, mean.high)
        text += f" ({level} interval over runs and examples {span})"
    count = entry.n_controls
    if not count or not entry.exchangeable or not math.isfinite(score.p_controls):
        return f"{text}."
    distance = phrases.above(score.standardized, "exchanged heads")
    number = {0: "none", count: "all"}.get(score.reached, fmt.thousands(score.reached))
    verb = "dissociates" if number in ("none", "1") else "dissociate"
    averaged = ", each averaged over the runs," if several else ","
    return (
        f"{text}{', ' * bool(distance)}{distance}; of {fmt.plural(count, 'exchange')} of the "
        f"tasks’ heads{averaged} {number} {verb} as much "
        f"({phrases.undefined_deals(score.control_means)}"
        f"{phrases.p_with_heads(score.p_controls, entry.exchangeable, _bound(results))})."
    )


def _over_fractions(results: PooledResults) -> list[str]:
    """What all fractions say together: the test that the answer follows."""
    over, number = results.over_fractions, len(results.fractions)
    most = max(entry.exchangeable for entry in results.fractions)
    if number < 2 or not most or not math.isfinite(over.p):
        return []
    in_each = ", in each run" if len(results.runs) > 1 else ""
    return [
        f"Over {all_fractions(number)} {phrases.p_with_heads(over.p, most, _bound(results))}: "
        f"{phrases.dealt(results.largest.n_controls)}{in_each}, at all fractions together, and the "
        f"D-score that stands out most was compared with that of each deal."
    ]


def _against_random(
    results: PooledResults, entry: PooledFraction, score: PooledDScore
) -> list[str]:
    """The weaker reading: whether important heads are unlike random heads."""
    if not entry.n_random or not math.isfinite(score.random_p):
        return []
    in_each = " in each run" if len(results.runs) > 1 else ""
    return [
        f"A second, weaker reading, which decides nothing: against "
        f"{phrases.random_lesions(entry.n_random)}{in_each} {fmt.p_equals(score.random_p)}"
        f"{phrases.least_possible(score.random_p, entry.n_random)}."
    ]


def _percent(value: float) -> str:
    return f"{fmt.points(value)}{fmt.GAP}%"


def _spread(results: PooledResults, score: PooledDScore) -> list[str]:
    """How far the runs lie apart, and how much of the uncertainty that makes."""
    values = score.means.tolist()
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return []
    low, high = min(values), max(values)
    at_low, at_high = (results.runs[values.index(end)].name for end in (low, high))
    text = f"Single runs lie between {_percent(low)} ({at_low}) and {_percent(high)} ({at_high})"
    share = score.mean.share_of_runs
    if share >= 0.995:
        text += "; nearly all of the variance of the mean is between the runs"
    elif math.isfinite(share):
        text += (
            f"; the runs make {fmt.fixed(100 * share, 0)}{fmt.GAP}% of the variance of the "
            f"mean, the validation examples the rest"
        )
    return [f"{text}."]


def _over_others(results: PooledResults, score: PooledDScore, headline: PooledDScore) -> str:
    """Names the tasks of a D-score that the headline's is not over."""
    means = ([task.mean for task in each.tasks] for each in (score, headline))
    return phrases.over_others(results.names, *means)


def _other_definitions(
    results: PooledResults, entry: PooledFraction, headline: PooledDScore
) -> str:
    parts = []
    for definition, score in entry.dissociation.by_definition.items():
        if definition == HEADLINE:
            continue
        if not math.isfinite(score.mean.mean):
            parts.append(f"{definition} is undefined")
            continue
        tested = math.isfinite(score.p_controls) and entry.exchangeable
        tail = f" ({fmt.p_equals(score.p_controls)})" if tested else ""
        over = _over_others(results, score, headline)
        parts.append(f"{definition} {_percent(score.mean.mean)}{tail}{over}")
    return f"By the other two definitions: {fmt.listing(parts)}."


def _tasks_alone(results: PooledResults, score: PooledDScore) -> list[str]:
    """Which tasks have a D-score above 0 one at a time; silent for one run."""
    if len(results.runs) < 2:
        return []
    names = results.names
    above = [name for name, each in zip(names, score.tasks, strict=True) if each.low > 0]
    if len(above) in (0, len(names)):
        which = "every task" if above else "no task"
    else:
        which = f"{phrases.some(above)}, {len(above)} of {len(names)}"
    return [f"One at a time (uncorrected), the interval lies above 0 for {which}."]


def _pairs(entry: PooledFraction, standings: Mapping[str, Standing]) -> list[str]:
    if not any(math.isfinite(pair.p_holm) for pair in entry.pairs):
        return []
    where = f" over the runs at {phrases.size_of(entry.fraction)}"
    return phrases.pair_sentences(entry, standings, where)


def _other_fractions(
    results: PooledResults, shown: PooledFraction, headline: PooledDScore
) -> list[str]:
    parts = []
    for entry in results.fractions:
        if entry is shown:
            continue
        score = entry.dissociation.column
        tested = math.isfinite(score.p_controls) and entry.exchangeable
        tail = f", {fmt.p_equals(score.p_controls)}" if tested else ""
        over, size = _over_others(results, score, headline), phrases.size_of(entry.fraction)
        parts.append(f"{_percent(score.mean.mean)} at {size}{tail}{over}")
    return [f"At the other fractions the {HEADLINE} D-score is {'; '.join(parts)}."] * bool(parts)


def _caveats(results: PooledResults) -> list[str]:
    return [
        *_run_caveats(results),
        *phrases.chance_caveats(results.standings, "The models", "are"),
        *phrases.exchange_caveats(results.fractions),
        *_missing(results),
        *results.unlike,
        *_iat_caveats(results),
        *lesion_words.caveats(results.lesioning),
    ]


def _iat_caveats(results: PooledResults) -> list[str]:
    with_iat = [run.name for run in results.runs if run.iat_steps is not None]
    if not with_iat:
        return []
    every = len(with_iat) == len(results.runs)
    which = "every run" if every else f"some runs ({phrases.some(with_iat)})"
    return [phrases.iat_caveat(f"In {which} the last training steps were")]


def _missing(results: PooledResults) -> list[str]:
    tasks = zip(results.names, results.strongest.dissociation.column.tasks, strict=True)
    missing = [name for name, each in tasks if not math.isfinite(each.mean)]
    if not missing or len(missing) == len(results.tasks):
        return []
    return [f"Without a D-score in some run, and so left out of the mean: {phrases.some(missing)}."]


def _run_caveats(results: PooledResults) -> list[str]:
    """What is said of few runs, of runs that may be the same, and of runs of other models."""
    runs = results.runs
    if len(runs) == 1:
        return [
            "Nothing is known about other runs: with one run there is no interval over runs. "
            "Take three or more, with other seeds."
        ]
    caveats = []
    if len(runs) < FEW_RUNS and results.verdict_on(SPECIALIZED).answer == "open":
        caveats.append(
            f"{len(runs)} runs make wide intervals: only a large D-score can show. Take {FEW_RUNS} "
            f"or more."
        )
    same = [
        f"{a.name} with {b.name}"
        for a, b in combinations(runs, 2)
        if a.seed is not None and (a.model, a.seed) == (b.model, b.seed)
    ]
    if same:
        caveats.append(
            f"Some runs have the same model and seed ({phrases.some(same)}): they may be one and "
            f"the same model, and the interval is then too narrow."
        )
    models = results.models
    if len(models) > 1:
        caveats.append(
            f"The runs are of different models ({phrases.some(models)}): the interval is about "
            f"models like these, and what one of them does may be lost in the mean."
        )
    return caveats
