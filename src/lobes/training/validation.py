"""Score a model on its tasks' validation data in the middle of a training."""

from contextlib import AbstractContextManager
from functools import partial

import numpy as np
import torch

from lobes.heads import HeadSet
from lobes.measure.evaluation import predictions_of
from lobes.measure.workload import Workload
from lobes.metrics import get_metric
from lobes.modeling import TaskModel
from lobes.modeling.pooling import evaluation_mode
from lobes.transfers import Transfers


def scores_on(
    work: Workload, model: TaskModel, autocast: AbstractContextManager
) -> dict[str, float]:
    """Return each task's main metric on a workload, in the training's precision.

    The model is left in the mode it was in.
    """
    logits = {
        spec.name: np.empty((1, len(work.places[spec.name]), spec.n_outputs), np.float32)
        for spec in work.specs
    }
    with evaluation_mode(model), torch.no_grad(), autocast:
        transfers = Transfers()
        for batch in work.batches:
            found = model.logits(**work.collate(batch, model))
            each = [found[task][None].float() for task in work.places]
            transfers.send(each, partial(work.scatter, logits, batch, [HeadSet()]))
        transfers.finish()
    scores = {}
    for spec in work.specs:
        predictions = predictions_of(logits[spec.name][0, work.examples[spec.name]], spec)
        scores[spec.name] = float(get_metric(spec.metric)(work.labels[spec.name], predictions))
    return scores
