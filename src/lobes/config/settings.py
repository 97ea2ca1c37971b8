"""The tables of a study file: their keys, what each may hold, and what is refused.

What a setting may be stands in its annotation (`limits.py`), or else in its `description`. It is
the second half of the sentence with which another value is refused: "training.steps is -1;
expected a number of steps from 1 to 10,000,000."
"""

import difflib
import json
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from lobes import limits
from lobes.errors import ConfigError
from lobes.measure.settings import IapSettings
from lobes.metrics import METRICS, is_metric, metric_names
from lobes.tasks.harness import HARNESS_METRICS, harness_name
from lobes.tasks.known import KNOWN
from lobes.tasks.sources import TaskSource
from lobes.training.sampling import Sampling
from lobes.training.settings import IAT, TrainingLoss, Weighting

NAME = r"[A-Za-z0-9_-]+"

# the keys of a task of lm-evaluation-harness, and those of a task's loss in the training
_HARNESS = ("lm_eval", "include", "limit", "fewshot")
LOSS = ("class_weights", "label_smoothing", "weight")

Usual = Literal["single", "multi", "iat", "frozen", "probe"]
Weighted = Literal[Weighting, "tuned"]
Method = Literal[Usual, Weighted]
METHODS: tuple[Method, ...] = get_args(Method)
WEIGHTED: tuple[Weighted, ...] = get_args(Weighted)


def as_tuple(value: object) -> object:
    """Return a list as a tuple, a string as a tuple of one: TOML and JSON have lists only."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(as_tuple)]
Fractions = Annotated[
    tuple[Annotated[float, limits.FRACTION], ...], BeforeValidator(as_tuple), Field(min_length=1)
]
Given = TypeVar("Given", IAT, IapSettings)

# by column; "" is an empty cell
Wanted = dict[Text, str | int | float | Annotated[tuple[str | int, ...], BeforeValidator(as_tuple)]]


def _label_columns(value: Any) -> str | tuple[str, ...]:
    if isinstance(value, str) and value:
        return value
    names = value if isinstance(value, list | tuple) else ()
    if len(names) > 1 and all(isinstance(name, str) and name for name in names):
        return tuple(names)
    raise PydanticCustomError("label_columns", "neither a column nor a list of columns")


def _in_order(key: str, expected: str, place: Callable[[Any], Any] | None = None) -> AfterValidator:
    """Sort a setting's values by `place`; refuse one that is there twice."""

    def ordered(values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) < len(values):
            raise ValueError(f"{key} is {shown(values)}; expected {expected}")
        return tuple(sorted(values, key=place))

    return AfterValidator(ordered)


def _class_weights(value: Any) -> str | dict[str, float]:
    if value == "balanced":
        return value
    if isinstance(value, dict) and value and all(map(limits.CLASS_WEIGHT.allows, value.values())):
        return {str(name): float(weight) for name, weight in value.items()}
    raise PydanticCustomError("class_weights", "neither balanced nor a table of weights")


ClassWeights = Annotated[str | dict[str, float], BeforeValidator(_class_weights)]
LabelColumns = Annotated[str | tuple[str, ...], BeforeValidator(_label_columns)]

_SPLIT = (
    "a file (CSV, TSV, JSON, Parquet, Excel), a folder with a folder of images for each class, or "
    "a split of `dataset`"
)


class Section(BaseModel):
    """A table of the study file: frozen, no conversions between types, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def with_name(task: Any) -> Any:
    """Return a task's table with its name, where it is a name alone or one of the harness."""
    if isinstance(task, dict) and isinstance(task.get("lm_eval"), str):
        return {"name": harness_name(task["lm_eval"]), **task}
    return {"name": task} if isinstance(task, str) else task


