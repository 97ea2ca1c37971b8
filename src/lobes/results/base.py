"""What the records of all results share: frozen, validated models, and their types of numbers.

In JSON an undefined number (NaN) is null, an array is a list of lists and a set of heads is a text
such as "0:1,5 3:2". In Python they are NaN, a float64 array and a `HeadSet`.
"""

import inspect
import math
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, get_type_hints

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    field_validator,
)
from pydantic import WithJsonSchema as Schema

from lobes.custom_metrics import declared_elsewhere
from lobes.dissociation.verdict import Verdict
from lobes.errors import ConfigError
from lobes.files import plain
from lobes.heads import HeadSet
from lobes.metrics import Metric, Standing, get_metric
from lobes.shown import Shown

LARGEST = 1e100  # no measurement is larger, and squares and percentages of these are still finite


class Record(BaseModel):
    """A frozen part of the results. Unknown keys are refused: they are damage or a misspelling."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        arbitrary_types_allowed=True,
        use_attribute_docstrings=True,
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **settings: Any) -> None:
        """Show plain types to `help`, without the rules by which values are checked."""
        hints, written = get_type_hints(cls), inspect.signature(cls)
        kinds = {field.alias or name: hints[name] for name, field in cls.model_fields.items()}
        plain = [
            each.replace(annotation=kinds.get(each.name, each.annotation))
            for each in written.parameters.values()
        ]
        cls.__signature__ = written.replace(parameters=plain)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as they stand in the file: lists for arrays, None for NaN."""
        content = plain(self.model_dump(by_alias=True))
        assert isinstance(content, dict)
        return content


def _number(value: object) -> object:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("expected a number or null")
    if value != value or abs(value) == math.inf:
        return math.nan
    _expect_small(value)
    return float(value)


def _expect_small(value: float) -> None:
    if abs(value) > LARGEST:
        raise ValueError(f"expected numbers up to {LARGEST:g}")


def _array(dimensions: int, value: object) -> np.ndarray:
    try:
        found = np.array(value, dtype=np.float64)  # null becomes NaN
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"expected numbers in {dimensions} dimensions") from error
    if not found.size:  # of an empty list the JSON does not tell the other lengths
        return found if found.ndim == dimensions else np.empty((0,) * dimensions)
    if found.ndim != dimensions:
        raise ValueError(f"expected numbers in {dimensions} dimensions, got {found.ndim}")
    found = np.where(np.isfinite(found), found, np.nan)
    _expect_small(float(np.nanmax(np.abs(found), initial=0.0)))
    return found


def _within(low: float, high: float, value: Any) -> Any:
    """A number or an array between two ends, to rounding; undefined ones are left out."""
    known = np.asarray(value)[np.isfinite(value)]
    if known.size and not (low - 1e-9 <= known.min() and known.max() <= high + 1e-9):
        raise ValueError(f"expected numbers from {low:g} to {high:g}")
    return value


def _reasoned(verdict: Verdict) -> Verdict:
    if not verdict.reasons:
        raise ValueError("a verdict has no reason")
    return verdict


def _heads(value: object) -> HeadSet:
    if isinstance(value, HeadSet):
        return value
    if not isinstance(value, str):
        raise ValueError('expected heads as a text such as "0:1,5 3:2"')
    return HeadSet.parse(value)


def _nested(dimensions: int) -> dict[str, Any]:
    kind: dict[str, Any] = {"type": ["number", "null"]}
    for _ in range(dimensions):
        kind = {"type": "array", "items": kind}
    return kind


Number = Annotated[float, BeforeValidator(_number), Schema(_nested(0))]
Interval = tuple[Number, Number]
P = Annotated[Number, AfterValidator(partial(_within, 0.0, 1.0))]
Correlation = Annotated[Number, AfterValidator(partial(_within, -1.0, 1.0))]
Vector = Annotated[np.ndarray, BeforeValidator(partial(_array, 1)), Schema(_nested(1))]
Ps = Annotated[Vector, AfterValidator(partial(_within, 0.0, 1.0))]
Matrix = Annotated[np.ndarray, BeforeValidator(partial(_array, 2)), Schema(_nested(2))]
Matrices = Annotated[np.ndarray, BeforeValidator(partial(_array, 3)), Schema(_nested(3))]
Heads = Annotated[
    HeadSet, BeforeValidator(_heads), PlainSerializer(str), Schema({"type": "string"})
]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Share = Annotated[float, Field(ge=0, le=1)]
Settings = dict[str, Any]
Verdicts = tuple[Annotated[Verdict, AfterValidator(_reasoned)], ...]


class Site(Record):
    """One attention block."""

    index: Count
    """Its number, in the order of execution, from 0."""
    name: str
    """The path of its module."""
    n_heads: Annotated[int, Field(ge=1, le=10_000)]
    """How many heads it has."""
    head_dim: Count | None
    """The width of a head's context."""
    kind: str
    """Self-attention ("self") or cross-attention ("cross")."""


