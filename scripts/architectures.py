"""Write docs/architectures.md: what `lobes` can do with every type of the installed transformers.

    python scripts/architectures.py [PAGE]

Runs the checks of the tests' zoo, which takes some minutes; `make architectures` calls it.
"""

import os
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
import transformers  # noqa: E402

import zoo  # noqa: E402
import zoo_checks  # noqa: E402

PAGE = ROOT / "docs" / "architectures.md"
COLUMNS = {
    "discover": "find",
    "ablate": "ablate",
    "examples": "by example",
    "gate": "train (IAT)",
    "prune": "prune",
    "save": "save, load",
    "generate": "generate",
}
INTRODUCTION = """\
# Architectures

What `lobes` can do with every type of model that transformers {version} has, as measured on tiny
models with random weights. `make architectures` writes this page anew; the tests hold it to what
they find.

- **find**: `lobes.find_heads` finds every attention, and each head's slice of the contexts depends
  on that head's attention alone.
- **ablate**: `lobes.ablate` equals multiplying the heads' attention probabilities by 0. Where a
  type adds something to its contexts (`nystromformer`), that goes too; `lobes heads` says so.
- **by example**: the same with a set of heads for each example of a batch.
- **train (IAT)**: each head's rows of the projections can be trained alone.
- **prune**: the outputs of `lobes.prune` equal ablation, with eager attention and with SDPA.
- **save, load**: what `save_pretrained` wrote, `lobes.load_pruned` reads.
- **generate**: the pruned model writes the text that the ablated one does, with a dynamic and a
  static cache. Empty where the type generates no text from text alone.

A number stands for the reason below the table.
"""


def main(page: Path = PAGE) -> None:
    """Examine every type and write the page."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    rows: list[str] = []
    reasons: dict[str, tuple[int, str]] = {}
    done: Counter[str] = Counter()
    left_out: dict[str, list[tuple[str, str]]] = {"attention": [], "build": [], "inputs": []}
    wrong: list[str] = []
    for kind in zoo.TYPES:
        if kind.startswith("timm.") and find_spec("timm") is None:
            continue
        one = zoo_checks.specimen(kind)
        if isinstance(one, dict):
            ((check, reason),) = one.items()
            if check in left_out:
                left_out[check].append((kind, reason))
                continue
            found, heads = one, ""
        else:
            heads = _heads(one)
            try:
                found = zoo_checks.examine_specimen(one)
            except Exception as error:  # to be mended; the tests fail for it, too
                wrong.append(f"{kind}: {error}")
                found = {}
        cells = [_cell(check, found, reasons, zoo.exceptions(check).get(kind)) for check in COLUMNS]
        done.update(check for check in COLUMNS if found.get(check) == "")
        rows.append(f"| `{kind}` | {heads} | {' | '.join(cells)} |")
        print(kind, *cells, file=sys.stderr)
    page.write_text(_page(rows, reasons, done, left_out), encoding="utf-8")
    if wrong:
        sys.exit("\n".join(["These are wrong; their rows are empty:", *wrong]))


def _heads(one: zoo_checks.Specimen) -> str:
    """How many sites there are with how many heads of what size: "2 of 4 × 8"."""
    sites = Counter((site.n_heads, site.head_dim) for site in one.layout.sites)
    return ", ".join(f"{count} of {n} × {size}" for (n, size), count in sites.items())


def _cell(
    check: str, found: dict[str, str], reasons: dict[str, tuple[int, str]], known: str | None
) -> str:
    """ "yes", the number of a reason, or nothing; reasons that differ in names only are one."""
    if check not in found:
        return ""
    if not found[check]:
        return "yes"
    if known not in reasons:
        reasons[known or found[check]] = len(reasons) + 1, found[check]
    return str(reasons[known or found[check]][0])


def _page(
    rows: list[str],
    reasons: dict[str, tuple[int, str]],
    done: Counter[str],
    left_out: dict[str, list[tuple[str, str]]],
) -> str:
    titles = " | ".join(COLUMNS.values())
    totals = " | ".join(str(done[check]) for check in COLUMNS)
    table = [
        f"| type | sites of heads × size | {titles} |",
        f"|---|---|{'---|' * len(COLUMNS)}",
        f"| **{len(rows)} types** | | {totals} |",
        *rows,
    ]
    notes = [f"{number}. {reason}" for number, reason in reasons.values()]
    others = (
        ("No attention", "attention", "In these types, torch's softmax computes no attention."),
        ("Not built", "build", "These need more than a small configuration, or another package."),
        ("Not run", "inputs", "For these, inputs are neither guessed nor given by the tests."),
    )
    parts = [INTRODUCTION.format(version=transformers.__version__), *table, "", "## Reasons", ""]
    parts += notes
    for title, check, line in others:
        parts += ["", f"## {title}", "", line, ""]
        kinds = left_out[check]
        if check == "attention":
            parts.append(", ".join(f"`{kind}`" for kind, _ in kinds) + ".")
        else:
            known = zoo.exceptions(check)
            parts += [f"- `{kind}`: {known.get(kind, reason)}" for kind, reason in kinds]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
