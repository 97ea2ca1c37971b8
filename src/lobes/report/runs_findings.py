"""What several runs of one study found together, in words: are heads specialised in other runs too?

Claim 1 (docs/method.md#claims) over runs, answered by `lobes.dissociation.verdict` as for one
run: by the mean headline D-score at the largest fraction, its interval over runs and examples,
and p against random lesions averaged over the runs. One run alone is inconclusive.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from lobes.dissociation.verdict import (
    controls_needed,
    is_significant,
    smallest_p,
)
from lobes.report import formatting as fmt
from lobes.report.findings import (
    DEFINITIONS,
    HEADLINE,
    Findings,
    Results,
    chance_caveats,
    controls_of,
    largest,
    over_others,
    pair_caveat,
    pair_sentences,
    shown_headline,
    size_of,
    some,
    verdict_of,
)

FEW_RUNS = 5


@dataclass(frozen=True)
class Estimate:
    """A mean over runs with its interval; `p` that it is above 0; nan = undefined.

    `from_runs` is the share of the mean's variance that the runs make, the rest is the examples'.
    """

    mean: float
    low: float
    high: float
    p: float
    from_runs: float

    @classmethod
    def of(cls, data: Results) -> "Estimate":
        """From an entry of `lobes-runs`."""
        mean, low, high, p, runs, examples = (
            fmt.number(data.get(key))
            for key in ("mean", "low", "high", "p", "over_runs", "over_examples")
        )
        total = runs + examples
        return cls(mean, low, high, p, runs / total if total > 0 else math.nan)


@dataclass(frozen=True)
class RunsScore:
    """One definition's D-score of the model over the runs at one fraction, in percent."""

    estimate: Estimate
    means: tuple[float, ...]
    p: float
    n_controls: int

    @property
    def reached(self) -> int:
        """How many random lesions, each averaged over the runs, dissociate at least as much."""
        return round(self.p * (1 + self.n_controls)) - 1 if math.isfinite(self.p) else 0


def score_of(entry: Results, definition: str = HEADLINE) -> RunsScore:
    """The model's D-score in one fraction's entry; `p` is against the averaged random lesions."""
    data = entry["dissociation"][definition]
    return RunsScore(
        Estimate.of(data["mean"]),
        tuple(fmt.number(value) for value in data["means"]),
        fmt.number(data["p_controls"]),
        int(entry["n_controls"]),
    )


def runs_findings(content: Results) -> Findings:
    """The findings over the runs; `content` as `read_runs` returns it."""
    verdict = verdict_of(content)
    return Findings(
        question=_question(content),
        answer=verdict.answer,
        headline=shown_headline(verdict),
        sentences=tuple(_sentences(content)),
        caveats=tuple(_caveats(content)),
    )


def mean_tasks(content: Results) -> list[Results]:
    """The tasks, each with its mean base score over the runs."""
    means = [_mean([fmt.number(row[j]) for row in content["base"]]) for j in _places(content)]
    return [{**task, "base": mean} for task, mean in zip(content["tasks"], means, strict=True)]


def models_of(content: Results) -> list[str]:
    """The names of the runs' models, each once, in the order of the runs."""
    return list(dict.fromkeys(str(run.get("model") or "the model") for run in content["runs"]))


def _places(content: Results) -> range:
    return range(len(content["tasks"]))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _runs(content: Results) -> str:
    return fmt.plural(len(content["runs"]), "run")


def _question(content: Results) -> str:
    names = [task["name"] for task in content["tasks"]]
    which = f" ({fmt.listing(names)})" if len(names) <= 4 else ""
    models = models_of(content)
    of = models[0] if len(models) == 1 else f"{len(models)} models"
    opening = "In one run" if len(content["runs"]) == 1 else f"Over {_runs(content)}"
    return (
        f"{opening}, do the {len(names)} tasks{which} depend on different attention heads of {of}?"
    )


def _sentences(content: Results) -> list[str]:
    entry = largest(content)
    if entry is None:
        return ["No lesion was measured, so there is nothing to compare."]
    score = score_of(entry)
    if not math.isfinite(score.estimate.mean):
        return [f"At {size_of(entry)} the {HEADLINE} D-score is undefined."]
    return [
        _main(content, entry, score),
        *_spread(content, score),
        _others(content, entry),
        *_tasks_alone(content, entry),
        *_pairs(entry),
        *_fractions(content, entry),
    ]


def _main(content: Results, entry: Results, score: RunsScore) -> str:
    text = f"At {size_of(entry)} the {HEADLINE} D-score is {_percent(score.estimate.mean)}"
    if len(content["runs"]) > 1:
        text += " on average"
    if math.isfinite(score.estimate.low):
        level = fmt.percent(fmt.number(content.get("level", 0.95)))
        span = fmt.interval(score.estimate.low, score.estimate.high)
        text += f" ({level} interval over runs and examples {span})"
    if not score.n_controls or not math.isfinite(score.p):
        return f"{text}."
    count, reached = score.n_controls, score.reached
    number = {0: "none", count: "all"}.get(reached, fmt.thousands(reached))
    verb = "does" if number in ("none", "1") else "do"
    averaged = ", each averaged over the runs," if len(content["runs"]) > 1 else ","
    return f"{text}; of {controls_of(entry)}{averaged} {number} {verb} as much " + (
        f"({fmt.p_equals(score.p)})."
    )


def _percent(value: float) -> str:
    return f"{fmt.points(value)}{fmt.GAP}%"


