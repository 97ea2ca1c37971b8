"""Accuracy, size and speed of a run's model without its least important heads.

    python scripts/measure_pruning.py RUN STUDY.toml [FRACTION …]

RUN is the folder of a finished run of STUDY; the first of its tasks is evaluated, in fp32, on its
validation data. Both models are timed in turn, in fp32 and with bf16 weights.
"""

import copy
import sys
from pathlib import Path

import numpy as np
import torch

import lobes
from lobes.config.study import load_study
from lobes.experiments.heads_to_prune import Choice
from lobes.experiments.loading import load_tasks
from lobes.experiments.prune import compare_speed, timing_inputs

FRACTIONS = (0.1, 0.3, 0.5)


def size(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def right(model: lobes.MultiTaskModel, task: lobes.Task) -> np.ndarray:
    """Which validation examples the model classifies rightly, as 0 and 1."""
    found = lobes.evaluate(model, [task], precision="fp32").predictions(task.name)
    return (found.reshape(-1) == task.validation.labels).astype(float)


def interval(change: np.ndarray) -> np.ndarray:
    """A 95 % bootstrap interval over the examples."""
    draws = np.random.default_rng(0).integers(len(change), size=(10_000, len(change)))
    return np.quantile(change[draws].mean(1), (0.025, 0.975))


def time_both(whole: torch.nn.Module, smaller: torch.nn.Module) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        pair = [copy.deepcopy(model).to(dtype) for model in (whole, smaller)]
        for length in (32, 128):
            speed = compare_speed(*pair, timing_inputs(whole, length), seconds=20)
            before, after = (1000 * seconds for seconds in speed["seconds"])
            low, high = speed["ratio_quartiles"]
            print(
                f"   {dtype}, 8 texts of {length} tokens: {before:.1f} ms, {after:.1f} ms, "
                f"{speed['ratio']:.3f} times as fast ({low:.3f} to {high:.3f}, "
                f"{speed['rounds']} rounds)"
            )


def main() -> None:
    run, study, *given = sys.argv[1:]
    task = load_tasks(load_study(Path(study)))[0]
    whole = lobes.MultiTaskModel.from_pretrained(Path(run) / "model").eval()
    layout = lobes.find_heads(whole)
    before = right(whole, task)
    print(f"whole: {size(whole):,} parameters, accuracy {before.mean():.4f}")
    for fraction in map(float, given or FRACTIONS):
        heads = Choice(run=Path(run), fraction=fraction).heads(layout)
        smaller = lobes.prune(whole, heads, layout=layout)
        after = right(smaller, task)
        low, high = interval(after - before)
        left = [site.n_heads for site in lobes.find_heads(smaller).sites]
        print(
            f"{fraction:g}: {len(heads)} heads fewer, {size(smaller):,} parameters, accuracy "
            f"{after.mean():.4f}, change {(after - before).mean():+.4f} ({low:+.4f} to "
            f"{high:+.4f}), heads left {left}"
        )
        time_both(whole, smaller)


if __name__ == "__main__":
    main()
