"""What a comparison, a transfer study or a sweep takes: many trainings, one measured speed.

`estimate.py` measures how fast a study's model runs here. These estimates count with it what the
trainings of every seed, and the runs of a sweep, take.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lobes.config.settings import WEIGHTED
from lobes.config.study import StudyConfig
from lobes.config.sweep import Command, PlannedRun, Sweep
from lobes.errors import ConfigError, DataError, ModelError, first_line
from lobes.experiments.estimate import PAGES, Forecast, ablates_alone
from lobes.experiments.loading import load_tasks
from lobes.experiments.methods import SeedRun, with_defaults
from lobes.experiments.over_seeds import PAIR
from lobes.experiments.sweep import named_errors, states
from lobes.experiments.transfer import STARTS, ready_to_transfer
from lobes.measure.settings import IapSettings
from lobes.measure.workload import examples_of
from lobes.progress import StageProgress
from lobes.tasks.task import Task

# So many examples of a new task show how long its batches are.
_LOOKED_AT = 2_000

# What no speed depends on: settings of [training], whole tables and keys, and all of [iap] but
# what is kept.
_OF_TRAINING = ("steps", "epochs", "learning_rate", "weight_decay", "warmup", "save_every")
_OF_STUDY = ("name", "output", "seed", "iat", "compare", "transfer", "growth", "keep_texts")
_OF_IAP = ("value", "lesion", "fractions", "importance_split")


@dataclass(frozen=True)
class SeedsEstimate:
    """What a study over seeds takes: `seconds` of each way to train over all seeds, and bytes.

    `trainings` are all of them; what trainings share is counted once.
    """

    seconds: dict[str, float]
    seeds: int
    trainings: int
    memory: int
    disk: int
    disk_meanwhile: int

    @property
    def total(self) -> float:
        """All seeds, in seconds."""
        return sum(self.seconds.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as JSON takes it."""
        return {
            "seconds": {name: round(seconds, 2) for name, seconds in self.seconds.items()},
            "total_seconds": round(self.total, 2),
            "seeds": self.seeds,
            "trainings": self.trainings,
            "memory_bytes": self.memory,
            "disk_bytes": self.disk,
            "disk_meanwhile_bytes": self.disk_meanwhile,
        }


def estimate_for(
    forecast: Forecast, command: Command, study: StudyConfig | None = None
) -> dict[str, Any]:
    """Return what a command takes for a study whose model's speed is known, as JSON takes it."""
    study = study or forecast.loaded.study
    if command == "run":
        return forecast.estimate(study, power=False).to_dict()
    estimate = _comparison if command == "compare" else _transfer
    return estimate(forecast, study).to_dict()


def ready_for(study: StudyConfig, command: Command) -> StudyConfig:
    """Return the study with all that a command needs; raises what the command raises for it."""
    if command == "run":
        return study
    return with_defaults(study) if command == "compare" else ready_to_transfer(study)


