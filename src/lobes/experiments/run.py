"""Run the stages of a study, each once: train, measure, report.

`run_study` goes through them in a run's folder and skips what is there already, so the same call
after an interruption continues, and ends with the same numbers.
"""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lobes.config.study import StudyConfig
from lobes.discovery import find_heads
from lobes.dissociation import LesionMatrix
from lobes.errors import ConfigError, ModelError, RunError
from lobes.experiments.agreement import agreement_plan, similarity_plan
from lobes.experiments.growth import KeepModels, growth_plan, kept_models, remove_kept_models
from lobes.experiments.loading import (
    ESTIMATING,
    Loaded,
    base_fingerprint,
    check_inputs,
    fingerprints_of,
    load_tasks,
    measuring_device,
    model_fingerprint,
    new_model,
    scope_of,
    several_gpus,
)
from lobes.experiments.open_model import check_model
from lobes.experiments.results import (
    describe_environment,
    describe_model,
    study_results,
)
from lobes.experiments.store import SECONDS, RunFolder
from lobes.experiments.study_workers import TRAINING, begin, pool_of
from lobes.experiments.training import losses_of, train, warn_near_chance
from lobes.measure.iap import check_lesions, lesion_plan
from lobes.measure.steps import Plan, together
from lobes.modeling import HarnessModel, PromptedModel, TaskModel, load_task_model
from lobes.modeling.precision import resolve_precision
from lobes.progress import Progress, StageProgress
from lobes.report.page import html
from lobes.report.run.page import page_of
from lobes.results import RunResults, as_bytes, read
from lobes.results.tables import write_importance, write_predictions, write_texts
from lobes.results.training import Training
from lobes.tasks.prompts import Prompt
from lobes.tasks.task import Task
from lobes.workers import Job, Pool, WorkerSettings

STAGES = ("train", "iap", "report")


def run_study(
    study: StudyConfig,
    *,
    stages: Sequence[str] = STAGES,
    fresh: bool = False,
    progress: StageProgress | None = None,
    tell: Callable[[Loaded], None] | None = None,
    workers: WorkerSettings | None = None,
) -> RunResults | Training:
    """Go through the stages of a study that are not done yet, in the folder `study.output`.

    Returns the results, or with `stages=("train",)` what the training recorded.
    `fresh` starts again where the folder holds a run. `progress(stage, done, total)` is called
    as things go; `tell` is called with the study, its data and its model before a run begins, and
    leaves them as they are. `workers` measure, and those of a cluster train, with the same numbers.
    Raises `LobesError` of every kind; what was measured by then is kept.
    """
    if stages == ("train",) and not study.training.enabled:
        raise ConfigError(
            "training.enabled is false, so there is nothing to train; expected true, or `lobes "
            "iap` for a model that was trained elsewhere."
        )
    with (
        RunFolder(study.output, study.to_dict(), fresh=fresh) as folder,
        pool_of(workers, folder) as pool,
    ):
        tasks = load_tasks(study, progress)
        fingerprints = fingerprints_of(tasks)
        model, training = _trained_model(
            study, folder, tasks, fingerprints, stages, progress, tell, pool
        )
        if training is not None and "iap" not in stages:
            return training
        results = _finished(study, folder)
        if results is None:
            model = model or load_task_model(
                folder.path / "model", tasks, trust_remote_code=study.trust_remote_code
            )
            results = _measure(study, folder, model, tasks, training, progress, pool)
        remove_kept_models(folder)
        if not study.keep_texts:
            folder.remove("texts.parquet")
        if "report" in stages:
            folder.write("report.html", html(page_of(results, folder.path)).encode())
        folder.check()
        return results


