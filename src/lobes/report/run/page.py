"""The page of one run: its sections in order, its settings and its glossary."""

from pathlib import Path

from markupsafe import Markup

from lobes.report import formatting as fmt
from lobes.report import glossary, phrases, settings
from lobes.report.lesion_words import ABLATE, words_of
from lobes.report.run import (
    agreement,
    base,
    claims,
    dissociation,
    dose,
    examples,
    findings,
    growth,
    importance,
    lesions,
    pairs,
    similarity,
    trained,
    training,
)
from lobes.report.sections import Choice, Page, Section
from lobes.results import RunResults

_HEADS: tuple[glossary.Entry, ...] = (
    (
        "Site",
        "One attention block: the place whose output projection mixes several heads. Sites are "
        "numbered in the order of execution, from 0.",
    ),
    ("Head s:h", "Head h of site s, both from 0."),
    ("Importance", "A number for each head: how much a task’s loss depends on it."),
)
_RANDOM: glossary.Entry = (
    "Random lesion",
    "As many heads drawn at random, matched by site (as many in every site) or in size (as "
    "many in all): how harmful any lesion is. It decides nothing.",
)
_MEANINGS = {
    "column": Markup(
        "One task: the other tasks’ lesions against its own. 0 when every lesion costs the "
        "task the same."
    ),
    "row": Markup(
        "One lesion: the other tasks’ raw scores against task i’s. Mixes the tasks’ "
        "scales: it can be far from 0 where nothing is dissociated."
    ),
    "relative": Markup("As <em>row</em>, with every task on the scale of its own base score."),
}
_RELATIVE_IN_SPREADS = Markup(
    "As <em>row</em>, with every task on the scale of its own standard deviation."
)
_STATISTICS: tuple[glossary.Entry, ...] = (
    (
        "Interval",
        "Paired bootstrap over the validation examples: the same resample for every lesion of a "
        "task.",
    ),
    (
        "p (exchange)",
        "(1 + number of exchanges with a D-score at least as large) / (1 + number of exchanges). "
        "Of single tasks it describes, and does not test.",
    ),
    glossary.OVER_FRACTIONS,
    (
        "p (random)",
        "The same against random lesions: whether important heads are unlike random heads, not "
        "whether they belong to tasks.",
    ),
)


def page_of(results: RunResults, folder: Path | None = None, *, whole: bool = False) -> Page:
    """Compose the page of these results.

    `folder` is the run's folder, whose predictions give the examples. With `whole` the page holds
    every matrix and every pair of tasks, for exports, where that of many tasks has less. Raises
    `RunError` where the predictions are damaged.
    """
    sections = (
        findings.section(results),
        claims.section(results),
        base.section(results),
        importance.section(results, whole=whole),
        agreement.section(results),
        lesions.section(results, whole=whole),
        dissociation.section(results),
        pairs.section(results, whole=whole),
        dose.section(results),
        lesions.overlap_section(results),
        similarity.section(results, whole=whole),
        growth.section(results),
        examples.section(results, folder, whole=whole) if folder is not None else None,
        training.section(results),
        trained.section(results),
        _settings(results),
    )
    sizes = tuple(fmt.percent(entry.fraction) for entry in results.fractions)
    heads = words_of(results.lesioning).heads
    return Page.of(
        results,
        "report",
        sections,
        _glossary(results),
        choice=Choice("fraction", heads, sizes, len(sizes) - 1) if sizes else None,
        script="report.js",
    )


def _settings(results: RunResults) -> Section:
    iat = results.training.iat if results.training is not None else None
    return settings.section(
        {
            "Lesions and statistics": results.iap,
            "IAT": iat.settings if iat is not None else {},
            "Environment": results.environment,
            "Time": settings.durations(results.times),
            "Configuration": results.config,
        },
        "" if results.training is not None else "The model was not trained by this study.",
    )


def _glossary(results: RunResults) -> tuple[glossary.Entry, ...]:
    words, lesioning = words_of(results.lesioning), results.lesioning
    in_spreads = phrases.in_spreads(results.tasks)
    relative = {"relative": _RELATIVE_IN_SPREADS} if in_spreads else {}
    lesion = (
        f"{words.definition} A task’s lesion takes the given fraction of all heads, by their "
        f"importance to that task."
    )
    return (
        *_HEADS,
        ("Ablate", ABLATE[lesioning.value]),
        ("Lesion", lesion),
        *glossary.EXCHANGES,
        _RANDOM,
        (Markup("M<sub>ij</sub>, B<sub>j</sub>"), words.symbols),
        *((glossary.SPREAD,) if in_spreads else (glossary.CHANCE,)),
        *glossary.d_scores(lesioning, _MEANINGS | relative, in_spreads=in_spreads),
        *_STATISTICS,
    )
