"""Carry out a plan on a model: cut its parameters, change its numbers, hang in its hooks."""

import inspect
from threading import get_ident
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from lobes.errors import ModelError
from lobes.pruning.plan import PAD, Bypass, Cut, Narrowing, Plan, Setting, SitePlan, Table, entries
from lobes.pruning.torch_attention import narrow

# What modules call the length of a weight's axis, and the classes that number them the other way.
_LENGTHS = {0: ("out_features", "nf"), 1: ("in_features", "nx")}


def carry_out(model: nn.Module, plan: Plan) -> None:
    """Do to `model`, in place, what the plan says; its parameters may be on the meta device.

    Raises `ModelError` where the plan does not fit the model.
    """
    for site in plan.sites:
        operate(model, site)


def operate(model: nn.Module, site: SitePlan) -> None:
    """Do to `model`, in place, what is planned for one site."""
    for path in site.stepwise:
        narrow(model, _module(model, path))
    for table in site.tables:
        _give_table(model, table)
    for cut in site.cuts:
        _cut(model, cut)
    for setting in site.settings:
        _set(model, setting)
    for narrowing in site.narrowings:
        _narrow(_module(model, narrowing.module), narrowing)
    for bypass in site.bypasses:
        _bypass(model, bypass)
    for path, argument in site.ignored:
        module = _module(model, path)
        hook = _Ignore(argument, places(module)[argument])
        module.register_forward_pre_hook(hook, with_kwargs=True)


def selected(tensor: Tensor, axis: int, kept: Int[np.ndarray, " kept"]) -> Tensor:
    """Return the given entries of a tensor along an axis, in this order; zeros for -1."""
    index, pads = (
        torch.tensor(one, device=tensor.device)
        for one in (kept.clip(min=0), np.flatnonzero(kept == PAD))
    )
    found = tensor.index_select(axis, index)
    return found.index_fill(axis, pads, 0) if len(pads) else found


