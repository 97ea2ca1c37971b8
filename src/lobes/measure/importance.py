"""Head importance: how much a task's loss depends on each head (docs/method.md#importance).

    I(s,h) = 1/T · Σ_x Σ_t | Σ_d c[x,t,d] · ∂L_x/∂c[x,t,d] |

x runs over the examples, t over the real (not padding) positions, d over the head's channels; T is
the number of real tokens and L_x the loss of example x by itself. Where the batch has a mask, T is
the number of its ones at every site, also where a site has other positions, because the model
pools them or pads them to whole windows: how many these are depends on the rest of the batch. Only
the gradients of the contexts are computed: the parameters are frozen and the graph begins at the
first site.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lobes import limits
from lobes.ablation import ContextRecord, ablate, checked_batches, on_model, record_contexts
from lobes.discovery import layout_of
from lobes.discovery.positions import decoder_sites, real_positions
from lobes.errors import ConfigError, DataError
from lobes.heads import HeadLayout, Heads, HeadScores, HeadSet
from lobes.measure.evaluation import (
    check_finite,
    cut,
    examples_of,
    measuring,
    spec_of,
)
from lobes.modeling import TaskModel, example_losses
from lobes.progress import Progress, check_progress, counted
from lobes.replay import Replay
from lobes.tasks.task import Task

Method = Literal["taylor", "ablation"]
Aggregate = Literal["token", "sequence"]
Normalize = Literal["none", "layer"]
Loss = Callable[[Any, Any], Tensor]


def head_importance(
    model: nn.Module,
    task: Task | None = None,
    *,
    batches: Iterable[Mapping[str, Any]] | None = None,
    loss: Loss | None = None,
    method: str = "taylor",
    aggregate: str = "token",
    normalize: str = "none",
    precision: str = "fp32",
    split: str = "train",
    max_examples: int | None = None,
    seed: int = 0,
    ablated: Heads | None = None,
    tokens_per_batch: int | None = None,
    layout: HeadLayout | None = None,
    progress: Progress | None = None,
) -> HeadScores:
    """Score every head of a model by how much a task's loss depends on it.

    Either `task`, one of the tasks that a `MultiTaskModel` was made for; or, for any model,
    `batches` of keyword inputs and `loss(outputs, batch) -> [batch]`, each example's own loss.

    `method="taylor"`: the first-order score above. `aggregate="token"` sums the absolute values
    over positions and divides by the number of real tokens; `"sequence"` takes the absolute value
    of an example's whole sum and divides by the number of examples (Michel, Levy and Neubig
    2019). `method="ablation"`: the exact rise of the mean loss when that one head is ablated; it
    takes a run of the model for each head. `normalize="layer"` divides each site's scores by
    their L2 norm.

    `max_examples` takes that many of the task's examples at random (`seed`); the heads `ablated`
    are ablated throughout. The result depends neither on the size of the batches nor on the
    order of the examples, beyond rounding. Modes, flags and gradients are as before afterwards.
    Raises `ConfigError` for a setting that does not exist, `DataError` for a task without data,
    `ModelError` naming the examples whose loss, or its gradient, is not finite.
    """
    _check(method, Method, "method")
    _check(aggregate, Aggregate, "aggregate")
    _check(normalize, Normalize, "normalize")
    check_progress(progress)
    if max_examples is not None:
        limits.check_number("max_examples", max_examples, limits.EXAMPLES)
    limits.check_number("seed", seed, limits.SEED)
    layout = layout_of(model, layout)
    given = HeadSet.of(() if ablated is None else ablated, layout)
    if task is not None and not isinstance(task, Task):
        given_as = f"the text {task!r}" if isinstance(task, str) else f"a {type(task).__name__}"
        raise ConfigError(f"task is a lobes.Task, with examples of its own, not {given_as}.")
    if loss is not None and not callable(loss):
        raise ConfigError(
            f"loss is a function loss(outputs, batch) -> [batch], not a {type(loss).__name__}."
        )
    settings: dict[str, object] = {"method": method, "aggregate": aggregate}
    with measuring(model, precision) as measured, ablate(measured, given, layout=layout):
        steps: TaskSteps | _BatchSteps
        if task is not None and batches is None and loss is None:
            steps = TaskSteps(measured, task, split, max_examples, seed, tokens_per_batch)
            settings |= {"task": task.name, "split": split}
        elif task is None and batches is not None and loss is not None:
            steps = _BatchSteps(measured, layout, batches, loss)
        else:
            raise ConfigError("Give either a task, or batches together with a loss function.")
        shown = _with_progress(steps, progress)
        if method == "taylor":
            values, examples = _taylor(measured, shown, layout, aggregate)
        else:
            values, examples = _single_ablations(measured, shown, layout)
    settings |= {"examples": examples}
    if steps.tokens is not None:
        settings["tokens"] = steps.tokens
    scores = HeadScores(values, {**settings, "normalize": "none"})
    return scores.normalized() if normalize == "layer" else scores


def _check(value: str, allowed: Any, name: str) -> None:
    if value not in get_args(allowed):
        raise ConfigError(f"{name} is one of {', '.join(get_args(allowed))}, not {value!r}.")


@dataclass(frozen=True)
class _Step:
    """One batch: how to compute its examples' losses [batch], and its real positions at a site.

    The model may read several sequences for each example, `copies`, one after the other. `places`
    are those of the examples among all, counted over batches where None, and `of` says whose they
    are.
    """

    losses: Callable[[], Tensor]
    real: Callable[[int], Tensor | None]
    copies: int = 1
    places: Int[np.ndarray, " batch"] | None = None
    of: str = ""

    def check(self, values: Tensor, what: str, before: int = 0, ablated: str = "") -> None:
        """Raise `ModelError` where an example's numbers [batch, …] are not finite.

        `before` is how many examples came in the batches before.
        """
        places = np.arange(before, before + len(values)) if self.places is None else self.places
        lesion = f" with the head {ablated} ablated" if ablated else ""
        check_finite(values.detach().float().cpu().numpy(), places, f"{what}{self.of}{lesion}")


class TaskSteps:
    """The steps of a task's examples, sorted by length."""

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        split: str,
        max_examples: int | None,
        seed: int,
        tokens_per_batch: int | None,
    ) -> None:
        if not isinstance(model, TaskModel):
            raise ConfigError(
                f"A task is scored on a lobes MultiTaskModel, not on a {type(model).__name__}: "
                f"for any other model give batches=… and loss=… instead of a task."
            )
        examples = examples_of(task, split)
        self.places = np.arange(len(examples))
        if max_examples is not None and max_examples < len(examples):
            generator = np.random.default_rng(seed)
            chosen = generator.choice(len(examples), size=max_examples, replace=False)
            self.places = np.sort(chosen)
            examples = examples.select(self.places)
        self.of = f" of task {task.name!r} ({split} data)"
        self.model, self.spec, self.labels = model, spec_of(model, task), examples.labels
        self.device = next(model.parameters()).device
        self.encoded = model.encode(task.name, examples)
        self.batches = cut(model, task.name, self.encoded, tokens_per_batch)
        self.tokens: int | None = int(self.encoded.lengths.sum())

    def __len__(self) -> int:
        return len(self.batches)

    def batches_with_inputs(self) -> Iterator[tuple[Int[np.ndarray, " batch"], dict[str, Tensor]]]:
        """Yield each batch as positions among the examples, and its inputs."""
        for batch in self.batches:
            yield batch, self.encoded.collate(batch, self.device)

    def __iter__(self) -> Iterator[_Step]:
        for batch, inputs in self.batches_with_inputs():
            gold = torch.as_tensor(self.labels[batch], device=self.device)
            yield _Step(
                lambda inputs=inputs, gold=gold: example_losses(  # type: ignore[misc]
                    self.model.task_logits(self.spec.name, **inputs), gold, self.spec
                ),
                lambda site, inputs=inputs: self.model.real(  # type: ignore[misc]
                    self.spec.name, inputs
                ),
                self.model.copies(self.spec.name),
                self.places[batch],
                self.of,
            )


