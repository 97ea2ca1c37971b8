"""What a study is: the model, the tasks, the training and the measurement, read from TOML.

`load_study` reads a file, `override` changes single values of what was read. Whatever the file
says that is impossible is refused in one sentence: the file, the key, what it holds, what was
expected. Every field's `description` is the second half of that sentence.
"""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from lobes.errors import ConfigError
from lobes.heads import check_fractions
from lobes.metrics import METRICS
from lobes.training.sampling import Sampling

if TYPE_CHECKING:
    from lobes.training.iat import IAT

NAME = r"[A-Za-z0-9_-]+"
HUB_NAME = r"[\w.-]+(/[\w.-]+)?"

Method = Literal["single", "multi", "iat", "frozen", "probe"]
METHODS: tuple[Method, ...] = get_args(Method)


def _tuple(value: object) -> object:
    """TOML and JSON know lists only; a single string stands for a list of one."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_tuple)]
Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, le=1)]


class Section(BaseModel):
    """A table of the study file: frozen, no conversions between types, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class TaskConfig(Section):
    """One `[[tasks]]` table: either files, or a data set of the hub and the names of its splits.

    What is left out is as for `lobes.tasks.sources.load_task`: without `validation` a tenth of
    the training examples is held out.
    """

    name: Annotated[str, Field(pattern=f"^{NAME}$")] = Field(
        description="a name of letters, digits, - and _"
    )
    dataset: Text | None = Field(None, description='a data set of the hub, such as "nyu-mll/glue"')
    config: Text | None = Field(None, description="the name of one configuration of `dataset`")
    train: Text | None = Field(
        None, description="a file (CSV, TSV, JSON lines, Parquet), or a split of `dataset`"
    )
    validation: Text | None = Field(
        None, description="a file (CSV, TSV, JSON lines, Parquet), or a split of `dataset`"
    )
    text: Annotated[Texts, Field(min_length=1, max_length=2)] = Field(
        description="the name of one text column, or a list of two"
    )
    label: Text = Field("label", description="the name of the label column")
    labels: Annotated[Texts, Field(min_length=2)] | None = Field(
        None, description="a list of two or more different class names"
    )
    metric: Text | None = Field(None, description=f"one of {', '.join(METRICS)}")
    train_size: Positive | None = Field(None, description="a number of examples from 1")
    validation_size: Positive | None = Field(None, description="a number of examples from 1")

    @property
    def where(self) -> str:
        """The table's dotted key, for messages."""
        return f"tasks.{self.name}"

    @model_validator(mode="after")
    def _consistent(self) -> "TaskConfig":
        where = self.where
        if self.metric is not None and self.metric not in METRICS:
            raise ValueError(
                f"{where}.metric is {_shown(self.metric)}; expected one of {', '.join(METRICS)}"
            )
        for key in ("text", "labels"):
            values = getattr(self, key) or ()
            if len(set(values)) < len(values):
                raise ValueError(f"{where}.{key} is {_shown(values)}; expected different names")
        if self.dataset is None and self.config is not None:
            raise ValueError(
                f"{where}.config is {_shown(self.config)}, but {where}.dataset is missing; "
                f"`config` belongs to a data set of the hub"
            )
        if self.dataset is None and self.train is None:
            raise ValueError(
                f"{where}.train is missing; expected a file, or `dataset` with a data set of the "
                f"hub"
            )
        return self