class _Trainings:
    """What the trainings of one seed take, in seconds."""

    def __init__(self, forecast: Forecast, study: StudyConfig) -> None:
        assert study.training.enabled
        assert forecast.rates.training is not None
        self.forecast, self.rate = forecast, forecast.rates.training
        precision = forecast.loaded.precision
        self.run = SeedRun(study, study.seed, forecast.tasks, Path("unused"), precision)

    def training(
        self, steps: int, tasks: Sequence[Task] | None = None, *, weighted: bool = False
    ) -> float:
        """So many steps, the evaluations on held-out data, and the scores in the end."""
        tasks = self.run.tasks if tasks is None else tasks
        calls = len(tasks) if weighted else 1  # a pass for each task's share of the batch
        step = self.rate.cost(self.rate.tokens, calls)
        return steps * step + self.scoring(tasks)

    def scoring(self, tasks: Sequence[Task]) -> float:
        """The evaluations of a training on held-out data, and on validation data in the end."""
        names = [task.name for task in tasks]
        held_out = sum(self._held_out(name) for name in names)
        tokens = self.run.compare.evaluations * held_out + self.forecast.validation_tokens(names)
        return self.forecast.rates.lesion.each * tokens

    def pair(self) -> float:
        """Multi-task training, and IAT from where the two part; both are scored."""
        switch = self.run.iat.switch_step(self.run.steps) or 0
        return self.training(self.run.steps) + self.with_iat(self.run.steps - switch)

    def with_iat(self, steps: int) -> float:
        """So many steps of a training with IAT, and the choice of heads."""
        chosen = sum(self.forecast.importance(task, self.run.iat) for task in self.run.tasks)
        return self.training(steps) + chosen

    def d_scores(self) -> float:
        """The D-scores of one trained model: importance, lesions, exchanges."""
        found, lesions = self.forecast, self.run.lesions
        seconds = found.importances(lesions) + self._lesions(lesions)
        return seconds + (self._lesions(self.run.exchanges) if self.run.exchanges else 0.0)

    def frozen(self) -> float:
        """A training of the classifiers alone: the encoder runs forwards only."""
        forward = self.forecast.rates.lesion(self.rate.tokens)
        return self.run.steps * forward + self.scoring(self.run.tasks)

    def probe(self) -> float:
        """The features of all examples, which a linear probe is solved on."""
        tokens = sum(
            len(examples_of(task, split)) * self.forecast.mean(task, split)
            for task in self.run.tasks
            for split in ("train", "validation")
        )
        return self.forecast.rates.lesion.each * tokens

    def _lesions(self, settings: IapSettings) -> float:
        return self.forecast.lesions(settings, self.forecast.work(settings))

    def _held_out(self, name: str) -> float:
        part = next(part for part in self.run.parts if part.name == name)
        return len(examples_of(part, "validation")) * self.forecast.mean(
            next(task for task in self.run.tasks if task.name == name), "train"
        )


def _comparison(forecast: Forecast, study: StudyConfig) -> SeedsEstimate:
    """What `compare_study` takes."""
    study = with_defaults(study)
    one = _Trainings(forecast, study)
    run, methods = one.run, one.run.compare.methods
    seconds: dict[str, float] = {}
    counts: dict[str, int] = {}
    pair = set(PAIR) <= set(methods)
    for method in methods:
        counts[method] = 1
        if method == "single":
            each = zip(run.steps_of_tasks, run.tasks, strict=True)
            seconds[method] = sum(one.training(steps, [task]) for steps, task in each)
            counts[method] = len(run.tasks)
        elif method == "tuned":
            counts[method] = len(run.grid)
            seconds[method] = len(run.grid) * one.training(run.steps, weighted=True)
        elif method in WEIGHTED:
            seconds[method] = one.training(run.steps, weighted=True)
        elif method in PAIR:
            seconds[method] = (
                one.with_iat(run.steps) if method == "iat" else one.training(run.steps)
            )
        elif method == "frozen":
            seconds[method] = one.frozen()
        else:
            seconds[method], counts[method] = one.probe(), 0
    if pair:
        # the steps that they share are taken once, and both are measured
        seconds["iat"] = one.pair() - seconds["multi"]
        seconds["D-scores"] = 2 * one.d_scores()
    return _over_seeds(one, study.compare.seeds, seconds, sum(counts.values()))  # type: ignore[union-attr]


def _transfer(forecast: Forecast, study: StudyConfig) -> SeedsEstimate:
    """What `transfer_study` takes."""
    study = ready_to_transfer(study)
    assert study.transfer is not None
    one, settings = _Trainings(forecast, study), study.transfer
    start = time.perf_counter()
    (new,) = load_tasks(study.model_copy(update={"tasks": (settings.task,)}))
    model = one.run.new_model((new,))
    loading = time.perf_counter() - start
    assert settings.batch_size is not None
    drawn = np.random.default_rng(0)
    lengths = {
        split: model.encode(new.name, _some(examples_of(new, split), drawn)).lengths
        for split in ("train", "validation")
    }
    batches = drawn.choice(lengths["train"], (100, settings.batch_size))
    tokens = settings.batch_size * float(batches.max(axis=1).mean())
    scored = float(lengths["validation"].mean()) * len(examples_of(new, "validation"))
    tuning = settings.steps * one.rate.cost(tokens) + forecast.rates.lesion(scored) + loading
    tunings = len(STARTS) * len(settings.fractions)
    seconds = {"training": one.pair(), "fine-tuning": tunings * tuning}
    return _over_seeds(one, settings.seeds, seconds, len(PAIR) + tunings, models=len(PAIR))