class TaskConfig(Section):
    """One `[[tasks]]` table: a known task by its name, or files, or a data set of the hub.

    What is left out is as for `lobes.tasks.sources.TaskSource`: without `validation` a tenth of
    the training examples is held out. `prompt` and `words` are as for `lobes.tasks.prompts`.
    """

    name: Annotated[str, Field(pattern=f"^{NAME}$", max_length=limits.LONGEST_NAME)] = Field(
        description=f"a name of up to {limits.LONGEST_NAME} letters, digits, - and _"
    )
    dataset: Text | None = Field(None, description='a data set of the hub, such as "nyu-mll/glue"')
    config: Text | None = Field(None, description="the name of one configuration of `dataset`")
    train: Text | None = Field(None, description=_SPLIT)
    validation: Text | None = Field(None, description=_SPLIT)
    test: Text | None = Field(None, description=_SPLIT)
    text: Annotated[Texts, Field(min_length=1, max_length=2)] | None = Field(
        None, description="the name of one text column, or a list of two"
    )
    image: Text | None = Field(None, description="the name of one column of images")
    label: LabelColumns = Field(
        "label", description="the name of the label column, or a list with a column for each label"
    )
    labels: Annotated[Texts, Field(min_length=2)] | None = Field(
        None, description="a list of two or more different class names"
    )
    metric: Text | None = Field(
        None,
        description=f"one of {', '.join(METRICS)}, or one that an installed package declares; with "
        f"`lm_eval` of {', '.join(HARNESS_METRICS)}, or, where text is generated, such as "
        f"exact_match",
    )
    columns: dict[Text, Text] | None = Field(
        None, description='a table of names, such as {text = "Review Text"}'
    )
    label_map: dict[Text, Text | int | float] | None = Field(
        None, description='a table of labels, such as {pos = "positive"}'
    )
    filter: Wanted | None = Field(
        None, description='a table of columns and values, such as {language = ["de", "en"]}'
    )
    leave_out: Wanted | None = Field(
        None, description='a table of columns and values, such as {gold_label = "-"}'
    )
    fold_labels: bool = False
    delimiter: Text | None = Field(None, description='one character, such as ";" or "\\t"')
    quoting: Literal["minimal", "none"] | None = None
    train_size: Annotated[int, limits.EXAMPLES] | None = None
    validation_size: Annotated[int, limits.EXAMPLES] | None = None
    stratified: bool = False
    lm_eval: Text | None = Field(
        None, description='a task of lm-evaluation-harness, such as "arc_easy"'
    )
    include: Text | None = Field(None, description="a folder of task files of `lm_eval`")
    limit: Annotated[int, limits.EXAMPLES] | None = None
    fewshot: Annotated[int, limits.EXAMPLES_OR_NONE] | None = None
    class_weights: ClassWeights | None = Field(
        None,
        description='"balanced", or a table of weights above 0, such as {positive = 3}',
    )
    label_smoothing: Annotated[float, limits.SMOOTHING] = 0.0
    weight: Annotated[float, limits.TASK_WEIGHT] = 1.0
    prompt: Text | None = Field(None, description="a template with text columns in braces")
    words: (
        Annotated[Texts, Field(min_length=2)] | Annotated[dict[Text, Text], Field(min_length=2)]
    ) | None = Field(
        None,
        description='a list with one word for each label, or a table such as {pos = "good"}',
    )

    @property
    def where(self) -> str:
        """The table's dotted key, for messages."""
        return f"tasks.{self.name}"

    @property
    def is_known(self) -> bool:
        """Whether the task is one of the known ones, and no data of the user's own."""
        own = (self.dataset, self.train, self.lm_eval)
        return all(each is None for each in own) and self.name in KNOWN

    def source(self, data_dir: str | None) -> TaskSource:
        """Where the data are and what they mean; `data_dir` is for a known task's.

        Raises `ConfigError` for a task of lm-evaluation-harness, whose data it reads itself.
        """
        if self.lm_eval is not None:
            raise ConfigError(
                f"{self.where} is a task of lm-evaluation-harness, whose data are read when it is "
                f"measured: `lobes run` and `lobes iap` do that."
            )
        own = {"train_size", "validation_size", "stratified", "prompt", "words", *_HARNESS, *LOSS}
        return TaskSource(**self.model_dump(exclude=own), data_dir=data_dir)

    @property
    def loss(self) -> TrainingLoss:
        """The task's loss in the training."""
        return TrainingLoss(**{key: getattr(self, key) for key in LOSS})

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, data: Any) -> Any:
        return with_name(data)

    @model_validator(mode="after")
    def _consistent(self) -> "TaskConfig":
        where = self.where
        if self._is_of_harness():
            return self  # which metrics it has is known when it is loaded
        if self.metric is not None and not is_metric(self.metric):
            metrics = metric_names()
            raise ValueError(
                f"{where}.metric is {shown(self.metric)}; "
                + (
                    f"did you mean {shown(near[0])}?"
                    if (near := difflib.get_close_matches(self.metric, metrics, n=1))
                    else f"expected one of {', '.join(metrics)}, or one that an installed package "
                    f"declares"
                )
            )
        for key in ("text", "label", "labels"):
            values = getattr(self, key) or ()
            if not isinstance(values, str) and len(set(values)) < len(values):
                raise ValueError(f"{where}.{key} is {shown(values)}; expected different names")
        if (self.prompt is None) != (self.words is None):
            given, lacks = ("words", "prompt") if self.prompt is None else ("prompt", "words")
            raise ValueError(
                f"{where}.{given} is there, but {where}.{lacks} is missing; a prompted task needs "
                f"both"
            )
        if self.prompt is not None:
            self._check_not_trained()
        self._check_source()
        if self.image is not None:
            self._check_image()
        return self

    def _is_of_harness(self) -> bool:
        """Whether the harness reads the task's data; it knows all that is said of data else."""
        if self.lm_eval is None:
            for key in ("include", "limit", "fewshot"):
                if getattr(self, key) is not None:
                    raise ValueError(
                        f"{self.where}.{key} is there, but {self.where}.lm_eval is missing; "
                        f"`{key}` belongs to a task of lm-evaluation-harness"
                    )
            return False
        known = {"name", "metric", "train_size", *_HARNESS}
        for key in type(self).model_fields:
            if key not in known and getattr(self, key) != type(self).model_fields[key].default:
                better = "; `limit` is the number of documents" if "validation" in key else ""
                raise ValueError(
                    f"{self.where}.{key} is there, but {self.where}.lm_eval names a task of "
                    f"lm-evaluation-harness, whose data and prompts are known; leave `{key}` out"
                    f"{better}"
                )
        return True

    def _check_not_trained(self) -> None:
        for key in LOSS:
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(
                    f"{self.where}.{key} is there, but {self.where}.prompt makes it a prompted "
                    f"task, which is not trained; leave one of the two out"
                )

    def _check_image(self) -> None:
        for key in ("text", "prompt"):
            if getattr(self, key) is not None:
                raise ValueError(
                    f"{self.where}.image and {self.where}.{key} are both there; expected texts "
                    f"(`text`, `prompt`) or images (`image`)"
                )

    def _check_source(self) -> None:
        where = self.where
        if self.dataset is None and self.config is not None:
            raise ValueError(
                f"{where}.config is {shown(self.config)}, but {where}.dataset is missing; "
                f"`config` belongs to a data set of the hub"
            )
        if self.is_known:
            names = ("text", "image", "labels", "columns", "label_map", "filter", "leave_out")
            for key in (*names, "fold_labels", "delimiter", "quoting", "test"):
                if getattr(self, key) not in (None, False):
                    raise ValueError(
                        f"{where}.{key} is there, but {shown(self.name)} is a known task, whose "
                        f"data are known; name `train` or `dataset` for data of your own"
                    )
            return
        if self.dataset is None and self.train is None:
            near = difflib.get_close_matches(self.name, KNOWN, n=1)
            if near:
                raise ValueError(f"{where} is not a known task; did you mean {shown(near[0])}?")
            if self.model_fields_set == {"name"}:
                raise ValueError(
                    f"{where} is not a known task; expected one of those that `lobes tasks` "
                    f"lists, or a table with `train` or `dataset`"
                )
            raise ValueError(
                f"{where}.train is missing; expected a file, or `dataset` with a data set of the "
                f"hub"
            )
        if self.text is None and self.image is None:
            raise ValueError(
                f"{where}.text is missing; expected the name of one text column, or a list of "
                f"two; for images, `image` with the name of their column"
            )