def _trained_model(
    study: StudyConfig,
    folder: RunFolder,
    tasks: list[Task],
    fingerprints: dict[str, str],
    stages: Sequence[str],
    progress: StageProgress | None,
    tell: Callable[[Loaded], None] | None,
    pool: Pool | None,
) -> tuple[TaskModel | None, Training | None]:
    """The model to measure, or None for the one in the run's folder; what its training recorded.

    Nothing is written before it is known that the model can be loaded, trained and measured.
    """
    if not study.training.enabled:
        model = given_model(study, tasks)
        check_lesions(study.iap.settings(study.seed), find_heads(model), tasks)
        check_inputs(model, tasks)
        if folder.fresh and folder.path.resolve() in Path(study.model).resolve().parents:
            raise RunError(
                f"--fresh would delete the model to be measured, {study.model}, with the run in "
                f"{folder.path}; choose another output."
            )
        _tell(tell, study, folder, tasks, model, progress)
        folder.begin({**fingerprints, "model": model_fingerprint(model)})
        return model, None
    record = None if folder.fresh else folder.model_record()
    if record is None:
        if "train" not in stages:
            if folder.fresh and folder.model_record() is not None:
                raise RunError(
                    f"--fresh would delete the trained model in {folder.path}, which is to be "
                    f"measured: leave it out, train anew with `lobes run --fresh`, or measure the "
                    f"model in another output with --model {folder.path / 'model'}."
                )
            raise RunError(
                f"There is no trained model in {folder.path} yet: run `lobes train` or `lobes "
                f"run` with this study first, or name a model with --model."
            )
        new = new_model(study, tasks)
        # before hours are spent on the training
        check_lesions(study.iap.settings(study.seed), find_heads(new), tasks)
        check_inputs(new, tasks)
        losses_of(study, tasks)
        _tell(tell, study, folder, tasks, new, progress)
        folder.begin({**fingerprints, "base model": base_fingerprint(new)})
        _adopt_training(folder)
        if pool is None or not pool.is_remote:
            training = train(study, folder, new, tasks, progress, [KeepModels(folder, new, study)])
        else:
            training = _train_on(pool, study, folder, tasks, progress)
        warn_near_chance(tasks, training.scores[-1].scores, "After the training")
        return None, training
    if folder.is_of_moved_model:
        fingerprints["base model"] = base_fingerprint(new_model(study, tasks))
    elif study.growth is not None and _finished(study, folder) is None:
        # which measures the base model, too; where it is gone, it may have been measured already
        with contextlib.suppress(ModelError):
            fingerprints["base model"] = base_fingerprint(new_model(study, tasks))
    folder.begin(fingerprints)
    _adopt_training(folder)
    folder.remove_checkpoints()  # still there where the run was killed right after the training
    return None, Training.model_validate(record)


def _train_on(
    pool: Pool,
    study: StudyConfig,
    folder: RunFolder,
    tasks: Sequence[Task],
    progress: StageProgress | None,
) -> Training:
    """Train on a worker, which writes checkpoints and models into the run's folder."""
    begin(pool, study, folder, measuring_device())
    folder.expect_model()
    if progress is not None:
        pool.progress = lambda _, done, total: progress("training", done, total)
    pool.submit([Job(TRAINING, "the training")])
    finished = pool.next()
    _adopt_training(folder)
    if finished.error is not None:
        raise finished.error
    folder.remove_checkpoints()
    return Training.model_validate(folder.model_record())


def _adopt_training(folder: RunFolder) -> None:
    """Record what a worker's training wrote, be it that of another driver that was killed."""
    if folder.expects_model:
        for name in ("model", *kept_models(folder.path), SECONDS):
            folder.adopt(name)


def train_alone(study: StudyConfig, folder: RunFolder, progress: Progress) -> None:
    """Train a study's model as a worker does, into the folder."""
    tasks = load_tasks(study)
    model = new_model(study, tasks)
    keep = KeepModels(folder, model, study)
    train(study, folder, model, tasks, lambda _, done, total: progress(done, total), [keep])


def run_plans(
    study: StudyConfig, folder: RunFolder, _: Path
) -> tuple[str, list[Plan[tuple[LesionMatrix, dict[str, Any]]]]]:
    """Return the scope and the plan of a study as a worker makes them from the folder."""
    tasks = load_tasks(study)
    training = None
    if study.training.enabled:
        training = Training.model_validate(folder.model_record())
        model = load_task_model(
            folder.path / "model", tasks, trust_remote_code=study.trust_remote_code
        )
    else:
        model = given_model(study, tasks, "auto" if several_gpus() else None)
    if not (isinstance(model, HarnessModel | PromptedModel) and several_gpus()):
        model = model.to(measuring_device())
    loaded = Loaded(study, tasks, model, study.precision)
    scope = scope_of(model, tasks, loaded.precision)
    return scope, [_study_plan(loaded, folder, training)]