class TrainingConfig(Section):
    """The `[training]` table; METHOD section 8 has the published values."""

    enabled: bool = Field(True, description="true, or false for a model that was trained elsewhere")
    steps: Positive | None = Field(None, description="a number of steps from 1")
    epochs: Annotated[float, Field(gt=0)] | None = Field(
        None, description="a number of epochs above 0"
    )
    batch_size: Positive = Field(32, description="a number of examples from 1")
    learning_rate: Annotated[float, Field(gt=0)] = Field(
        2e-5, description="a number above 0, such as 2e-5"
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="a number from 0")
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="a share of the steps from 0 and below 1"
    )
    sampling: Sampling = Field(
        "proportional", description=f"one of {', '.join(get_args(Sampling))}"
    )
    temperature: Annotated[float, Field(gt=0)] = Field(
        2.0, description="a number above 0, for sampling by temperature"
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="a number from 0 and below 1"
    )
    save_every: Positive | None = Field(
        None, description="a number of steps from 1 between two checkpoints"
    )

    @model_validator(mode="after")
    def _one_length(self) -> "TrainingConfig":
        if self.steps is not None and self.epochs is not None:
            raise ValueError(
                f"training.steps is {self.steps} and training.epochs is {self.epochs:g}; "
                f"expected one of the two"
            )
        return self

    @property
    def length(self) -> tuple[int | None, float | None]:
        """(steps, epochs), one of them None; three epochs where the study names neither."""
        if self.steps is None and self.epochs is None:
            return None, 3.0
        return self.steps, self.epochs


class IatConfig(Section):
    """The `[iat]` table: what `lobes.IAT` takes. Without it training is the ordinary one."""

    alpha: Annotated[float, Field(ge=0, le=1)] = Field(
        0.3, description="a share of all heads from 0 to 1"
    )
    delta: Annotated[float, Field(ge=0, le=1)] = Field(
        0.1, description="a share of the steps from 0 to 1"
    )
    share: bool = Field(True, description="true or false")
    train_other: bool = Field(True, description="true or false")
    strict: bool = Field(True, description="true or false")
    refresh: Positive | None = Field(None, description="a number of steps from 1")
    importance_examples: Positive = Field(10_000, description="a number of examples from 1")
    method: Literal["taylor", "ablation"] = Field("taylor", description='"taylor" or "ablation"')
    aggregate: Literal["token", "sequence"] = Field("token", description='"token" or "sequence"')
    normalize: Literal["none", "layer"] = Field("none", description='"none" or "layer"')
    seed: Natural | None = Field(None, description="a whole number from 0")

    def settings(self, seed: int) -> "IAT":
        """The same as the trainer takes it; `seed` where the table has none of its own."""
        from lobes.training.iat import IAT

        given = self.model_dump(exclude={"seed"})
        return IAT(**given, seed=seed if self.seed is None else self.seed)


class IapConfig(Section):
    """The `[iap]` table: what `lobes.iap.IapSettings` takes, and the statistics' settings."""

    fractions: Annotated[tuple[Share, ...], BeforeValidator(_tuple), Field(min_length=1)] = Field(
        (0.2, 0.3, 0.4), description="shares of all heads, each above 0 and at most 1"
    )
    controls: Natural = Field(20, description="a number of random lesions from 0")
    matched: Literal["site", "total"] = Field("site", description='"site" or "total"')
    order: Literal["descending", "ascending"] = Field(
        "descending", description='"descending" or "ascending"'
    )
    exact: bool = Field(False, description="true or false")
    keep_per_site: Natural = Field(0, description="a number of heads from 0")
    importance_split: Literal["train", "validation"] = Field(
        "train", description='"train" or "validation"'
    )
    importance_examples: Positive = Field(10_000, description="a number of examples from 1")
    method: Literal["taylor", "ablation"] = Field("taylor", description='"taylor" or "ablation"')
    aggregate: Literal["token", "sequence"] = Field("token", description='"token" or "sequence"')
    normalize: Literal["none", "layer"] = Field("none", description='"none" or "layer"')
    lesion_tasks: Annotated[Texts, Field(min_length=1)] | None = Field(
        None, description="names of tasks of this study"
    )
    seed: Natural | None = Field(None, description="a whole number from 0")
    resamples: Natural = Field(1000, description="a number of bootstrap resamples from 0")
    level: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.95, description="a number between 0 and 1, such as 0.95"
    )

    @model_validator(mode="after")
    def _ascending(self) -> "IapConfig":
        if len(set(self.fractions)) < len(self.fractions):
            raise ValueError(f"iap.fractions is {_shown(self.fractions)}; expected each share once")
        object.__setattr__(self, "fractions", check_fractions(self.fractions))
        return self


