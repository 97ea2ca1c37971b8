"""Watch one forward pass, cutting the autograd graph where attention and projections compute.

Every linear projection's output is replaced by a leaf of random numbers, and the probabilities of
every attention by a leaf of their values. So each piece of graph between two cuts is short, no
gradient crosses a block, and what a gradient shows does not depend on the weights: a head whose
weights are all zero is found like any other.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from lobes.discovery.functional import applies_inside, attend, projection_in
from lobes.discovery.kept import kept
from lobes.discovery.wrappers import uncompiled, unwrapped
from lobes.errors import ModelError

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_SOFTMAX = (F.softmax, torch.softmax, torch.Tensor.softmax, torch.special.softmax)


@dataclass(slots=True, eq=False)
class Frame:
    """One call of a module. `since` counts the autograd nodes made before it; see `clock`.

    `outer` are the calls around it, `argument` is its first argument, and `result` the edge of
    the autograd graph at what it returned, or at the first of several.
    """

    module: nn.Module
    path: str
    since: int
    argument: Tensor | None
    outer: tuple["Frame", ...] = ()
    result: tuple[Any, int] | None = None


@dataclass(slots=True, eq=False)
class Event:
    """One computation of attention probabilities.

    `scores` go into the softmax over `dim`; `leaf`, of the same shape, stands for what comes out.
    """

    frames: tuple[Frame, ...]
    since: int
    scores: Tensor
    leaf: Tensor
    dim: int


@dataclass(slots=True, eq=False)
class Call:
    """One call of a linear projection; `leaf` stands for its output.

    `path` is the module's, or empty where the weight was applied without calling a module.
    `answer` is what the projection really computed from `input`. All three have the channels in
    their last dimension, also for a convolution.
    """

    path: str
    frames: tuple[Frame, ...]
    since: int
    input: Tensor
    leaf: Tensor
    answer: Tensor
    weight: Tensor
    bias: Tensor | None


# The standard deviation of what replaces the projections' outputs: far from 0, where products of
# queries and keys would vanish, and small enough that no softmax saturates and loses its gradient.
_NOISE = 0.5


@dataclass(eq=False)
class Trace(TorchFunctionMode):
    """What one forward pass did: attention events and projections, in the order of execution.

    `frames` are the calls of all modules, in the order in which they began. The events whose
    numbers are in `silent` go on with probabilities of 0.
    """

    model: nn.Module
    silent: frozenset[int] = frozenset()
    steps: list[Event | Call] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    outputs: Any = None

    def __post_init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()  # its hooks are called by all
        self._stack: list[Frame] = []
        self._anchor = torch.zeros((), requires_grad=True)
        self._generators: dict[torch.device, torch.Generator] = {}
        self._parameters = {id(parameter) for parameter in self.model.parameters()}
        linear = {module for module in self.model.modules() if _is_linear(module)}
        # A wrapper around projections (LoRA) is cut inside, at those.
        self._linear = {
            module
            for module in linear
            if not any(inner in linear for inner in module.modules() if inner is not module)
        }

    @property
    def events(self) -> list[Event]:
        """The attention events, in the order of execution."""
        return [step for step in self.steps if isinstance(step, Event)]

    @property
    def calls(self) -> dict[int, Call]:
        """The calls of projections, in order, by the `id` of the leaf that stands for each."""
        return {id(step.leaf): step for step in self.steps if isinstance(step, Call)}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            return self._whole_attention(args, kwargs)
        if func is F.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        output = func(*args, **kwargs)
        if func in _SOFTMAX and output.is_floating_point() and output.dim() >= 3:
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            return self._event(args[0] if args else kwargs["input"], output, dim)
        if func is F.linear and self._stack[-1].module not in self._linear:
            return self._functional(output, *args, **kwargs)
        return output

    def _whole_attention(self, args: Any, kwargs: Any) -> Any:
        """torch's multi-head attention, its output projection called as a module."""
        frame = self._stack[-1]
        project = projection_in(frame.module, args, kwargs)
        if project is None or not applies_inside(frame.module):
            raise refuse_functional(frame)
        # The mode is off while it handles a call. On again, it sees the softmax in the function.
        with self:
            return attend(project, args, kwargs)

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        *_: Any,
        **__: Any,
    ) -> Tensor:
        """Scaled dot-product attention as three steps, so that its scores can be seen.

        What is causal or how it is scaled does not matter to which head reads what.
        """
        # torch repeats the keys of grouped queries inside the kernel (enable_gqa)
        repeats = query.shape[-3] // max(key.shape[-3], 1) if query.dim() > 3 else 1
        if repeats > 1:
            key, value = (one.repeat_interleave(repeats, -3) for one in (key, value))
        scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -torch.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask
        # -inf in a whole row would give NaN, which hides every gradient behind it
        probabilities = scores.nan_to_num(neginf=-1e4).softmax(-1).to(value.dtype)
        return self._event(scores, probabilities, -1) @ value

    def _event(self, scores: Tensor, probabilities: Tensor, dim: int | None) -> Tensor:
        if not probabilities.numel():  # no head is left
            return probabilities
        dim = -1 if dim is None else dim
        even = 1 / probabilities.shape[dim]  # where all is masked
        leaf = probabilities.detach().nan_to_num(nan=even).requires_grad_()
        since = self.clock()
        # Events are numbered in the order of execution, the same in every trace of a model.
        if len(self.events) in self.silent:
            leaf = torch.zeros_like(leaf)
        self.steps.append(Event(tuple(self._stack), since, scores, leaf, dim))
        return leaf.clone()  # not the leaf itself, which nothing may change in place

    def _functional(
        self, output: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """A weight of the model applied by `torch.nn.functional.linear`, outside its module.

        Where only some of a weight's rows are applied, the cut has room for all of them.
        """
        whole, rows = self._whole(weight)
        if whole is None:
            return output
        whole_bias, bias_rows = (None, rows) if bias is None else self._whole(bias)
        own = bias is None or (whole_bias is not None and bias_rows == rows)
        if rows != slice(0, len(whole)) or not own:
            output = F.linear(input, whole, whole_bias if own else None)
        stack = tuple(self._stack)
        cut = self._cut("", stack, input, output, whole, whole_bias if own else None)
        cut = cut[..., rows].contiguous()
        # A bias put together from parts (EVA) stays in the graph, with the value 0.
        return cut if own or bias is None else cut + (bias - bias.detach())

    def _whole(self, part: Tensor) -> tuple[Tensor | None, slice]:
        """The parameter that a tensor is, or is some rows of, and which; None if it is neither."""
        # A slice of a parameter is a view: `_base` is the parameter, the offset its first row.
        whole = part if part._base is None else part._base
        if id(whole) not in self._parameters or whole.stride() != part.stride():
            return None, slice(0)
        first = part.storage_offset() // max(whole.stride(0), 1)
        return whole, slice(first, first + len(part))

    def _cut(
        self,
        path: str,
        frames: tuple[Frame, ...],
        input: Tensor,
        output: Tensor,
        weight: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        since = self.clock()
        leaf = self._random(output).requires_grad_()
        answer = output.detach()
        self.steps.append(Call(path, frames, since, input, leaf, answer, weight, bias))
        return leaf.clone()

    def _random(self, like: Tensor) -> Tensor:
        device = like.device
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(0)
        numbers = torch.randn(like.shape, device=device, generator=self._generators[device])
        return (_NOISE * numbers).to(like.dtype)

    def clock(self) -> int:
        """Return a number between those of all autograd nodes so far and those of later ones."""
        # torch numbers autograd nodes in the order of their creation: a new one tells the time.
        with torch.enable_grad():
            node: Any = self._anchor.view_as(self._anchor).grad_fn
        return node._sequence_nr()

    def enter(self, path: str) -> Callable[..., None]:
        """Note the begin of a call, as the forward pre-hook of the module called `path`."""

        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            if threading.get_ident() != self._thread:
                return
            argument = args[0] if args and isinstance(args[0], Tensor) else None
            self._stack.append(Frame(module, path, self.clock(), argument, tuple(self._stack)))
            self.frames.append(self._stack[-1])

        return hook

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Note the end of a call, as a forward hook; the output of a projection is replaced."""
        if threading.get_ident() != self._thread:
            return None
        frame = self._stack.pop()
        first = output[0] if isinstance(output, tuple) and output else output
        if not isinstance(first, Tensor):
            return None
        changed = self._projected(frame, first)
        frame.result = _edge(first if changed is None else changed)
        if changed is None:
            return None
        return changed if first is output else (changed, *output[1:])

    def _projected(self, frame: Frame, output: Tensor) -> Tensor | None:
        """What stands for a projection's output; None for any other module's."""
        module, given = frame.module, frame.argument
        if module not in self._linear or given is None:
            return None
        axis, answer = channel_axis(module), output
        if axis != -1:
            given, answer = given.movedim(axis, -1), output.movedim(axis, -1)
        if not _maps(module, given, answer) or not given.numel() or not answer.numel():
            return None
        weight, bias = _own(module, "weight"), _own(module, "bias")
        weight = torch.empty(0) if weight is None else weight
        cut = self._cut(frame.path, (*frame.outer, frame), given, answer, weight, bias)
        return cut if axis == -1 else cut.movedim(-1, axis)


def _edge(tensor: Tensor) -> tuple[Any, int] | None:
    if not tensor.requires_grad:
        return None
    edge = get_gradient_edge(tensor)
    return edge.node, edge.output_nr


def trace(
    model: nn.Module, inputs: Mapping[str, Any], *, silent: frozenset[int] = frozenset()
) -> Trace:
    """Run `model` once, `held`, and watch it; its hooks are gone afterwards, whatever happens."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    watch = Trace(model, silent)
    with ExitStack() as stack:
        for path, module in model.named_modules():
            # First, to see the input before any mask: before the hooks of an ablation.
            before = module.register_forward_pre_hook(watch.enter(path), prepend=True)
            stack.callback(before.remove)
            stack.callback(module.register_forward_hook(watch.leave).remove)
        given = {
            name: _graphed(value.to(device)) if isinstance(value, Tensor) else value
            for name, value in inputs.items()
        }
        stack.enter_context(watch)
        watch.outputs = unwrapped(model)(**given)
    return watch


def _graphed(value: Tensor) -> Tensor:
    """A copy of an input; numbers (not tokens) begin an autograd graph."""
    copy = value.detach().clone()
    return copy.requires_grad_().clone() if copy.is_floating_point() else copy


@contextmanager
def held(model: nn.Module) -> Iterator[None]:
    """Keep evaluation mode and gradients on while a trace of the model is made and read.

    The model and the random state are as before in the end, whichever way the block ends.
    """
    frozen = [
        parameter
        for parameter in model.parameters()
        if parameter.is_leaf
        and parameter.is_floating_point()
        and not parameter.requires_grad
        and not parameter.is_inference()
    ]
    with ExitStack() as stack:
        stack.enter_context(kept(model))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(_visible_attention(model))
        stack.enter_context(uncompiled())
        try:
            for module in model.modules():
                module.training = False
            for parameter in frozen:
                parameter.requires_grad_(True)
            yield
        finally:
            for parameter in frozen:
                parameter.requires_grad_(False)


@contextmanager
def _visible_attention(model: nn.Module) -> Iterator[None]:
    """Eager attention in place of kernels of their own (flash attention), for the time being.

    The layout does not depend on what computes the attention.
    """
    found: list[Any] = [getattr(module, "config", None) for module in model.modules()]
    configs = {id(config): config for config in found}
    before = {
        key: config._attn_implementation
        for key, config in configs.items()
        if getattr(config, "_attn_implementation", None) not in (None, "eager", "sdpa")
    }
    try:
        for key in before:
            # the public setter would overwrite the choices of sub-configurations, too
            configs[key]._attn_implementation_internal = "eager"
        yield
    finally:
        for key, implementation in before.items():
            configs[key]._attn_implementation_internal = implementation


def channel_axis(module: nn.Module) -> int:
    """Return the axis of a module's input that its channels lie along."""
    kernel = getattr(module, "kernel_size", ()) if isinstance(module, _CONVOLUTIONS) else ()
    return -1 - len(kernel)


def _is_linear(module: nn.Module) -> bool:
    """Whether a module may be a linear map: it has a matrix, or says how many channels it maps.

    Lookup tables are none; a convolution over single positions is one.
    """
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return False
    if isinstance(module, _CONVOLUTIONS):
        return set(module.kernel_size) == {1}
    weight = getattr(module, "weight", None)
    return (weight.dim() == 2) if isinstance(weight, Tensor) else None not in _declared(module)


def _declared(module: nn.Module) -> tuple[int | None, int | None]:
    """The widths that a linear module says it maps between; elsewhere these names mean others."""
    widths = (getattr(module, name, None) for name in ("in_features", "out_features"))
    first, second = (width if type(width) is int else None for width in widths)
    return first, second


def _own(module: nn.Module, name: str) -> Tensor | None:
    """A plain tensor of a module; None where it has none, or packs it (quantized weights)."""
    found = getattr(module, name, None)
    return found if isinstance(found, Tensor) and type(found.detach()) is Tensor else None


def _maps(module: nn.Module, argument: Tensor, output: Tensor) -> bool:
    """Whether this call was a linear map from the last dimension to the last dimension."""
    if not argument.is_floating_point() or not output.is_floating_point():
        return False
    if argument.shape[:-1] != output.shape[:-1]:
        return False
    if isinstance(module, _CONVOLUTIONS):
        return True
    ends = argument.shape[-1], output.shape[-1]
    weight = _own(module, "weight")
    shape = () if weight is None else tuple(weight.shape)
    return ends in (shape, shape[::-1], _declared(module))


def refuse_functional(frame: Frame) -> ModelError:
    """Refuse a call of torch's multi-head attention function that cannot be found again."""
    return ModelError(
        f"The attention of {frame.path or 'the model'} ({type(frame.module).__name__}) calls "
        f"torch's multi_head_attention_forward with an output projection that is no linear module "
        f"right inside it: its heads cannot be reached. Call the function from the module that "
        f"holds the projection, or give only the part of the model without this attention."
    )
