"""Which floating-point precision a device multiplies matrices in natively."""

from typing import Literal

import torch

from lobes.errors import ConfigError

Precision = Literal["fp32", "bf16"]


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
