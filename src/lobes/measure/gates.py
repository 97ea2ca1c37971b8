"""Which heads a task needs, can spare or is harmed by, learned as a gate on each head.

Definition: docs/method.md#gates.

Every context c(s,h) is multiplied by a gate z(s,h) = sigmoid(a(s,h)), and the logits a are learned
on a task's loss with all weights frozen: with + λ Σ z, so that the gates of heads that the task can
spare close, and with − λ Σ z, so that those of heads that do no harm open.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lobes import limits
from lobes.ablation import ContextRecord, ablate, record_contexts
from lobes.discovery import layout_of
from lobes.discovery.contexts import argument_with, contexts_of
from lobes.discovery.scope import Hook, Scope
from lobes.errors import ConfigError
from lobes.heads import HeadLayout, HeadSet
from lobes.measure.batches import Batch, Batches, TaskBatches, check_task
from lobes.measure.estimates import Estimate, Options, check_terms, terms_of
from lobes.measure.measuring import measuring
from lobes.modeling import TaskModel
from lobes.modeling.task_model import check_task_model
from lobes.progress import Progress, counted, shown_progress
from lobes.scores import HeadScores
from lobes.sites import Site
from lobes.tasks.task import Task
from lobes.transfers import moved

# Gates start mostly open, and not alike, so that of two heads that do the same either may close.
_START, _SPREAD = 2.0, 0.5

# The loss with all heads and with none, which sets λ, is that of so many batches at most.
_BATCHES_FOR_PENALTY = 16

# λ where the loss does not depend on any head.
_LEAST_PENALTY = 1e-6

Gates = Float[np.ndarray, "seeds sites heads"]


@dataclass(frozen=True, slots=True, eq=False)
class HeadGates:
    """The gates that each seed learned: 0 closed, 1 open; NaN where a site has fewer heads.

    `closing` [seeds, sites, heads] are those learned with the penalty + λ Σ z, which closes what
    the task can spare; `opening` those with − λ Σ z, which opens what does no harm. Seed k learned
    on half k % 2 of the examples where `halved`. `settings` records how, and λ as "lambda".
    """

    closing: Gates
    opening: Gates
    settings: Mapping[str, object] = field(default_factory=dict)
    halved: bool = False

    def __repr__(self) -> str:
        seeds, sites, heads = self.closing.shape
        return f"HeadGates({seeds} seeds, {sites} × {heads} heads)"

    @property
    def needed(self) -> HeadScores:
        """Mean over seeds of the lower of a head's two gates: 1 where both are open."""
        return self._mean(np.minimum(self.closing, self.opening))

    @property
    def spare(self) -> HeadScores:
        """Mean over seeds of how far a head's two gates differ."""
        return self._mean(np.abs(self.opening - self.closing))

    @property
    def harmful(self) -> HeadScores:
        """Mean over seeds of 1 − the higher of a head's two gates: 1 where both are closed."""
        return self._mean(1 - np.maximum(self.closing, self.opening))

    def roles(self, threshold: float = 0.5) -> dict[str, HeadSet]:
        """Return the heads whose share in a role is above `threshold`, and those of no role.

        The roles are "needed", "spare" and "harmful"; "unclear" are the other heads: gates half
        open, or seeds that disagree. A head's three shares add up to 1.
        """
        limits.check_number("threshold", threshold, limits.GATE_SHARE)
        shares = {"needed": self.needed, "spare": self.spare, "harmful": self.harmful}
        roles = {
            role: HeadSet(np.argwhere(scores.values > threshold).tolist())
            for role, scores in shares.items()
        }
        heads = HeadSet(np.argwhere(~np.isnan(self.closing[0])).tolist())
        return {**roles, "unclear": heads - roles["needed"] - roles["spare"] - roles["harmful"]}

    def _mean(self, values: Gates) -> HeadScores:
        halves = np.stack([values[k::2].mean(axis=0) for k in (0, 1)]) if self.halved else None
        return HeadScores(values.mean(axis=0), self.settings, halves)


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """How gates are learned: the settings of `head_gates`, checked; raises `ConfigError`."""

    seeds: Annotated[int, limits.SEEDS] = 4
    steps: Annotated[int, limits.STEPS] = 30
    batch_size: Annotated[int, limits.BATCH_SIZE] = 32
    learning_rate: Annotated[float, limits.LEARNING_RATE] = 0.3
    penalty: Annotated[float, limits.PENALTY] = 1.0

    def __post_init__(self) -> None:
        limits.check_settings(self)


