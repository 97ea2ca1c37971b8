"""Read a sweep from TOML: a base study, and the values that some of its settings take in turn.

`load_sweeps` returns every combination as a study of its own; what one of them cannot be is refused
there, before anything runs. A file may hold several sweeps, its `[[parts]]`.
"""

import hashlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

from lobes.config.keys import put
from lobes.config.settings import shown
from lobes.config.study import StudyConfig, load_study, read_toml
from lobes.errors import ConfigError, at
from lobes.limits import LONGEST_NAME, short

Command = Literal["run", "compare", "transfer"]
KEYS = ("study", "axes", "output", "command")
# the keys of a file with parts, and of a part
_WHOLE = ("parts", "axes", "output")
_PART = ("name", "study", "axes", "command")
_NAME = f"[A-Za-z0-9_-]{{1,{LONGEST_NAME}}}"
MOST_RUNS = 10_000
# A value that is longer in the name of a run's folder is cut, and told apart by a digest.
_LONGEST_VALUE = 24


@dataclass(frozen=True)
class PlannedRun:
    """One of several runs: its name, and its study with the folder to run it in.

    `values` are what this run has of each axis, by the dotted keys of the settings, and `labels`
    how they stand in names.
    """

    name: str
    values: Mapping[str, Any]
    study: StudyConfig
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.study.output)


@dataclass(frozen=True)
class Sweep:
    """A study in every combination of some values of its settings.

    `command` makes a run of each, in a folder of its own in `folder`; `axes` are the values by
    the dotted keys of the settings. The values of the last axis change fastest. `part` is its name
    among several sweeps of one file.
    """

    name: str
    command: Command
    folder: Path
    axes: Mapping[str, tuple[Any, ...]]
    runs: tuple[PlannedRun, ...]
    part: str | None = None


