"""The steps of a lesion matrix: importance, the lesions that follow from it, predictions in groups.

`iap.py` checks what is asked for and carries them out; `work.py` counts them.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property, partial
from hashlib import sha256
from typing import Any

import numpy as np
from jaxtyping import Int

from lobes.ablation import HeadMeans
from lobes.dissociation import Lesion, LesionMatrix
from lobes.dissociation.exchange import Exchange
from lobes.dissociation.matrix import Sampled
from lobes.dissociation.pairs import PairEffects, pairs_of
from lobes.dissociation.statistics import n_reached
from lobes.dissociation.stopping import is_settled, look_of
from lobes.dissociation.verdict import controls_needed
from lobes.heads import HeadLayout, HeadSet
from lobes.measure.batch_task import AnyTask, BatchTask
from lobes.measure.evaluation import Evaluator, task_means
from lobes.measure.importance import head_importance
from lobes.measure.measuring import at_precision
from lobes.measure.settings import IapSettings
from lobes.measure.steps import Arrays, Plan, Step
from lobes.measure.workload import spec_of
from lobes.progress import Progress
from lobes.scores import HeadScores
from lobes.tasks.task import Task

# Lesions measured (and remembered) together: each group costs one plain run beside its lesions.
GROUP = 32


@dataclass(frozen=True)
class IapPlan:
    """One IAP measurement: on what, how, and in which steps."""

    model: Any  # a `TaskModel`, or for batch tasks any model
    tasks: Sequence[AnyTask]
    settings: IapSettings
    layout: HeadLayout
    precision: str
    tokens_per_batch: int | None
    load: Callable[[], Any] | None = None

    @cached_property
    def measured(self) -> Any:
        """The model that is run, for all steps the same: at its precision, so measured as it is."""
        return at_precision(self.model if self.load is None else self.load(), self.precision)

    @cached_property
    def evaluator(self) -> Evaluator:
        """What runs the tasks under every group of lesions."""
        return Evaluator(
            self.measured,
            self.tasks,
            value=self.settings.value,
            means=self.means,
            seed=self.settings.seed,
            tokens_per_batch=self.tokens_per_batch,
            layout=self.layout,
        )

    @cached_property
    def means(self) -> dict[str, HeadMeans] | None:
        """Every task's mean contexts, over all its validation examples; None where zeros stand."""
        if self.settings.value == "zero":
            return None
        return task_means(
            self.measured,
            self.tasks,
            tokens_per_batch=self.tokens_per_batch,
            layout=self.layout,
        )

    def named(self, step: Step) -> Step:
        """A step of the lesions; what is not the default is part of its key."""
        chosen = [self.settings.value, self.settings.lesion]
        unusual = [name for name in chosen if name not in ("zero", "remove")]
        return replace(step, key="-".join([step.key, *unusual]))

    def _ablated(self, heads: HeadSet) -> HeadSet:
        """What is ablated for a lesion: its heads, or all but those; nothing for the base."""
        keep = self.settings.lesion == "keep" and bool(heads)
        return self.layout.all_heads() - heads if keep else heads

    @property
    def lesioned(self) -> list[AnyTask]:
        chosen = self.settings.lesion_tasks
        return [task for task in self.tasks if chosen is None or task.name in chosen]

    def choose(self) -> Plan[tuple[dict[str, HeadScores], list[Lesion]]]:
        """Every lesioned task's importance, and the lesions of the tasks."""
        importance: dict[str, HeadScores] = {}
        chosen = {task.name: HeadSet() for task in self.lesioned}
        of_tasks: list[Lesion] = []
        scores: list[HeadScores] = []
        for fraction in self.settings.fractions:
            if self.settings.exact or not scores:
                found = yield [self._importance(task, chosen[task.name]) for task in self.lesioned]
                scores = [self._scores(*each) for each in zip(self.lesioned, found, strict=True)]
            for task, score in zip(self.lesioned, scores, strict=True):
                importance.setdefault(task.name, score)
                heads = score.select(
                    fraction,
                    order=self.settings.order,  # type: ignore[arg-type]
                    keep_per_site=self.settings.keep_per_site,
                    given=chosen[task.name] if self.settings.exact else None,
                )
                chosen[task.name] = heads
                of_tasks.append(Lesion(heads, "task", task.name, fraction))
        return importance, of_tasks

    def _importance(self, task: AnyTask, ablated: HeadSet) -> Step:
        """A task's importance, with the heads `ablated` that were chosen before."""

        def compute(progress: Progress) -> Arrays:
            scores = head_importance(
                self.measured,
                task,
                method=self.settings.method,
                aggregate=self.settings.aggregate,
                normalize=self.settings.normalize,
                steps=self.settings.importance_steps,
                value=self.settings.importance_value,
                split=self.settings.importance_split,
                max_examples=None
                if isinstance(task, BatchTask)
                else self.settings.importance_examples,
                seed=self.settings.seed,
                ablated=ablated,
                tokens_per_batch=self.tokens_per_batch,
                layout=self.layout,
                progress=progress,
            )
            # inputs that are no tokens have no number of them
            counts = [scores.settings["examples"], scores.settings.get("tokens", -1)]
            found = {"values": scores.values, "counts": np.array(counts, dtype=np.int64)}
            return found if scores.halves is None else found | {"halves": scores.halves}

        suffix = f"-without-{len(ablated)}-heads" if ablated else ""
        if self.settings.method == "ablation" and self.settings.importance_value != "zero":
            suffix += f"-{self.settings.importance_value}"  # else that of zeros could be taken
        return Step(
            "importance",
            f"importance-{task.name}{suffix}",
            f"importance of {task.name}",
            compute,
            task=task.name,
        )

    def _scores(self, task: AnyTask, found: Arrays) -> HeadScores:
        examples, tokens = found["counts"].tolist()
        return HeadScores(
            found["values"],
            {
                "task": task.name,
                "method": self.settings.method,
                "aggregate": self.settings.aggregate,
                "normalize": self.settings.normalize,
                "split": self.settings.importance_split,
                "examples": examples,
                **({"tokens": tokens} if tokens >= 0 else {}),
            },
            found.get("halves"),
        )

    def _random(self, lesion: Lesion, replicate: int) -> Lesion:
        """A random lesion matched to `lesion`; which one does not depend on how many there are."""
        names = [task.name for task in self.tasks]
        place = self.settings.fractions.index(lesion.fraction), names.index(lesion.task)
        generator = np.random.default_rng([self.settings.seed, *place, replicate])
        matched = self.settings.matched == "site"
        heads = self.layout.random(
            lesion.heads.counts() if matched else len(lesion.heads), generator
        )
        return Lesion(heads, "random", lesion.task, lesion.fraction, replicate)

    def random(self, of_tasks: Sequence[Lesion]) -> list[Lesion]:
        """Return the random lesions that are matched to the tasks'."""
        return [
            self._random(lesion, replicate)
            for replicate in range(self.settings.random)
            for lesion in of_tasks
        ]

    def exchanged(self, of_tasks: Sequence[Lesion], *seeds: int) -> list[Lesion]:
        """Return the lesions with their heads exchanged; which ones does not depend on how many.

        None where not every task has a lesion, or there is but one: without a D-score there is
        nothing to compare with.
        """
        if not self._can_exchange:
            return []
        tasks = list(dict.fromkeys(lesion.task for lesion in of_tasks))
        fractions = list(dict.fromkeys(lesion.fraction for lesion in of_tasks))
        sets = {(lesion.fraction, lesion.task): lesion.heads for lesion in of_tasks}
        exchange = Exchange({f: [sets[f, task] for task in tasks] for f in fractions})
        return [
            Lesion(heads, "exchanged", task, fraction, replicate)
            for replicate in range(self.settings.controls if exchange.heads else 0)
            for fraction, dealt in exchange.replicate(replicate, self.settings.seed, *seeds).items()
            for task, heads in zip(tasks, dealt, strict=True)
        ]

    @property
    def look(self) -> int | None:
        """After how many exchanges it may stop; None where it does not."""
        stops = self.settings.stop and self._can_exchange
        return look_of(self.settings.controls) if stops else None

    @property
    def _can_exchange(self) -> bool:
        """Whether D-scores can be had, which exchanged lesions are compared with."""
        return len(self.lesioned) == len(self.tasks) > 1

    def measure(
        self, importance: dict[str, HeadScores], of_tasks: Sequence[Lesion]
    ) -> Plan[LesionMatrix]:
        """Every task under its own, the other tasks', exchanged and random lesions."""
        own = [Lesion(HeadSet(), "none"), *of_tasks]
        random, exchanged = self.random(of_tasks), self.exchanged(of_tasks)
        sample = sample_of(self.settings, self.tasks)
        if sample is None:
            found = yield from self._run(self.tasks, [*own, *random], exchanged)
            matrix = within = self._matrix(self.tasks, *found, importance)
            tasks = self.tasks
        else:
            whole = yield from self._run(self.tasks, own, [])
            tasks = [some_of(task, sample[task.name]) for task in self.tasks]
            known = {name: predictions[:, sample[name]] for name, predictions in whole[1].items()}
            found = yield from self._run(tasks, [*own, *random], exchanged, known)
            within = self._matrix(tasks, *found, {})
            matrix = replace(
                self._matrix(self.tasks, *whole, importance), sampled=Sampled(within, sample)
            )
        pairs = {}
        if self.tests_pairs:
            for i, j in pairs_of(tasks):
                pairs[tasks[i].name, tasks[j].name] = yield from self._pair(tasks, i, j, within)
        return replace(matrix, exchanged_pairs=pairs)

    @property
    def tests_pairs(self) -> bool:
        """Whether two of the tasks can be called doubly dissociated, by exchanges of their own."""
        needed = controls_needed(len(pairs_of(self.tasks)))
        return self._can_exchange and len(self.tasks) > 2 and self.settings.controls >= needed

    def _pair(
        self, tasks: Sequence[AnyTask], i: int, j: int, within: LesionMatrix
    ) -> Plan[PairEffects]:
        """The effects of two tasks' largest lesions, with heads exchanged between these two."""
        both = [tasks[i], tasks[j]]
        own = [within.lesions[0], *(within.lesion(task.name) for task in both)]
        places = [within.lesions.index(lesion) for lesion in own]
        known = {task.name: within.predictions[task.name][places] for task in both}
        exchanged = self.exchanged(own[1:], i + 1, j + 1)
        found = yield from self._run(both, own, exchanged, known, pair=(i, j))
        # the stop waits for no pair: these exchanges are their own, and all of them are measured
        return replace(self._matrix(both, *found, {}), look=None).pair_effects()[0]

    def _run(
        self,
        tasks: Sequence[AnyTask],
        fixed: Sequence[Lesion],
        exchanged: Sequence[Lesion],
        known: Arrays | None = None,
        pair: tuple[int, int] | None = None,
    ) -> Plan[tuple[Sequence[Lesion], Arrays]]:
        """Every task's predictions [lesions, examples], measured in groups of sets of heads.

        `known` are the predictions of the first lesions, where they were measured before. Returns
        the lesions, too: fewer exchanged ones where p is settled at the look. Lesions with the same
        heads are measured once.
        """
        lesions = [*fixed, *exchanged]
        sets = list(dict.fromkeys(lesion.heads for lesion in lesions))
        place = {heads: number for number, heads in enumerate(sets)}
        rows = np.array([place[lesion.heads] for lesion in lesions])
        parts, start = list[Arrays](), 0
        if known is not None:
            first = len(next(iter(known.values())))
            start = int(rows[:first].max()) + 1
            chosen = [int(np.argmax(rows == number)) for number in range(start)]
            parts.append({name: predictions[chosen] for name, predictions in known.items()})
        kind = "predictions" if known is None else "predictions-sample"
        if pair is not None:
            kind = f"predictions-pair-{pair[0]}-{pair[1]}"
        look = self.look if pair is None and exchanged else None
        if look is not None:
            first = len(fixed) + look * len(tasks) * len(self.settings.fractions)
            there = int(rows[:first].max()) + 1
            parts += yield self._groups(tasks, sets, start, there, kind)
            start = max(start, there)
            known = {name: values[rows[:first]] for name, values in _joined(tasks, parts).items()}
            p = self._matrix(tasks, lesions[:first], known, {}).over_fractions(resamples=1).p
            if is_settled(n_reached(p, look)):  # an undefined D-score stays undefined
                return lesions[:first], known
        parts += yield self._groups(tasks, sets, start, len(sets), kind)
        return lesions, {name: values[rows] for name, values in _joined(tasks, parts).items()}

    def _groups(
        self, tasks: Sequence[AnyTask], sets: Sequence[HeadSet], start: int, end: int, kind: str
    ) -> list[Step]:
        """The steps that measure the sets of heads from one place to another."""
        places = None if kind == "predictions" else sample_of(self.settings, self.tasks)
        evaluator = cache(lambda: self.evaluator.some(tasks, places))
        return [
            self._evaluation(tasks, sets, range(first, min(first + GROUP, end)), kind, evaluator)
            for first in range(start, end, GROUP)
        ]

    def _evaluation(
        self,
        tasks: Sequence[AnyTask],
        sets: Sequence[HeadSet],
        places: range,
        kind: str,
        evaluator: Callable[[], Evaluator],
    ) -> Step:
        """The predictions under one group of the sets of heads."""
        start, group = places.start, sets[places.start : places.stop]

        def part(first: int, last: int, progress: Progress) -> Arrays:
            ablated = [self._ablated(heads) for heads in group[first:last]]
            found = evaluator().run(ablated, progress)
            return {task.name: found.predictions(task.name) for task in tasks}

        # The heads are part of the name: predictions are never taken back for other lesions. So
        # are the examples, where these are not all.
        named = [*map(str, group)]
        if kind != "predictions":
            named += [str(len(task.validation)) for task in tasks]  # type: ignore[arg-type]
        digest = sha256("|".join(named).encode()).hexdigest()[:8]
        share = (start, len(group), len(sets))
        title = {"predictions": "lesions", "predictions-sample": "lesions on a sample"}.get(kind)
        if title is None:
            title = f"lesions between {tasks[0].name} and {tasks[1].name}"
        return Step(
            "evaluation",
            f"{kind}-{start:05d}-{digest}",
            title,
            partial(part, 0, len(group)),
            share=share,
            size=len(group),
            part=part,
            joined=partial(_joined, tasks),
        )

    def _metric(self, task: AnyTask) -> str:
        return (task if isinstance(task, BatchTask) else spec_of(self.model, task)).metric

    def _matrix(
        self,
        tasks: Sequence[AnyTask],
        lesions: Sequence[Lesion],
        predictions: dict[str, np.ndarray],
        importance: dict[str, HeadScores],
    ) -> LesionMatrix:
        return LesionMatrix(
            tasks=tuple(task.name for task in tasks),
            metrics=tuple(self._metric(task) for task in tasks),
            labels={task.name: _labels(task, predictions[task.name]) for task in tasks},
            lesions=tuple(lesions),
            predictions=predictions,
            importance=importance,
            keep=self.settings.lesion == "keep",
            layout=self.layout,
            settings=asdict(self.settings),
            look=self.look,
        )


