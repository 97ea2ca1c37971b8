"""`lobes prune`: a model without some of its heads, in a folder of its own.

The folder is written beside its place, loaded back, compared with ablation and timed beside the
whole model; then it gets its name. `pruning.json` in it says what was done and measured.
"""

import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from huggingface_hub import snapshot_download
from torch import Tensor, nn

from lobes.ablation import ablate
from lobes.discovery import find_heads, guess_inputs
from lobes.discovery.kept import seeded
from lobes.errors import ConfigError, ModelError, RunError
from lobes.experiments.heads_to_prune import Choice
from lobes.experiments.manifest import PRUNED_MARKER
from lobes.experiments.model_card import model_card
from lobes.experiments.open_model import open_model
from lobes.experiments.upload import check_upload, upload
from lobes.files import disk_faults, read_json, restore, writing_folder
from lobes.heads import HeadLayout, HeadSet
from lobes.modeling import MultiTaskModel
from lobes.modeling.pretrained import load_config
from lobes.modeling.safe_loading import homes, quiet
from lobes.progress import Progress, StageProgress
from lobes.pruning import prune
from lobes.pruning.verification import tensors

MARKER = PRUNED_MARKER
SCHEMA = {"schema": "lobes-pruning", "version": 1}
_TOLERANCE = 1e-4  # in units of the largest output
_WEIGHTS: tuple[str, ...] = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")
_WEIGHTS += (".onnx", ".gguf", ".index.json")
# the speed is measured on so many texts of so many tokens, over 7 to 100 rounds
BATCH, LENGTH = 8, 128
_ROUNDS, _WARM_UP = (7, 100), 2
_TEXT = ("input_ids", "attention_mask", "token_type_ids", "decoder_input_ids")
logger = logging.getLogger("lobes")


def prune_model(
    choice: Choice,
    to: Path,
    *,
    model: str | None = None,
    export: Literal["native", "zeroed"] | None = None,
    length: int | None = None,
    fresh: bool = False,
    trust_remote_code: bool = False,
    push_to_hub: str | None = None,
    private: bool = False,
    progress: StageProgress | None = None,
) -> dict[str, Any]:
    """Write `model`, by default the run's, without the chosen heads to `to`; return the record.

    What lies beside the model's weights, such as its tokenizer, comes along; its model card goes
    on below the pruned model's own. `length` is that of the texts on which the models are timed.
    With `push_to_hub` the folder is then uploaded to the hub under this name, for all to see or
    `private`; the record that is returned has its "url".

    Raises `RunError` for a folder that holds something (with `fresh`: something that was not
    written here) or cannot be written, and whatever `open_model`, `Choice` and `prune` raise. For
    an upload, `ConfigError` before anything is done for a name that cannot be and without a token;
    `RunError` where the hub refuses it, when the folder is written.
    """
    tell = progress or (lambda *_: None)
    if push_to_hub is not None:
        check_upload(push_to_hub)
    elif private:
        raise ConfigError("private = true says how a model is uploaded: name it with push_to_hub.")
    with disk_faults(to):
        restore(to.absolute(), MARKER)  # where this was killed between the old model and the new
    check_target(to, fresh=fresh)
    name = model or choice.model()
    tell("loading", 0, 1)
    whole = open_model(name, trust_remote_code=trust_remote_code)
    tell("loading", 1, 1)
    inputs = timing_inputs(whole, length)
    layout = find_heads(whole)
    heads = choice.heads(layout)
    record = _described(name, choice, export, layout, heads)
    if model is None and (scores := choice.scores(heads)):
        record["scores"] = scores
    tell("pruning", 0, 2)
    smaller = prune(whole, heads, layout=layout, export=export)
    tell("pruning", 1, 2)
    with disk_faults(to):
        to.absolute().parent.mkdir(parents=True, exist_ok=True)
    with writing_folder(to.absolute(), record, MARKER) as folder:
        _save(smaller, name, folder, trust_remote_code)
        del smaller
        saved = open_model(folder, trust_remote_code=trust_remote_code)
        tell("pruning", 2, 2)
        with ablate(whole, heads, layout=layout):
            expected = _outputs(whole, inputs)
        record["largest_difference"] = _difference(expected, _outputs(saved, inputs), to)
        record["n_parameters"] = [_size(whole), _size(saved)]
        timing = partial(tell, "timing")
        record["speed"] = compare_speed(whole, saved, inputs, timing)
        _write_card(folder / "README.md", record, name, saved, push_to_hub)
    if push_to_hub is None:
        return record
    tell("uploading", 0, 1)
    message = f"Remove {len(heads)} of {layout.total} attention heads"
    url = upload(to, push_to_hub, message=message, private=private)
    tell("uploading", 1, 1)
    return {**record, "url": url}


