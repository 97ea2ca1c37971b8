"""Find the attention heads of a model by running it once: the only part that looks inside.

There is no table of architectures. A forward pass is watched (`tracing`): wherever attention
probabilities meet their softmax, and wherever a linear projection runs, the autograd graph is cut
and begins anew. What a projection reads can then be told from its short graph (`graph`), and the
gradient of each slice of its input shows which rows of which projections one head owns (`sites`).
`torch.nn.MultiheadAttention` is opened for that (`functional`), and where a norm over all heads or
the like stands before the projection, the contexts are taken there (`intervention_points`). Where
no example is given, the inputs are guessed from the model's own description (`inputs`).

What it cannot do, and refuses with the reason: attention whose softmax torch does not show
(kernels of their own), heads that are mixed before the output projection, and output projections
that are not modules.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lobes.discovery.inputs import check_inputs, guess_inputs
from lobes.discovery.scope import without_others
from lobes.discovery.shared import lock
from lobes.discovery.sites import Found, sites_of, with_what_is_beside
from lobes.discovery.tracing import Trace, held, trace
from lobes.discovery.wrappers import check_model, check_whole
from lobes.errors import ConfigError, ModelError
from lobes.heads import HeadLayout

_Fingerprint = tuple[tuple[str, tuple[int, ...]], ...]
_known: WeakKeyDictionary[nn.Module, tuple[_Fingerprint, HeadLayout]] = WeakKeyDictionary()


def find_heads(model: nn.Module, *, example_inputs: Mapping[str, Any] | None = None) -> HeadLayout:
    """Find all attention heads of `model`, and return its sites in the order of execution.

    `example_inputs` are keyword arguments for one forward pass; a model from transformers needs
    none. Only what runs in that pass is found. The pass leaves the model, its gradients, its
    modes and the random state as they were, also when it fails.

    The layout is remembered until the model goes or the names or shapes of its parameters
    change; a call with `example_inputs` looks afresh, and later calls without give what it found.
    One thread at a time looks; while it does, the model is in evaluation mode, and parameters
    beside its projections may hold other values: let no other thread run it meanwhile.

    Raises `ModelError`, saying why and what to do, for a model without attention, one whose
    inputs cannot be guessed, and one whose heads cannot be told apart safely.
    """
    check_model(model)
    check_inputs(example_inputs)
    with lock, without_others():
        fingerprint = tuple((name, tuple(p.shape)) for name, p in model.named_parameters())
        if example_inputs is None and model in _known:
            before, layout = _known[model]
            if before == fingerprint:
                return layout
        layout = _discover(model, example_inputs)
        _known[model] = fingerprint, layout
        return layout


def layout_of(model: nn.Module, layout: HeadLayout | None = None) -> HeadLayout:
    """Return the given layout, or what `find_heads` finds if none was given.

    Raises `ModelError` for what is no model, `ConfigError` for what is no layout of it.
    """
    check_model(model)
    if layout is None:
        return find_heads(model)
    if not isinstance(layout, HeadLayout):
        raise ConfigError(
            f"layout is what lobes.find_heads returned, not a {type(layout).__name__}."
        )
    for site in layout.sites:
        try:
            model.get_submodule(site.projection)
        except AttributeError as error:
            raise ConfigError(
                f"The layout is another model's: {type(model).__name__} has no module "
                f"{site.projection}; leave layout out."
            ) from error
    return layout


def _discover(model: nn.Module, example_inputs: Mapping[str, Any] | None) -> HeadLayout:
    check_whole(model)
    with held(model):
        inputs = guess_inputs(model) if example_inputs is None else example_inputs
        look = partial(_traced, model, inputs, guessed=example_inputs is None)
        found = _found(model, look)
        return HeadLayout(with_what_is_beside(found, look(silent=found.attention)))


def _traced(
    model: nn.Module,
    inputs: Mapping[str, Any],
    *,
    guessed: bool,
    silent: frozenset[int] = frozenset(),
) -> Trace:
    try:
        return trace(model, inputs, silent=silent)
    except ModelError:
        raise
    except Exception as error:
        if not guessed:
            raise
        shapes = ", ".join(
            f"{name} {list(value.shape)}" if isinstance(value, Tensor) else name
            for name, value in inputs.items()
        )
        raise ModelError(
            f"{type(model).__name__} could not be run on the inputs guessed for it ({shapes}): "
            f"{type(error).__name__}: {error}. Give find_heads example_inputs={{name: tensor}}."
        ) from error


def _found(model: nn.Module, look: Callable[[], Trace]) -> Found:
    """The sites as a trace shows them, with other values of parameters where these hide something.

    A parameter at a clamp (Swin v2's `logit_scale`) has no gradient, and seems to be no head's.
    """
    found = sites_of(model, look())
    for value in _OTHER_VALUES if found.silent else ():
        with _holding(model, found.silent, value):
            other = sites_of(model, look())
        found = min(found, other, key=lambda one: len(one.silent))
        if not found.silent:
            break
    return found


_OTHER_VALUES = (0.5, -0.5, 0.02, 5.0)


@contextmanager
def _holding(model: nn.Module, names: Sequence[str], value: float) -> Iterator[None]:
    """Parameters hold about `value` inside the block, and what they held after it."""
    parameters = [model.get_parameter(name) for name in names]
    before = [parameter.data for parameter in parameters]
    generator = torch.Generator().manual_seed(0)
    try:
        for parameter in parameters:
            noise = torch.rand(parameter.shape, generator=generator)
            parameter.data = (value * (1 + noise / 10)).to(parameter)
        yield
    finally:
        for parameter, values in zip(parameters, before, strict=True):
            parameter.data = values
