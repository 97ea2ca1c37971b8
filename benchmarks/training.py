"""What a step of training costs beyond a bare loop, and what IAT costs beyond that.

The demo's model and sentences. Each round trains a copy of the model on the same batches as the
others, in each of three ways: plain multi-task training, IAT, and IAT without `strict`. A step's
ratio is that of its times on the same batch in the same round; the median over all is shown, with
the middle half of them. Last, how far the optimizer moves rows that no task trains.

The bare loop takes the batches of that training: forward, backward and the same fused AdamW,
and nothing else. Seconds are of the processor where one thread runs.

    python -m benchmarks.training [--rounds 6] [--steps 24] [--train 1600] [--only bare]
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from lobes import IAT, HeadSet, MultiTaskModel, Task, find_heads
from lobes.experiments.demo import fetch, write_demo_data
from lobes.tasks.sources import TaskSource, load_task
from lobes.training.arguments import training_arguments
from lobes.training.row_gate import learning_rows
from lobes.training.trainer import MultiTaskTrainer

WARM_UP = 4  # steps of each training that do not count


def clock() -> float:
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


class Times(TrainerCallback):
    """Seconds of each optimizer step, from its first forward pass to its end."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.start = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.start = clock()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(clock() - self.start)


def train(
    model: MultiTaskModel, tasks: Sequence[Task], steps: int, precision: str, iat: IAT | None
) -> tuple[list[float], MultiTaskTrainer]:
    """The seconds of each step of a training, and its trainer."""
    times = Times()
    with tempfile.TemporaryDirectory() as folder:
        args = training_arguments(folder, steps=steps, precision=precision, learning_rate=1e-4)
        trainer = MultiTaskTrainer(
            deepcopy(model), args, tasks=tasks, iat=iat, callbacks=[times], group_lengths=False
        )
        trainer.train()
    return times.seconds, trainer


def compare_ways(
    model: MultiTaskModel, tasks: Sequence[Task], rounds: int, steps: int, precision: str
) -> None:
    ways = {
        "plain": None,
        "IAT": IAT(delta=1.0, importance_examples=64),
        "IAT, not strict": IAT(delta=1.0, importance_examples=64, strict=False),
    }
    found: dict[str, list[list[float]]] = {name: [] for name in ways}
    for turn in range(rounds):
        names = list(ways)
        for name in names[turn % 3 :] + names[: turn % 3]:
            seconds, _ = train(model, tasks, steps, precision, ways[name])
            found[name].append(seconds[WARM_UP:])
    plain = np.array(found["plain"])
    for name, seconds in found.items():
        ratios = np.array(seconds) / plain
        low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
        print(
            f"{precision}  {name:16}{1000 * np.median(seconds):8.1f} ms a step{middle:8.3f}x"
            f"   (half of the steps: {low:.3f} to {high:.3f})"
        )


def bare(model: MultiTaskModel, batches: Sequence[Any], precision: str) -> list[float]:
    """The seconds of each step of a loop over these batches."""
    model = deepcopy(model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0, fused=True)
    seconds = []
    for batch in batches:
        start = clock()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(clock() - start)
    return seconds


def compare_with_bare(
    model: MultiTaskModel, tasks: Sequence[Task], rounds: int, steps: int, precision: str
) -> None:
    """A step of the trainer by one of the bare loop on the same batch, in turn."""
    ratios, kept = [], []
    for _ in range(rounds):
        seconds, trainer = train(model, tasks, steps, precision, None)
        batches = []
        for batch in trainer.get_train_dataloader():
            batch.pop("examples", None)
            batches.append(batch)
        plain = bare(model, batches[:steps], precision)
        ratios += (np.array(seconds) / plain)[WARM_UP:].tolist()
        kept += seconds[WARM_UP:]
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    print(
        f"{precision}  trainer by bare   {1000 * np.median(kept):8.1f} ms a step{middle:8.3f}x"
        f"   (half of the steps: {low:.3f} to {high:.3f})",
        flush=True,
    )


def drift(model: MultiTaskModel, tasks: Sequence[Task], steps: int, precision: str) -> None:
    """How far rows move in the IAT phase that no task trains, and those that one does."""
    layout = find_heads(model)
    for strict in (True, False):
        kept: dict[str, torch.Tensor] = {}

        class Switch(TrainerCallback):
            """Keeps the weights at the switch."""

            trainer: Any = None

            def on_step_end(
                self, args: Any, state: Any, control: Any, kept: Any = kept, **_: Any
            ) -> None:
                if state.global_step == self.trainer.switch_step:
                    kept |= {k: v.clone() for k, v in self.trainer.model.state_dict().items()}

        switch = Switch()
        with tempfile.TemporaryDirectory() as folder:
            args = training_arguments(folder, steps=steps, precision=precision, learning_rate=1e-4)
            iat = IAT(delta=0.5, importance_examples=256, strict=strict)
            switch.trainer = trainer = MultiTaskTrainer(
                deepcopy(model), args, tasks=tasks, iat=iat, callbacks=[switch]
            )
            trainer.train()
        record = trainer.iat_record
        heads = HeadSet(h for text in record["heads"].values() for h in HeadSet.parse(text))
        moved: dict[bool, list[torch.Tensor]] = {True: [], False: []}
        for name, value in trainer.model.state_dict().items():
            if name in {rows.parameter for site in layout.sites for rows in site.rows}:
                rows = learning_rows(layout, name, len(value), heads)
                for trained in (True, False):
                    change = (value - kept[name])[rows == trained].abs()
                    moved[trained].append(change.flatten())
        trained, resting = (torch.cat(moved[key]) for key in (True, False))
        share = (resting != 0).float().mean()
        print(
            f"{precision}  strict={strict!s:5} over {record['steps']} steps of IAT, rows move on "
            f"average by {trained.mean():.1e} where some task trains them, by {resting.mean():.1e} "
            f"where none does ({share:.0%} of those weights move); the estimate took "
            f"{record['seconds']:.1f} s for {len(tasks)} x 256 sentences"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6, help="trainings of each way")
    parser.add_argument("--steps", type=int, default=24, help="steps of each training")
    parser.add_argument("--train", type=int, default=1600, help="training sentences")
    parser.add_argument("--only", choices=["bare"], help="leave IAT out")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    arguments = parser.parse_args()
    assets = fetch()
    with tempfile.TemporaryDirectory() as folder:
        tables = write_demo_data(
            assets, Path(folder), train_size=arguments.train, validation_size=64
        )
        tasks = [load_task(TaskSource(**table)) for table in tables]
    model = MultiTaskModel.from_pretrained(assets.model, tasks)
    print(f"{find_heads(model).total} heads, {len(tasks)} tasks, {torch.get_num_threads()} threads")
    for precision in arguments.precision:
        compare_with_bare(model, tasks, arguments.rounds, arguments.steps, precision)
        if not arguments.only:
            compare_ways(model, tasks, arguments.rounds, arguments.steps, precision)
    if not arguments.only:
        drift(model, tasks, 60, "bf16")


if __name__ == "__main__":
    main()
