"""Models that were trained elsewhere for one task, and the way to load any trained model.

`SingleTaskModel` gives an `AutoModelForSequenceClassification` or `AutoModelForImageClassification`
the interface of a `TaskModel`. `load_task_model` loads that, or a saved `MultiTaskModel`.
"""

import os
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerBase,
)

from lobes.errors import ModelError
from lobes.modeling.multi_task import MultiTaskModel
from lobes.modeling.pictures import Pixels, load_image_processor
from lobes.modeling.pooling import useful_inputs
from lobes.modeling.pretrained import load_config, load_model, load_tokenizer
from lobes.modeling.safe_loading import name_of, opening
from lobes.modeling.saved import is_saved_model
from lobes.modeling.task_model import (
    TaskModel,
    TaskOutput,
    at_least_float32,
    dtype_of,
    specs_of,
)
from lobes.tasks.task import TaskSpec


class SingleTaskModel(TaskModel):
    """A classification model of texts or of images, and the one task that it was trained for.

    Its outputs are put in the order of the task's labels where the model's own label names
    (`config.id2label`) are the same in another order. Raises `ModelError` where the model has
    another number of outputs, or other label names.
    """

    order: Tensor
    model: Any

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase | None,
        task: TaskSpec,
        *,
        image_processor: Any = None,
        max_length: int | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.config = model.config
        self.tasks = specs_of([task])
        base = model if image_processor is None else getattr(model, "base_model", model)
        self._read_with(base, tokenizer, image_processor, max_length)
        if self.tokenizer is not None and getattr(self.config, "pad_token_id", None) is None:
            # decoders look for the last token that is not padding
            self.config.pad_token_id = self.tokenizer.pad_token_id
        order = _label_order(self.tasks[0], self.config)
        self.register_buffer("order", torch.tensor(order, device=self.device), persistent=False)

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"] | None = None,
        attention_mask: Int[Tensor, "batch length"] | None = None,
        token_type_ids: Int[Tensor, "batch length"] | None = None,
        pixel_values: Pixels | None = None,
    ) -> TaskOutput:
        """Return the logits, as {name: [batch, outputs]}, in the order of the task's labels."""
        if pixel_values is not None:
            pixel_values = pixel_values.to(dtype_of(self.model))
        given = {"attention_mask": attention_mask, "token_type_ids": token_type_ids}
        given |= {"input_ids": input_ids, "pixel_values": pixel_values}
        logits = at_least_float32(self.model(**useful_inputs(self.model, given)).logits)
        return TaskOutput(logits={self.tasks[0].name: logits[:, self.order]})


def load_task_model(
    name_or_folder: str | os.PathLike[str],
    tasks: Sequence[TaskSpec] | None = None,
    *,
    trust_remote_code: bool = False,
    pooling: str = "auto",
    max_length: int | None = None,
    dtype: torch.dtype = torch.float32,
    base: str | os.PathLike[str] | None = None,
) -> TaskModel:
    """Load a trained model to measure it.

    Either a folder that `MultiTaskModel.save_pretrained` wrote, or the name or folder of an
    `AutoModelForSequenceClassification` or `AutoModelForImageClassification` with the one task it
    was trained for. `base` is where the base model of saved adapters lies, if not where it did.
    `max_length` cuts texts to other lengths than the model's own.
    The model is in evaluation mode, as transformers loads its own.
    Raises `ModelError` where it is neither, does not fit the tasks, or reads another `pooling`.
    """
    name = name_of(name_or_folder)
    if is_saved_model(name):
        return MultiTaskModel.from_pretrained(
            name_or_folder,
            tasks,
            pooling=pooling,
            max_length=max_length,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            base=base,
        )
    config = load_config(name_or_folder, trust_remote_code=trust_remote_code)
    image = tasks is not None and specs_of(tasks)[0].image is not None
    kind = "ForImageClassification" if image else "ForSequenceClassification"
    if not any(kind in str(made) for made in config.architectures or ()):
        raise ModelError(
            f"The model {name!r} has no trained classifier: expected a folder that lobes saved "
            f"after training, or a {kind} model. Train it first, with "
            f"`lobes train` or MultiTaskModel.from_pretrained and MultiTaskTrainer."
        )
    if tasks is None or len(tasks) != 1:
        raise ModelError(
            f"The model {name!r} was trained for one task; {len(tasks or ())} were given: name "
            f"the one task that its classifier answers."
        )
    if pooling != "auto":
        raise ModelError(
            f"The model {name!r} has a classifier of its own, which decides what it reads, not "
            f"pooling = {pooling!r}: leave pooling out."
        )
    model, missing = load_model(
        name_or_folder,
        loader=AutoModelForImageClassification if image else AutoModelForSequenceClassification,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
    )
    if missing:
        raise ModelError(
            f"The model {name!r} was not trained to the end: its checkpoint lacks "
            f"{', '.join(sorted(missing)[:3])}."
        )
    with opening(name):
        if image:
            processor = load_image_processor(name_or_folder, trust_remote_code=trust_remote_code)
            return SingleTaskModel(
                model, None, tasks[0], image_processor=processor, max_length=max_length
            ).eval()
        tokenizer = load_tokenizer(name_or_folder, trust_remote_code=trust_remote_code)
        return SingleTaskModel(model, tokenizer, tasks[0], max_length=max_length).eval()


def _label_order(spec: TaskSpec, config: Any) -> list[int]:
    """For each of the task's outputs, the model's output that it is."""
    if config.num_labels != spec.n_outputs:
        raise ModelError(
            f"The model has {config.num_labels} outputs, but the task {spec.name!r} needs "
            f"{spec.n_outputs}: give the task that the model was trained for."
        )
    kind = getattr(config, "problem_type", None)
    if kind is not None and spec.is_multi_label != (kind == "multi_label_classification"):
        raise ModelError(
            f"The model was trained for {kind.replace('_', ' ')}, but an example of the task "
            f"{spec.name!r} has {'several labels' if spec.is_multi_label else 'one label'}: give "
            f"the task that the model was trained for."
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
