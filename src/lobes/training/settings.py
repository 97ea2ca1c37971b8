"""The settings of ways to train, declared once for library and study file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from lobes import limits
from lobes.errors import ConfigError
from lobes.scores import head_count

# Methods against interference, which weigh the tasks in each step: `weighting.py`.
Weighting = Literal["sum", "pcgrad", "mgda", "cagrad", "imtl", "famo", "uncertainty"]

# loss(logits, labels) -> [batch], each example's own
LossFunction = Callable[[Any, Any], Any]


def is_function(value: object) -> bool:
    """Return whether a value can be called; a class, which makes an object, is no function."""
    return callable(value) and not isinstance(value, type)


@limits.plain_signature
@dataclass(frozen=True, kw_only=True)
class TrainingLoss:
    """How the loss of a task is computed while it is trained (docs/method.md#training-losses).

    `class_weights` multiply the loss of the examples of a class: {class name: weight}, 1 for those
    that are not named; "balanced": n / (K · n_k) with n_k of n training examples in class k of K.
    Where an example has several labels, they multiply the term of a label that it has, and
    "balanced" is (n − n_k) / n_k. `label_smoothing` is the share of the target that all classes
    divide evenly. `function(logits, labels) -> [batch]` takes the place of the usual loss, of
    logits [batch, outputs] and labels [batch] (class indices or numbers; [batch, outputs] of the
    integers 0 and 1 for several labels). `weight` multiplies the loss of the task, which matters
    beside others.

    Importance is not computed from it, but from the task's usual loss, also that of IAT: so what is
    measured does not depend on how a model was trained. Raises `ConfigError` for a value that
    cannot be.
    """

    class_weights: Mapping[str, float] | str | None = None
    label_smoothing: Annotated[float, limits.SMOOTHING] = 0.0
    weight: Annotated[float, limits.TASK_WEIGHT] = 1.0
    function: LossFunction | None = None

    def __post_init__(self) -> None:
        limits.check_settings(self)
        if self.function is not None and not is_function(self.function):
            raise ConfigError(
                f"function is a function loss(logits, labels) -> [batch], not "
                f"{limits.short(self.function)}."
            )
        if self.function is not None and (self.class_weights is not None or self.label_smoothing):
            raise ConfigError(
                "A loss has a function of its own and class_weights or label_smoothing, which "
                "belong to the usual one: let the function weigh the classes, or leave it out."
            )
        if isinstance(self.class_weights, Mapping):
            for name, weight in self.class_weights.items():
                limits.check_number(f"class_weights[{name!r}]", weight, limits.CLASS_WEIGHT)
            # a dict, which pickles and copies, of its own
            object.__setattr__(self, "class_weights", dict(self.class_weights))
        elif self.class_weights is not None and not (
            isinstance(self.class_weights, str) and self.class_weights == "balanced"
        ):
            raise ConfigError(
                f"class_weights is {limits.short(self.class_weights)}; expected "
                f'{{"class name": weight}} or "balanced".'
            )


@limits.plain_signature
@dataclass(frozen=True, kw_only=True)
class IAT:
    """When and how a `MultiTaskTrainer` turns to training important heads only.

    `alpha`: the share of all heads that each task trains; `delta`: the share of the steps, at the
    end, in which it does. `share=True` lets a head that matters to several tasks be trained by
    each of them; False takes it from all. `train_other=True` trains all other parameters as
    before; False the classifiers only. `strict=True` keeps the rows that no batch of a step may
    train the same to the bit; False lets the optimizer's momentum and weight decay go on moving
    them, as the published code did. `refresh=k` chooses the heads anew every k steps.

    `importance_examples` of each task's training data (drawn with `seed`), `method`, `aggregate`
    and `normalize` say how importance is computed: see `head_importance`.
    Raises `ConfigError` for a value that cannot be.
    """

    alpha: Annotated[float, limits.SHARE_OF_HEADS] = 0.3
    delta: Annotated[float, limits.SHARE_OF_STEPS] = 0.1
    share: bool = True
    train_other: bool = True
    strict: bool = True
    refresh: Annotated[int, limits.STEPS] | None = None
    importance_examples: Annotated[int, limits.EXAMPLES] | None = 10_000
    method: Annotated[str, limits.METHOD] = "taylor"
    aggregate: Annotated[str, limits.AGGREGATE] = "token"
    normalize: Annotated[str, limits.NORMALIZE] = "none"
    seed: Annotated[int, limits.SEED] = 0

    def __post_init__(self) -> None:
        limits.check_settings(self)

    def switch_step(self, total: int) -> int | None:
        """Return how many of `total` steps are ordinary; None if all are (delta = 0)."""
        if self.delta == 0:
            return None
        steps = head_count(self.delta, total)
        if steps == 0:
            raise ConfigError(
                f"delta={self.delta:g} of {total} steps is not one step: raise delta or the steps."
            )
        return total - steps