class _BatchSteps:
    """The steps of batches that the user brings, with their own loss function."""

    def __init__(
        self,
        model: nn.Module,
        layout: HeadLayout,
        batches: Iterable[Mapping[str, Any]],
        loss: Loss,
    ) -> None:
        self.model, self.layout, self.batches, self.loss = model, layout, batches, loss
        self.tokens: int | None = 0

    def __len__(self) -> int:
        return len(self.batches) if isinstance(self.batches, Sized) else 0

    def __iter__(self) -> Iterator[_Step]:
        decoding: frozenset[int] | None = None
        for batch in checked_batches(self.batches):
            inputs = on_model(batch, self.model)
            if decoding is None:
                decoding = decoder_sites(self.model, self.layout, inputs)

            def losses(inputs: Mapping[str, Any] = inputs) -> Tensor:
                found = self.loss(self.model(**inputs), inputs)
                if not isinstance(found, Tensor) or found.dim() != 1:
                    shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
                    raise ConfigError(
                        f"The loss function returned {shape}: expected a tensor [batch] with each "
                        f"example's own loss (with torch's losses: reduction='none')."
                    )
                return found

            def real(
                site: int, inputs: Mapping[str, Any] = inputs, decoding: frozenset[int] = decoding
            ) -> Tensor | None:
                return real_positions(inputs, decoder=site in decoding)

            number = _tokens(inputs)
            known = number is not None and self.tokens is not None
            self.tokens = self.tokens + number if known else None  # type: ignore[operator]
            yield _Step(losses, real)