def head_gates(
    model: TaskModel,
    task: Task,
    *,
    seeds: int = 4,
    steps: int = 30,
    batch_size: int = 32,
    learning_rate: float = 0.3,
    penalty: float = 1.0,
    precision: str = "fp32",
    split: str = "train",
    max_examples: int | None = None,
    seed: int = 0,
    tokens_per_batch: int | None = None,
    layout: HeadLayout | None = None,
    progress: Progress | bool | None = None,
) -> HeadGates:
    """Learn which heads a task needs, which it can spare and which harm it.

    Each of the `seeds` starts from random gates, mostly open, and takes `steps` steps of Adam with
    either sign of the penalty; each step is a forward and a backward pass of `batch_size` examples
    at most, 2 · seeds · steps of them in all. The batches are of `max_examples` (all by default)
    of the task's examples, drawn with `seed`; half of the seeds learn from one random half, the
    others from the other. λ is `penalty` times the loss that a head is worth in the mean: the rise
    of the loss when all heads are ablated, divided by their number.

    The model is in evaluation mode, its weights frozen; modes, flags, hooks and gradients are as
    before afterwards. `precision`, `split`, `tokens_per_batch` (the most tokens in a batch) and
    `layout` are as in `head_importance`, and so is what is raised.
    """
    settings = GateSettings(
        seeds=seeds,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        penalty=penalty,
    )
    options = Options(method="gates", max_examples=max_examples, seed=seed)
    check_task_model(model)
    report = shown_progress(progress, "gates")
    check_task(task)
    layout = layout_of(model, layout)
    with measuring(model, precision, gradients=True) as measured:
        data = TaskBatches(measured, task, split, max_examples, seed, tokens_per_batch)
        return learn_gates(measured, data, layout, settings, options.seed, report)


def gates(
    model: nn.Module,
    batches: Batches,
    layout: HeadLayout,
    options: Options,
    progress: Progress | None = None,
) -> Estimate:
    """How much a task needs each head, by gates learned from several seeds."""
    if not isinstance(batches, TaskBatches):
        raise ConfigError(
            'method="gates" takes a task, from whose examples it draws batches of its own, not '
            "batches and a loss function."
        )
    needed = learn_gates(model, batches, layout, GateSettings(), options.seed, progress).needed
    return Estimate(needed.values, len(batches.places), needed.halves)


def learn_gates(
    model: nn.Module,
    data: TaskBatches,
    layout: HeadLayout,
    settings: GateSettings,
    seed: int,
    progress: Progress | None = None,
) -> HeadGates:
    """Learn the gates of a model that is frozen and in evaluation mode; see `head_gates`."""
    halved = settings.seeds > 1 and len(data.places) > 1
    strength = settings.penalty * _worth(model, data, layout, settings.batch_size, seed)
    done = counted(range(2 * settings.seeds * settings.steps), progress)
    learned: dict[int, list[np.ndarray]] = {1: [], -1: []}
    for k in range(settings.seeds):
        generator = np.random.default_rng([seed, k])
        start = generator.normal(_START, _SPREAD, len(layout.all_heads()))
        parts = _parts(data, settings.batch_size, k % 2 if halved else None)
        drawn = _drawn(data, parts, settings.steps, generator)
        share = len(parts) / sum(map(len, parts))
        for sign, found in learned.items():
            optimizer = _Gates(layout, start, sign * strength, settings.learning_rate)
            steps = (batch for batch, _ in zip(drawn, done, strict=False))
            found.append(optimizer.learn(model, steps, share))
    list(done)  # reports the last step
    about = {"task": data.spec.name, "examples": len(data.places), "lambda": strength, "seed": seed}
    closing, opening = map(np.stack, learned.values())
    return HeadGates(closing, opening, {**about, **asdict(settings)}, halved)