def sample_of(settings: IapSettings, tasks: Sequence[AnyTask]) -> dict[str, np.ndarray] | None:
    """The examples of each task that exchanged and random lesions are measured on; None for all.

    Tasks over the same number of examples keep the same places, so that texts that they share are
    still run once.
    """
    most = settings.control_examples
    sizes = {task.name: len(task.validation) for task in tasks}  # type: ignore[arg-type]
    if most is None or most >= max(sizes.values()) or not settings.controls + settings.random:
        return None
    return {
        name: np.sort(
            np.random.default_rng([settings.seed, size]).choice(
                size, min(most, size), replace=False
            )
        )
        for name, size in sizes.items()
    }


def _labels(task: AnyTask, predictions: np.ndarray) -> np.ndarray:
    """The labels of the validation examples; zeros where the predictions are scores already."""
    if isinstance(task, BatchTask):
        return np.zeros(predictions.shape[1])
    return task.validation.labels  # type: ignore[union-attr]


def some_of(task: AnyTask, places: Int[np.ndarray, " _"]) -> Task:
    """The task with some of its validation examples."""
    assert isinstance(task, Task)
    assert task.validation is not None
    return task.replace(validation=task.validation.select(places))


def _joined(tasks: Sequence[AnyTask], parts: Sequence[Arrays]) -> Arrays:
    return {task.name: np.concatenate([part[task.name] for part in parts]) for task in tasks}
