"""Guess inputs for one forward pass from a model's signature and its configuration."""

import inspect
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, cast

import torch
from torch import Tensor, nn

from lobes.errors import ModelError

_LENGTH = 13
# where the configuration leaves the size open
_IMAGE_SIDE, _CHANNELS = 64, 3
_SAMPLES, _FRAMES = 8191, 101
_PARTS = ("text_config", "vision_config", "audio_config", "encoder", "decoder")


def guess_inputs(model: nn.Module) -> dict[str, Tensor]:
    """Keyword arguments for one forward pass of `model`, on its device and in its precision.

    Known are text (`input_ids`, with what an encoder-decoder needs), images (`pixel_values`) and
    sound (`input_values`, `input_features`). Raises `ModelError` for any other required argument
    and for a model without a configuration.
    """
    model = _described(model)
    config = getattr(model, "config", None)
    parameters = inspect.signature(model.forward).parameters
    if config is None:
        raise ModelError(
            f"{type(model).__name__} has no configuration to guess its inputs from: give "
            f"find_heads example_inputs={{name: tensor}} for one forward pass."
        )
    generator = torch.Generator().manual_seed(0)
    guesses = {name: one for name, one in _guesses(model, config, generator) if name in parameters}
    for name, parameter in parameters.items():
        given = name in guesses or parameter.default is not parameter.empty
        if name == "attention_mask" and not given and "input_ids" in guesses:
            guesses[name] = torch.ones_like(guesses["input_ids"])
        elif not given and parameter.kind in (
            parameter.POSITIONAL_OR_KEYWORD,
            parameter.KEYWORD_ONLY,
        ):
            raise _unknown(model, name)
    if not guesses:
        raise _unknown(model, "the inputs")
    return _placed(guesses, model)


def _described(model: nn.Module) -> nn.Module:
    """The model, or the first module in it that names its arguments, if it passes all on.

    So do compiled models and adapters.
    """
    for module in model.modules():
        parameters = inspect.signature(module.forward).parameters.values()
        if any(p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
            return module
    return model


def _unknown(model: nn.Module, what: str) -> ModelError:
    return ModelError(
        f"Cannot guess {what} of {type(model).__name__}: give find_heads "
        f"example_inputs={{name: tensor}} for one forward pass."
    )


def _placed(inputs: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The inputs on the model's device, numbers in the precision of its first parameters."""
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return {
        name: value.to(like) if value.is_floating_point() else value.to(like.device)
        for name, value in inputs.items()
    }


def _guesses(
    model: nn.Module, config: Any, generator: torch.Generator
) -> Iterator[tuple[str, Tensor]]:
    main = getattr(model, "main_input_name", "input_ids")
    compares = hasattr(model, "get_text_features") and hasattr(model, "get_image_features")
    # Pictures and sound are long: one is enough.
    batch = 2 if main == "input_ids" and not compares else 1
    if vocabulary := _vocabulary(model, config):
        yield "input_ids", _tokens(config, vocabulary, (batch, _LENGTH), generator)
    if getattr(config, "is_encoder_decoder", False):
        decoder = getattr(config, "decoder", config)
        if vocabulary := getattr(decoder, "vocab_size", vocabulary):
            ids = _tokens(decoder, vocabulary, (batch, _LENGTH), generator)
            yield "decoder_input_ids", ids
    required = inspect.signature(model.forward).parameters.get("pixel_values")
    if main == "pixel_values" or compares or (required and required.default is required.empty):
        channels = _look(config, "num_channels") or _CHANNELS
        side = _look(config, "image_size") or _IMAGE_SIDE
        sides = (side, side) if isinstance(side, int) else tuple(side)
        yield "pixel_values", torch.randn(batch, channels, *sides, generator=generator)
    if main in ("input_features", "input_values"):
        yield main, torch.randn(batch, *_sound_shape(config, main), generator=generator)


def _vocabulary(model: nn.Module, config: Any) -> int:
    """How many tokens the model knows; 0 where that cannot be told."""
    embeddings = None
    with suppress(AttributeError, NotImplementedError):
        embeddings = cast(Any, model).get_input_embeddings()
    if isinstance(embeddings, nn.Embedding):
        return embeddings.num_embeddings
    return _look(config, "vocab_size") or 0


def _tokens(
    config: Any, vocabulary: int, shape: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """Random ordinary tokens [batch, length]; the last one ends the text, where there is such."""
    parts = [config, *(getattr(config, part, None) for part in _PARTS)]
    named = {
        name: value
        for part in parts
        if hasattr(part, "to_dict")
        for name, value in part.to_dict().items()
        if name.endswith(("_token_id", "_token_index")) and isinstance(value, int)
    }
    special = torch.tensor([*named.values()], dtype=torch.int64)
    ordinary = torch.arange(min(vocabulary, 1000))
    ordinary = ordinary[~torch.isin(ordinary, special)]
    picks = torch.randint(len(ordinary), shape, generator=generator)
    ids = ordinary[picks]
    end = _look(config, "eos_token_id")
    if isinstance(end, int) and 0 <= end < vocabulary:
        ids[:, -1] = end
    return ids


def _sound_shape(config: Any, main: str) -> tuple[int, ...]:
    """The shape of one recording: [bands, frames], [frames, bands] or [samples]."""
    bands = _look(config, "num_mel_bins")
    if main == "input_features":
        return bands or 80, 2 * (_look(config, "max_source_positions") or 0) or _FRAMES
    frames = _look(config, "max_length")
    return (frames, bands) if bands and frames else (_SAMPLES,)


def _look(config: Any, name: str) -> Any:
    """A setting of a configuration or of its first part that has it; None where none has."""
    for part in (config, *(getattr(config, part, None) for part in _PARTS)):
        if getattr(part, name, None) is not None:
            return getattr(part, name)
    return None
