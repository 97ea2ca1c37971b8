"""Load encoders and tokenizers from the hub or a folder: safetensors only, quietly, clear errors.

What is read here was made elsewhere. Weights come from safetensors files alone (a pickle can run
code when it is loaded), and a repository's own Python code runs only when the caller says so.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from lobes.discovery.kept import seeded
from lobes.errors import ModelError
from lobes.files import near_path
from lobes.modeling.packaged import local_model
from lobes.modeling.pruned import PrunedLoader, is_pruned
from lobes.modeling.safe_loading import (
    NEEDS_TRUST,
    bounded_modules,
    check_contents,
    name_of,
    opening,
    read_json,
)
from lobes.modeling.saved import CARD


def load_model(
    name_or_folder: str | os.PathLike[str],
    *,
    loader: Any = AutoModel,
    trust_remote_code: bool = False,
    dtype: torch.dtype | str | None = torch.float32,
    seed: int = 0,
    subfolder: str = "",
    **options: Any,
) -> tuple[torch.nn.Module, frozenset[str]]:
    """Load a model and the names of the weights that its checkpoint does not hold.

    `loader` is the class whose `from_pretrained` does it, such as `AutoModel`; `options` are
    further arguments of that. A model that was pruned loads like any other.
    Weights missing from the checkpoint start from `seed`; the global random state is not touched.
    Raises `ModelError` where there is no model, or none that can be loaded safely.
    """
    if options.get("device_map") is not None and torch.cuda.is_available():
        torch.cuda.init()  # so that weights drawn there have the seed, too
    with (
        checked(name_or_folder, trust_remote_code, subfolder) as (name, given),
        seeded(seed),
    ):
        # a class that is there already needs no code of the model's to read its configuration
        reader = getattr(loader, "config_class", None) or AutoConfig
        config = reader.from_pretrained(name, **given)
        with bounded_modules(name, subfolder):
            if is_pruned(config) and not isinstance(loader, PrunedLoader):
                loader = PrunedLoader(config, loader, name, trust_remote_code)
            model, info = loader.from_pretrained(
                name,
                use_safetensors=True,
                output_loading_info=True,
                dtype=dtype,
                **given,
                **options,
            )
    return model, frozenset(info["missing_keys"])


def load_vision_model(
    name_or_folder: str | os.PathLike[str],
    *,
    trust_remote_code: bool = False,
    dtype: torch.dtype | str | None = torch.float32,
    seed: int = 0,
) -> tuple[torch.nn.Module, frozenset[str]]:
    """Load a model as `load_model` does; of a text and image model (CLIP), the image part.

    Raises `ModelError` also where that part cannot be loaded by itself.
    """
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "dtype": dtype, "seed": seed}
    config = load_config(name_or_folder, trust_remote_code=trust_remote_code)
    vision = getattr(config, "vision_config", None)
    if vision is None:
        return load_model(name_or_folder, **options)
    if type(vision) in AutoModel._model_mapping:
        model, missing = load_model(name_or_folder, config=vision, **options)
        if not missing:
            return model, missing
    raise ModelError(
        f"The part of {os.fspath(name_or_folder)!r} that reads images cannot be loaded by itself: "
        f"expected an image encoder, or a model with one beside a text encoder, such as CLIP."
    )


def load_pruned(
    folder: str | os.PathLike[str],
    model_class: Any = None,
    *,
    dtype: torch.dtype | str | None = None,
    device_map: Any = None,
    trust_remote_code: bool = False,
    **options: Any,
) -> Any:
    """Load a model that was pruned by `lobes.prune`, or by transformers 4 (`prune_heads`).

    `folder` is a folder or a name on the Hugging Face hub. `model_class` is a class of
    transformers, automatic ones included; without it, the class that the model was saved from.
    `dtype`, `device_map` and `options` are arguments of its `from_pretrained`. Weights are read
    from safetensors files only.

    Raises `ModelError` where there is no pruned model, for a plan that is damaged or of a newer
    version, and where the plan does not fit the architecture.
    """
    name = checked_name(folder)
    if os.path.isfile(Path(name, CARD)):
        raise ModelError(
            f"{name!r} holds a MultiTaskModel: load it with lobes.load_task_model, pruned or not."
        )
    config = load_config(name, trust_remote_code=trust_remote_code)
    loader = PrunedLoader(config, model_class, name, trust_remote_code)
    if device_map is not None:
        options["device_map"] = device_map
    model, _ = load_model(
        name, loader=loader, trust_remote_code=trust_remote_code, dtype=dtype, **options
    )
    return model


def load_config(name_or_folder: str | os.PathLike[str], *, trust_remote_code: bool = False) -> Any:
    """Return the configuration of a model, without its weights."""
    with checked(name_or_folder, trust_remote_code) as (name, given):
        return AutoConfig.from_pretrained(name, **given)


def load_tokenizer(
    name_or_folder: str | os.PathLike[str],
    *,
    trust_remote_code: bool = False,
    subfolder: str = "",
) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer; `ModelError` where there is none.

    For a folder without one transformers may return a tokenizer that knows nothing but its
    special tokens; that counts as none.
    """
    with checked(name_or_folder, trust_remote_code, subfolder) as (name, given):
        try:
            tokenizer = AutoTokenizer.from_pretrained(name, **given)
            knows_words = len(tokenizer) > len(set(tokenizer.all_special_tokens))
        except Exception as error:
            if NEEDS_TRUST in str(error):
                raise
            # whatever goes wrong inside, the user's remedy is the same
            raise _no_tokenizer(name) from error
    if not knows_words:
        raise _no_tokenizer(name)
    return tokenizer


