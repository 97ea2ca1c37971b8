"""`lobes compare`: several ways to train, each with the same seeds, data, budget and selection.

Every training of every seed is one measurement, made once and kept, so an interrupted comparison
goes on with the next training, and later seeds or methods can be added to it. What the methods are
is said in `methods.py`; `comparison.json` holds what the page and the tables show.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from lobes import __version__
from lobes.discovery import find_heads
from lobes.heads import HeadSet
from lobes.iap import IapSettings, check_lesions, lesion_matrix
from lobes.metrics import get_metric
from lobes.modeling import MultiTaskModel
from lobes.seeds import summarize_comparison
from lobes.study.config import METHODS, StudyConfig
from lobes.study.disk import plain
from lobes.study.measurements import Arrays, Measurements
from lobes.study.methods import Progress, SeedRun, Trained, forget, with_defaults
from lobes.study.probe import pooled_features, probe
from lobes.study.results import describe_environment, describe_model
from lobes.study.run import _scope, _settings, _task_fingerprint, load_tasks
from lobes.study.store import RunFolder
from lobes.tasks.task import Task

SCHEMA = {"schema": "lobes-comparison", "version": 1}
DEFINITIONS = ("column", "row", "relative")
StageProgress = Callable[[str, int, int], None]
# Compared by their D-scores before and after.
DISSOCIATED = ("multi", "iat")


@dataclass(frozen=True)
class Unit:
    """One measurement: its key, about how many steps of training it costs, and how it is made."""

    key: str
    weight: float
    compute: Callable[[Progress | None], Arrays]


def compare_study(
    study: StudyConfig, *, fresh: bool = False, progress: StageProgress | None = None
) -> dict[str, Any]:
    """Compare the study's methods over its seeds, in the folder `study.output`.

    Returns the content of `comparison.json`; `comparison.html` shows it. An interrupted comparison
    continues, `fresh` starts again. `progress(stage, done, total)` is called as things go. Raises
    `LobesError` of every kind; whatever can be refused is, before the first training.
    """
    study = with_defaults(study)
    assert study.compare is not None
    with RunFolder(study.output, study.to_dict(), command="compare", fresh=fresh) as folder:
        tasks = load_tasks(study, progress)
        checkpoints = folder.path / "checkpoints"
        runs = [SeedRun(study, seed, tasks, checkpoints) for seed in seeds_of(study)]
        model = checked_model(runs[0], study.compare.methods)
        fingerprints = {f"data of {task.name}": _task_fingerprint(task) for task in tasks}
        scope = _scope(model, tasks, runs[0].precision)
        described = described_model(study, model)
        del model
        folder.begin(fingerprints)
        folder.remove_checkpoints()
        measurements = folder.measurements(scope)
        records = [_measured(run, measurements, progress) for run in runs]
        folder.remove_checkpoints()
        comparison = _comparison(study, runs, records, described, measurements)
        folder.write_json("comparison.json", comparison)
        from lobes.report.comparison import read_comparison, render

        comparison = read_comparison(folder.path)
        with folder.writing("comparison.html") as file:
            file.write(render(comparison).encode())
        return comparison


def seeds_of(study: StudyConfig, number: int | None = None) -> list[int]:
    """The study's seed and those after it."""
    assert study.compare is not None
    return [study.seed + i for i in range(number or study.compare.seeds)]


def checked_model(run: SeedRun, methods: Sequence[str]) -> MultiTaskModel:
    """A new model, after it is known that it can be trained and measured in all these ways."""
    model = run.new_model()
    layout = find_heads(model)
    if set(DISSOCIATED) <= set(methods):
        check_lesions(_lesions(run), layout)
    iat = run.iat if "iat" in methods else None
    trainer = run.trainer(model, run.parts, iat=iat)
    assert iat is None or trainer.switch_step is not None  # computing it checks it
    return model


def described_model(study: StudyConfig, model: MultiTaskModel) -> dict[str, Any]:
    """The model's part of the results."""
    number = sum(parameter.numel() for parameter in model.parameters())
    return describe_model(study.model, model.pooling, number, find_heads(model))


def described_tasks(run: SeedRun) -> list[dict[str, Any]]:
    """The tasks' part of the results."""
    return [
        {
            **described_task(task),
            "n_train": len(part.train),  # type: ignore[arg-type]
            "n_held_out": len(part.validation),  # type: ignore[arg-type]
        }
        for task, part in zip(run.tasks, run.parts, strict=True)
    ]


def described_task(task: Task) -> dict[str, Any]:
    """One task's part of the results."""
    assert task.train is not None
    assert task.validation is not None
    return {
        "name": task.name,
        "metric": task.metric,
        "labels": task.labels,
        "n_train": len(task.train),
        "n_validation": len(task.validation),
        "chance": get_metric(task.metric).chance(task.validation.labels),
    }


# One seed