def check_target(to: Path, *, fresh: bool) -> None:
    """Raise `RunError` where writing the folder `to` would touch what somebody else put there."""
    if to.is_symlink():
        raise RunError(f"{to} is a link, which lobes does not replace: give the name of a folder.")
    if not to.exists() or (to.is_dir() and not any(to.iterdir())):
        return
    record = read_json(to / MARKER) if to.is_dir() else None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA["schema"]:
        raise RunError(
            f"{to} exists, and `lobes prune` did not write it: give the name of a new folder."
        )
    if not fresh:
        raise RunError(
            f"{to} holds a pruned model: give the name of a new folder, or replace it with --fresh."
        )
    known = {MARKER, *record.get("files", {})}
    files = (path.relative_to(to).as_posix() for path in to.rglob("*") if not path.is_dir())
    for file in files:
        if file not in known:
            raise RunError(
                f"{to} holds {file}, which `lobes prune` did not write: move it elsewhere, or give "
                f"the name of a new folder."
            )


def _described(
    name: str, choice: Choice, export: str | None, layout: HeadLayout, heads: HeadSet
) -> dict[str, Any]:
    return {
        **SCHEMA,
        "model": "/".join(Path(name).absolute().parts[-2:]) if os.path.isdir(name) else name,
        "export": export,
        "chosen": choice.rule,
        "heads": str(heads),
        "dropped_by_site": heads.counts(),
        "n_heads": [layout.total, layout.total - len(heads)],
    }


def _write_card(
    file: Path,
    record: Mapping[str, Any],
    name: str,
    model: nn.Module,
    uploaded: str | None,
) -> None:
    """Write the model card over the whole model's, whose text it goes on with."""
    kind = type(model).__name__
    loading = 'import lobes\n\nmodel = lobes.load_pruned("NAME")'
    if isinstance(model, MultiTaskModel):
        loading = 'import lobes\n\nmodel = lobes.MultiTaskModel.from_pretrained("FOLDER")'
    elif record["export"]:
        loading = f'from transformers import {kind}\n\nmodel = {kind}.from_pretrained("NAME")'
    if uploaded:
        loading = loading.replace('"NAME"', f'"{uploaded}"')
    base = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    hub_name = None if os.path.isdir(name) else name
    file.write_text(model_card(record, loading, hub_name=hub_name, base=base), encoding="utf-8")


def _save(model: Any, name: str, folder: Path, trust_remote_code: bool) -> None:
    """The model, in the precision in which it was stored, and what lies beside its weights."""
    with quiet():
        if isinstance(model, MultiTaskModel):
            model.save_pretrained(folder)  # with its tokenizer
            return
        stored = load_config(name, trust_remote_code=trust_remote_code).dtype
        if isinstance(stored, torch.dtype) and _fits(model, stored):
            model.to(stored)
        model.save_pretrained(folder)
    for path in _beside(name):
        if not (folder / path.name).exists():
            _copy(path, folder / path.name, homes(path.parent))


def _copy(path: Path, to: Path, homes: Sequence[Path]) -> None:
    """Copy a file, or a folder with what is in it, but nothing that lies behind a link elsewhere.

    A link may lead to one of `homes`, as all files do in the hub's cache.
    """
    target = path.resolve()
    if path.is_symlink() and not any(target.is_relative_to(home.resolve()) for home in homes):
        logger.warning("%s is a link to %s and was not copied.", path, target)
    elif path.is_dir():
        to.mkdir()
        for inner in sorted(path.iterdir()):
            _copy(inner, to / inner.name, homes)
    elif path.is_file():
        shutil.copyfile(path, to)


def _fits(model: nn.Module, dtype: torch.dtype) -> bool:
    """Whether `dtype` holds all weights exactly."""
    return all(torch.equal(p, p.to(dtype).to(p.dtype)) for p in model.parameters())


def _beside(name: str) -> list[Path]:
    """The files of a model but its weights, and the folders that its modules.json names."""
    source = Path(name)
    if not source.is_dir():
        try:
            with quiet():
                source = Path(snapshot_download(name, ignore_patterns=[f"*{w}" for w in _WEIGHTS]))
        except (OSError, ValueError) as error:
            logger.warning("The tokenizer of %s was not copied: %s", name, error)
            return []
    modules = read_json(source / "modules.json") or []
    folders = {str(part.get("path")) for part in modules if isinstance(part, dict)}
    return [path for path in sorted(source.iterdir()) if _comes_along(path, folders)]


