"""Export one task of a trained model as a plain sequence-classification model of transformers.

A `MultiTaskModel` puts one linear classifier on the pooled output; transformers has a class of its
own for each architecture, with layers of its own between encoder and logits. Nothing here knows an
architecture by name. The class that belongs to the encoder's configuration is built and given the
encoder's weights; then the ways below of setting its remaining layers are tried, each judged by
running it, and a model whose logits none of them gives is refused.

What cannot be exported: a pooling that the class does not have ("mean" for nearly all), layers
that bend what passes through them (tanh, a normalization), and a bias where the class has none
and its encoder does not end with one. Such a model is used with `MultiTaskModel.from_pretrained`.
"""

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from lobes.data.batching import encode
from lobes.discovery.scope import block_around
from lobes.errors import LobesError, ModelError, RunError
from lobes.files import whole_folder
from lobes.modeling.multi_task import MultiTaskModel
from lobes.modeling.pooling import accepted_inputs, evaluation_mode, has_pooler, run_encoder
from lobes.modeling.pretrained import load_model, load_tokenizer
from lobes.modeling.pruned import is_pruned
from lobes.modeling.safe_loading import quiet
from lobes.modeling.saved_adapters import is_adapted
from lobes.modeling.task_model import TaskModel, check_texts
from lobes.tasks.task import TaskSpec

TOLERANCE = 1e-5
_LENGTHS = (2, 3, 5, 7, 11, 17)


@dataclass(frozen=True)
class _Case:
    """A task to export, the class that is to take it over, and what to compare them on."""

    built: Any
    source: MultiTaskModel
    spec: TaskSpec
    inputs: dict[str, Tensor]

    @property
    def classifier(self) -> Any:
        """The task's linear layer."""
        return self.source.classifiers[self.spec.name]

    @property
    def layers(self) -> dict[str, Any]:
        """The linear layers that the class has beside its encoder, by name, in their order."""
        inside = {id(part) for part in self.built.base_model.modules()}
        return {
            name: part
            for name, part in self.built.named_modules()
            if isinstance(part, nn.Linear) and id(part) not in inside
        }


Way = Callable[[_Case], bool]


def export_task(model: TaskModel, task: str, folder: str | os.PathLike[str]) -> Path:
    """Write `task` of a `MultiTaskModel` to `folder`, for transformers alone; return the folder.

    `AutoModelForSequenceClassification` and `AutoTokenizer` load it and give the same logits, in
    float32, in the order of the task's labels, which the configuration names. Before the folder
    gets its name it is loaded back and compared on made-up texts, within 1e-5 (of the largest
    logit where that is above 1). The model is left as it is. Where the encoder's last bias had to
    take over the classifier's, the exported states differ from the model's by a constant.

    Raises `ConfigError` for a task that the model does not have or that has images, `ModelError`
    for a model that its class in transformers cannot express, and `RunError` where `folder` holds
    something already or cannot be written.
    """
    if not isinstance(model, MultiTaskModel):
        raise ModelError(
            f"A {type(model).__name__} cannot be exported: expected a MultiTaskModel; a model "
            f"with one task is in the form of transformers already."
        )
    spec, target = model.spec(task), Path(folder).resolve()
    check_texts((spec,), "only tasks of texts can be exported")
    _check_target(target)
    _check_state(model, task)
    if not all(bool(weight.isfinite().all()) for weight in model.parameters()):
        raise ModelError("The model's weights are no longer numbers: train it again to export it.")
    with evaluation_mode(model), torch.no_grad():
        source = _on_cpu_in_float32(model)
        built = _expressed(source, spec)
        with _writing(target) as unfinished:
            with quiet():
                built.save_pretrained(unfinished)
                _tokenizer_of(source).save_pretrained(unfinished)
            del built  # a large model need not be in memory three times
            _check_saved(unfinished, source, spec)
    return Path(folder)


def _check_state(model: MultiTaskModel, task: str) -> None:
    """Raise `ModelError` for an encoder that is not, for now or for good, one of transformers."""
    if (what := block_around(model)) is not None:
        raise ModelError(
            f"The model is inside a block of {what}, and the task {task!r} of the model as it is "
            f"cannot be exported there: export it after the block."
        )
    if is_adapted(model.encoder):
        raise ModelError(
            f"The task {task!r} cannot be exported while the encoder has adapters: merge them "
            f"first (model.encoder = model.encoder.merge_and_unload())."
        )
    if is_pruned(model.config):
        raise ModelError(
            f"The task {task!r} cannot be exported, since heads of the encoder were removed, which "
            f"transformers alone cannot load: {_AS_IT_IS}, or export a model whose heads are set "
            f'to zero (lobes.prune with export="zeroed").'
        )