class _Gates:
    """A gate on each head and what learns it; `strength` is λ with its sign."""

    def __init__(
        self,
        layout: HeadLayout,
        start: Float[np.ndarray, " heads"],
        strength: float,
        learning_rate: float,
    ) -> None:
        self.layout, self.strength = layout, strength
        self.logits = torch.tensor(start)
        self.gates = self.logits.sigmoid()
        self.by_site = self.gates.split([site.n_heads for site in layout.sites])  # views
        self.optimizer = torch.optim.Adam([self.logits], lr=learning_rate)

    def learn(
        self, model: nn.Module, batches: Iterable[Batch], share: float
    ) -> Float[np.ndarray, "sites heads"]:
        """Take a step on each batch, `share` times whose loss is that of the mean example."""
        with (
            gated(model, self.layout, self.by_site),
            record_contexts(model, layout=self.layout, gradients=True) as record,
        ):
            for batch in batches:
                slopes = share * gate_slopes(batch, record) + self.strength * self.gates
                self.logits.grad = (1 - self.gates) * slopes
                self.optimizer.step()
                self.gates.copy_(self.logits.sigmoid())
        table = np.full(self.layout.shape, np.nan)
        for site, row in enumerate(self.by_site):
            table[site, : len(row)] = row.numpy()
        return table


def gate_slopes(batch: Batch, record: ContextRecord) -> Float[Tensor, " heads"]:
    """Return z · ∂L/∂z of every head's gate, L the sum of a batch's losses, by one run of it.

    A gate acts through its own context y = z·c alone, so that z · ∂L/∂z is Σ y · ∂L/∂y over its
    positions and channels: autograd need not know the gates.
    """
    losses, terms = terms_of(batch, record)
    found = [losses.sum()[None], *(each.sum((0, 1)) for each in terms)]
    sums = torch.cat([each.double().to(losses.device) for each in found]).detach().cpu()
    if not bool(sums.isfinite().all()):
        check_terms(losses, terms, batch, record.layout)
    return sums[1:]


@contextmanager
def gated(
    model: nn.Module, layout: HeadLayout, gates: Sequence[Float[Tensor, " _"]]
) -> Iterator[None]:
    """Multiply every head's contexts by its gate inside the block; `gates` has a row a site.

    The gates are read at each run of the model, so that they may change inside the block.
    """

    def hook_of(site: Site) -> Hook:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            contexts = contexts_of(site, module, args[0])
            factors = gates[site.index].repeat_interleave(site.head_dim)
            factors = moved(factors, contexts.device, contexts.dtype)
            return argument_with(site, module, args[0], contexts * factors), *args[1:]

        return hook

    hooks = {site.index: hook_of(site) for site in layout.sites}
    # First, so that a recorder inside the block sees the gated contexts.
    with Scope(model, layout, hooks, what="head_gates", first=True).entered():
        yield


def _parts(
    data: TaskBatches, batch_size: int, half: int | None = None
) -> list[Int[np.ndarray, " _"]]:
    """The batches of a half of the examples, or of all, cut to `batch_size` examples."""
    parts: list[np.ndarray] = []
    for batch in data.batches:
        chosen = batch if half is None else batch[data.halves[batch] == half]
        if len(chosen):
            parts += np.array_split(chosen, -(-len(chosen) // batch_size))
    return parts


def _drawn(
    data: TaskBatches,
    parts: list[Int[np.ndarray, " _"]],
    steps: int,
    generator: np.random.Generator,
) -> TaskBatches:
    """So many batches in random order, each once before any comes again."""
    passes = range(-(-steps // len(parts)))
    order = np.concatenate([generator.permutation(len(parts)) for _ in passes])[:steps]
    drawn = copy(data)
    drawn.batches = [parts[place] for place in order]
    return drawn


def _worth(
    model: nn.Module, data: TaskBatches, layout: HeadLayout, batch_size: int, seed: int
) -> float:
    """How much the mean loss changes when all heads are ablated, divided by their number."""
    parts = _parts(data, batch_size)
    number = min(len(parts), _BATCHES_FOR_PENALTY)
    drawn = _drawn(data, parts, number, np.random.default_rng(seed))
    means = []
    for lesion, about in ((HeadSet(), ""), (layout.all_heads(), " with all heads ablated")):
        found = []
        with ablate(model, lesion, layout=layout), torch.no_grad():
            for batch in drawn:
                losses = batch.losses()
                batch.check(losses, f"The losses{about}")
                found.append(losses.double().cpu())
        means.append(torch.cat(found).mean().item())
    return max(abs(means[1] - means[0]) / len(layout.all_heads()), _LEAST_PENALTY)
