"""How a model was trained: losses, scores on the way, and the heads that IAT trained."""

from pydantic import ConfigDict

from lobes.results.base import Count, Heads, Matrix, Number, Record, Share


class Loss(Record):
    """The training loss of one step."""

    step: Count
    """The step, from 1."""
    task: str
    """The task of its batch."""
    loss: Number
    """The mean loss of its examples."""


class StepScores(Record):
    """The validation scores at one step of a training."""

    step: Count
    """The step."""
    scores: dict[str, Number]
    """The main metric of each task."""


class IatSettings(Record):
    """How IAT chose heads and trained them: all settings of `lobes.IAT`."""

    model_config = ConfigDict(extra="allow")

    alpha: Share
    """The share of all heads that each task trains."""
    share: bool
    """Whether a head that matters to several tasks is trained by each of them, or by none."""
    train_other: bool
    """Whether all other parameters train as before, or the classifiers only."""


class IatRecord(Record):
    """When and how IAT trained, in one run or in several."""

    switch_step: Count
    """The last step of ordinary training."""
    steps: Count
    """The steps of IAT that followed."""
    n_heads: Count
    """All heads of the model."""
    settings: IatSettings
    """The settings of IAT."""


class Iat(IatRecord):
    """Which heads IAT trained."""

    seconds: float
    """How long the importance took that chose the heads."""
    chosen_at: tuple[Count, ...]
    """The steps after which heads were chosen: the switch and, with `refresh`, later ones."""
    heads: dict[str, Heads]
    """The heads that each task trained, as chosen last."""
    importance: dict[str, Matrix]
    """The importance that chose them, by site and head; null where a site has no such head."""


class Training(Record):
    """How the model was trained."""

    steps: Count
    """The number of steps."""
    seconds: float
    """How long it took, over all sessions."""
    seed: int
    """The seed of the training."""
    precision: str
    """The type of numbers that it multiplied."""
    sampling: str
    """How the task of each batch was drawn."""
    losses: tuple[Loss, ...] = ()
    """The loss of every step."""
    scores: tuple[StepScores, ...] = ()
    """The validation scores on the way."""
    iat: Iat | None = None
    """The heads that IAT trained; null without an IAT phase."""