def _measured(
    run: SeedRun, measurements: Measurements, progress: StageProgress | None
) -> dict[str, Arrays]:
    """{method: its arrays}, from the stored measurements of one seed or from new ones.

    The arrays: "scores" and "held_out" [tasks], "steps", "seconds"; of IAT also "heads"; of both
    multi-task methods "d_scores" [fractions, definitions, tasks].
    """
    found: dict[str, Arrays] = {}
    units = list(_units(run))
    stage, total, done = f"seed {run.study.seed}", sum(unit.weight for unit in units), 0.0
    for unit in units:
        share = shared(progress, stage, done, unit.weight, total)
        if share is not None:
            share(0, 1)

        def compute(unit: Unit = unit, share: Progress | None = share) -> Arrays:
            try:
                return unit.compute(share)
            finally:
                forget()

        found[unit.key] = measurements.remember(unit.key, compute)
        done += unit.weight
        if share is not None:
            share(1, 1)
    return _by_method(run, found)


def shared(
    progress: StageProgress | None, stage: str, before: float, part: float, whole: float
) -> Progress | None:
    """A part's own progress as that of the whole, in thousandths."""
    if progress is None:
        return None
    return lambda done, total: progress(
        stage, round(1000 * (before + part * done / max(total, 1))), round(1000 * whole)
    )


def _units(run: SeedRun) -> Iterator[Unit]:
    """What is to be measured for one seed."""
    methods, seed = run.compare.methods, run.study.seed
    if "single" in methods:
        for number, task in enumerate(run.tasks):
            yield Unit(
                f"single-{task.name}-seed-{seed}",
                run.steps / len(run.tasks),
                lambda progress, number=number: _single(run, number, progress),  # type: ignore[misc]
            )
    if set(DISSOCIATED) <= set(methods):
        yield Unit(f"multi-iat-seed-{seed}", 1.5 * run.steps, lambda progress: _pair(run, progress))
    else:
        for method, train in (("multi", run.multi), ("iat", run.with_iat)):
            if method in methods:
                yield Unit(
                    f"{method}-seed-{seed}",
                    run.steps,
                    lambda progress, train=train: _record(run, train(progress), run.tasks),  # type: ignore[misc]
                )
    if "frozen" in methods:
        yield Unit(
            f"frozen-seed-{seed}",
            run.steps / 3,
            lambda progress: _record(run, run.frozen(progress), run.tasks),
        )
    if "probe" in methods:
        yield Unit(f"probe-seed-{seed}", run.steps / 10, lambda progress: _probe(run))


def _single(run: SeedRun, number: int, progress: Progress | None) -> Arrays:
    return _record(run, run.single(number, progress), run.tasks[number : number + 1])


def _pair(run: SeedRun, progress: Progress | None) -> Arrays:
    """Multi-task training and IAT, and the D-scores of both."""
    share = progress or (lambda done, total: None)
    trained = run.pair(lambda done, total: share(8 * done, 10 * total))
    arrays: Arrays = {}
    for number, (method, each) in enumerate(zip(DISSOCIATED, trained, strict=True)):
        share(8 + number, 10)
        scores, d_scores = _d_scores(run, each.model)
        record = {**_record(run, each, run.tasks, scores), "d_scores": d_scores}
        arrays |= {f"{method}-{name}": array for name, array in record.items()}
    return arrays


def _record(
    run: SeedRun, trained: Trained, tasks: Sequence[Task], scores: np.ndarray | None = None
) -> Arrays:
    record = {
        "scores": run.scores(trained.model, tasks) if scores is None else scores,
        "held_out": trained.held_out,
        "steps": np.array([trained.step]),
        "seconds": np.array([trained.seconds]),
    }
    if trained.iat is not None:
        record |= {
            "heads": heads_to_array([trained.iat["heads"][task.name] for task in tasks]),
            "importance_seconds": np.array([trained.iat["seconds"]]),
        }
    return record


def _probe(run: SeedRun) -> Arrays:
    """A linear probe of every task on the features of the encoder as it is."""
    start = time.perf_counter()
    model = run.new_model()
    features = {
        "train": pooled_features(model, run.parts, "train", run.precision),
        "held_out": pooled_features(model, run.parts, "validation", run.precision),
        "validation": pooled_features(model, run.tasks, "validation", run.precision),
    }
    found = []
    for task, part in zip(run.tasks, run.parts, strict=True):
        own = {name: each[task.name] for name, each in features.items()}
        assert task.validation is not None
        found.append(probe(part, own, task.validation.labels, run.compare.penalties))
    penalties, held_out, scores = zip(*found, strict=True)
    return {
        "scores": np.array(scores),
        "held_out": np.array(held_out),
        "penalties": np.array(penalties),
        "seconds": np.array([time.perf_counter() - start]),
    }


def _d_scores(run: SeedRun, model: MultiTaskModel) -> tuple[np.ndarray, np.ndarray]:
    """The scores [tasks], and the D-scores [fractions, definitions, tasks], of a trained model."""
    matrix = lesion_matrix(model, run.learnable, _lesions(run), precision=run.precision)
    found = []
    for fraction in matrix.fractions:
        d_scores = matrix.dissociation(fraction, resamples=1)
        found.append([getattr(d_scores, name).values for name in DEFINITIONS])
    return matrix.base, np.array(found)


