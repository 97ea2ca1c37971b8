"""Models that can be trained and measured: one encoder with a classifier for each task.

`MultiTaskModel` puts a linear classifier or regressor for each task on the pooled output of any
`AutoModel` encoder, of texts or of images (docs/method.md#multi-task-training). "Heads" always
means attention heads. What a saved `MultiTaskModel` looks like on disk is in `saved.py`.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lobes.errors import ConfigError, ModelError
from lobes.modeling.head_lora import head_lora
from lobes.modeling.pictures import Pixels, load_image_processor
from lobes.modeling.pooling import (
    Pooling,
    as_sequence,
    choose_pooling,
    has_trained_pooler,
    pool,
    probe,
    probe_pictures,
    resolved_picture_pooling,
    resolved_pooling,
    run_encoder,
)
from lobes.modeling.pretrained import (
    checked_name,
    load_model,
    load_tokenizer,
    load_vision_model,
    sentence_pooling,
)
from lobes.modeling.safe_loading import check_contents, opening, quiet
from lobes.modeling.saved import (
    ENCODER,
    Card,
    check_saveable,
    close_folder,
    encoder_type,
    is_saved_model,
    matching_specs,
    open_folder,
    original_class,
    read_card,
    read_classifiers,
    write_classifiers,
)
from lobes.modeling.saved_adapters import (
    adapter_weights,
    base_of,
    holds_adapters,
    is_adapted,
    name_base,
    put_on,
    save_adapters,
)
from lobes.modeling.task_model import (
    TaskModel,
    TaskOutput,
    at_least_float32,
    check_no_length,
    dtype_of,
    example_losses,
    longest_input,
    specs_of,
)
from lobes.tasks.task import TaskSpec


class MultiTaskModel(TaskModel):
    """One shared encoder, dropout, and a linear classifier or regressor for each task.

    `pooling` says what the classifiers read: "pooler" (the encoder's own), "first" (the first
    token's state), "last" (the last real token's) or "mean" (over the real tokens). "auto" takes
    a pooler that is trained, else the last token where a token sees only those before it, else
    the first; the attribute `pooling` names what was chosen. Encoder-decoders read the text in
    the encoder and again, shifted by one, in the decoder, whose states are pooled.

    `max_length` is the longest input in tokens; by default what tokenizer and encoder can take,
    at most 512.

    Tasks of images need an `image_processor`, and no `tokenizer` (None). All positions are real
    then, "auto" is a trained pooler, else the first state where it is a class token's, else the
    mean, and `max_length` is the number of patches and one.

    The classifiers' initial weights depend on `seed` and the task's name alone. `new_weights` are
    the names of the encoder's weights that `from_pretrained` did not find and drew by a seed.
    """

    encoder: Any
    new_weights: frozenset[str] = frozenset()

    def __init__(
        self,
        encoder: nn.Module,
        tokenizer: PreTrainedTokenizerBase | None,
        tasks: Sequence[TaskSpec],
        *,
        image_processor: Any = None,
        pooling: str = "auto",
        dropout: float = 0.1,
        max_length: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ConfigError(f"dropout is a share from 0 to below 1, not {dropout:g}.")
        self.tasks = specs_of(tasks)
        if not isinstance(encoder, nn.Module):
            raise ModelError(
                f"The encoder is a torch.nn.Module, not {encoder!r}: to load one by its name, call "
                f"MultiTaskModel.from_pretrained."
            )
        self.encoder = encoder
        self.config = encoder.config
        self.pooling: Pooling
        seen = self._read_with(encoder, tokenizer, image_processor, max_length)
        if seen is None:
            self.pooling, outputs = resolved_pooling(pooling, encoder), probe(encoder)
        else:
            self.pooling = resolved_picture_pooling(pooling, encoder, seen)
            outputs = seen.outputs
        self.dropout = nn.Dropout(dropout)
        # FSDP reduces the gradients that are there, and processes may have batches of different
        # tasks: its trainer lets every loss give every classifier one, of zero.
        self.reaches_all = False
        width = self._pool(outputs, None).shape[-1]
        self.classifiers = nn.ModuleDict(
            {spec.name: _new_classifier(encoder, width, spec, seed) for spec in self.tasks}
        )

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"] | None = None,
        attention_mask: Int[Tensor, "batch length"] | None = None,
        token_type_ids: Int[Tensor, "batch length"] | None = None,
        pixel_values: Pixels | None = None,
        *,
        task: str | None = None,
        labels: Int[Tensor, "batch *outputs"] | Float[Tensor, " batch"] | None = None,
        loss_function: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> TaskOutput:
        """Return the logits of `task`, or of every task, and the loss if `labels` are given.

        The loss is the mean over the batch of each example's own (`example_losses`), or of
        `loss_function(logits, labels) -> [batch]`. Raises `ConfigError` for a task that the model
        does not have.
        """
        if task is None and labels is not None:
            raise ConfigError("Labels belong to one task: say which, with task=NAME.")
        wanted = self.tasks if task is None else (self.spec(task),)
        texts = {"attention_mask": attention_mask, "token_type_ids": token_type_ids}
        inputs = {"input_ids": input_ids, **texts, "pixel_values": pixel_values}
        pooled = self.dropout(self.pooled(**inputs))
        logits = {spec.name: self._classify(spec, pooled) for spec in wanted}
        if task is None:
            return TaskOutput(logits=logits)
        if labels is None:
            return TaskOutput(logits=logits[task])
        each = loss_function or partial(example_losses, spec=wanted[0])
        loss = each(logits[task], labels).mean()
        if self.reaches_all:
            others = [self._classify(spec, pooled) for spec in self.tasks if spec.name != task]
            loss = loss + sum(_nothing(values) for values in others)
        return TaskOutput(loss=loss, logits=logits[task])

    def pooled(self, **inputs: Tensor | None) -> Float[Tensor, "batch width"]:
        """Return the input of the classifiers before dropout, at least in float32."""
        pixels = inputs.get("pixel_values")
        if pixels is not None:
            inputs["pixel_values"] = pixels.to(dtype_of(self.encoder))
        return self._pool(run_encoder(self.encoder, inputs), inputs.get("attention_mask"))

    def _classify(
        self, spec: TaskSpec, pooled: Float[Tensor, "batch width"]
    ) -> Float[Tensor, "batch _"]:
        classifier = cast(nn.Linear, self.classifiers[spec.name])
        # not under autocast: in bf16 many logits would tie, and regressions have few values
        with torch.autocast(pooled.device.type, enabled=False):
            return at_least_float32(classifier(pooled.to(classifier.weight.dtype)))

    def _pool(
        self, outputs: Any, mask: Int[Tensor, "batch length"] | None
    ) -> Float[Tensor, "batch width"]:
        if self.pooling == "pooler":
            return at_least_float32(outputs.pooler_output.flatten(1))
        states = as_sequence(outputs.last_hidden_state)
        if mask is None:
            mask = torch.ones(states.shape[:2], dtype=torch.int64, device=states.device)
        return at_least_float32(pool(states, mask, self.pooling))

    @property
    def supports_gradient_checkpointing(self) -> bool:
        """Whether the encoder can compute its activations again in the backward pass."""
        return bool(getattr(self.encoder, "supports_gradient_checkpointing", False))

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """Compute the encoder's activations again in the backward pass, instead of keeping them.

        The arguments are those of the encoder's own method. Raises `ModelError` where it has none.
        """
        if not self.supports_gradient_checkpointing:
            raise ModelError(
                f"An encoder of the class {type(self.encoder).__name__} cannot compute its "
                f"activations again: train without activation checkpointing."
            )
        given = activation_checkpointing_kwargs
        if hasattr(self.encoder, "activation_checkpointing_enable"):
            self.encoder.activation_checkpointing_enable(given, **options)
        else:  # transformers before 5.20
            self.encoder.gradient_checkpointing_enable(given, **options)

    def activation_checkpointing_disable(self) -> None:
        """Keep the encoder's activations again."""
        if hasattr(self.encoder, "activation_checkpointing_disable"):
            self.encoder.activation_checkpointing_disable()
        else:
            self.encoder.gradient_checkpointing_disable()
        if getattr(self.encoder, "_require_grads_hook", None) is not None:
            self.encoder.disable_input_require_grads()  # which enabling it had asked for

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """Enable activation checkpointing, under its older name in transformers."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, **options)

    def get_input_embeddings(self) -> nn.Module | None:
        """Return the encoder's token embeddings; None if it does not expose them."""
        try:
            return self.encoder.get_input_embeddings()
        except (AttributeError, NotImplementedError):
            return None

    def save_pretrained(
        self, folder: str | os.PathLike[str], *, state_dict: Mapping[str, Tensor] | None = None
    ) -> None:
        """Write the model to `folder`, replacing what an earlier call wrote there.

        Of an encoder with adapters (peft) these alone are written, with the name of their base
        model and a digest of its weights.
        `state_dict` are its weights where the model itself holds only a part (FSDP).
        `lobes.json` goes first and comes last: a folder whose writing was interrupted is refused
        by `from_pretrained`. Raises `ModelError` where the encoder cannot be saved.
        """
        check_saveable(self.encoder)
        folder = Path(folder)
        open_folder(folder)
        with quiet():
            if is_adapted(self.encoder):
                save_adapters(self.encoder, folder / ENCODER)
            else:
                self._whole_encoder(state_dict).save_pretrained(folder / ENCODER)
            (self.image_processor or self.tokenizer).save_pretrained(folder / ENCODER)
        write_classifiers(folder, _under("classifiers.", state_dict or self.state_dict()))
        base = base_of(self.encoder) if is_adapted(self.encoder) else None
        dropout = float(self.dropout.p)
        close_folder(folder, Card(self.tasks, self.pooling, dropout, self.max_length, base))

    def _whole_encoder(self, state_dict: Mapping[str, Tensor] | None) -> Any:
        """The encoder; where `state_dict` holds its weights, another one with those."""
        if state_dict is None:
            return self.encoder
        with torch.device("meta"):
            whole = original_class(self.encoder)(self.encoder.config)
        whole.load_state_dict(_under("encoder.", state_dict), assign=True)
        whole.tie_weights()
        return whole

    def load_weights(self, folder: str | os.PathLike[str]) -> None:
        """Take over the weights of the same model, as `save_pretrained` wrote them to `folder`.

        Raises `ModelError` where they are another model's, or of other tasks.
        """
        self.load_state_dict(self.saved_weights(folder))

    def saved_weights(self, folder: str | os.PathLike[str]) -> dict[str, Tensor]:
        """Return the weights that `save_pretrained` wrote for this model; see `load_weights`."""
        matching_specs(Path(folder), read_card(Path(folder)).tasks, self.tasks)
        other = ModelError(
            f"The weights in {os.fspath(folder)!r} are those of another model: expected a "
            f"{original_class(self.encoder).__name__} with the same sizes."
        )
        if is_adapted(self.encoder) != holds_adapters(Path(folder, ENCODER)):
            raise other
        if is_adapted(self.encoder):
            state = adapter_weights(self.encoder, Path(folder, ENCODER))
        else:
            state = self._saved_encoder(folder, other)
        weights = {f"encoder.{name}": value for name, value in state.items()}
        for name, value in read_classifiers(Path(folder)).items():
            weights[f"classifiers.{name}"] = value
        own = {name: value.shape for name, value in self.state_dict().items()}
        if own != {name: value.shape for name, value in weights.items()}:
            raise other
        return weights

    def _saved_encoder(
        self, folder: str | os.PathLike[str], other: ModelError
    ) -> dict[str, Tensor]:
        if encoder_type(Path(folder)) != getattr(self.config, "model_type", None):
            raise other
        loader, dtype = original_class(self.encoder), dtype_of(self.encoder)
        saved, _ = load_model(folder, loader=loader, subfolder=ENCODER, dtype=dtype)
        return saved.state_dict()

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | os.PathLike[str],
        tasks: Sequence[TaskSpec] | None = None,
        *,
        trust_remote_code: bool = False,
        pooling: str = "auto",
        dropout: float | None = None,
        max_length: int | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        base: str | os.PathLike[str] | None = None,
    ) -> "MultiTaskModel":
        """Load a saved `MultiTaskModel`, or put new classifiers on a pre-trained encoder.

        `name_or_folder` is a folder that `save_pretrained` wrote (`tasks` may then be left out;
        where given they must be the model's), or any encoder: a name on the hub or a folder.
        For an encoder, "auto" heeds what a sentence-transformers model says about its pooling,
        then whether the checkpoint holds a trained pooler. `dropout` is 0.1 for a new model. For
        tasks of images the model's image processor is loaded in place of a tokenizer, and of a
        model that reads texts and images (CLIP) the part that reads images.
        Of a saved encoder with adapters the base model is loaded, too, by the name that it had or
        from `base`; only the adapters train. The model is in evaluation mode.
        Raises `ModelError` where nothing can be loaded, or the tasks do not match.
        """
        with opening(name_or_folder):
            if is_saved_model(name_or_folder):
                saved = _restore(
                    Path(name_or_folder), tasks, pooling, trust_remote_code, dtype, base
                )
                return _adjusted(saved, dropout, max_length).eval()
            if tasks is None:
                # no folder, or that of a run, is said before what is missing of a model
                check_contents(checked_name(name_or_folder), trust_remote_code=trust_remote_code)
                raise ModelError(
                    f"{os.fspath(name_or_folder)!r} is an encoder without classifiers: say what "
                    f"they are for with tasks=[...], or give a folder that "
                    f"MultiTaskModel.save_pretrained wrote."
                )
            are_images = specs_of(tasks)[0].image is not None
            loading = {"dtype": dtype, "seed": seed}
            made, missing = _parts(
                name_or_folder, pooling, trust_remote_code, loading, are_images=are_images
            )
            model = cls(
                tasks=tasks,
                **made,
                dropout=0.1 if dropout is None else dropout,
                max_length=max_length,
                seed=seed,
            )
            model.new_weights = missing
            return model.eval()


