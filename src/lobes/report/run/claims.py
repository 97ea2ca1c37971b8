"""The stored verdicts on the method's claims (docs/method.md#claims) that this run speaks to."""

from collections.abc import Callable

from markupsafe import Markup

from lobes.dissociation.verdict import LESS_ALIKE, MORE_SPECIALIZED, SPECIALIZED, WORDS
from lobes.report import phrases
from lobes.report.run import findings, growth, similarity
from lobes.report.sections import Findings, InTerminal, Prose, Section
from lobes.report.tables import Cell, Column, Row, Table, marked
from lobes.results import RunResults

# The number of each claim, the section with the details, and what says how sure the answer is.
_CLAIMS: dict[str, tuple[str, str, Callable[[RunResults], str]]] = {
    SPECIALIZED: ("1", "findings", findings.how_sure),
    MORE_SPECIALIZED: ("1b", "growth", growth.how_sure),
    LESS_ALIKE: ("2", "likeness", similarity.how_sure),
}
_COLUMNS = (Column("Claim"), Column("Answer"), Column("Reason"), Column("How sure"))

_OF_TRAINED = Markup(
    "These answers are about one trained model. Intervals reflect the sampling of validation "
    "examples, not of training seeds, which may differ by more. <code>lobes compare</code> and "
    "<code>lobes transfer</code> test what training for specialization (IAT) does."
)
_OF_GIVEN = (
    "These answers are about one model, which this study did not train. Intervals reflect the "
    "sampling of validation examples."
)


def section(results: RunResults) -> Section | None:
    """A line for each claim; None where the run speaks to the first only."""
    if len(results.verdicts) < 2:
        return None
    rows, lines = [], []
    for verdict in results.verdicts:
        number, part, sure = _CLAIMS[verdict.claim]
        claim, reason = f"{number}. {verdict.claim}", phrases.headline(verdict)
        answer = marked(WORDS[verdict.answer].lower(), "chip", "answer")
        quiet = marked(sure(results), "quiet")
        rows.append(Row((Cell(claim, href=f"#{part}"), answer, reason, quiet), verdict.answer))
        lines.append(Findings(claim, verdict.answer, reason))
    caption = "What this run says on the claims of the method, each with its reason"
    text = _OF_TRAINED if results.training is not None else _OF_GIVEN
    return Section(
        "claims",
        "The claims, one by one",
        (
            Prose(text),
            Table("claims-table", caption, _COLUMNS, tuple(rows), look="claims"),
            InTerminal(tuple(lines[1:])),
        ),
        contents="Claims",
    )
