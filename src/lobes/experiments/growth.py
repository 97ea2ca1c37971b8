"""Measure how specialization grows: the lesion matrix at several steps of a training.

At step 0 the classifiers know nothing yet, so that every score would be chance: there, each task
gets a linear probe in their place, a ridge regression on what the encoder makes of training
examples. That is the model before multi-task training, which claim 1 compares with the model
after it (docs/method.md#claims).
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from transformers import TrainerCallback

from lobes.config.study import StudyConfig
from lobes.dissociation import Dissociation, LesionMatrix
from lobes.dissociation.dscores import FORMULAS, DScoreName, mean_where, shared_tasks
from lobes.dissociation.similarity import importance_correlation
from lobes.dissociation.statistics import percentile_interval
from lobes.errors import RunError
from lobes.experiments.loading import Loaded, check_base, new_model
from lobes.experiments.probe import pooled_features, probe_targets, ridge
from lobes.experiments.store import RunFolder
from lobes.measure.iap import lesion_plan
from lobes.measure.steps import Plan, Step, changed, together
from lobes.modeling import MultiTaskModel
from lobes.modeling.saved_adapters import save_merged
from lobes.results.training import Training
from lobes.tasks.subsets import growing_order
from lobes.tasks.task import Task
from lobes.training.selection import evaluation_steps

# The probes of step 0: from so many examples, with so much ridge (features are standardized).
PROBE_EXAMPLES = 2_000
PENALTY = 0.1


def growth_steps(study: StudyConfig, total: int) -> list[int]:
    """Return the steps whose models are kept: evenly spaced, without step 0 and the last one."""
    if study.growth is None:
        return []
    return sorted(evaluation_steps(total, study.growth.checkpoints) - {0, total})


class KeepModels(TrainerCallback):
    """Keeps the model at some steps of a training, each in a folder of the run."""

    def __init__(self, folder: RunFolder, model: MultiTaskModel, study: StudyConfig) -> None:
        self.folder, self.model, self.study = folder, model, study

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep the model where this step is one of them."""
        step = state.global_step
        if step in growth_steps(self.study, state.max_steps) and state.is_world_process_zero:
            record = {"step": step, "of": state.max_steps}
            with self.folder.writing_model(record, _name(step)) as unfinished:
                save_merged(self.model, unfinished)


def growth_plan(
    loaded: Loaded, folder: RunFolder, last: LesionMatrix, training: Training
) -> Plan[dict[str, Any] | None]:
    """Return the part "growth" of the results; None where the study asks for none.

    `last` is the matrix of the loaded model, `training` what its training recorded. The model of a
    step on the way is needed only if something is measured there. Raises `RunError` where it is
    needed and not there.
    """
    study = loaded.study
    if study.growth is None:
        return None
    fraction = last.fractions[-1]
    steps = [0, *growth_steps(study, training.steps)]
    matrices = yield from together(*(_lesion_plan(loaded, folder, step) for step in steps))
    found = [_dissociation(study, matrix, fraction) for matrix in (*matrices, last)]
    shared = {
        name: shared_tasks(*(getattr(each, name).values for each in (found[0], found[-1])))
        for name in FORMULAS
    }
    points = [
        _point(study, matrix, last, scores, shared, step)
        for matrix, scores, step in zip(
            (*matrices, last), found, (*steps, training.steps), strict=True
        )
    ]
    return {
        "fraction": fraction,
        "points": points,
        "change": _change(study, (matrices[0], last), (found[0], found[-1])),
    }


def _lesion_plan(loaded: Loaded, folder: RunFolder, step: int) -> Plan[LesionMatrix]:
    """The lesion matrix of the largest fraction at a step of the training, without controls.

    Its measurements are kept by the step, within the scope of the trained model, whose training
    the step belongs to. The heads are those of the trained model at every step.
    """
    settings = loaded.study.iap.settings(loaded.study.seed)

    @cache
    def load() -> MultiTaskModel:
        return _model(loaded, folder, step).to(loaded.model.device)

    plan = lesion_plan(
        loaded.model,
        loaded.tasks,
        replace(settings.of_largest, controls=0, random=0),
        precision=loaded.precision,
        load=load,
    )

    def at_step(each: Step) -> Step:
        title = f"step {step}: {each.title}"
        return replace(each, stage="growth", title=title, scope=f"step {step}")

    return changed(plan, at_step)


def kept_models(folder: Path) -> list[str]:
    """Return the names of the models of steps on the way that a run's folder holds."""
    return sorted(path.name for path in folder.glob(f"{_KEPT}*"))


def remove_kept_models(folder: RunFolder) -> None:
    """Remove the models of the steps on the way: for when the results are written."""
    folder.remove_models(_KEPT)


