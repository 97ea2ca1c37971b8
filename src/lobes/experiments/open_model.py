"""Open a model by whatever names it, say where its heads are, and export one of its tasks."""

import os
from pathlib import Path
from typing import Any

import transformers
from torch import nn

from lobes.discovery import find_heads
from lobes.errors import ModelError, RunError
from lobes.experiments.manifest import MODEL_MARKER, PRUNED_MARKER, check_files
from lobes.experiments.store import SCHEMA
from lobes.files import near_path, read_folder, read_json
from lobes.heads import HeadLayout
from lobes.modeling import MultiTaskModel, is_saved_model
from lobes.modeling.export_task import export_task
from lobes.modeling.pretrained import load_config, load_model
from lobes.modeling.pruned import named_class
from lobes.modeling.safe_loading import opening
from lobes.pruning.cutting import tried_out


def open_model(
    name_or_folder: str | os.PathLike[str], *, trust_remote_code: bool = False
) -> nn.Module:
    """Return the model of a run's folder, of a saved `MultiTaskModel`, another folder or the hub.

    It is in evaluation mode and in float32. A model of transformers is of the class that its
    configuration names, with all its layers. Raises `ModelError` where there is none that can be
    loaded safely, and `RunError` for the folder of a run that has trained none.
    """
    check_model(Path(name_or_folder))
    saved = _saved(Path(name_or_folder), trust_remote_code)
    if saved is not None:
        return saved.eval()
    record = read_json(Path(name_or_folder, "config.json"))
    if isinstance(record, dict) and record.get("schema") == SCHEMA["schema"]:
        raise RunError(
            f"The run in {name_or_folder} has no trained model: expected one that has; for a run "
            f"that measured a model trained elsewhere, name that model."
        )
    config = load_config(name_or_folder, trust_remote_code=trust_remote_code)
    with opening(name_or_folder):
        loader = _class_of(config)
    return load_model(name_or_folder, loader=loader, trust_remote_code=trust_remote_code)[0].eval()


def trained_model(run: Path) -> Path | None:
    """Return where the trained model of a run's folder is; None if there is none.

    Raises `RunError` where it is not as the run wrote it.
    """
    check_files(run, f"model/{MODEL_MARKER}")
    check_model(run / "model")
    return run / "model" if is_saved_model(run / "model") else None


def check_model(folder: Path) -> None:
    """Raise `RunError` where a run or `lobes prune` wrote the folder, and it is not as it was."""
    markers = [PRUNED_MARKER, *([MODEL_MARKER] if is_saved_model(folder) else [])]
    for marker in markers:
        if (folder / marker).is_file() and read_folder(folder, marker) is None:
            own = f" If you trained it further yourself, remove {marker} first."
            raise RunError(
                f"The model in {folder} is damaged: its files are not those that {marker} lists. "
                f"Copy the whole folder again, or run the command again that made it."
                f"{own if marker == PRUNED_MARKER else ''}"
            )


def export_run(run: Path, task: str, to: Path, *, trust_remote_code: bool = False) -> Path:
    """Write `task` of a run's trained model to the folder `to`, and return where it is.

    `run` is a run's folder, or one that `MultiTaskModel.save_pretrained` wrote;
    `trust_remote_code` lets Python code that the model brings run. Raises `RunError` where there
    is no trained model or a damaged one, otherwise what `export_task` raises.
    """
    model = _saved(run, trust_remote_code)
    if model is not None:
        return export_task(model, task, to)
    raise RunError(
        f"There is no trained model in {run}: give the folder of a run that was trained, or one "
        f"that MultiTaskModel.save_pretrained wrote.{near_path(run)}"
    )


def find_model_heads(
    name_or_folder: str | os.PathLike[str], *, trust_remote_code: bool = False
) -> HeadLayout:
    """Return where the heads of a model are; for unusual inputs, those of its base model.

    Which sites are prunable is tried out.
    """
    model = open_model(name_or_folder, trust_remote_code=trust_remote_code)
    with opening(name_or_folder):
        try:
            layout = find_heads(model)
        except ModelError:
            base = getattr(model, "base_model", model)
            if base is model:
                raise
            model, layout = base, find_heads(base)
        return tried_out(model, layout)


def describe_heads(layout: HeadLayout) -> dict[str, Any]:
    """Return everything that is known of a model's sites, with totals, as JSON takes it."""
    sites = [
        {
            "index": site.index,
            "name": site.name,
            "projection": site.projection,
            "kind": site.kind,
            "n_heads": site.n_heads,
            "head_dim": site.head_dim,
            "attention": site.attention,
            "groups": site.groups,
            "shares_parameters_with": layout.sharing(site.index),
            "ablatable": True,  # else discovery refuses the model
            "ablatable_per_example": site.batch_axis is not None,
            "beside_attention": site.beside_attention,
            "gateable": site.gateable,
            "gate_reason": site.gate_reason,
            "prunable": site.prunable,
            "reason": site.reason,
        }
        for site in layout.sites
    ]
    heads = {
        "n_heads": layout.total,
        "n_ablatable": layout.total,
        "n_gateable": sum(site.n_heads for site in layout.sites if site.gateable),
        "n_prunable": sum(site.n_heads for site in layout.sites if site.prunable),
    }
    return {**heads, "n_sites": len(sites), "sites": sites}


def _saved(folder: Path, trust_remote_code: bool) -> MultiTaskModel | None:
    """The model that a run trained, or that `save_pretrained` wrote to this folder."""
    for place in (trained_model(folder), folder):
        if place is not None and is_saved_model(place):
            return MultiTaskModel.from_pretrained(place, trust_remote_code=trust_remote_code)
    return None


def _class_of(config: Any) -> Any:
    """The class that a configuration names, of transformers or of the model's own code."""
    name = next(iter(getattr(config, "architectures", None) or ()), "")
    for loader, reference in (getattr(config, "auto_map", None) or {}).items():
        if str(reference).endswith(f".{name}") and loader.startswith("AutoModel"):
            return getattr(transformers, loader, transformers.AutoModel)
    named = named_class(name)
    return transformers.AutoModel if named is None else named
