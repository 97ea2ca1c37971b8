"""Run a model inside its wrappers: `torch.compile`, `DataParallel`, FSDP and others."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lobes.discovery.shared import shared
from lobes.errors import ModelError


def check_model(model: object) -> None:
    """Raise `ModelError` for what is no model: the name of one, or its class."""
    if not isinstance(model, nn.Module):
        given = repr(model) if isinstance(model, str | type) else f"a {type(model).__name__}"
        raise ModelError(
            f"{given} is no model: expected a torch.nn.Module; load it first, as with "
            f'transformers.AutoModel.from_pretrained("bert-base-uncased").'
        )


def check_whole(model: nn.Module) -> None:
    """Raise `ModelError` for a model whose weights are not here as a whole."""
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise ModelError(
                f"{name} of {type(model).__name__} is on the meta device: its weights are not "
                f"loaded, or kept elsewhere between runs. Heads can be found only in a model that "
                f"is loaded as a whole."
            )
        if hasattr(parameter, "device_mesh"):
            raise _sharded(model, name)
    for path, module in model.named_modules():
        if hasattr(module, "_fsdp_wrapped_module"):
            raise _sharded(model, path or "what it holds")


def _sharded(model: nn.Module, name: str) -> ModelError:
    return ModelError(
        f"{name} of {type(model).__name__} is sharded over several processes. Call find_heads "
        f"before the model is sharded, and pass what it returns as layout=."
    )


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run what `torch.compile` compiled as it was written, inside the block.

    A compiled program does not look again for the hooks of the modules in it: it would run without
    those that came later, or with those that are gone. It is there again after the block.
    """
    if "torch._dynamo" not in sys.modules:  # nothing was compiled, and importing it is slow
        yield
        return
    with shared("uncompiled", lambda: torch.compiler.set_stance("force_eager")):
        yield


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module to run on this process alone, without `DistributedDataParallel`."""
    return model.module if isinstance(model, DistributedDataParallel) else model


@contextmanager
def unreduced(model: nn.Module) -> Iterator[None]:
    """Keep gradients from being reduced over processes inside the block.

    Parameters that a run leaves out are reduced at its end (`find_unused_parameters`), which
    would wait for the other processes.
    """
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, DistributedDataParallel):
                stack.enter_context(module.no_sync())
        yield