class CompareConfig(Section):
    """The `[compare]` table: what `lobes compare` trains, how often, and what it chooses by."""

    seeds: Positive = Field(5, description="a number of seeds from 1")
    methods: Annotated[tuple[Method, ...], BeforeValidator(_tuple), Field(min_length=1)] = Field(
        METHODS, description=f"one or more of {', '.join(METHODS)}"
    )
    held_out: Annotated[float, Field(gt=0, le=0.5)] = Field(
        0.1, description="a share of the training data above 0 and at most 0.5"
    )
    evaluations: Positive = Field(10, description="a number of evaluations from 1")
    # A linear layer on features that stay as they are needs larger steps than a whole encoder.
    frozen_learning_rate: Annotated[float, Field(gt=0)] = Field(
        1e-3, description="a number above 0, such as 1e-3"
    )
    penalties: Annotated[
        tuple[Annotated[float, Field(gt=0)], ...], BeforeValidator(_tuple), Field(min_length=1)
    ] = Field((1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0), description="numbers above 0, such as [0.1, 1]")

    @model_validator(mode="after")
    def _once(self) -> "CompareConfig":
        for key in ("methods", "penalties"):
            values = getattr(self, key)
            if len(set(values)) < len(values):
                raise ValueError(f"compare.{key} is {_shown(values)}; expected each once")
        ordered = tuple(method for method in METHODS if method in self.methods)
        object.__setattr__(self, "methods", ordered)
        object.__setattr__(self, "penalties", tuple(sorted(self.penalties)))
        return self


class NewTaskConfig(TaskConfig):
    """The `[transfer.task]` table: the task that is transferred to, described as in [[tasks]]."""

    @property
    def where(self) -> str:
        """The table's dotted key, for messages."""
        return "transfer.task"


class TransferConfig(Section):
    """The `[transfer]` table: to which task `lobes transfer` goes, and with how much of its data.

    Where batch size or learning rate are left out, they are those of [training].
    """

    task: NewTaskConfig = Field(description="a table [transfer.task], as one of [[tasks]]")
    fractions: Annotated[tuple[Share, ...], BeforeValidator(_tuple), Field(min_length=1)] = Field(
        (0.001, 0.01, 0.1, 1.0),
        description="shares of the new task's training data, each above 0 and at most 1",
    )
    seeds: Positive = Field(5, description="a number of seeds from 1")
    steps: Positive = Field(200, description="a number of steps from 1")
    batch_size: Positive | None = Field(None, description="a number of examples from 1")
    learning_rate: Annotated[float, Field(gt=0)] | None = Field(
        None, description="a number above 0, such as 2e-5"
    )

    @model_validator(mode="after")
    def _ascending(self) -> "TransferConfig":
        if len(set(self.fractions)) < len(self.fractions):
            raise ValueError(
                f"transfer.fractions is {_shown(self.fractions)}; expected each share once"
            )
        object.__setattr__(self, "fractions", tuple(sorted(self.fractions)))
        return self