class ModelRecord(Record):
    """The model that was measured."""

    name: str
    """As the study names it; of a folder its last part only."""
    pooling: str | None
    """How an example's representation is made of its tokens; null where the model decides."""
    n_parameters: Count
    """All parameters, those of classifiers included."""
    sites: Annotated[tuple[Site, ...], Field(min_length=1)]
    """The attention blocks, in the order of execution."""

    @property
    def n_heads(self) -> int:
        """The heads of all sites."""
        return sum(site.n_heads for site in self.sites)

    def holds(self, heads: HeadSet) -> bool:
        """Whether all of these heads exist."""
        return all(s < len(self.sites) and h < self.sites[s].n_heads for s, h in heads)


class Lesioning(Record):
    """What a lesion did to heads."""

    lesion: Literal["remove", "keep"]
    """Whether the heads of a lesion were ablated, or all others."""
    value: Literal["zero", "mean", "resample"]
    """What stood in for the context of an ablated head."""

    @property
    def keeps(self) -> bool:
        """Whether the heads of a lesion stayed in, and all others were ablated."""
        return self.lesion == "keep"


class TaskRecord(Record):
    """A task and its data."""

    name: str
    """The task's name."""
    metric_range: Interval | None = None
    """The least and the greatest value of a metric of the user's own; null for those of lobes."""
    metric: str
    """Its main metric, in which all of its scores are."""
    source_metric: str | None = None
    """What lm-evaluation-harness calls it; null for other tasks."""
    labels: tuple[str, ...] | None
    """The names of the classes; null for a regression."""
    multi_label: bool = False
    """Whether an example may have several labels."""
    n_train: Count = 0
    """The number of training examples."""
    n_validation: Count
    """The number of validation examples, on which everything is measured."""
    chance: Number
    """The score of answers that do not look at the example."""

    @field_validator("metric")
    @classmethod
    def _is_known(cls, metric: str, info: Any) -> str:
        try:
            _scale(metric, info.data.get("metric_range"))
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return metric

    @property
    def metric_name(self) -> str:
        """The metric as a page names it: as the task's source does, where it has a name there."""
        return self.source_metric or self.metric

    @property
    def scale(self) -> Metric:
        """The metric's range and what follows from it; the user's own computes no score here."""
        return _scale(self.metric, self.metric_range)

    def standing(self, score: float) -> Standing:
        """Where a score lies in relation to chance (`Metric.standing`)."""
        return self.scale.standing(score, self.chance, self.n_validation)

    def skill(self, score: float) -> float:
        """How far a score lies on the way from chance (0) to perfect (1); NaN if undefined."""
        way = self.scale.high - self.chance if math.isfinite(self.chance) else math.nan
        return (score - self.chance) / way if way > 0 else math.nan

    def divisor(self, score: float, low: float | None = None) -> float:
        """The score, or NaN where nothing may be divided by it (`Metric.is_divisor`).

        `low` is the lower end of its interval, where that is known.
        """
        return score if self.scale.is_divisor(score, low) else math.nan


def _scale(metric: str, bounds: tuple[float, float] | None) -> Metric:
    if bounds is None:
        return get_metric(metric, own=False)
    return declared_elsewhere(metric, bounds)


class Results(Shown, Record):
    """What the results of every kind have: their schema and origin."""

    # the name of the schema, the file in a folder, what it is in a message, what makes it
    FILE: ClassVar[str]
    NOUN: ClassVar[str]
    RUN: ClassVar[str]
    VERSION: ClassVar[int] = 3

    version: Literal[3] = 3
    """The version of the schema."""
    name: str
    """The study's name."""
    created: str
    """When these results were written: ISO 8601, UTC."""
    lobes: str
    """The version of lobes that wrote them."""
    verdicts: Verdicts
    """The verdict on each claim that the study can speak to."""

    def __repr__(self) -> str:
        answers = ", ".join(f"{each.claim}: {each.answer}" for each in self.verdicts)
        return f"{type(self).__name__}({self.name!r}, {answers})"

    def verdict_on(self, claim: str) -> Verdict:
        """The verdict on a claim; `ValueError` where there is none."""
        found = next((each for each in self.verdicts if each.claim == claim), None)
        if found is None:
            raise ValueError(f"there is no verdict on the claim {claim!r}")
        return found

    @classmethod
    def schema_name(cls) -> str:
        """The name that the file's "schema" holds."""
        return str(cls.model_fields["schema_"].default)


def expect_shape(found: np.ndarray, shape: tuple[int, ...], what: str) -> None:
    """Raise `ValueError` where an array does not have this shape; −1 is any length."""
    fits = found.ndim == len(shape) and all(
        n in (-1, m) for n, m in zip(shape, found.shape, strict=True)
    )
    if not fits:
        raise ValueError(f"{what} has the shape {list(found.shape)}, expected {list(shape)}")


def expect_count(found: int, values: object, what: str, of: str) -> None:
    """Raise `ValueError` where a count is not that of the values it counts."""
    number = len(values)  # type: ignore[arg-type]
    if found != number:
        raise ValueError(f"{what} is {found:,}, where there are {number:,} {of}")


def expect_share(p: float, controls: int, what: str) -> None:
    """Raise `ValueError` where p is not (1 + n) / (1 + controls) for a whole n from 0 to all."""
    if not math.isfinite(p):
        return
    places = p * (1 + controls)
    if (
        abs(places - round(places)) > 1e-6 * (1 + controls)
        or not 1 <= round(places) <= 1 + controls
    ):
        raise ValueError(
            f"{what} is {p:g}, which is none of the p-values that {controls:,} replicates can give"
        )
