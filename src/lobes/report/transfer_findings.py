"""What a transfer study found, in words: is a new task learnt better after IAT?

The method's claim 5 (METHOD section 1); `differences.py` says when a difference over seeds counts.
"""

import math

from lobes.report import words
from lobes.report.differences import (
    AFTER,
    NEGLIGIBLE_SCORE,
    Difference,
    highest,
    in_words,
    main_pair,
    model_of,
    seed_caveats,
    seeds_of,
    unusable,
)
from lobes.report.findings import Answer, Findings, Results, near_chance, some


def transfer_findings(study: Results) -> Findings:
    """Claim 5: whether a new task is learnt better from a model trained with IAT."""
    entry = main_pair(study["summary"])
    task = study["task"]["name"]
    if entry is None:
        return Findings(
            question=f"How well does {model_of(study)} learn {task} from few examples?",
            answer="open",
            headline="There is nothing to compare: there is only one start.",
            sentences=(),
            caveats=tuple(seed_caveats(study)),
        )
    first, second = AFTER[entry["first"]], AFTER[entry["second"]]
    answer, headline = _answer(study, entry)
    return Findings(
        question=f"Does {model_of(study)} learn the new task {task} better {first} than {second}?",
        answer=answer,
        headline=headline,
        sentences=tuple(_sentences(study, entry)),
        caveats=tuple(_caveats(study, entry)),
    )


def _by_size(study: Results, entry: Results) -> tuple[list[Difference], list[str], list[str]]:
    """The differences at each size, the sizes where the first is better, and where worse."""
    found = [Difference.of(each, "p_holm") for each in entry["fractions"]]
    sizes = [words.thousands(size) for size in study["sizes"]]
    better = [size for size, each in zip(sizes, found, strict=True) if each.is_better]
    worse = [size for size, each in zip(sizes, found, strict=True) if each.is_worse]
    return found, better, worse


def _answer(study: Results, entry: Results) -> tuple[Answer, str]:
    found, better, worse = _by_size(study, entry)
    first, second = AFTER[entry["first"]], AFTER[entry["second"]]
    defined = [each for each in found if math.isfinite(each.mean)]
    if not defined or len(study["seeds"]) == 1:
        nothing = Difference(math.nan, math.nan, math.nan, math.nan)
        return "open", unusable(study, defined[0] if defined else nothing, "every score")
    if better and worse:
        return "open", (
            f"It depends: {first} it is learnt better with {words.listing(better)} examples, and "
            f"worse with {words.listing(worse)}."
        )
    if better:
        which = words.listing(better)
        return "yes", f"Yes: with {which} training examples the score is higher {first}."
    if worse:
        which = words.listing(worse)
        return "no", f"No: with {which} training examples the score is lower {first}."
    if all(each.low == each.high == 0 for each in found):
        return "no", "No: both starts give the same scores in every seed."
    if all(each.high < NEGLIGIBLE_SCORE for each in found):
        return "no", f"No: if there is any gain {first}, it is below {NEGLIGIBLE_SCORE}."
    return "open", f"Cannot be said: the seeds do not tell the score {first} from that {second}."


def _sentences(study: Results, entry: Results) -> list[str]:
    first, second = entry["first"], entry["second"]
    starts = study["summary"]["starts"]
    sentences = [
        f"{words.plural(len(study['sizes']), 'training size')}, {seeds_of(study)} each, scored by "
        f"{study['task']['metric']}."
    ]
    found, _, _ = _by_size(study, entry)
    for index, (size, each) in enumerate(zip(study["sizes"], found, strict=True)):
        scores = [words.fixed(words.number(starts[s][index]["mean"])) for s in (first, second)]
        sentences.append(
            f"With {words.plural(size, 'example')}, {scores[0]} {AFTER[first]} and {scores[1]} "
            f"{AFTER[second]}: a difference of "
            f"{in_words(study, each, corrected='Holm-corrected ')}."
        )
    others = (other for other in study["summary"]["differences"] if other is not entry)
    return [*sentences, *(_other_start(study, other) for other in others)]


def _other_start(study: Results, entry: Results) -> str:
    _, better, worse = _by_size(study, entry)
    opening = f"Compared with the score {AFTER[entry['second']]}, that {AFTER[entry['first']]} is"
    parts = []
    if better:
        parts.append(f"higher with {words.listing(better)}")
    if worse:
        parts.append(f"lower with {words.listing(worse)}")
    if not parts:
        return f"{opening} not shown to differ at any size."
    return f"{opening} {words.listing(parts)} examples."


def _same_scores(study: Results, entry: Results) -> list[str]:
    """Names the seeds in which both starts are, by their scores, one and the same model."""
    scores = [study["scores"][entry[side]] for side in ("first", "second")]
    same = [
        str(seed) for seed, a, b in zip(study["seeds"], *scores, strict=True) if list(a) == list(b)
    ]
    if not same:
        return []
    text = f"In {len(same)} of {seeds_of(study)} both starts give the same score at every size"
    if entry["first"] == "iat":
        text += ", as they do where the checkpoint chosen is from before IAT began"
    return [f"{text} (seed {some(same)})."]


def _caveats(study: Results, entry: Results) -> list[str]:
    caveats = [*seed_caveats(study), *_same_scores(study, entry)]
    labels = study["task"].get("labels")
    kind = "labels" if study["task"].get("multi_label") else "classes"
    few = [size for size in study["sizes"] if labels and size < 2 * len(labels)]
    if few:
        which = words.listing([words.thousands(size) for size in few])
        caveats.append(
            f"With {which} examples for {len(labels)} {kind}, hardly more than the choice of the "
            f"examples is measured."
        )
    weak = []
    for index, size in enumerate(study["sizes"]):
        means = [each[index]["mean"] for each in study["summary"]["starts"].values()]
        if near_chance({**study["task"], "base": highest(means)}):
            weak.append(words.thousands(size))
    if weak:
        caveats.append(
            f"With {words.listing(weak)} examples every start is near chance: a difference there "
            f"says little."
        )
    return caveats