class StudyConfig(Section):
    """A whole study, resolved: nothing left to look up but the model and the data themselves."""

    name: Annotated[str, Field(pattern=r"^[^/\\\x00-\x1f]+$")] = Field(
        description="a name without slashes"
    )
    model: Text = Field(description="a model of the hub or a folder")
    output: Text = Field(description="a folder")
    seed: Natural = Field(0, description="a whole number from 0")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description='"auto", "fp32" or "bf16"'
    )
    pooling: Literal["auto", "pooler", "first", "mean", "last"] = Field(
        "auto", description='"auto", "pooler", "first", "mean" or "last"'
    )
    # None: 256 (METHOD section 8), or what the model takes where that is less
    max_length: Annotated[int, Field(ge=2)] | None = Field(
        None, description="a number of tokens from 2"
    )
    trust_remote_code: bool = Field(False, description="true or false")
    tasks: Annotated[tuple[TaskConfig, ...], BeforeValidator(_tuple), Field(min_length=1)] = Field(
        description="one or more [[tasks]] tables"
    )
    training: TrainingConfig = Field(
        default_factory=lambda: TrainingConfig.model_validate({}), description="a table [training]"
    )
    iat: IatConfig | None = Field(None, description="a table [iat]")
    iap: IapConfig = Field(
        default_factory=lambda: IapConfig.model_validate({}), description="a table [iap]"
    )
    compare: CompareConfig | None = Field(None, description="a table [compare]")
    transfer: TransferConfig | None = Field(None, description="a table [transfer]")

    @model_validator(mode="before")
    @classmethod
    def _default_output(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("name"), str):
            return {"output": f"runs/{data['name']}", **data}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> "StudyConfig":
        names = [task.name for task in self.tasks]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"tasks names {_shown(name)} {names.count(name)} times; expected a name of "
                    f"its own for every task"
                )
        if self.iat is not None and len(names) < 2:
            raise ValueError(
                f"iat is there, but the study has one task, {_shown(names[0])}; expected two or "
                f"more tasks, since IAT keeps tasks from disturbing each other"
            )
        for name in self.iap.lesion_tasks or ():
            if name not in names:
                raise ValueError(
                    f"iap.lesion_tasks names {_shown(name)}; expected tasks of this study: "
                    f"{', '.join(names)}"
                )
        if self.transfer is not None and self.transfer.task.name in names:
            raise ValueError(
                f"transfer.task.name is {_shown(self.transfer.task.name)}, which is one of "
                f"[[tasks]]; expected a new task under a name of its own"
            )
        return self

    @property
    def iap_seed(self) -> int:
        """The seed of the controls and of the resamples: the study's, unless [iap] has its own."""
        return self.seed if self.iap.seed is None else self.iap.seed

    def to_dict(self) -> dict[str, Any]:
        """The study as JSON takes it; `from_dict` reads it back to an equal value."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], *, source: str = "study", folder: Path | None = None
    ) -> "StudyConfig":
        """Check and resolve a study given as nested dictionaries.

        Relative paths of files and of a model's folder start at `folder` (default: the working
        directory). Raises `ConfigError`, whose message begins with `source`.
        """
        try:
            study = cls.model_validate(dict(data))
        except ValidationError as error:
            raise ConfigError(_sentence(error, data, source)) from None
        return _resolved(study, source, folder or Path())


def load_study(path: str | os.PathLike[str], settings: Sequence[str] = ()) -> StudyConfig:
    """Read the study file at `path`; `settings` are overrides such as `"iap.controls=20"`.

    Raises `ConfigError` for a file that cannot be read, is no TOML, or says something impossible.
    """
    file = Path(path)
    try:
        data = tomllib.loads(file.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"There is no study file {file}; expected a TOML file.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is not encoded in UTF-8; expected a TOML file.") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not valid TOML: {str(error).rstrip('.')}.") from None
    except OSError as error:
        raise ConfigError(f"Cannot read the study file {file}: {error.strerror}.") from None
    data.setdefault("name", file.stem)
    for setting in settings:
        _set(data, setting)
    return StudyConfig.from_dict(data, source=str(file), folder=file.parent)


def override(study: StudyConfig, *settings: str) -> StudyConfig:
    """The study with single values changed: `override(study, "iap.controls=20", 'seed=1')`.

    A setting is KEY=VALUE: the key dotted, a task by its name (`tasks.sst2.train_size=500`), the
    value as in TOML, where a plain word needs no quotes. `KEY=` takes a value out.
    """
    data = study.to_dict()
    for setting in settings:
        _set(data, setting)
    return StudyConfig.from_dict(data, source="--set")


def with_trained_model(study: StudyConfig, model: str) -> StudyConfig:
    """The study without its training, on a model that was trained elsewhere.

    `model` is a folder (relative to the working directory) or the name of a model on the hub.
    """
    training = study.training.model_copy(update={"enabled": False})
    name = _model(model, "--model", Path())
    return study.model_copy(update={"model": name, "training": training})


def differences(first: Any, second: Any, prefix: str = "") -> list[str]:
    """The dotted keys in which two nested dictionaries differ, in order.

    >>> differences({"a": {"b": 1}}, {"a": {"b": 2}, "c": 3})
    ['a.b', 'c']
    """
    if isinstance(first, dict) and isinstance(second, dict):
        keys = [*first, *(key for key in second if key not in first)]
        return [
            found
            for key in keys
            for found in differences(first.get(key), second.get(key), f"{prefix}.{key}".strip("."))
        ]
    return [] if first == second else [prefix]


def _set(data: dict[str, Any], setting: str) -> None:
    """Write one KEY=VALUE into the nested dictionaries of a study."""
    key, equals, text = setting.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(
            f"Cannot read the setting {_shown(setting)}: expected KEY=VALUE, for example "
            f"iap.controls=20."
        )
    table: Any = data
    for part in parts[:-1]:
        table = _entry(table, part, setting)
    if not isinstance(table, dict):
        raise ConfigError(f"The setting {_shown(setting)} names no key of a study.")
    if not text.strip():
        table.pop(parts[-1], None)
    else:
        table[parts[-1]] = _toml_value(text.strip(), setting)


def _entry(table: Any, part: str, setting: str) -> Any:
    """One step down: into a table by its key, into the list of tasks by name or number."""
    if isinstance(table, dict):
        if table.get(part) is None:  # a table that the study leaves out
            table[part] = {}
        return table[part]
    if isinstance(table, list):
        names = [entry.get("name") if isinstance(entry, dict) else None for entry in table]
        if part in names:
            return table[names.index(part)]
        if part.isdecimal() and int(part) < len(table):
            return table[int(part)]
        raise ConfigError(
            f"The setting {_shown(setting)} names the task {_shown(part)}; expected one of "
            f"{', '.join(str(name) for name in names)}."
        )
    raise ConfigError(f"The setting {_shown(setting)} names no key of a study.")


def _toml_value(text: str, setting: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
        if list(parsed) == ["value"]:
            return parsed["value"]
    except tomllib.TOMLDecodeError:
        if re.fullmatch(r"[^\s\"'\[\]{}=,]+", text):
            return text  # a plain word or path, which a shell would strip of its quotes
    raise ConfigError(
        f"Cannot read the value in the setting {_shown(setting)}: expected TOML, for example "
        f"iap.fractions=[0.1,0.2]."
    )


def _resolved(study: StudyConfig, source: str, folder: Path) -> StudyConfig:
    """Expand variables and make the paths of data and of a model's folder absolute."""
    transfer = study.transfer and study.transfer.model_copy(
        update={"task": _resolved_task(study.transfer.task, source, folder)}
    )
    return study.model_copy(
        update={
            "tasks": tuple(_resolved_task(task, source, folder) for task in study.tasks),
            "transfer": transfer,
            "model": _model(study.model, source, folder),
            "output": _expanded(study.output, "output", source),
        }
    )


