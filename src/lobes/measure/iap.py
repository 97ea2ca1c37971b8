"""The lesion matrix of a model on its tasks: Important Attention-head Pruning.

Definitions: docs/method.md#lesions.

Each task's important heads are found, ablated together, and every task is evaluated under each of
these lesions, under lesions with their heads exchanged, and under random lesions matched to them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from lobes import limits
from lobes.discovery import layout_of
from lobes.dissociation import LesionMatrix
from lobes.errors import ConfigError, DataError
from lobes.heads import HeadLayout
from lobes.measure.batch_task import (
    AnyTask,
    BatchTask,
    are_batch_tasks,
    check_settings,
    layout_for_tasks,
)
from lobes.measure.iap_plan import IapPlan, sample_of, some_of
from lobes.measure.settings import IapSettings
from lobes.measure.steps import Arrays, Plan, Step, carry_out, changed
from lobes.measure.workload import examples_of
from lobes.progress import StageProgress, shown_progress
from lobes.scores import HeadScores, least_fraction
from lobes.tasks.task import as_tasks

Remember = Callable[[str, Callable[[], Arrays]], Arrays]


def lesion_matrix(
    model: nn.Module,
    tasks: AnyTask | Sequence[AnyTask],
    settings: IapSettings | None = None,
    *,
    layout: HeadLayout | None = None,
    precision: str = "fp32",
    tokens_per_batch: int | None = None,
    progress: StageProgress | bool | None = None,
    remember: Remember | None = None,
    **options: Any,
) -> LesionMatrix:
    """Find each task's important heads, ablate them, and evaluate every task under each lesion.

    `tasks` are those that a `MultiTaskModel` or `PromptedModel` was made for; or `BatchTask`s, on
    any model (docs/any-model.md). `layout` spares the search for the heads (`find_heads`).
    `options` are the fields of `IapSettings`: `lesion_matrix(model, tasks, fractions=[0.3],
    controls=100)`. `precision` is "fp32", "bf16" or "auto"; see `evaluate`.

    `progress(stage, done, total)` is called as things go; True shows a line on stderr.
    `remember(key, compute)` is called once for each measurement and returns what `compute()`
    returns, or what it returned for that key in an earlier, interrupted call.
    Raises `ConfigError`, `DataError` or `HeadError` before anything is measured.
    """
    settings = _with_options(settings or IapSettings(), options)
    report = shown_progress(progress, "lesion matrix")
    if remember is not None and not callable(remember):
        raise ConfigError(
            f"remember is a function remember(key, compute), or None, not {limits.short(remember)}."
        )
    chosen = as_tasks(tasks, BatchTask)
    layout = layout_for_tasks(model, chosen, layout, "validation", tokens_per_batch)
    if are_batch_tasks(chosen):
        check_settings(settings)
    plan = lesion_plan(
        model,
        chosen,
        settings,
        layout=layout,
        precision=precision,
        tokens_per_batch=tokens_per_batch,
    )

    def measure(step: Step) -> Arrays:
        compute = partial(step.compute, step.reporting(report))
        return compute() if remember is None else remember(step.key, compute)

    return carry_out(plan, measure)


def lesion_plan(
    model: nn.Module,
    tasks: Sequence[AnyTask],
    settings: IapSettings,
    *,
    layout: HeadLayout | None = None,
    precision: str = "fp32",
    tokens_per_batch: int | None = None,
    load: Callable[[], Any] | None = None,
) -> Plan[LesionMatrix]:
    """Return the steps of `lesion_matrix`: importance task by task, then groups of lesions.

    `load` returns the model to measure where that is not `model` but one with the same heads and
    tasks; it is called only if a step is computed. Raises what `check_lesions` raises.
    """
    layout = layout_of(model, layout)
    check_lesions(settings, layout, tasks)
    plan = IapPlan(model, tasks, settings, layout, precision, tokens_per_batch, load)
    importance, of_tasks = yield from plan.choose()
    return (yield from changed(plan.measure(importance, of_tasks), plan.named))


def check_lesions(settings: IapSettings, layout: HeadLayout, tasks: Sequence[AnyTask]) -> None:
    """Raise what can be known to be wrong with a measurement before the model is trained or run.

    `ConfigError` for lesions that cannot be made of these heads, whatever their scores (a fraction
    of less than one head, or of more than the sites may lose), of tasks that there are not, or
    with exchanged or random lesions on examples of one class only; `DataError` for a task without
    the data.
    """
    names = [task.name for task in tasks]
    for name in settings.lesion_tasks or ():
        if name not in names:
            raise ConfigError(
                f"lesion_tasks names {name!r}, which is not a task: the tasks are "
                f"{', '.join(map(repr, names))}."
            )
    for task in tasks:
        check = task.batches if isinstance(task, BatchTask) else partial(examples_of, task)
        check("validation")
        if settings.lesion_tasks is None or task.name in settings.lesion_tasks:
            check(settings.importance_split)
    for task, places in zip(tasks, (sample_of(settings, tasks) or {}).values(), strict=False):
        try:
            some_of(task, places)
        except DataError as error:
            raise ConfigError(
                f"control_examples = {settings.control_examples} takes examples of one class only "
                f"of task {task.name!r}: take more, or leave it out to take all."
            ) from error
    alike = np.full(layout.shape, np.nan)
    for site in layout.sites:
        alike[site.index, : site.n_heads] = 0.0
    for fraction in settings.fractions:
        heads = HeadScores(alike).select(fraction, keep_per_site=settings.keep_per_site)
        if not heads:
            raise ConfigError(
                f"A fraction of {fraction:g} of {layout.total} heads is not one head: take at "
                f"least {least_fraction(layout.total)}."
            )
        if settings.lesion == "keep" and len(heads) == layout.total:
            raise ConfigError(
                f'A fraction of {fraction:g} is every head, and lesion = "keep" would ablate none: '
                f'take less than 1, or lesion = "remove".'
            )


def _with_options(settings: IapSettings, options: Mapping[str, Any]) -> IapSettings:
    known = [field.name for field in fields(IapSettings)]
    for name in options:
        if name not in known:
            raise ConfigError(f"There is no IAP setting {name!r}: expected {', '.join(known)}.")
    if not isinstance(settings, IapSettings):
        raise ConfigError(
            f"settings are lobes.measure.iap.IapSettings, not a {type(settings).__name__}: "
            f"give single settings by name, as in lesion_matrix(model, tasks, controls=100)."
        )
    return replace(settings, **options)