def _comes_along(path: Path, folders: set[str]) -> bool:
    if path.is_dir():
        return path.name in folders
    return not path.name.endswith(_WEIGHTS) and path.name not in ("config.json", MARKER)


@torch.no_grad()
def _outputs(model: nn.Module, inputs: dict[str, Tensor]) -> list[Tensor]:
    """Every task's logits, or what a model of transformers gives first."""
    with seeded(0):  # some models mask their inputs at random
        found = list(tensors(model(**inputs)))
    return found if isinstance(model, MultiTaskModel) else found[:1]


def _difference(expected: list[Tensor], found: list[Tensor], to: Path) -> float:
    """The largest difference, or `ModelError` where it is more than rounding."""
    differences = [
        float((one - other).abs().max()) for one, other in zip(expected, found, strict=True)
    ]
    scale = max(float(one.abs().max()) for one in expected)
    largest = float(np.max(differences))  # which is no number where one of them is none
    if not largest <= _TOLERANCE * max(1.0, scale):
        raise ModelError(
            f"{to} was not written: loaded back, the pruned model differs from the ablated one by "
            f"{largest:.2g}, where the largest output is {scale:.2g}."
        )
    return largest


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# The speed of two models


@torch.no_grad()
def compare_speed(
    before: nn.Module,
    after: nn.Module,
    inputs: Mapping[str, Tensor],
    progress: Progress | None = None,
    *,
    seconds: float = 4.0,
) -> dict[str, Any]:
    """Time both models in turn, in one process, the order changing from round to round.

    What else runs on the machine then slows both about alike; the first rounds do not count. It
    takes about so many `seconds`, and 7 to 100 rounds.
    """
    models, rounds = (before, after), []
    start = time.perf_counter()
    for number in range(-_WARM_UP, _ROUNDS[1]):
        row = [0.0, 0.0]
        for which in (0, 1) if number % 2 else (1, 0):
            begin = time.perf_counter()
            models[which](**inputs)
            row[which] = time.perf_counter() - begin
        if number >= 0:
            rounds.append(row)
        if progress:
            progress(min(number + 1 + _WARM_UP, _ROUNDS[0]), _ROUNDS[0])
        if len(rounds) >= _ROUNDS[0] and time.perf_counter() - start > seconds:
            break
    times = np.array(rounds)
    low, middle, high = np.quantile(times[:, 0] / times[:, 1], (0.25, 0.5, 0.75)).tolist()
    return {
        "seconds": times.min(axis=0).tolist(),  # the least disturbed by what else runs
        "ratio": middle,
        "ratio_quartiles": [low, high],
        "rounds": len(times),
        "inputs": {name: list(value.shape) for name, value in inputs.items()},
        "threads": torch.get_num_threads(),
    }


def timing_inputs(model: nn.Module, length: int | None = None) -> dict[str, Tensor]:
    """Return what `model` is timed on: guessed inputs, 8 at a time, texts of `length` tokens.

    Texts have 128 tokens where no length is given, or as few as the guess where the model takes no
    more. Raises `ConfigError` for a length that it does not take, or where it reads no text.
    """
    guessed = guess_inputs(model)
    if length is not None and "input_ids" not in guessed:
        raise ConfigError(
            f"{type(model).__name__} reads no text, which --length would be of: leave it out."
        )
    inputs = {name: _repeated(name, value, length or LENGTH) for name, value in guessed.items()}
    if _runs(model, inputs):
        return inputs
    if length is not None:
        raise ConfigError(
            f"{type(model).__name__} cannot read texts of {length} tokens: give a smaller --length."
        )
    return guessed


def _repeated(name: str, value: Any, length: int) -> Tensor:
    """An input for a whole batch, a text repeated until it is long enough."""
    if name in _TEXT and value.dim() == 2:
        value = value.repeat(1, -(-length // value.shape[1]))[:, :length]
    times = -(-BATCH // value.shape[0])
    return value.repeat(times, *[1] * (value.dim() - 1))[:BATCH].contiguous()


@torch.no_grad()
def _runs(model: nn.Module, inputs: Mapping[str, Tensor]) -> bool:
    try:
        model(**inputs)
    except Exception:  # of any kind: too few positions, a picture's tokens repeated, …
        return False
    return True
