"""Export a pruned model in a form that transformers loads without lobes."""

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from lobes.errors import ModelError
from lobes.heads import HeadLayout, HeadSet
from lobes.pruning.kept_rows import Unfit
from lobes.pruning.plan import KEY, SitePlan, plans_of
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
    if not isinstance(smaller, PreTrainedModel):
        raise ModelError(
            f"{kind} has no configuration of its own that could say how many heads are left: prune "
            f"the model from transformers inside it."
        )
    if not plans:  # no head was to go
        return smaller
    weights = smaller.state_dict()
    for table in (table for plan in plans for site in plan.sites for table in site.tables):
        own = weights.pop(f"{table.module}.{table.name}.weight")
        if not torch.equal(own, smaller.get_parameter(f"{table.like}.weight")):
            raise ModelError(
                f"{kind} cannot be exported as native: its layers share one position bias, and "
                f"keep different heads. Save it as it is, or export the whole model without these "
                f'heads as "zeroed".'
            )
    shapes = {name: weight.shape for name, weight in weights.items()}
    sites = _in_one(site for plan in plans for site in plan.sites if site.cuts)
    for config in _configurations(smaller.config, sites):
        # Whatever a configuration class or a model does not accept. Initial weights are drawn, too.
        with suppress(Exception), torch.random.fork_rng(devices=[]):
            # Shapes alone, without memory: most configurations tried do not fit.
            with torch.device("meta"):
                empty = type(smaller)(config)
            if {name: weight.shape for name, weight in empty.state_dict().items()} != shapes:
                continue
            model = type(smaller)(config).to(smaller.device)
            _become_like(model, smaller)
            model.load_state_dict(weights)
            if hasattr(smaller, "generation_config"):
                model.generation_config = copy.deepcopy(smaller.generation_config)
            return model.eval()
    counts = sorted({len(site.slots) for site in sites})
    raise ModelError(
        f"{kind} cannot be exported as native: no {type(smaller.config).__name__} describes sites "
        f"with {listed(counts)} heads of their old size (the same number must be left at every "
        f"site, unless the architecture reads per_layer_config, and a head's size must be a "
        f'setting). Save it as it is, or export the whole model without these heads as "zeroed".'
    )


def _in_one(steps: Iterable[SitePlan]) -> list[SitePlan]:
    """Sites as if they had been pruned once: their heads and groups before the first time."""
    sites: dict[str, SitePlan] = {}
    for site in steps:
        first = sites.get(site.projection, site)
        # groups that became single heads are no longer counted by themselves
        left = [after for _, after in (*site.counts, *site.counts[:1])]
        counts = tuple((old, new) for (old, _), new in zip(first.counts, left, strict=False))
        sites[site.projection] = replace(site, counts=counts)
    return list(sites.values())


def _become_like(model: nn.Module, other: nn.Module) -> None:
    """Give each parameter and buffer the precision of the other model's, and `requires_grad`.

    Models in low precision keep a few in float32, such as the frequencies of rotary positions.
    """
    buffers = dict(other.named_buffers())
    for name, buffer in [*model.named_buffers()]:
        if name in buffers:
            path, _, own = name.rpartition(".")
            model.get_submodule(path)._buffers[own] = buffer.to(buffers[name].dtype)
    for name, parameter in model.named_parameters():
        given = other.get_parameter(name)
        parameter.data = parameter.data.to(given.dtype)
        parameter.requires_grad_(given.requires_grad)


def listed(numbers: Iterable[int]) -> str:
    """Return numbers as a list in a sentence: "3", "3 and 4", "3, 4 and 5"."""
    *most, last = map(str, numbers)
    return f"{', '.join(most)} and {last}" if most else last


@dataclass(frozen=True)
class _ByLayer:
    """A count of heads for each layer: `which` of the counts at the sites in `stack`."""

    stack: str
    which: int


def _configurations(config: Any, sites: Sequence[SitePlan]) -> Iterator[Any]:
    """Configurations in which counts of heads are those that are left, the fullest change first.

    A count is one for all layers, or in `per_layer_config`, which some architectures read.
    """
    plain = copy.deepcopy(config)
    vars(plain).pop(KEY, None)
    for _, part in _parts(plain):
        if "head_dim" not in _layered(part) and getattr(part, "head_dim", None) is None:
            part.head_dim = sites[0].head_dim  # for those that read it where it is given
    choices = _choices(plain, sites)
    for values in product(*choices.values()):
        changed = copy.deepcopy(plain)
        parts = dict(_parts(changed))
        # as it will be read again, checks included
        with suppress(Exception):
            for (path, name), value in zip(choices, values, strict=True):
                if isinstance(value, _ByLayer):
                    _say_by_layer(parts[path], name, value, sites)
                else:
                    setattr(parts[path], name, value)
            read = type(config).from_dict(changed.to_dict())
            for path, part in _parts(read):
                if path in parts:  # which is not written
                    part._attn_implementation = parts[path]._attn_implementation
            yield read


def _choices(plain: Any, sites: Sequence[SitePlan]) -> dict[tuple[str, str], list[int | _ByLayer]]:
    """What each count of heads in a configuration may become, by (part, name)."""
    counts: dict[int, set[int]] = {}
    for old, new in (pair for site in sites for pair in site.counts):
        counts.setdefault(old, set()).add(new)
    stacks = sorted({_place(site)[0] for site in sites if _place(site)[1] >= 0})
    each = range(max(len(site.counts) for site in sites))
    by_layer = [_ByLayer(stack, which) for stack in stacks for which in each]
    choices: dict[tuple[str, str], list[int | _ByLayer]] = {}
    for path, part in _parts(plain):
        able = hasattr(part, "per_layer_config") and hasattr(part, "num_hidden_layers")
        for name, value in vars(part).items():
            known = type(value) is int and "head" in name
            if known and (value in counts or (name in _layered(part) and name != "head_dim")):
                options = [*sorted(counts.get(value, ())), value]
                choices[path, name] = [*options, *(by_layer if able else ())]
    return choices


def _layered(part: Any) -> set[str]:
    """The settings in which the layers of a configuration differ; transformers guards them."""
    return getattr(part, "per_layer_attributes", None) or set()


def _place(site: SitePlan) -> tuple[str, int]:
    """The stack of layers that a site is in, and the number of its layer there; -1 for none."""
    before: list[str] = []
    for part in site.projection.split("."):
        if part.isdigit():
            return ".".join(before), int(part)
        before.append(part)
    return "", -1


def _say_by_layer(part: Any, name: str, said: _ByLayer, sites: Sequence[SitePlan]) -> None:
    """Write the counts that are left at the sites of a stack into `per_layer_config`."""
    overrides = {int(k): dict(v) for k, v in part.to_dict().get("per_layer_config", {}).items()}
    for stack, layer, counts in ((*_place(site), site.counts) for site in sites):
        before, after = counts[min(said.which, len(counts) - 1)]
        if stack == said.stack and getattr(part.per_layer_config[layer], name) == before:
            overrides.setdefault(layer, {})[name] = after
    part.per_layer_config = overrides


def _parts(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """A configuration and those inside it, by their places."""
    yield path, config
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            yield from _parts(value, f"{path}.{name}")
