"""A saved `MultiTaskModel` on disk: what is written, in which order, and what is refused.

encoder/                  the encoder and its tokenizer; `AutoModel` alone can load it. Where the
                          encoder has adapters, these alone (`saved_adapters.py`)
classifiers.safetensors   weight and bias of each task's classifier
lobes.json                what they belong to; removed first and written last, so a folder
                          without it is an unfinished one
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from lobes.errors import ConfigError, ModelError
from lobes.files import equal_rights, writing
from lobes.metrics import OF_ONES_OWN, metric_names
from lobes.modeling.pruned import is_pruned
from lobes.modeling.safe_loading import check_files, quiet
from lobes.modeling.saved_adapters import BASE_KEYS, check_adapters, is_adapted
from lobes.tasks.columns import listed
from lobes.tasks.task import TaskSpec

SCHEMA = "lobes-model"
VERSION = 2  # 1 where the whole encoder is there
CARD = "lobes.json"
CLASSIFIERS = "classifiers.safetensors"
ENCODER = "encoder"
_MERGE = (
    "merge its adapters first (with peft, merge_and_unload) and save the result, or save the "
    "adapters on their own"
)


@dataclass(frozen=True, slots=True)
class Card:
    """What `lobes.json` says of a model; of its encoder's base model where that has adapters."""

    tasks: tuple[TaskSpec, ...]
    pooling: str
    dropout: float
    max_length: int
    base: Mapping[str, Any] | None = None


def is_saved_model(name_or_folder: str | os.PathLike[str]) -> bool:
    """Return whether `MultiTaskModel.save_pretrained` wrote the folder, completely or not."""
    # a name of the hub may be one that no file can have, for which `Path.is_file` raises
    return any(os.path.isfile(Path(name_or_folder, file)) for file in (CARD, CLASSIFIERS))


def open_folder(folder: Path) -> None:
    """Make the folder, and mark what is in it as unfinished."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD).unlink(missing_ok=True)


def write_classifiers(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write the classifiers' weights, by their names in the `ModuleDict`."""
    tensors = {name: value.contiguous() for name, value in weights.items()}
    save_file(tensors, folder / CLASSIFIERS, metadata={"format": "pt"})


def close_folder(folder: Path, card: Card) -> None:
    """Write `lobes.json`, all at once: the folder is complete now."""
    content = {
        "schema": SCHEMA,
        "version": 1 if card.base is None else VERSION,
        "tasks": [spec.to_dict() for spec in card.tasks],
        "pooling": card.pooling,
        "dropout": card.dropout,
        "max_length": card.max_length,
    } | ({} if card.base is None else {"base": card.base})
    # safetensors makes its files private
    equal_rights([*folder.glob("*.safetensors"), *(folder / ENCODER).glob("*.safetensors")], folder)
    with writing(folder / CARD) as file:
        file.write(json.dumps(content, indent=2, ensure_ascii=False).encode())


def read_card(folder: Path) -> Card:
    """Read `lobes.json`; raise `ModelError` if it is missing, damaged or of a newer version."""
    if not (folder / CARD).is_file():
        raise ModelError(
            f"The model in {str(folder)!r} was not written to the end ({CARD} is missing): save "
            f"it again."
        )
    check_files(folder)
    damaged = ModelError(
        f"{str(folder / CARD)!r} does not describe a saved MultiTaskModel: expected what "
        f"save_pretrained writes."
    )
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        schema, version = card["schema"], int(card["version"])
    except (ValueError, KeyError, TypeError) as error:
        raise damaged from error
    if schema == SCHEMA and version > VERSION:
        raise ModelError(
            f"The model in {str(folder)!r} was saved by a newer lobes (format {version}, this one "
            f"reads up to {VERSION}): upgrade lobes."
        )
    if schema == SCHEMA:
        _check_metrics(folder, card.get("tasks"))
    try:
        tasks = tuple(TaskSpec.from_dict(spec) for spec in card["tasks"])
        known = Card(tasks, card["pooling"], float(card["dropout"]), int(card["max_length"]))
        if version > 1:
            base = card["base"]
            known = replace(known, base={key: base[key] for key in BASE_KEYS})
    except (ValueError, KeyError, TypeError) as error:
        raise damaged from error
    if schema != SCHEMA or not tasks:
        raise damaged
    return known


def _check_metrics(folder: Path, tasks: Any) -> None:
    """Raise `ConfigError` for a metric of somebody's own that is not known in this process."""
    given = [spec.get("metric") for spec in tasks or () if isinstance(spec, dict)]
    lacking = sorted({each for each in given if isinstance(each, str)} - {*metric_names()})
    if lacking:
        raise ConfigError(
            f"The model in {str(folder)!r} does a task with the metric {lacking[0]!r}, which is "
            f"not known here. {OF_ONES_OWN}"
        )


def encoder_type(folder: Path) -> str | None:
    """Return the model type of the saved encoder ("bert"), from its configuration."""
    try:
        config = json.loads((folder / ENCODER / "config.json").read_text(encoding="utf-8"))
        return config.get("model_type")
    except (OSError, ValueError, AttributeError):
        return None


def read_classifiers(folder: Path) -> dict[str, Tensor]:
    """Return the classifiers' weights, by their names in the `ModuleDict`."""
    try:
        return load_file(folder / CLASSIFIERS)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"The classifiers in {str(folder)!r} are missing or damaged ({error}): copy the whole "
            f"folder again."
        ) from error


def matching_specs(
    folder: Path, saved: Sequence[TaskSpec], wanted: Sequence[TaskSpec] | None
) -> list[TaskSpec]:
    """Return the saved tasks, or the wanted ones in their place if they have the same labels."""
    given = {spec.name: spec for spec in wanted or ()}
    if wanted is not None and set(given) != {spec.name for spec in saved}:
        raise ModelError(
            f"The model in {str(folder)!r} has the tasks "
            f"{listed(spec.name for spec in saved)}, not {listed(given)}: give it tasks of these "
            f"names, or begin with a model that has no classifiers yet."
        )
    for spec in saved:
        wanted_spec = given.get(spec.name, spec)
        if wanted_spec.is_multi_label != spec.is_multi_label:
            raise ModelError(
                f"In {str(folder)!r} the task {spec.name!r} has "
                f"{'several labels' if spec.is_multi_label else 'one label'} for each example, "
                f"unlike the one given: give it data like those it was trained with."
            )
        if wanted_spec.labels != spec.labels:
            raise ModelError(
                f"In {str(folder)!r} the task {spec.name!r} has the labels {spec.labels}, not "
                f"{given[spec.name].labels}: give it the labels it was trained with, in their "
                f"order."
            )
    return [given.get(spec.name, spec) for spec in saved]


def check_saveable(encoder: Any) -> None:
    """Raise `ModelError` for an encoder whose class has other weights than it.

    Adapters inside an encoder, or a wrapper around it, are not read by its `from_pretrained`.
    """
    kind = original_class(encoder)
    if is_adapted(encoder):
        check_adapters(encoder)
        return
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


def original_class(module: nn.Module) -> Any:
    """Return the module's class, without the one that FSDP puts in front of it."""
    kind = type(module)
    # not imported here: that takes most of a second, and who shards a model has done it
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return kind.__mro__[2] if fsdp and issubclass(kind, fsdp.FSDPModule) else kind
