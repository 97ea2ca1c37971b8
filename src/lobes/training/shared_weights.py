"""Weights that every head's queries, keys or values depend on, and that no head owns.

An adapter puts a projection into a module of its own, where some weights reach the projection's
whole output: LoRA's `lora_A`, VeRA's `lambda_d`. Prefixes and shared banks of vectors reach the
attention from outside. Training them on a task's batch would change the heads of all tasks, so IAT
holds them still. They are found by running the model once, whatever the adapter is called.

What it cannot do: weights in an attention block beside the projections (a norm of the queries, a
table of relative positions) are not projections, and train with all other parameters.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lobes.heads import HeadLayout
from lobes.modeling import MultiTaskModel
from lobes.modeling.pooling import probing

_ATTENTION = (
    functional.softmax,
    torch.softmax,
    torch.Tensor.softmax,
    functional.scaled_dot_product_attention,
)


def shared_weights(model: MultiTaskModel, layout: HeadLayout) -> list[str]:
    """Return the names of the trainable weights that projections of several heads share.

    Rows that a head owns are not among them, nor are weights outside the projections that reach
    the attention through its own inputs only.
    """
    owned = {rows.parameter for site in layout.sites for rows in site.rows}
    holders = {name.rpartition(".")[0] for name in owned}
    blocks = _attention_blocks(model, {path for name in holders for path in _ancestors(name)})
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    projections = tuple({_projection(name, blocks) + "." for name in holders})
    inside = {name for name in trainable if name.startswith(projections)}
    innermost = {
        next((path for path in _ancestors(name) if path in blocks), "") for name in holders
    }
    beside = _reaching_past_inputs(model, sorted(innermost - {""}), trainable)
    return sorted((inside | beside) - owned)


def _ancestors(path: str) -> Iterator[str]:
    """The paths of the modules around a module, the innermost first."""
    while "." in path:
        path = path.rpartition(".")[0]
        yield path


def _projection(holder: str, blocks: set[str]) -> str:
    """The outermost module around the one that holds rows and inside the attention block."""
    around = [holder, *_ancestors(holder)]
    inner = next((i for i, path in enumerate(around) if path in blocks), 1)
    return around[inner - 1]


class _Watch(TorchFunctionMode):
    """Remembers which of the modules being run at that time compute attention probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.running: list[str] = []
        self.blocks: set[str] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _ATTENTION:
            self.blocks |= set(self.running)
        return func(*args, **(kwargs or {}))


def _attention_blocks(model: MultiTaskModel, paths: set[str]) -> set[str]:
    """Those of the modules in whose forward pass attention probabilities are computed."""
    watch = _Watch()
    with ExitStack() as stack:
        for path in paths:
            module = model.get_submodule(path)
            before = module.register_forward_pre_hook(
                lambda *_, path=path: watch.running.append(path)
            )
            after = module.register_forward_hook(
                lambda *_: watch.running.pop() and None, always_call=True
            )
            stack.callback(before.remove)
            stack.callback(after.remove)
        with probing(model), watch:
            model.logits(**model.example())
    return watch.blocks


def _reaching_past_inputs(
    model: MultiTaskModel, blocks: list[str], trainable: dict[str, nn.Parameter]
) -> set[str]:
    """The weights outside a block that its output depends on with its inputs held fixed."""
    outputs: dict[str, list[Tensor]] = {path: [] for path in blocks}
    with ExitStack() as stack:
        for path in blocks:
            module = model.get_submodule(path)
            before = module.register_forward_pre_hook(
                lambda _, args, kwargs: (_detached(args), _detached(kwargs)), with_kwargs=True
            )
            after = module.register_forward_hook(
                lambda *given, path=path: outputs[path].extend(_tensors(given[-1]))
            )
            stack.callback(before.remove)
            stack.callback(after.remove)
        with probing(model), torch.enable_grad():
            model.logits(**model.example())
    found = set()
    for path, tensors in outputs.items():
        reached = [tensor.float().sum() for tensor in tensors if tensor.requires_grad]
        outside = {name: p for name, p in trainable.items() if not name.startswith(f"{path}.")}
        if not reached or not outside:
            continue
        gradients = torch.autograd.grad(
            reached, list(outside.values()), retain_graph=True, allow_unused=True
        )
        pairs = zip(outside, gradients, strict=True)
        found |= {name for name, gradient in pairs if gradient is not None}
    return found


def _detached(value: Any) -> Any:
    """A module's arguments without the graph that they come from."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, dict):
        return {key: _detached(item) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_detached(item) for item in value)
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