def _expressed(source: MultiTaskModel, spec: TaskSpec) -> Any:
    """The class of transformers with the logits of `source`, or `ModelError`."""
    inputs = _inputs(source, _texts(source, spec, _LENGTHS))
    paddings = (getattr(source.config, "pad_token_id", None), source.tokenizer.pad_token_id)
    # decoders look for the last token that is not padding, so it must be the tokenizer's; others
    # number their positions by it, so it must stay the configuration's
    for padding in dict.fromkeys(token for token in paddings if token is not None):
        case = _Case(_new_class(source, spec, padding), source, spec, inputs)
        way = _way(case, source.pooling, bias=bool(case.classifier.bias.any()))
        if way is not None and _is_taken(case, way):
            return case.built
    raise ModelError(_why_not(case))


# The class that transformers has for the encoder


def _new_class(source: MultiTaskModel, spec: TaskSpec, padding: int) -> Any:
    """The sequence-classification model of the encoder's configuration, in evaluation mode."""
    config = copy.deepcopy(source.config)
    labels = spec.labels or (spec.name,)
    config.num_labels = spec.n_outputs
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: i for i, label in enumerate(labels)}
    classes = "multi_label" if spec.is_multi_label else "single_label"
    config.problem_type = "regression" if spec.is_regression else f"{classes}_classification"
    config.pad_token_id = padding
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            built = AutoModelForSequenceClassification.from_config(
                config, trust_remote_code=False, dtype=torch.float32
            )
    except (ValueError, ImportError) as error:
        raise ModelError(
            f"The task {spec.name!r} cannot be exported, since transformers has no "
            f"sequence-classification class of its own for {type(source.encoder).__name__}: "
            f"{_AS_IT_IS}."
        ) from error
    return built.eval()


def _take_encoder(case: _Case) -> None:
    """Put the encoder's weights into the class; a pooler that it has no use for is left out."""
    weights = case.source.encoder.state_dict()
    try:
        missing = case.built.base_model.load_state_dict(weights, strict=False).missing_keys
    except RuntimeError:
        missing = ["weights of the same shape"]
    if missing:
        raise ModelError(
            f"The task {case.spec.name!r} cannot be exported to {type(case.built).__name__}, which "
            f"needs {', '.join(missing[:3])}, while the encoder "
            f"{type(case.source.encoder).__name__} has none: {_AS_IT_IS}."
        )


def _tokenizer_of(source: MultiTaskModel) -> PreTrainedTokenizerBase:
    """The tokenizer, set to cut and pad as `lobes` does and to give what the encoder takes."""
    tokenizer = copy.deepcopy(source.tokenizer)
    accepted = accepted_inputs(source.encoder)
    settings = {
        "model_max_length": source.max_length,
        "padding_side": "right",
        "model_input_names": [name for name in tokenizer.model_input_names if name in accepted],
    }
    for name, value in settings.items():
        setattr(tokenizer, name, value)
    tokenizer.init_kwargs.update(settings)  # else a class with its own defaults forgets
    return tokenizer


# Ways to set its remaining layers


def _way(case: _Case, pooling: str, *, bias: bool) -> Way | None:
    """The way that gives the logits of any classifier of this pooling, with a bias or without.

    It is found with a classifier of large random weights: where the task's own are small, as after
    few steps of training, a wrong way could pass.
    """
    source = case.source
    if pooling == "pooler" and not has_pooler(source.encoder):
        return None
    settings: dict[str, Any] = {"pooling": pooling, "max_length": source.max_length}
    any_ = MultiTaskModel(source.encoder, source.tokenizer, [case.spec], **settings).eval()
    tried = replace(case, source=any_)
    generator = torch.Generator().manual_seed(0)
    weight = tried.classifier.weight
    weight.normal_(0.0, weight.shape[1] ** -0.5, generator=generator)
    tried.classifier.bias.normal_(0.0, float(bias), generator=generator)
    ways = (_one_layer, _own_pooler, _signed_pair)
    return next((way for way in ways if _is_taken(tried, way)), None)


