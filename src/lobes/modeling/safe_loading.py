"""Open a model that was made elsewhere without running its code, with one sentence for each fault.

`opening` is the boundary around everything that a library does with a model's files: whatever is
raised inside it comes out as one `ModelError`. `check_contents` looks at the files before any
library does, for what transformers would follow or wait for: weights that an index names outside
the folder or in a pickle, attention code of the hub, pipes, and numbers that no machine can build.
"""

import json
import logging
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch.nn.modules.module import register_module_module_registration_hook
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from lobes.errors import LobesError, ModelError

INDEX = "model.safetensors.index.json"
NEEDS_TRUST = "trust_remote_code"  # what transformers says where a model brings code

# Numbers of these are counted one by one where a configuration is read: a list of thousand million
# layers fills the memory. No model has so many.
_COUNTS = re.compile("layer|label|depth|expert|head|stage")
_LARGEST_COUNT = 2**20
# A model has a few modules for each stored tensor; where the files cannot be seen, no model of
# transformers has as many.
_MODULES_PER_TENSOR, _FEW_MODULES, _MOST_MODULES = 20, 1_000, 250_000
# Keys of a configuration whose values transformers looks up elsewhere: a repository of kernels,
# which are code, or a file of weights.
_CODE_KEYS = ("attn_implementation", "experts_implementation")
_WEIGHTS_KEY = "transformers_weights"


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


def name_of(name_or_folder: str | os.PathLike[str]) -> str:
    """Return a model's name or folder as text; `ModelError` for what is neither."""
    if not isinstance(name_or_folder, str | os.PathLike):
        raise ModelError(
            f"A model to load is a folder or a name on the Hugging Face hub, not a "
            f"{type(name_or_folder).__name__}."
        )
    return os.fspath(name_or_folder)


@contextmanager
def opening(name_or_folder: str | os.PathLike[str], subfolder: str = "") -> Iterator[None]:
    """Turn whatever is raised inside, quietly, into one `ModelError` that names the model.

    Errors of lobes pass as they are. The original is the cause of the `ModelError`.
    """
    name = name_of(name_or_folder)
    try:
        with quiet():
            yield
    except LobesError:
        raise
    except Exception as error:  # dozens of classes read a folder's files, with no common error
        raise ModelError(_why(name, error, subfolder)) from error


@contextmanager
def bounded_modules(name: str, subfolder: str = "") -> Iterator[None]:
    """Raise `ModelError` once more modules are built inside than a model of these weights has."""
    limit, count = _module_limit(Path(name, subfolder)), 0

    def counted(*_: Any) -> None:
        nonlocal count
        count += 1
        if count > limit:
            raise ModelError(
                f"The config.json of {name!r} describes a model of more than {limit:,} modules, "
                f"which its weights cannot fill: it is damaged; copy or download it again."
            )

    handle = register_module_module_registration_hook(counted)
    try:
        yield
    finally:
        handle.remove()


def check_contents(name: str, *, subfolder: str = "", trust_remote_code: bool = False) -> None:
    """Raise `ModelError` for what must not be read, before any library reads it.

    `name` is a folder or a repository of the hub.
    """
    folder = Path(name, subfolder)
    if Path(subfolder).is_absolute() or ".." in Path(subfolder).parts:
        raise ModelError(
            f"The modules.json of {name!r} names {subfolder!r}, which is outside its folder: it is "
            f"damaged; copy or download it again."
        )
    if os.path.isdir(folder):
        check_files(folder)
    config = read_json(name, "config.json", subfolder=subfolder)
    if isinstance(config, dict) and str(config.get("schema")).startswith("lobes-"):
        raise ModelError(
            f"{name!r} is the folder of a run of lobes, not of a model: its trained model, where "
            f"it has one, is {str(folder / 'model')!r}."
        )
    _check_config(name, config, trust_remote_code)
    index = read_json(name, INDEX, subfolder=subfolder)
    weights = config.get(_WEIGHTS_KEY) if isinstance(config, dict) else None
    if isinstance(weights, str) and weights.endswith(".index.json"):
        index = read_json(name, weights, subfolder=subfolder)
    if index is not None:
        _check_index(name, folder, index)


def read_json(name: str | os.PathLike[str], file: str, *, subfolder: str = "") -> Any | None:
    """Return the content of a JSON file of a folder or hub repository; None if there is none."""
    with quiet():
        try:
            path = cached_file(
                str(name),
                file,
                subfolder=subfolder,
                _raise_exceptions_for_gated_repo=False,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
            )
            return None if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None


def check_files(folder: Path) -> None:
    """Refuse a pipe, socket or device, on which reading would wait, and pickled adapters."""
    for path in sorted(folder.iterdir()):
        try:
            mode = path.stat().st_mode
        except OSError:
            continue  # a link to nothing: as if it were not there
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise ModelError(
                f"The folder {str(folder)!r} holds {path.name}, which is no file but a pipe, "
                f"socket or device: remove it."
            )
    adapter = "adapter_model.safetensors"
    if (folder / "adapter_config.json").exists() and not (folder / adapter).is_file():
        raise ModelError(
            f"The folder {str(folder)!r} holds an adapter_config.json without {adapter}: pickled "
            f"adapters can run code when they are loaded and are refused; remove the adapter, or "
            f"merge it into the model (merge_and_unload) and save that."
        )


