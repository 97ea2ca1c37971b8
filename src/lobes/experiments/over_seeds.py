"""Prepare the trainings of a study over several seeds, and describe them in the results."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lobes.config.settings import WEIGHTED
from lobes.config.study import StudyConfig
from lobes.discovery import find_heads
from lobes.experiments.loading import (
    ESTIMATING,
    Loaded,
    base_fingerprint,
    check_inputs,
    fingerprints_of,
    scope_of,
)
from lobes.experiments.methods import SeedRun, Trained
from lobes.experiments.results import describe_environment, describe_model
from lobes.experiments.store import RunFolder
from lobes.experiments.training import losses_of
from lobes.heads import HeadSet
from lobes.measure.iap import check_lesions
from lobes.measure.steps import Arrays, Plan
from lobes.metrics import get_metric
from lobes.modeling import MultiTaskModel
from lobes.progress import StageProgress
from lobes.report.page import html
from lobes.report.pages import page_name, page_of
from lobes.results import as_bytes
from lobes.results.base import ModelRecord, TaskRecord
from lobes.results.of_matrix import opening
from lobes.results.over_seeds import ComparedTask, OverSeeds, SeedsIat
from lobes.results.training import IatSettings
from lobes.tasks.task import Task
from lobes.training.weighting import weighted_step
from lobes.workers import Pool

# One training, and the same with IAT in its last steps.
PAIR = ("multi", "iat")

Found = TypeVar("Found", bound=OverSeeds)


@dataclass(frozen=True)
class SeedStudy:
    """The runs of a study, one for each seed, ready to begin.

    `fingerprints` are those of the data and of the pre-trained encoder, `scope` what every
    measurement depends on, `head` what the results begin with: name, date, version and model.
    """

    runs: Sequence[SeedRun]
    fingerprints: Mapping[str, str]
    scope: str
    head: Mapping[str, Any]

    def tell(
        self,
        tell: Callable[[Loaded], None] | None,
        folder: RunFolder,
        progress: StageProgress | None,
    ) -> None:
        """Tell of a study that begins, before its first training."""
        if tell is None or folder.goes_on:
            return
        first = self.runs[0]
        if progress:
            progress(ESTIMATING, 0, 1)
        tell(Loaded(first.study, first.tasks, first.new_model(), first.precision))
        if progress:
            progress(ESTIMATING, 1, 1)

    def finish(
        self,
        folder: RunFolder,
        plans: Sequence[Plan[dict[str, Arrays]]],
        describe: Callable[[Sequence[Mapping[str, Arrays]], dict[str, Any]], Found],
        progress: StageProgress | None,
        pool: Pool | None,
    ) -> Found:
        """Carry out the plan of each seed; write the results that `describe` makes, and the page.

        `describe` gets what the plans give, and what `_common` says.
        """
        folder.begin(self.fingerprints)
        folder.remove_checkpoints()
        measurements = folder.measurements(self.scope, progress, pool)
        records = measurements.run_all(plans)
        folder.remove_checkpoints()
        times = {"total": sum(measurements.seconds_by_stage.values())}
        results = describe(records, {**self._common(records), "times": times})
        folder.write(results.FILE, as_bytes(results))
        folder.write(page_name(type(results)), html(page_of(results)).encode())
        return results

    def _common(self, records: Sequence[Mapping[str, Arrays]]) -> dict[str, Any]:
        """What the results of every study over seeds hold; `records` are by method."""
        first, iat = self.runs[0], None
        if "iat" in records[0]:
            iat = _iat_record(first, [seed["iat"] for seed in records], self.head["model"])
        return {
            **self.head,
            "seeds": tuple(run.study.seed for run in self.runs),
            "iat": iat,
            "level": first.study.iap.level,
            "environment": describe_environment(first.precision),
            "config": first.study.to_dict(),
        }


def seed_study(
    study: StudyConfig,
    tasks: Sequence[Task],
    checkpoints: Path,
    *,
    seeds: int,
    methods: Sequence[str],
    precision: str,
    new: Sequence[Task] = (),
) -> SeedStudy:
    """Return the runs over `seeds` seeds, once a model can be trained and measured in these ways.

    `new` are tasks that are used but not trained on here. Raises what can be known to be wrong
    before the first training.
    """
    runs = [
        SeedRun(study, study.seed + number, tasks, checkpoints, precision)
        for number in range(seeds)
    ]
    first, every = runs[0], (*tasks, *new)
    model = first.new_model()
    layout = find_heads(model)
    check_inputs(model, tasks)
    losses_of(study, every)
    if set(PAIR) <= set(methods):
        check_lesions(first.lesions, layout, first.learnable)
    first.check(model, first.iat if "iat" in methods else None)
    _check_weighted(runs, model, [method for method in methods if method in WEIGHTED])
    base = base_fingerprint(model)
    for run in runs:
        run.base = base
    number = sum(parameter.numel() for parameter in model.parameters())
    described = describe_model(study.as_written(study.model), model.pooling, number, layout)
    return SeedStudy(
        runs,
        {**fingerprints_of(every), "base model": base},
        scope_of(model, every, first.precision),
        {**opening(study.name), "model": described},
    )


def _check_weighted(runs: Sequence[SeedRun], model: MultiTaskModel, methods: Sequence[str]) -> None:
    """Raise what can be known to be wrong with trainings that weigh the tasks, of any seed."""
    first = runs[0]
    for method in methods:
        weighted_step(first.weighting(method), len(first.tasks), first.device)
    if methods:
        first.check(model, weighting=first.weighting(methods[0]))
    for run in runs if methods else ():
        run.micro_batches()


def described_task(task: Task) -> TaskRecord:
    """Return one task's part of the results."""
    assert task.train is not None
    assert task.validation is not None
    return TaskRecord(
        name=task.name,
        metric=task.metric,
        metric_range=get_metric(task.metric).own_range,
        labels=None if task.labels is None else tuple(task.labels),
        multi_label=task.is_multi_label,
        n_train=len(task.train),
        n_validation=len(task.validation),
        chance=get_metric(task.metric).chance(task.validation.labels),
    )


