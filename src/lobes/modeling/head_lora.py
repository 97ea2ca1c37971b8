"""LoRA on chosen heads: adapters of peft that change these heads and no others.

LoRA adds s·B·A to the weight of a projection. A head owns rows of the query, key and value
projections, which are rows of B, and columns of the output projection, which are columns of A.
The entries of other heads are 0 from the start, and the forward pass leaves out what they would
give. So their gradient is exactly 0, and no momentum and no weight decay moves them. What peft
saves and merges is then what the forward pass computes, and peft alone can load it.

What it cannot do: a variant of LoRA in which every row depends on all entries (DoRA's magnitudes),
or whose start changes the weights of the base model (PiSSA, OLoRA). Both are refused.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from lobes import limits
from lobes.discovery import layout_of
from lobes.discovery.kept import seeded
from lobes.discovery.scope import block_around
from lobes.errors import ConfigError, ModelError, first_line
from lobes.heads import HeadLayout, Heads, HeadSet
from lobes.limits import check_number, short
from lobes.modeling.saved import ENCODER, is_saved_model
from lobes.modeling.saved_adapters import HEADS, is_adapted, name_base, peft_library
from lobes.modeling.task_model import TaskModel
from lobes.sites import Site

_OPTIONS = ("task_type", "use_rslora", "init_lora_weights", "rank_pattern", "alpha_pattern")
_STARTS = (True, False, "gaussian")
# peft's names of what `head_lora` has as arguments.
_ARGUMENTS = {"lora_alpha": "alpha", "lora_dropout": "dropout", "rank": "r", "lora_rank": "r"}


def head_lora(
    model: nn.Module,
    heads: Heads,
    *,
    r: int = 8,
    alpha: float = 16,
    dropout: float = 0.0,
    target_modules: str | Sequence[str] | None = None,
    shared_rows: bool = False,
    seed: int = 0,
    layout: HeadLayout | None = None,
    **options: Any,
) -> Any:
    """Return a peft model whose LoRA adapters change these heads only.

    `heads` are in any form that `HeadSet.of` reads. Every linear projection with rows (query, key,
    value) or columns (output) of these heads gets an adapter of rank `r`, scaled by `alpha` / `r`,
    with `dropout` on its input. `target_modules` are ends of the names of projections, such as
    `["q_proj", "v_proj"]`: the others get none. Key and value rows that several heads share
    (grouped-query attention) change if all of these heads are chosen; with `shared_rows` if one
    of them is. With the chosen heads ablated, the model is then its base model, but for heads
    that `shared_rows` reached. `seed` draws the start of the adapters. `options` are further ones
    of `peft.LoraConfig`: task_type, use_rslora, rank_pattern, alpha_pattern, and init_lora_weights
    (True, False or "gaussian").

    As with `peft.get_peft_model`, the adapters are put into the given model, whose weights no
    longer train. Saved by `save_pretrained`, they load with `peft.PeftModel.from_pretrained`.
    A model that has a LoRA adapter already (loaded with `is_trainable=True`) keeps it, and from
    then on only the entries of these heads train. A model of lobes, such as a `MultiTaskModel`,
    is returned itself, with the adapters in its encoder.

    Raises `ModelError` for heads that cannot be told apart or whose projections are no linear
    layers, `HeadError` for heads that do not exist, `ConfigError` for settings that cannot be, and
    where peft is not installed.
    """
    peft = peft_library("LoRA on chosen heads")
    layout = layout_of(model, layout)
    if (what := block_around(model)) is not None:
        raise ModelError(
            f"The model is inside a block of {what}, which acts on its projections and would not "
            f"act on their adapters: call head_lora before the block."
        )
    chosen = HeadSet.of(heads, layout)
    _check(chosen, r, alpha, dropout, options)
    check_number("seed", seed, limits.SEED)
    part = _part(model)
    target = getattr(model, part) if part else model
    slices = _named(_slices(model, layout, chosen, shared_rows), target_modules)
    slices = {path.removeprefix(f"{part}."): own for path, own in slices.items()}
    fresh = not is_adapted(target)
    if fresh:
        conv1d = any(isinstance(own.module, Conv1D) for own in slices.values())
        try:
            config = peft.LoraConfig(
                r=r,
                lora_alpha=alpha,
                lora_dropout=dropout,
                target_modules=sorted(slices),
                fan_in_fan_out=conv1d,
                **options,
            )
            with seeded(seed):
                adapted = peft.get_peft_model(target, config)
        except (AttributeError, TypeError, ValueError) as error:
            raise ConfigError(
                f"peft does not take these options, {short(options)}, and says: "
                f"{first_line(error)}. Load the model again before another try."
            ) from error
        _name_base(adapted, target)
        slices = {f"base_model.model.{path}": own for path, own in slices.items()}
    else:
        adapted = target
        given = {"r": r, "lora_alpha": alpha, "lora_dropout": dropout, **options}
        _check_kept(adapted, layout, chosen, given)
    _limit(adapted, slices, fresh=fresh)
    adapted.__dict__[HEADS] = {"heads": str(chosen), "shared_rows": shared_rows}
    if not part:
        return adapted
    setattr(model, part, adapted)
    return model


def _unknown(name: str) -> str:
    """What is said of an argument that `head_lora` does not have."""
    if name in _ARGUMENTS:
        return f"{name} is called {_ARGUMENTS[name]} in head_lora: give {_ARGUMENTS[name]}=…."
    return (
        f"{name} is no option of head_lora; of peft's it takes {', '.join(_OPTIONS)}. Others would "
        f"change more than the rows of the chosen heads."
    )


def _part(model: nn.Module) -> str:
    """Where a model of lobes keeps that of transformers; "" for any other model."""
    if not isinstance(model, TaskModel):
        return ""
    return "encoder" if isinstance(getattr(model, "encoder", None), nn.Module) else "model"


def _name_base(adapted: Any, base: Any) -> None:
    """A saved `MultiTaskModel` has its encoder in a folder of its own."""
    name = getattr(base, "name_or_path", "")
    if name and is_saved_model(name):
        name_base(adapted, os.path.join(name, ENCODER))


def _check(
    chosen: HeadSet, r: int, alpha: float, dropout: float, options: Mapping[str, Any]
) -> None:
    if not chosen:
        raise ConfigError("The set of heads is empty, so there is nothing to adapt: name a head.")
    check_number("r", r, limits.RANK)
    check_number("alpha", alpha, limits.LORA_ALPHA)
    check_number("dropout", dropout, limits.DROPOUT)
    for name, value in options.items():
        if name not in _OPTIONS:
            raise ConfigError(_unknown(name))
        if name == "init_lora_weights" and value not in _STARTS:
            raise ConfigError(
                f"init_lora_weights is {value!r}, which would change the weights of the base model "
                f'or needs data; expected True, False or "gaussian".'
            )


def _check_kept(
    adapted: Any, layout: HeadLayout, chosen: HeadSet, given: Mapping[str, Any]
) -> None:
    """Raise what an adapter that is kept cannot do: train, reach the heads, have other settings."""
    config, name = adapted.peft_config[adapted.active_adapter], adapted.active_adapter
    usual = {"r": 8, "lora_alpha": 16, "lora_dropout": 0}
    for key, value in given.items():
        kept = getattr(config, key, None)
        if value not in (kept, usual.get(key)):
            raise ConfigError(
                f"The model has an adapter already, whose {key} is {short(kept)} and not "
                f"{short(value)}: leave that out, or take the adapter out first (unload)."
            )
    factors = {
        part: parameter
        for part, parameter in adapted.named_parameters()
        if f".lora_A.{name}." in part or f".lora_B.{name}." in part
    }
    paths = {part.rpartition(".lora_")[0] for part in factors}
    for site in chosen.by_site():
        own = {path for path, _, head, _ in _owned(layout) if head[0] == site}
        if not any(path.endswith(each) or each.endswith(path) for path in paths for each in own):
            raise ModelError(
                f"The model's adapter is on no projection of site {site} ({layout[site].name}): "
                f"choose the heads that it was made for, or begin with a new adapter."
            )
    if not all(parameter.requires_grad for parameter in factors.values()):
        raise ModelError(
            "The model's adapter was loaded to be used, and does not train: load it with "
            "peft.PeftModel.from_pretrained(…, is_trainable=True)."
        )


# Which entries belong to the chosen heads


@dataclass(frozen=True, eq=False)
class _Slices:
    """A projection, and which of its outputs (rows) or inputs (columns) the heads own alone."""

    module: nn.Module
    outputs: bool
    own: Bool[np.ndarray, " entries"]


def _slices(
    model: nn.Module, layout: HeadLayout, chosen: HeadSet, shared_rows: bool
) -> dict[str, _Slices]:
    """What belongs to the chosen heads, by the path of the projection."""
    for site in (layout[index] for index in chosen.by_site()):
        _check_site(model, site)
    owners: dict[tuple[str, bool], list[tuple[bool, Any]]] = {}
    for path, outputs, head, entries in _owned(layout):
        owners.setdefault((path, outputs), []).append((head in chosen, entries))
    found = {}
    for (path, outputs), parts in owners.items():
        module = _base(model.get_submodule(path))
        if not any(is_chosen for is_chosen, _ in parts) or not isinstance(
            module, nn.Linear | Conv1D
        ):
            continue
        size = _sizes(module)[0 if outputs else 1]
        mine, others = np.zeros((2, size), dtype=bool)
        for is_chosen, entries in parts:
            (mine if is_chosen else others)[entries] = True
        own = mine if shared_rows and outputs else mine & ~others
        if own.any():
            found[path] = _Slices(module, outputs, own)
    return found


def _owned(layout: HeadLayout) -> Iterator[tuple[str, bool, tuple[int, int], Any]]:
    """(path of a projection, whether its outputs are meant, head, entries) of every head."""
    for site in layout:
        for head in range(site.n_heads):
            place = site.index, head
            for rows in site.rows:
                path, _, name = rows.parameter.rpartition(".")
                # an adapter's own factors are no projections
                if name == "weight" and ".lora_" not in path:
                    yield path.removesuffix(".base_layer"), True, place, rows.rows(head)
            columns = slice(head * site.head_dim, (head + 1) * site.head_dim)
            yield site.projection.removesuffix(".base_layer"), False, place, columns


def _check_site(model: nn.Module, site: Site) -> None:
    """Raise `ModelError` where an adapter of one head would change others, or cannot be."""
    where = f"The heads of site {site.index} ({site.name}) cannot have adapters of their own"
    if not site.gateable or not site.rows:
        reason = site.gate_reason or "no projection that belongs to one head was found"
        raise ModelError(f"{where}: {reason}; choose heads of other sites.")
    for path in [*sorted(_projections(model, site)), site.projection]:
        module = _base(model.get_submodule(path))
        if not isinstance(module, nn.Linear | Conv1D) or type(module.weight.data) is not Tensor:
            raise ModelError(
                f"{where}: {path} is a {type(module).__name__}, and no linear layer whose rows or "
                f"columns are those of heads; choose heads of other sites."
            )


def _projections(model: nn.Module, site: Site) -> Iterator[str]:
    """The paths of the modules whose weights hold the heads' rows; norms and tables are none."""
    for rows in site.rows:
        path, _, name = rows.parameter.rpartition(".")
        is_matrix = name == "weight" and model.get_parameter(rows.parameter).dim() > 1
        packed = isinstance(model.get_submodule(path), nn.MultiheadAttention)
        if ".lora_" not in path and (is_matrix or packed):
            yield path


