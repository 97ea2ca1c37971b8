"""All tasks' training examples, and the loader that hands them out in batches of one task."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Int
from torch.utils.data import DataLoader, Dataset
from transformers import TrainingArguments

from lobes.measure.workload import examples_of
from lobes.modeling import MultiTaskModel
from lobes.tasks.task import Task
from lobes.training.sampling import TaskBatchSampler


class TrainingData(Dataset):
    """All tasks' training examples, tokenized or as pictures, one task after the other."""

    def __init__(self, model: MultiTaskModel, tasks: Sequence[Task]) -> None:
        examples = [examples_of(task, "train") for task in tasks]
        self.names = [task.name for task in tasks]
        self.sizes = [len(part) for part in examples]
        self.starts = np.cumsum([0, *self.sizes])
        self.labels = [part.labels for part in examples]
        # not joined: what is in a file stays there
        self.inputs = [
            model.encode(task.name, part) for task, part in zip(tasks, examples, strict=True)
        ]

    @property
    def lengths(self) -> Int[np.ndarray, " examples"]:
        """The number of tokens of each example, all tasks."""
        return np.concatenate([inputs.lengths for inputs in self.inputs])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> int:
        return index

    def collate(self, indices: list[int]) -> dict[str, Any]:
        """Return examples of one task as a batch: inputs, labels [batch], task, examples.

        "examples" are their places in the task's training data.
        """
        task = int(np.searchsorted(self.starts, indices[0], side="right")) - 1
        examples = np.array(indices) - self.starts[task]
        labels = self.labels[task][examples]
        return {
            **self.inputs[task].collate(examples),
            "labels": torch.from_numpy(
                labels.astype(np.float32 if labels.dtype.kind == "f" else np.int64)
            ),
            "task": self.names[task],
            "examples": examples.tolist(),
        }

    def collate_tasks(self, indices: list[int]) -> dict[str, Any]:
        """Return examples of several tasks, one after the other: under "parts" a batch of each."""
        tasks = np.searchsorted(self.starts, indices, side="right")
        ends = np.flatnonzero(np.diff(tasks)) + 1
        return {"parts": [self.collate(part.tolist()) for part in np.split(indices, ends)]}


class TaskLoader(DataLoader):
    """Tells the batch sampler which epoch it is, as the Trainer tells its loader.

    The sampler deals out the batches to the processes by itself: accelerate would drop a task's
    smaller last batch, or fill it up with another task's examples.
    """

    def set_epoch(self, epoch: int) -> None:
        cast(TaskBatchSampler, self.batch_sampler).set_epoch(epoch)


def steps_in_all(args: TrainingArguments, batches: int) -> int:
    """Return how many optimizer steps a training takes, with so many batches in an epoch."""
    if args.max_steps > 0:
        return args.max_steps
    return math.ceil(args.num_train_epochs * math.ceil(batches / args.gradient_accumulation_steps))


def sampler_of(
    args: TrainingArguments,
    data: TrainingData,
    sampling: str,
    temperature: float,
    group_lengths: bool,
) -> TaskBatchSampler:
    """Return the sampler of a training's batches, for this process."""
    new = partial(
        TaskBatchSampler,
        data.sizes,
        args.train_batch_size,
        seed=args.seed if args.data_seed is None else args.data_seed,
        sampling=sampling,
        temperature=temperature,
        drop_last=args.dataloader_drop_last,
        lengths=data.lengths if group_lengths else None,
        processes=args.world_size,
        process=args.process_index,
    )
    if args.max_steps > 0:
        steps_in_epoch = math.ceil(len(new()) / args.gradient_accumulation_steps)
        return new(epochs=math.ceil(args.max_steps / steps_in_epoch))
    return new(epochs=math.ceil(args.num_train_epochs))


def worker_settings(args: TrainingArguments) -> dict[str, Any]:
    """Return how many processes load batches, and what is only allowed where there are any."""
    if not args.dataloader_num_workers:
        return {"num_workers": 0}
    return {
        "num_workers": args.dataloader_num_workers,
        "persistent_workers": args.dataloader_persistent_workers,
        "prefetch_factor": args.dataloader_prefetch_factor,
        "in_order": getattr(args, "dataloader_in_order", True),
        "multiprocessing_context": getattr(args, "dataloader_multiprocessing_context", None),
    }
