"""Models that can be measured: one encoder with a classifier for each task.

`multi_task`, `single_task`, `prompted` and `harness` are the models, `task_model` is their common
interface. `causal` is what the two kinds of language models share, `continuations` their batches.
`pretrained` loads what others trained, through `safe_loading`, and `pruned` what lost heads.
`pictures` turns images into pixels, `pooling` an encoder's states into one vector, and `saved` is
the format of a saved model.
"""

from lobes.modeling.continuations import EncodedContinuations
from lobes.modeling.harness import HarnessModel
from lobes.modeling.multi_task import MultiTaskModel
from lobes.modeling.pretrained import load_pruned
from lobes.modeling.prompted import PromptedModel
from lobes.modeling.saved import is_saved_model
from lobes.modeling.single_task import SingleTaskModel, load_task_model
from lobes.modeling.task_model import TaskModel, example_losses

__all__ = [
    "EncodedContinuations",
    "HarnessModel",
    "MultiTaskModel",
    "PromptedModel",
    "SingleTaskModel",
    "TaskModel",
    "example_losses",
    "is_saved_model",
    "load_pruned",
    "load_task_model",
]