def _spread(content: Results, score: RunsScore) -> list[str]:
    """How far the runs lie apart, and how much of the uncertainty that makes."""
    values = score.means
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return []
    names = [run["name"] for run in content["runs"]]
    low, high = min(values), max(values)
    text = (
        f"Single runs lie between {_percent(low)} ({names[values.index(low)]}) and "
        f"{_percent(high)} ({names[values.index(high)]})"
    )
    share = score.estimate.from_runs
    if share >= 0.995:
        text += "; nearly all of the variance of the mean is between the runs"
    elif math.isfinite(share):
        text += (
            f"; the runs make {fmt.fixed(100 * share, 0)}{fmt.GAP}% of the variance of the "
            f"mean, the validation examples the rest"
        )
    return [f"{text}."]


def _over_others(content: Results, entry: Results, definition: str, headline: Results) -> str:
    """Names the tasks of a D-score that the headline's is not over."""
    names = [task["name"] for task in content["tasks"]]
    values, expected = (
        [task["mean"] for task in each["dissociation"][name]["tasks"]]
        for each, name in ((entry, definition), (headline, HEADLINE))
    )
    return over_others(names, values, expected)


def _others(content: Results, entry: Results) -> str:
    parts = []
    for definition in DEFINITIONS[1:]:
        score = score_of(entry, definition)
        if not math.isfinite(score.estimate.mean):
            parts.append(f"{definition} is undefined")
            continue
        tail = f" ({fmt.p_equals(score.p)})" if math.isfinite(score.p) else ""
        over = _over_others(content, entry, definition, entry)
        parts.append(f"{definition} {_percent(score.estimate.mean)}{tail}{over}")
    return f"By the other two definitions: {fmt.listing(parts)}."


def _tasks_alone(content: Results, entry: Results) -> list[str]:
    """Which tasks have a D-score above 0 one at a time; silent for one run."""
    if len(content["runs"]) < 2:
        return []
    names = [task["name"] for task in content["tasks"]]
    found = [Estimate.of(each) for each in entry["dissociation"][HEADLINE]["tasks"]]
    above = [name for name, each in zip(names, found, strict=True) if each.low > 0]
    if len(above) in (0, len(names)):
        which = "every task" if above else "no task"
    else:
        which = f"{some(above)}, {len(above)} of {len(names)}"
    return [f"One at a time (uncorrected), the interval lies above 0 for {which}."]


def _pairs(entry: Results) -> list[str]:
    tested = any(math.isfinite(fmt.number(pair["p_holm"])) for pair in entry["pairs"])
    if not tested:
        return []
    return pair_sentences(entry["pairs"], int(entry["n_controls"]), " over the runs")


def _fractions(content: Results, headline: Results) -> list[str]:
    parts = []
    for entry in sorted(content["fractions"], key=lambda entry: entry["fraction"]):
        if entry is headline:
            continue
        score = score_of(entry)
        tail = f", {fmt.p_equals(score.p)}" if math.isfinite(score.p) else ""
        over = _over_others(content, entry, HEADLINE, headline)
        parts.append(f"{_percent(score.estimate.mean)} at {size_of(entry)}{tail}{over}")
    return [f"At the other fractions the {HEADLINE} D-score is {'; '.join(parts)}."] * bool(parts)


def _caveats(content: Results) -> list[str]:
    entry = largest(content)
    caveats = _number_caveats(content)
    caveats += chance_caveats(mean_tasks(content), "The models", "are")
    if entry is None:
        return caveats
    controls = int(entry["n_controls"])
    if not controls:
        caveats.append("Without random lesions nothing tells specialisation from mere damage.")
    elif not is_significant(smallest_p(controls)):
        caveats.append(
            f"{fmt.plural(controls, 'random lesion')} can give no p below "
            f"{fmt.p_value(smallest_p(controls))}: more runs do not change this, set "
            f"{controls_needed()} controls or more."
        )
    lacking = pair_caveat(entry["pairs"], controls) if controls else ""
    if lacking:
        caveats.append(lacking)
    names = [task["name"] for task in content["tasks"]]
    values = entry["dissociation"][HEADLINE]["tasks"]
    missing = [
        name
        for name, each in zip(names, values, strict=True)
        if not math.isfinite(fmt.number(each["mean"]))
    ]
    if missing and len(missing) < len(names):
        caveats.append(
            f"Without a D-score in some run, and so left out of the mean: {some(missing)}."
        )
    return caveats


def _number_caveats(content: Results) -> list[str]:
    runs = content["runs"]
    if len(runs) == 1:
        return [
            "Nothing is known about other runs: with one run there is no interval over runs. "
            "Take three or more, with other seeds."
        ]
    caveats = []
    if len(runs) < FEW_RUNS:
        caveats.append(
            f"{len(runs)} runs make wide intervals: only a large D-score can show. Take {FEW_RUNS} "
            f"or more."
        )
    same = [
        f"{a['name']} with {b['name']}"
        for a, b in combinations(runs, 2)
        if a.get("seed") is not None and (a.get("model"), a["seed"]) == (b.get("model"), b["seed"])
    ]
    if same:
        caveats.append(
            f"Some runs have the same model and seed ({some(same)}): they may be one and the same "
            f"model, and the interval is then too narrow."
        )
    models = models_of(content)
    if len(models) > 1:
        caveats.append(
            f"The runs are of different models ({some(models)}): the interval is about models like "
            f"these, and what one of them does may be lost in the mean."
        )
    return caveats
