"""Head importance: how much a task's loss depends on each head (docs/method.md#importance).

    I(s,h) = − 1/N · Σ_x Σ_t Σ_d c[x,t,d] · ∂L_x/∂c[x,t,d]               (aggregate="signed")
    I(s,h) = 1/T · Σ_x Σ_t | Σ_d c[x,t,d] · ∂L_x/∂c[x,t,d] |             (aggregate="token")

x runs over the N examples, t over the real (not padding) positions, d over the head's channels; T
is the number of real tokens and L_x the loss of example x by itself. Where the batch has a mask, T
is the number of its ones at every site, also where a site has other positions, because the model
pools them or pads them to whole windows: how many these are depends on the rest of the batch. Only
the gradients of the contexts are computed: the parameters are frozen and the graph begins at the
first site.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from lobes.ablation import ablate
from lobes.discovery import layout_of
from lobes.errors import ConfigError
from lobes.heads import HeadLayout, Heads, HeadSet
from lobes.measure.batch_size import tokens_in_a_batch, within_memory
from lobes.measure.batch_task import AnyTask, BatchTask, Loss, layout_for_tasks
from lobes.measure.batches import Batches, GivenBatches, TaskBatches, check_task
from lobes.measure.estimates import Method, Options, single_ablations, taylor
from lobes.measure.gates import gates
from lobes.measure.integrated_gradients import integrated_gradients
from lobes.measure.measuring import measuring
from lobes.progress import Progress, shown_progress
from lobes.scores import HeadScores
from lobes.tasks.task import Task

_METHODS: Mapping[str, Method] = {  # each name of `limits.METHOD`
    "taylor": taylor,
    "ablation": single_ablations,
    "integrated_gradients": integrated_gradients,
    "gates": gates,
}


def head_importance(
    model: nn.Module,
    task: AnyTask | None = None,
    *,
    batches: Iterable[Mapping[str, Any]] | None = None,
    loss: Loss | None = None,
    method: str = "taylor",
    aggregate: str = "signed",
    normalize: str = "none",
    steps: int = 5,
    value: str = "zero",
    precision: str = "fp32",
    split: str = "train",
    max_examples: int | None = None,
    seed: int = 0,
    ablated: Heads | None = None,
    tokens_per_batch: int | None = None,
    layout: HeadLayout | None = None,
    progress: Progress | bool | None = None,
) -> HeadScores:
    """Score every head of a model by how much a task's loss depends on it.

    Either `task`, one of the tasks that a `MultiTaskModel` was made for; or, for any model, a
    `BatchTask`, or `batches` of keyword inputs and `loss(outputs, batch) -> [batch]`, each
    example's own loss.

    `method="taylor"`: the first-order score above. `aggregate="signed"` is the negated mean over
    examples of each one's whole sum, which estimates the rise of the loss when the head is
    ablated; `"sequence"` takes the absolute value of each example's sum (Michel, Levy and Neubig
    2019); `"token"`, the published code's, sums the absolute values over positions and divides by
    the number of real tokens. `method="integrated_gradients"`: the same with the mean gradient at
    `steps` points on the way from `value` in the place of every head's context ("zero", or each
    head's "mean" over these data) to the contexts as they are. `method="ablation"`: the exact rise
    of the mean loss when that one head is ablated, `value` in the place of its context; it takes a
    run of the model for each head.
    `method="gates"`: how far gates that learn on all heads together keep each open,
    `head_gates(model, task).needed`. `normalize="layer"` divides each site's scores by their L2
    norm.

    `progress(done, total)` is called as things go; True shows a line on stderr.
    `max_examples` takes that many of the task's examples at random (`seed`); the heads `ablated`
    are ablated throughout. The result (but that of gates) depends neither on the size of the
    batches nor on the order of the examples, beyond rounding. Modes, flags and gradients are as
    before afterwards.
    Raises `ConfigError` for a setting that does not exist, `DataError` for a task without data,
    `ModelError` naming the examples whose loss, or its gradient, is not finite.
    """
    options = Options(
        method=method,
        aggregate=aggregate,
        normalize=normalize,
        max_examples=max_examples,
        seed=seed,
        steps=steps,
        value=value,
    )
    report = shown_progress(progress, "importance")
    targets: Sequence[str] = ()
    settings: dict[str, object] = {"method": method, "aggregate": aggregate}
    if isinstance(task, BatchTask) and batches is None and loss is None:
        layout = layout_for_tasks(model, [task], layout, split, tokens_per_batch)
        settings |= {"task": task.name, "split": split}
        batches, loss, targets, task = task.batches(split), task.loss, task.targets, None
    layout = layout_of(model, layout)
    given = HeadSet.of(() if ablated is None else ablated, layout)
    if task is not None:
        check_task(task)
    if loss is not None and not callable(loss):
        raise ConfigError(
            f"loss is a function loss(outputs, batch) -> [batch], not a {type(loss).__name__}."
        )

    def measure(data_of: Callable[[nn.Module], Batches]) -> HeadScores:
        with (
            measuring(model, precision, gradients=True) as measured,
            ablate(measured, given, layout=layout),
        ):
            data = data_of(measured)
            found = _METHODS[method](measured, data, layout, options, report)
        about = {**settings, "examples": found.examples}
        if data.tokens is not None:
            about["tokens"] = data.tokens
        scores = HeadScores(found.values, {**about, "normalize": "none"}, found.halves)
        return scores.normalized() if normalize == "layer" else scores

    if isinstance(task, Task) and batches is None and loss is None:
        settings |= {"task": task.name, "split": split}
        tokens = tokens_in_a_batch(model, tokens_per_batch, gradients=True)
        return within_memory(
            model,
            tokens,
            lambda n: measure(lambda one: TaskBatches(one, task, split, max_examples, seed, n)),
        )
    if task is None and batches is not None and loss is not None:
        return measure(lambda one: GivenBatches(one, layout, batches, loss, seed, targets))
    raise ConfigError("Give either a task, or batches together with a loss function.")