def _base(module: Any) -> nn.Module:
    """The layer itself, without the adapter around it."""
    return module.get_base_layer() if hasattr(module, "get_base_layer") else module


def _sizes(module: nn.Module) -> tuple[int, int]:
    """How many outputs and inputs a linear layer has."""
    first, second = module.weight.shape  # type: ignore[misc]
    return (second, first) if isinstance(module, Conv1D) else (first, second)


def _named(
    slices: Mapping[str, _Slices], target_modules: str | Sequence[str] | None
) -> dict[str, _Slices]:
    """Those projections whose path ends in one of the names; all for None."""
    if target_modules is None:
        return dict(slices)
    names = [target_modules] if isinstance(target_modules, str) else target_modules
    if not isinstance(names, list | tuple | set | frozenset) or not names:
        raise ConfigError(
            f"target_modules is {short(target_modules)}; expected ends of the names of "
            f'projections, such as ["q_proj", "v_proj"], or None for all.'
        )
    for name in names:
        if not any(f".{path}".endswith(f".{name}") for path in slices):
            ends = dict.fromkeys(path.rpartition(".")[2] for path in slices)
            raise ConfigError(
                f"target_modules names {name!r}, which ends the path of no projection with rows or "
                f"columns of these heads; expected one of {', '.join(ends)}, or longer ends of "
                f"their paths."
            )
    return {
        path: own
        for path, own in slices.items()
        if any(f".{path}".endswith(f".{name}") for name in names)
    }