class TrainingConfig(Section):
    """The `[training]` table; docs/method.md#multi-task-training has the published values."""

    enabled: bool = Field(True, description="true, or false for a model that was trained elsewhere")
    steps: Annotated[int, limits.STEPS] | None = None
    epochs: Annotated[float, limits.EPOCHS] | None = None
    batch_size: Annotated[int, limits.BATCH_SIZE] = 32
    learning_rate: Annotated[float, limits.LEARNING_RATE] = 2e-5
    weight_decay: Annotated[float, limits.WEIGHT_DECAY] = 0.0
    warmup: Annotated[float, limits.WARMUP_SHARE] = 0.0
    sampling: Sampling = "proportional"
    temperature: Annotated[float, limits.TEMPERATURE] = 2.0
    dropout: Annotated[float, limits.DROPOUT] = 0.1
    # None: the encoder's own weights train; else LoRA adapters on all its heads
    lora_rank: Annotated[int, limits.RANK] | None = None
    lora_alpha: Annotated[float, limits.LORA_ALPHA] = 16.0
    lora_dropout: Annotated[float, limits.DROPOUT] = 0.0
    save_every: Annotated[int, limits.STEPS] | None = None
    report_to: Texts = Field(
        (), description='names of trackers that transformers knows, such as ["tensorboard"]'
    )

    @model_validator(mode="after")
    def _one_length(self) -> "TrainingConfig":
        if self.steps is not None and self.epochs is not None:
            raise ValueError(
                f"training.steps is {self.steps} and training.epochs is {self.epochs:g}; "
                f"expected one of the two"
            )
        return self

    @property
    def length(self) -> tuple[int | None, float | None]:
        """(steps, epochs), one of them None; three epochs where the study names neither."""
        if self.steps is None and self.epochs is None:
            return None, 3.0
        return self.steps, self.epochs


