"""What a transfer study found, in words: is a new task learned better after IAT?

Claim 5 (docs/method.md#claims); `differences.py` says when a difference over seeds counts.
"""

from lobes.dissociation.verdict import SMALLEST_GAIN, Answer, gained_anywhere
from lobes.metrics import Standing
from lobes.report import formatting as fmt
from lobes.report.differences import (
    AFTER,
    Difference,
    highest,
    in_words,
    main_pair,
    model_of,
    not_usable,
    seed_caveats,
    seeds_of,
)
from lobes.report.findings import Findings, Results, some, standing


def transfer_findings(study: Results) -> Findings:
    """Claim 5: whether a new task is learned better from a model trained with IAT."""
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
    sizes = [fmt.thousands(size) for size in study["sizes"]]
    better = [size for size, each in zip(sizes, found, strict=True) if each.is_better]
    worse = [size for size, each in zip(sizes, found, strict=True) if each.is_worse]
    return found, better, worse


def _answer(study: Results, entry: Results) -> tuple[Answer, str]:
    found, _, _ = _by_size(study, entry)
    above = [place == "above" for place in _standings(study)]
    answer, cause = gained_anywhere(
        found, SMALLEST_GAIN, seeds=len(study["seeds"]), above_chance=above
    )
    first, second = AFTER[entry["first"]], AFTER[entry["second"]]
    usable = [
        (fmt.thousands(size), each)
        for size, each, is_above in zip(study["sizes"], found, above, strict=True)
        if is_above
    ]
    better = fmt.listing([size for size, each in usable if each.is_better])
    worse = fmt.listing([size for size, each in usable if each.is_worse])
    if cause == "near chance":
        return answer, "Inconclusive: every start is near chance with every number of examples."
    headlines = {
        "mixed": f"Inconclusive: {first} it is learned better with {better} examples, and worse "
        f"with {worse}.",
        "higher": f"Yes: with {better} training examples the score is higher {first}.",
        "lower": f"No: with {worse} training examples the score is lower {first}.",
        "negligible": f"No: if there is any gain {first}, it is below {SMALLEST_GAIN}, the "
        f"smallest of interest.",
        "undecided": f"Inconclusive: the seeds do not tell the score {first} from that {second}.",
    }
    reason = not_usable(cause, "every score", "both starts give the same scores")
    return answer, reason or headlines[cause]


def _standings(study: Results) -> list[Standing]:
    """Where the best start stands in relation to chance, with each number of examples."""
    starts = study["summary"]["starts"].values()
    return [
        standing({**study["task"], "base": highest([each[index]["mean"] for each in starts])})
        for index in range(len(study["sizes"]))
    ]


def _sentences(study: Results, entry: Results) -> list[str]:
    first, second = entry["first"], entry["second"]
    starts = study["summary"]["starts"]
    sentences = [
        f"{fmt.plural(len(study['sizes']), 'training size')}, {seeds_of(study)} each, scored by "
        f"{study['task']['metric']}."
    ]
    found, _, _ = _by_size(study, entry)
    for index, (size, each) in enumerate(zip(study["sizes"], found, strict=True)):
        scores = [fmt.fixed(fmt.number(starts[s][index]["mean"])) for s in (first, second)]
        sentences.append(
            f"With {fmt.plural(size, 'example')}, {scores[0]} {AFTER[first]} and {scores[1]} "
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
        parts.append(f"higher with {fmt.listing(better)}")
    if worse:
        parts.append(f"lower with {fmt.listing(worse)}")
    if not parts:
        return f"{opening} not shown to differ at any size."
    return f"{opening} {fmt.listing(parts)} examples."


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
        which = fmt.listing([fmt.thousands(size) for size in few])
        caveats.append(
            f"With {which} examples for {len(labels)} {kind}, hardly more than the choice of the "
            f"examples is measured."
        )
    places = _standings(study)
    sizes = [fmt.thousands(size) for size in study["sizes"]]
    near = [size for size, place in zip(sizes, places, strict=True) if place == "near"]
    below = [size for size, place in zip(sizes, places, strict=True) if place == "below"]
    if near:
        caveats.append(
            f"With {fmt.listing(near)} examples every start is near chance: a difference there "
            f"says little."
        )
    if below:
        caveats.append(
            f"With {fmt.listing(below)} examples every start is below chance; are the labels in "
            f"another order?"
        )
    return caveats
