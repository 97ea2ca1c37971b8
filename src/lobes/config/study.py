"""Read a study from TOML: the model, the tasks, the training and the measurement.

`load_study` reads a file, `override` changes single values of what was read. What the file says
that is impossible is refused in one sentence: the file, the key, its value, what was expected.
`settings.py` declares what each table may hold.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, ValidationError, model_validator

from lobes import limits
from lobes.config.keys import set_value
from lobes.config.settings import (
    CompareConfig,
    GrowthConfig,
    IapConfig,
    IatConfig,
    NewTaskConfig,
    Section,
    TaskConfig,
    Text,
    TrainingConfig,
    TransferConfig,
    as_tuple,
    shown,
)
from lobes.data.packaged_models import PREFIX, packaged_model
from lobes.errors import ConfigError, ModelError
from lobes.files import near_path
from lobes.limits import LONGEST_NAME, check_path, fault_of_name, rule_of
from lobes.tasks.sources import DATA_VARIABLE
from lobes.training.settings import TrainingLoss

HUB_NAME = r"[\w.-]+(/[\w.-]+)?"


class StudyConfig(Section):
    """A whole study, resolved: nothing left to look up but the model and the data themselves."""

    name: Text = Field(description="a name without slashes")
    model: Text = Field(description="a model of the hub, a folder, or packaged:NAME")
    output: Text = Field(description="a folder")
    seed: Annotated[int, limits.SEED] = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    pooling: Literal["auto", "pooler", "first", "mean", "last"] = "auto"
    # None: 256 (docs/method.md#multi-task-training), or what the model takes where that is less
    max_length: Annotated[int, limits.TOKENS] | None = None
    trust_remote_code: bool = False
    keep_texts: bool = True
    # None: the hub, or the folder that LOBES_DATA names
    data_dir: Text | None = Field(None, description="a folder with the data of known tasks")
    tasks: Annotated[tuple[TaskConfig, ...], BeforeValidator(as_tuple), Field(min_length=1)] = (
        Field(description="one or more [[tasks]] tables, or a list of known tasks")
    )
    training: TrainingConfig = Field(
        default_factory=lambda: TrainingConfig.model_validate({}), description="a table [training]"
    )
    iat: IatConfig | None = Field(None, description="a table [iat]")
    iap: IapConfig = Field(
        default_factory=lambda: IapConfig.model_validate({}), description="a table [iap]"
    )
    growth: GrowthConfig | None = Field(None, description="a table [growth]")
    compare: CompareConfig | None = Field(None, description="a table [compare]")
    transfer: TransferConfig | None = Field(None, description="a table [transfer]")

    # what was written in place of paths that came from variables
    _texts: dict[str, str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _default_output(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("name"), str):
            return {"output": f"runs/{data['name']}", **data}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> "StudyConfig":
        return self._checked()

    def _checked(self) -> "StudyConfig":
        """Return the study; `ValueError` where two of its settings do not go together."""
        if fault_of_name(self.name):
            raise ValueError(f"name is {shown(self.name)}, {fault_of_name(self.name)}")
        if "${" in self.name:
            raise ValueError(
                f"name is {shown(self.name)}; expected a name without variables, which are put "
                f"into paths only"
            )
        names = [task.name for task in self.tasks]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"tasks names {shown(name)} {names.count(name)} times; expected a name of "
                    f"its own for every task"
                )
        self._check_prompts()
        if self.iat is not None and len(names) < 2:
            raise ValueError(
                f"iat is there, but the study has one task, {shown(names[0])}; expected two or "
                f"more tasks, since IAT keeps tasks from disturbing each other"
            )
        self._check_seeds()
        if self.growth is not None:
            self._check_growth()
        for name in self.iap.lesion_tasks or ():
            if name not in names:
                raise ValueError(
                    f"iap.lesion_tasks names {shown(name)}; expected tasks of this study: "
                    f"{', '.join(names)}"
                )
        self._check_images()
        if self.transfer is not None and self.transfer.task.name in names:
            raise ValueError(
                f"transfer.task.name is {shown(self.transfer.task.name)}, which is one of "
                f"[[tasks]]; expected a new task under a name of its own"
            )
        return self

    def _check_prompts(self) -> None:
        """Prompts are for all tasks or none, and for a model that is not trained."""
        for key, what, each, kind in (
            ("prompt", "a prompt", "prompts", "prompted tasks"),
            ("lm_eval", "a key lm_eval", "it", "tasks of lm-evaluation-harness"),
        ):
            asked = [task.name for task in self.tasks if getattr(task, key) is not None]
            if asked and len(asked) < len(self.tasks):
                plain = next(task.name for task in self.tasks if task.name not in asked)
                raise ValueError(
                    f"tasks.{asked[0]} has {what}, but tasks.{plain} has none; expected {each} "
                    f"for all tasks of a study, or for none"
                )
            if asked and self.training.enabled:
                raise ValueError(
                    f"tasks.{asked[0]} has {what}, but training.enabled is true; expected false, "
                    f"since {kind} are not trained"
                )

    def _check_seeds(self) -> None:
        """The trainings of a comparison have the seeds that follow the study's."""
        for table in ("compare", "transfer"):
            section = getattr(self, table)
            if section is not None and self.seed + section.seeds - 1 > limits.SEED.most:
                raise ValueError(
                    f"seed is {self.seed} and {table}.seeds is {section.seeds}; expected a last "
                    f"seed of at most {limits.SEED.most:,}"
                )

    def _check_growth(self) -> None:
        """D-scores over a training need a training, and lesions of two tasks or more."""
        lacks = (
            "training.enabled is false; expected a study that trains"
            if not self.training.enabled
            else "the study has one task; expected two or more"
            if len(self.tasks) < 2
            else "iap.lesion_tasks leaves tasks out; expected the lesions of all tasks"
            if self.iap.lesion_tasks is not None
            else None
        )
        if lacks:
            raise ValueError(f"growth is there, but {lacks}")

    def _check_images(self) -> None:
        """Refuse tasks of texts beside tasks of images, and settings that are for texts only."""
        tasks = (*self.tasks, *([self.transfer.task] if self.transfer else []))
        places = {task.image is None: task.where for task in tasks}
        if len(places) > 1:
            raise ValueError(
                f"{places[False]} has images, but {places[True]} has texts; expected tasks of one "
                f"kind in a study"
            )
        if False in places and self.max_length is not None:
            raise ValueError(
                f"max_length is {self.max_length}, but {places[False]} has images; expected it in "
                f"studies of texts only"
            )

    @property
    def iap_seed(self) -> int:
        """The seed of lesions and of the resamples: the study's, unless [iap] has its own."""
        return self.seed if self.iap.seed is None else self.iap.seed

    @property
    def losses(self) -> dict[str, TrainingLoss]:
        """The loss of every task in the training, by its name; that of [transfer.task], too."""
        tasks = (*self.tasks, *([self.transfer.task] if self.transfer else []))
        return {task.name: task.loss for task in tasks}

    def changed(self, **tables: Any) -> "StudyConfig":
        """Return the study with other tables or keys; `ConfigError` where they do not fit it."""
        study = self.model_copy(update=tables)
        try:
            return study._checked()
        except ValueError as error:
            raise ConfigError(f"{error}.") from error

    def beside(self, ending: str) -> str:
        """Return the output with an ending to its name, such as "-compare".

        A folder of dots only has no name: its absolute path takes its place.
        """
        path = Path(self.output)
        has_name = path.name not in ("", "..")
        return f"{self.output.rstrip('/') if has_name else path.resolve()}{ending}"

    def as_written(self, path: str) -> str:
        """Return a path of the study as it was written, with `${NAME}` in place of variables.

        What is recorded or shown of a path is this: the environment's values are its user's own.
        """
        beside = (e for e in self._texts if path.startswith(f"{e}-"))  # runs/x-compare of runs/x
        found = path if path in self._texts else next(beside, None)
        return path if found is None else self._texts[found] + path.removeprefix(found)

    def to_dict(self) -> dict[str, Any]:
        """Return the study as JSON takes it, with its variables as they were written.

        `from_dict` reads it back to an equal value where the variables have the same values.
        """
        data = self.model_dump(mode="json")
        tasks = [*data["tasks"], *([data["transfer"]["task"]] if data["transfer"] else [])]
        for table, keys in [
            (data, ("model", "output", "data_dir")),
            *((task, ("train", "validation", "test", "include")) for task in tasks),
        ]:
            table |= {key: self.as_written(table[key]) for key in keys if table[key] is not None}
        return data

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
            raise ConfigError(_sentence(error, data, source)) from error
        return _Resolver(source, folder).study(study)