def _resolved_task(task: TaskConfig, source: str, folder: Path) -> TaskConfig:
    if task.dataset is not None:
        return task
    paths = {
        key: _path(value, f"{task.where}.{key}", source, folder)
        for key in ("train", "validation")
        if (value := getattr(task, key)) is not None
    }
    return task.model_copy(update=paths)


def _model(name: str, source: str, folder: Path) -> str:
    """A hub name as it is, a folder's absolute path; a folder beside the study comes first."""
    looks_like_path = name.startswith((".", "~", "/", "$")) or not re.fullmatch(HUB_NAME, name)
    path = Path(_path(name, "model", source, folder))
    if path.is_dir():
        return str(path)
    if looks_like_path:
        raise ConfigError(
            f"{source}: model is {_shown(name)}, and there is no folder {path}; expected a "
            f"folder with a model, or the name of a model on the hub."
        )
    return name


def _path(text: str, key: str, source: str, folder: Path) -> str:
    expanded = _expanded(text, key, source)
    # A variable is set for the shell's working directory, not for the place of the study file.
    base = Path() if text.startswith("$") else folder
    return os.path.abspath(base / expanded)


def _expanded(text: str, key: str, source: str) -> str:
    """Put in `${NAME}` from the environment, and the home folder for a leading `~`."""

    def value(match: re.Match[str]) -> str:
        if not os.environ.get(match[1]):
            raise ConfigError(
                f"{source}: {key} is {_shown(text)}, but the environment variable {match[1]} is "
                f"not set; set it, for example `export {match[1]}=FOLDER`."
            )
        return os.environ[match[1]]

    return os.path.expanduser(re.sub(r"\$\{(\w+)\}", value, text))


