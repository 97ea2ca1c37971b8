"""Load encoders and tokenizers from the hub or a folder: safetensors only, quietly, clear errors.

What is read here was made elsewhere. Weights come from safetensors files alone (a pickle can run
code when it is loaded), and a repository's own Python code runs only when the caller says so.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from lobes.errors import ModelError
from lobes.modeling.pruned import PrunedLoader, is_pruned
from lobes.modeling.saved import CARD


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the reports and progress bars of transformers off the terminal inside the block."""
    hub = logging.getLogger("huggingface_hub")
    verbosity, hub_level = transformers_logging.get_verbosity(), hub.level
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    hub.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
        hub.setLevel(hub_level)


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
    name = checked_name(name_or_folder)
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            config = AutoConfig.from_pretrained(
                name, subfolder=subfolder, trust_remote_code=trust_remote_code
            )
            if is_pruned(config) and not isinstance(loader, PrunedLoader):
                loader = PrunedLoader(config, loader, name, trust_remote_code)
            model, info = loader.from_pretrained(
                name,
                subfolder=subfolder,
                trust_remote_code=trust_remote_code,
                use_safetensors=True,
                output_loading_info=True,
                dtype=dtype,
                **options,
            )
        except ModelError:
            raise
        except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
            raise ModelError(_why(name, error, subfolder)) from None
    return model, frozenset(info["missing_keys"])


def load_vision_model(
    name_or_folder: str | os.PathLike[str],
    *,
    trust_remote_code: bool = False,
    dtype: torch.dtype | str | None = torch.float32,
    seed: int = 0,
) -> tuple[torch.nn.Module, frozenset[str]]:
    """As `load_model`; of a model that reads texts and images (CLIP) the part that reads images.

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
    if (Path(name) / CARD).is_file():
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
    """The configuration of a model, without its weights."""
    name = checked_name(name_or_folder)
    with quiet():
        try:
            return AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
        except (OSError, ValueError, ImportError) as error:
            raise ModelError(_why(name, error)) from None


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
    name = checked_name(name_or_folder)
    with quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                name, subfolder=subfolder, trust_remote_code=trust_remote_code
            )
        except Exception:
            # whatever goes wrong inside (dozens of tokenizer classes, no common error), the
            # user's remedy is the same
            tokenizer = None
    if tokenizer is None or len(tokenizer) <= len(set(tokenizer.all_special_tokens)):
        raise ModelError(
            f"The model {name!r} comes with no tokenizer that can be loaded: save the tokenizer "
            f"beside it (tokenizer.save_pretrained), or build lobes.MultiTaskModel(encoder, "
            f"tokenizer, tasks) from a tokenizer of your own."
        )
    return tokenizer


def with_padding(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer, or a copy that pads with its end-of-text token where it has no padding."""
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


def _read_json(
    name_or_folder: str | os.PathLike[str], file: str, *, subfolder: str = ""
) -> Any | None:
    """The content of a JSON file of a folder or hub repository; None where there is none."""
    with quiet():
        try:
            path = cached_file(
                str(name_or_folder),
                file,
                subfolder=subfolder,
                _raise_exceptions_for_gated_repo=False,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
            )
            return None if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None


def sentence_pooling(name_or_folder: str | os.PathLike[str]) -> tuple[str | None, str]:
    """What a sentence-transformers model says of itself: (pooling or None, encoder's subfolder).

    The pooling is "mean", "first" or "last"; None where the model is of another make, or pools in
    a way (maximum, weighted mean, several at once) that is not offered here.
    """
    modules = _read_json(name_or_folder, "modules.json")
    if not isinstance(modules, list) or not all(isinstance(part, Mapping) for part in modules):
        return None, ""
    subfolder = str(modules[0].get("path", "")) if modules else ""
    for part in modules:
        if str(part.get("type", "")).endswith(".Pooling"):
            config = _read_json(name_or_folder, "config.json", subfolder=str(part.get("path", "")))
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


def checked_name(name_or_folder: str | os.PathLike[str]) -> str:
    """The name as a string; `ModelError` where it can only be a folder, and there is none."""
    name = os.fspath(name_or_folder)
    if os.path.isdir(name):
        return name
    is_path = isinstance(name_or_folder, os.PathLike) or name.startswith((".", "/", "~"))
    if is_path or "\\" in name or name.count("/") > 1 or not name.strip():
        raise ModelError(
            f"There is no folder {name!r}: expected a folder that holds a model, or a name on "
            f"the Hugging Face hub such as 'bert-base-uncased'."
        )
    return name


def _why(name: str, error: Exception, subfolder: str = "") -> str:
    """One sentence on why a model could not be loaded, and what to do."""
    text = str(error)
    folder = Path(name, subfolder)
    if "trust_remote_code" in text:
        return (
            f"The model {name!r} comes with Python code of its own: read it, and if you trust "
            f"it, say trust_remote_code=True."
        )
    if folder.is_dir():
        return _why_folder(name, folder, error)
    if "safetensors" in text and "named" in text:
        return _only_pickle(name)
    if "connect" in text or "offline" in text.lower():
        return (
            f"The model {name!r} is neither a folder here nor in the download cache, and the "
            f"Hugging Face hub cannot be reached: check the name and the network connection, or "
            f"give a folder."
        )
    if "not a valid model identifier" in text or "Repo id" in text or "gated" in text:
        return (
            f"There is no model {name!r}, neither a folder here nor one that the Hugging Face "
            f"hub would give out: check the spelling (owner/name), and log in with `hf auth "
            f"login` if it is private."
        )
    return f"The model {name!r} cannot be loaded: {_first_sentence(text)}"


def _why_folder(name: str, folder: Path, error: Exception) -> str:
    if not (folder / "config.json").is_file():
        return (
            f"The folder {name!r} holds no model: expected a config.json beside the weights, as "
            f"save_pretrained writes them."
        )
    if isinstance(error, SafetensorError):
        return (
            f"The weights in {name!r} are damaged or cut short ({_first_sentence(str(error))}): "
            f"copy or download them again."
        )
    if "no file named" not in str(error):
        return f"The model in {name!r} cannot be loaded: {_first_sentence(str(error))}"
    if any(next(folder.glob(f"*.{ending}"), None) for ending in ("bin", "pt", "pth")):
        return _only_pickle(name)
    return f"The folder {name!r} holds no weights: expected a file model.safetensors."


def _only_pickle(name: str) -> str:
    return (
        f"The model {name!r} has no safetensors weights: pickle files (pytorch_model.bin) can "
        f"run code when they are loaded and are refused; convert it where you trust it "
        f"(AutoModel.from_pretrained, then save_pretrained) and give that folder."
    )


def _first_sentence(text: str) -> str:
    line = next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")
    return line.split(". ")[0].rstrip(".") + "."
