"""`sweep.json`: the runs of a study in every combination of some values of its settings."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from lobes.dissociation.verdict import SPECIALIZED, Verdict
from lobes.results.base import Number, Record, Results, Settings, Share, Verdicts

# A folder beside the file: a page links to what is in it.
FolderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.=,+-]+$", max_length=255)]


class SweptRun(Record):
    """One of the runs."""

    name: FolderName
    """Its folder, within that of the sweep."""
    values: Settings
    """What it has of each axis; "" where the setting was taken out."""
    error: str | None
    """Why there are no results; null where there are."""
    base: dict[str, Number]
    """The score of each task with nothing ablated; empty for comparisons and transfer studies."""
    held_out: dict[str, Number] = Field(default_factory=dict)
    """Of comparisons each method's mean score over tasks and seeds on held-out training data."""
    level: Share | None
    """The level of its intervals; null without results."""
    verdicts: Verdicts
    """Its verdicts; the numbers of that on claim 1 are the D-score, its interval and p."""

    @property
    def specialized(self) -> Verdict | None:
        """The verdict on claim 1, whose numbers are the D-score, its interval and p."""
        return next((each for each in self.verdicts if each.claim == SPECIALIZED), None)


class SweptSeeds(Record):
    """The runs that differ in their seeds alone, taken together."""

    name: FolderName
    """The folder of their `runs.json`, within that of the sweep."""
    values: Settings
    """What they have of each other axis."""
    runs: tuple[FolderName, ...]
    """The folders of the runs."""
    error: str | None
    """Why they cannot be taken together; null where they are."""
    verdict: Verdict | None
    """Their verdict on claim 1, with the mean D-score, its interval and p."""
    further: Verdicts = ()
    """Their verdicts on other claims, with the mean effect and its interval."""


class SweepResults(Results):
    """A study in every combination of some values of its settings."""

    FILE: ClassVar[str] = "sweep.json"
    NOUN: ClassVar[str] = "a sweep"
    RUN: ClassVar[str] = "sweep"

    schema_: Literal["lobes-sweep"] = Field("lobes-sweep", alias="schema")
    """The name of the schema."""
    command: Literal["run", "compare", "transfer"]
    """The command that made each run."""
    axes: dict[str, tuple[Any, ...]] = Field(min_length=1)
    """The values of each setting, by its dotted key."""
    runs: tuple[SweptRun, ...] = Field(min_length=1)
    """The runs, those that failed among them."""
    seeds: tuple[SweptSeeds, ...]
    """What the runs of several seeds say together; empty where seed is no axis."""

    @property
    def failed(self) -> tuple[SweptRun, ...]:
        """The runs without results."""
        return tuple(run for run in self.runs if run.error is not None)

    @model_validator(mode="after")
    def _fits(self) -> "SweepResults":
        known = self.axes.keys()
        if not all(run.values.keys() == known for run in self.runs):
            raise ValueError("a run has values of other settings than the axes")
        if not all(each.values.keys() < known for each in self.seeds):
            raise ValueError("runs of several seeds have values of other settings than the axes")
        return self
