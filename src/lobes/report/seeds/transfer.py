"""The page of a transfer study: is a new task learned better after IAT?

Claim 5 of docs/method.md#claims.
"""

from collections.abc import Sequence

from lobes.dissociation.verdict import Answer
from lobes.dissociation.verdicts_over_seeds import AFTER, transfers
from lobes.metrics import Standing
from lobes.report import formatting as fmt
from lobes.report import glossary, trained_heads
from lobes.report.charts import Start, learning_curves
from lobes.report.phrases import outputs, some
from lobes.report.sections import Block, Fact, Facts, Figure, Findings, Page, Prose, Section
from lobes.report.seeds import parts
from lobes.report.seeds.parts import NAMES, Line, in_words, level_of, seeds_of
from lobes.report.tables import Column, text_of
from lobes.results.over_seeds import StartDifferences, TransferResults

STARTS = (
    ("pre-trained", "The encoder as it was before any training here."),
    ("multi-task", "The encoder after ordinary multi-task training on the other tasks."),
    (
        "IAT",
        "The encoder after the same training whose last part trained each task’s important heads "
        "only.",
    ),
)


def page_of(results: TransferResults) -> Page:
    """The page of a transfer study."""
    return parts.page(
        results,
        "transfer study",
        _findings(results),
        _facts(results),
        (
            _curves(results),
            parts.differences(
                results,
                "The first start",
                {(e.first, e.second): _lines(results, e) for e in results.summary.differences},
                first="Training examples",
                axis=f"difference in {results.task.metric_name}",
            ),
            trained_heads.over_seeds(results, [task.name for task in results.sources]),
            _seeds(results),
            parts.data(
                "Tasks trained before",
                "The tasks of the multi-task training, and their numbers of examples",
                results.sources,
            ),
            parts.settings(
                results,
                "Fine-tuning",
                {
                    f"{NAMES[start]}, all trainings": float(values.sum())
                    for start, values in results.seconds.items()
                },
            ),
        ),
        (*glossary.over_seeds(level_of(results)), *STARTS),
    )


def _facts(results: TransferResults) -> Facts:
    task = results.task
    return Facts(
        (
            Fact("Model", results.model.name),
            Fact("New task", f"{task.name} ({task.metric_name}, {outputs(task)})"),
            Fact("Its training examples", fmt.thousands(task.n_train)),
            Fact("Its validation examples", fmt.thousands(task.n_validation)),
            Fact("Trained before on", some([task.name for task in results.sources])),
            *trained_heads.in_short(results.iat),
            Fact("Seeds", str(len(results.seeds))),
        )
    )


# --- the findings


def _findings(results: TransferResults) -> Findings:
    model, task = results.model.name, results.task.name
    if not results.summary.differences:
        question = f"How well does {model} learn {task} from few examples?"
        return parts.nothing_to_compare(results, question, "there is only one start")
    entry = results.summary.differences[0]
    first, second = AFTER[entry.first], AFTER[entry.second]
    verdict = results.verdict_on(transfers(entry.first, entry.second))
    return parts.findings(
        verdict,
        f"Does {model} learn the new task {task} better {first} than {second}?",
        _sentences(results, entry),
        _caveats(results, entry, verdict.answer),
    )


def _sentences(results: TransferResults, entry: StartDifferences) -> list[str]:
    starts = results.summary.starts
    sentences = [
        f"{fmt.plural(len(results.sizes), 'training size')}, {seeds_of(results)} each, scored by "
        f"{results.task.metric_name}."
    ]
    for place, (size, each) in enumerate(zip(results.sizes, entry.fractions, strict=True)):
        scores = [fmt.fixed(starts[start][place].mean) for start in (entry.first, entry.second)]
        found = in_words(results, each.tested, corrected="Holm-corrected ")
        sentences.append(
            f"With {fmt.plural(size, 'example')}, {scores[0]} {AFTER[entry.first]} and {scores[1]} "
            f"{AFTER[entry.second]}: a difference of {found}."
        )
    return [*sentences, *(_other(results, each) for each in results.summary.differences[1:])]


