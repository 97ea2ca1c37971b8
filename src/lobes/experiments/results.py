"""From what a study measured to the types of `lobes.results`, the statistics included."""

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np

from lobes import __version__
from lobes.config.study import StudyConfig
from lobes.dissociation import LesionMatrix, PairVerdict, over_fractions
from lobes.dissociation import dscores as library
from lobes.dissociation.pairs import PairEffects
from lobes.dissociation.verdict import Verdict, less_alike, more_specialized, undecided
from lobes.heads import HeadLayout, HeadScores
from lobes.measure.evaluation import examples_of
from lobes.metrics import get_metric
from lobes.results.base import Lesioning, ModelRecord, Site
from lobes.results.beside_lesions import Agreement, Growth, Similarity
from lobes.results.run import (
    Controls,
    Dissociation,
    DScore,
    Fraction,
    Importance,
    MeasuredTask,
    OverFractions,
    Pair,
    RunResults,
)
from lobes.results.training import Training
from lobes.tasks.task import Task

STAGES = ("training", "importance", "evaluation", "agreement", "similarity", "growth")


def study_results(
    study: StudyConfig,
    tasks: Sequence[Task],
    matrix: LesionMatrix,
    *,
    model: ModelRecord,
    training: Training | None,
    agreement: Sequence[Mapping[str, Any]] | None,
    similarity: Mapping[str, Any] | None,
    growth: Mapping[str, Any] | None,
    seconds: Mapping[str, float],
    importance_seconds: Mapping[str, float],
    environment: Mapping[str, Any],
) -> RunResults:
    """Everything for `results.json`, the statistics included.

    `training` is what the training recorded (None for a model that was trained elsewhere),
    `agreement`, `similarity` and `growth` what `agreement.py` and `growth.py` measured. `seconds`
    are how long each stage took, `importance_seconds` the importance of each task.
    """
    times = {stage: seconds.get(stage, 0.0) for stage in STAGES}
    dissociations = {
        fraction: _dissociation(study, matrix, fraction) for fraction in matrix.fractions
    }
    alike = None if similarity is None else Similarity.model_validate(similarity)
    grown = None if growth is None else Growth.model_validate(growth)
    over = _over_fractions([*dissociations.values()])
    return RunResults(
        **opening(study.name),
        verdicts=(_specialized(matrix, over), *further_verdicts(grown, alike, len(tasks))),
        model=model,
        tasks=_tasks(tasks, matrix, study.iap.level),
        training=training,
        importance=tuple(
            _importance(task, matrix.importance[task.name], importance_seconds[task.name])
            for task in tasks
            if task.name in matrix.importance
        ),
        fractions=tuple(
            _fraction(study, matrix, fraction, found) for fraction, found in dissociations.items()
        ),
        over_fractions=None if over is None else over_record(over),
        controls=_controls(study, matrix),
        agreement=None
        if agreement is None
        else tuple(Agreement.model_validate(each) for each in agreement),
        similarity=alike,
        growth=grown,
        iap={**study.to_dict()["iap"], "seed": study.iap_seed},
        level=study.iap.level,
        resamples=study.iap.resamples,
        environment=dict(environment),
        times={**times, "total": sum(times.values())},
        config=study.to_dict(),
    )


def lesioning_of(study: StudyConfig) -> Lesioning:
    """What the lesions of a study do to heads."""
    return Lesioning(lesion=study.iap.lesion, value=study.iap.value)  # type: ignore[arg-type]


def over_record(found: over_fractions.OverFractions) -> OverFractions:
    """The test over all fractions, as results hold it."""
    return OverFractions(
        standardized=np.array(found.standardized), p=found.p, strongest=found.strongest
    )


def opening(name: str) -> dict[str, Any]:
    """The study's name, the time and the version: where results come from."""
    return {
        "name": name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "lobes": __version__,
    }


def describe_model(
    name: str, pooling: str | None, n_parameters: int, layout: HeadLayout
) -> ModelRecord:
    """The model's part of the results; of a folder only its own name is kept."""
    return ModelRecord(
        name=os.path.basename(name) if Path(name).is_absolute() else name,
        pooling=pooling,
        n_parameters=n_parameters,
        sites=tuple(
            Site(
                index=site.index,
                name=site.name,
                n_heads=site.n_heads,
                head_dim=site.head_dim,
                kind=site.kind,
            )
            for site in layout.sites
        ),
    )


def describe_environment(precision: str) -> dict[str, Any]:
    """Versions and machine; `precision` is the one that was used, never "auto"."""
    import torch
    import transformers

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "precision": precision,
    }


