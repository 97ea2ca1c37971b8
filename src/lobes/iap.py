"""Important Attention-head Pruning (METHOD section 4): the lesion matrix of a model on its tasks.

Each task's important heads are found, ablated together, and every task is evaluated under each of
these lesions and under random lesions matched to them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from typing import Any

import numpy as np

from lobes.discovery import find_heads
from lobes.dissociation import Lesion, LesionMatrix
from lobes.errors import ConfigError
from lobes.evaluation import evaluate, spec_of
from lobes.heads import HeadLayout, HeadScores, HeadSet, check_fractions
from lobes.importance import head_importance
from lobes.modeling import TaskModel
from lobes.tasks.task import Task, check_task_names

Progress = Callable[[str, int, int], None]
Measurement = dict[str, np.ndarray]
Remember = Callable[[str, Callable[[], Measurement]], Measurement]

# Lesions measured (and remembered) together: each group costs one plain run beside its lesions.
_GROUP = 32


@dataclass(frozen=True, slots=True)
class IapSettings:
    """What to ablate and what to compare it with; METHOD section 4 has the definitions.

    `fractions` of all heads, each lesioned on its own. `controls` random lesions for each, with
    as many heads in each site (`matched="site"`) or in all (`"total"`). `order="ascending"`
    ablates the least important heads. `exact` estimates the importance again at each fraction,
    with the heads chosen so far ablated. `keep_per_site` heads of each site are never chosen.
    `importance_split` and `importance_examples`: what the importance is computed from.
    `lesion_tasks`: the tasks whose heads are ablated, all if None.
    """

    fractions: Sequence[float] = (0.2, 0.3, 0.4)
    controls: int = 20
    matched: str = "site"
    order: str = "descending"
    exact: bool = False
    keep_per_site: int = 0
    importance_split: str = "train"
    importance_examples: int = 10_000
    method: str = "taylor"
    aggregate: str = "token"
    normalize: str = "none"
    lesion_tasks: Sequence[str] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "fractions", check_fractions(self.fractions))  # a tuple
        if self.lesion_tasks is not None:
            object.__setattr__(self, "lesion_tasks", tuple(self.lesion_tasks))
        for name, allowed in (
            ("matched", ("site", "total")),
            ("order", ("descending", "ascending")),
            ("importance_split", ("train", "validation")),
            ("method", ("taylor", "ablation")),
            ("aggregate", ("token", "sequence")),
            ("normalize", ("none", "layer")),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"{name} is {' or '.join(map(repr, allowed))}, not {getattr(self, name)!r}."
                )
        for name, least in (("controls", 0), ("keep_per_site", 0), ("importance_examples", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is at least {least}, not {getattr(self, name)}.")


def lesion_matrix(
    model: TaskModel,
    tasks: Sequence[Task],
    settings: IapSettings | None = None,
    *,
    precision: str = "fp32",
    tokens_per_batch: int | None = None,
    progress: Progress | None = None,
    remember: Remember | None = None,
    **options: Any,
) -> LesionMatrix:
    """Find each task's important heads, ablate them, and evaluate every task under each lesion.

    `options` are the fields of `IapSettings`: `lesion_matrix(model, tasks, fractions=[0.3],
    controls=100)`. `precision` is "fp32", "bf16" or "auto"; see `evaluate`.

    `remember(key, compute)` is called once for each measurement and returns what `compute()`
    returns, or what it returned for that key in an earlier, interrupted call.
    Raises `ConfigError`, `DataError` or `HeadError` before anything is measured.
    """
    settings = _with_options(settings or IapSettings(), options)
    check_task_names(tasks)
    plan = _Plan(model, tasks, settings, find_heads(model), precision, tokens_per_batch)
    plan.check()
    remember = remember or (lambda key, compute: compute())
    importance, lesions = plan.choose(remember, progress)
    return LesionMatrix(
        tasks=tuple(task.name for task in tasks),
        metrics=tuple(spec_of(model, task).metric for task in tasks),
        labels={task.name: task.validation.labels for task in tasks},  # type: ignore[union-attr]
        lesions=lesions,
        predictions=plan.measure(lesions, remember, progress),
        importance=importance,
    )


def check_lesions(settings: IapSettings, layout: HeadLayout) -> None:
    """Raise `ConfigError` for lesions that cannot be made of these heads, whatever their scores.

    That is a fraction of less than one head, or of more than the sites may lose.
    """
    alike = np.full(layout.shape, np.nan)
    for site in layout.sites:
        alike[site.index, : site.n_heads] = 0.0
    for fraction in settings.fractions:
        if not HeadScores(alike).select(fraction, keep_per_site=settings.keep_per_site):
            raise ConfigError(
                f"A fraction of {fraction:g} of {layout.total} heads is not one head: take at "
                f"least {1 / layout.total:.3g}."
            )


def _with_options(settings: IapSettings, options: Mapping[str, Any]) -> IapSettings:
    known = [field.name for field in fields(IapSettings)]
    for name in options:
        if name not in known:
            raise ConfigError(f"There is no IAP setting {name!r}: expected {', '.join(known)}.")
    return replace(settings, **options)


@dataclass(frozen=True)
class _Plan:
    """One IAP measurement: on what, how, and in which steps."""

    model: TaskModel
    tasks: Sequence[Task]
    settings: IapSettings
    layout: HeadLayout
    precision: str
    tokens_per_batch: int | None

    def check(self) -> None:
        names = [task.name for task in self.tasks]
        for name in self.settings.lesion_tasks or ():
            if name not in names:
                raise ConfigError(
                    f"lesion_tasks names {name!r}, which is not a task: the tasks are "
                    f"{', '.join(map(repr, names))}."
                )
        check_lesions(self.settings, self.layout)

    @property
    def lesioned(self) -> list[Task]:
        chosen = self.settings.lesion_tasks
        return [task for task in self.tasks if chosen is None or task.name in chosen]

    def choose(
        self, remember: Remember, progress: Progress | None
    ) -> tuple[dict[str, HeadScores], tuple[Lesion, ...]]:
        """Every lesioned task's importance, and all lesions: none, the tasks', the controls."""
        importance: dict[str, HeadScores] = {}
        chosen: dict[tuple[float, str], HeadSet] = {}
        for task in self.lesioned:
            heads = HeadSet()
            for fraction in self.settings.fractions:
                if self.settings.exact or task.name not in importance:
                    scores = self._importance(task, heads, remember, progress)
                    importance.setdefault(task.name, scores)
                heads = scores.select(
                    fraction,
                    order=self.settings.order,  # type: ignore[arg-type]
                    keep_per_site=self.settings.keep_per_site,
                    given=heads if self.settings.exact else None,
                )
                chosen[fraction, task.name] = heads
        of_tasks = [
            Lesion(chosen[fraction, task.name], "task", task.name, fraction)
            for fraction in self.settings.fractions
            for task in self.lesioned
        ]
        controls = [
            self._control(lesion, replicate)
            for replicate in range(self.settings.controls)
            for lesion in of_tasks
        ]
        return importance, (Lesion(HeadSet(), "none"), *of_tasks, *controls)

    def _importance(
        self, task: Task, ablated: HeadSet, remember: Remember, progress: Progress | None
    ) -> HeadScores:
        stage = f"importance of {task.name}"

        def compute() -> Measurement:
            scores = head_importance(
                self.model,
                task,
                method=self.settings.method,
                aggregate=self.settings.aggregate,
                normalize=self.settings.normalize,
                precision=self.precision,
                split=self.settings.importance_split,
                max_examples=self.settings.importance_examples,
                seed=self.settings.seed,
                ablated=ablated,
                tokens_per_batch=self.tokens_per_batch,
                layout=self.layout,
                progress=(lambda done, total: progress(stage, done, total)) if progress else None,
            )
            counts = [scores.settings["examples"], scores.settings["tokens"]]
            return {"values": scores.values, "counts": np.array(counts, dtype=np.int64)}

        suffix = f"-without-{len(ablated)}-heads" if ablated else ""
        found = remember(f"importance-{task.name}{suffix}", compute)
        return HeadScores(
            found["values"],
            {
                "task": task.name,
                "method": self.settings.method,
                "aggregate": self.settings.aggregate,
                "normalize": self.settings.normalize,
                "split": self.settings.importance_split,
                "examples": int(found["counts"][0]),
                "tokens": int(found["counts"][1]),
            },
        )

    def _control(self, lesion: Lesion, replicate: int) -> Lesion:
        """A random lesion matched to `lesion`; which one does not depend on how many there are."""
        names = [task.name for task in self.tasks]
        place = self.settings.fractions.index(lesion.fraction), names.index(lesion.task)
        generator = np.random.default_rng([self.settings.seed, *place, replicate])
        matched = self.settings.matched == "site"
        heads = self.layout.random(
            lesion.heads.counts() if matched else len(lesion.heads), generator
        )
        return Lesion(heads, "control", lesion.task, lesion.fraction, replicate)

    def measure(
        self, lesions: Sequence[Lesion], remember: Remember, progress: Progress | None
    ) -> dict[str, np.ndarray]:
        """Every task's predictions [lesions, examples], measured in groups of lesions."""
        parts: list[Measurement] = []
        for start in range(0, len(lesions), _GROUP):
            group = [lesion.heads for lesion in lesions[start : start + _GROUP]]

            def compute(group: list[HeadSet] = group, start: int = start) -> Measurement:
                found = evaluate(
                    self.model,
                    self.tasks,
                    group,
                    precision=self.precision,
                    tokens_per_batch=self.tokens_per_batch,
                    layout=self.layout,
                    progress=_share(progress, "lesions", start, len(group), len(lesions)),
                )
                return {task.name: found.predictions(task.name) for task in self.tasks}

            # The heads are part of the name: predictions are never taken back for other lesions.
            heads = "|".join(map(str, group)).encode()
            parts.append(
                remember(f"predictions-{start:05d}-{sha256(heads).hexdigest()[:8]}", compute)
            )
        return {
            task.name: np.concatenate([part[task.name] for part in parts]) for task in self.tasks
        }


def _share(
    progress: Progress | None, stage: str, before: int, part: int, whole: int
) -> Callable[[int, int], None] | None:
    """A group's own progress as that of all lesions, counted in thousandths of a lesion."""
    if progress is None:
        return None
    return lambda done, total: progress(
        stage, 1000 * before + 1000 * part * done // max(total, 1), 1000 * whole
    )
