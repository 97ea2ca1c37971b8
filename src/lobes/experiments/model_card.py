"""The model card of a pruned model: `README.md` in its folder, with metadata for the hub.

It goes up with the folder, as `hf upload NAME DIR` does, and says which heads are gone, how the
model is loaded and, where a run measured it, what the tasks lose.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from lobes.clean import clean
from lobes.heads import HeadSet
from lobes.modeling.safe_loading import quiet

# Metadata that are true of the whole model only: measured scores, and what made its page.
_OF_THE_WHOLE = ("model-index", "model_name", "widget", "thumbnail")


def model_card(record: Mapping[str, Any], loading: str, *, hub_name: str | None, base: str) -> str:
    """Return a card in Markdown for the pruned model that `record` (`pruning.json`) describes.

    `loading` is the code that loads it, `hub_name` the name of the whole model on the hub, if it
    has one, and `base` the text of its card, whose metadata (license, language) are kept.
    """
    text, metadata = _of_base(base)
    own = [tag for tag in metadata.get("tags") or () if isinstance(tag, str)]
    tags = [*own, "pruned", "attention-heads", "lobes"]
    metadata["tags"] = list(dict.fromkeys(tags))
    metadata["library_name"] = "lobes" if "import lobes" in loading else "transformers"
    if hub_name:
        metadata["base_model"] = hub_name
    parts = (f"---\n{ModelCardData(**metadata).to_yaml()}\n---", *_sections(record, loading, text))
    return "\n\n".join(parts) + "\n"


def _of_base(base: str) -> tuple[str, dict[str, Any]]:
    """A card's text and its metadata; none of these where they cannot be read."""
    with suppress(Exception), quiet():  # whatever YAML and the hub's checks raise on such a card
        card = ModelCard(base, ignore_metadata_errors=True)
        data = card.data.to_dict()
        return card.text, {name: data[name] for name in data if name not in _OF_THE_WHOLE}
    return base, {}


def _sections(record: Mapping[str, Any], loading: str, base: str) -> list[str]:
    heads, (total, left) = HeadSet.parse(record["heads"]), record["n_heads"]
    name, kind = _cell(record["model"]), record["export"]
    size = "as large as before, with zeros in the place of" if kind == "zeroed" else "without"
    sections = [
        f"# {name} without {total - left} of its attention heads",
        f"This model is {name}, {size} {total - left} of its {total} attention heads. Its outputs "
        f"are those of the whole model while these heads are ablated; the largest difference "
        f"measured is {record['largest_difference']:.1e}. It has {record['n_parameters'][1]:,} "
        f"parameters, where the whole model has {record['n_parameters'][0]:,}.",
        f"```python\n{loading}\n```",
        f"## Heads removed\n\nChosen: {_cell(record['chosen'])}. Sites and heads count from 0, in "
        f"the order of execution.",
        _table(
            ("site", "heads removed"),
            [(site, ", ".join(map(str, gone))) for site, gone in heads.by_site().items()],
        ),
    ]
    if scores := record.get("scores"):
        sections += ["## Scores", _scores(scores)]
    if base.strip():
        sections += ["## Card of the whole model", base.strip()]
    return sections


def _scores(scores: Sequence[Mapping[str, Any]]) -> str:
    """What a run measured; where it did not ablate these very heads, of the whole model only."""
    rows = [
        (one["task"], one["metric"], f"{one['whole']:.4f}", _score(one["ablated"]))
        for one in scores
    ]
    table = _table(("task", "metric", "whole model", "without these heads"), rows)
    return f"Measured by `lobes` on validation examples, with the heads ablated.\n\n{table}"


def _score(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: object) -> str:
    """A value on one line, without anything that is Markdown or HTML to a reader."""
    text = " ".join(str(clean(str(value))).split())
    return re.sub(r"([\\`*_\[\]<>|#!&])", r"\\\1", text) if text != "---" else text
