"""Words that several pages explain, and the formulas of the D-scores."""

from markupsafe import Markup

from lobes.report.lesion_words import words_of
from lobes.results.base import Lesioning

Entry = tuple[str | Markup, str | Markup]

# The scores of others and a task's own in each D-score, and what their difference is divided by.
_TERMS = {
    "column": ("mean<sub>j≠i</sub> M<sub>ji</sub>", "M<sub>ii</sub>", " / B<sub>i</sub>"),
    "row": ("mean<sub>j≠i</sub> M<sub>ij</sub>", "M<sub>ii</sub>", " / B<sub>i</sub>"),
    "relative": (
        "mean<sub>j≠i</sub> M<sub>ij</sub> / B<sub>j</sub>",
        "M<sub>ii</sub> / B<sub>i</sub>",
        "",
    ),
}
# The same of means of losses and scores, whose unit is the spread s of the examples' values.
_TERMS_IN_SPREADS = {
    "column": ("mean<sub>j≠i</sub> M<sub>ji</sub>", "M<sub>ii</sub>", " / s<sub>i</sub>"),
    "row": (
        "mean<sub>j≠i</sub> (M<sub>ij</sub> − B<sub>j</sub>)",
        "(M<sub>ii</sub> − B<sub>i</sub>)",
        " / s<sub>i</sub>",
    ),
    "relative": (
        "mean<sub>j≠i</sub> (M<sub>ij</sub> − B<sub>j</sub>) / s<sub>j</sub>",
        "(M<sub>ii</sub> − B<sub>i</sub>) / s<sub>i</sub>",
        "",
    ),
}
SPREAD: Entry = (
    Markup("s<sub>j</sub>"),
    "The standard deviation of the values of task j’s validation examples with nothing ablated: "
    "the unit of changes and D-scores, since the mean of losses has no zero to take a ratio to.",
)

CHANCE: Entry = (
    "Chance",
    "The score of an answer that does not look at the example: for accuracy, the share of the most "
    "frequent label among the validation examples. Near chance: within a tenth of the way from "
    "chance to the best score, or within two standard errors of chance.",
)
EXCHANGES: tuple[Entry, ...] = (
    (
        "Exchange",
        "The important heads dealt out to the tasks again: each task’s lesion keeps its size, each "
        "head stays in as many lesions as before, and which task it belongs to is random. If heads "
        "belong to no task, this changes nothing.",
    ),
    (
        "Exchangeable heads",
        "Those in the lesions of some tasks and not of all. Where they are few there are few ways "
        "to exchange them, and p cannot be small.",
    ),
    (
        "SDs above exchanges",
        "The D-score’s distance from the exchanges’ mean, in their standard deviations.",
    ),
)
OVER_FRACTIONS: Entry = (
    "p, all fractions",
    "At each fraction, how many SDs the D-score lies above the exchanges; the largest of these "
    "against the largest of each exchange, whose heads move together at all fractions. So no "
    "fraction need be chosen.",
)


def formula(definition: str, lesioning: Lesioning, *, in_spreads: bool = False) -> Markup:
    """A definition of the D-score: others' scores minus a task's own; of kept heads the reverse."""
    others, own, divided = (_TERMS_IN_SPREADS if in_spreads else _TERMS)[definition]
    first, second = (own, others) if lesioning.keeps else (others, own)
    return Markup(f"D<sub>i</sub> = 100 · ({first} − {second}){divided}")


def d_scores(
    lesioning: Lesioning, meanings: dict[str, Markup] | None = None, *, in_spreads: bool = False
) -> tuple[Entry, ...]:
    """Each definition of the D-score: its formula, and its meaning or what its symbols mean."""
    symbols = words_of(lesioning).symbols
    return tuple(
        (
            f"D-score, {name}",
            Markup('<span class="formula">{}</span>{}').format(
                formula(name, lesioning, in_spreads=in_spreads),
                (meanings or {}).get(name, symbols),
            ),
        )
        for name in _TERMS
    )


def over_seeds(level: str) -> tuple[Entry, ...]:
    """What comparisons over seeds need; `level` is that of the intervals, `95 %`."""
    return (
        (
            "Seed",
            "One whole training: another order of the data, other dropout, other new classifiers. "
            "All ways to train ran with the same seeds.",
        ),
        (
            "Interval",
            f"Student’s t over the seeds, {level}: how much the mean would differ with other "
            "seeds. The validation examples are the same in every seed, so other examples are not "
            "in it.",
        ),
        (
            "Difference",
            "First minus second, seed by seed, in the metric’s own units. Pairing takes out what a "
            "seed does to both.",
        ),
        (
            "p",
            "Two-sided paired t-test over the seeds. Where all seeds differ by exactly the same, "
            "it is 1 for no difference, and otherwise 2 / 2ⁿ for n seeds (sign test).",
        ),
        ("p (Holm)", "Corrected for the number of rows that are tested."),
        CHANCE,
    )
