"""What a study will take on this machine, and what it can find, before anything of it runs.

`Forecast` measures for a few seconds how fast the study's model runs on the study's data
(`rates.py`) and counts what is to be run (`measure/work.py`). It then says of the study, and of the
same study with other sizes, how long each stage will take, how much memory and disk, and what
power the test of its D-score will have.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from lobes.config.study import StudyConfig
from lobes.discovery import find_heads
from lobes.dissociation.power import Power, power_of
from lobes.dissociation.simulation import HeadStudy
from lobes.dissociation.stopping import look_of
from lobes.experiments.agreement import AGGREGATES, MOST_GRADIENT_BYTES
from lobes.experiments.growth import PROBE_EXAMPLES, growth_steps
from lobes.experiments.loading import ESTIMATING, Loaded, load_tasks, new_model
from lobes.experiments.rates import Rates, mean_tokens, measure_rates
from lobes.experiments.run import given_model, measuring_device
from lobes.experiments.training import Rhythm, rhythm
from lobes.measure.gates import GateSettings
from lobes.measure.iap import check_lesions
from lobes.measure.settings import IapSettings
from lobes.measure.work import LesionWork, Runs, lesion_work
from lobes.measure.workload import examples_of, prepare, tokens_of
from lobes.modeling import MultiTaskModel
from lobes.modeling.precision import resolve_precision
from lobes.progress import StageProgress
from lobes.tasks.task import Task
from lobes.training.settings import IAT

# The D-scores in percent whose power is told.
D_SCORES = (5.0, 10.0, 20.0)

# Gradients of the weights, too, beside those of the contexts: three passes' work instead of two.
_WITH_WEIGHTS = 1.5

# Bytes of a prediction in a file, and of all that does not grow with a study.
_PREDICTION, PAGES = 0.5, 200_000

# Of a checkpoint: bytes written in a second, and the seconds that any takes.
_WRITTEN, _WRITING = 5e8, 0.05


@dataclass(frozen=True)
class Estimate:
    """What a study takes: `seconds` of each stage, memory and disk in bytes, lesions, power.

    `memory` is that of the accelerator where there is one, of the process elsewhere. `disk` is the
    run's folder in the end, `disk_meanwhile` the most that it holds on the way. `power` is None
    where there is no D-score to test. The test is made on so many `examples` of each task;
    `settings` are the sizes that a budget may change.

    A study that may stop at its look is taken to stop there: one that goes on has `exchanged`
    lesions with exchanged heads, and takes `going_on` seconds more.
    """

    seconds: dict[str, float]
    work: LesionWork
    memory: int
    disk: int
    disk_meanwhile: int
    examples: int
    settings: dict[str, int | None]
    exchanged: int
    tasks: int
    going_on: float = 0.0
    power: list[Power] | None = None

    @property
    def total(self) -> float:
        """All stages, in seconds."""
        return sum(self.seconds.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as JSON takes it."""
        work = self.work
        return {
            "seconds": {name: round(seconds, 2) for name, seconds in self.seconds.items()},
            "total_seconds": round(self.total, 2),
            "seconds_of_going_on": round(self.going_on, 2),
            "lesions": {
                "own": work.own,
                "exchanged": work.exchanged,
                "exchanged_at_most": self.exchanged,
                "between_pairs": work.between_pairs,
                "random": work.random,
                "total": work.lesions,
                "runs": sum(runs.sets for runs in work.runs),
            },
            "memory_bytes": self.memory,
            "disk_bytes": self.disk,
            "disk_meanwhile_bytes": self.disk_meanwhile,
            "tasks": self.tasks,
            "examples_tested": self.examples,
            "power": None if self.power is None else [*map(_as_json, self.power)],
            "settings": self.settings,
        }