_KEPT = "model-step-"


def _name(step: int) -> str:
    return f"{_KEPT}{step}"


def _model(loaded: Loaded, folder: RunFolder, step: int) -> MultiTaskModel:
    """The model as it was at a step."""
    study, tasks = loaded.study, loaded.tasks
    if step:
        if folder.model_record(_name(step)) is None:
            raise RunError(
                f"The model of step {step} is needed to measure growth, and {folder.path} holds "
                f"none or a damaged one: train again with --fresh, or choose another output."
            )
        return MultiTaskModel.from_pretrained(
            folder.path / _name(step), tasks, trust_remote_code=study.trust_remote_code
        )
    model = new_model(study, tasks)
    check_base(model, folder.fingerprints["base model"], study.model)
    some = [_fewer(task, study.seed) for task in tasks]
    features = pooled_features(model, some, "train", loaded.precision)
    for task in some:
        (solved,) = ridge(features[task.name], probe_targets(task), [PENALTY])
        classifier: Any = model.classifiers[task.name]
        with torch.no_grad():
            classifier.weight.copy_(torch.from_numpy(solved.weights.T))
            classifier.bias.copy_(torch.from_numpy(solved.bias))
    return model


def _fewer(task: Task, seed: int) -> Task:
    """The task with as many training examples as the probes take, and no others."""
    assert task.train is not None
    train = task.train
    if len(train) > PROBE_EXAMPLES:
        # every class is among them, so that this cannot fail after the training
        train = train.select(np.sort(growing_order(task, seed)[:PROBE_EXAMPLES]))
    return task.replace(train=train, validation=None)


def _dissociation(study: StudyConfig, matrix: LesionMatrix, fraction: float) -> Dissociation:
    return matrix.dissociation(
        fraction, resamples=study.iap.resamples, seed=study.iap_seed, level=study.iap.level
    )


def _drawn(
    study: StudyConfig, matrix: LesionMatrix, fraction: float
) -> tuple[np.ndarray, np.ndarray]:
    """Divisors and scores on resampled examples, the same examples for every matrix."""
    return matrix.drawn(fraction, study.iap.resamples, study.iap_seed, study.iap.level)


def _point(
    study: StudyConfig,
    matrix: LesionMatrix,
    last: LesionMatrix,
    found: Dissociation,
    shared: Mapping[DScoreName, np.ndarray],
    step: int,
) -> dict[str, Any]:
    """What is kept of one step.

    `shared` says by definition which tasks have a D-score at both ends: over the same tasks at
    every step, "shared_mean" is their mean and "shared_interval" its interval.
    """
    divisors, scores = _drawn(study, matrix, found.fraction)
    return {
        "step": step,
        "classifiers": "trained" if step else "probe",
        "base": matrix.base,
        "scores": matrix.scores(found.fraction),
        "dissociation": {
            name: {
                "values": score.values,
                "interval": score.interval,
                "mean": score.mean,
                "mean_interval": score.mean_interval,
                "shared_mean": float(mean_where(shared[name], score.values)),
                "shared_interval": percentile_interval(
                    mean_where(shared[name], formula(scores, divisors))[:, None],
                    study.iap.level,
                )[0],
                "note": score.note,
            }
            for name, formula in FORMULAS.items()
            for score in [getattr(found, name)]
        },
        "importance": [
            {"task": task, "values": scores.values} for task, scores in matrix.importance.items()
        ],
        "stability": [
            importance_correlation([scores, last.importance[task]])[0, 1]
            for task, scores in matrix.importance.items()
        ],
    }


def _change(
    study: StudyConfig,
    ends: tuple[LesionMatrix, LesionMatrix],
    observed: tuple[Dissociation, Dissociation],
) -> dict[str, Any]:
    """The D-scores at the end minus those at step 0, on the same resampled examples.

    Means are over the tasks with a D-score at both ends.
    """
    drawn_ends = [_drawn(study, matrix, observed[0].fraction) for matrix in ends]
    found: dict[str, Any] = {}
    for name, formula in FORMULAS.items():
        before, after = (getattr(each, name).values for each in observed)
        values: Float[np.ndarray, " tasks"] = after - before
        start, end = (formula(scores, divisors) for divisors, scores in drawn_ends)
        drawn = end - start
        defined = shared_tasks(before, after)
        found[name] = {
            "values": values,
            "interval": np.where(
                defined[:, None], percentile_interval(drawn, study.iap.level), np.nan
            ),
            "mean": float(mean_where(defined, values)),
            "mean_interval": percentile_interval(
                mean_where(defined, drawn)[:, None], study.iap.level
            )[0],
        }
    return found