def _tell(
    tell: Callable[[Loaded], None] | None,
    study: StudyConfig,
    folder: RunFolder,
    tasks: list[Task],
    model: TaskModel,
    progress: StageProgress | None,
) -> None:
    """Tell of a study that begins; one that goes on says how much is left as it goes."""
    if tell is None or folder.goes_on:
        return
    model.to(measuring_device())
    if progress:
        progress(ESTIMATING, 0, 1)
    tell(Loaded(study, tasks, model, resolve_precision(study.precision, model.device)))
    if progress:
        progress(ESTIMATING, 1, 1)


def given_model(
    study: StudyConfig, tasks: Sequence[Task], device_map: str | None = None
) -> TaskModel:
    """Return the study's model as it is: trained elsewhere, or a language model.

    `device_map` says where the parts of a language model go.
    """
    check_model(Path(study.model))
    prompts = {
        task.name: Prompt(task.prompt, task.words or ())
        for task in study.tasks
        if task.prompt is not None
    }
    how: dict[str, Any] = {
        "max_length": study.max_length,
        "trust_remote_code": study.trust_remote_code,
    }
    of_harness = any(task.lm_eval is not None for task in study.tasks)
    if not prompts and not of_harness:
        return load_task_model(study.model, tasks, pooling=study.pooling, **how)
    if study.pooling != "auto":
        raise ConfigError(
            f"pooling is {study.pooling!r}, but these tasks are answered by a language model, "
            f"which pools nothing; leave pooling out."
        )
    how["device_map"] = device_map
    if of_harness:
        return HarnessModel.from_pretrained(study.model, tasks, **how)
    return PromptedModel.from_pretrained(study.model, tasks, prompts, **how)


def _finished(study: StudyConfig, folder: RunFolder) -> RunResults | None:
    """The results of a run that has measured everything, or None.

    None as well where a file of them is not as it was written, or is of another study: what was
    measured is still there, and they are made of it again.
    """
    tables = ["importance.parquet", "predictions.parquet"]
    if study.keep_texts:
        tables.append("texts.parquet")
    if not all(folder.holds(name) for name in ("results.json", *tables)):
        return None
    try:
        results = read(folder.path, RunResults)
    except RunError:
        return None
    return results if folder.is_of_this_study(results.config) else None


def _measure(
    study: StudyConfig,
    folder: RunFolder,
    model: TaskModel,
    tasks: list[Task],
    training: Training | None,
    progress: StageProgress | None,
    pool: Pool | None,
) -> RunResults:
    """Measure what is missing and write its statistics: `results.json` and the tables."""
    if pool is None:
        model = model.to(measuring_device())
    precision = begin(pool, study, folder, measuring_device())
    loaded = Loaded(study, tasks, model, precision)
    measurements = folder.measurements(scope_of(model, tasks, precision), progress, pool)
    matrix, others = measurements.run(_study_plan(loaded, folder, training))
    seconds = measurements.seconds_by_stage
    results = study_results(
        study,
        tasks,
        matrix,
        **others,
        model=describe_model(
            study.as_written(study.model),
            getattr(model, "pooling", None),
            sum(parameter.numel() for parameter in model.parameters()),
            find_heads(model),
        ),
        training=training,
        seconds={"training": training.seconds, **seconds} if training else seconds,
        importance_seconds=measurements.seconds_by_task("importance"),
        environment=describe_environment(loaded.precision),
    )
    with folder.writing("importance.parquet") as file:
        write_importance(matrix, file)
    with folder.writing("predictions.parquet") as file:
        write_predictions(matrix, file)
    if study.keep_texts:
        with folder.writing("texts.parquet") as file:
            write_texts(tasks, file)
    folder.write(results.FILE, as_bytes(results))
    return results


def _study_plan(
    loaded: Loaded, folder: RunFolder, training: Training | None
) -> Plan[tuple[LesionMatrix, dict[str, Any]]]:
    """Every measurement of a study: the lesion matrix, and the parts of the results beside it."""
    study, tasks = loaded.study, loaded.tasks
    matrix = yield from lesion_plan(
        loaded.model, tasks, study.iap.settings(study.seed), precision=loaded.precision
    )
    parts = {
        "agreement": agreement_plan(loaded, matrix),
        "similarity": similarity_plan(loaded, matrix),
    }
    if training is not None:
        parts = {"growth": growth_plan(loaded, folder, matrix, training), **parts}
    found = yield from together(*parts.values())
    return matrix, {"growth": None, **dict(zip(parts, found, strict=True))}