def _lesions(run: SeedRun) -> IapSettings:
    """The study's lesions, of every task, without controls."""
    iap = run.study.iap.model_copy(update={"controls": 0, "lesion_tasks": None})
    return _settings(run.study.model_copy(update={"iap": iap}))


def heads_to_array(heads: Sequence[str]) -> np.ndarray:
    """[heads, 3]: the number of a task, and a site and head that it trains."""
    rows = [
        (task, *head) for task, each in enumerate(heads) for head in sorted(HeadSet.parse(each))
    ]
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def array_to_heads(array: np.ndarray, tasks: Sequence[Task]) -> dict[str, str]:
    """{task: "0:1,5 3:2"}, what `heads_to_array` was made of."""
    return {
        task.name: str(HeadSet((int(s), int(h)) for t, s, h in array if t == number))
        for number, task in enumerate(tasks)
    }


def _by_method(run: SeedRun, found: Mapping[str, Arrays]) -> dict[str, Arrays]:
    """The measurements of one seed in the order of the methods."""
    seed = run.study.seed
    by_method: dict[str, Arrays] = {}
    for method in run.compare.methods:
        if method == "single":
            each = [found[f"single-{task.name}-seed-{seed}"] for task in run.tasks]
            by_method[method] = {
                name: np.concatenate([one[name] for one in each]) for name in each[0]
            }
        elif f"{method}-seed-{seed}" in found:
            by_method[method] = found[f"{method}-seed-{seed}"]
        else:
            pair = found[f"multi-iat-seed-{seed}"]
            by_method[method] = {
                name.removeprefix(f"{method}-"): array
                for name, array in pair.items()
                if name.startswith(f"{method}-")
            }
    return by_method


# All seeds


def _comparison(
    study: StudyConfig,
    runs: Sequence[SeedRun],
    records: Sequence[Mapping[str, Arrays]],
    model: Mapping[str, Any],
    measurements: Measurements,
) -> dict[str, Any]:
    """Everything for `comparison.json`."""
    methods = [method for method in METHODS if method in records[0]]

    def each(name: str) -> dict[str, np.ndarray]:
        """{method: [seeds, …]}"""
        return {method: np.array([seed[method][name] for seed in records]) for method in methods}

    scores = each("scores")
    seconds = {method: values.sum(axis=1) for method, values in each("seconds").items()}
    d_scores = _d_score_entries(study, records)
    return {
        **SCHEMA,
        "name": study.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "lobes": __version__,
        "model": dict(model),
        "tasks": described_tasks(runs[0]),
        "seeds": [run.study.seed for run in runs],
        "methods": methods,
        "scores": scores,
        "held_out": each("held_out"),
        "selected": {
            method: None if method == "probe" else [_steps(seed[method]) for seed in records]
            for method in methods
        },
        "seconds": seconds,
        "iat": (
            iat_record(runs, [seed["iat"] for seed in records], model) if "iat" in methods else None
        ),
        "training": training_record(runs[0]),
        "d_scores": d_scores,
        "summary": summarize_comparison(scores, seconds, d_scores, study.iap.level),
        "level": study.iap.level,
        "config": study.to_dict(),
        "environment": describe_environment(runs[0].precision),
        "times": {"total": sum(measurements.seconds.values())},
    }


def _steps(record: Arrays) -> int | list[int]:
    """When a model's weights were selected; a list for several models."""
    steps = record["steps"].tolist()
    return steps if len(steps) > 1 else steps[0]


def iat_record(
    runs: Sequence[SeedRun], records: Sequence[Arrays], model: Mapping[str, Any]
) -> dict[str, Any]:
    """What IAT did, for each seed."""
    run = runs[0]
    assert run.study.iat is not None
    switch = run.iat.switch_step(run.steps)
    assert switch is not None  # `with_defaults` has refused an IAT without a phase
    return {
        "switch_step": switch,
        "steps": run.steps - switch,
        "n_heads": sum(site["n_heads"] for site in model["sites"]),
        "settings": run.study.iat.model_dump(mode="json"),
        "seconds": [float(record["importance_seconds"][0]) for record in records],
        "heads": [array_to_heads(record["heads"], run.tasks) for record in records],
    }


def training_record(run: SeedRun) -> dict[str, Any]:
    """The settings of the trainings, with what follows from them."""
    settings = run.study.training.model_dump(mode="json", exclude={"enabled", "save_every"})
    chosen = run.compare.model_dump(mode="json", exclude={"seeds", "methods"})
    return {**settings, **chosen, "steps": run.steps, "precision": run.precision}


def _d_score_entries(
    study: StudyConfig, records: Sequence[Mapping[str, Arrays]]
) -> list[dict[str, Any]]:
    """The D-scores of both multi-task methods, at every fraction and by every definition."""
    if not all("d_scores" in records[0].get(method, ()) for method in DISSOCIATED):
        return []
    return [
        {
            "fraction": fraction,
            "definition": definition,
            **{
                method: plain([seed[method]["d_scores"][i, j] for seed in records])
                for method in DISSOCIATED
            },
        }
        for i, fraction in enumerate(study.iap.fractions)
        for j, definition in enumerate(DEFINITIONS)
    ]
