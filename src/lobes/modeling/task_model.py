"""The common interface of the models that can be measured: inputs, logits, loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.utils import ModelOutput

from lobes.data.batching import Inputs, encode
from lobes.discovery.positions import real_positions
from lobes.errors import ConfigError, DataError, ModelError
from lobes.modeling.pictures import EncodedImages, ImageProcessor
from lobes.modeling.pooling import PictureProbe, probe_pictures
from lobes.modeling.pretrained import with_padding
from lobes.tasks.columns import listed
from lobes.tasks.images import Picture
from lobes.tasks.task import TaskSpec, as_tasks

LONGEST_BY_DEFAULT = 512
_EXAMPLE_LENGTH = 7


@dataclass
class TaskOutput(ModelOutput):
    """What a forward pass gives: the loss if labels were given, and the logits.

    `logits` are [batch, outputs] of the task asked for, or a dict of every task's.
    """

    loss: Tensor | None = None
    logits: Tensor | dict[str, Tensor] | None = None


@runtime_checkable
class Readable(Protocol):
    """Examples to be encoded: those of a task (`Examples`), with labels or without (`Split`)."""

    @property
    def texts(self) -> Sequence[tuple[str, ...]]:
        """One string for each text column."""

    @property
    def images(self) -> Sequence[Picture] | None:
        """The pictures, where the task is one of images."""


class TaskModel(nn.Module):
    """The interface that importance, evaluation and training use.

    `tokenizer` makes the inputs, texts are cut to `max_length` tokens, and `logits` gives every
    task's logits from one pass of the encoder. A model of images has an `image_processor` in place
    of the tokenizer, and `max_length` is the number of its positions.
    """

    tokenizer: Any  # None for a model of images
    image_processor: ImageProcessor | None = None
    config: Any
    tasks: tuple[TaskSpec, ...]
    max_length: int

    def _read_with(
        self, model: nn.Module, tokenizer: Any, image_processor: Any, max_length: int | None
    ) -> PictureProbe | None:
        """Take what makes the inputs; return what an image encoder made of one picture."""
        _check_medium(self.tasks, tokenizer, image_processor)
        if image_processor is None:
            self.tokenizer = with_padding(tokenizer)
            _check_padding(self.tokenizer, model)
            self.max_length = longest_input(self.tokenizer, model, max_length)
            return None
        check_no_length(max_length)
        self.tokenizer, self.image_processor = None, ImageProcessor(image_processor)
        seen = probe_pictures(model, self.image_processor.sample())
        self.max_length = seen.patches + 1
        return seen

    @property
    def input_names(self) -> tuple[str, ...]:
        """What the forward pass reads; discovery asks for it."""
        if self.image_processor is not None:
            return ("pixel_values",)
        return ("input_ids", "attention_mask", "token_type_ids")

    @property
    def device(self) -> torch.device:
        """Where the model's inputs go."""
        return device_of(self)

    def logits(self, **inputs: Tensor | None) -> dict[str, Float[Tensor, "batch _"]]:
        """Return every task's logits, at least in float32, from one pass of the encoder.

        `inputs` are `input_ids`, `attention_mask` and, if the tokenizer makes them,
        `token_type_ids`, each [batch, length]; or `pixel_values` [batch, channels, height, width].
        """
        return self(**inputs).logits

    def task_logits(self, task: str, **inputs: Tensor | None) -> Float[Tensor, "batch _"]:
        """Return one task's logits."""
        return self.logits(**inputs)[task]

    def encode(self, task: str, examples: Readable) -> Inputs:
        """Encode a task's examples for the model: texts cut to `max_length` tokens, or images.

        Raises `DataError` for texts where the model reads images, and the other way round.
        """
        images, processor = examples.images, self.image_processor
        if (images is None) != (processor is None):
            given, read = ("texts", "images") if images is None else ("images", "texts")
            raise DataError(
                f"Task {task!r} has {given}, but the model reads {read}: give it a task of {read}, "
                f"or take another model."
            )
        if images is not None and processor is not None:
            return EncodedImages(tuple(images), processor, self.max_length)
        return encode(self.tokenizer, examples.texts, self.max_length)

    def example(self) -> dict[str, Tensor]:
        """Return a made-up example on the model's device: different tokens, or random noise.

        Several, since attention to a single token is 1 whatever its query and key are.
        """
        if self.image_processor is not None:
            return {"pixel_values": self.image_processor.sample().to(self.device)}
        length = min(_EXAMPLE_LENGTH, self.max_length)
        ids = torch.arange(_EXAMPLE_LENGTH, _EXAMPLE_LENGTH + length) % len(self.tokenizer)
        ids = ids[None].to(self.device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def losses(
        self,
        task: str,
        labels: Int[Tensor, "batch *outputs"] | Float[Tensor, " batch"],
        **inputs: Tensor | None,
    ) -> Float[Tensor, " batch"]:
        """Return each example's own loss in a task: what importance is computed from."""
        return example_losses(self.task_logits(task, **inputs), labels, self.spec(task))

    def generates(self, task: str) -> bool:
        """Return whether a task's examples are answered by text that the model generates.

        Then `generated` gives their predictions, and logits are those of the reference texts.
        """
        return False

    def generated(
        self, task: str, examples: Readable, sequences: int
    ) -> Float[np.ndarray, " examples"]:
        """Return the value of the task's metric for each example, generating so many at once."""
        raise ConfigError(f"{type(self).__name__} generates no text for task {task!r}.")

    def copies(self, task: str, inputs: Mapping[str, Tensor | None]) -> int:
        """Return how many sequences the model reads, one after the other, for each example."""
        return 1

    def real(
        self, task: str, inputs: Mapping[str, Tensor | None]
    ) -> Bool[Tensor, "batch positions"] | None:
        """Return the mask of each example's positions that are not padding; None if all count."""
        return real_positions(inputs)

    def real_rows(
        self, task: str, inputs: Mapping[str, Tensor | None]
    ) -> Bool[Tensor, "sequences positions"] | None:
        """Return the same mask for each of the sequences that the model reads."""
        real, copies = self.real(task, inputs), self.copies(task, inputs)
        return real if real is None or copies == 1 else real.repeat_interleave(copies, 0)

    def spec(self, task: str) -> TaskSpec:
        """Return the task called `task`; `ConfigError` with the model's tasks if there is none."""
        for spec in self.tasks:
            if spec.name == task:
                return spec
        names = listed(spec.name for spec in self.tasks)
        raise ConfigError(f"The model has no task {task!r}; it has {names}.")


def example_losses(
    logits: Float[Tensor, "batch outputs"],
    labels: Int[Tensor, "batch *outputs"] | Float[Tensor, " batch"],
    spec: TaskSpec,
) -> Float[Tensor, " batch"]:
    """Return each example's own loss: cross-entropy, or the squared error of a regression task.

    With several labels, binary cross-entropy: the mean over the classes j of
    −y_j log σ(z_j) − (1 − y_j) log(1 − σ(z_j)), with logits z and labels y of 0 and 1.
    """
    if spec.is_regression:
        return (logits[:, 0] - labels.to(logits.dtype)) ** 2
    if spec.is_multi_label:
        return nn.functional.binary_cross_entropy_with_logits(
            logits, labels.to(logits.dtype), reduction="none"
        ).mean(1)
    return nn.functional.cross_entropy(logits, labels, reduction="none")


def check_task_model(model: object) -> TaskModel:
    """Return the model, or raise `ModelError` for what cannot do tasks of texts or images."""
    if isinstance(model, TaskModel):
        return model
    what = repr(model) if isinstance(model, str) else f"a {type(model).__name__}"
    raise ModelError(
        f"Expected a model that does tasks, such as lobes.MultiTaskModel, not {what}: build "
        f"one with lobes.MultiTaskModel.from_pretrained(name, tasks=[...]), or give each task as a "
        f"lobes.BatchTask, batches with a loss of their own, which takes any model."
    )


def specs_of(tasks: TaskSpec | Sequence[TaskSpec]) -> tuple[TaskSpec, ...]:
    """Return the tasks without their data; refuse names that cannot be in one model."""
    specs = tuple(task.spec for task in as_tasks(tasks))
    kinds = {spec.image is None: spec.name for spec in specs}
    if len(kinds) > 1:
        raise ConfigError(
            f"Task {kinds[False]!r} has images and task {kinds[True]!r} has texts: the tasks of "
            f"one model are all of one kind; make two models."
        )
    for spec in specs:
        if hasattr(nn.ModuleDict, spec.name) or spec.name == "training":
            raise ConfigError(
                f"A task cannot be called {spec.name!r}, which torch.nn.ModuleDict needs for "
                f"itself: choose another name, such as '{spec.name}-task'."
            )
    return specs


def _check_medium(specs: Sequence[TaskSpec], tokenizer: Any, image_processor: Any) -> None:
    """Raise `ConfigError` unless texts come with a tokenizer, or images with their processor."""
    image = specs[0].image is not None
    if image and image_processor is None:
        raise ConfigError(
            f"Task {specs[0].name!r} has images: give the model its image processor, with "
            f"image_processor=AutoImageProcessor.from_pretrained(…), in place of a tokenizer."
        )
    if not image and (tokenizer is None or image_processor is not None):
        raise ConfigError(
            f"Task {specs[0].name!r} has texts: give the model its tokenizer, and no image "
            f"processor."
        )


def check_texts(specs: Sequence[TaskSpec], why: str) -> None:
    """Raise `ConfigError` where the tasks are of images; `why` is the second half sentence."""
    if specs[0].image is not None:
        raise ConfigError(f"Task {specs[0].name!r} has images, but {why}.")


def longest_input(tokenizer: PreTrainedTokenizerBase, encoder: nn.Module, given: int | None) -> int:
    """Return the number of tokens to cut texts to: as given, or the most allowed up to 512."""
    limit = _position_limit(encoder)
    if given is None:
        return min(LONGEST_BY_DEFAULT, int(tokenizer.model_max_length), limit or LONGEST_BY_DEFAULT)
    if given < 1 or (limit is not None and given > limit):
        raise ConfigError(
            f"max_length = {given} does not fit {type(encoder).__name__}, which takes 1 to "
            f"{limit or 'any number of'} tokens."
        )
    return given


def check_no_length(max_length: int | None) -> None:
    """Raise `ConfigError` for a length that is given for images."""
    if max_length is not None:
        raise ConfigError(
            f"max_length = {max_length} is for texts, but the tasks have images: leave it out."
        )


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
    """Raise `ModelError` where the tokenizer pads with a token that the encoder does not know."""
    get = getattr(encoder, "get_input_embeddings", None)
    try:
        table = None if get is None else get()
    except NotImplementedError:  # CANINE, which hashes characters
        table = None
    embeddings = getattr(table, "num_embeddings", None)
    if embeddings is not None and tokenizer.pad_token_id >= embeddings:
        raise ModelError(
            f"The tokenizer pads with token {tokenizer.pad_token_id}, but the encoder knows only "
            f"{embeddings} tokens: they do not belong together, or the encoder needs "
            f"resize_token_embeddings({len(tokenizer)})."
        )


def device_of(module: nn.Module) -> torch.device:
    """Return where the module's inputs go: the device of its first parameter.

    The parts of a model that `device_map` spread over several devices move them on from there.
    """
    return next(module.parameters()).device


def dtype_of(module: nn.Module) -> torch.dtype:
    """Return the data type of the module's parameters."""
    return next(module.parameters()).dtype


def at_least_float32(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the values in float32, or as they are if they are more precise."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