def is_sweep(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is that of a sweep, by its keys."""
    data = read_toml(Path(path), "study", ", such as `lobes init` writes")
    return "parts" in data or {"study", "axes"} <= data.keys()


def load_sweeps(
    path: str | os.PathLike[str],
    settings: Sequence[str] = (),
    output: Path | None = None,
    part: str | None = None,
) -> tuple[Sweep, ...]:
    """Read the sweeps of a file: one for each of its `[[parts]]`, or the one of this part.

    `settings` change the base studies, as in `load_study`. Relative paths start at the file's
    folder, that of `output` at the working directory; the option `output` comes before the file's.
    Raises `ConfigError` for what is no sweep, a part that is not there, and a combination that is
    no study.
    """
    file = Path(path)
    data = read_toml(file, "sweep", " with a study and a table [axes]")
    if "parts" not in data:
        if part is not None:
            raise ConfigError(
                f"{file}: the part is {part!r}; expected none, since it has no [[parts]]."
            )
        return (_sweep(data, file, f"{file}", settings, output),)
    _check_keys(data, f"{file}", _WHOLE, "a sweep with [[parts]]", "each part names its study.")
    parts, shared = data["parts"], data.get("axes", {})
    if not isinstance(parts, list) or not parts or not all(isinstance(p, dict) for p in parts):
        raise ConfigError(f"{file}: parts is {shown(parts)}; expected tables [[parts]].")
    if not isinstance(shared, dict):
        raise ConfigError(f"{file}: axes is {shown(shared)}; expected a table [axes].")
    shared = _axes(shared, f"{file}: axes")
    _check_output(data, f"{file}")
    folder = Path(output or data.get("output") or f"runs/{file.stem}")
    own = dict[str, tuple[dict[str, Any], str]]()
    for number, table in enumerate(parts, 1):
        place = f"{file}: part {number}"
        _check_keys(table, place, _PART, "a part of a sweep", "the output is that of the sweep.")
        given = {key: value for key, value in table.items() if key != "name"}
        if isinstance(table.get("axes", {}), dict):
            given["axes"] = {**shared, **_axes(table.get("axes", {}), f"{place}: axes")}
        name = table.get("name")
        is_name = isinstance(name, str) and re.fullmatch(_NAME, name) is not None
        if not is_name or name.casefold() in map(str.casefold, own):
            said = "missing" if name is None else shown(name)
            raise ConfigError(
                f"{place}: name is {said}; expected up to {LONGEST_NAME} letters, digits, - and "
                f"_ that are no other part's name: its folder is called so."
            )
        own[name] = given, place
    if part is not None and part not in own:
        raise ConfigError(f"{file}: the part is {part!r}; expected one of {', '.join(own)}.")
    return tuple(
        replace(_sweep(given, file, place, settings, folder / name), name=name, part=name)
        for name, (given, place) in own.items()
        if part in (None, name)
    )


def _sweep(
    data: Mapping[str, Any],
    file: Path,
    place: str,
    settings: Sequence[str],
    output: Path | None,
) -> Sweep:
    """One sweep, whose values stand at this place of the file."""
    _check_keys(data, place, KEYS, "a sweep", "its study is a file of its own.")
    _check_values(data, place)
    with at(f"{place}: study"):
        base = load_study(file.parent / os.path.expanduser(data["study"]), settings)
    axes = _axes(data["axes"], f"{place}: axes")
    _check_axes(axes, place)
    config = base.to_dict()
    named = output or data.get("output")
    if named and any(setting.partition("=")[0].strip() == "output" for setting in settings):
        raise ConfigError(
            f"{place}: the setting output has no effect, since the folder of all runs is {named}; "
            f"name another with --output."
        )
    folder = str(named or base.as_written(base.beside("-sweep")))
    runs = []
    for labels, values in _combinations(axes):
        name = name_of(labels)
        own = json.loads(json.dumps(config))
        for key, value in values.items():
            with at(f"{place}: axes"):
                put(own, key, None if value == "" else value, f"{key}={shown(value)}")
        own["output"] = f"{folder}/{name}"
        study = StudyConfig.from_dict(own, source=f"{place}: {name}", folder=file.parent)
        runs.append(PlannedRun(name, values, study, labels))
    _check_different(runs, place)
    return Sweep(base.name, data.get("command", "run"), runs[0].folder.parent, axes, tuple(runs))


def _check_keys(
    data: Mapping[str, Any], place: str, keys: Sequence[str], what: str, why: str
) -> None:
    unknown = next((key for key in data if key not in keys), None)
    if unknown is not None:
        raise ConfigError(
            f"{place}: unknown key {unknown}; expected {what}, which has {', '.join(keys[:-1])} "
            f"and {keys[-1]}: {why}"
        )


def _check_values(data: Mapping[str, Any], place: str) -> None:
    for key, kind, what in (
        ("study", str, "the path of a study file"),
        ("axes", dict, "a table [axes] of settings, each with a list of values"),
    ):
        if key not in data:
            raise ConfigError(f"{place}: {key} is missing; expected {what}.")
        if not isinstance(data[key], kind) or not data[key]:
            raise ConfigError(f"{place}: {key} is {shown(data[key])}; expected {what}.")
    _check_output(data, place)
    if data.get("command", "run") not in get_args(Command):
        raise ConfigError(
            f"{place}: command is {shown(data['command'])}; expected "
            f"{', '.join(map(json.dumps, get_args(Command)))}."
        )


def _check_output(data: Mapping[str, Any], place: str) -> None:
    output = data.get("output", ".")
    if not isinstance(output, str) or not output:
        raise ConfigError(f"{place}: output is {shown(output)}; expected a folder.")


def _axes(table: Mapping[str, Any], place: str) -> dict[str, tuple[Any, ...]]:
    """The values by dotted keys, of tables in tables, too: `iat.alpha` needs no quotes.

    Raises `ConfigError` for a key that is there in both ways.
    """
    found: dict[str, tuple[Any, ...]] = {}
    for key, value in table.items():
        where = f"{place}.{key}"
        if isinstance(value, list | tuple) and value:
            inner = {key: tuple(value)}
        elif isinstance(value, dict) and value:
            inner = {f"{key}.{name}": values for name, values in _axes(value, where).items()}
        else:
            raise ConfigError(f"{where} is {shown(value)}; expected a list of values.")
        for name in inner.keys() & found.keys():
            raise ConfigError(f"{place} has {name} twice; expected each setting once.")
        found |= inner
    return found


def _check_axes(axes: Mapping[str, Sequence[Any]], place: str) -> None:
    for key in axes:
        if key == "output":
            raise ConfigError(
                f"{place}: axes.output: every run has a folder of its own; expected other settings."
            )
        inside = next((other for other in axes if other.startswith(f"{key}.")), None)
        if inside is not None:
            raise ConfigError(f"{place}: axes has {key} and {inside}, which is a part of it.")
    number = math.prod(map(len, axes.values()))
    if number > MOST_RUNS:
        raise ConfigError(
            f"{place}: axes has {number:,} combinations; expected at most {MOST_RUNS:,}."
        )


def _combinations(
    axes: Mapping[str, Sequence[Any]],
) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    """The labels and the values of each run."""
    labels = [_labels(values) for values in axes.values()]
    for places in product(*(range(len(values)) for values in axes.values())):
        chosen = [*zip(axes, labels, places, strict=True)]
        yield {key: own[k] for key, own, k in chosen}, {key: axes[key][k] for key, _, k in chosen}


def name_of(labels: Mapping[str, str], *more: str) -> str:
    """Return `seed=0,iat.alpha=0.3`, a name that any file system takes; `more` ends it."""
    whole = ",".join([*(f"{key}={label}" for key, label in labels.items()), *more])
    return _short(_safe(whole), LONGEST_NAME, whole)


def _labels(values: Sequence[Any]) -> list[str]:
    """Values as they stand in names: safe for any file system, and told apart by all of them."""
    plain = [_plain(value) for value in values]
    often = Counter(text.casefold() for text in plain)
    return [
        _short(text, 0 if often[text.casefold()] > 1 else _LONGEST_VALUE, _json(value))
        for text, value in zip(plain, values, strict=True)
    ]


def _plain(value: Any) -> str:
    """A value in few characters: of a path or a packaged model its last part, of a list all."""
    if isinstance(value, bool | int | float):
        return _json(value)
    if isinstance(value, list):
        text = "+".join(_plain(each) for each in value)
    else:
        text = re.split("[/:]", value.rstrip("/"))[-1] if isinstance(value, str) else _json(value)
    return _safe(re.sub("[=,]", "-", text)).strip("-") or "none"


def _safe(text: str) -> str:
    return re.sub(r"[^\w.=,+-]+", "-", text, flags=re.ASCII)


def _short(text: str, most: int, whole: str) -> str:
    """The text, or where it is longer than `most` its begin with a digest of the whole."""
    if len(text) <= most:
        return text
    digest = hashlib.sha256(whole.encode()).hexdigest()[:8]
    return f"{text[: max(most, _LONGEST_VALUE) - 9]}-{digest}"


def _json(value: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True, default=str)
    except ValueError:  # an integer of thousands of digits
        return short(value)


def _check_different(runs: Sequence[PlannedRun], place: str) -> None:
    """Refuse two runs of one name, or of one study."""
    names, studies = dict[str, str](), dict[str, str]()
    for run in runs:
        study = _json({**run.study.to_dict(), "output": ""})
        same = names.get(run.name.casefold()) or studies.get(study)
        if same is not None:
            raise ConfigError(
                f"{place}: axes: two runs are the same, {same} and {run.name}; expected different "
                f"values."
            )
        names[run.name.casefold()] = studies[study] = run.name
