"""Print how easy the pages are to read: the length of sentences and the share of passive ones.

    python scripts/reading_ease.py [PAGE …]      by default README, CONTRIBUTING and docs/

Code, tables and headings do not count. A sentence counts as passive where a form of "be" comes
shortly before a past participle, which is a rough rule: it also counts "is limited".
"""

import re
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LONG = 25  # words
IRREGULAR = (
    "begun|bought|built|chosen|cut|done|dealt|drawn|driven|fed|felt|found|frozen|given|gone|held|"
    "hidden|kept|known|laid|left|lost|made|meant|met|paid|put|read|run|said|seen|sent|set|shown|"
    "shut|split|spread|sought|taken|taught|thought|told|understood|won|written"
)
PASSIVE = re.compile(
    rf"\b(?:am|is|are|was|were|be|been|being)\s+(?:\w+ly\s+|not\s+|also\s+|never\s+|then\s+)*"
    rf"(?:\w{{2,}}ed|{IRREGULAR})\b"
)


def sentences(markdown: str) -> list[str]:
    """Return the sentences of a page's running text and of its lists."""
    text = re.sub(r"^(```|:::).*?^\1[ ]*$", "", markdown, flags=re.S | re.M)
    text = re.sub(r"^(?: {4}\S.*|#.*|\|.*|!\[.*|<!--.*?-->)$", "", text, flags=re.M)
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"`[^`]*`", "CODE", text)
    paragraphs = re.split(r"\n\s*\n|^\s*(?:[-*]|\d+\.)\s+", text, flags=re.M)
    found = []
    for paragraph in paragraphs:
        joined = " ".join(paragraph.replace("*", "").split())
        found += re.split(r"(?<=[.!?:])\s+(?=[A-Z(])", joined)
    return [sentence for sentence in found if len(sentence.split()) > 2]


def measured(found: list[str]) -> tuple[int, float, float, float]:
    """Return the number of sentences, words in the mean, share above 25 words, share passive."""
    lengths = [len(sentence.split()) for sentence in found]
    return (
        len(found),
        statistics.mean(lengths),
        statistics.mean(length > LONG for length in lengths),
        statistics.mean(bool(PASSIVE.search(sentence.lower())) for sentence in found),
    )


def main(names: list[str]) -> None:
    """Print a line for each page, and one for all of them."""
    pages = [Path(name) for name in names] or [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md") if (ROOT / name).exists()),
        *sorted((ROOT / "docs").rglob("*.md")),
    ]
    print(f"{'page':32} sentences  words  above {LONG}  passive")
    found = {page.resolve(): sentences(page.read_text(encoding="utf-8")) for page in pages}
    every = [sentence for each in found.values() for sentence in each]
    for name, each in [*((str(page.name), each) for page, each in found.items()), ("all", every)]:
        if each:
            count, words, long, passive = measured(each)
            print(f"{name:32} {count:9} {words:6.1f} {long:9.0%} {passive:8.0%}")


if __name__ == "__main__":
    main(sys.argv[1:])
