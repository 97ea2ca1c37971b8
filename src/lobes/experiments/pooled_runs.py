"""Several runs of one study as one: other seeds, or other models, on the same tasks.

Everything comes from the runs' `results.json`, `predictions.parquet` and `importance.parquet`; no
model is loaded.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from lobes.dissociation import LesionMatrix
from lobes.dissociation.over_runs import (
    RunsDissociation,
    RunsDScore,
    RunsEstimate,
    RunsPair,
    change_over_runs,
    dissociation_over_runs,
    runs_over_fractions,
)
from lobes.dissociation.similarity import trends_over_runs
from lobes.dissociation.verdict import Verdict, less_alike, more_specialized
from lobes.errors import ConfigError, RunError
from lobes.experiments.manifest import check_files
from lobes.results import PooledResults, RunResults, read
from lobes.results.base import TaskRecord
from lobes.results.beside_lesions import Growth, Similarity, Trend
from lobes.results.of_matrix import opening, over_record
from lobes.results.pooled import (
    PooledDissociation,
    PooledDScore,
    PooledEstimate,
    PooledFraction,
    PooledGrowth,
    PooledMeasure,
    PooledPair,
    PooledRun,
    PooledSimilarity,
)
from lobes.results.tables import read_matrix


def pooled_results(
    runs: Sequence[Path], *, resamples: int | None = None, seed: int = 0
) -> PooledResults:
    """What several finished runs say together.

    The D-scores at every fraction that all runs have, with intervals over runs and examples and
    the verdict on each pair of tasks (`dissociation_over_runs`). `resamples` and the level of the
    intervals are the first run's. Raises `RunError` for a run that is not finished, and for runs
    that cannot be taken together.
    """
    if len({run.resolve() for run in runs}) < len(runs):
        raise RunError("A run is named twice: expected the folders of different runs.")
    for run in runs:
        if (run / PooledResults.FILE).is_file() and not (run / RunResults.FILE).exists():
            raise RunError(
                f"{run} holds several runs taken together, and is no run itself: name the single "
                f"runs only."
            )
    stored = [stored_run(run) for run in runs]
    results, matrices = zip(*stored, strict=True)
    first = results[0]
    of_method = {"taylor": ["aggregate"], "integrated_gradients": ["aggregate", "importance_steps"]}
    names = ["lesion", "value", "order", "method", "exact", "keep_per_site", "normalize"]
    for name in [*names, *of_method.get(str(first.iap.get("method")), ())]:
        kinds = sorted({str(each.iap.get(name)) for each in results})
        if len(kinds) > 1:
            raise RunError(
                f"The runs have lesions of several kinds (iap.{name} is {' and '.join(kinds)}): "
                f"expected runs of one."
            )
    number = resamples or first.resamples
    found = _over_runs(matrices, resamples=number, seed=seed, level=first.level)
    over = runs_over_fractions(found)
    growth = _growth(results, first.level)
    similarity = _similarity(results, matrices, number, seed)
    above_chance = sum(found[0].above_chance)
    further = []
    if growth is not None:
        further.append(_more_specialized(growth, above_chance))
    if similarity is not None:
        further.append(less_alike(similarity.evidence, len(first.tasks), runs=len(results)))
    return PooledResults(
        **opening(first.name),
        verdicts=(over.specialized, *further),
        growth=growth,
        similarity=similarity,
        unlike=tuple(_unlike(runs, results)),
        over_fractions=over_record(over),
        level=first.level,
        resamples=number,
        runs=tuple(_run(run, each) for run, each in zip(runs, results, strict=True)),
        lesioning=first.lesioning,
        tasks=tuple(
            TaskRecord(**{name: getattr(task, name) for name in TaskRecord.model_fields})
            for task in first.tasks
        ),
        base=np.array([matrix.base for matrix in matrices]),
        base_intervals=np.array([matrix.base_intervals(first.level) for matrix in matrices]),
        fractions=tuple(_fraction(each, matrices) for each in found),
    )


def stored_run(run: Path) -> tuple[RunResults, LesionMatrix]:
    """The results and the lesion matrix of a finished run, from its folder.

    Raises `RunError` where a file is missing or damaged.
    """
    check_files(run, "results.json", "predictions.parquet", "importance.parquet")
    results = read(run, RunResults)
    return results, read_matrix(run, results)


def _over_runs(
    matrices: Sequence[LesionMatrix], *, resamples: int, seed: int, level: float
) -> list[RunsDissociation]:
    """The D-scores at every fraction that all runs have, ascending."""
    shared = [
        fraction
        for fraction in matrices[0].fractions
        if all(any(math.isclose(fraction, f) for f in m.fractions) for m in matrices)
    ]
    if not shared:
        raise RunError("The runs have no fraction of lesioned heads in common.")
    if any(len(m.importance) < len(m.tasks) for m in matrices) or len(matrices[0].tasks) < 2:
        raise RunError(
            "D-scores over runs need two tasks or more and a lesion of each: expected runs without "
            "iap.lesion_tasks."
        )
    try:
        return [
            dissociation_over_runs(matrices, fraction, resamples=resamples, seed=seed, level=level)
            for fraction in shared
        ]
    except ConfigError as error:
        raise RunError(f"These runs cannot be taken together. {error}") from error


def _run(path: Path, results: RunResults) -> PooledRun:
    training, configured = results.training, results.config.get("seed")
    return PooledRun(
        name=path.name,
        model=results.model.name,
        seed=training.seed if training else configured if isinstance(configured, int) else None,
        steps=training.steps if training else None,
        iat_steps=training.iat.steps if training and training.iat else None,
        created=results.created,
        lobes=results.lobes,
    )


def _growth(results: Sequence[RunResults], level: float) -> PooledGrowth | None:
    """How the D-scores changed over the trainings; None where not all measured it alike."""
    found = [each.growth for each in results if each.growth is not None]
    if len(found) < len(results) or len({each.fraction for each in found}) > 1:
        return None
    ends = [[each.points[k].dissociation["column"].shared_mean for each in found] for k in (0, -1)]
    before, after = np.array(ends)
    intervals = np.array([each.change["column"].mean_interval for each in found])
    reach = stats.norm.ppf([(1 + each.level) / 2 for each in results])
    errors = (intervals[:, 1] - intervals[:, 0]) / 2 / reach
    return PooledGrowth(
        fraction=found[0].fraction,
        before=before,
        after=after,
        intervals=intervals,
        change=_estimate(change_over_runs(after - before, errors, level)),
        values=np.array([each.change["column"].values for each in found]),
    )


def _unlike(runs: Sequence[Path], results: Sequence[RunResults]) -> Iterator[str]:
    """What some runs measured in another way than others, in sentences."""
    parts: dict[str, Sequence[Growth | Similarity | None]] = {
        "Growth over the training": [each.growth for each in results],
        "The similarity of tasks": [each.similarity for each in results],
    }
    for part, found in parts.items():
        known = [each for each in found if each is not None]
        lacking = [run.name for run, each in zip(runs, found, strict=True) if each is None]
        fractions = sorted({each.fraction for each in known})
        if known and lacking:
            yield f"{part} is left out, for some runs have not measured it: {', '.join(lacking)}."
        elif len(fractions) > 1:
            shares = ", ".join(f"{fraction:.4g}" for fraction in fractions)
            yield f"{part} is left out, for the runs measured it at other fractions: {shares}."
    similar = [each.similarity for each in results if each.similarity is not None]
    names = [{measure.name for measure in each.measures} for each in similar]
    some = [name for name in sorted(set().union(*names)) if not all(name in own for own in names)]
    if some:
        yield f"Measures of similarity that not all runs have are left out: {', '.join(some)}."
    others = [
        first.name
        for first, *more in zip(*(each.tasks for each in results), strict=True)
        if any((first.labels, first.n_validation) != (m.labels, m.n_validation) for m in more)
    ]
    if others:  # other examples alone are no news: each seed may draw its own
        yield (
            f"Not all runs have the same labels, or as many validation examples, of "
            f"{', '.join(others)}: labels, chance and number of examples are shown as in the first "
            f"run."
        )


def _more_specialized(found: PooledGrowth, above_chance: int) -> Verdict:
    """The verdict on the second half of claim 1."""
    return more_specialized(
        found.change.mean,
        found.change.low,
        found.change.high,
        after=float(found.after.mean()),
        above_chance=above_chance,
        runs=len(found.changes),
    )


def _similarity(
    results: Sequence[RunResults], matrices: Sequence[LesionMatrix], resamples: int, seed: int
) -> PooledSimilarity | None:
    """How similarity goes with the D-scores of pairs; None where not all measured it alike."""
    found = [each.similarity for each in results if each.similarity is not None]
    if len(found) < len(results) or len({each.fraction for each in found}) > 1:
        return None
    tables = [{measure.name: measure for measure in each.measures} for each in found]
    names = [name for name in tables[0] if all(name in each for each in tables)]
    if not names:
        return None
    values = [{name: each[name].values for name in names} for each in tables]
    observed, correlations, trends = trends_over_runs(
        matrices,
        values,
        found[0].fraction,
        resamples=resamples,
        seed=seed,
        level=results[0].level,
    )
    return PooledSimilarity(
        fraction=found[0].fraction,
        pair_d_scores=np.mean(observed, axis=0),
        measures=tuple(
            PooledMeasure(
                name=trend.measure,
                values=np.mean([each[trend.measure] for each in values], axis=0),
                corrected=all(each[trend.measure].corrected for each in tables),
                correlations=correlations[trend.measure],
                trend=Trend(
                    correlation=trend.correlation,
                    interval=trend.interval,
                    p=trend.p,
                    p_holm=trend.p_holm,
                    note=trend.note,
                ),
            )
            for trend in trends
        ),
    )


def _fraction(found: RunsDissociation, matrices: Sequence[LesionMatrix]) -> PooledFraction:
    return PooledFraction(
        fraction=found.fraction,
        n_controls=len(found.column.control_means),
        n_pair_controls=min(pair.controls for pair in found.pairs),
        n_random=len(found.column.random_means),
        exchangeable=found.exchangeable,
        scores=np.array([matrix.scores(found.fraction) for matrix in matrices]),
        dissociation=PooledDissociation(
            row=_d_score(found.row),
            column=_d_score(found.column),
            relative=_d_score(found.relative),
        ),
        pairs=tuple(_pair(pair) for pair in found.pairs),
    )


def _d_score(score: RunsDScore) -> PooledDScore:
    return PooledDScore(
        values=score.values,
        means=score.means,
        tasks=tuple(_estimate(each) for each in score.tasks),
        mean=_estimate(score.mean),
        control_means=score.control_means,
        standardized=score.standardized,
        p_controls=score.p_controls,
        random_means=score.random_means,
        random_p=score.random_p,
    )


def _estimate(estimate: RunsEstimate) -> PooledEstimate:
    return PooledEstimate(
        mean=estimate.mean,
        low=estimate.low,
        high=estimate.high,
        p=estimate.p,
        over_runs=estimate.over_runs,
        over_examples=estimate.over_examples,
    )


def _pair(pair: RunsPair) -> PooledPair:
    first, second = pair.effects
    return PooledPair(
        first=pair.first,
        second=pair.second,
        effects=(_estimate(first), _estimate(second)),
        p_holm=pair.p_holm,
        p_controls=pair.p_controls,
        p_controls_holm=pair.p_controls_holm,
        double_dissociation=pair.is_double_dissociation,
    )
