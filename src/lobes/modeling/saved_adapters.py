"""A saved `MultiTaskModel` whose encoder has adapters: the adapters alone are written, by peft.

encoder/ then holds adapter_config.json and adapter_model.safetensors beside the tokenizer, and
`lobes.json` says which base model they belong to: its name, a digest of each of its weights, and
the heads that `head_lora` limited the adapters to. A base model with other weights is refused.
"""

import copy
import hashlib
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lobes.errors import ConfigError, ModelError, first_line

HEADS = "_lobes_heads"  # what head_lora leaves on a peft model: the arguments that limit it
BASE_KEYS = ("name", "dtype", "weights", "limited_to")  # of `base_of`
_ADAPTER = "default"
_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"

_digests: WeakKeyDictionary[nn.Module, tuple[Any, dict[str, str]]] = WeakKeyDictionary()


def peft_library(what: str) -> Any:
    """Return peft; raise `ConfigError`, saying what needs it, where it is not installed."""
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        raise ConfigError(
            f"{what} needs peft, which is not installed: pip install 'lobes[lora]'."
        ) from error


def is_adapted(encoder: object) -> bool:
    """Return whether an encoder is a model of peft's, with adapters beside its weights."""
    peft = sys.modules.get("peft")  # who made such a model has imported it
    return peft is not None and isinstance(encoder, peft.PeftModel)


def holds_adapters(encoder_folder: Path) -> bool:
    """Return whether a saved model's `encoder/` holds adapters instead of a whole encoder."""
    return (encoder_folder / _CONFIG).is_file()


def check_adapters(encoder: Any) -> None:
    """Raise `ModelError` for adapters that could not be loaded again from what is written."""
    if list(encoder.peft_config) != [_ADAPTER]:
        raise ModelError(
            f"The encoder has the adapters {', '.join(encoder.peft_config)}, and cannot be saved: "
            f'expected one, called "{_ADAPTER}"; merge the others or remove them.'
        )
    if not encoder.peft_config[_ADAPTER].base_model_name_or_path:
        raise ModelError(
            "The encoder's adapters cannot be saved, since their base model has no name to be "
            "loaded by: save it first (save_pretrained), and load it from there before it gets "
            "adapters."
        )
    own = _adapter_names(encoder)
    beside = sorted(
        name
        for name, parameter in encoder.named_parameters()
        if parameter.requires_grad and name not in own.values()
    )
    if beside or set(_saved_by_peft(encoder)) != set(own):
        raise ModelError(
            f"The encoder's adapters cannot be saved by themselves, since "
            f"{beside[0] if beside else 'what peft saves of them'} is no part of an adapter's "
            f"modules: train adapters only, or merge them (merge_and_unload) and save the result."
        )


def name_base(encoder: Any, name: str) -> None:
    """Say by which name or folder the base model of an encoder's adapters is loaded."""
    for config in encoder.peft_config.values():
        config.base_model_name_or_path = name


def save_adapters(encoder: Any, folder: Path) -> None:
    """Write an encoder's adapters, as peft does."""
    # "auto" would ask the hub for the base model's vocabulary
    encoder.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)


def merge(model: Any) -> None:
    """Merge the adapters of a `MultiTaskModel`'s encoder into its weights, if it has any."""
    if is_adapted(model.encoder):
        model.encoder = model.encoder.merge_and_unload()


def save_merged(model: Any, folder: Path) -> None:
    """Write a `MultiTaskModel` with its adapters merged; the model itself keeps them."""
    whole = copy.copy(model)
    if is_adapted(model.encoder):
        whole._modules = {**model._modules, "encoder": copy.deepcopy(model.encoder)}
        merge(whole)
    whole.save_pretrained(folder)


