"""Count the examples of a batch from the arguments of the outermost call of a model's parts.

The contexts do not show it. Windows, pictures and flattened positions lie along their first axis
too, and `generate` repeats each example for its beams.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from lobes.discovery.shared import lock, shared
from lobes.heads import HeadLayout

_GENERATE, _EXPAND = "generate", "_expand_inputs_for_generation"


@dataclass(frozen=True, eq=False)
class Batch:
    """What is known of a batch from the arguments of the call of `module`, None for `generate`.

    `certain` says whether the model names the argument that was counted; `even` whether all
    inputs have as many rows, so that each example has as many windows, pictures or positions.

    `generate` repeats each example in `rows` rows altogether for calls of the model `generator`.
    A call of it inside has the batch of `generate` as its `outer`, and `fits` if it has those rows.
    """

    module: nn.Module | None
    examples: int
    certain: bool
    even: bool
    generator: nn.Module | None = None
    rows: int = 0
    fits: bool = True
    outer: "Batch | None" = None


_batch: ContextVar[Batch | None] = ContextVar("batch", default=None)


def batch_running() -> Batch | None:
    """Return the batch that this thread is running through a counted model."""
    return _batch.get()


def batch_of(model: nn.Module, inputs: Mapping[str, Any]) -> Batch | None:
    """Return the batch in keyword inputs of a model; None where there is no tensor among them."""
    return _counted(model, _main_input(model), (), inputs)


@contextmanager
def counted(model: nn.Module, layout: HeadLayout) -> Iterator[None]:
    """Make the batch of any call that reaches a site known to `batch_running`, inside the block."""
    with ExitStack() as stack:
        for module in _around(model, layout):
            stack.enter_context(shared(("counted", module), partial(_counting, module)))
        yield


def _around(model: nn.Module, layout: HeadLayout) -> list[nn.Module]:
    """The modules around the sites' projections, each once."""
    paths = {""}
    for site in layout.sites:
        parts = site.projection.split(".")
        paths |= {".".join(parts[:depth]) for depth in range(len(parts) + 1)}
    return list({model.get_submodule(path): None for path in paths})


def _main_input(module: nn.Module) -> str:
    return next((n for m in module.modules() if (n := getattr(m, "main_input_name", None))), "")


@contextmanager
def _counting(module: nn.Module) -> Iterator[None]:
    main = _main_input(module)

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        running = _batch.get()
        if running is None:
            _batch.set(_counted(module, main, args, kwargs))
        elif running.module is None and running.generator is module:
            here = _counted(module, main, args, kwargs)
            fits = here is None or here.examples == running.rows
            _batch.set(replace(running, module=module, fits=fits, outer=running))

    def leave(_: nn.Module, args: Any, output: Any) -> None:
        running = _batch.get()
        if running is not None and running.module is module:
            _batch.set(running.outer)

    with ExitStack() as stack:
        with lock:
            before = module.register_forward_pre_hook(enter, prepend=True, with_kwargs=True)
            stack.callback(before.remove)
            stack.callback(module.register_forward_hook(leave, always_call=True).remove)
            for name, make in ((_GENERATE, _generating), (_EXPAND, _expanding)):
                plain = getattr(module, name, None)
                if callable(plain):
                    stack.enter_context(_replaced(module, name, make(module, main, plain)))
        yield


@contextmanager
def _replaced(module: nn.Module, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Put a function in the place of a method of this one module."""
    own = module.__dict__.get(name)
    module.__dict__[name] = function
    try:
        yield
    finally:
        if own is None:
            del module.__dict__[name]
        else:
            module.__dict__[name] = own


def _generating(module: nn.Module, main: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    """`generate` counts as the outermost call: inside, an example may have several rows."""

    def generate(*args: Any, **kwargs: Any) -> Any:
        before = _batch.get()
        # a prompt that is made inside shows its examples when it is expanded
        _batch.set(before or _counted(None, main, args, kwargs) or Batch(None, 0, False, True))
        try:
            return plain(*args, **kwargs)
        finally:
            _batch.set(before)

    return generate


def _expanding(module: nn.Module, main: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    """Inside `generate`, note in how many rows the examples go on, each in turn with its beams.

    No call fits where these are other examples than those given, or where they are expanded again:
    Whisper goes on with those of its examples that are not finished.
    """

    def expand(*args: Any, **kwargs: Any) -> Any:
        expanded, running, ids = plain(*args, **kwargs), _batch.get(), kwargs.get("input_ids")
        if running is not None and running.module is None and isinstance(ids, Tensor):
            examples = running.examples or len(ids)
            whole = running.generator is None and len(ids) == examples
            rows = len(expanded[0]) if whole else 0
            noted = replace(running, examples=examples, certain=True, generator=module, rows=rows)
            _batch.set(noted)
        return expanded

    return expand


def _counted(
    module: nn.Module | None, main: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Batch | None:
    """The batch in a call's arguments; None where there is no tensor among them."""
    tensors = [(str(i), value) for i, value in enumerate(args)] + list(kwargs.items())
    given = {
        name: value
        for name, value in tensors
        if isinstance(value, Tensor) and value.dim() and name not in _POSITIONS
    }
    if not given:
        return None
    named = given.get(main)
    found = next((v for v in given.values() if v.dim() > 1), next(iter(given.values())))
    examples = (found if named is None else named).shape[0]
    rows = {value.shape[0] for value in given.values() if value.dim() > 1}
    return Batch(module, examples, bool(main), rows <= {1, examples})


_POSITIONS = ("position_ids", "cache_position")  # may be those of all examples at once