# The factors of an adapter, limited to these entries


class _Factor(nn.Linear):
    """A factor of LoRA, of which only some entries take part; it shares its weight.

    Outputs or inputs are masked, and not the weight: so the weight of the forward pass is the
    parameter itself, which discovery and the row gate can recognize.
    """

    own: Tensor

    def __init__(self, factor: nn.Linear, own: Bool[Tensor, " entries"]) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = factor.in_features, factor.out_features
        self.weight, self.bias = factor.weight, factor.bias
        # peft saves what the state holds, and knows nothing of masks
        self.register_buffer("own", own.to(factor.weight.device), persistent=False)

    def outside(self) -> Bool[Tensor, "out in"]:
        """Return which entries of the weight take no part."""
        own = self.own[:, None] if isinstance(self, OwnOutputs) else self.own[None]
        return ~own.expand_as(self.weight)


class OwnOutputs(_Factor):
    """LoRA's B of a query, key or value projection: rows of other heads give nothing."""

    def forward(self, input: Tensor) -> Tensor:
        return torch.where(self.own, functional.linear(input, self.weight, self.bias), 0)


class OwnInputs(_Factor):
    """LoRA's A of an output projection: columns of other heads read nothing."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(torch.where(self.own, input, 0), self.weight, self.bias)


def _limit(adapted: Any, slices: Mapping[str, _Slices], *, fresh: bool) -> None:
    """Let only the chosen heads' entries of the active adapter take part.

    Those of other heads become 0 in a fresh adapter; in one that was there before they have to be.
    """
    name = adapted.active_adapter
    for path, layer in adapted.named_modules():
        factors = getattr(layer, "lora_A", {}), getattr(layer, "lora_B", {})
        if name not in factors[0]:
            continue
        own = slices.get(path)
        if own is None or layer.lora_variant or factors[1][name].bias is not None:
            raise ModelError(
                f"The LoRA adapter of {path} cannot be limited to these heads: expected plain LoRA "
                f"on projections with rows or columns of them, as head_lora makes."
            )
        kind, factor = (OwnOutputs, factors[1]) if own.outputs else (OwnInputs, factors[0])
        limited = kind(factor[name], torch.from_numpy(own.own))
        outside = limited.outside()
        if not fresh and bool(limited.weight[outside].any()):
            raise ModelError(
                f"The LoRA adapter of {path} changes rows or columns of other heads already: give "
                f"all the heads that it was made for, or begin with a new adapter."
            )
        with torch.no_grad():
            limited.weight[outside] = 0
        factor[name] = limited