def described_tasks(run: SeedRun) -> tuple[ComparedTask, ...]:
    """Return the part of the results of each task that a model is trained on."""
    return tuple(
        ComparedTask(
            **dict(described_task(task))
            | {"n_train": len(part.train or ()), "n_held_out": len(part.validation or ())}
        )
        for task, part in zip(run.tasks, run.parts, strict=True)
    )


def training_arrays(trained: Trained) -> Arrays:
    """Return what is kept of a training: selected step, held-out scores, seconds.

    "held_out" [tasks], "steps" and "seconds" [1]; the mean "weights" [tasks] where tasks were
    weighed; of IAT also "heads", rows of the number of a
    task and a site and a head that it trains, and "importance_seconds" [1].
    """
    arrays = {
        "held_out": trained.held_out,
        "steps": np.array([trained.step]),
        "seconds": np.array([trained.seconds]),
    }
    if trained.weights is not None:
        arrays["weights"] = trained.weights
    if trained.iat is not None:
        rows = [
            (number, *head)
            for number, spec in enumerate(trained.model.tasks)
            for head in sorted(HeadSet.parse(trained.iat["heads"][spec.name]))
        ]
        arrays["heads"] = np.array(rows, dtype=np.int64).reshape(-1, 3)
        arrays["importance_seconds"] = np.array([trained.iat["seconds"]])
    return arrays


def joined(parts: Mapping[str, Arrays]) -> Arrays:
    """Return the arrays of several parts under one name each; `part_of` takes them apart."""
    return {
        f"{part}-{key}": value for part, arrays in parts.items() for key, value in arrays.items()
    }


def part_of(arrays: Arrays, part: str) -> Arrays:
    """Return one part of what `joined` made."""
    start = f"{part}-"
    return {key.removeprefix(start): a for key, a in arrays.items() if key.startswith(start)}


def concatenated(parts: Sequence[Arrays]) -> Arrays:
    """Return the arrays of several parts concatenated, under their own names."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _iat_record(run: SeedRun, records: Sequence[Arrays], model: ModelRecord) -> SeedsIat:
    """Return what IAT did for each seed; `records` are `training_arrays`, `run` is the first."""
    assert run.study.iat is not None
    switch = run.iat.switch_step(run.steps)
    assert switch is not None  # `with_defaults` has refused an IAT without a phase
    return SeedsIat(
        switch_step=switch,
        steps=run.steps - switch,
        n_heads=model.n_heads,
        settings=IatSettings.model_validate(run.study.iat.model_dump(mode="json")),
        seconds=tuple(float(record["importance_seconds"][0]) for record in records),
        heads=tuple(_heads(record["heads"], run.tasks) for record in records),
    )


def _heads(rows: np.ndarray, tasks: Sequence[Task]) -> dict[str, HeadSet]:
    """{task: heads}, what "heads" of `training_arrays` was made of."""
    return {
        task.name: HeadSet((int(site), int(head)) for t, site, head in rows if t == number)
        for number, task in enumerate(tasks)
    }
