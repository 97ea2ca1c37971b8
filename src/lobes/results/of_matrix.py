"""From a lesion matrix to the types of `lobes.results`, the statistics included."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import numpy as np

from lobes import __version__
from lobes.dissociation import LesionMatrix, PairVerdict, over_fractions
from lobes.dissociation import dscores as library
from lobes.dissociation.pairs import PairEffects
from lobes.dissociation.verdict import Verdict, undecided
from lobes.heads import HeadLayout
from lobes.metrics import get_metric
from lobes.results.base import ModelRecord, Site
from lobes.results.fractions import Dissociation, DScore, Fraction, OverFractions, Pair
from lobes.results.run import Controls, Importance, MeasuredTask, RunResults
from lobes.scores import HeadScores

# What is taken where a matrix does not say how it was measured.
_PLAIN = {"lesion": "remove", "value": "zero", "matched": "site", "seed": 0}


def matrix_results(
    matrix: LesionMatrix, name: str = "", *, level: float = 0.95, resamples: int = 1000
) -> RunResults:
    """What a matrix says by itself, as the results of a run: without a study, training and times.

    Classes are called by their numbers. Of a matrix without a layout the sites are those of its
    importance, or of its lesions.
    """
    counted = len(matrix.control_scores()) if matrix.fractions else 0
    plain = {**_PLAIN, "controls": counted, "lesion": "keep" if matrix.keep else "remove"}
    iap = {**plain, **matrix.settings, "level": level, "resamples": resamples}
    return RunResults(
        **opening(name),
        **of_matrix(matrix, iap),
        model=ModelRecord(name="", pooling=None, n_parameters=0, sites=_sites(matrix)),
        tasks=_tasks(matrix, level),
        training=None,
        importance=tuple(
            importance_record(task, scores) for task, scores in matrix.importance.items()
        ),
        agreement=None,
        similarity=None,
        growth=None,
        iap=iap,
        environment={},
        times={},
        config={},
    )


def of_matrix(
    matrix: LesionMatrix, iap: Mapping[str, Any], further: Sequence[Verdict] = ()
) -> dict[str, Any]:
    """The fields of `RunResults` that a lesion matrix decides.

    `iap` are the settings of lesions and statistics, and `further` the verdicts on other claims.
    """
    found = {fraction: _dissociation(matrix, fraction, iap) for fraction in matrix.fractions}
    over = _over_fractions([*found.values()], matrix.look)
    return {
        "verdicts": (_specialized(matrix, over), *further),
        "fractions": tuple(_fraction(matrix, *each, iap) for each in found.items()),
        "over_fractions": None if over is None else over_record(over),
        "controls": _controls(matrix, iap),
        "level": iap["level"],
        "resamples": iap["resamples"],
    }


def importance_record(
    task: str, scores: HeadScores, *, n_available: int | None = None, seconds: float = 0.0
) -> Importance:
    """The importance of every head for a task; `n_available` examples were there to choose from."""
    settings = cast(dict[str, Any], scores.settings)
    return Importance(
        task=task,
        method=settings.get("method", "given"),
        aggregate=settings.get("aggregate"),
        normalize=settings.get("normalize"),
        n_examples=settings.get("examples"),
        n_available=n_available,
        reliability=scores.reliability,
        n_tokens=settings.get("tokens"),
        seconds=seconds,
        values=scores.values,
    )


def site_records(layout: HeadLayout) -> tuple[Site, ...]:
    """The sites of a model."""
    return tuple(
        Site(
            index=site.index,
            name=site.name,
            n_heads=site.n_heads,
            head_dim=site.head_dim,
            kind=site.kind,
        )
        for site in layout
    )


def _sites(matrix: LesionMatrix) -> tuple[Site, ...]:
    if matrix.layout is not None:
        return site_records(matrix.layout)
    for scores in matrix.importance.values():
        numbers = np.count_nonzero(~np.isnan(scores.values), axis=1).tolist()
        break
    else:
        every = [head for lesion in matrix.lesions for head in lesion.heads] or [(0, 0)]
        n_sites, n_heads = (1 + max(places) for places in zip(*every, strict=True))
        numbers = [n_heads] * n_sites
    return tuple(
        Site(index=index, name=str(index), n_heads=number, head_dim=None, kind="self")
        for index, number in enumerate(numbers)
    )


def _tasks(matrix: LesionMatrix, level: float) -> tuple[MeasuredTask, ...]:
    rows = zip(
        matrix.tasks,
        matrix.metrics,
        matrix.chance,
        matrix.base,
        matrix.base_intervals(level),
        matrix.spreads,
        strict=True,
    )
    return tuple(
        MeasuredTask(
            name=task,
            metric=metric,
            metric_range=get_metric(metric).own_range,
            labels=_classes(matrix, task, metric),
            multi_label=matrix.labels[task].ndim == 2,
            n_validation=len(matrix.labels[task]),
            chance=chance,
            base=base,
            base_interval=tuple(interval),
            spread=spread,
        )
        for task, metric, chance, base, interval, spread in rows
    )


def _classes(matrix: LesionMatrix, task: str, metric: str) -> tuple[str, ...] | None:
    """The classes of a task by their numbers; None for a regression."""
    labels = matrix.labels[task]
    if get_metric(metric).for_regression:
        return None
    number = labels.shape[1] if labels.ndim == 2 else 1 + int(labels.max())
    return tuple(map(str, range(number)))


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


def _dissociation(
    matrix: LesionMatrix, fraction: float, iap: Mapping[str, Any]
) -> library.Dissociation | None:
    """The D-scores at a fraction; None unless there are two tasks, and a lesion of each."""
    lesioned = [x for x in matrix.lesions if x.kind == "task" and x.fraction == fraction]
    if len(matrix.tasks) < 2 or len(lesioned) < len(matrix.tasks):
        return None
    return matrix.dissociation(
        fraction, resamples=iap["resamples"], seed=iap["seed"], level=iap["level"]
    )


def _over_fractions(
    found: Sequence[library.Dissociation | None], look: int | None
) -> over_fractions.OverFractions | None:
    """The test of claim 1, over all fractions with D-scores."""
    known = [each for each in found if each is not None]
    return over_fractions.over_fractions(known, look) if len(known) == len(found) > 0 else None


def _specialized(matrix: LesionMatrix, found: over_fractions.OverFractions | None) -> Verdict:
    """The verdict on claim 1."""
    if len(matrix.tasks) < 2:
        return undecided("a dissociation needs at least two tasks, here is one.")
    return found.specialized if found else undecided("no lesions of every task were measured.")


def _fraction(
    matrix: LesionMatrix,
    fraction: float,
    found: library.Dissociation | None,
    iap: Mapping[str, Any],
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
        matched=iap["matched"],
        scores=matrix.scores(fraction),
        score_intervals=matrix.score_intervals(fraction, iap["level"]),
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
            _pair(pair, effects, matrix, iap["level"])
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


def _controls(matrix: LesionMatrix, iap: Mapping[str, Any]) -> Controls:
    """How other lesions were measured: how many exchanges at most, and on how many examples."""
    measured = len(matrix.control_scores()) if matrix.fractions else 0
    sample = matrix.sampled
    sizes = bases = None
    if sample is not None:
        sizes = {task: len(places) for task, places in sample.examples.items()}
        bases = dict(zip(matrix.tasks, sample.matrix.base.tolist(), strict=True))
    return Controls(
        most=iap["controls"],
        look=matrix.look,
        stopped=matrix.look is not None and 0 < measured < iap["controls"],
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
