"""Compare several ways to train, each with the same seeds, data, budget and selection.

Every training of every seed is one step, computed once and kept. An interrupted comparison
continues with the next training, and seeds or methods can be added later. `methods.py` defines the
methods; `comparison.json` holds what the page and the tables show.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lobes.config.settings import METHODS, WEIGHTED
from lobes.config.study import StudyConfig
from lobes.dissociation.dscores import mean_where, shared_tasks, standardized
from lobes.experiments.loading import Loaded, load_tasks, measuring_device
from lobes.experiments.methods import SeedRun, freeing, with_defaults
from lobes.experiments.over_seeds import (
    PAIR,
    SeedStudy,
    concatenated,
    described_tasks,
    joined,
    part_of,
    seed_study,
    training_arrays,
)
from lobes.experiments.probe import pooled_features, probe
from lobes.experiments.results import lesioning_of
from lobes.experiments.seed_statistics import comparison_summary, comparison_verdicts
from lobes.experiments.store import RunFolder
from lobes.experiments.study_workers import begin, pool_of
from lobes.measure.iap import lesion_matrix
from lobes.measure.steps import Arrays, Plan, Step
from lobes.modeling import MultiTaskModel
from lobes.progress import Progress, StageProgress
from lobes.report.phrases import DEFINITIONS
from lobes.results import ComparisonResults
from lobes.results.over_seeds import DScores, ExchangedDScores, Selected, before_iat
from lobes.workers import WorkerSettings

NOT_SHOWN = {"enabled", "save_every", "report_to"}


def compare_study(
    study: StudyConfig,
    *,
    fresh: bool = False,
    progress: StageProgress | None = None,
    tell: Callable[[Loaded], None] | None = None,
    workers: WorkerSettings | None = None,
) -> ComparisonResults:
    """Compare the study's methods over its seeds, in the folder `study.output`.

    Returns the results; `comparison.html` shows them. An interrupted comparison continues, `fresh`
    starts again. `progress(stage, done, total)` is called as things go; `tell` is that of
    `run_study`. `workers` train and measure, with the same numbers. Raises `LobesError` of every
    kind; whatever can be refused is, before the first training.
    """
    study = with_defaults(study)
    with (
        RunFolder(study.output, study.to_dict(), command="compare", fresh=fresh) as folder,
        pool_of(workers, folder) as pool,
    ):
        precision = begin(pool, study, folder, measuring_device())
        over_seeds = _seeds(study, folder.path / "checkpoints", precision, progress)
        over_seeds.tell(tell, folder, progress)
        plans = [seed_plan(run) for run in over_seeds.runs]
        describe = partial(_comparison, over_seeds.runs[0])
        return over_seeds.finish(folder, plans, describe, progress, pool)


def compare_plans(
    study: StudyConfig, folder: RunFolder, checkpoints: Path
) -> tuple[str, list[Plan[dict[str, Arrays]]]]:
    """Return the scope and the plans of a comparison as a worker makes them."""
    over_seeds = _seeds(study, checkpoints, study.precision)
    return over_seeds.scope, [seed_plan(run) for run in over_seeds.runs]


def _seeds(
    study: StudyConfig, checkpoints: Path, precision: str, progress: StageProgress | None = None
) -> SeedStudy:
    assert study.compare is not None
    return seed_study(
        study,
        load_tasks(study, progress),
        checkpoints,
        seeds=study.compare.seeds,
        methods=study.compare.methods,
        precision=precision,
    )


# One seed


def seed_plan(run: SeedRun) -> Plan[dict[str, Arrays]]:
    """Return {method: its arrays} of one seed: every training is a step of its own.

    The arrays: those of `training_arrays`, "scores" [tasks]; of the multi-task methods, where
    both are compared, those of `_d_scores`. "tuned" has a training for each of its weights.
    """
    costs, seed = _costs(run), run.study.seed
    steps, before, whole = [], 0.0, sum(cost for cost, _ in costs.values())
    for name, (cost, compute) in costs.items():
        stage = "probes" if name == "probe" else "training"
        share = before, cost, whole
        key, title = f"{name}-seed-{seed}", f"seed {seed}"
        steps.append(Step(stage, key, title, freeing(compute), share=share))
        before += cost
    found = yield steps
    return _by_method(run, dict(zip(costs, found, strict=True)))


def _costs(run: SeedRun) -> dict[str, tuple[float, Callable[[Progress], Arrays]]]:
    """{step: what it costs, in steps of training, and how it is computed}."""
    methods = run.compare.methods
    costs: dict[str, tuple[float, Callable[[Progress], Arrays]]] = {}
    if "single" in methods:
        for number, task in enumerate(run.tasks):
            single = partial(_trained, run, "single", number=number)
            costs[f"single-{task.name}"] = run.steps / len(run.tasks), single
    pair = set(PAIR) <= set(methods)
    if pair:
        costs["multi-iat"] = 1.5 * run.steps, partial(_pair, run)
    for method in methods:
        trained = partial(_trained, run, method)
        if method == "tuned":
            for weights in run.grid:
                costs[_tuned(weights)] = run.steps, partial(trained, weights=weights)
        elif method in WEIGHTED or (method in PAIR and not pair):
            costs[method] = run.steps, trained
        elif method == "frozen":
            costs[method] = run.steps / 3, trained
        elif method == "probe":
            costs[method] = run.steps / 10, partial(_probed, run)
    return costs


def _tuned(weights: Sequence[float]) -> str:
    """The name of the training with these weights."""
    return "-".join(["tuned", *(f"{weight:.9g}" for weight in weights)])


def _trained(
    run: SeedRun,
    method: str,
    progress: Progress,
    *,
    number: int | None = None,
    weights: tuple[float, ...] | None = None,
) -> Arrays:
    """One model, of all tasks or of the one with this number, and its scores."""
    trained = run.train(method, progress, number=number, weights=weights)
    tasks = run.tasks if number is None else (run.tasks[number],)
    return {**training_arrays(trained), "scores": run.scores(trained.model, tasks)}


def _pair(run: SeedRun, progress: Progress) -> Arrays:
    """Multi-task training and IAT, and the D-scores of both."""
    trained = run.pair(lambda done, total: progress(8 * done, 10 * total))
    parts: dict[str, Arrays] = {}
    for number, (method, each) in enumerate(zip(PAIR, trained, strict=True)):
        progress(8 + number, 10)
        parts[method] = {**training_arrays(each), **_d_scores(run, each.model)}
    return joined(parts)


def _probed(run: SeedRun, progress: Progress) -> Arrays:
    """A linear probe of every task on the features of the encoder as it is."""
    model = run.new_model()
    features = {"validation": pooled_features(model, run.tasks, "validation", run.precision)}
    progress(1, 2)
    start = time.perf_counter()
    features["train"] = pooled_features(model, run.parts, "train", run.precision)
    features["held_out"] = pooled_features(model, run.parts, "validation", run.precision)
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


def _d_scores(run: SeedRun, model: MultiTaskModel) -> Arrays:
    """The scores and D-scores of a trained model.

    "scores" [tasks] and "d_scores" [fractions, definitions, tasks]; at the largest fraction, where
    the tasks' heads are exchanged, "exchanged" [replicates, tasks], their `column` D-scores, and
    "compared" [tasks], those of the tasks' own heads on the same examples.
    """
    kept: dict[str, Arrays] = {}  # the importance, for both

    def remember(key: str, compute: Callable[[], Arrays]) -> Arrays:
        if key not in kept:
            kept[key] = compute()
        return kept[key]

    measured = partial(
        lesion_matrix, model, run.learnable, precision=run.precision, remember=remember
    )
    matrix = measured(run.lesions)
    found = [matrix.dissociation(fraction, resamples=1) for fraction in matrix.fractions]
    values = [[getattr(each, name).values for name in DEFINITIONS] for each in found]
    arrays = {"scores": matrix.base, "d_scores": np.array(values)}
    if run.exchanges is not None:
        column = measured(run.exchanges).dissociation(resamples=1).column
        arrays |= {"exchanged": column.control_values, "compared": column.compared}
    return arrays


def _by_method(run: SeedRun, found: Mapping[str, Arrays]) -> dict[str, Arrays]:
    """The measurements of one seed in the order of the methods."""
    by_method: dict[str, Arrays] = {}
    for method in run.compare.methods:
        if method == "single":
            each = [found[f"single-{task.name}"] for task in run.tasks]
            by_method[method] = concatenated(each)
        elif method == "tuned":
            by_method[method] = _best([found[_tuned(weights)] for weights in run.grid])
        elif method in found:
            by_method[method] = found[method]
        else:
            by_method[method] = part_of(found["multi-iat"], method)
    return by_method


def _best(trained: Sequence[Arrays]) -> Arrays:
    """The training with the best mean over tasks on held-out data, the first of equals.

    Its seconds are those of all of them.
    """
    means = [float(each["held_out"].mean()) for each in trained]
    best = max(range(len(means)), key=lambda i: -math.inf if math.isnan(means[i]) else means[i])
    return {**trained[best], "seconds": np.sum([each["seconds"] for each in trained], axis=0)}


# All seeds


def _comparison(
    run: SeedRun, records: Sequence[Mapping[str, Arrays]], common: Mapping[str, Any]
) -> ComparisonResults:
    """Return everything for `comparison.json`; `run` is that of the first seed."""
    methods: list[str] = [method for method in METHODS if method in records[0]]

    def each(name: str) -> dict[str, np.ndarray]:
        """{method: [seeds, …]}"""
        return {method: np.array([seed[method][name] for seed in records]) for method in methods}

    scores = each("scores")
    seconds = {method: values.sum(axis=1) for method, values in each("seconds").items()}
    d_scores, exchanged = _d_score_entries(run.study, records), _exchanged(run, records)
    summary = comparison_summary(scores, seconds, d_scores, common["level"], exchanged)
    tasks = described_tasks(run)
    selected: dict[str, Selected | None] = {
        method: None if method == "probe" else tuple(_steps(seed[method]) for seed in records)
        for method in methods
    }
    early = before_iat(common["seeds"], selected, common["iat"])
    return ComparisonResults(
        **common,
        verdicts=comparison_verdicts(tasks, summary, len(records), len(early)),
        tasks=tasks,
        methods=tuple(methods),
        scores=scores,
        held_out=each("held_out"),
        selected=selected,
        seconds=seconds,
        weights={
            method: np.array([seed[method]["weights"] for seed in records])
            for method in methods
            if "weights" in records[0][method]
        },
        training=_training_record(run),
        lesioning=lesioning_of(run.study) if d_scores else None,
        d_scores=d_scores,
        exchanged=exchanged,
        summary=summary,
    )


def _exchanged(run: SeedRun, records: Sequence[Mapping[str, Arrays]]) -> ExchangedDScores | None:
    """How far the D-scores of both multi-task methods lie above those of exchanged heads."""
    pairs = [[seed[method] for method in PAIR] for seed in records if set(PAIR) <= set(seed)]
    if not pairs or not all("exchanged" in each for pair in pairs for each in pair):
        return None
    defined = shared_tasks(*(each["compared"] for pair in pairs for each in pair))
    found = [
        [
            standardized(
                mean_where(defined, each["compared"][None]),
                mean_where(defined, each["exchanged"])[:, None],
            )[0]
            for each in pair
        ]
        for pair in pairs
    ]
    multi, iat = np.array(found).T
    return ExchangedDScores(
        fraction=run.lesions.fractions[-1],
        n_controls=min(len(each["exchanged"]) for pair in pairs for each in pair),
        multi=multi,
        iat=iat,
    )


def _steps(record: Arrays) -> int | tuple[int, ...]:
    """When a model's weights were selected; several for several models."""
    steps = tuple(record["steps"].tolist())
    return steps if len(steps) > 1 else steps[0]


def _training_record(run: SeedRun) -> dict[str, Any]:
    """Return the settings of the trainings, with their length and precision."""
    settings = run.study.training.model_dump(mode="json", exclude=NOT_SHOWN)
    chosen = run.compare.model_dump(mode="json", exclude={"seeds", "methods"})
    return {**settings, **chosen, "steps": run.steps, "precision": run.precision}


def _d_score_entries(
    study: StudyConfig, records: Sequence[Mapping[str, Arrays]]
) -> tuple[DScores, ...]:
    """The D-scores of both multi-task methods, at every fraction and by every definition."""
    if not all("d_scores" in records[0].get(method, ()) for method in PAIR):
        return ()
    multi, iat = (np.array([seed[method]["d_scores"] for seed in records]) for method in PAIR)
    return tuple(
        DScores(fraction=fraction, definition=definition, multi=multi[:, i, j], iat=iat[:, i, j])
        for i, fraction in enumerate(study.iap.fractions)
        for j, definition in enumerate(DEFINITIONS)
    )
