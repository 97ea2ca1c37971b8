"""A lesion: heads ablated for one measurement, and why."""

from dataclasses import dataclass
from typing import Literal, get_args

from lobes.errors import ConfigError
from lobes.heads import HeadSet

Kind = Literal["none", "task", "exchanged", "random"]


@dataclass(frozen=True, slots=True)
class Lesion:
    """Heads ablated for one measurement, and why.

    `kind` is "none" (nothing ablated: the base), "task" (the heads important to `task`),
    "exchanged" (as many of the heads important to any task, dealt out again: a control) or
    "random" (any heads, matched to that task's lesion); `replicate` numbers the latter two from 0.
    `fraction` is the share of all heads, above 0 and at most 1. Raises `ConfigError`, also for a
    lesion without a head that is not of kind "none".
    """

    heads: HeadSet
    kind: Kind
    task: str = ""
    fraction: float = 0.0
    replicate: int = 0

    def __post_init__(self) -> None:
        if self.kind == "none":
            if len(self.heads) or self.task or self.fraction or self.replicate:
                raise ConfigError(
                    f'A lesion of kind "none" has no heads, task, fraction or replicate: {self}.'
                )
        elif self.kind not in get_args(Kind):
            raise ConfigError(
                f'A lesion is of kind "none", "task", "exchanged" or "random", not {self.kind!r}.'
            )
        elif not self.task or not 0 < self.fraction <= 1:
            raise ConfigError(
                f"A lesion of kind {self.kind!r} needs the name of a task and a fraction above 0 "
                f"and at most 1, not task {self.task!r} and fraction {self.fraction:g}."
            )
        elif not self.heads:
            raise ConfigError(
                f"The lesion of {self.task!r} at the fraction {self.fraction:g} has no head, so "
                f"that it would show nothing: take a fraction of one head or more."
            )
        elif self.replicate < 0 or (self.kind == "task" and self.replicate):
            raise ConfigError(
                f"Only exchanged and random lesions have replicates, numbered from 0: {self}."
            )


def check_lesions(lesions: tuple[Lesion, ...], tasks: tuple[str, ...]) -> None:
    """Raise `ConfigError` for lesions that a matrix of these tasks cannot hold."""
    if [item.kind == "none" for item in lesions] != [True] + [False] * (len(lesions) - 1):
        raise ConfigError('The first lesion, and no other, is of kind "none": the base scores.')
    seen = set()
    for item in lesions[1:]:
        if item.task not in tasks:
            raise ConfigError(
                f"A lesion belongs to the task {item.task!r}, which is none of {', '.join(tasks)}."
            )
        key = (item.kind, item.task, item.fraction, item.replicate)
        if key in seen:
            raise ConfigError(
                f"Two lesions of kind {item.kind!r} have the task {item.task!r}, the fraction "
                f"{item.fraction:g} and the replicate {item.replicate}: expected one."
            )
        seen.add(key)
