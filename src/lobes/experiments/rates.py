"""Measure how fast a study's model runs here, on batches of the study's own data, in seconds.

Each computation is timed on more and more examples, those in the middle of the lengths, until it
takes long enough to be timed well. What it costs is a fixed time and one for each token.
"""

import gc
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lobes.experiments.loading import Loaded, with_adapters
from lobes.experiments.training import study_trainer
from lobes.heads import HeadLayout, HeadSet
from lobes.measure.evaluation import Evaluator, task_means
from lobes.measure.importance import head_importance
from lobes.measure.workload import examples_of, tokens_of
from lobes.modeling import MultiTaskModel
from lobes.modeling.attention_kernels import fast_gradients
from lobes.tasks.task import Task
from lobes.training.trainer import MultiTaskTrainer

try:
    import resource
except ImportError:  # pragma: no cover - a system without it tells no memory
    resource = None  # type: ignore[assignment]

# So many seconds are timed well enough, so many take too long to time four times as much.
_ENOUGH = 0.4
_LONG = 3.0
_WHOLE = 2.0  # seconds of whole training steps
_GROWTH = 4

# So many examples of a task show how long its texts are, and train a step.
_LOOKED_AT = 2_000

# So many batches show how many tokens a training's batches have.
_BATCHES = 200


@dataclass(frozen=True)
class Cost:
    """The seconds of a computation: `fixed` for each call, and `each` for a token in one run."""

    fixed: float
    each: float

    def __call__(self, tokens: float, calls: float = 1.0) -> float:
        return self.fixed * calls + self.each * tokens

    @classmethod
    def through(cls, few: tuple[float, float], many: tuple[float, float]) -> "Cost":
        """Return the cost by (tokens, seconds) of few tokens and of many.

        What many take is met; the fixed part is at most what few take.
        """
        (some, short), (tokens, seconds) = few, many
        slope = (seconds - short) / (tokens - some) if tokens > some else seconds / tokens
        fixed = min(max(0.0, seconds - slope * tokens), short, seconds)
        return cls(fixed, (seconds - fixed) / tokens)


@dataclass(frozen=True)
class TrainingRate:
    """A step of the training in seconds by the tokens of its batch, padding included.

    `tokens` are those of a step's batch in the mean, `longest` of the largest one; `activations`
    the bytes that a step took beside the model with its gradients and the optimizer's state, for
    a batch of `measured` tokens.
    """

    cost: Cost
    tokens: float
    longest: int
    activations: int
    measured: int

    @property
    def step(self) -> float:
        """Seconds for a step in the mean."""
        return self.cost(self.tokens)


@dataclass(frozen=True)
class Rates:
    """What is measured of a study's model on this machine.

    `lesion` is a run of the model under a lesion, `single` one with a single head ablated (None
    where the study has none), `importance` a forward and a backward pass to the contexts.
    `generated` are, for each task that generates text, runs under a lesion by their examples.
    `trial` is what comes before the first lesion, in seconds: the model is tried out. `shares` says
    whether lesions then share layers. `memory` is the peak of this process in bytes when all was
    measured, of the accelerator where there is one.
    """

    lesion: Cost
    importance: Cost
    single: Cost | None
    training: TrainingRate | None
    generated: Mapping[str, Cost]
    memory: int
    trial: float = 0.0
    shares: bool = True


def measure_rates(loaded: Loaded, layout: HeadLayout, *, single: bool, train: bool) -> Rates:
    """Measure how fast a study's model runs here; the random states are as before afterwards.

    `single`: whether single heads are ablated in the study; `train`: whether it trains. Then a
    copy of the model is trained for a few steps, with nothing written.
    """
    with _same_randomness():
        training = _training(loaded) if train else None
        fraction = loaded.study.iap.fractions[-1]
        texts = [task for task in loaded.tasks if loaded.model.generates(task.name)]
        others = [task for task in loaded.tasks if task not in texts]
        generated = {task.name: _lesion(loaded, [task], layout, fraction)[0] for task in texts}
        lesion, trial, shares = Cost(0.0, 0.0), 0.0, True
        if others:
            lesion, trial, shares = _lesion(loaded, others, layout, fraction)
        importance = _importance(loaded, layout)
        each = None
        if single:
            each = _lesion(loaded, others, layout, None)[0] if others else importance
    peak = _peak(loaded.model.device)
    return Rates(lesion, importance, each, training, generated, peak, trial, shares)


