"""Models that can be measured: one encoder with a classifier for each task.

`multi_task` and `single_task` hold the models, `task_model` the face that they show to the rest;
`pretrained` loads what others trained, safely and quietly, and `pruned` what lost heads; `pictures`
turns images into pixels, and `pooling` an encoder's states into one vector; `prompted` asks a
causal language model with words instead of training it; and `saved` knows what a saved model looks
like on disk.
"""

from lobes.modeling.multi_task import MultiTaskModel
from lobes.modeling.pretrained import load_pruned
from lobes.modeling.prompted import PromptedModel
from lobes.modeling.saved import is_saved_model
from lobes.modeling.single_task import SingleTaskModel, load_task_model
from lobes.modeling.task_model import TaskModel, example_losses

__all__ = [
    "MultiTaskModel",
    "PromptedModel",
    "SingleTaskModel",
    "TaskModel",
    "example_losses",
    "is_saved_model",
    "load_pruned",
    "load_task_model",
]
