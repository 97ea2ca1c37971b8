"""Models that can be measured: one encoder with a classifier for each task.

`multi_task`, `single_task` and `prompted` are the models, `task_model` is their common interface.
`pretrained` loads what others trained, through `safe_loading`, and `pruned` what lost heads.
`pictures` turns images into pixels, `pooling` an encoder's states into one vector, and `saved` is
the format of a saved model.
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
