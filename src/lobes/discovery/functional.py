"""Open `torch.nn.functional.multi_head_attention_forward`, so that its output projection is called.

`torch.nn.MultiheadAttention`, and models that use its function directly, give the weight of the
output projection to one function that does everything: the projection's module is never called
and no hook of it fires. While such a module is open, it runs the same function of torch, which
then calls the projection as a module on contexts [batch, length, width].
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from inspect import isfunction, signature
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from lobes.discovery.shared import shared

Projection = Callable[[Tensor], Tensor]
_OPENED = "_lobes_opened"
_whole = F.multi_head_attention_forward
_arguments = signature(_whole)


@contextmanager
def opened(model: nn.Module, projections: Iterable[str]) -> Iterator[None]:
    """Call the modules at these paths wherever they project contexts, inside the block.

    Modules that are called anyway are left alone. Blocks can be nested; in the end every module
    is as it was.
    """
    owners: dict[nn.Module, None] = {}
    for path in projections:
        owner = model.get_submodule(path.rpartition(".")[0])
        if applies_inside(owner):
            owners[owner] = None
    with ExitStack() as stack:
        for owner in owners:
            stack.enter_context(shared((_OPENED, owner), partial(_open, owner)))
        for encoder in model.modules() if owners else ():
            if not isinstance(encoder, nn.TransformerEncoder):
                continue
            if not owners.keys().isdisjoint(encoder.modules()):
                stack.enter_context(shared(("padded", encoder), partial(_padded, encoder)))
        yield


def applies_inside(owner: nn.Module) -> bool:
    """Return whether a module's own methods call torch's multi-head attention as one function."""
    return _names_function(type(owner).__mro__)


@lru_cache(maxsize=1024)
def _names_function(classes: tuple[type, ...]) -> bool:
    methods = [one for base in classes for one in vars(base).values() if isfunction(one)]
    return any(_whole.__name__ in method.__code__.co_names for method in methods)


def projection_in(
    owner: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> nn.Module | None:
    """Return the child of `owner` that holds the output projection's weight in such a call."""
    weight = _arguments.bind(*args, **kwargs).arguments["out_proj_weight"]
    return next((m for m in owner.children() if getattr(m, "weight", None) is weight), None)


def attend(project: Projection, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call torch's function with `project` in place of its last linear map."""
    query = _arguments.bind(*args, **kwargs).arguments["query"]
    batch = query.shape[1] if query.dim() == 3 else 1

    def linear(contexts: Tensor, *_: Any) -> Tensor:
        """Project [length * batch, width] to the same shape, position by position."""
        by_example = contexts.unflatten(0, (-1, batch)).transpose(0, 1)
        return project(by_example).transpose(0, 1).flatten(0, 1)

    # The function's own code, so that every option of it works; only its last `linear` is ours.
    # Its other names mean what they mean in torch.
    names = {**vars(F), "linear": linear, "has_torch_function": lambda _: False}
    return FunctionType(_whole.__code__, names, None, _whole.__defaults__)(*args, **kwargs)


class _Calling(TorchFunctionMode):
    """Calls of torch's function by `owner` go through its output projection's module."""

    def __init__(self, owner: nn.Module) -> None:
        super().__init__()
        self.owner = owner

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is _whole:
            project = projection_in(self.owner, args, kwargs)
            if project is not None:
                return attend(project, args, kwargs)
        return func(*args, **kwargs)


@dataclass(eq=False)
class _Opened:
    """An open module's forward pass as it was, and whether that was an attribute of its own."""

    plain: Any
    own: bool


@contextmanager
def _open(owner: nn.Module) -> Iterator[None]:
    plain, own = owner.forward, "forward" in owner.__dict__
    owner.__dict__[_OPENED] = _Opened(plain, own)
    owner.__dict__["forward"] = MethodType(_open_forward, owner)
    # A layer of torch's that runs as one kernel passes over its modules, unless one has a hook.
    hook = owner.register_forward_pre_hook(_nothing)
    try:
        yield
    finally:
        hook.remove()
        del owner.__dict__[_OPENED]
        if own:
            owner.__dict__["forward"] = plain
        else:
            del owner.__dict__["forward"]


def _open_forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    with _Calling(module):
        return module.__dict__[_OPENED].plain(*args, **kwargs)


def _nothing(module: nn.Module, args: Any) -> None:
    """A hook that changes nothing."""


@contextmanager
def _padded(encoder: nn.TransformerEncoder) -> Iterator[None]:
    """Batches stay padded inside the block: nested tensors are for layers run as one kernel."""
    before = encoder.use_nested_tensor
    encoder.use_nested_tensor = False
    try:
        yield
    finally:
        encoder.use_nested_tensor = before
