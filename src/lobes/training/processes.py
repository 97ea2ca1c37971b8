"""Share a computation between the processes of a training (torchrun with DDP)."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import distributed
from transformers import TrainingArguments

from lobes.errors import RunError, first_line

Result = TypeVar("Result")


def computed_once(
    tasks: Sequence[str], compute: Callable[[str], Result], args: TrainingArguments
) -> dict[str, Result]:
    """Return {task: compute(task)}, each computed by one process and sent to all others.

    The tasks are dealt out to the processes in turn; where there are fewer tasks, some processes
    only wait. All processes call this at the same step, and must hold whole weights: under FSDP
    every process takes part in each forward pass, so that each has to compute every task.
    A process that fails sends its error to the others, which raise a `RunError` with it.
    """
    if args.world_size == 1:
        return {task: compute(task) for task in tasks}
    found: dict[str, Result] = {}
    failure, reason = None, ""
    for task in tasks[args.process_index :: args.world_size]:
        try:
            found[task] = compute(task)
        except Exception as error:
            failure, reason = error, f"task {task!r}: {first_line(error)}"
            break
    sent: list = [None] * args.world_size
    distributed.all_gather_object(sent, (found, reason))
    if failure is not None:
        raise failure
    for process, (_, failed) in enumerate(sent):
        if failed:
            raise RunError(
                f"Process {process} of the training failed at the importance of {failed}; mend "
                f"that, then start all {args.world_size} processes again."
            )
    results = {task: result for part, _ in sent for task, result in part.items()}
    return {task: results[task] for task in tasks}