def _no_tokenizer(name: str) -> ModelError:
    return ModelError(
        f"The model {name!r} comes with no tokenizer that can be loaded: save the tokenizer "
        f"beside it (tokenizer.save_pretrained), or build lobes.MultiTaskModel(encoder, "
        f"tokenizer, tasks) from a tokenizer of your own."
    )


def with_padding(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return the tokenizer, or a copy that pads with its end token if it has no padding token."""
    if tokenizer.pad_token is not None:
        return tokenizer
    if tokenizer.eos_token is None:
        raise ModelError(
            f"The tokenizer {type(tokenizer).__name__} has neither a padding nor an end-of-text "
            f"token: give it one (tokenizer.pad_token = ...) so that texts can share a batch."
        )
    copy = deepcopy(tokenizer)
    copy.pad_token = copy.eos_token
    return copy


def sentence_pooling(name_or_folder: str | os.PathLike[str]) -> tuple[str | None, str]:
    """Return pooling (or None) and encoder subfolder that a sentence-transformers model has.

    The pooling is "mean", "first" or "last"; None where the model is of another make, or pools in
    a way (maximum, weighted mean, several at once) that is not offered here.
    """
    modules = read_json(name_or_folder, "modules.json")
    if not isinstance(modules, list) or not all(isinstance(part, Mapping) for part in modules):
        return None, ""
    subfolder = str(modules[0].get("path", "")) if modules else ""
    for part in modules:
        if str(part.get("type", "")).endswith(".Pooling"):
            config = read_json(name_or_folder, "config.json", subfolder=str(part.get("path", "")))
            return _pooling_of(config or {}), subfolder
    return None, subfolder


def _pooling_of(config: Mapping[str, Any]) -> str | None:
    """The pooling that a sentence-transformers `Pooling` configuration asks for, if it is ours."""
    names = {"cls": "first", "cls_token": "first", "mean": "mean", "mean_tokens": "mean"}
    names |= {"lasttoken": "last"}
    modes = [key.removeprefix("pooling_mode_") for key, value in config.items() if value is True]
    if isinstance(config.get("pooling_mode"), str):
        modes = [config["pooling_mode"]]
    modes = [mode for mode in modes if mode != "include_prompt"]
    return names.get(modes[0]) if len(modes) == 1 else None


@contextmanager
def checked(
    name_or_folder: str | os.PathLike[str], trust_remote_code: bool, subfolder: str = ""
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a model's name, and what `from_pretrained` is given, once its contents are checked.

    Whatever is raised inside comes out as `opening` says it.
    """
    name = checked_name(name_or_folder)
    given: dict[str, Any] = {"subfolder": subfolder, "trust_remote_code": trust_remote_code}
    with opening(name, subfolder):
        check_contents(name, **given)
        yield name, given


def checked_name(name_or_folder: str | os.PathLike[str]) -> str:
    """Return the name as a string, of a packaged model its folder, which may be made for it.

    Raises `ModelError` if it can only be a folder, and there is none.
    """
    name = local_model(name_of(name_or_folder))
    if os.path.isdir(name):
        return name
    is_path = isinstance(name_or_folder, os.PathLike) or name.startswith((".", "/", "~"))
    if is_path or "\\" in name or name.count("/") > 1 or not name.strip():
        raise ModelError(
            f"There is no folder {name!r}: expected a folder that holds a model, or a name on "
            f"the Hugging Face hub such as 'bert-base-uncased'.{near_path(Path(name))}"
        )
    return name
