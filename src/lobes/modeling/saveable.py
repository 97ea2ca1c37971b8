"""Check before a training that the encoder can be loaded again once it is saved."""

from typing import Any

import torch
from transformers import PreTrainedModel

from lobes.errors import ModelError
from lobes.modeling.pruned import is_pruned
from lobes.modeling.safe_loading import quiet
from lobes.modeling.task_model import original_class

_MERGE = (
    "merge its adapters first (with peft, merge_and_unload) and save the result, or save the "
    "adapters on their own"
)


def check_saveable(encoder: Any) -> None:
    """Raise `ModelError` for an encoder whose class has other weights than it.

    Adapters inside an encoder, or a wrapper around it, are not read by its `from_pretrained`.
    """
    kind = original_class(encoder)
    if not hasattr(encoder, "save_pretrained"):
        raise ModelError(
            f"An encoder of the class {kind.__name__} cannot be saved: expected a transformers "
            f"model, with save_pretrained."
        )
    if not isinstance(encoder, PreTrainedModel):
        raise ModelError(
            f"An encoder of the class {kind.__name__} cannot be saved, since no encoder could be "
            f"loaded from what it writes: {_MERGE}."
        )
    expected = _weights_of_class(encoder)
    differing = [] if expected is None else sorted(expected ^ encoder.state_dict().keys())
    if differing:
        raise ModelError(
            f"The encoder cannot be saved, since no {kind.__name__} could be loaded from what it "
            f"writes ({differing[0]!r} is in one of the two only): {_MERGE}."
        )


def _weights_of_class(encoder: Any) -> set[str] | None:
    """The names of the weights that the encoder's class has; None where that cannot be told."""
    if is_pruned(encoder.config) or getattr(encoder, "hf_quantizer", None) is not None:
        return None
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"), quiet():
            whole = original_class(encoder)(encoder.config)
    except Exception:  # a class of the user's own may need more than a configuration
        return None
    return set(whole.state_dict())
