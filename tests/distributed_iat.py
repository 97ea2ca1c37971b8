"""What `test_distributed.py` starts under torchrun: train with IAT in several processes.

    torchrun --nproc-per-node 2 distributed_iat.py FOLDER ddp|fsdp

Without and with accumulation, and once from a checkpoint in the IAT phase; under DDP once more with
a task whose importance cannot be computed.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from transformers import TrainerCallback

from lobes.errors import LobesError
from lobes.training import iat
from lobes.training.iat import IAT
from lobes.training.trainer import MultiTaskTrainer
from plain_iat import EPSILON
from test_iat import without_dropout
from test_trainer import TASKS, arguments, new_model

STEPS, CHECKPOINT = 6, 4
SETTINGS = IAT(alpha=0.3, delta=0.5)
COMPUTED: list[str] = []


class Record(TrainerCallback):
    """The whole model's weights before each step and at the end, and the tasks of each step."""

    def __init__(self) -> None:
        self.trainer: Any = None
        self.weights: list[dict[str, torch.Tensor]] = []
        self.tasks: list[list[str]] = []

    def gather(self) -> None:
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = get_model_state_dict(self.trainer._own, options=options)
        self.weights.append({name: value.clone() for name, value in state.items()})

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.gather()
        self.tasks.append([])

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.gather()


class Damage(TrainerCallback):
    """No number in the classifier of the second task, after the last step that is ordinary."""

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        if state.global_step == SETTINGS.switch_step(STEPS):
            with torch.no_grad():
                model.classifiers[TASKS[1].name].weight.fill_(torch.nan)


class Sharded(MultiTaskTrainer):
    """FSDP2 on CPUs, which accelerate offers on GPUs only: what it does there for `fsdp=True`."""

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        state = self.accelerator.state
        state.distributed_type = DistributedType.FSDP
        state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=["BertLayer"],
            reshard_after_forward=True,
            cpu_ram_efficient_loading=False,
            state_dict_type="SHARDED_STATE_DICT",
        )
        self.is_fsdp_enabled = True


def note_importance(compute: Any = iat.head_importance) -> None:
    """From now on, note the tasks whose importance this process computes."""

    def noting(model: Any, task: Any, **settings: Any) -> Any:
        COMPUTED.append(task.name)
        return compute(model, task, **settings)

    iat.head_importance = noting


def train(folder: Path, kind: str, accumulate: int, resume: Path | None = None) -> None:
    """One training; what each process saw goes to files in `folder`."""
    record = Record()
    args = arguments(
        folder,
        steps=STEPS,
        accumulate=accumulate,
        adam_epsilon=EPSILON,
        save_every=CHECKPOINT,
        save_total_limit=2,
    )
    trainer = {"ddp": MultiTaskTrainer, "fsdp": Sharded}[kind](
        without_dropout(new_model()), args, tasks=TASKS, iat=SETTINGS, callbacks=[record]
    )
    record.trainer = trainer
    compute_loss = trainer.compute_loss

    def noting(model: Any, inputs: Any, *rest: Any, **others: Any) -> Any:
        record.tasks[-1].append(inputs["task"])
        return compute_loss(model, inputs, *rest, **others)

    trainer.compute_loss = noting  # type: ignore[method-assign]
    COMPUTED.clear()
    trainer.train(resume)
    assert kind == "ddp" or "FSDP" in type(trainer._own).__name__
    scores = {k: v for k, v in trainer.evaluate().items() if k.startswith("eval_")}
    rank = dist.get_rank()
    (folder / f"scores-{rank}.json").write_text(json.dumps(scores))
    (folder / f"tasks-{rank}.json").write_text(json.dumps(record.tasks))
    (folder / f"iat-{rank}.json").write_text(json.dumps(trainer.iat_record))
    (folder / f"computed-{rank}.json").write_text(json.dumps(COMPUTED))
    torch.save(record.weights, folder / f"weights-{rank}.pt")


def fail(folder: Path) -> None:
    """A training that one process cannot go on with: what each process says goes to a file."""
    args = arguments(folder, steps=STEPS)
    trainer = MultiTaskTrainer(
        without_dropout(new_model()), args, tasks=TASKS, iat=SETTINGS, callbacks=[Damage()]
    )
    folder.mkdir(exist_ok=True)
    try:
        trainer.train()
    except LobesError as error:
        text = f"{type(error).__name__}: {error}"
        (folder / f"error-{dist.get_rank()}.txt").write_text(text)


def main() -> None:
    folder, kind = Path(sys.argv[1]), sys.argv[2]
    note_importance()
    train(folder / "one", kind, 1)
    train(folder / "two", kind, 2)
    train(folder / "on", kind, 2, resume=folder / "two" / f"checkpoint-{CHECKPOINT}")
    if kind == "ddp":
        fail(folder / "failed")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
