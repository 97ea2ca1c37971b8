"""Models that can be measured: one encoder with a classifier for each task.

`MultiTaskModel` (METHOD section 8) puts a linear classifier or regressor for each task on the
pooled output of any `AutoModel` encoder. `SingleTaskModel` gives an
`AutoModelForSequenceClassification` the same face. "Heads" always means attention heads.

A saved `MultiTaskModel` is a folder:

    encoder/                  the encoder and its tokenizer; `AutoModel` alone can load it
    classifiers.safetensors   weight and bias of each task's classifier
    lobes.json                what they belong to; written last, so a folder without it is
                              an unfinished one
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.utils import ModelOutput

from lobes.errors import ConfigError, ModelError
from lobes.pooling import (
    Pooling,
    accepted_inputs,
    check_pooling,
    choose_pooling,
    has_pooler,
    has_trained_pooler,
    pool,
    probe,
    run_encoder,
)
from lobes.pretrained import (
    checked_name,
    load_config,
    load_model,
    load_tokenizer,
    quiet,
    sentence_pooling,
    with_padding,
)
from lobes.tasks.task import Task, TaskSpec, check_task_names

SCHEMA = "lobes-model"
VERSION = 1
LONGEST_BY_DEFAULT = 512
_CARD = "lobes.json"
_CLASSIFIERS = "classifiers.safetensors"


@dataclass
class TaskOutput(ModelOutput):
    """What a forward pass gives: the loss if labels were given, and the logits.

    `logits` are [batch, outputs] of the task asked for, or a dict of every task's.
    """

    loss: Tensor | None = None
    logits: Tensor | dict[str, Tensor] | None = None


class TaskModel(nn.Module):
    """The face that importance, evaluation and training look at.

    `tokenizer` makes the inputs, texts are cut to `max_length` tokens, and `logits` gives every
    task's logits from one pass of the encoder.
    """

    tokenizer: PreTrainedTokenizerBase
    config: Any
    tasks: tuple[TaskSpec, ...]
    max_length: int

    @property
    def device(self) -> torch.device:
        """Where the model's parameters are."""
        return next(self.parameters()).device

    def logits(self, **inputs: Tensor | None) -> dict[str, Float[Tensor, "batch _"]]:
        """Every task's logits, at least in float32, from one pass of the encoder.

        `inputs` are `input_ids`, `attention_mask` and, if the tokenizer makes them,
        `token_type_ids`, each [batch, length].
        """
        raise NotImplementedError

    def spec(self, task: str) -> TaskSpec:
        """The task called `task`, or `ConfigError` listing those that the model has."""
        for spec in self.tasks:
            if spec.name == task:
                return spec
        raise ConfigError(f"The model has no task {task!r}; it has {_listed(self.tasks)}.")