def _parts(
    name_or_folder: str | os.PathLike[str],
    pooling: str,
    trust_remote_code: bool,
    loading: dict[str, Any],
    *,
    are_images: bool,
) -> tuple[dict[str, Any], frozenset[str]]:
    """A pre-trained encoder, what makes its inputs, and what "auto" pools for it.

    And the names of the encoder's weights that were not found.
    """
    beside: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if are_images:
        encoder, missing = load_vision_model(name_or_folder, **beside, **loading)
        processor = load_image_processor(name_or_folder, **beside)
        if pooling == "auto" and any({"pooler", "head"} & {*key.split(".")} for key in missing):
            seen = probe_pictures(encoder, processor.sample())
            pooling = seen.choose_pooling(trained_pooler=False)
        made = {"encoder": encoder, "tokenizer": None, "image_processor": processor}
        return {**made, "pooling": pooling}, missing
    said, beside["subfolder"] = sentence_pooling(checked_name(name_or_folder))
    encoder, missing = load_model(name_or_folder, **beside, **loading)
    tokenizer = load_tokenizer(name_or_folder, **beside)
    if pooling == "auto":
        loaded = not any(key.startswith("pooler.") for key in missing)
        trained = loaded and has_trained_pooler(encoder)
        pooling = said or choose_pooling(encoder, trained_pooler=trained)
    return {"encoder": encoder, "tokenizer": tokenizer, "pooling": pooling}, missing


