"""Methods against interference between tasks: how the tasks' losses or gradients are weighed.

Definitions: docs/method.md#weighted-training. Each step has a micro-batch of every task. The
methods are those of TorchJD (the extra `lobes[conflict]`), in two groups:

- by gradients ("pcgrad", "mgda", "cagrad", "imtl"): a weight for each task from the Gramian of the
  gradients of the shared parameters. A forward and a backward pass for each task, one after the
  other; what they leave is n gradients, and no copy of them. Classifiers, which belong to one task
  each, have their own task's gradient.
- by losses ("sum", "famo", "uncertainty", and given weights): one backward pass for all tasks.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lobes.errors import ConfigError, RunError, first_line
from lobes.limits import TASK_WEIGHT, Choice, check_choice, check_number, short
from lobes.modeling import MultiTaskModel
from lobes.tasks.columns import listed, suggest
from lobes.training.settings import Weighting

Losses = Sequence[Callable[[], Tensor]]

# CAGrad's c: 0 is the mean gradient, and from 1 on convergence is no longer to its minimum.
CAGRAD_C = 0.5
# Adam's, for the weights that are learned. The model's would hardly move them.
LEARNING_RATE = 0.025


class WeightedStep:
    """The backward pass of a step with a micro-batch of every task, weighed by the losses.

    `combine` maps the losses [tasks] to what is minimized; its parameters, if it has any, are
    learned with it. `learns` says so: the methods that do are defined for losses of 0 and more.
    """

    def __init__(self, n_tasks: int, combine: Callable[[Tensor], Tensor]) -> None:
        self.n_tasks, self.combine = n_tasks, combine
        self.learns = isinstance(combine, nn.Module)
        self._sum, self._steps = np.zeros(n_tasks), 0
        learned = list(combine.parameters()) if isinstance(combine, nn.Module) else []
        self._optimizer = torch.optim.Adam(learned, lr=LEARNING_RATE) if learned else None

    @property
    def mean_weights(self) -> Float[np.ndarray, " tasks"]:
        """The mean weight of each task over the steps so far."""
        return self._sum / max(1, self._steps)

    def backward(
        self, losses: Losses, backward: Callable[[Tensor], None], shared: Sequence[nn.Parameter]
    ) -> Float[Tensor, " tasks"]:
        """Leave the step's gradients in the parameters; return the losses."""
        found = torch.stack([loss() for loss in losses]).float()
        total = self.combine(found)
        self._count(torch.autograd.grad(total, found, retain_graph=True)[0])
        backward(total)
        if self._optimizer is not None:
            self._optimizer.step()
            self._optimizer.zero_grad()
        return found.detach()

    def after_step(self, losses: Losses) -> None:
        """Learn from what the optimizer's step made of the losses of the same micro-batches."""

    def _count(self, weights: Tensor) -> None:
        self._sum += weights.detach().double().cpu().numpy()
        self._steps += 1


class FamoStep(WeightedStep):
    """FAMO, which learns its weights from how much a step lowered each loss.

    The losses after the step are computed with the dropout of those before it; otherwise they
    would differ more by dropout than by the step.
    """

    def __init__(self, n_tasks: int, famo: Any) -> None:
        super().__init__(n_tasks, famo)
        self._optimizer = None  # it has its own
        self.famo, self._device = famo, next(famo.parameters()).device
        self._states = (torch.get_rng_state(), self._device_state())

    def backward(
        self, losses: Losses, backward: Callable[[Tensor], None], shared: Sequence[nn.Parameter]
    ) -> Float[Tensor, " tasks"]:
        self._states = torch.get_rng_state(), self._device_state()
        return super().backward(losses, backward, shared)

    def after_step(self, losses: Losses) -> None:
        devices = [] if self._states[1] is None else [self._device]
        with torch.random.fork_rng(devices), torch.no_grad():
            torch.set_rng_state(self._states[0])
            if self._states[1] is not None:
                torch.cuda.set_rng_state(self._states[1], self._device)
            self.famo.update(torch.stack([loss() for loss in losses]).float())

    def _device_state(self) -> Tensor | None:
        is_cuda = self._device.type == "cuda"
        return torch.cuda.get_rng_state(self._device) if is_cuda else None


class GramianStep(WeightedStep):
    """The same, weighed by the inner products of the shared parameters' gradients.

    `weigh` maps the Gramian [tasks, tasks] to weights [tasks]; what it draws, it draws with
    `seed` and the number of the step.
    """

    def __init__(self, n_tasks: int, weigh: Callable[[Tensor], Tensor], seed: int) -> None:
        super().__init__(n_tasks, torch.sum)
        self.weigh, self.seed = weigh, seed

    def backward(
        self, losses: Losses, backward: Callable[[Tensor], None], shared: Sequence[nn.Parameter]
    ) -> Float[Tensor, " tasks"]:
        found, gradients = [], []
        for loss in losses:
            value = loss()
            backward(value)
            found.append(value.detach())
            gradients.append([parameter.grad for parameter in shared])
            for parameter in shared:
                parameter.grad = None
        weights = self._weights(gramian(gradients))
        self._count(weights)
        for number, parameter in enumerate(shared):
            parameter.grad = combined([each[number] for each in gradients], weights.tolist())
        return torch.stack(found)

    def _weights(self, products: Tensor) -> Tensor:
        seed = np.random.default_rng([self.seed, self._steps]).integers(2**63)
        with torch.random.fork_rng([]):
            # that of the CPU alone: `torch.manual_seed` would also set a GPU's
            torch.default_generator.manual_seed(int(seed))
            try:
                return self.weigh(products)
            except Exception as error:  # a solver raises several kinds
                raise RunError(
                    f"The weights of the tasks could not be computed at step {self._steps + 1}: "
                    f"{first_line(error)}. Choose another method, or a lower learning rate."
                ) from error