def adapter_weights(encoder: Any, folder: Path) -> dict[str, Tensor]:
    """Return the encoder's weights with those of the adapters that `save_adapters` wrote.

    Raises `ModelError` where they are damaged, or those of other adapters.
    """
    own, state = _adapter_names(encoder), encoder.state_dict()
    try:
        saved = load_file(folder / _WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise _damaged(folder, error) from error
    shapes = {name: tensor.shape for name, tensor in saved.items()}
    if shapes != {name: state[place].shape for name, place in own.items()}:
        raise ModelError(
            f"The adapters in {str(folder)!r} are those of another model: expected the same "
            f"projections and ranks."
        )
    return {**state, **{own[name]: tensor for name, tensor in saved.items()}}


def base_of(encoder: Any) -> dict[str, Any]:
    """Return what a saved model says of the base model of its adapters."""
    base = encoder.get_base_model()
    state = base_state(encoder)
    return {
        "name": encoder.peft_config[_ADAPTER].base_model_name_or_path,
        "dtype": str(next(base.parameters()).dtype),
        "weights": _known_digests(base, state),
        "limited_to": encoder.__dict__.get(HEADS),
    }


def base_state(encoder: nn.Module) -> dict[str, Tensor]:
    """Return an encoder's own weights by their own names, without those of adapters."""
    if not is_adapted(encoder):
        return encoder.state_dict()
    adapters = set(_adapter_names(encoder).values())
    return {
        name.removeprefix("base_model.model.").replace(".base_layer.", "."): tensor
        for name, tensor in encoder.state_dict().items()
        if name not in adapters
    }


def put_on(
    encoder: nn.Module, missing: frozenset[str], base: Mapping[str, Any], folder: Path
) -> Any:
    """Return the base model with the adapters in a folder; they train, and nothing else does.

    `missing` are weights that the base model's checkpoint does not hold. Raises `ModelError` for
    a base model with other weights than that of the adapters, and for damaged adapters.
    """
    state = {name: value for name, value in encoder.state_dict().items() if name not in missing}
    if base["dtype"] == str(next(encoder.parameters()).dtype):
        found, wanted = _known_digests(encoder, state), base["weights"]
        other = [name for name in found if found[name] != wanted.get(name)]
    else:
        other = sorted(state.keys() - base["weights"].keys())
    if other:
        raise ModelError(
            f"The adapters in {str(folder)!r} belong to another base model ({other[0]} is not the "
            f"same): give the one that they were trained on, with base=…"
        )
    peft = peft_library(f"The model in {str(folder.parent)!r}, an encoder with adapters,")
    try:
        config = peft.PeftConfig.from_pretrained(folder)
        config.megatron_config = None  # it would import a module of any name
        adapted = peft.PeftModel.from_pretrained(
            encoder, folder, config=config, is_trainable=True, use_safetensors=True
        )
        weights = adapter_weights(adapted, folder)
    except ModelError:
        raise
    except Exception as error:
        raise _damaged(folder, error) from error
    # peft is silent about weights that it finds no place for
    adapted.load_state_dict(weights)
    return adapted.eval()


def _damaged(folder: Path, error: Exception) -> ModelError:
    return ModelError(
        f"The adapters in {str(folder)!r} cannot be loaded ({first_line(error)}): copy the whole "
        f"folder again."
    )


def _saved_by_peft(encoder: Any) -> dict[str, Tensor]:
    return peft_library("It").get_peft_model_state_dict(encoder, save_embedding_layers=False)


def _adapter_names(encoder: nn.Module) -> dict[str, str]:
    """The encoder's names of its adapter's weights, by the names that peft's files have."""
    mark = f".{_ADAPTER}."
    return {
        name.replace(mark, "."): name
        for name, _ in encoder.named_parameters()
        if mark in name and ".modules_to_save." not in name
    }


def _known_digests(owner: nn.Module, state: Mapping[str, Tensor]) -> dict[str, str]:
    """{name: digest} of weights; computed again only where one of them has changed since."""
    seen = {name: (each.data_ptr(), each._version) for name, each in state.items()}
    known = _digests.get(owner)
    if known is None or known[0] != seen:
        _digests[owner] = known = seen, {name: _digest(each) for name, each in state.items()}
    return known[1]


def _digest(tensor: Tensor) -> str:
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(raw.data)
    return digest.hexdigest()[:16]