def _adjusted(
    saved: MultiTaskModel, dropout: float | None, max_length: int | None
) -> MultiTaskModel:
    """A saved model with another dropout or length where they are given."""
    saved.dropout.p = saved.dropout.p if dropout is None else dropout
    if saved.image_processor is not None:
        check_no_length(max_length)
        return saved
    saved.max_length = longest_input(saved.tokenizer, saved.encoder, max_length or saved.max_length)
    return saved


def _nothing(values: Float[Tensor, "batch _"]) -> Float[Tensor, ""]:
    """0, with a gradient of 0: not a product, which is not 0 where a value is not finite."""
    return torch.where(torch.zeros_like(values, dtype=torch.bool), values, 0).sum()


def _under(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights whose names begin with `prefix`, without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }


def _restore(
    folder: Path,
    tasks: Sequence[TaskSpec] | None,
    pooling: str,
    trust_remote_code: bool,
    dtype: torch.dtype,
    base: str | os.PathLike[str] | None,
) -> MultiTaskModel:
    card = read_card(folder)
    if pooling not in ("auto", card.pooling):
        raise ModelError(
            f"The classifiers in {str(folder)!r} read the pooling {card.pooling!r}, not "
            f"{pooling!r}: leave pooling out, or train new classifiers on its encoder/."
        )
    specs = matching_specs(folder, card.tasks, None if tasks is None else specs_of(tasks))
    weights = read_classifiers(folder)
    beside: dict[str, Any] = {"subfolder": ENCODER, "trust_remote_code": trust_remote_code}
    encoder: Any
    if card.base is None:
        encoder, missing = load_model(folder, dtype=dtype, **beside)
    else:
        name = base or card.base["name"]
        encoder, missing = load_model(name, dtype=dtype, trust_remote_code=trust_remote_code)
        encoder = put_on(encoder, missing, card.base, folder / ENCODER)
        name_base(encoder, os.fspath(name))
    unused = card.pooling != "pooler"
    lost = sorted(key for key in missing if not (unused and key.startswith("pooler.")))
    if lost:
        raise ModelError(
            f"The encoder in {str(folder)!r} is damaged: {', '.join(lost[:3])} are missing."
        )
    options: dict[str, Any] = {"pooling": card.pooling, "dropout": card.dropout}
    if specs[0].image is None:
        tokenizer = load_tokenizer(folder, **beside)
        options["max_length"] = card.max_length
    else:
        tokenizer, options["image_processor"] = None, load_image_processor(folder, **beside)
    model = MultiTaskModel(encoder, tokenizer, specs, **options)
    try:
        model.classifiers.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(
            f"The classifiers in {str(folder)!r} are not those that its lobes.json describes: "
            f"copy the whole folder again."
        ) from error
    return _limited(model, card)


def _limited(model: MultiTaskModel, card: Card) -> MultiTaskModel:
    """The model, with adapters that change the heads only that they were made for."""
    if card.base is None or card.base["limited_to"] is None:
        return model
    limits = card.base["limited_to"]
    return head_lora(model, limits["heads"], shared_rows=bool(limits["shared_rows"]))


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