class IatConfig(Section, IAT):  # type: ignore[misc]  # mypy does not see that a Section is frozen
    """The `[iat]` table: `lobes.IAT`. Without it training is the ordinary one."""

    seed: Annotated[int, limits.SEED] | None = None  # type: ignore[assignment]  # the study's

    def settings(self, seed: int) -> IAT:
        """Return what the trainer takes; `seed` where the table has none of its own."""
        return _given(IAT, self, seed)


class IapConfig(Section, IapSettings):  # type: ignore[misc]
    """The `[iap]` table: `IapSettings`, and the settings of the statistics."""

    fractions: Annotated[Fractions, _in_order("iap.fractions", "each share once")] = Field(
        tuple(IapSettings.fractions), description="shares of all heads, each above 0 and at most 1"
    )
    lesion_tasks: Annotated[Texts, Field(min_length=1)] | None = Field(
        None, description="names of tasks of this study"
    )
    # 0: no exact ablation to judge the cheap scores by, and none of the similarities that need it
    agreement_examples: Annotated[int, limits.EXAMPLES_OR_NONE] = 0
    similarity_examples: Annotated[int, limits.EXAMPLES_OR_NONE] = 500
    seed: Annotated[int, limits.SEED] | None = None  # type: ignore[assignment]  # the study's
    resamples: Annotated[int, limits.RESAMPLES] = 1000
    level: Annotated[float, limits.LEVEL] = 0.95

    def settings(self, seed: int) -> IapSettings:
        """Return what `lesion_matrix` takes; `seed` where the table has none of its own."""
        return _given(IapSettings, self, seed)