def _shown(value: Any) -> str:
    """A value as TOML would write it, cut to fit a sentence."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "…"


def _sentence(error: ValidationError, data: Mapping[str, Any], source: str) -> str:
    """One sentence for the first fault; an unknown key comes first, it often explains the rest."""
    faults = error.errors(include_url=False)
    fault = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
    if fault["type"] == "extra_forbidden":
        return f"{source}: {_unknown_key(fault['loc'], data)}"
    if fault["type"] == "value_error":
        return f"{source}: {fault['ctx']['error']}."
    key = _key(fault["loc"], data)
    state = "is missing" if fault["type"] == "missing" else f"is {_shown(fault['input'])}"
    return f"{source}: {key} {state}; expected {_field(fault['loc']).description}."


def _unknown_key(location: Sequence[int | str], data: Mapping[str, Any]) -> str:
    *table, key = location
    known = list(_section(table).model_fields)
    where = _key(location, data)
    close = difflib.get_close_matches(str(key), known, n=1)
    if close:
        return f"unknown key {where}; did you mean {close[0]}?"
    homes = [name for name, section in SECTIONS.items() if key in section.model_fields]
    if homes:
        home = {"": "at the top of the file", "tasks": "[[tasks]]"}.get(homes[0], f"[{homes[0]}]")
        return f"unknown key {where}; it belongs {'' if not homes[0] else 'in '}{home}."
    return f"unknown key {where}; expected one of {', '.join(known)}."


SECTIONS: dict[str, type[Section]] = {
    "": StudyConfig,
    "tasks": TaskConfig,
    "training": TrainingConfig,
    "iat": IatConfig,
    "iap": IapConfig,
    "compare": CompareConfig,
    "transfer": TransferConfig,
    "transfer.task": NewTaskConfig,
}


def _section(location: Sequence[int | str]) -> type[Section]:
    return SECTIONS[".".join(part for part in location if isinstance(part, str))]


def _field(location: Sequence[int | str]) -> Any:
    """The field that a fault's location lies in; list positions inside it do not matter."""
    names = [part for part in location if isinstance(part, str)]
    table: list[str] = []
    while names[1:] and ".".join([*table, names[0]]) in SECTIONS:
        table.append(names.pop(0))
    return SECTIONS[".".join(table)].model_fields[names[0]]


def _key(location: Sequence[int | str], data: Mapping[str, Any]) -> str:
    """The dotted key of a fault, a task by its name where it has one."""
    parts = [str(part) for part in location]
    if len(parts) > 1 and parts[0] == "tasks":
        entry = data["tasks"][int(parts[1])]
        name = entry.get("name") if isinstance(entry, dict) else None
        parts[1] = name if isinstance(name, str) else str(int(parts[1]) + 1)
    return ".".join(parts)