def gramian(gradients: Sequence[Sequence[Tensor | None]]) -> Float[Tensor, "tasks tasks"]:
    """Return the inner products of the tasks' gradients, each a list of one for each parameter.

    In double precision, on the CPU. None is a gradient of zero.
    """
    rows, columns = np.tril_indices(len(gradients))
    pairs = zip(rows.tolist(), columns.tolist(), strict=True)
    found = torch.stack([_product(gradients[i], gradients[j]) for i, j in pairs]).cpu()
    products = found.new_zeros(len(gradients), len(gradients))
    products[rows, columns] = products[columns, rows] = found
    return products


def _product(first: Sequence[Tensor | None], second: Sequence[Tensor | None]) -> Tensor:
    found = [
        torch.dot(a.flatten(), b.flatten())
        for a, b in zip(first, second, strict=True)
        if a is not None and b is not None
    ]
    return torch.stack(found).double().sum() if found else torch.zeros((), dtype=torch.double)


def combined(gradients: Sequence[Tensor | None], weights: Sequence[float]) -> Tensor | None:
    """Return the weighted sum of the gradients of one parameter, in the memory of the first."""
    total: Tensor | None = None
    for gradient, weight in zip(gradients, weights, strict=True):
        if gradient is None:
            continue
        total = gradient.mul_(weight) if total is None else total.add_(gradient, alpha=weight)
    return total


def shared_parameters(model: MultiTaskModel) -> list[nn.Parameter]:
    """Return the parameters that train, but for the classifiers, which have one task each."""
    own = {id(parameter) for parameter in model.classifiers.parameters()}
    return [each for each in model.parameters() if each.requires_grad and id(each) not in own]


def weighted_step(
    weighting: str | Sequence[float] | None, n_tasks: int, device: torch.device, seed: int = 0
) -> WeightedStep | None:
    """Return the step of a method by its name, or with a fixed weight for each task's loss.

    None for no weighting, and where there is one task, with nothing to weigh. Raises `ConfigError`
    for another weighting, and where the method's packages are not installed.
    """
    if weighting is None:
        return None
    check_weighting(weighting, n_tasks)
    if n_tasks == 1:
        return None
    if weighting == "sum":
        return WeightedStep(n_tasks, torch.sum)
    if not isinstance(weighting, str):
        weights = torch.tensor([*map(float, weighting)], device=device)
        return WeightedStep(n_tasks, lambda losses: (weights * losses).sum())
    if weighting == "famo":
        return FamoStep(n_tasks, _torchjd("famo", "scalarization.FAMO", n_tasks).to(device))
    if weighting == "uncertainty":
        uncertainty = _torchjd("uncertainty", "scalarization.UW", n_tasks)
        return WeightedStep(n_tasks, uncertainty.to(device))
    options = {"c": CAGRAD_C} if weighting == "cagrad" else {}
    return GramianStep(n_tasks, _torchjd(weighting, _BY_GRAMIAN[weighting], **options), seed)


_BY_GRAMIAN = {
    "pcgrad": "aggregation.PCGradWeighting",
    "mgda": "aggregation.MGDAWeighting",
    "cagrad": "aggregation.CAGradWeighting",
    "imtl": "aggregation.IMTLGWeighting",
}


def in_order(weighting: Any, names: Sequence[str]) -> Any:
    """Return weights that are given by the tasks' names in the order of the tasks.

    Anything else as it is. Raises `ConfigError` where a task has no weight, or a weight no task.
    """
    if not isinstance(weighting, Mapping):
        return weighting
    for name in [*weighting, *names]:
        if name not in names or name not in weighting:
            lacks = "has a weight for" if name in weighting else "lacks a weight for"
            raise ConfigError(
                f"weighting {lacks} {short(name)}; expected one for each of {listed(names)}."
                + ("" if name in names else suggest(str(name), names))
            )
    return [weighting[name] for name in names]


def check_weighting(weighting: object, n_tasks: int) -> None:
    """Raise `ConfigError` for what is neither a method's name nor a weight for each task."""
    if isinstance(weighting, str):
        check_choice("weighting", weighting, Choice(get_args(Weighting)))
        return
    if not isinstance(weighting, Sequence) or len(weighting) != n_tasks:
        raise ConfigError(
            f"weighting is {short(weighting)}; expected {Choice(get_args(Weighting))}, or a "
            f"weight for each of the {n_tasks} tasks."
        )
    for number, weight in enumerate(weighting):
        check_number(f"weighting[{number}]", weight, TASK_WEIGHT)


def _torchjd(weighting: str, name: str, *arguments: Any, **options: Any) -> Any:
    """An object of one of TorchJD's classes."""
    module, _, kind = name.rpartition(".")
    try:
        return getattr(import_module(f"torchjd.{module}"), kind)(*arguments, **options)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"The method {weighting!r} needs TorchJD, or a solver, which is not installed: pip "
            f"install 'lobes[conflict]', or leave the method out."
        ) from error
