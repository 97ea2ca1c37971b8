"""The files to submit to GLUE's site: their names, their sizes, and the spelling of answers.

Each is a TSV file with the columns `index` and `prediction`, one line for each example of a test
split, in the order in which the split is published.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jaxtyping import Shaped

from lobes.tasks.known import KNOWN

# The scores of stsb run from 0 to this.
HIGHEST_SCORE = 5.0


@dataclass(frozen=True, slots=True)
class Submission:
    """One file: its name, how many examples the test split has, and whether labels are names."""

    file: str
    examples: int
    by_name: bool = False


# By task and split. Labels that are no names are class indices.
SUBMISSIONS: Mapping[tuple[str, str], Submission] = MappingProxyType(
    {
        ("cola", "test"): Submission("CoLA.tsv", 1_063),
        ("sst2", "test"): Submission("SST-2.tsv", 1_821),
        ("mrpc", "test"): Submission("MRPC.tsv", 1_725),
        ("qqp", "test"): Submission("QQP.tsv", 390_965),
        ("stsb", "test"): Submission("STS-B.tsv", 1_379),
        ("mnli", "test_matched"): Submission("MNLI-m.tsv", 9_796, by_name=True),
        ("mnli", "test_mismatched"): Submission("MNLI-mm.tsv", 9_847, by_name=True),
        ("mnli", "test_diagnostic"): Submission("AX.tsv", 1_104, by_name=True),
        ("qnli", "test"): Submission("QNLI.tsv", 5_463, by_name=True),
        ("rte", "test"): Submission("RTE.tsv", 3_000, by_name=True),
        ("wnli", "test"): Submission("WNLI.tsv", 146),
    }
)


def submission_lines(
    task: str, split: str, predictions: Shaped[np.ndarray, " examples"]
) -> Iterator[str]:
    """Yield the lines of the file for a task's test split, the header first.

    `predictions` are class indices, or scores for stsb, which are cut to 0–5 and have 3 decimals.
    """
    labels = KNOWN[task].labels
    yield "index\tprediction"
    for index, value in enumerate(predictions.tolist()):
        if labels is None:
            shown = f"{min(max(value, 0.0), HIGHEST_SCORE):.3f}"
        else:
            shown = labels[value] if SUBMISSIONS[task, split].by_name else str(value)
        yield f"{index}\t{shown}"