def load_study(path: str | os.PathLike[str], settings: Sequence[str] = ()) -> StudyConfig:
    """Read the study file at `path`; `settings` are overrides such as `"iap.controls=20"`.

    Raises `ConfigError` for a file that cannot be read, is no TOML, or says something impossible.
    """
    file = Path(path)
    data = read_toml(file, "study", ", such as `lobes init` writes")
    data.setdefault("name", file.stem)
    for setting in settings:
        set_value(data, setting)
    return StudyConfig.from_dict(data, source=str(file), folder=file.parent)


def read_toml(file: Path, what: str, made: str = "") -> dict[str, Any]:
    """Return the content of a TOML file; `what` it is, and `made` how, for the messages.

    Raises `ConfigError` for a file that cannot be read or is no TOML.
    """
    try:
        return tomllib.loads(file.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"There is no {what} file {file}; expected a TOML file{made}.{near_path(file)}"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not encoded in UTF-8; expected a TOML file.") from error
    except (ValueError, RecursionError) as error:  # an integer of 5,000 digits, a deep nesting
        hint = "" if file.suffix == ".toml" else " `lobes init` writes a study for your data."
        raise ConfigError(f"{file} is not valid TOML: {str(error).rstrip('.')}.{hint}") from error
    except OSError as error:
        if file.is_dir():  # Windows calls it a lack of permission
            raise ConfigError(f"{file} is a folder; expected a {what}, a TOML file.") from error
        raise ConfigError(f"Cannot read the {what} file {file}: {error.strerror}.") from error


def override(study: StudyConfig, *settings: str) -> StudyConfig:
    """Return the study with values changed: `override(study, "iap.controls=20", "seed=1")`.

    A setting is KEY=VALUE: the key dotted, a task by its name (`tasks.sst2.train_size=500`), the
    value as in TOML, where a plain word needs no quotes. `KEY=` takes a value out.
    """
    data = study.to_dict()
    for setting in settings:
        set_value(data, setting)
    return StudyConfig.from_dict(data, source="--set")


def with_trained_model(study: StudyConfig, model: str) -> StudyConfig:
    """Return the study without its training, on a model that was trained elsewhere.

    `model` is a folder (relative to the working directory) or the name of a model on the hub.
    Without a training nothing grows: the study has no [growth].
    """
    training = study.training.model_copy(update={"enabled": False})
    name = _Resolver("--model", Path()).model(model)
    return study.changed(model=name, training=training, growth=None)


@dataclass(frozen=True, slots=True)
class _Resolver:
    """Expands variables, and makes the paths of data and of a model's folder absolute.

    Relative paths start at `folder`; without one they are resolved already, and a variable that is
    not set, or a model that is gone, stays as it is, so that a run can be read without it.
    `texts` collects what was written where variables stood.
    """

    source: str
    folder: Path | None
    texts: dict[str, str] = field(default_factory=dict)

    def study(self, study: StudyConfig) -> StudyConfig:
        transfer = study.transfer and study.transfer.model_copy(
            update={"task": self._task(study.transfer.task)}
        )
        resolved = study.model_copy(
            update={
                "tasks": tuple(map(self._task, study.tasks)),
                "transfer": transfer,
                "model": self.model(study.model),
                "output": self._expanded(study.output, study.output, "output"),
                "data_dir": self._data_dir(study),
            }
        )
        resolved._texts = self.texts
        return resolved

    def _data_dir(self, study: StudyConfig) -> str | None:
        """The folder of the known tasks' data, as the study or else the environment names it."""
        if study.data_dir is not None:
            return self._path(study.data_dir, "data_dir")
        tasks = (*study.tasks, *([study.transfer.task] if study.transfer else []))
        if os.environ.get(DATA_VARIABLE) and any(task.is_known for task in tasks):
            return self._path(f"${{{DATA_VARIABLE}}}", "data_dir")
        return None

    def _task(self, task: Any) -> Any:
        if task.dataset is not None or task.is_known:
            return task
        paths = {
            key: self._path(value, f"{task.where}.{key}")
            for key in ("train", "validation", "test", "include")
            if (value := getattr(task, key)) is not None
        }
        return task.model_copy(update=paths)

    def model(self, name: str) -> str:
        """Return a folder's absolute path, or else a hub or packaged name as it is."""
        if name.startswith(PREFIX):
            try:
                return packaged_model(name).study_name
            except ModelError as error:
                raise ConfigError(f"{self.source}: model: {error}") from error
        looks_like_path = name.startswith((".", "~", "/", "$")) or not re.fullmatch(HUB_NAME, name)
        path = Path(self._path(name, "model"))
        is_recorded = self.folder is None and looks_like_path
        if path.is_dir() or is_recorded or "${" in str(path):
            return str(path)
        if looks_like_path:
            raise ConfigError(
                f"{self.source}: model is {shown(name)}, and there is no folder {path}; expected a "
                f"folder with a model, or the name of a model on the hub."
            )
        return name

    def _path(self, text: str, key: str) -> str:
        # A variable is set for the shell's working directory, not for the place of the study file.
        is_variable = text.startswith("$")
        base = Path() if is_variable else self.folder or Path()
        written = text if is_variable else os.path.abspath(base / os.path.expanduser(text))
        return self._expanded(written, text, key, base)

    def _expanded(self, written: str, text: str, key: str, base: Path | None = None) -> str:
        """The text with its variables put in; `ConfigError` where that is no path."""
        expanded = self._with_variables(text, key)
        check_path(f"{self.source}: {key}", expanded, written=key == "output")
        path = expanded if base is None else os.path.abspath(base / expanded)
        if "${" in text:
            self.texts[path] = written
        return path

    def _with_variables(self, text: str, key: str) -> str:
        """Put in `${NAME}` from the environment, and the home folder for a leading `~`."""

        def value(match: re.Match[str]) -> str:
            if os.environ.get(match[1]):
                return os.environ[match[1]]
            if self.folder is None:
                return match[0]
            raise ConfigError(
                f"{self.source}: {key} is {shown(text)}, but the environment variable {match[1]} "
                f"is not set; set it, for example `export {match[1]}=FOLDER`."
            )

        return os.path.expanduser(re.sub(r"\$\{(\w+)\}", value, text))


def _sentence(error: ValidationError, data: Mapping[str, Any], source: str) -> str:
    """One sentence for the first fault; an unknown key comes first, it often explains the rest."""
    faults = error.errors(include_url=False)
    fault = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
    if fault["type"] == "extra_forbidden":
        return f"{source}: {_unknown_key(fault['loc'], data)}"
    if fault["type"] == "value_error":
        message = str(fault["ctx"]["error"])
        return f"{source}: {message}" + ("" if message.endswith("?") else ".")
    field, place = _field(fault["loc"])
    key = _key(place, data)
    state = "is missing" if fault["type"] == "missing" else f"is {shown(fault['input'])}"
    rule = field.description or rule_of(Annotated[field.annotation, None, *field.metadata])
    return f"{source}: {key} {state}; expected {rule}."


def _unknown_key(location: Sequence[int | str], data: Mapping[str, Any]) -> str:
    *table, key = location
    section = SECTIONS[".".join(part for part in table if isinstance(part, str))]
    known = list(section.model_fields)
    where = _key(location, data)
    close = difflib.get_close_matches(str(key), known, n=1)
    if close:
        return f"unknown key {where}; did you mean {close[0]}?"
    homes = [name for name, section in SECTIONS.items() if key in section.model_fields]
    if homes:
        home = {"": "at the top of the file", "tasks": "[[tasks]]"}.get(homes[0], f"[{homes[0]}]")
        return f"unknown key {where}; it belongs {'' if not homes[0] else 'in '}{home}."
    elsewhere = {field: name for name in TABLES for field in SECTIONS[name].model_fields}
    close = difflib.get_close_matches(str(key), elsewhere, n=1, cutoff=0.8)
    if close:
        return f"unknown key {where}; did you mean {elsewhere[close[0]]}.{close[0]}?"
    return f"unknown key {where}; expected one of {', '.join(known)}."


SECTIONS: dict[str, type[Section]] = {
    "": StudyConfig,
    "tasks": TaskConfig,
    "training": TrainingConfig,
    "iat": IatConfig,
    "iap": IapConfig,
    "growth": GrowthConfig,
    "compare": CompareConfig,
    "transfer": TransferConfig,
    "transfer.task": NewTaskConfig,
}
# Of a field that several tables have, the last one is suggested.
TABLES = ("transfer", "compare", "growth", "iat", "iap", "training")


def _field(location: Sequence[int | str]) -> tuple[Any, Sequence[int | str]]:
    """The field that a fault's location lies in, and its place with that of a value inside.

    What follows in the location is a type that the value could have had.
    """
    names = [part for part in location if isinstance(part, str)]
    table: list[str] = []
    while names[1:] and ".".join([*table, names[0]]) in SECTIONS:
        table.append(names.pop(0))
    field = SECTIONS[".".join(table)].model_fields[names[0]]
    return field, location[: location.index(names[0]) + 2]


def _key(location: Sequence[int | str], data: Mapping[str, Any]) -> str:
    """The dotted key of a fault, a task by its name where it has one; long names are cut."""
    parts = [str(part) for part in location]
    if len(parts) > 1 and parts[0] == "tasks":
        given = data["tasks"]
        entry = given[int(parts[1])] if isinstance(given, list | tuple) else given
        name = entry.get("name") if isinstance(entry, dict) else entry
        parts[1] = name if isinstance(name, str) and name else str(int(parts[1]) + 1)
    cut = (part if len(part) <= LONGEST_NAME else f"{part[:LONGEST_NAME]}…" for part in parts)
    return ".".join(cut)