def _other(results: TransferResults, entry: StartDifferences) -> str:
    rows = zip(results.sizes, entry.fractions, strict=True)
    sizes = [f"{fmt.thousands(n)} ({text_of(each.mean, parts.DIFFERENCE)})" for n, each in rows]
    found = parts.higher_and_lower(sizes, entry.fractions)
    said = [f"{how} with {fmt.listing(which)}" for how, which in found.items()]
    opening = f"Compared with the score {AFTER[entry.second]}, that {AFTER[entry.first]} is"
    if not said:
        return f"{opening} not shown to differ at any size."
    return f"{opening} {fmt.listing(said)} examples."


def _caveats(results: TransferResults, entry: StartDifferences, answer: Answer) -> list[str]:
    caveats = parts.caveats(results, entry.first, entry.second, answer)
    labels = results.task.labels
    few = [fmt.thousands(size) for size in results.sizes if labels and size < 2 * len(labels)]
    if labels and few:
        kind = "labels" if results.task.multi_label else "classes"
        caveats.append(
            f"With {fmt.listing(few)} examples for {len(labels)} {kind}, hardly more than the "
            f"choice of the examples is measured."
        )
    sizes = [fmt.thousands(size) for size in results.sizes]
    return caveats + parts.chance_caveats(
        sizes,
        _standings(results),
        "With {} examples no start is clearly above chance: a difference there says little.",
        "With {} examples every start is below chance; are the labels in another order?",
    )


def _standings(results: TransferResults) -> list[Standing]:
    """Where the best start stands in relation to chance, with each number of examples."""
    return [results.task.standing(best) for best in results.summary.best()]


# --- scores and differences


def _labels(results: TransferResults) -> list[str]:
    """`17 (1 %)` for each size."""
    pairs = zip(results.sizes, results.fractions, strict=True)
    return [f"{fmt.thousands(size)} ({fmt.percent(share)})" for size, share in pairs]


def _curves(results: TransferResults) -> Section:
    task, starts, level = results.task, results.summary.starts, level_of(results)
    text = (
        f"The encoder is fine-tuned on the new task with more and more of its training examples, "
        f"from each start. Score on the task’s validation examples ({task.metric_name}): mean over "
        f"the seeds, and its {level} interval; points of one size stand a little apart, so that "
        f"all can be seen."
    )
    curves = learning_curves(
        [
            Start(
                start,  # type: ignore[arg-type]
                NAMES[start],
                *(
                    [getattr(each, part) for each in starts[start]]
                    for part in ("mean", "low", "high")
                ),
            )
            for start in results.starts
        ],
        results.sizes,
        [value for start in results.starts for value in results.scores[start].ravel().tolist()],
        task.chance,
        f"{task.name}: {task.metric_name} against the number of training examples",
    )
    chances = [task.chance] * len(results.sizes)
    table = parts.means(
        "Score from each start, means over seeds",
        "Training examples",
        {start: starts[start] for start in results.starts},
        [*zip(_labels(results), chances, _standings(results), strict=True)],
        f"Scores on the new task ({task.metric_name}), means over seeds with {level} intervals",
    )
    figures: tuple[Block, ...] = () if curves is None else (Figure("learning", curves),)
    blocks = (Prose(text), *figures, table)
    return Section("curves", "Learning curves", blocks, contents="Learning curves")


def _lines(results: TransferResults, entry: StartDifferences) -> Sequence[Line]:
    singles = results.scores[entry.first] - results.scores[entry.second]
    found = zip(_labels(results), entry.fractions, singles.T, strict=True)
    return [Line(label, each, own) for label, each, own in found]


def _seeds(results: TransferResults) -> Section:
    """Every single score: a row for each seed, a column for each start and size."""
    return parts.single_seeds(
        results,
        "",
        "The score of every seed, from each start with each number of training examples",
        [
            (Column(f"{NAMES[start]}, {fmt.thousands(size)}", "number"), values.tolist())
            for start in results.starts
            for size, values in zip(results.sizes, results.scores[start].T, strict=True)
        ],
    )