def _tokens(inputs: Mapping[str, Any]) -> int | None:
    """How many real tokens a batch has: all where there is no mask; None where it has no tokens."""
    mask = real_positions(inputs)
    if mask is not None:
        return int(mask.sum())
    for name in ("input_ids", "inputs_embeds"):
        if isinstance(inputs.get(name), Tensor):
            return int(inputs[name].shape[:2].numel())
    return None


def _with_progress(steps: "TaskSteps | _BatchSteps", progress: Progress | None) -> Iterator[_Step]:
    empty = True
    for step in counted(steps, progress):
        empty = False
        yield step
    if empty:
        raise DataError("There is not one batch to compute the importance from.")


def _taylor(
    model: nn.Module, steps: Iterator[_Step], layout: HeadLayout, aggregate: str
) -> tuple[Float[np.ndarray, "sites heads"], int]:
    """The scores, and from how many examples."""
    totals = [torch.zeros(site.n_heads, dtype=torch.float64) for site in layout.sites]
    counts, examples = [0] * len(totals), 0
    with record_contexts(model, layout=layout, gradients=True) as record:
        for step in steps:
            record.clear()
            with torch.enable_grad():
                losses = step.losses()
                step.check(losses, "The losses", examples)
                gradients = record.gradients(losses.sum())
            for site, total in enumerate(totals):
                real = step.real(site)
                terms = _head_terms(record, gradients, site, len(losses), step.copies, real)
                if aggregate == "token":
                    found = terms.abs().sum((0, 1)).double().cpu()
                    counts[site] += int(real.sum()) if real is not None else terms[..., 0].numel()
                else:
                    found = terms.sum(1).abs().sum(0).double().cpu()
                    counts[site] += len(losses)
                if not bool(found.isfinite().all()):
                    name = layout.sites[site].name
                    step.check(terms, f"The gradients at site {site} ({name})", examples)
                total += found
            examples += len(losses)
    means = [total / count for total, count in zip(totals, counts, strict=True)]
    return _table(layout, means), examples


def _head_terms(
    record: ContextRecord,
    gradients: list[list[Tensor]],
    site: int,
    batch: int,
    copies: int,
    mask: Tensor | None,
) -> Float[Tensor, "batch positions heads"]:
    """Σ_d c·∂L/∂c for each example, position and head; 0 at padding.

    The calls of a shared layer, and the copies of an example, are added up before any absolute
    value is taken: the sum is the gradient of one mask on that head.
    """
    terms = None
    for contexts, gradient in zip(record.calls[site], gradients[site], strict=True):
        # where nothing depends on a context it counts 0, even if it is not finite, as of padding
        product = torch.where(gradient == 0, 0, contexts.detach().float() * gradient.float())
        product = record.split(site, product).sum(-1)
        # Windows and flattened positions come example by example: give them back to their example.
        product = product.reshape(batch, -1, product.shape[-1])
        if copies > 1:
            product = product.unflatten(1, (copies, -1)).sum(1)
        terms = product if terms is None else terms + product
    if terms is None:
        name = record.layout.sites[site].name
        raise ConfigError(f"Site {site} ({name}) did not run on a batch: its importance is open.")
    if mask is not None and mask.shape == terms.shape[:2]:
        terms = torch.where(mask[..., None], terms, 0)
    return terms


def _single_ablations(
    model: nn.Module, steps: Iterator[_Step], layout: HeadLayout
) -> tuple[Float[np.ndarray, "sites heads"], int]:
    """The scores, and from how many examples."""
    heads = list(layout)
    lesions = [HeadSet(), *(HeadSet([head]) for head in heads)]
    totals = np.zeros(len(lesions))
    replay, examples = None, 0
    with torch.no_grad():
        for step in steps:
            replay = replay or Replay(model, layout, step.losses)
            for index, losses in replay.runs(step.losses, lesions):
                step.check(losses, "The losses", examples, str(lesions[index]))
                totals[index] += losses.sum().item()
            examples += len(losses)
    rises = dict(zip(heads, (totals[1:] - totals[0]) / examples, strict=True))
    rows = [
        torch.tensor([rises[site.index, head] for head in range(site.n_heads)])
        for site in layout.sites
    ]
    return _table(layout, rows), examples


def _table(layout: HeadLayout, rows: list[Tensor]) -> Float[np.ndarray, "sites heads"]:
    values = np.full(layout.shape, np.nan)
    for site, row in enumerate(rows):
        values[site, : len(row)] = row.numpy()
    return values
