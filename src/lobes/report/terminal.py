"""The short form of the report, for the terminal: rich tables and the same sentences.

Names come from data: they are shown as plain text, never read as rich's markup.
"""

from rich.console import Group
from rich.table import Table
from rich.text import Text

from lobes.report.findings import Findings
from lobes.report.formatting import GAP

_TONES = {"yes": "green", "no": "bold", "open": "yellow"}


def plain_table(*columns: str, left: int = 1) -> Table:
    """A plain table whose first `left` columns are text, the others numbers."""
    table = Table(box=None, pad_edge=False)
    for index, column in enumerate(columns):
        justify = "left" if index < left else "right"
        table.add_column(Text(column), justify=justify, overflow="fold")  # type: ignore[arg-type]
    return table


def title_line(text: str) -> Text:
    """The title over a table."""
    return Text(unbound(text), "bold underline")


def unbound(text: str) -> str:
    """The text without the page's no-break spaces, at which rich breaks a line all the same."""
    return text.replace(f"{GAP}%", "%").replace(GAP, " ")


def findings_lines(findings: Findings) -> Group:
    """The question, the answer in color, the sentences and what weakens them."""
    lines = [
        Text(findings.question),
        Text(unbound(findings.headline), f"bold {_TONES[findings.answer]}"),
    ]
    lines += [Text(f"  {unbound(sentence)}") for sentence in findings.sentences]
    lines += [Text(f"  ! {unbound(caveat)}", "yellow") for caveat in findings.caveats]
    return Group(*lines)
