"""Find, measure and train the specialized attention heads of a transformer.

The public names below are imported when they are first used, so that `import lobes` costs
nothing and the parts that need no torch never load it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lobes.ablation import (
        HeadMeans,
        HeadSamples,
        ablate,
        mean_contexts,
        record_contexts,
        resampled_contexts,
    )
    from lobes.custom_metrics import custom_metric
    from lobes.discovery import find_heads
    from lobes.dissociation import Dissociation, LesionMatrix
    from lobes.errors import LobesError
    from lobes.heads import HeadLayout, HeadSet
    from lobes.measure.batch_task import BatchTask
    from lobes.measure.evaluation import evaluate
    from lobes.measure.gates import HeadGates, head_gates
    from lobes.measure.iap import lesion_matrix
    from lobes.measure.importance import head_importance
    from lobes.modeling import (
        HarnessModel,
        MultiTaskModel,
        PromptedModel,
        load_pruned,
        load_task_model,
    )
    from lobes.modeling.head_lora import head_lora
    from lobes.pruning import prune
    from lobes.scores import HeadScores
    from lobes.sites import Site
    from lobes.tasks.ag_pair import ag_pairs
    from lobes.tasks.harness import harness_task
    from lobes.tasks.prompts import Prompt
    from lobes.tasks.task import Task
    from lobes.training.settings import IAT, TrainingLoss
    from lobes.training.trainer import MultiTaskTrainer

__version__ = "0.1.0"

_HOMES = {
    "BatchTask": "measure.batch_task",
    "Dissociation": "dissociation",
    "HarnessModel": "modeling",
    "HeadGates": "measure.gates",
    "HeadLayout": "heads",
    "HeadMeans": "ablation",
    "HeadSamples": "ablation",
    "HeadScores": "scores",
    "HeadSet": "heads",
    "IAT": "training.settings",
    "LesionMatrix": "dissociation",
    "LobesError": "errors",
    "MultiTaskModel": "modeling",
    "MultiTaskTrainer": "training.trainer",
    "Prompt": "tasks.prompts",
    "PromptedModel": "modeling",
    "Site": "sites",
    "Task": "tasks.task",
    "TrainingLoss": "training.settings",
    "ablate": "ablation",
    "ag_pairs": "tasks.ag_pair",
    "custom_metric": "custom_metrics",
    "evaluate": "measure.evaluation",
    "find_heads": "discovery",
    "harness_task": "tasks.harness",
    "head_gates": "measure.gates",
    "head_importance": "measure.importance",
    "head_lora": "modeling.head_lora",
    "lesion_matrix": "measure.iap",
    "load_pruned": "modeling",
    "load_task_model": "modeling",
    "mean_contexts": "ablation",
    "prune": "pruning",
    "record_contexts": "ablation",
    "resampled_contexts": "ablation",
}

__all__ = [  # noqa: RUF022 - in plain order, where IAT is a class and no constant
    "BatchTask",
    "Dissociation",
    "HarnessModel",
    "HeadGates",
    "HeadLayout",
    "HeadMeans",
    "HeadSamples",
    "HeadScores",
    "HeadSet",
    "IAT",
    "LesionMatrix",
    "LobesError",
    "MultiTaskModel",
    "MultiTaskTrainer",
    "Prompt",
    "PromptedModel",
    "Site",
    "Task",
    "TrainingLoss",
    "ablate",
    "ag_pairs",
    "custom_metric",
    "evaluate",
    "find_heads",
    "harness_task",
    "head_gates",
    "head_importance",
    "head_lora",
    "lesion_matrix",
    "load_pruned",
    "load_task_model",
    "mean_contexts",
    "prune",
    "record_contexts",
    "resampled_contexts",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'lobes' has no attribute {name!r}")
    value = getattr(import_module(f"lobes.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
