"""Fit a study into a time: which sizes to lower, and how far, so that least is lost.

First goes what decides nothing, then exchanges beyond those that help (docs/statistics.md), then
examples; a shorter training comes last but one, since it makes another model.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lobes.config.editing import edited
from lobes.config.study import StudyConfig, override
from lobes.config.sweep import Command
from lobes.dissociation.stopping import look_of
from lobes.errors import ConfigError
from lobes.experiments.estimate import Estimate, Forecast
from lobes.experiments.estimate_runs import estimate_for, ready_for
from lobes.files import writing
from lobes.progress import StageProgress

# What may be lowered, in this order, and how far; below 1 a share of what it is.
_FLOORS = (
    ("iap.random", 1),
    ("iap.agreement_examples", 50),
    ("iap.similarity_examples", 100),
    ("iap.controls", 39),
    ("iap.importance_examples", 500),
    ("iap.control_examples", 200),
    ("iap.controls", 19),
    ("training.steps", 0.25),
    ("iap.control_examples", 100),
)
_UNITS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class Fit:
    """A study that fits into `budget` seconds, as far as it can: the `changes` by their keys."""

    budget: float
    changes: dict[str, int]
    estimate: Estimate

    @property
    def fits(self) -> bool:
        """Whether the study takes no longer than the budget."""
        return self.estimate.total <= self.budget

    @property
    def settings(self) -> list[str]:
        """The changes as the option --set takes them."""
        return [f"{key}={value}" for key, value in self.changes.items()]


def seconds_of(budget: str) -> float:
    """Return the seconds of a time such as "90s", "20m" or "1.5h"; raise `ConfigError`."""
    found = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*([smh])\s*", budget)
    if found is None or not float(found[1]):
        raise ConfigError(f"--budget is {budget[:40]!r}; expected a time such as 90s, 20m or 1.5h.")
    return float(found[1]) * _UNITS[found[2]]


def plan_study(
    study: StudyConfig,
    budget: str | None = None,
    file: Path | None = None,
    progress: StageProgress | None = None,
    command: Command = "run",
) -> dict[str, Any]:
    """Return what a command takes for a study and, with a budget, what a run with sizes that fit.

    These are set in the study's `file`, if one is given. Raises `ConfigError` for a budget that is
    no time, for one of another command than "run", for a file without one and where it cannot be
    changed in place; and what the command raises for a study that it does not take.
    """
    seconds = None if budget is None else seconds_of(budget)
    if command != "run" and seconds is not None:
        raise ConfigError(
            f"--budget lowers the sizes of a run; leave it out with --for {command}, and lower "
            f"{command}.seeds or training.steps."
        )
    if file is not None and seconds is None:
        raise ConfigError("--write sets the sizes that fit a budget; give it with --budget 20m.")
    study = ready_for(study, command)
    forecast = Forecast.of(study, progress)
    estimate = (
        forecast.estimate().to_dict() if command == "run" else estimate_for(forecast, command)
    )
    record: dict[str, Any] = {"study": study.name, "command": command, "estimate": estimate}
    if seconds is None:
        return {**record, "budget": None}
    found = fit(forecast, seconds)
    if file is not None and found.changes:
        text = edited(file.read_bytes().decode("utf-8"), found.changes, str(file))
        with writing(file) as written:
            written.write(text.encode())
    return {
        **record,
        "budget": {
            "seconds": seconds,
            "fits": found.fits,
            "changes": found.changes,
            "options": [part for setting in found.settings for part in ("--set", setting)],
            "estimate": found.estimate.to_dict(),
        },
    }


def fit(forecast: Forecast, budget: float) -> Fit:
    """Lower a study's sizes until it takes `budget` seconds at most; those that fit stay."""
    study, changes = forecast.loaded.study, dict[str, int]()

    def takes(changed: StudyConfig) -> float:
        return forecast.estimate(changed, power=False).total

    for key, least in _FLOORS:
        if takes(study) <= budget:
            break
        now = forecast.size(study, key)
        low = round(least * now) if least < 1 else int(least)
        stops = key == "iap.controls" and study.iap.stop and look_of(now) is not None
        if now <= low or (stops and takes(_changed(study, key, low)) >= takes(study)):
            continue  # these exchanges are measured only if the study goes on
        if takes(_changed(study, key, low)) <= budget:
            high = now
            while high - low > max(1, low // 20):
                middle = (low + high) // 2
                fits = takes(_changed(study, key, middle)) <= budget
                low, high = (middle, high) if fits else (low, middle)
        study, changes[key] = _changed(study, key, low), low
    return Fit(budget, changes, forecast.estimate(study))


def _changed(study: StudyConfig, key: str, value: int) -> StudyConfig:
    others = ["training.epochs="] if key == "training.steps" else []
    return override(study, *others, f"{key}={value}")
