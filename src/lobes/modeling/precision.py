"""Which floating-point precision a device multiplies in natively, and a bf16 copy to measure.

bf16 has 8 significant bits. That is enough for the states of a model that was trained for it, and
too little for its answers: a regression around 3 would have a handful of values, and many logits
would tie. It is too little, too, for numbers that a model computes for itself, such as rotary
frequencies, which `from_pretrained(dtype=torch.bfloat16)` therefore keeps in fp32.
"""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lobes.errors import ConfigError
from lobes.modeling.safe_loading import quiet
from lobes.modeling.task_model import TaskModel

Precision = Literal["fp32", "bf16"]
M = TypeVar("M", bound=nn.Module)


def has_native_bf16(device: torch.device | str = "cpu") -> bool:
    """Return whether `device` multiplies bf16 matrices in hardware, faster than fp32.

    CPUs: AMX-BF16 or AVX512-BF16. NVIDIA GPUs: compute capability 8.0 (Ampere) and later. Other
    devices count as not native.
    """
    device = torch.device(device)
    if device.type == "cpu":
        return _cpu_has_bf16()
    if device.type == "cuda" and torch.version.hip is None:
        return torch.cuda.get_device_capability(device)[0] >= 8
    return False


def _cpu_has_bf16() -> bool:
    """Ask torch what the CPU offers; older releases answer through functions of another name."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is not None:
        offered = capabilities()
        return bool(offered.get("avx512_bf16") or offered.get("amx_bf16"))
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)


def resolve_precision(precision: str, device: torch.device | str = "cpu") -> Precision:
    """Turn "auto" into "bf16" where it is native on `device`, else "fp32"; check the rest.

    "fp32" is bit-for-bit repeatable on a CPU. "bf16" is taken at the caller's word, also where it
    is slow. Raises `ConfigError` for any other name.
    """
    if precision == "auto":
        return "bf16" if has_native_bf16(device) else "fp32"
    if precision not in ("fp32", "bf16"):
        raise ConfigError(f'Unknown precision {precision!r}: expected "auto", "fp32" or "bf16".')
    return "fp32" if precision == "fp32" else "bf16"


def bf16_copy(model: M) -> M:
    """Return a frozen copy in evaluation mode whose encoder computes in bf16.

    Parameters are cast. A buffer gets the type that `from_pretrained(dtype=torch.bfloat16)` gives
    it; where that is not known, those that are saved are cast, and others are not. Classifiers,
    regressors and the output layer of a language model (all that a transformers model has beside
    its base model) stay in fp32 at least, and so do their outputs.

    Parameters that are in bf16 already are shared with the model: of a model that was loaded in
    bf16 the copy takes memory for its answers' parameters alone.
    """
    shared = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=False)
        for parameter in model.parameters()
        if parameter.dtype == torch.bfloat16
    }
    copy = deepcopy(model, shared).eval().requires_grad_(False)
    types = _native_buffers(copy)
    answering = list(_answering(copy))
    for module in answering:
        _keep_precise(module)
    precise = {part for module in answering for part in module.modules()}
    for path, module in copy.named_modules():
        if module not in precise:
            _cast(module, f"{path}." if path else "", types)
    return copy


def _cast(module: nn.Module, prefix: str, types: dict[str, torch.dtype]) -> None:
    """Cast a module's own floating-point tensors, not those of its parts."""
    for parameter in module._parameters.values():
        if parameter is not None and parameter.is_floating_point():
            parameter.data = parameter.data.to(torch.bfloat16)
    for name, buffer in module._buffers.items():
        if buffer is not None and buffer.is_floating_point():
            # A buffer that is not saved is computed by the model, such as rotary frequencies.
            temporary = name in module._non_persistent_buffers_set
            usual = buffer.dtype if temporary else torch.bfloat16
            module._buffers[name] = buffer.to(types.get(prefix + name, usual))


def _keep_precise(module: nn.Module) -> None:
    """Give a module parameters of its own, in fp32 at least, and inputs of their type.

    They may be shared with the encoder's embeddings, which are cast.
    """
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and parameter.is_floating_point():
                precise = parameter.detach().to(_at_least_float32(parameter))
                part._parameters[name] = nn.Parameter(precise, requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None and buffer.is_floating_point():
                part._buffers[name] = buffer.to(_at_least_float32(buffer))
    first = next((p for p in module.parameters() if p.is_floating_point()), None)
    if first is not None:
        # the encoder's states arrive in bf16, and `nn.Linear` takes no mixture of types
        dtype = first.dtype
        module.register_forward_pre_hook(
            lambda _, args, kwargs: (
                tuple(_as(value, dtype) for value in args),
                {name: _as(value, dtype) for name, value in kwargs.items()},
            ),
            with_kwargs=True,
        )


def _as(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _at_least_float32(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _answering(model: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules that turn an encoder's states into answers."""
    classifiers = getattr(model, "classifiers", None)
    if isinstance(model, TaskModel) and isinstance(classifiers, nn.ModuleDict):
        yield from classifiers.values()
        return
    inner = getattr(model, "model", None) if isinstance(model, TaskModel) else model
    if isinstance(inner, PreTrainedModel) and inner.base_model is not inner:
        yield from _beside(inner, inner.base_model)


def _beside(module: nn.Module, base: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if child is base:
            continue
        if base in child.modules() or isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _beside(child, base)
        else:
            yield child


def _native_buffers(model: nn.Module) -> dict[str, torch.dtype]:
    """The type of each buffer, by its path, in a model that transformers loads in bf16.

    That is its type in a new model of the class made under this default, which costs no memory on
    the meta device. Empty where such a model cannot be made.
    """
    found: dict[str, torch.dtype] = {}
    for path, module in model.named_modules():
        if not isinstance(module, PreTrainedModel):
            continue
        try:
            with torch.device("meta"), torch.random.fork_rng(devices=[]), quiet():
                config = deepcopy(module.config)
                twin = type(module)._from_config(config, dtype=torch.bfloat16)
        except Exception:  # whatever a class does with its configuration
            continue
        prefix = f"{path}." if path else ""
        for name, buffer in twin.named_buffers():
            found.setdefault(prefix + name, buffer.dtype)
    return found