def _given(kind: type[Given], table: Given, seed: int) -> Given:
    """The library's settings in a table, with a seed."""
    given = {field.name: getattr(table, field.name) for field in fields(kind)}
    return kind(**{**given, "seed": seed if table.seed is None else table.seed})


class GrowthConfig(Section):
    """The `[growth]` table: at how many steps of the training the heads are measured."""

    checkpoints: Annotated[int, limits.CHECKPOINTS] = 4


class CompareConfig(Section):
    """The `[compare]` table: what `lobes compare` trains, how often, and what it chooses by."""

    seeds: Annotated[int, limits.SEEDS] = 5
    methods: Annotated[
        tuple[Method, ...],
        BeforeValidator(as_tuple),
        Field(min_length=1),
        _in_order("compare.methods", "each once", METHODS.index),
    ] = Field(get_args(Usual), description=f"one or more of {', '.join(METHODS)}")
    held_out: Annotated[float, limits.HELD_OUT] = 0.1
    evaluations: Annotated[int, limits.EVALUATIONS] = 10
    controls: Annotated[int, limits.CONTROLS] = 20
    # A linear layer on features that stay as they are needs larger steps than a whole encoder.
    frozen_learning_rate: Annotated[float, limits.LEARNING_RATE] = 1e-3
    penalties: Annotated[
        tuple[Annotated[float, limits.PENALTY], ...],
        BeforeValidator(as_tuple),
        Field(min_length=1),
        _in_order("compare.penalties", "each once"),
    ] = Field(
        (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0),
        description="numbers from 1e-12 to 1e12, such as [0.1, 1]",
    )
    # The values of each task's weight in the grid of "tuned".
    weights: Annotated[
        tuple[Annotated[float, limits.TASK_WEIGHT], ...],
        BeforeValidator(as_tuple),
        Field(min_length=1),
        _in_order("compare.weights", "each once"),
    ] = Field((1.0, 3.0), description="numbers above 0 and at most 1,000, such as [1, 3]")


class NewTaskConfig(TaskConfig):
    """The `[transfer.task]` table: the task that is transferred to, described as in [[tasks]]."""

    @property
    def where(self) -> str:
        """The table's dotted key, for messages."""
        return "transfer.task"

    @model_validator(mode="after")
    def _is_trained(self) -> "NewTaskConfig":
        for key, rest in (("prompt", "`prompt` and `words`"), ("lm_eval", "`lm_eval`")):
            if getattr(self, key) is not None:
                raise ValueError(
                    f"transfer.task.{key} is there, but a task that is transferred to is trained; "
                    f"leave {rest} out"
                )
        if self.weight != 1:
            raise ValueError(
                f"transfer.task.weight is {shown(self.weight)}, but the task is trained alone, "
                f"with no other to weigh it against; leave `weight` out"
            )
        return self


class TransferConfig(Section):
    """The `[transfer]` table: to which task `lobes transfer` goes, and with how much of its data.

    Where batch size or learning rate are left out, they are those of [training].
    """

    task: NewTaskConfig = Field(description="a table [transfer.task], as one of [[tasks]]")
    fractions: Annotated[Fractions, _in_order("transfer.fractions", "each share once")] = Field(
        (0.001, 0.01, 0.1, 1.0),
        description="shares of the new task's training data, each above 0 and at most 1",
    )
    seeds: Annotated[int, limits.SEEDS] = 5
    steps: Annotated[int, limits.STEPS] = 200
    batch_size: Annotated[int, limits.BATCH_SIZE] | None = None
    learning_rate: Annotated[float, limits.LEARNING_RATE] | None = None


def shown(value: Any) -> str:
    """Return a value as TOML would write it, cut to fit a sentence."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except ValueError:  # an integer of thousands of digits
        text = limits.short(value)
    return text if len(text) <= 80 else text[:77] + "…"
