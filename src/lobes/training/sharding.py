"""Models and masks whose parts lie in several processes (FSDP2).

What torch has for them is imported when it is used: that takes most of a second.
"""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Bool
from torch import Tensor, nn


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return all weights of a sharded model on the first process's CPU; nothing elsewhere."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    weights: dict[str, Any] = get_model_state_dict(
        model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    return weights


def load_whole(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give each process its part of `weights`, which every process has."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    set_model_state_dict(model, dict(weights), options=StateDictOptions(full_state_dict=True))


def own_part(
    parameter: Tensor, mask: Bool[Tensor, " rows"], axis: int
) -> tuple[Tensor, Bool[Tensor, " _"]]:
    """Return this process's part of a parameter, and of a mask along its `axis`."""
    if not hasattr(parameter, "placements"):
        return parameter, mask
    from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

    assert isinstance(parameter, DTensor)
    placements = [
        Shard(0) if isinstance(placement, Shard) and placement.dim == axis else Replicate()
        for placement in parameter.placements
    ]
    # torch cuts the mask as it cut the parameter, also where the rows do not divide evenly
    local = distribute_tensor(mask, parameter.device_mesh, placements)
    return parameter.to_local(), local.to_local()
