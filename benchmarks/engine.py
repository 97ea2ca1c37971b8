"""How much of the machine's matrix product evaluation and importance use, on two real models.

all-MiniLM-L6-v2 and all-mpnet-base-v2 with classifiers that are not trained, on the demo's
sentences. The share is that of the rate of a matrix product, measured in turn with the rest, with
the operations that were counted: what a shared layer saves is not in them. Seconds are of the
processor where one thread runs, so that other work on the machine counts for little.

    python -m benchmarks.engine [--precision fp32 bf16] [--examples 192] [--lesions 8] [--rounds 3]
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from lobes import HeadSet, MultiTaskModel, Task, evaluate, find_heads, head_importance
from lobes.experiments.demo import fetch, write_demo_data
from lobes.modeling.packaged import fetch_model
from lobes.tasks.sources import TaskSource, load_task

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def clock() -> float:
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def seconds_of(function: Callable[[], object]) -> float:
    start = clock()
    function()
    return clock() - start


def peak(precision: str, size: int = 1024, repeats: int = 6) -> float:
    """The best rate of a square matrix product, in operations per second."""
    a, b = (torch.randn(size, size).to(TYPES[precision]) for _ in range(2))
    return 2 * size**3 / min(seconds_of(lambda: a @ b) for _ in range(repeats))


def tasks_of(examples: int) -> list[Task]:
    with tempfile.TemporaryDirectory() as folder:
        tables = write_demo_data(
            fetch(), Path(folder), train_size=examples, validation_size=examples
        )
        return [load_task(TaskSource(**table)) for table in tables]


def measure(model: MultiTaskModel, tasks: list[Task], given: argparse.Namespace) -> None:
    layout, generator = find_heads(model), np.random.default_rng(0)
    number = int(0.3 * layout.total)
    sets = [HeadSet(), *(layout.random(number, generator) for _ in range(given.lesions - 1))]
    for precision in given.precision:
        work: dict[str, Callable[[], object]] = {
            "evaluation": lambda precision=precision: evaluate(
                model, tasks, sets, precision=precision, layout=layout
            ),
            "importance": lambda precision=precision: head_importance(
                model, tasks[0], precision=precision, layout=layout
            ),
        }
        for name, function in work.items():
            with FlopCounterMode(display=False) as counter:
                function()
            total = counter.get_total_flops()
            shares, rates = [], []
            for _ in range(given.rounds):
                before = peak(precision)
                seconds = seconds_of(function)
                rates.append((before + peak(precision)) / 2)
                shares.append(total / seconds / rates[-1])
            print(
                f"{precision}  {name:11}{np.median(shares):6.0%} of the peak   "
                f"({min(shares):.0%} to {max(shares):.0%}; {total / 1e9:.0f} GFLOP; "
                f"peak {np.median(rates) / 1e9:.0f} GFLOP/s)",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["minilm", "mpnet"])
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=list(TYPES))
    parser.add_argument("--examples", type=int, default=192, help="sentences of each split")
    parser.add_argument("--lesions", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    folders = {"minilm": lambda: fetch().model, "mpnet": lambda: fetch_model("all-mpnet-base-v2")}
    tasks = tasks_of(given.examples)
    print(f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    for name in given.models:
        model = MultiTaskModel.from_pretrained(folders[name](), tasks).eval()
        print(f"all-{name}: {find_heads(model).total} heads")
        measure(model, tasks, given)


if __name__ == "__main__":
    main()
