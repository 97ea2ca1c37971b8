"""Causal language models as they are: load one, check it, read its logits at some positions."""

import os
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from lobes.errors import ModelError
from lobes.modeling.pooling import accepted_inputs, probing, useful_inputs
from lobes.modeling.pretrained import load_model, load_tokenizer


def load_causal(
    name_or_folder: str | os.PathLike[str],
    *,
    trust_remote_code: bool = False,
    dtype: torch.dtype = torch.float32,
    device_map: Any = None,
) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer; `ModelError` where there is none."""
    model, missing = load_model(
        name_or_folder,
        loader=AutoModelForCausalLM,
        trust_remote_code=trust_remote_code,
        dtype=dtype,
        **({} if device_map is None else {"device_map": device_map}),
    )
    if missing:
        raise ModelError(
            f"The model {os.fspath(name_or_folder)!r} is no causal language model: its "
            f"checkpoint lacks {', '.join(sorted(missing)[:3])}."
        )
    return model, load_tokenizer(name_or_folder, trust_remote_code=trust_remote_code)


def logits_at(
    model: nn.Module,
    places: Int[Tensor, "*places"],
    input_ids: Int[Tensor, "rows length"],
    attention_mask: Int[Tensor, "rows length"] | None = None,
) -> tuple[Float[Tensor, "rows kept vocabulary"], Int[Tensor, " kept"]]:
    """Return the model's logits at some positions, and which those are, ascending.

    All positions where the model cannot leave any out.
    """
    given = useful_inputs(model, {"attention_mask": attention_mask})
    kept = torch.arange(input_ids.shape[1], device=input_ids.device)
    if "logits_to_keep" in accepted_inputs(model):
        # the last layer is as wide as the vocabulary: most of a small model's work
        kept = given["logits_to_keep"] = places.unique()
    return model(input_ids=input_ids, **given).logits, kept


def check_causal(model: nn.Module) -> None:
    """Raise `ModelError` unless the model answers tokens with logits that see no later token."""
    config = model.config
    fault = None
    if getattr(config, "is_encoder_decoder", False):
        fault = "has an encoder"
    else:
        one, other = (_first_logits(model, last) for last in (0, 1))
        if one is None or other is None:
            fault = "gives no logits over its vocabulary"
        elif not torch.equal(one, other):
            fault = "sees later tokens"
    if fault:
        raise ModelError(
            f"{type(model).__name__} {fault}: prompts are for causal language models, as "
            f"AutoModelForCausalLM loads them."
        )


def _first_logits(model: nn.Module, last: int) -> Tensor | None:
    """The logits after the first of five tokens, of which the last is `last`."""
    ids = torch.tensor([[2, 3, 2, 3, last]], device=next(model.parameters()).device)
    with probing(model):
        try:
            return model(input_ids=ids).logits[0, 0]
        except (TypeError, ValueError, AttributeError, RuntimeError, IndexError):
            return None
