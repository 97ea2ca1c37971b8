"""What a lesion does to heads, in the words that the pages of all results share.

The heads of a task's lesion are ablated, or they alone are kept; in the place of an ablated head's
context stand zeros, its mean, or its context for another example (docs/method.md#lesions).
"""

from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from lobes.report.tables import Column
from lobes.results.base import Lesioning

ABLATE = {
    "zero": "Multiply a head’s output by 0 while something is measured; the model itself stays as "
    "it is.",
    "mean": "Put a head’s mean output over the task’s examples in the place of its output while "
    "something is measured; the model itself stays as it is.",
    "resample": "Put a head’s output for another of the task’s examples in the place of its output "
    "while something is measured; the model itself stays as it is.",
}
_STAND_IN = {"mean": "mean context", "resample": "context for another example"}
_SET_TO = {
    "zero": "set to zero",
    "mean": "set to their means",
    "resample": "taken from other examples",
}


@dataclass(frozen=True)
class Words:
    """The words for a kind of lesion: what becomes of its heads, and what that costs a task.

    Where heads are specialized, a task's own lesion costs it `costs` ("more" or "less") than the
    others', its score is the `end` of its column, and its curve runs on that `side` of theirs.
    """

    done: str
    lesioned: str
    does: str
    doing: str
    of: str
    whose: str
    base: str
    largest: str
    definition: str
    symbols: Markup
    costs: Literal["more", "less"]
    most: Literal["most", "least"]
    end: Literal["lowest", "highest"]
    side: Literal["below", "above"]

    @property
    def rows(self) -> Column:
        """The first column of a lesion matrix."""
        head = Markup(
            '{} <span aria-hidden="true">↓</span><span class="sr">heads, by</span> measured '
            '<span aria-hidden="true">→</span>'
        ).format(self.done)
        return Column(self.done.capitalize(), head=head)

    @property
    def note(self) -> str:
        """What the rows and columns of a lesion matrix are, for a figure."""
        return f"Rows: {self.whose}. Columns: the task that is measured."

    @property
    def heads(self) -> str:
        """`Heads lesioned`, over the shares of heads."""
        return f"Heads {self.lesioned}"


_REMOVED = Words(
    done="ablated",
    lesioned="lesioned",
    does="ablates the heads",
    doing="Ablating the",
    of="a lesion of",
    whose="whose heads are ablated",
    base="nothing (base)",
    largest="Largest lesion",
    definition="The set of heads ablated for one measurement.",
    symbols=Markup(
        "M<sub>ij</sub> is task j’s score while the heads important to task i are ablated, "
        "B<sub>j</sub> its score with nothing ablated."
    ),
    costs="more",
    most="most",
    end="lowest",
    side="below",
)
_KEPT = Words(
    done="kept",
    lesioned="kept",
    does="keeps only the heads",
    doing="Keeping only the",
    of="a lesion that keeps",
    whose="whose heads alone are kept",
    base="all heads (base)",
    largest="Most heads kept",
    definition="The set of heads kept for one measurement, while all others are ablated.",
    symbols=Markup(
        "M<sub>ij</sub> is task j’s score while only the heads important to task i are kept, "
        "B<sub>j</sub> its score with all heads."
    ),
    costs="less",
    most="least",
    end="highest",
    side="above",
)


def words_of(lesioning: Lesioning) -> Words:
    """The words for this kind of lesion."""
    return _KEPT if lesioning.keeps else _REMOVED


def in_short(lesioning: Lesioning) -> str:
    """What is done to which heads: `the task’s heads set to zero`."""
    whose = "all but the task’s heads" if lesioning.keeps else "the task’s heads"
    return f"{whose} {_SET_TO[lesioning.value]}"


def caveats(lesioning: Lesioning) -> list[str]:
    """How the scores are to be read where lesions are of another kind than the usual one."""
    found = []
    if lesioning.keeps:
        found.append(
            "A lesion keeps the heads of its task and ablates all others, so that the scores say "
            "whether these heads suffice: a task’s own lesion should cost it least."
        )
    if lesioning.value in _STAND_IN:
        stand_in = _STAND_IN[lesioning.value]
        found.append(f"An ablated head gives its {stand_in} in the place of zeros.")
    return found
