"""Which importance should one trust? A table of methods, on trained multi-task models.

    python scripts/importance_methods.py runs/four-0 runs/four-1 runs/four-2

Each RUN is the folder of a run with a trained model. Every method scores the heads from the same
examples of the training split; the exact rise of the loss when one head is ablated, on all other
examples of it, says how well. Lesions of each method's heads are then exchanged between the tasks.
A line for each model and method goes to the file that --log names, and what is there is not
measured again.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn

import lobes
from lobes.experiments.loading import load_tasks
from lobes.experiments.stored_study import stored_study
from lobes.modeling import TaskModel, load_task_model
from lobes.modeling.precision import resolve_precision

# title: (method, aggregate)
METHODS = {
    "taylor, token": ("taylor", "token"),
    "taylor, sequence": ("taylor", "sequence"),
    "taylor, signed": ("taylor", "signed"),
    "integrated gradients, token": ("integrated_gradients", "token"),
    "integrated gradients, sequence": ("integrated_gradients", "sequence"),
    "integrated gradients, signed": ("integrated_gradients", "signed"),
    "gates": ("gates", "token"),
    "ablation": ("ablation", "token"),
}
Line = dict[str, object]


@contextmanager
def counting(model: TaskModel) -> Iterator[list[int]]:
    """Count the examples that pass the encoder: 1 for a pass, 2 more where gradients follow."""
    passes = [0]

    def count(module: nn.Module, args: tuple, kwargs: dict) -> None:
        passes[0] += len(kwargs["input_ids"]) * (3 if torch.is_grad_enabled() else 1)

    handle = model.encoder.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield passes
    finally:
        handle.remove()


def divided(tasks: list[lobes.Task], examples: int, reference: int) -> tuple[list, list]:
    """The tasks with the examples that methods score from, and with others to judge them by."""
    some, others = [], []
    for task in tasks:
        order = np.random.default_rng(0).permutation(len(task.train))
        some.append(task.replace(train=task.train.select(np.sort(order[:examples]))))
        rest = order[examples : examples + reference]
        others.append(task.replace(train=task.train.select(np.sort(rest))))
    return some, others


def rank_correlation(one: lobes.HeadScores, other: lobes.HeadScores) -> float:
    """Spearman's correlation of two scores of the same heads."""
    there = ~np.isnan(one.values)
    return float(spearmanr(one.values[there], other.values[there]).statistic)


def mean(values: list[float]) -> float:
    """The mean over the tasks."""
    return float(np.mean(values))


def measured(
    run: Path, chosen: argparse.Namespace, done: set[str], keep: Callable[[Line], None]
) -> None:
    """Measure what is not done yet of one run's model."""
    if done >= set(chosen.methods):
        return
    study = stored_study(run)
    every = load_tasks(study)
    model = load_task_model(run / "model", every)
    tasks = [task for task in every if not chosen.tasks or task.name in chosen.tasks]
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    precision = resolve_precision("auto", model.device)
    some, others = divided(tasks, chosen.examples, chosen.reference)
    shared = {"precision": precision, "seed": study.seed}
    exact = {
        task.name: lobes.head_importance(model, task, method="ablation", **shared)
        for task in others
    }
    trust = {name: scores.reliability for name, scores in exact.items()}
    for title in chosen.methods:
        if title in done:
            continue
        method, aggregate = METHODS[title]
        kept: dict[str, dict[str, np.ndarray]] = {}
        cost = {"passes": 0, "seconds": 0.0}

        def remember(key: str, compute: Callable[[], dict], cost=cost, kept=kept) -> dict:
            with counting(model) as passes:
                began = time.perf_counter()
                kept[key] = compute()
            if key.startswith("importance-"):
                cost["seconds"] += time.perf_counter() - began
                cost["passes"] += passes[0]
            return kept[key]

        matrix = lobes.lesion_matrix(
            model,
            some,
            method=method,
            aggregate=aggregate,
            fractions=chosen.fractions,
            controls=chosen.controls,
            random=0,
            control_examples=chosen.control_examples,
            remember=remember,
            **shared,
        )
        each = {f: matrix.dissociation(f, resamples=200) for f in chosen.fractions}
        over = matrix.over_fractions(resamples=200)
        scores = matrix.importance
        agreement = {name: rank_correlation(scores[name], exact[name]) for name in scores}
        corrected = [agreement[name] / max(trust[name], 0.05) ** 0.5 for name in scores]
        keep(
            {
                "run": run.name,
                "model": Path(study.model).name,
                "method": title,
                "agreement": mean(list(agreement.values())),
                "corrected": mean(corrected),
                "of tasks": agreement,
                "reference": mean(list(trust.values())),
                "reliability": mean([scores[name].reliability for name in scores]),
                "passes": cost["passes"] / sum(len(task.train) for task in some),
                "seconds": cost["seconds"],
                "d": {f"{f:g}": found.column.mean for f, found in each.items()},
                "z": {f"{f:g}": found.column.mean_standardized for f, found in each.items()},
                "p": {f"{f:g}": found.column.mean_p for f, found in each.items()},
                "over": over.p,
                "exchangeable": {f"{f:g}": found.exchangeable for f, found in each.items()},
            }
        )


def page(lines: list[Line]) -> str:
    """The table of one model, each number the mean over its runs, p of each run."""
    fractions = list(lines[0]["d"])
    columns = ["method", "agreement", "corrected", "reliability", "passes"]
    columns += [name for f in fractions for name in (f"D at {f}", "z", "p")] + ["p over fractions"]
    text = []
    for model in dict.fromkeys(line["model"] for line in lines):
        text += [
            f"## {model}",
            "",
            f"| {' | '.join(columns)} |",
            "|---|" + "---:|" * (len(columns) - 1),
        ]
        for method in METHODS:
            some = [line for line in lines if (line["model"], line["method"]) == (model, method)]
            if not some:
                continue
            numbers = [
                f"{np.mean([line[name] for line in some]):.2f}"
                for name in ("agreement", "corrected", "reliability")
            ]
            numbers.append(f"{np.mean([line['passes'] for line in some]):.0f}")
            for f in fractions:
                numbers.append(f"{np.mean([line['d'][f] for line in some]):+.1f} %")
                numbers.append(f"{np.mean([line['z'][f] for line in some]):.1f}")
                numbers.append(", ".join(f"{line['p'][f]:.3f}" for line in some))
            over = ", ".join(f"{line['over']:.3f}" for line in some)
            text.append(f"| {method} | {' | '.join(numbers)} | {over} |")
        trust = np.mean([line["reference"] for line in lines if line["model"] == model])
        text += ["", f"Reliability of the exact ablation that judges: {trust:.2f}.", ""]
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--log", type=Path, default=Path(".cache/importance-methods.jsonl"))
    parser.add_argument("--examples", type=int, default=1000, help="of each task, for the scores")
    parser.add_argument("--reference", type=int, default=2600, help="others, to judge them by")
    parser.add_argument("--control-examples", type=int, help="all validation examples if left out")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--tasks", nargs="+", help="some of the runs' tasks")
    parser.add_argument("--controls", type=int, default=39)
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.1, 0.3])
    chosen = parser.parse_args()
    lines = chosen.log.read_text("utf-8").splitlines() if chosen.log.exists() else []
    found: list[Line] = [json.loads(line) for line in lines]

    def keep(line: Line) -> None:
        found.append(line)
        with chosen.log.open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    for run in chosen.runs:
        done = {str(line["method"]) for line in found if line["run"] == run.name}
        measured(run, chosen, done, keep)
    print(page(found))


if __name__ == "__main__":
    main()