@contextmanager
def _same_randomness() -> Iterator[None]:
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _timed(run: Callable[[int], float], sizes: Sequence[int]) -> tuple[Cost, float]:
    """Time `run(size)`, which returns its tokens, on ascending sizes until it takes long enough.

    The larger sizes are those that tell what a token costs; a long run of few tells enough. Returns
    the cost, and how much longer the first run takes, which prepares the others.
    """
    start = time.perf_counter()
    run(sizes[0])
    first = time.perf_counter() - start
    few = many = _seconds(run, sizes[0])
    for size in sizes[1:]:
        if many[1] - few[1] >= _ENOUGH or many[1] >= _LONG:
            break
        many = _seconds(run, size)
    return Cost.through(few, many), max(0.0, first - few[1])


def _seconds(run: Callable[[int], float], size: int) -> tuple[float, float]:
    """The tokens and the seconds of a run; the shorter of two where it is short."""
    found: list[float] = []
    while len(found) < 2 and sum(found) < _ENOUGH:
        start = time.perf_counter()
        tokens = run(size)
        found.append(time.perf_counter() - start)
    return tokens, min(found)


def _sizes(most: int) -> list[int]:
    """2, 8, 32, … and the most."""
    sizes = [2]
    while sizes[-1] < most:
        sizes.append(min(most, sizes[-1] * _GROWTH))
    return [min(size, most) for size in sizes]


