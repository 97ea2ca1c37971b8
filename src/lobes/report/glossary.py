"""Words that several pages explain, and the formulas of the D-scores."""

from markupsafe import Markup

Entry = tuple[str | Markup, str | Markup]

FORMULAS = {
    "column": Markup(
        "D<sub>i</sub> = 100 · (mean<sub>j≠i</sub> M<sub>ji</sub> − M<sub>ii</sub>) / B<sub>i</sub>"
    ),
    "row": Markup(
        "D<sub>i</sub> = 100 · (mean<sub>j≠i</sub> M<sub>ij</sub> − M<sub>ii</sub>) / B<sub>i</sub>"
    ),
    "relative": Markup(
        "D<sub>i</sub> = 100 · (mean<sub>j≠i</sub> M<sub>ij</sub> / B<sub>j</sub> − M<sub>ii</sub>"
        " / B<sub>i</sub>)"
    ),
}
_SYMBOLS = Markup(
    "M<sub>ij</sub> is task j’s score while the heads important to task i are ablated, "
    "B<sub>j</sub> its score with nothing ablated."
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


def d_scores(meanings: dict[str, Markup] | None = None) -> tuple[Entry, ...]:
    """Each definition of the D-score: its formula, and its meaning or what its symbols mean."""
    return tuple(
        (
            f"D-score, {name}",
            Markup('<span class="formula">{}</span>{}').format(
                formula, (meanings or {}).get(name, _SYMBOLS)
            ),
        )
        for name, formula in FORMULAS.items()
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
    )
