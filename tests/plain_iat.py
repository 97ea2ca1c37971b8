"""IAT the plain way: gradients of each micro-batch by themselves, masked row by row, added up.

What docs/method.md#iat says, in as few lines as possible and with none of the library's training
code: the reference that `MultiTaskTrainer` is compared with.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lobes.heads import HeadLayout, HeadSet
from lobes.modeling import MultiTaskModel

# Adam divides by the size of a gradient: without this, one that is 0 but for rounding (that of a
# key's bias) would move a weight as far as any other.
EPSILON = 1e-4


def masks_of(model: MultiTaskModel, layout: HeadLayout, heads: HeadSet) -> dict[str, Tensor]:
    """{parameter: 1 where it may train, else 0, in its shape}, for the heads' projections."""
    masks = {
        rows.parameter: torch.zeros_like(model.get_parameter(rows.parameter))
        for site in layout.sites
        for rows in site.rows
    }
    for site, head in heads:
        for rows in layout.sites[site].rows:
            masks[rows.parameter].index_fill_(rows.axis, torch.tensor(rows.rows(head)), 1.0)
    return masks


def plain_steps(
    model: MultiTaskModel,
    layout: HeadLayout,
    heads: Mapping[str, HeadSet],
    steps: Sequence[Sequence[Mapping[str, Any]]],
    *,
    rates: Sequence[float],
    switch: int = 0,
    strict: bool = True,
    clip: float = 1.0,
) -> None:
    """AdamW over `steps`, each a list of micro-batches, whose mean gradient is taken.

    After the first `switch` steps the gradient of a micro-batch reaches the rows of its own
    task's heads only; with `strict`, rows that no micro-batch of a step may train are put back.
    """
    masks = {task: masks_of(model, layout, chosen) for task, chosen in heads.items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=rates[0], eps=EPSILON, weight_decay=0.0)
    names = dict(model.named_parameters())
    model.train()
    for number, (batches, rate) in enumerate(zip(steps, rates, strict=True)):
        held = number >= switch
        total: dict[str, Tensor] = {}
        for batch in batches:
            given = {key: value for key, value in batch.items() if key != "examples"}
            optimizer.zero_grad()
            (model(**given).loss / len(batches)).backward()
            for name, parameter in names.items():
                if parameter.grad is None:
                    continue
                mask = masks[batch["task"]].get(name, torch.ones(()))
                gradient = parameter.grad * mask if held else parameter.grad.clone()
                total[name] = total[name] + gradient if name in total else gradient
        before = {name: parameter.detach().clone() for name, parameter in names.items()}
        for name, parameter in names.items():
            parameter.grad = total.get(name)
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        if strict and held:
            with torch.no_grad():
                for name in masks[batches[0]["task"]]:
                    trained = sum(masks[batch["task"]][name] for batch in batches)
                    names[name].copy_(torch.where(trained > 0, names[name], before[name]))
