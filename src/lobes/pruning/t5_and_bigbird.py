"""Special cases of pruning: T5's shared position bias and BigBird's exchanged attention modules.

All other models are pruned without code of their own.

T5 and its kin (T5, mT5, UMT5, LongT5, Switch, Pop2Piano, UDOP's decoder): the first layer of a
stack computes a position bias with a slice for each head and hands it on, so that all layers
share it (UDOP's encoder gets its bias from elsewhere, and is no special case). Once layers keep
different heads there is no such bias. So each layer gets a copy of the table, keeps its own heads'
columns, and computes its own bias, as UMT5 always does; what is handed on is ignored.

BigBird and BigBirdPegasus: for a short text they put other attention modules, built anew from the
configuration, in the place of their own, and back for a long one. What was cut would come back in
full size. They are pruned only where the configuration says that all texts count as short.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from lobes.pruning.plan import Cut, SitePlan, Table, runs
from lobes.pruning.surgery import places

BIAS = "position_bias"


def exchanges_modules(model: nn.Module) -> bool:
    """Return whether a model replaces its attention modules while it runs."""
    return any(
        hasattr(module, "set_attention_type")
        and getattr(getattr(module, "config", None), "attention_type", "") == "block_sparse"
        for module in model.modules()
    )


def hands_on_bias(block: nn.Module) -> bool:
    """Return whether an attention block computes a bias for itself and for the layers above it."""
    return hasattr(block, "has_relative_attention_bias") and hasattr(block, "compute_bias")


def stacks(model: nn.Module, touched: Iterable[str]) -> list[list[str]]:
    """Return the paths of all blocks in the touched blocks' stacks, a list per stack."""
    wanted = {_stack(path) for path in touched if hands_on_bias(model.get_submodule(path))}
    paths = [path for path, _ in model.named_modules()]
    return [[path for path in paths if _stack(path) == stack] for stack in sorted(wanted)]


def own_tables(model: nn.Module, found_stacks: Iterable[Sequence[str]]) -> list[SitePlan]:
    """Return the changes that give every block of the given stacks a bias table of its own."""
    found = []
    for stack in found_stacks:
        blocks: dict[str, Any] = {path: model.get_submodule(path) for path in stack}
        tables = {
            name: (f"{path}.{name}", child)
            for path, block in reversed(blocks.items())
            for name, child in block.named_children()
            if isinstance(child, nn.Embedding)
        }
        new = tuple(
            Table(path, name, like, table.num_embeddings, table.embedding_dim)
            for path, block in blocks.items()
            for name, (like, table) in tables.items()
            if not hasattr(block, name)
        )
        ignored = tuple((path, BIAS) for path, block in blocks.items() if BIAS in places(block))
        found.append(SitePlan(next(iter(blocks)), (), tables=new, ignored=ignored))
    return found


def table_cuts(path: str, block: nn.Module, n_heads: int, slots: tuple[int, ...]) -> list[Cut]:
    """Return the columns that stay of a block's own bias tables."""
    if not hands_on_bias(block):
        return []
    return [
        Cut(f"{path}.{name}.weight", 1, n_heads, runs(slots))
        for name, child in block.named_children()
        if isinstance(child, nn.Embedding) and child.embedding_dim == n_heads
    ]


def _stack(path: str) -> str:
    return re.sub(r"\.\d+\.", ".#.", path)
