"""The settings of ways to train, declared once for library and study file."""

from dataclasses import dataclass
from typing import Annotated, Literal

from lobes import limits
from lobes.errors import ConfigError
from lobes.scores import head_count

# Methods against interference, which weigh the tasks in each step: `weighting.py`.
Weighting = Literal["sum", "pcgrad", "mgda", "cagrad", "imtl", "famo", "uncertainty"]


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