class _Middle:
    """Some examples of a task's split, those in the middle of the lengths, by tokens."""

    def __init__(self, loaded: Loaded, task: Task, split: str) -> None:
        self.task, self.split = task, split
        examples = examples_of(task, split)
        places = np.arange(len(examples))
        if len(places) > _LOOKED_AT:
            places = np.random.default_rng(0).choice(places, _LOOKED_AT, replace=False)
        inputs = loaded.model.encode(task.name, examples.select(places))
        order = np.argsort(inputs.lengths, kind="stable")
        self.places, self.tokens = places[order], tokens_of(inputs)[order]
        half = self.tokens.sum() / 2
        self.middle = int(np.searchsorted(np.cumsum(self.tokens), half))

    @property
    def mean(self) -> float:
        """How many tokens an example has in the mean."""
        return float(self.tokens.mean())

    def chosen(self, size: int) -> slice:
        """Where so many examples are among `places`."""
        start = max(0, min(self.middle - size // 2, len(self.places) - size))
        return slice(start, start + size)

    def some(self, size: int) -> tuple[Task, int]:
        """Return the task with so many examples in its validation data and training data alike.

        And how many tokens they have.
        """
        chosen = self.chosen(size)
        examples = examples_of(self.task, self.split).select(np.sort(self.places[chosen]))
        # `replace` would refuse those that are all of one class
        task = Task.of(self.task.spec, train=examples, validation=examples)
        return task, int(self.tokens[chosen].sum())


def mean_tokens(loaded: Loaded, task: Task, split: str) -> float:
    """Return how many tokens an example of a task's split has in the mean, from up to 2,000."""
    return _Middle(loaded, task, split).mean


def _longest(loaded: Loaded, tasks: Sequence[Task], split: str) -> _Middle:
    """The task with the longest examples."""
    return max((_Middle(loaded, task, split) for task in tasks), key=lambda each: each.mean)


def _lesion(
    loaded: Loaded, tasks: Sequence[Task], layout: HeadLayout, fraction: float | None
) -> tuple[Cost, float, bool]:
    """A run with so many heads ablated; with None, with one head, at sites evenly spaced.

    On the longest of the tasks; of one that generates text, by its examples instead of tokens. Also
    the seconds of the trial before the first run, and whether runs then share layers.
    """
    settings = loaded.study.iap
    middle = _longest(loaded, tasks, "validation")
    generates = loaded.model.generates(middle.task.name)
    drawn = np.random.default_rng(0)
    if fraction is None:
        last = len(layout.sites) - 1
        lesions = [HeadSet([(site, 0)]) for site in sorted({0, last // 2, last})]
    else:
        count = max(1, int(fraction * layout.total))
        lesions = [layout.random(count, drawn) for _ in range(2)]
        if settings.lesion == "keep":
            lesions = [layout.all_heads() - heads for heads in lesions]
    sets = [HeadSet(), *lesions]
    means = None
    if settings.value != "zero":
        means = task_means(loaded.model, middle.some(8)[0], layout=layout)
    task, _ = middle.some(len(middle.places))
    evaluator = Evaluator(
        loaded.model,
        task,
        value=settings.value,
        means=means,
        precision=loaded.precision,
        layout=layout,
    )
    # the places of the middle's examples among those of the task
    ranks = np.argsort(np.argsort(middle.places))

    def run(size: int) -> float:
        some, tokens = middle.some(size)
        places = np.sort(ranks[middle.chosen(size)])
        part = evaluator.some([some], {some.name: places})
        part.run(sets)
        shares.append(part.shares)
        return (size if generates else tokens) * len(sets)

    shares: list[bool] = []
    cost, trial = _timed(run, _sizes(len(middle.places)))
    return cost, trial, all(shares)


def _importance(loaded: Loaded, layout: HeadLayout) -> Cost:
    """A forward and a backward pass over examples, as importance takes them."""
    split = loaded.study.iap.importance_split
    middle = _longest(loaded, loaded.tasks, split)

    def run(size: int) -> float:
        task, tokens = middle.some(size)
        head_importance(loaded.model, task, precision=loaded.precision, split=split, layout=layout)
        return tokens

    return _timed(run, _sizes(len(middle.places)))[0]


def _training(loaded: Loaded) -> TrainingRate:
    """Steps of a training on batches as the study draws them; the model given is not trained."""
    tasks = [_fewer(task, loaded.tasks) for task in loaded.tasks]
    model = deepcopy(loaded.model)
    assert isinstance(model, MultiTaskModel)
    model = with_adapters(loaded.study, model)
    trainer = study_trainer(loaded.study, Path("unused"), model, tasks)
    lengths, batches = trainer.data.lengths, []
    for _, batch in zip(range(_BATCHES), trainer.sampler, strict=False):
        batches.append(batch)
    tokens = [int(lengths[batch].max()) * len(batch) for batch in batches]
    before = _peak(loaded.model.device)
    few, many = _steps(trainer, batches)
    grown = _peak(loaded.model.device) - before
    weights = [each for each in model.parameters() if each.requires_grad]
    state = 3 * sum(each.numel() * each.element_size() for each in weights)
    del trainer, model
    gc.collect()
    activations = max(0, grown - state)
    cost = Cost.through(few, many)
    return TrainingRate(cost, float(np.mean(tokens)), max(tokens), activations, int(many[0]))


def _steps(
    trainer: MultiTaskTrainer, batches: Sequence[list[int]]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """(tokens, seconds) of a step with few examples, and of whole steps in the mean.

    Where a whole step takes long, of one with more examples instead.
    """
    trainer.create_optimizer()
    _step(trainer, batches[0][:2])  # the first step of anything takes longer
    few = many = _step(trainer, batches[0][:2])
    for size in _sizes(len(batches[0]))[1:]:
        if many[1] >= _LONG:
            return few, many
        many = _step(trainer, batches[0][:size])
    whole = [many]
    for batch in batches[1:]:
        if sum(seconds for _, seconds in whole) >= _WHOLE:
            break
        whole.append(_step(trainer, batch))
    tokens, seconds = np.mean(whole, axis=0).tolist()
    return few, (tokens, seconds)


def _step(trainer: MultiTaskTrainer, batch: list[int]) -> tuple[float, float]:
    """Take a step on a batch: its tokens, padding included, and its seconds."""
    trainer.model.train()
    start = time.perf_counter()
    inputs: dict[str, Any] = trainer._prepare_inputs(trainer.data.collate(batch))
    with fast_gradients(trainer.args.device):
        with trainer.accelerator.autocast():
            loss = trainer.compute_loss(trainer.model, inputs)
        loss.backward()
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    if trainer.args.device.type == "cuda":
        torch.cuda.synchronize(trainer.args.device)
    tokens = int(trainer.data.lengths[batch].max()) * len(batch)
    return float(tokens), time.perf_counter() - start


def _fewer(task: Task, tasks: Sequence[Task]) -> Task:
    """A task with a share of its training data, the same for all tasks."""
    examples = examples_of(task, "train")
    largest = max(len(examples_of(each, "train")) for each in tasks)
    number = max(2, round(len(examples) * min(1.0, _LOOKED_AT / largest)))
    if number >= len(examples):
        return task
    places = np.random.default_rng(0).choice(len(examples), number, replace=False)
    some = examples.select(np.sort(places))
    return Task.of(task.spec, train=some, validation=task.validation)


def _peak(device: torch.device) -> int:
    """The most memory so far, in bytes: of the accelerator, or of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if resource is None:
        return 0
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else 1024 * size
