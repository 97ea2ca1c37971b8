"""Tell whether two studies are one: in which settings they differ that change a number."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lobes.config.keys import differences
from lobes.config.settings import LOSS, CompareConfig, IapConfig, TransferConfig
from lobes.config.study import StudyConfig
from lobes.errors import ConfigError

# Where the study is told to write, and how often, changes no number. Where a task's files or the
# model lie does not either: their content has a fingerprint of its own.
FREE_KEYS = (
    "output",
    "keep_texts",
    "training.save_every",
    "training.report_to",
    "trust_remote_code",
)
FREE_TASK_KEYS = ("train", "validation")
# What a finished run, comparison or transfer study can be given more of, or less: what it shows is
# then made again, from the measurements that there are and those that are missing.
EXTENSIBLE = {
    "run": (
        "iap.controls",
        "iap.random",
        "iap.matched",
        "iap.control_examples",
        "iap.stop",
        "iap.resamples",
        "iap.level",
        "iap.agreement_examples",
        "iap.similarity_examples",
    ),
    "compare": (
        "compare.seeds",
        "compare.methods",
        "compare.weights",  # each is a training of its own
        "iap.level",
    ),
    "transfer": ("transfer.seeds", "transfer.fractions", "iap.level"),
}
# What changes nothing that a command measures or shows.
UNUSED = {
    "run": ("compare", "transfer"),
    "compare": (
        "transfer",
        # each training is one measurement, with its exchanges on `iap.control_examples`
        *(
            key
            for key in EXTENSIBLE["run"]
            if key not in ("iap.control_examples", *EXTENSIBLE["compare"])
        ),
        "iap.lesion_tasks",
        "growth",
    ),
    "transfer": (
        "compare.seeds",
        "compare.methods",
        "compare.frozen_learning_rate",
        "compare.penalties",
        "compare.weights",
        *(f"iap.{key}" for key in IapConfig.model_fields if key != "level"),
        "growth",
    ),
}


def what_differs(
    stored: Mapping[str, Any], study: Mapping[str, Any], command: str, *, shown: bool = False
) -> list[str]:
    """Return the dotted keys in which a stored study and a new one differ, where that matters.

    Two studies that differ in none measure the same, though a finished run may be given more. With
    `shown` they also show the same.
    """
    free = [*UNUSED[command], *(() if shown else ("name", *EXTENSIBLE[command]))]
    both = [_completed(each) for each in (stored, study)]
    free += {key for each in both if isinstance(each, StudyConfig) for key in _idle(each)}
    first, second = (_what_counts(_settled(each, command), free) for each in both)
    return differences(first, second)


def has_effect(key: str, studies: Sequence[StudyConfig], command: str) -> bool:
    """Return whether a setting changes what a command measures of any of these studies."""

    def covered(keys: Sequence[str]) -> bool:
        return any(key == each or key.startswith(f"{each}.") for each in keys)

    return not covered(("name", *FREE_KEYS, *UNUSED[command])) and not all(
        covered(_idle(study)) for study in studies
    )


def check_settings(
    settings: Sequence[str], made: Sequence[tuple[str, Sequence[StudyConfig]]]
) -> None:
    """Raise `ConfigError` for a setting `KEY=VALUE` that changes nothing in what is `made`.

    `made` are commands with the studies that each is to make. What only says where or how often a
    command writes is no such setting.
    """
    for setting in settings:
        key = setting.partition("=")[0].strip()
        if key in ("name", *FREE_KEYS) or any(has_effect(key, ran, name) for name, ran in made):
            continue
        command, last = made[0][0], key.rpartition(".")[2]
        own: dict[str, Any] = {"compare": CompareConfig, "transfer": TransferConfig}
        is_own = command in own and last in own[command].model_fields
        instead = f"set {command}.{last} instead" if is_own else "leave it out"
        raise ConfigError(
            f"The setting {setting} changes nothing that `lobes {command}` does with this study; "
            f"{instead}."
        )


def _completed(config: Mapping[str, Any]) -> StudyConfig | Mapping[str, Any]:
    """A stored study with the defaults of the settings that there were not when it was written."""
    try:
        return StudyConfig.from_dict(config)
    except ConfigError:
        return config


def _idle(study: StudyConfig) -> list[str]:
    """The settings that another one leaves without a use.

    That other one must not be among what a finished run can be given more of: the measurements of
    before would be taken for those with the idle setting as it is now.
    """
    iap, training = study.iap, study.training
    idle = []
    if iap.method != "integrated_gradients":
        idle.append("iap.importance_steps")
    if iap.method in ("ablation", "gates"):
        idle.append("iap.aggregate")
    if len(iap.fractions) == 1:
        idle.append("iap.exact")
    if training.sampling != "temperature":
        idle.append("training.temperature")
    if training.lora_rank is None:
        idle += ["training.lora_alpha", "training.lora_dropout"]
    if not training.enabled:
        idle += [f"training.{name}" for name in type(training).model_fields if name != "enabled"]
        idle += ["iat", "growth"]
    return idle


def _settled(config: StudyConfig | Mapping[str, Any], command: str) -> dict[str, Any]:
    """The study as nested dictionaries, where one thing can be said in several ways in one way."""
    if not isinstance(config, StudyConfig):
        return dict(config)
    settled = config.to_dict()
    if config.training.length == (None, 3.0):  # the default, which may be written out
        settled["training"]["epochs"] = None
    if not config.training.enabled:
        for task in settled["tasks"]:
            task |= dict.fromkeys(LOSS)
    if command == "run":  # elsewhere each seed has its own
        for table in ("iap", "iat"):
            if settled[table] is not None and settled[table]["seed"] == config.seed:
                settled[table]["seed"] = None
        chosen = settled["iap"]["lesion_tasks"]
        if chosen is not None:
            every = {task.name for task in config.tasks}
            settled["iap"]["lesion_tasks"] = None if set(chosen) == every else sorted(chosen)
    return settled


def _what_counts(config: Mapping[str, Any], free: Sequence[str]) -> dict[str, Any]:
    """A resolved study without the keys that are `free`, tasks by their names."""
    counted = json.loads(json.dumps(config))
    for key in (*FREE_KEYS, *free):
        *tables, last = key.split(".")
        table = counted
        for name in tables:
            table = table.get(name) or {}
        table.pop(last, None)
    if Path(counted.get("model") or "").is_absolute():  # not a name of the hub or of a package
        counted["model"] = "a folder"
    tasks = counted.pop("tasks", [])
    new_task = (counted.get("transfer") or {}).get("task")
    for task in [*tasks, new_task] if new_task else tasks:
        task.pop("test", None)  # which only `lobes predict` reads
        if task.get("dataset") is None:
            for key in FREE_TASK_KEYS:
                task.pop(key, None)
    # The order of the tasks decides the order of their batches.
    counted["tasks"] = {task["name"]: task for task in tasks}
    counted["order of tasks"] = [task["name"] for task in tasks]
    return counted