class Forecast:
    """How a study's model runs here, measured once: `estimate` says what any of its sizes take.

    `loaded` has the model that would be trained or measured, which stays as it is.
    `loading_seconds` are those that reading data and model took. `alone` says whether runs with
    single heads ablated are measured, too; by default where the study has such.
    """

    def __init__(
        self, loaded: Loaded, loading_seconds: float = 0.0, *, alone: bool | None = None
    ) -> None:
        self.loaded, self.tasks = loaded, loaded.tasks
        self.loading_seconds = loading_seconds
        self.layout = find_heads(loaded.model)
        study = loaded.study
        self.rates: Rates = measure_rates(
            loaded,
            self.layout,
            single=ablates_alone(study) if alone is None else alone,
            train=study.training.enabled,
        )
        self._means: dict[tuple[str, str], float] = {}
        self.weights = sum(each.numel() * each.element_size() for each in loaded.model.parameters())

    @classmethod
    def of(
        cls,
        study: StudyConfig,
        progress: StageProgress | None = None,
        *,
        alone: bool | None = None,
    ) -> "Forecast":
        """Load a study's data and model, check them as a run does, and measure.

        Raises what `run_study` raises before it starts.
        """
        start = time.perf_counter()
        tasks = load_tasks(study, progress)
        model = new_model(study, tasks) if study.training.enabled else given_model(study, tasks)
        model = model.to(measuring_device())
        check_lesions(study.iap.settings(study.seed), find_heads(model), tasks)
        loaded = Loaded(study, tasks, model, resolve_precision(study.precision, model.device))
        seconds = time.perf_counter() - start
        if progress:
            progress(ESTIMATING, 0, 1)
        forecast = cls(loaded, seconds, alone=alone)
        if progress:
            progress(ESTIMATING, 1, 1)
        return forecast

    def estimate(self, study: StudyConfig | None = None, *, power: bool = True) -> Estimate:
        """Return what the study takes, or the same with other sizes.

        `power=False` leaves the simulation of its power out, which takes some seconds.
        """
        study = study or self.loaded.study
        settings = study.iap.settings(study.seed)
        work, whole = self.work(settings), self.work(settings, stops=False)
        pace = rhythm(study, self.tasks) if study.training.enabled else None
        seconds = {"loading": self.loading_seconds}
        if pace is not None:
            seconds["training"] = self._training(study, pace)
        seconds["importance"] = self.importances(settings)
        seconds["lesions"] = self.lesions(settings, work)
        if pace is not None and study.growth is not None:
            seconds["growth"] = self._growth(study, settings, pace.steps)
        if study.iap.agreement_examples and settings.method != "ablation":
            seconds["agreement"] = self._agreement(study, settings)
        similarity = self._similarity(study, settings)
        if similarity:
            seconds["similarity"] = similarity
        sizes = [len(examples_of(task, "validation")) for task in self.tasks]
        tested = min(*sizes, settings.control_examples or max(sizes), max(sizes))
        disk, meanwhile = self._disk(study, whole, sizes, pace)
        return Estimate(
            seconds,
            work,
            self.memory,
            disk,
            meanwhile,
            tested,
            sizes_of(study),
            whole.exchanged,
            len(self.tasks),
            self.lesions(settings, whole) - seconds["lesions"],
            self._power(settings, tested) if power else None,
        )

    def size(self, study: StudyConfig, key: str) -> int:
        """Return what one of `sizes_of` is, where a study leaves it out, too."""
        given = sizes_of(study)[key]
        if given is not None:
            return given
        if key == "training.steps":
            return rhythm(study, self.tasks).steps if study.training.enabled else 0
        return max(len(examples_of(task, "validation")) for task in self.tasks)

    def work(self, settings: IapSettings, *, stops: bool = True) -> LesionWork:
        """Return the lesions of the study's tasks with these settings."""
        return lesion_work(self.loaded.model, self.tasks, settings, self.layout, stops=stops)

    # Time

    def _training(self, study: StudyConfig, pace: Rhythm) -> float:
        """Steps, evaluations and, with IAT, the choice of heads."""
        assert self.rates.training is not None
        names = [task.name for task in self.tasks]
        evaluations = pace.steps // pace.evaluate_every + bool(pace.steps % pace.evaluate_every)
        evaluated = evaluations * self.validation_tokens(names)
        seconds = pace.steps * self.rates.training.step + self.rates.lesion.each * evaluated
        saved = pace.steps // pace.save_every + 1  # and in the end
        seconds += saved * (_WRITING + 3 * self.weights / _WRITTEN)
        if study.iat is not None and (switch := study.iat.switch_step(pace.steps)) is not None:
            refresh = study.iat.refresh
            times = 1 if refresh is None else 1 + (pace.steps - switch - 1) // refresh
            seconds += times * sum(self.importance(task, study.iat) for task in self.tasks)
        return seconds

    def importances(self, settings: IapSettings) -> float:
        """Return the seconds of the importance of all tasks with lesions."""
        times = len(settings.fractions) if settings.exact else 1
        return times * sum(self.importance(task, settings) for task in self._lesioned(settings))

    def importance(self, task: Task, settings: IapSettings | IAT) -> float:
        """Return the seconds of a task's importance by the method of the settings."""
        split = getattr(settings, "importance_split", "train")
        steps = getattr(settings, "importance_steps", 5)
        of_mean = getattr(settings, "importance_value", "zero") != "zero"
        mean, number = self.mean(task, split), len(examples_of(task, split))
        examples = min(settings.importance_examples or number, number)
        tokens, rates = examples * mean, self.rates
        if settings.method == "integrated_gradients":
            plain = (1 + of_mean) * rates.lesion.each * tokens
            return rates.importance(steps * tokens) + plain
        if settings.method == "gates":
            gates = GateSettings()
            batches = 2 * gates.seeds * gates.steps
            return rates.importance(batches * min(gates.batch_size, examples) * mean)
        if settings.method == "ablation" and rates.single is not None:
            return rates.single(tokens * (self.layout.total + 1))
        return rates.importance(tokens)

    def lesions(self, settings: IapSettings, work: LesionWork) -> float:
        """Return the seconds of all runs under lesions."""
        trials = 1 if settings.value == "zero" else len(self.tasks)
        return trials * self.rates.trial + sum(self._runs(settings, runs) for runs in work.runs)

    def _runs(self, settings: IapSettings, runs: Runs) -> float:
        most = settings.control_examples if runs.sampled else None
        seconds, generated = 0.0, self.rates.generated
        for name, cost in generated.items():  # from the beginning under each lesion
            if name in runs.tasks:
                examples = len(examples_of(self._task(name), "validation"))
                seconds += cost(runs.sets * min(examples, most or examples), runs.groups)
        names = [name for name in runs.tasks if name not in generated]
        own = settings.value != "zero"  # each task has runs of its own
        parts = [[name] for name in names] if own else [names] if names else []
        tokens = sum(self.validation_tokens(part, most) for part in parts)
        passes = runs.passes if self.rates.shares else runs.sets
        return seconds + self.rates.lesion(passes * tokens, runs.groups * len(parts))

    def _growth(self, study: StudyConfig, settings: IapSettings, steps: int) -> float:
        """Importance and own lesions at each step, and the probes of step 0."""
        few = replace(settings.of_largest, controls=0, random=0)
        each = self.importances(few) + self.lesions(few, self.work(few))
        probed = sum(self._tokens(task, "train", PROBE_EXAMPLES) for task in self.tasks)
        return (1 + len(growth_steps(study, steps))) * each + self.rates.lesion.each * probed

    def _agreement(self, study: StudyConfig, settings: IapSettings) -> float:
        single = self.rates.single or self.rates.lesion
        most, seconds = study.iap.agreement_examples, 0.0
        for task in self._lesioned(settings):
            tokens = self._tokens(task, settings.importance_split, most)
            seconds += single(tokens * (self.layout.total + 1))
            seconds += self.rates.importance(len(AGGREGATES) * tokens, len(AGGREGATES))
        return seconds

    def _similarity(self, study: StudyConfig, settings: IapSettings) -> float:
        most, tasks = study.iap.similarity_examples, self.tasks
        if not most or len(tasks) < 2 or len(self._lesioned(settings)) < len(tasks):
            return 0.0
        seconds = 0.0
        if len(tasks) * self.weights <= MOST_GRADIENT_BYTES:
            split = settings.importance_split
            tokens = sum(self._tokens(task, split, most) for task in tasks)
            seconds += _WITH_WEIGHTS * self.rates.importance(tokens, len(tasks))
        if isinstance(self.loaded.model, MultiTaskModel):
            tokens = sum(self._tokens(task, "validation", most) for task in tasks)
            seconds += self.rates.lesion(len(tasks) * tokens, len(tasks))
        return seconds

    def _lesioned(self, settings: IapSettings) -> list[Task]:
        chosen = settings.lesion_tasks
        return [task for task in self.tasks if chosen is None or task.name in chosen]

    # Tokens

    def _tokens(self, task: Task, split: str, most: int) -> float:
        return min(most, len(examples_of(task, split))) * self.mean(task, split)

    def mean(self, task: Task, split: str) -> float:
        """Return how many tokens an example of a task's split has in the mean."""
        if (task.name, split) not in self._means:
            self._means[task.name, split] = mean_tokens(self.loaded, task, split)
        return self._means[task.name, split]

    @cached_property
    def _validation(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Which inputs each task has, and how long all are; inputs that tasks share are one."""
        work = prepare(self.loaded.model, self.tasks, split="validation")
        return dict(work.places), tokens_of(work.inputs)

    def validation_tokens(self, names: Iterable[str], most: int | None = None) -> float:
        """Return how many tokens the inputs of some tasks have, on `most` examples of each."""
        places, lengths = self._validation
        found, share = [], 0.0
        for name in names:
            count = len(examples_of(self._task(name), "validation"))
            found.append(places[name])
            share = max(share, 1.0 if most is None else min(1.0, most / count))
        return share * float(lengths[np.unique(np.concatenate(found))].sum())

    def _task(self, name: str) -> Task:
        return next(task for task in self.tasks if task.name == name)

    # Memory, disk and power

    @property
    def memory(self) -> int:
        """The bytes at the peak while it was measured, with the largest batch of a training."""
        training, peak = self.rates.training, self.rates.memory
        if training is None:
            return peak
        # a copy was trained, and perhaps not on the largest batch
        more = training.activations * (training.longest / training.measured - 1)
        return int(peak - self.weights + max(0.0, more))

    def _disk(
        self, study: StudyConfig, work: LesionWork, sizes: Sequence[int], pace: Rhythm | None
    ) -> tuple[int, int]:
        """The bytes of the run's folder in the end, and the most on the way."""
        sampled = study.iap.control_examples
        of_tasks = dict(zip((task.name for task in self.tasks), sizes, strict=True))
        predictions = sum(
            runs.sets
            * sum(
                min(of_tasks[name], sampled if runs.sampled and sampled else 2**62)
                for name in runs.tasks
            )
            for runs in work.runs
        )
        texts = 0
        if study.keep_texts:
            texts = sum(_bytes_of(examples_of(task, "validation").texts) for task in self.tasks)
        least = int(_PREDICTION * predictions) + texts // 2 + PAGES
        if pace is None:
            return least, least
        saved = min(3, pace.steps // pace.save_every + 1)  # two are kept, and one is written
        kept = len(growth_steps(study, pace.steps))
        during = max((3 * saved + kept + 1) * self.weights, kept * self.weights + least)
        return self.weights + least, self.weights + max(least, during)

    def _power(self, settings: IapSettings, examples: int) -> list[Power] | None:
        if len(self.tasks) < 2 or len(self._lesioned(settings)) < len(self.tasks):
            return None
        planned = HeadStudy(
            tasks=len(self.tasks),
            examples=examples,
            heads=self.layout.total,
            fractions=tuple(settings.fractions),
            replicates=settings.controls,
        )
        look = look_of(settings.controls) if settings.stop else None
        return power_of(planned, D_SCORES, look=look)


def ablates_alone(study: StudyConfig) -> bool:
    """Return whether a study has runs in which one head is ablated."""
    methods = {study.iap.method, *([study.iat.method] if study.iat else [])}
    return "ablation" in methods or study.iap.agreement_examples > 0


def _as_json(power: Power) -> dict[str, float | None]:
    """A power with null for what is undefined."""
    return {name: None if value != value else value for name, value in asdict(power).items()}


def sizes_of(study: StudyConfig) -> dict[str, int | None]:
    """Return the settings that a budget may change, by their keys in a study file."""
    iap = study.iap
    return {
        "training.steps": study.training.steps,
        "iap.controls": iap.controls,
        "iap.random": iap.random,
        "iap.control_examples": iap.control_examples,
        "iap.importance_examples": iap.importance_examples,
        "iap.agreement_examples": iap.agreement_examples,
        "iap.similarity_examples": iap.similarity_examples,
    }


def _bytes_of(texts: Sequence[tuple[str, ...]]) -> int:
    """About how many bytes texts have, from some of them."""
    some = [texts[place] for place in range(0, len(texts), max(1, len(texts) // 200))]
    each = sum(len(text) for example in some for text in example) / max(len(some), 1)
    return int(each * len(texts))
