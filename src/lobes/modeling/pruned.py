"""Classes whose `from_pretrained` loads models that were pruned, by `lobes` or transformers 4."""

from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from lobes.discovery import find_heads
from lobes.errors import LobesError, ModelError
from lobes.heads import HeadSet
from lobes.pruning import prune
from lobes.pruning.plan import KEY, Plan, SitePlan, plans_of, store
from lobes.pruning.surgery import carry_out

_PRUNED_BY_4 = "pruned_heads"  # {layer: [head, …]} in configurations of transformers 4


def is_pruned(config: Any) -> bool:
    """Return whether a model's configuration says that heads were removed."""
    return getattr(config, KEY, None) is not None or bool(getattr(config, _PRUNED_BY_4, None))


class PrunedLoader:
    """Stands in for a class of transformers whose pruned models shall be loaded.

    A model is built in full size, without memory for its weights; then what the plans say is done
    to it, and the weights that were saved fit. `model_class` may be an automatic class; None is
    the class that the model was saved from.
    """

    def __init__(self, config: Any, model_class: Any, name: str, trust_remote_code: bool) -> None:
        self._class = _class_of(config, model_class, name, trust_remote_code)
        self._plans = self._first = plans_of(config)
        self._later: list[Plan] = []
        if not self._plans:
            plan = _plan_of_version_4(config, self._class, name)
            saved, rest = _in_two(plan)
            self._plans, self._first, self._later = [plan], [saved], [rest]

    def from_pretrained(self, name: str, **kwargs: Any) -> Any:
        """Load as the class's own `from_pretrained` does, with a model of that class."""
        original, plans = self._class, self._first

        def build(model: Any, config: Any, *args: Any, **kwargs: Any) -> None:
            original.__init__(model, config, *args, **kwargs)
            for plan in plans:
                carry_out(model, _fitted(model, plan))

        # of its module too: transformers renames the weights of its own classes only
        own = {"__init__": build, "__module__": original.__module__}
        loading: Any = type(original.__name__, (original,), own)
        loaded = loading.from_pretrained(name, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.__class__ = original
        for plan in self._later:
            carry_out(model, plan)
        store(model.config, self._plans)
        if getattr(model.config, _PRUNED_BY_4, None):
            setattr(model.config, _PRUNED_BY_4, {})
        return loaded


def _class_of(config: Any, model_class: Any, name: str, trust_remote_code: bool) -> Any:
    """The class of transformers, or of the model's own code, that a pruned model is built from."""
    names = list(getattr(config, "architectures", None) or ())
    if not isinstance(model_class, type | None):
        raise ModelError(
            f"{name!r} is loaded as a class of transformers, such as transformers.BertModel, or "
            f"without one as what it was saved from; a {type(model_class).__name__} is none."
        )
    if model_class is None:
        model_class = next(map(named_class, names), None) or AutoModel
        if model_class is not AutoModel:
            return model_class
    if not hasattr(model_class, "_model_mapping"):
        if not _is_of(config, model_class):
            raise ModelError(
                f"{name!r} holds a pruned {config.model_type} model, which cannot be loaded as "
                f"{model_class.__name__}: a pruned model fits the architecture that it was pruned "
                f"in, and no other."
            )
        return model_class
    own_code = (getattr(config, "auto_map", None) or {}).get(model_class.__name__)
    if own_code and trust_remote_code:
        return get_class_from_dynamic_module(own_code, name)
    if type(config) not in model_class._model_mapping:
        raise ModelError(
            f"{name!r} holds a pruned {config.model_type} model, and {model_class.__name__} has "
            f"none of that type: give the class that it was saved from ({', '.join(names)})."
        )
    found = model_class._model_mapping[type(config)]
    if isinstance(found, tuple):
        found = next((one for one in found if one.__name__ in names), found[0])
    return found


def named_class(name: Any) -> Any:
    """Return the model class of transformers with this name; None if there is none.

    The name comes out of a configuration, which may name anything.
    """
    found = getattr(transformers, name, None) if isinstance(name, str) else None
    is_model = isinstance(found, type) and issubclass(found, PreTrainedModel)
    return found if is_model else None


def _is_of(config: Any, model_class: Any) -> bool:
    """Whether a class builds models of a configuration, or those of the type that it stands for."""
    wanted = getattr(model_class, "config_class", None)
    if wanted is None or isinstance(config, wanted):
        return wanted is not None
    mapped = AutoModel._model_mapping.get(type(config), None)
    base = mapped[0] if isinstance(mapped, tuple) else mapped
    return getattr(base, "config_class", None) is wanted


def _fitted(model: Any, plan: Plan) -> Plan:
    """The plan with this model's names: a base model's parts lie at a prefix in other models."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    modules = {name for name, _ in model.named_modules()}
    for rename in (
        lambda name: name,
        lambda name: name.removeprefix(prefix),
        lambda name: prefix + name,
    ):
        renamed = plan.renamed(rename)
        if all(site.projection in modules for site in renamed.sites):
            return renamed
    return plan


def _in_two(plan: Plan) -> tuple[Plan, Plan]:
    """What transformers 4 carried out on the weights it saved, and the rest of the plan.

    It left the tables of position biases whole, and cut what they gave in each forward pass. The
    rest is a copy of the table for each layer, with its own heads' columns.
    """
    tables = [table for site in plan.sites for table in site.tables]
    weights = {f"{table.module}.{table.name}.weight" for table in tables}
    weights |= {f"{table.like}.weight" for table in tables}
    saved, rest = [], []
    for site in plan.sites:
        own = tuple(cut for cut in site.cuts if cut.parameter not in weights)
        late = tuple(cut for cut in site.cuts if cut.parameter in weights)
        saved.append(replace(site, tables=(), ignored=(), cuts=own))
        bare = SitePlan(site.projection, site.slots, cuts=late)
        rest.append(replace(bare, tables=site.tables, ignored=site.ignored))
    return replace(plan, sites=tuple(saved)), replace(plan, sites=tuple(rest))


def _plan_of_version_4(config: Any, model_class: Any, name: str) -> Plan:
    """What transformers 4 did when it pruned: the heads of each layer's self-attention.

    Where they are is discovered in a model of full size with random weights.
    """
    wanted = getattr(config, _PRUNED_BY_4, None)
    if not wanted:
        raise ModelError(
            f"{name!r} was not pruned: its configuration has neither a plan of lobes.prune nor "
            f"pruned_heads of transformers 4. Load it with transformers' own from_pretrained."
        )
    try:
        with torch.random.fork_rng(devices=[]):
            model: nn.Module = model_class(type(config).from_dict(config.to_dict())).eval()
        layout = find_heads(model)
        layers = [site.index for site in layout.sites if site.kind == "self"]
        heads = HeadSet(
            (layers[int(layer)], head) for layer, gone in wanted.items() for head in gone
        )
        (plan,) = plans_of(prune(model, heads, layout=layout).config)
    except (LobesError, IndexError, ValueError, TypeError) as error:
        raise ModelError(
            f"{name!r} says that transformers 4 pruned its heads {wanted}, and that could not be "
            f"done again: {error}"
        ) from error
    return plan
