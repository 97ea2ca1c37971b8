"""The study that a run's folder holds in its config.json, for those who read the run."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lobes.config.study import StudyConfig
from lobes.errors import ConfigError, RunError
from lobes.experiments.manifest import check_files
from lobes.files import near_path, read_json


def stored_study(run: Path, *, trust_remote_code: bool = False) -> StudyConfig:
    """Return the study that a run's folder holds; `RunError` if it is no run's, or damaged.

    Whether Python code of a model may run is for the caller to say, not for the folder: somebody
    else may have made it.
    """
    check_files(run, "config.json")
    record = read_json(run / "config.json")
    if not isinstance(record, dict) or record.get("command", "run") != "run":
        raise RunError(
            f"There is no run in {run}: give the folder of a run, with its config.json."
            f"{near_path(run)}"
        )
    try:
        config = {**record["config"], "trust_remote_code": trust_remote_code}
        return StudyConfig.from_dict(config, source=str(run / "config.json"))
    except (KeyError, TypeError, ConfigError) as error:
        unknown = unknown_setting(record["config"]) if isinstance(error, ConfigError) else ""
        if unknown:
            raise RunError(
                f"{run} holds a run that another version of lobes began ({unknown}): use that "
                f"version, or run the study again in another folder."
            ) from error
        raise RunError(
            f"{run / 'config.json'} is damaged or of another version: {error}"
        ) from error


def check_same_model(run: Path, model: str) -> None:
    """Raise `RunError` where a run measured another model than the one of this fingerprint."""
    known = (read_json(run / "config.json") or {}).get("fingerprints", {}).get("model", model)
    if known != model:
        raise RunError(
            f"The model that {run} measured has changed since: put the one back that it measured, "
            f"or measure the new one in another folder."
        )


def unknown_setting(config: Mapping[str, Any]) -> str:
    """Return what is said of a setting that this version does not have; "" for none."""
    try:
        StudyConfig.from_dict(config, source="its config.json")
    except ConfigError as error:
        found = re.search(r"unknown key [^;]+", str(error))
        return found.group() if found else ""
    return ""