def _is_taken(case: _Case, way: Way) -> bool:
    """Set the class in this way; whether that is possible, and gives the same logits."""
    _take_encoder(case)
    return way(case) and _agrees(case.built, case.source, case.spec, case.inputs, case.inputs)


def _one_layer(case: _Case) -> bool:
    """One linear layer: the classifier. Without a bias, the encoder's last one takes it over."""
    if len(case.layers) != 1:
        return False
    (layer,), classifier = case.layers.values(), case.classifier
    if layer.bias is not None:
        return _copy(layer, classifier)
    if layer.weight.shape != classifier.weight.shape:
        return False
    layer.weight.copy_(classifier.weight)
    if classifier.bias.any():
        last = _last_bias(case.built.base_model, case.inputs)
        if last is None:
            return False
        # W (state + shift) = W state + b, with the shortest shift for which W shift = b
        last.add_(torch.linalg.pinv(classifier.weight.double()) @ classifier.bias.double())
    return True


def _own_pooler(case: _Case) -> bool:
    """Two layers of which the first is the encoder's pooler by another name (RoBERTa)."""
    if case.source.pooling != "pooler" or len(case.layers) != 2:
        return False
    parts = [part for part in case.source.encoder.pooler.modules() if isinstance(part, nn.Linear)]
    first, second = case.layers.values()
    return len(parts) == 1 and _copy(first, parts[0]) and _copy(second, case.classifier)


def _signed_pair(case: _Case) -> bool:
    """Two layers with an activation f between them for which f(z) - f(-z) = z.

    That holds exactly for ReLU, and for z times a logistic or normal distribution function (SiLU,
    GELU). The first layer makes z and -z of each logit z, and the second subtracts.
    """
    if len(case.layers) != 2:
        return False
    first, second = case.layers.values()
    outputs, width = case.classifier.weight.shape
    fits = first.in_features == width and second.out_features == outputs
    if not fits or first.out_features < 2 * outputs or second.bias is None:
        return False
    for parameter in (*first.parameters(), *second.parameters()):
        parameter.zero_()
    first.weight[:outputs] = case.classifier.weight
    first.weight[outputs : 2 * outputs] = -case.classifier.weight
    second.weight[:, :outputs].fill_diagonal_(1)
    second.weight[:, outputs : 2 * outputs].fill_diagonal_(-1)
    second.bias.copy_(case.classifier.bias)
    return True


def _copy(layer: Any, values: Any) -> bool:
    """Give the layer the weight and bias of another one, if it has room for them."""
    if layer.weight.shape != values.weight.shape or layer.bias is None or values.bias is None:
        return False
    layer.weight.copy_(values.weight)
    layer.bias.copy_(values.bias)
    return True


def _last_bias(encoder: nn.Module, inputs: dict[str, Tensor]) -> nn.Parameter | None:
    """The bias that is added to every state as the encoder's last step, if there is one.

    It is the one with the state's own gradient, in a random direction.
    """
    biases = [value for name, value in encoder.named_parameters() if name.endswith("bias")]
    if not biases:
        return None
    with torch.enable_grad():
        state = run_encoder(encoder, inputs).last_hidden_state[0, 0]
        direction = torch.randn(len(state), generator=torch.Generator().manual_seed(0))
        gradients = torch.autograd.grad(state @ direction, biases, allow_unused=True)
    for bias, gradient in zip(biases, gradients, strict=True):
        same_shape = gradient is not None and gradient.shape == direction.shape
        if same_shape and torch.allclose(gradient, direction, rtol=1e-6, atol=1e-6):
            return bias
    return None


# Trying it


def _agrees(
    built: Any,
    source: MultiTaskModel,
    spec: TaskSpec,
    theirs: Mapping[str, Tensor],
    ours: Mapping[str, Tensor],
) -> bool:
    """Whether the class runs on its inputs, and gives the logits of `source` for the same texts."""
    wanted = source.logits(**ours)[spec.name]
    try:
        logits = built(**theirs).logits
    except (TypeError, ValueError, RuntimeError, IndexError):
        return False  # such as BART without an end-of-text token in each text
    allowed = TOLERANCE * max(1.0, float(wanted.abs().max()))
    return logits.shape == wanted.shape and bool(((logits - wanted).abs() <= allowed).all())


