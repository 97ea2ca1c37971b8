"""The packaged models for `lobes models`, as plain values."""

from dataclasses import asdict
from typing import Any

from lobes.data.cache import cache_folder
from lobes.data.packaged_models import MODELS, PackagedModel, packaged_model
from lobes.data.packages import Log


def packaged_models() -> list[dict[str, Any]]:
    """Return what is known of every packaged model; `folder` is None until it is fetched."""
    return [_facts(model) for model in MODELS.values()]


def fetched_model(name: str, log: Log | None = None) -> dict[str, Any]:
    """Return what is known of one, whose folder is made where it is not there yet.

    Raises as `lobes.modeling.packaged.fetch_model` does.
    """
    from lobes.modeling.packaged import fetch_model  # which imports torch

    fetch_model(name, log=log)
    return _facts(packaged_model(name))


def _facts(model: PackagedModel) -> dict[str, Any]:
    facts = asdict(model)
    for of_files in ("name", "form", "inside"):
        del facts[of_files]
    folder = cache_folder() / model.place
    there = str(folder) if folder.is_dir() else None
    return {"model": model.study_name, **facts, "folder": there}
