"""The settings of Important Attention-head Pruning, declared once for library and study file."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from lobes import limits
from lobes.scores import check_fractions


@dataclass(frozen=True)
class IapSettings:
    """What to ablate and what to compare it with; docs/method.md#lesions has the definitions.

    `fractions` of all heads, each lesioned on its own. `controls` times the heads of the tasks'
    lesions are exchanged between the tasks, which D-scores are tested by; with as many of them as
    a corrected p takes, also between every two tasks, at the largest fraction. `random` lesions
    say how harmful any lesion is, with as many heads in each site (`matched="site"`) or in all
    (`"total"`) as a task's. `order="ascending"`
    ablates the least important heads. `exact` estimates the importance again at each fraction,
    with the heads chosen so far ablated. `keep_per_site` heads of each site are never chosen.
    `importance_split` and `importance_examples`: what the importance is computed from;
    `importance_steps`: how many steps integrated gradients take.
    `lesion_tasks`: the tasks whose heads are ablated, all if None. `value` stands in for the
    contexts of ablated heads: "zero", "mean" or "resample", as in `evaluate`; importance by
    ablation or integrated gradients takes the mean for both of the last. With
    `lesion="keep"` the heads of a lesion stay in, and all others are ablated.

    `control_examples` measures exchanged and random lesions on that many of each task's validation
    examples, drawn with `seed`; p then compares the D-score on those. With `stop` and
    79 `controls` or more the tasks' heads are exchanged 39 times, and again up to `controls` times
    only where these do not settle p over all fractions (`dissociation/stopping.py`).
    """

    fractions: Sequence[float] = (0.2, 0.3, 0.4)
    controls: Annotated[int, limits.CONTROLS] = 20
    random: Annotated[int, limits.RANDOM] = 5
    matched: Annotated[str, limits.MATCHED] = "site"
    order: Annotated[str, limits.ORDER] = "descending"
    exact: bool = False
    keep_per_site: Annotated[int, limits.HEADS_KEPT] = 0
    importance_split: Annotated[str, limits.SPLIT] = "train"
    importance_examples: Annotated[int, limits.EXAMPLES] = 10_000
    method: Annotated[str, limits.METHOD] = "taylor"
    importance_steps: Annotated[int, limits.PATH_STEPS] = 5
    aggregate: Annotated[str, limits.AGGREGATE] = "signed"
    normalize: Annotated[str, limits.NORMALIZE] = "none"
    lesion_tasks: Sequence[str] | None = None
    value: Annotated[str, limits.VALUE] = "zero"
    lesion: Annotated[str, limits.LESION] = "remove"
    control_examples: Annotated[int, limits.EXAMPLES] | None = None
    stop: bool = True
    seed: Annotated[int, limits.SEED] = 0

    @property
    def importance_value(self) -> str:
        """What stands in for contexts where importance is measured: there is no resampling."""
        return "zero" if self.value == "zero" else "mean"

    @property
    def of_largest(self) -> "IapSettings":
        """What the lesions of the largest fraction take.

        Chosen step by step (`exact`), they depend on the smaller ones.
        """
        return self if self.exact else replace(self, fractions=self.fractions[-1:])

    def __post_init__(self) -> None:
        object.__setattr__(self, "fractions", check_fractions(self.fractions))  # a tuple
        if self.lesion_tasks is not None:
            object.__setattr__(self, "lesion_tasks", tuple(self.lesion_tasks))
        limits.check_settings(self)