def _module(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise _misfit(model, f"it names {path!r}, which there is none of") from error


def _misfit(model: nn.Module, why: str) -> ModelError:
    return ModelError(
        f"The pruning plan does not fit {type(model).__name__}: {why}. A pruned model can only be "
        f"loaded into the architecture that it was pruned in."
    )


def _cut(model: nn.Module, cut: Cut) -> None:
    path, _, name = cut.parameter.rpartition(".")
    module = _module(model, path)
    tensor = module._parameters.get(name, module._buffers.get(name))
    if tensor is None:
        raise _misfit(model, f"it names {cut.parameter!r}, which there is none of")
    if cut.axis >= tensor.dim() or tensor.shape[cut.axis] != cut.size:
        raise _misfit(
            model,
            f"{cut.parameter} has the shape {list(tensor.shape)}, not {cut.size} along axis "
            f"{cut.axis}",
        )
    with torch.no_grad():
        smaller = selected(tensor.detach(), cut.axis, entries(cut.kept)).contiguous()
    if isinstance(tensor, nn.Parameter):
        module._parameters[name] = nn.Parameter(smaller, requires_grad=tensor.requires_grad)
        _declare(module, name, cut)
    else:
        module._buffers[name] = smaller


def _declare(module: nn.Module, name: str, cut: Cut) -> None:
    """Let a module's own numbers say the new length of its weight."""
    if name != "weight":
        return
    changed: Any = module
    if isinstance(module, nn.modules.conv._ConvNd) and module.groups == cut.size:
        if not cut.new_size:  # torch does not check, and reads memory that is not its own
            raise ModelError(f"{cut.parameter} is a convolution, which needs a channel.")
        changed.groups = changed.in_channels = changed.out_channels = cut.new_size
        return
    if isinstance(module, nn.Embedding):
        names: tuple[str, ...] = ("num_embeddings", "embedding_dim")[cut.axis : cut.axis + 1]
    elif isinstance(module, nn.LayerNorm):
        if module.normalized_shape == (cut.size,):
            changed.normalized_shape = (cut.new_size,)
        return
    else:
        transposed = hasattr(module, "nf")  # Conv1D of GPT-2
        names = _LENGTHS[1 - cut.axis if transposed and cut.axis < 2 else cut.axis]
    for attribute in names:
        if getattr(module, attribute, None) == cut.size:
            setattr(changed, attribute, cut.new_size)


def _set(model: nn.Module, setting: Setting) -> None:
    owner: Any = _module(model, setting.module)
    holder, name = owner, setting.name.removeprefix("config.")
    if name != setting.name:
        holder = getattr(owner, "config", None)
    # nothing but a number: the plan comes out of a file, which may name anything
    if not isinstance(getattr(holder, name, None), int):
        where = f"{setting.module}.{setting.name}"
        raise _misfit(model, f"it changes {where!r}, which is no number there")
    if holder is owner:
        setattr(owner, name, setting.value)
        return
    if not isinstance(holder, ChangedConfig):
        owner.config = ChangedConfig(holder)
    owner.config.changes[name] = setting.value


class ChangedConfig:
    """A configuration that says something else of a few things, and the same of all others."""

    def __init__(self, config: Any) -> None:
        self.original = config
        self.changes: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "changes" not in self.__dict__:
            raise AttributeError(name)
        return self.changes[name] if name in self.changes else getattr(self.original, name)


def _narrow(module: nn.Module, narrowing: Narrowing) -> None:
    if narrowing.argument is None:
        module.register_forward_hook(_NarrowOutput(narrowing))
    else:
        hook = _NarrowArgument(narrowing, places(module)[narrowing.argument])
        module.register_forward_pre_hook(hook, with_kwargs=True)
        module.register_forward_hook(hook.hand_on)


def places(module: nn.Module) -> dict[str, int]:
    """Return the position of each argument among those given by position."""
    names = inspect.signature(module.forward).parameters
    return {name: place for place, name in enumerate(names)}


# Hooks are objects and not closures, so that models can be copied and pickled with them. What one
# hook leaves for another is kept by threads, of which several may run a model.
def _thread() -> int:
    """The number of the thread that runs; 0 where torch.compile, which cannot ask, traces it."""
    return 0 if torch.compiler.is_compiling() else get_ident()


class _Narrower:
    def __init__(self, narrowing: Narrowing) -> None:
        self.axis, self.size = narrowing.axis, narrowing.size
        self.kept: list[int] = entries(narrowing.kept).clip(min=0).tolist()
        self._index: dict[torch.device, Tensor] = {}  # made where used: models are built on meta

    def narrow(self, tensor: Any) -> Any:
        if not isinstance(tensor, Tensor) or tensor.shape[self.axis] == 1 < self.size:
            return tensor  # nothing given, or the same for all heads
        axis = self.axis % tensor.dim()
        parts = tensor.unflatten(axis, (-1, self.size))
        parts = parts.index_select(axis + 1, self._index_on(tensor.device))
        return parts.flatten(axis, axis + 1)

    def _index_on(self, device: torch.device) -> Tensor:
        if torch.compiler.is_compiling():  # a trace's tensors have no values to be kept
            return torch.tensor(self.kept, dtype=torch.int64, device=device)
        if device not in self._index:
            with torch.inference_mode(False):  # a training may need it later
                index = torch.tensor(self.kept, dtype=torch.int64, device=device)
            if type(index) is not Tensor:  # nor have those of torch's other tracers
                return index
            self._index[device] = index
        return self._index[device]


class _NarrowOutput(_Narrower):
    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return self.narrow(output)


class _NarrowArgument(_Narrower):
    def __init__(self, narrowing: Narrowing, place: int) -> None:
        super().__init__(narrowing)
        self.argument, self.place = str(narrowing.argument), place
        self._passed: dict[int, tuple[Any, Any]] = {}  # the whole argument, and what was passed on

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        return _replaced(args, kwargs, self.argument, self.place, self._pass)

    def _pass(self, tensor: Any) -> Any:
        narrow = self.narrow(tensor)
        self._passed[_thread()] = tensor, narrow
        return narrow

    def hand_on(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Return the whole argument where the module returns it for others to use."""
        whole, narrow = self._passed.pop(_thread(), (None, None))
        if narrow is None or not isinstance(output, tuple):
            return output
        return tuple(whole if one is narrow else one for one in output)


def _bypass(model: nn.Module, bypass: Bypass) -> None:
    block = _module(model, bypass.module)
    hook = _Bypass(bypass.argument, places(block)[bypass.argument], bypass.width)
    block.register_forward_pre_hook(hook, with_kwargs=True)
    block.register_forward_hook(hook.forget)
    for path, axes in bypass.readers:
        _module(model, path).register_forward_pre_hook(_Reader(hook, axes))


class _Bypass:
    def __init__(self, argument: str, place: int, width: int) -> None:
        self.argument, self.place, self.width = argument, place, width
        self.whole: dict[int, Tensor] = {}

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        return _replaced(args, kwargs, self.argument, self.place, self._show)

    def _show(self, tensor: Tensor) -> Tensor:
        self.whole[_thread()] = tensor
        return tensor[..., : self.width]

    def forget(self, module: nn.Module, args: Any, output: Any) -> None:
        self.whole.pop(_thread(), None)


class _Reader:
    def __init__(self, bypass: _Bypass, axes: tuple[int, ...]) -> None:
        self.bypass, self.axes = bypass, axes

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        whole = self.bypass.whole.get(_thread())
        if whole is None or args[0].shape[-1] == whole.shape[-1]:
            return args  # what it reads does not come from the argument
        return whole.permute(self.axes), *args[1:]


class _Ignore:
    def __init__(self, argument: str, place: int) -> None:
        self.argument, self.place = argument, place

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        return _replaced(args, kwargs, self.argument, self.place, lambda _: None)


def _replaced(args: Any, kwargs: Any, argument: str, place: int, change: Any) -> tuple[Any, Any]:
    if argument in kwargs:
        return args, {**kwargs, argument: change(kwargs[argument])}
    if place < len(args):
        return (*args[:place], change(args[place]), *args[place + 1 :]), kwargs
    return args, kwargs


def _give_table(model: nn.Module, table: Table) -> None:
    module: Any = _module(model, table.module)
    shared: Any = _module(model, table.like)
    shape = (table.rows, table.columns)
    weight = shared.weight.detach()
    # where the shared table is cut already, the weights that were saved will fit
    values = weight.clone() if tuple(weight.shape) == shape else weight.new_empty(shape)
    own = nn.Embedding.from_pretrained(values, freeze=not shared.weight.requires_grad)
    own.train(shared.training)
    module.add_module(table.name, own)
    module.has_relative_attention_bias = True
