"""Which precision a device multiplies natively."""

import pytest
import torch

from lobes.errors import ConfigError
from lobes.modeling.precision import has_native_bf16, resolve_precision


@pytest.mark.parametrize("found", [{"avx512_bf16": True}, {"amx_bf16": True}])
def test_a_cpu_with_either_instruction_set_is_native(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, bool]
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert has_native_bf16("cpu")
    assert resolve_precision("auto", "cpu") == "bf16"


def test_a_cpu_with_neither_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    others = {"avx512_f": True, "avx512_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: others, raising=False)
    assert not has_native_bf16("cpu")
    assert resolve_precision("auto", "cpu") == "fp32"


def test_an_older_torch_is_asked_in_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert has_native_bf16("cpu")


@pytest.mark.parametrize(("capability", "native"), [((7, 5), False), ((8, 0), True)])
def test_gpus_are_native_from_ampere_on(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], native: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert has_native_bf16("cuda:0") is native


def test_a_device_of_another_kind_counts_as_not_native() -> None:
    assert not has_native_bf16("meta")


def test_what_is_asked_for_by_name_is_taken() -> None:
    assert resolve_precision("fp32") == "fp32"
    assert resolve_precision("bf16", "meta") == "bf16"


def test_another_precision_is_refused() -> None:
    with pytest.raises(ConfigError, match='Unknown precision \'fp16\': expected "auto", "fp32"'):
        resolve_precision("fp16")