def _cpu() -> str:
    """The processor's own name where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except (OSError, UnicodeDecodeError):
        pass
    return platform.processor() or platform.machine()


def _tasks(tasks: Sequence[Task], matrix: LesionMatrix, level: float) -> tuple[MeasuredTask, ...]:
    bases = zip(tasks, matrix.base, matrix.base_intervals(level), strict=True)
    return tuple(
        MeasuredTask(
            name=task.name,
            metric=task.metric,
            labels=None if task.labels is None else tuple(task.labels),
            multi_label=task.is_multi_label,
            n_train=len(task.train) if task.train is not None else 0,
            n_validation=len(matrix.labels[task.name]),
            chance=get_metric(task.metric).chance(matrix.labels[task.name]),
            base=base,
            base_interval=tuple(interval),
        )
        for task, base, interval in bases
    )


def _importance(task: Task, scores: HeadScores, seconds: float) -> Importance:
    settings = cast(dict[str, Any], scores.settings)
    return Importance(
        task=task.name,
        method=settings["method"],
        aggregate=settings["aggregate"],
        normalize=settings["normalize"],
        n_examples=settings["examples"],
        n_available=len(examples_of(task, settings["split"])),
        reliability=scores.reliability,
        n_tokens=settings["tokens"],
        seconds=seconds,
        values=scores.values,
    )


def _dissociation(
    study: StudyConfig, matrix: LesionMatrix, fraction: float
) -> library.Dissociation | None:
    """The D-scores at a fraction; None unless there are two tasks, and a lesion of each."""
    lesioned = [x for x in matrix.lesions if x.kind == "task" and x.fraction == fraction]
    if len(matrix.tasks) < 2 or len(lesioned) < len(matrix.tasks):
        return None
    return matrix.dissociation(
        fraction, resamples=study.iap.resamples, seed=study.iap_seed, level=study.iap.level
    )


def further_verdicts(
    growth: Growth | None, similarity: Similarity | None, n_tasks: int
) -> list[Verdict]:
    """The verdicts on the claims beside the first, as far as they were measured."""
    found = []
    if growth is not None:
        change = growth.change["column"]
        found.append(more_specialized(change.mean, *change.mean_interval))
    if similarity is not None:
        found.append(less_alike(similarity.evidence, n_tasks))
    return found


def _over_fractions(
    found: Sequence[library.Dissociation | None],
) -> over_fractions.OverFractions | None:
    """The test of claim 1, over all fractions with D-scores."""
    known = [each for each in found if each is not None]
    return over_fractions.over_fractions(known) if len(known) == len(found) > 0 else None


def _specialized(matrix: LesionMatrix, found: over_fractions.OverFractions | None) -> Verdict:
    """The verdict on claim 1."""
    if len(matrix.tasks) < 2:
        return undecided("a dissociation needs at least two tasks, here is one.")
    return found.specialized if found else undecided("no lesions of every task were measured.")


def _fraction(
    study: StudyConfig,
    matrix: LesionMatrix,
    fraction: float,
    found: library.Dissociation | None,
) -> Fraction:
    lesions = {
        lesion.task: lesion.heads
        for lesion in matrix.lesions
        if lesion.kind == "task" and lesion.task is not None and lesion.fraction == fraction
    }
    controls, random = matrix.control_scores(fraction), matrix.random_scores(fraction)
    return Fraction(
        fraction=fraction,
        n_heads=max(len(heads) for heads in lesions.values()),
        lesions=lesions,
        n_controls=len(controls),
        n_pair_controls=min((pair.controls for pair in (found.pairs if found else ())), default=0),
        exchangeable=0 if found is None else found.exchangeable,
        n_random=len(random),
        matched=study.iap.matched,
        scores=matrix.scores(fraction),
        control_scores=controls,
        random_scores=random,
        dissociation=None
        if found is None
        else Dissociation(
            row=_d_score(found.row),
            column=_d_score(found.column),
            relative=_d_score(found.relative),
        ),
        pairs=()
        if found is None
        else tuple(
            _pair(pair, effects, matrix, study.iap.level)
            for pair, effects in zip(found.pairs, matrix.pair_effects(fraction), strict=True)
        ),
    )


def _pair(pair: PairVerdict, effects: PairEffects, matrix: LesionMatrix, level: float) -> Pair:
    bases = dict(zip(matrix.tasks, matrix.divisors(level), strict=True))
    first, second = (
        100 * effect / bases[task]
        for effect, task in zip(pair.effects, (pair.first, pair.second), strict=True)
    )
    return Pair(
        first=pair.first,
        second=pair.second,
        effects=pair.effects,
        effect_intervals=pair.intervals,
        relative_effects=(first, second),
        p_values=pair.p_values,
        p_holm=pair.p_holm,
        p_controls=pair.p_controls,
        p_controls_holm=pair.p_controls_holm,
        compared_effects=tuple(effects.observed),
        control_effects=effects.replicates,
        double_dissociation=pair.is_double_dissociation,
    )


def _controls(study: StudyConfig, matrix: LesionMatrix) -> Controls:
    """How other lesions were measured: how many exchanges at most, and on how many examples."""
    measured = len(matrix.control_scores()) if matrix.fractions else 0
    sample = matrix.sampled
    sizes = bases = None
    if sample is not None:
        sizes = {task: len(places) for task, places in sample.examples.items()}
        bases = dict(zip(matrix.tasks, sample.matrix.base.tolist(), strict=True))
    return Controls(
        most=study.iap.controls,
        stopped=bool(study.iap.stop_error) and 0 < measured < study.iap.controls,
        error=study.iap.stop_error or float("nan"),
        sample=sizes,
        base=bases,
    )


def _d_score(score: library.DScore) -> DScore:
    return DScore(
        values=score.values,
        mean=score.mean,
        interval=score.interval,
        mean_interval=score.mean_interval,
        control_values=score.control_values,
        control_means=score.control_means,
        p_values=score.p_values,
        mean_p=score.mean_p,
        standardized=score.standardized,
        mean_standardized=score.mean_standardized,
        compared=score.compared,
        compared_mean=score.compared_mean,
        random_values=score.random_values,
        random_means=score.random_means,
        random_p=score.random_p,
        random_standardized=score.random_standardized,
        note=score.note,
    )
