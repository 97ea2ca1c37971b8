"""Run an encoder on token ids or pixels, and pool its states into one vector for each example.

Nothing here knows an architecture by name. Whether a token sees only those before it is found by
trying: change the last token, and see whether the first token's state moves. So is whether an
image encoder has a class token: it then has more states than patches.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, cast, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lobes.discovery.kept import kept
from lobes.errors import ConfigError, ModelError, first_line
from lobes.modeling.saved_adapters import is_adapted

Pooling = Literal["pooler", "first", "mean", "last"]


def run_encoder(encoder: nn.Module, inputs: Mapping[str, Tensor | None]) -> Any:
    """Return the encoder's output object for `input_ids` and `attention_mask`, each [batch,
    length], or for `pixel_values` [batch, channels, height, width].

    Inputs that the encoder has no use for (`token_type_ids` for many) are left out. An
    encoder-decoder reads the text again in its decoder, shifted right by one, as its
    sequence-classification class does.
    """
    given = useful_inputs(encoder, inputs)
    if _is_encoder_decoder(encoder):
        given["decoder_input_ids"] = _shifted_right(given["input_ids"], encoder.config)
        if "attention_mask" in given:
            # shifted by one, the real positions of an example are as many and as far left
            given["decoder_attention_mask"] = given["attention_mask"]
    return encoder(**given)


def useful_inputs(module: nn.Module, inputs: Mapping[str, Tensor | None]) -> dict[str, Any]:
    """Return the inputs that a module has a use for; it is told to keep no cache."""
    accepted = accepted_inputs(module)
    given = {name: each for name, each in inputs.items() if each is not None and name in accepted}
    return {**given, "use_cache": False} if "use_cache" in accepted else given


def accepted_inputs(module: nn.Module) -> frozenset[str]:
    """Return the names of the arguments that the module's forward pass takes.

    Around a model with adapters peft puts one that passes on whatever it is given.
    """
    taking: Any = module.get_base_model() if is_adapted(module) else module  # type: ignore[operator]
    return _parameters_of(type(taking).forward)


@cache
def _parameters_of(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def pool(
    states: Float[Tensor, "batch length width"],
    mask: Int[Tensor, "batch length"],
    pooling: str,
) -> Float[Tensor, "batch width"]:
    """Return one vector per example: its first or last real token's state, or the mean of all.

    `mask` is 1 for a real token and 0 for padding, which may stand on either side.
    """
    if pooling == "mean":
        precise = torch.promote_types(states.dtype, torch.float32)
        real = mask[:, :, None] != 0
        # not a product: padding may hold what is not a number, and that times 0 is not 0
        return torch.where(real, states, 0).to(precise).sum(1) / real.sum(1)
    first, last = mask.argmax(1), mask.shape[1] - 1 - mask.flip(1).argmax(1)
    places = first if pooling == "first" else last
    return states[torch.arange(len(states), device=states.device), places]


def check_pooling(pooling: str) -> None:
    """Raise `ConfigError` for a pooling that does not exist."""
    if pooling not in ("auto", *get_args(Pooling)):
        raise ConfigError(
            f'Unknown pooling {pooling!r}: expected "auto", "pooler", "first", "mean" or "last".'
        )


def choose_pooling(encoder: nn.Module, *, trained_pooler: bool) -> Pooling:
    """Return what "auto" means for an encoder: its pooler if trained, else "last" or "first".

    "last" where a token sees only those before it (decoders), "first" where it sees all.
    """
    if trained_pooler:
        return "pooler"
    if _is_encoder_decoder(encoder) or _is_causal(encoder):
        return "last"
    return "first"


def resolved_pooling(pooling: str, encoder: nn.Module) -> Pooling:
    """Return the pooling of a text encoder; `ConfigError` where it cannot be pooled so."""
    check_pooling(pooling)
    if pooling == "auto":
        return choose_pooling(encoder, trained_pooler=has_trained_pooler(encoder))
    if pooling == "pooler" and not has_pooler(encoder):
        raise ConfigError(
            f"The encoder {type(encoder).__name__} has no pooler of its own: choose the pooling "
            f'"first", "mean" or "last".'
        )
    return cast(Pooling, pooling)


def has_pooler(encoder: nn.Module) -> bool:
    """Return whether the encoder has a pooling module of its own."""
    return getattr(encoder, "pooler", None) is not None


def has_trained_pooler(encoder: Any) -> bool:
    """Return whether the encoder has a pooler with no bias that is all zero, as new ones are."""
    if not has_pooler(encoder):
        return False
    biases = [value for name, value in encoder.pooler.named_parameters() if name.endswith("bias")]
    return all(bool(bias.any()) for bias in biases)


def probe(encoder: nn.Module, last: int = 0) -> Any:
    """Return the encoder's output for one made-up text of five tokens, in evaluation mode.

    `last` varies the last token. Raises `ModelError` where the encoder does not run on token ids.
    """
    padding = getattr(encoder.config, "pad_token_id", None)
    harmless = [i for i in range(4) if i != padding]
    device = next(encoder.parameters()).device
    ids = torch.tensor([[*[harmless[0]] * 4, harmless[last]]], device=device)
    with probing(encoder):
        try:
            outputs = run_encoder(encoder, {"input_ids": ids, "attention_mask": ids * 0 + 1})
            outputs.last_hidden_state  # noqa: B018
        except (TypeError, ValueError, KeyError, AttributeError, RuntimeError, IndexError) as error:
            raise ModelError(
                f"The encoder {type(encoder).__name__} does not turn token ids into states: "
                f"expected a text encoder or decoder as AutoModel makes it ({error})."
            ) from error
    return outputs


@dataclass(frozen=True, slots=True)
class PictureProbe:
    """What an image encoder made of one picture that it cut into `patches`."""

    outputs: Any
    patches: int

    @property
    def has_pooler(self) -> bool:
        """Whether the encoder pools its states by itself."""
        return getattr(self.outputs, "pooler_output", None) is not None

    def choose_pooling(self, *, trained_pooler: bool) -> Pooling:
        """Return what "auto" means: the encoder's pooler if trained, else "first" or "mean".

        "first" where there is a class token, "mean" over all patches where there is none.
        """
        if trained_pooler and self.has_pooler:
            return "pooler"
        states = self.outputs.last_hidden_state
        return "first" if states.dim() == 3 and states.shape[1] > self.patches else "mean"


def probe_pictures(
    encoder: nn.Module, pixels: Float[Tensor, "1 channels height width"]
) -> PictureProbe:
    """Run the encoder on one picture twice over, as a batch, in evaluation mode.

    The patches are the places of the first convolution; without one, the states. Raises
    `ModelError` where the encoder does not run on such pictures, or does not treat the two alike.
    """
    places: list[int] = []

    def count(module: nn.Module, args: Any, output: Tensor) -> None:
        places.append(output.shape[-2:].numel())

    convolutions = [module for module in encoder.modules() if isinstance(module, nn.Conv2d)]
    hooks = [module.register_forward_hook(count) for module in convolutions]
    first = next(encoder.parameters())
    with probing(encoder):
        try:
            twice = pixels.to(first.device, first.dtype).repeat(2, 1, 1, 1)
            outputs = run_encoder(encoder, {"pixel_values": twice})
            states = outputs.last_hidden_state
        except (TypeError, ValueError, KeyError, AttributeError, RuntimeError, IndexError) as error:
            raise ModelError(
                f"The encoder {type(encoder).__name__} does not turn pictures of "
                f"{list(pixels.shape[1:])} into states: expected an image encoder as AutoModel "
                f"makes it, and the image processor that belongs to it ({first_line(error)})."
            ) from error
        finally:
            for hook in hooks:
                hook.remove()
    one, other = states[:1], states[1:]
    # the same but for rounding, and numbers
    if len(states) != 2 or not (one - other).abs().max() <= 1e-2 * one.abs().max():
        raise ModelError(
            f"The encoder {type(encoder).__name__} does not give each picture of a batch states of "
            f"its own that are always the same, as one that masks pictures at random does not: "
            f"load its weights into another class, such as ViTModel."
        )
    return PictureProbe(outputs, places[0] if places else states.shape[1])


def resolved_picture_pooling(pooling: str, encoder: nn.Module, seen: PictureProbe) -> Pooling:
    """Return the pooling of an image encoder; `ConfigError` where it cannot be pooled so."""
    check_pooling(pooling)
    if pooling == "auto":
        trained = not has_pooler(encoder) or has_trained_pooler(encoder)
        return seen.choose_pooling(trained_pooler=trained)
    if pooling == "last" or (pooling == "pooler" and not seen.has_pooler):
        raise ConfigError(
            f"The image encoder {type(encoder).__name__} cannot be pooled by {pooling!r}: choose "
            f'the pooling "first" or "mean".'
        )
    return cast(Pooling, pooling)


def as_sequence(states: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch length width"]:
    """Return the states of an encoder as a sequence; a feature map is flattened row by row."""
    return states.flatten(2).transpose(1, 2) if states.dim() == 4 else states


def _is_encoder_decoder(encoder: nn.Module) -> bool:
    return getattr(encoder.config, "is_encoder_decoder", False)


def _is_causal(encoder: nn.Module) -> bool:
    """Whether the first token's state stays the same to the bit when the last token changes."""
    one, other = (probe(encoder, last).last_hidden_state[:, 0] for last in (0, 1))
    return torch.equal(one, other)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Put the module into evaluation mode inside the block, and restore each part on exit."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


@contextmanager
def probing(module: nn.Module) -> Iterator[None]:
    """Try a module in evaluation mode without gradients, and restore it on exit."""
    with kept(module), evaluation_mode(module), torch.no_grad():
        yield


def _shifted_right(ids: Int[Tensor, "batch length"], config: Any) -> Int[Tensor, "batch length"]:
    """The decoder's input: a start token, then all tokens but the last."""
    start = getattr(config, "decoder_start_token_id", None)
    start = config.pad_token_id if start is None else start
    if start is None:
        raise ModelError(
            "The encoder-decoder has neither a decoder start token nor a padding token in its "
            "configuration: set config.decoder_start_token_id."
        )
    return torch.cat([torch.full_like(ids[:, :1], start), ids[:, :-1]], dim=1)