def _texts(source: MultiTaskModel, spec: TaskSpec, lengths: Sequence[int]) -> list[tuple[str, ...]]:
    """Made-up texts, or pairs of them, of about as many tokens, each with the tokenizer's words."""
    tokenizer: Any = source.tokenizer
    generator = np.random.default_rng(0)
    special = set(tokenizer.all_special_ids)
    ordinary = np.array([token for token in range(len(tokenizer)) if token not in special])

    def text(length: int) -> str:
        return tokenizer.decode(generator.choice(ordinary, length)).strip() or "a"

    return [tuple(text(length) for _ in spec.text) for length in lengths]


def _inputs(source: MultiTaskModel, texts: Sequence[tuple[str, ...]]) -> dict[str, Tensor]:
    """The texts as the encoder reads them when it is trained and measured."""
    encoded = encode(source.tokenizer, texts, source.max_length)
    inputs = encoded.collate(range(len(texts)))
    accepted = accepted_inputs(source.encoder)
    return {name: value for name, value in inputs.items() if name in accepted}


def _check_saved(folder: Path, source: MultiTaskModel, spec: TaskSpec) -> None:
    """Load what was written as its users will, and compare; one text is longer than the limit."""
    saved, missing = load_model(folder, loader=AutoModelForSequenceClassification)
    tokenizer = load_tokenizer(folder)
    saved.eval()
    for lengths in (_LENGTHS, (source.max_length + 2,)):
        texts = _texts(source, spec, lengths)
        columns = [list(column) for column in zip(*texts, strict=True)]
        tokens = tokenizer(*columns, padding=True, truncation=True, return_tensors="pt")
        if missing or not _agrees(saved, source, spec, tokens, _inputs(source, texts)):
            raise ModelError(
                f"The task {spec.name!r} was not exported: loaded back, the "
                f"{type(saved).__name__} does not give the same logits with the tokenizer "
                f"{type(tokenizer).__name__}; {_AS_IT_IS}."
            )


# Why it cannot be done

_AS_IT_IS = "use the model as it is, with lobes.MultiTaskModel.from_pretrained"


def _why_not(case: _Case) -> str:
    """One sentence on what stands in the way, and what would do."""
    pooling, names = case.source.pooling, list(case.layers)
    start = f"The task {case.spec.name!r} cannot be exported to {type(case.built).__name__}: "
    if _way(case, pooling, bias=False) is not None:
        return start + f"its layer {names[0]} has no bias, but the classifier has one; {_AS_IT_IS}."
    if _pads_with_text(case):
        return start + (
            f"it looks for the end of a text by the padding token, and the tokenizer's, "
            f"{case.source.tokenizer.pad_token!r}, stands in the texts too; train with a tokenizer "
            f"that has a padding token of its own, or {_AS_IT_IS}."
        )
    start += (
        f"its own layers ({', '.join(names) or 'none'}) cannot give a linear classifier of the "
        f'pooling "{pooling}"; '
    )
    for other in ("pooler", "first", "last", "mean"):
        if other != pooling and _way(case, other, bias=True) is not None:
            return start + (
                f'train with pooling = "{other}" (`--set pooling={other}`) to export it, or '
                f"{_AS_IT_IS}."
            )
    return start + f"{_AS_IT_IS}."


def _pads_with_text(case: _Case) -> bool:
    """Whether the padding token also stands in the texts themselves."""
    padding = case.inputs["input_ids"] == case.source.tokenizer.pad_token_id
    return bool((padding & (case.inputs["attention_mask"] == 1)).any())


# The folder


def _on_cpu_in_float32(model: MultiTaskModel) -> MultiTaskModel:
    """The model, or a copy of it where it is elsewhere or in another precision."""
    if all(p.device.type == "cpu" and p.dtype == torch.float32 for p in model.parameters()):
        return model
    return copy.deepcopy(model).cpu().float()


def _check_target(target: Path) -> None:
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise RunError(
            f"{str(target)!r} exists and is not an empty folder: give the name of a new one, or "
            f"remove it first."
        )


@contextmanager
def _writing(target: Path) -> Iterator[Path]:
    """A folder that becomes `target` when the block ends, and nothing if it fails."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(target) as unfinished:
            yield unfinished
    except LobesError:
        raise
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"{str(target)!r} could not be written ({error}): make room or choose another folder."
        ) from error
