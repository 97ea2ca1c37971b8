"""Interventions on attention heads: ablate them, record their contexts.

All work at the input of the output projection, where the concatenated contexts of the heads can
be seen, whatever computes the attention (eager, SDPA, flash attention). Each is a context manager
that removes its hooks and restores modes and flags on exit, also after an exception.
"""

from lobes.ablation.masking import ablate, ablate_copies
from lobes.ablation.recording import (
    ContextRecord,
    checked_batches,
    evaluating,
    on_model,
    record_contexts,
)
from lobes.ablation.replacements import (
    HeadMeans,
    HeadSamples,
    Real,
    Run,
    mean_contexts,
    means_over,
    resampled_contexts,
    samples_of,
)

__all__ = [
    "ContextRecord",
    "HeadMeans",
    "HeadSamples",
    "Real",
    "Run",
    "ablate",
    "ablate_copies",
    "checked_batches",
    "evaluating",
    "mean_contexts",
    "means_over",
    "on_model",
    "record_contexts",
    "resampled_contexts",
    "samples_of",
]