class MultiTaskModel(TaskModel):
    """One shared encoder, dropout, and a linear classifier or regressor for each task.

    `pooling` says what the classifiers read: "pooler" (the encoder's own), "first" (the first
    token's state), "last" (the last real token's) or "mean" (over the real tokens). "auto" takes
    a pooler that is trained, else the last token where a token sees only those before it, else
    the first; the attribute `pooling` names what was chosen. Encoder-decoders read the text in
    the encoder and again, shifted by one, in the decoder, whose states are pooled.

    `max_length` is the longest input in tokens; by default what tokenizer and encoder can take,
    at most 512. The classifiers' initial weights depend on `seed` and the task's name alone.
    """

    def __init__(
        self,
        encoder: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        tasks: Sequence[Task | TaskSpec],
        *,
        pooling: str = "auto",
        dropout: float = 0.1,
        max_length: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ConfigError(f"dropout is a share from 0 to below 1, not {dropout:g}.")
        self.tasks = _specs(tasks)
        self.encoder = encoder
        self.config = encoder.config
        self.tokenizer = with_padding(tokenizer)
        _check_padding(self.tokenizer, encoder)
        self.max_length = _max_length(self.tokenizer, encoder, max_length)
        self.pooling: Pooling = _resolve_pooling(pooling, encoder)
        self.dropout = nn.Dropout(dropout)
        width = self._pool(probe(encoder), None).shape[-1]
        self.classifiers = nn.ModuleDict(
            (spec.name, _new_classifier(encoder, width, spec, seed)) for spec in self.tasks
        )

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"],
        attention_mask: Int[Tensor, "batch length"] | None = None,
        token_type_ids: Int[Tensor, "batch length"] | None = None,
        *,
        task: str | None = None,
        labels: Int[Tensor, " batch"] | Float[Tensor, " batch"] | None = None,
    ) -> TaskOutput:
        """The logits of `task`, or of every task, and the loss where `labels` are given.

        The loss is the mean over the batch of the cross-entropy, or of the squared error for a
        regression task. Raises `ConfigError` for a task that the model does not have.
        """
        if task is None and labels is not None:
            raise ConfigError("Labels belong to one task: say which, with task=NAME.")
        wanted = self.tasks if task is None else (self.spec(task),)
        inputs = {"attention_mask": attention_mask, "token_type_ids": token_type_ids}
        pooled = self.dropout(self.pooled(input_ids=input_ids, **inputs))
        logits = {spec.name: self._classify(spec, pooled) for spec in wanted}
        if task is None:
            return TaskOutput(logits=logits)
        loss = None if labels is None else task_loss(wanted[0], logits[task], labels)
        return TaskOutput(loss=loss, logits=logits[task])

    def logits(self, **inputs: Tensor | None) -> dict[str, Float[Tensor, "batch _"]]:
        """Every task's logits, at least in float32, from one pass of the encoder."""
        return self(**inputs).logits

    def pooled(self, **inputs: Tensor | None) -> Float[Tensor, "batch width"]:
        """What the classifiers read, before dropout, at least in float32."""
        return self._pool(run_encoder(self.encoder, inputs), inputs.get("attention_mask"))

    def _classify(
        self, spec: TaskSpec, pooled: Float[Tensor, "batch width"]
    ) -> Float[Tensor, "batch _"]:
        classifier = self.classifiers[spec.name]
        return _at_least_float32(classifier(pooled.to(classifier.weight.dtype)))

    def _pool(
        self, outputs: Any, mask: Int[Tensor, "batch length"] | None
    ) -> Float[Tensor, "batch width"]:
        if self.pooling == "pooler":
            return _at_least_float32(outputs.pooler_output)
        states = outputs.last_hidden_state
        if mask is None:
            mask = torch.ones(states.shape[:2], dtype=torch.int64, device=states.device)
        return _at_least_float32(pool(states, mask, self.pooling))

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the model to `folder`, replacing what an earlier call wrote there.

        `lobes.json` goes first and comes last: a folder whose writing was interrupted is refused
        by `from_pretrained`. Raises `ModelError` where the encoder cannot be saved.
        """
        if not hasattr(self.encoder, "save_pretrained"):
            raise ModelError(
                f"An encoder of the class {type(self.encoder).__name__} cannot be saved: expected "
                f"a transformers model, with save_pretrained."
            )
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _CARD).unlink(missing_ok=True)
        with quiet():
            self.encoder.save_pretrained(folder / "encoder")
            self.tokenizer.save_pretrained(folder / "encoder")
        weights = {key: value.contiguous() for key, value in self.classifiers.state_dict().items()}
        save_file(weights, folder / _CLASSIFIERS, metadata={"format": "pt"})
        card = {
            "schema": SCHEMA,
            "version": VERSION,
            "tasks": [spec.to_dict() for spec in self.tasks],
            "pooling": self.pooling,
            "dropout": self.dropout.p,
            "max_length": self.max_length,
        }
        unfinished = folder / f"{_CARD}.unfinished"
        unfinished.write_text(json.dumps(card, indent=2, ensure_ascii=False), encoding="utf-8")
        os.replace(unfinished, folder / _CARD)

    def load_weights(self, folder: str | os.PathLike[str]) -> None:
        """Take over the weights of the same model, as `save_pretrained` wrote them to `folder`."""
        _read_card(Path(folder))
        with quiet(), torch.random.fork_rng(devices=[]):
            saved = type(self.encoder).from_pretrained(
                Path(folder, "encoder"), use_safetensors=True, dtype=_dtype(self.encoder)
            )
        self.encoder.load_state_dict(saved.state_dict())
        self.classifiers.load_state_dict(_read_classifiers(Path(folder)))

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | os.PathLike[str],
        tasks: Sequence[Task | TaskSpec] | None = None,
        *,
        trust_remote_code: bool = False,
        pooling: str = "auto",
        dropout: float | None = None,
        max_length: int | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> "MultiTaskModel":
        """Load a saved `MultiTaskModel`, or put new classifiers on a pre-trained encoder.

        `name_or_folder` is a folder that `save_pretrained` wrote (`tasks` may then be left out;
        where given they must be the model's), or any encoder: a name on the hub or a folder.
        For an encoder, "auto" heeds what a sentence-transformers model says about its pooling,
        then whether the checkpoint holds a trained pooler. `dropout` is 0.1 for a new model.
        Raises `ModelError` where nothing can be loaded, or the tasks do not match.
        """
        settings = {"pooling": pooling, "dropout": dropout, "max_length": max_length}
        if is_saved_model(name_or_folder):
            return _restore(Path(name_or_folder), tasks, settings, trust_remote_code, dtype)
        if tasks is None:
            raise ModelError(
                f"{os.fspath(name_or_folder)!r} is an encoder without classifiers: say what they "
                f"are for with tasks=[...], or give a folder that MultiTaskModel.save_pretrained "
                f"wrote."
            )
        said, subfolder = sentence_pooling(checked_name(name_or_folder))
        where = {"trust_remote_code": trust_remote_code, "subfolder": subfolder}
        encoder, missing = load_model(name_or_folder, dtype=dtype, seed=seed, **where)
        tokenizer = load_tokenizer(name_or_folder, **where)
        if pooling == "auto":
            loaded = not any(key.startswith("pooler.") for key in missing)
            trained = loaded and has_trained_pooler(encoder)
            settings["pooling"] = said or choose_pooling(encoder, trained_pooler=trained)
        settings["dropout"] = 0.1 if dropout is None else dropout
        return cls(encoder, tokenizer, tasks, seed=seed, **settings)


class SingleTaskModel(TaskModel):
    """An `AutoModelForSequenceClassification` and the one task that it was trained for.

    Its outputs are put in the order of the task's labels where the model's own label names
    (`config.id2label`) are the same in another order. Raises `ModelError` where the model has
    another number of outputs, or other label names.
    """

    def __init__(
        self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, task: Task | TaskSpec
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = with_padding(tokenizer)
        self.config = model.config
        self.tasks = _specs([task])
        _check_padding(self.tokenizer, model)
        self.max_length = _max_length(self.tokenizer, model, None)
        order = _label_order(self.tasks[0], self.config)
        self.register_buffer("order", torch.tensor(order, device=self.device), persistent=False)
        if getattr(self.config, "pad_token_id", None) is None:
            # decoders look for the last token that is not padding
            self.config.pad_token_id = self.tokenizer.pad_token_id

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"],
        attention_mask: Int[Tensor, "batch length"] | None = None,
        token_type_ids: Int[Tensor, "batch length"] | None = None,
    ) -> TaskOutput:
        """The logits of the task, as {name: [batch, outputs]}, in the order of its labels."""
        given = {"attention_mask": attention_mask, "token_type_ids": token_type_ids}
        accepted = accepted_inputs(type(self.model))
        inputs = {
            key: value for key, value in given.items() if value is not None and key in accepted
        }
        if "use_cache" in accepted:
            inputs["use_cache"] = False
        logits = _at_least_float32(self.model(input_ids=input_ids, **inputs).logits)
        return TaskOutput(logits={self.tasks[0].name: logits[:, self.order]})

    def logits(self, **inputs: Tensor | None) -> dict[str, Float[Tensor, "batch _"]]:
        """The task's logits, at least in float32."""
        return self(**inputs).logits


def load_task_model(
    name_or_folder: str | os.PathLike[str],
    tasks: Sequence[Task | TaskSpec] | None = None,
    *,
    trust_remote_code: bool = False,
    dtype: torch.dtype = torch.float32,
) -> TaskModel:
    """Load a trained model to measure it.

    Either a folder that `MultiTaskModel.save_pretrained` wrote, or the name or folder of an
    `AutoModelForSequenceClassification` with the one task it was trained for. Raises `ModelError`
    where it is neither, or does not fit the tasks.
    """
    trust = {"trust_remote_code": trust_remote_code}
    if is_saved_model(name_or_folder):
        return MultiTaskModel.from_pretrained(name_or_folder, tasks, dtype=dtype, **trust)
    name = os.fspath(name_or_folder)
    config = load_config(name_or_folder, **trust)
    if not any("ForSequenceClassification" in made for made in config.architectures or ()):
        raise ModelError(
            f"The model {name!r} has no trained classifier: expected a folder that lobes saved "
            f"after training, or a ForSequenceClassification model. Train it first, with "
            f"`lobes train` or MultiTaskModel.from_pretrained and MultiTaskTrainer."
        )
    if tasks is None or len(tasks) != 1:
        raise ModelError(
            f"The model {name!r} was trained for one task; {len(tasks or ())} were given: name "
            f"the one task that its classifier answers."
        )
    model, missing = load_model(name_or_folder, kind="classifier", dtype=dtype, **trust)
    if missing:
        raise ModelError(
            f"The model {name!r} was not trained to the end: its checkpoint lacks "
            f"{', '.join(sorted(missing)[:3])}."
        )
    return SingleTaskModel(model, load_tokenizer(name_or_folder, **trust), tasks[0])


def task_loss(
    spec: TaskSpec,
    logits: Float[Tensor, "batch outputs"],
    labels: Int[Tensor, " batch"] | Float[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """The mean over the batch of the cross-entropy, or of the squared error for a regression."""
    if spec.is_regression:
        return nn.functional.mse_loss(logits[:, 0], labels.to(logits.dtype))
    return nn.functional.cross_entropy(logits, labels)


def is_saved_model(name_or_folder: str | os.PathLike[str]) -> bool:
    """Whether `MultiTaskModel.save_pretrained` wrote the folder, be it finished or not."""
    folder = Path(name_or_folder)
    return (folder / _CARD).is_file() or (folder / _CLASSIFIERS).is_file()


def _restore(
    folder: Path,
    tasks: Sequence[Task | TaskSpec] | None,
    settings: Mapping[str, Any],
    trust_remote_code: bool,
    dtype: torch.dtype,
) -> MultiTaskModel:
    card = _read_card(folder)
    own = {key: card[key] for key in ("pooling", "dropout", "max_length")}
    own |= {key: value for key, value in settings.items() if value not in (None, "auto")}
    if own["pooling"] != card["pooling"]:
        raise ModelError(
            f"The classifiers in {str(folder)!r} read the pooling {card['pooling']!r}, not "
            f"{own['pooling']!r}: leave pooling out, or train new classifiers on its encoder/."
        )
    specs = _matching(folder, [TaskSpec.from_dict(spec) for spec in card["tasks"]], tasks)
    weights = _read_classifiers(folder)
    encoder, missing = load_model(
        folder, subfolder="encoder", trust_remote_code=trust_remote_code, dtype=dtype
    )
    unused = "" if own["pooling"] == "pooler" else "pooler."
    lost = sorted(key for key in missing if not (unused and key.startswith(unused)))
    if lost:
        raise ModelError(
            f"The encoder in {str(folder)!r} is damaged: {', '.join(lost[:3])} are missing."
        )
    tokenizer = load_tokenizer(folder, subfolder="encoder", trust_remote_code=trust_remote_code)
    model = MultiTaskModel(encoder, tokenizer, specs, **own)
    try:
        model.classifiers.load_state_dict(weights)
    except RuntimeError:
        raise ModelError(
            f"The classifiers in {str(folder)!r} are not those that its lobes.json describes: "
            f"copy the whole folder again."
        ) from None
    return model


def _read_card(folder: Path) -> dict[str, Any]:
    if not (folder / _CARD).is_file():
        raise ModelError(
            f"The model in {str(folder)!r} was not written to the end ({_CARD} is missing): save "
            f"it again."
        )
    try:
        card = json.loads((folder / _CARD).read_text(encoding="utf-8"))
        if card["schema"] != SCHEMA:
            raise ValueError(card["schema"])
        version = int(card["version"])
    except (ValueError, KeyError, TypeError):
        raise ModelError(
            f"{str(folder / _CARD)!r} does not describe a saved MultiTaskModel: expected what "
            f"save_pretrained writes."
        ) from None
    if version > VERSION:
        raise ModelError(
            f"The model in {str(folder)!r} was saved by a newer lobes (format {version}, this one "
            f"reads up to {VERSION}): upgrade lobes."
        )
    return card


def _read_classifiers(folder: Path) -> dict[str, Tensor]:
    try:
        return load_file(folder / _CLASSIFIERS)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"The classifiers in {str(folder)!r} are missing or damaged ({error}): copy the whole "
            f"folder again."
        ) from None


def _matching(
    folder: Path, saved: Sequence[TaskSpec], tasks: Sequence[Task | TaskSpec] | None
) -> list[TaskSpec]:
    """The saved tasks, or the given ones in their place where they have the same labels."""
    given = {spec.name: spec for spec in _specs(tasks)} if tasks is not None else {}
    if tasks is not None and set(given) != {spec.name for spec in saved}:
        raise ModelError(
            f"The model in {str(folder)!r} has the tasks {_listed(saved)}, not "
            f"{_listed(given.values())}."
        )
    for spec in saved:
        if spec.name in given and given[spec.name].labels != spec.labels:
            raise ModelError(
                f"In {str(folder)!r} the task {spec.name!r} has the labels {spec.labels}, not "
                f"{given[spec.name].labels}: give it the labels it was trained with, in their "
                f"order."
            )
    return [given.get(spec.name, spec) for spec in saved]


def _specs(tasks: Sequence[Task | TaskSpec]) -> tuple[TaskSpec, ...]:
    specs = tuple(task if isinstance(task, TaskSpec) else task.spec for task in tasks)
    check_task_names(specs)
    for spec in specs:
        if hasattr(nn.ModuleDict, spec.name) or spec.name == "training":
            raise ConfigError(
                f"A task cannot be called {spec.name!r}, which torch.nn.ModuleDict needs for "
                f"itself: choose another name, such as '{spec.name}-task'."
            )
    return specs


def _listed(specs: Iterable[TaskSpec]) -> str:
    return ", ".join(repr(spec.name) for spec in specs)


def _resolve_pooling(pooling: str, encoder: nn.Module) -> Pooling:
    check_pooling(pooling)
    if pooling == "auto":
        return choose_pooling(encoder, trained_pooler=has_trained_pooler(encoder))
    if pooling == "pooler" and not has_pooler(encoder):
        raise ConfigError(
            f"The encoder {type(encoder).__name__} has no pooler of its own: choose the pooling "
            f'"first", "mean" or "last".'
        )
    return pooling


def _new_classifier(encoder: nn.Module, width: int, spec: TaskSpec, seed: int) -> nn.Linear:
    """Weights N(0, σ²), σ as the encoder's own for new weights (0.02 if not said); biases 0."""
    words = np.random.SeedSequence([seed, *spec.name.encode()]).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(words[0]) >> 1)
    classifier = nn.utils.skip_init(nn.Linear, width, spec.n_outputs)
    deviation = getattr(encoder.config, "initializer_range", None) or 0.02
    with torch.no_grad():
        classifier.weight.normal_(0.0, deviation, generator=generator)
        classifier.bias.zero_()
    parameter = next(encoder.parameters())
    return classifier.to(parameter.device, torch.promote_types(parameter.dtype, torch.float32))


def _max_length(tokenizer: PreTrainedTokenizerBase, encoder: nn.Module, given: int | None) -> int:
    limit = _position_limit(encoder)
    if given is None:
        return min(LONGEST_BY_DEFAULT, int(tokenizer.model_max_length), limit or LONGEST_BY_DEFAULT)
    if given < 1 or (limit is not None and given > limit):
        raise ConfigError(
            f"max_length = {given} does not fit {type(encoder).__name__}, which takes 1 to "
            f"{limit or 'any number of'} tokens."
        )
    return given


def _position_limit(encoder: nn.Module) -> int | None:
    """How many tokens the encoder has positions for; None where it does not say.

    RoBERTa and its kin number positions after the padding index, so that many are lost.
    """
    positions = getattr(encoder.config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return None
    reserved = [
        module.padding_idx + 1
        for name, module in encoder.named_modules()
        if name.endswith("position_embeddings")
        and isinstance(module, nn.Embedding)
        and module.padding_idx is not None
    ]
    return positions - max(reserved, default=0)


def _check_padding(tokenizer: PreTrainedTokenizerBase, encoder: nn.Module) -> None:
    table = encoder.get_input_embeddings() if hasattr(encoder, "get_input_embeddings") else None
    embeddings = getattr(table, "num_embeddings", None)
    if embeddings is not None and tokenizer.pad_token_id >= embeddings:
        raise ModelError(
            f"The tokenizer pads with token {tokenizer.pad_token_id}, but the encoder knows only "
            f"{embeddings} tokens: they do not belong together, or the encoder needs "
            f"resize_token_embeddings({len(tokenizer)})."
        )


def _label_order(spec: TaskSpec, config: Any) -> list[int]:
    """For each of the task's outputs, the model's output that it is."""
    if config.num_labels != spec.n_outputs:
        raise ModelError(
            f"The model has {config.num_labels} outputs, but the task {spec.name!r} needs "
            f"{spec.n_outputs}: give the task that the model was trained for."
        )
    names = [str(config.id2label[i]).casefold() for i in range(spec.n_outputs)]
    wanted = [label.casefold() for label in spec.labels or names]
    if all(map(_is_generic, names)) or all(map(_is_generic, wanted)):
        return list(range(spec.n_outputs))
    if sorted(names) != sorted(wanted):
        raise ModelError(
            f"The model's labels are {', '.join(names)}, those of the task {spec.name!r} are "
            f"{', '.join(wanted)}: give the task the model's labels, so that each answer can be "
            f"told."
        )
    return [names.index(label) for label in wanted]


def _is_generic(label: str) -> bool:
    return label.removeprefix("label_").isdigit()


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype


def _at_least_float32(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return values.to(torch.promote_types(values.dtype, torch.float32))
