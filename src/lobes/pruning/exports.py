"""Export a pruned model in a form that transformers loads without lobes."""

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from lobes.errors import ModelError
from lobes.heads import HeadLayout, HeadSet
from lobes.pruning.kept_rows import Unfit
from lobes.pruning.plan import KEY, Plan, plans_of
from lobes.pruning.search import input_axis
from lobes.sites import Site


def zeroed(model: nn.Module, layout: HeadLayout, heads: HeadSet) -> nn.Module:
    """Return a copy at full size in which the heads' contexts are multiplied by zeros.

    Zero are their columns of the output projections, and the rows that belong to them alone.
    """
    users = Counter(rows.parameter for site in layout.sites for rows in site.rows)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for index, gone in heads.by_site().items():
            site = layout.sites[index]
            try:
                axis = input_axis(copied.get_submodule(site.projection), site)
            except Unfit as error:
                raise ModelError(
                    f"Heads of site {index} ({site.name}) cannot be set to zero: {error}."
                ) from error
            weight = copied.get_parameter(f"{site.projection}.weight")
            for head in gone:
                weight.narrow(axis, head * site.head_dim, site.head_dim).zero_()
            if site.prunable:
                own = tuple(rows for rows in site.rows if users[rows.parameter] == 1)
                _clear_rows(copied, replace(site, rows=own), gone)
    return copied


def _clear_rows(model: nn.Module, site: Site, gone: tuple[int, ...]) -> None:
    kept = [head for head in range(site.n_heads) if head not in gone]
    for rows in site.rows:
        used = {row for head in kept for row in rows.rows(head).tolist()}
        parameter = model.get_parameter(rows.parameter)
        for head in gone:
            for row in rows.rows(head).tolist():
                if row not in used:
                    parameter.select(rows.axis, row).zero_()


def native(smaller: Any) -> nn.Module:
    """Return a pruned model of the architecture's own class, whose configuration has fewer heads.

    Raises `ModelError` where no configuration does: heads left in unequal numbers, or an
    architecture whose heads' size follows from their number.
    """
    kind = type(smaller).__name__
    plans = plans_of(getattr(smaller, "config", None))
    if not plans or not isinstance(smaller, PreTrainedModel):
        raise ModelError(
            f"{kind} has no configuration of its own that could say how many heads are left: prune "
            f"the model from transformers inside it."
        )
    weights = smaller.state_dict()
    for table in (table for plan in plans for site in plan.sites for table in site.tables):
        own = weights.pop(f"{table.module}.{table.name}.weight")
        if not torch.equal(own, smaller.get_parameter(f"{table.like}.weight")):
            raise ModelError(
                f"{kind} cannot be exported as native: its layers share one position bias, and "
                f'keep different heads. Export it as "zeroed", or save it as it is.'
            )
    shapes = {name: weight.shape for name, weight in weights.items()}
    for config in _configurations(smaller.config, plans):
        with suppress(Exception):  # whatever a configuration class or a model does not accept
            # Shapes alone, without memory: most configurations tried do not fit.
            with torch.device("meta"):
                empty = type(smaller)(config)
            if {name: weight.shape for name, weight in empty.state_dict().items()} != shapes:
                continue
            # its initial weights are drawn, and replaced at once
            with torch.random.fork_rng(devices=[]):
                model = type(smaller)(config).to(smaller.device, smaller.dtype)
            model.load_state_dict(weights)
            if hasattr(smaller, "generation_config"):
                model.generation_config = copy.deepcopy(smaller.generation_config)
            return model.eval()
    counts = sorted({len(site.slots) for plan in plans for site in plan.sites if site.cuts})
    raise ModelError(
        f"{kind} cannot be exported as native: no {type(smaller.config).__name__} describes sites "
        f"with {listed(counts)} heads of their old size (the same number must be left at every "
        f'site, and the architecture must let a head\'s size be set). Export it as "zeroed", or '
        f"save it as it is."
    )


def listed(numbers: Iterable[int]) -> str:
    """Return numbers as a list in a sentence: "3", "3 and 4", "3, 4 and 5"."""
    *most, last = map(str, numbers)
    return f"{', '.join(most)} and {last}" if most else last


def _configurations(config: Any, plans: Sequence[Plan]) -> Iterator[Any]:
    """Configurations in which counts of heads are those that are left, the fullest change first."""
    plain = copy.deepcopy(config)
    vars(plain).pop(KEY, None)
    counts: dict[int, set[int]] = {}
    sites = [site for plan in plans for site in plan.sites if site.cuts]
    for old, new in (pair for site in sites for pair in site.counts):
        counts.setdefault(old, set()).add(new)
    for _, part in _parts(plain):
        if getattr(part, "head_dim", None) is None:
            part.head_dim = sites[0].head_dim  # for those that read it where it is given
    places = [
        (path, name, [*sorted(counts[value]), value])
        for path, part in _parts(plain)
        for name, value in vars(part).items()
        if "head" in name and type(value) is int and value in counts
    ]
    for values in product(*(options for *_, options in places)):
        changed = copy.deepcopy(plain)
        parts = dict(_parts(changed))
        for (path, name, _), value in zip(places, values, strict=True):
            setattr(parts[path], name, value)
        # as it will be read again, checks included
        with suppress(Exception):
            yield type(config).from_dict(changed.to_dict())


def _parts(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """A configuration and those inside it, by their places."""
    yield path, config
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            yield from _parts(value, f"{path}.{name}")