def _over_seeds(
    one: _Trainings, seeds: int, seconds: dict[str, float], trainings: int, models: int = 0
) -> SeedsEstimate:
    """The same for every seed; `models` lie in the folder until a seed is done."""
    forecast = one.forecast
    weights = forecast.weights
    return SeedsEstimate(
        {
            "loading": forecast.loading_seconds,
            **{name: seeds * each for name, each in seconds.items()},
        },
        seeds,
        seeds * trainings,
        forecast.memory + weights,  # the best weights so far
        PAGES,
        PAGES + (models + 3) * weights,  # a checkpoint, where multi-task training and IAT part
    )


def _some(examples: Any, drawn: np.random.Generator) -> Any:
    if len(examples) <= _LOOKED_AT:
        return examples
    return examples.select(np.sort(drawn.choice(len(examples), _LOOKED_AT, replace=False)))


# Sweeps


def estimate_sweep(sweep: Sweep, progress: StageProgress | None = None) -> dict[str, Any]:
    """Return what each run of a sweep takes, and all that are not finished.

    Runs of one model on the same data are measured together. A run that has begun counts whole.
    One whose model or data are not there has an `error` in place of its `seconds`.
    """
    groups: dict[str, list[PlannedRun]] = {}
    for run in sweep.runs:
        groups.setdefault(_speed_of(run.study), []).append(run)
    found: dict[str, dict[str, Any]] = {}
    errors: dict[str, str] = {}
    for runs in groups.values():
        try:
            alone = any(ablates_alone(run.study) for run in runs)
            forecast = Forecast.of(runs[0].study, progress, alone=alone)
            for run in runs:
                found[run.name] = estimate_for(forecast, sweep.command, run.study)
        except (DataError, ConfigError, ModelError) as error:
            errors |= {run.name: first_line(error) for run in runs if run.name not in found}
    listed = [
        {
            **state,
            "seconds": found[run.name]["total_seconds"] if run.name in found else None,
            "error": errors.get(run.name),
        }
        for run, state in zip(sweep.runs, states(sweep), strict=True)
    ]
    known = [run for run in listed if run["error"] is None]
    left = [run["seconds"] for run in known if run["state"] != "finished"]
    estimates = [*found.values()]
    return {
        "sweep": sweep.name,
        "command": sweep.command,
        "runs": listed,
        "total_seconds": round(sum(run["seconds"] for run in known), 2),
        "left_seconds": round(sum(left), 2),
        "runs_left": len(left),
        "runs_unknown": len(errors),
        "memory_bytes": max((each["memory_bytes"] for each in estimates), default=0),
        "disk_bytes": sum(each["disk_bytes"] for each in estimates),
    }


def unknown(records: Sequence[dict[str, Any]]) -> str:
    """Return which runs of sweeps could not be estimated, in a sentence; "" if all were."""
    runs = [run for record in records for run in record["runs"]]
    failed = [(Path(run["run"]).name, run["error"]) for run in runs if run["error"] is not None]
    if not failed:
        return ""
    return f"{len(failed)} of {len(runs)} runs cannot be estimated ({named_errors(failed)})."


def _speed_of(study: StudyConfig) -> str:
    """What a study's speed depends on, the same for all studies of one speed."""
    config = {key: value for key, value in study.to_dict().items() if key not in _OF_STUDY}
    training, iap = config["training"], config["iap"]
    config["training"] = {k: v for k, v in training.items() if k not in _OF_TRAINING}
    config["iap"] = {key: iap.get(key) for key in _OF_IAP}
    return json.dumps(config, sort_keys=True, default=str)