def _check_config(name: str, config: Any, trust_remote_code: bool) -> None:
    for key, value in _entries(config):
        if not trust_remote_code and key.endswith(_CODE_KEYS) and re.search("[/:]", str(value)):
            raise ModelError(
                f"The config.json of {name!r} names code on the hub ({key} = {value!r}): read it, "
                f"and if you trust it, say so ({TRUST})."
            )
        if key == _WEIGHTS_KEY and not _is_weights_name(value, (".safetensors", ".index.json")):
            raise ModelError(_outside(name, "config.json", value))
        if _COUNTS.search(key) and isinstance(value, int | float) and value > _LARGEST_COUNT:
            raise ModelError(
                f"The config.json of {name!r} says {key} = {value:g}, which no model has: it is "
                f"damaged; copy or download it again."
            )


def _entries(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every (key, value) of nested JSON, entries of lists by the key of the list."""
    waiting = [(key, value)]
    while waiting:  # not by recursion: the nesting may be deep
        key, value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += [(key, entry) for entry in value]
        else:
            yield key, value


def _check_index(name: str, folder: Path, index: Any) -> None:
    """Let an index name safetensors files beside it, and nothing else."""
    weights = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weights, dict) or not weights:
        raise ModelError(
            f"The index of the weights of {name!r} ({INDEX}) is damaged: expected a weight_map "
            f"from parameters to files; copy or download it again."
        )
    for file in weights.values():
        is_here = _is_weights_name(file, (".safetensors",)) and _stays(folder, str(file))
        if not is_here:
            raise ModelError(_outside(name, INDEX, file))


def _is_weights_name(name: Any, endings: tuple[str, ...]) -> bool:
    """Whether it is the plain name of a file that ends so."""
    return isinstance(name, str) and name.endswith(endings) and not {"/", "\\"} & {*name}


def _stays(folder: Path, name: str) -> bool:
    """Whether no link leads out of the folder, but for those of the hub's own cache."""
    path = folder / name
    if not path.is_symlink():
        return True
    target = path.resolve()
    return any(target.is_relative_to(home) for home in homes(folder))


def homes(folder: Path) -> tuple[Path, ...]:
    """Return where a model's files may lie: its folder, and the hub cache's blobs."""
    folder = folder.resolve()  # which may be named by a link, or from inside
    for each in (folder, *folder.parents):
        if each.parent.name == "snapshots":
            return folder, each.parent.parent / "blobs"
    return (folder,)


def _outside(name: str, where: str, file: Any) -> str:
    return (
        f"The {where} of {name!r} names the weights {str(file)!r}: expected a *.safetensors file "
        f"in the same folder; other files can run code when they are loaded and are refused."
    )


def _module_limit(folder: Path) -> int:
    tensors = 0
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, framework="pt") as file:
                tensors += len(file.keys())
        except (OSError, SafetensorError):
            return _MOST_MODULES
    return _FEW_MODULES + _MODULES_PER_TENSOR * tensors if tensors else _MOST_MODULES


# Sentences

TRUST = "--trust-remote-code, trust_remote_code = true in your study, or trust_remote_code=True"


def _why(name: str, error: Exception, subfolder: str = "") -> str:
    """One sentence on why a model could not be loaded, and what to do."""
    text = str(error)
    folder = Path(name, subfolder)
    if NEEDS_TRUST in text:
        return (
            f"The model {name!r} comes with Python code of its own: read it, and if you trust it, "
            f"say so ({TRUST})."
        )
    if os.path.isdir(folder):
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
    return f"The model {name!r} cannot be loaded: {_first_sentence(error)}"


def _why_folder(name: str, folder: Path, error: Exception) -> str:
    if not any((folder / file).is_file() for file in ("config.json", "lobes.json")):
        return (
            f"The folder {name!r} holds no model: expected a config.json beside the weights, as "
            f"save_pretrained writes them."
        )
    if isinstance(error, SafetensorError):
        return (
            f"The weights in {name!r} are damaged or cut short ({_first_sentence(error)}): copy or "
            f"download them again."
        )
    if "no file named" not in str(error):
        return (
            f"The model in {name!r} cannot be loaded; its config.json or another of its files is "
            f"damaged or of another version: {_first_sentence(error)}"
        )
    if any(next(folder.glob(f"*.{ending}"), None) for ending in ("bin", "pt", "pth")):
        return _only_pickle(name)
    return f"The folder {name!r} holds no weights: expected a file model.safetensors."


def _only_pickle(name: str) -> str:
    return (
        f"The model {name!r} has no safetensors weights: pickle files (pytorch_model.bin) can "
        f"run code when they are loaded and are refused; convert it where you trust it "
        f"(AutoModel.from_pretrained, then save_pretrained) and give that folder."
    )


def _first_sentence(error: Exception) -> str:
    """What an error says, on one line and not too long; its kind where the text needs it."""
    text = " ".join(str(error).split()).split(". ")[0].rstrip(".:")
    if not isinstance(error, OSError | ImportError | SafetensorError) or not text:
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return (text if len(text) <= 200 else f"{text[:199]}…") + "."
