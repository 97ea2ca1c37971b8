"""The plain way to measure a lesion matrix against ours, on the demo's model and sentences.

Plain: fp32; batches of 32 (importance) and 64 (evaluation) in the order of arrival, padded to the
longest; a full backward pass; one evaluation pass for each task and lesion. Ours: the library, in
fp32 and in bf16. Both in this process, on the same model, examples and lesions.

    python -m benchmarks.lesions [--train 400] [--validation 200] [--controls 5] [--steps 60]
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from torch.utils.flop_counter import FlopCounterMode

from lobes import HeadSet, MultiTaskModel, Task, evaluate, find_heads, head_importance
from lobes.data.batching import encode
from lobes.data.texts import blocks
from lobes.experiments.demo import fetch, write_demo_data
from lobes.heads import HeadLayout
from lobes.measure.evaluation import predictions_of
from lobes.metrics import get_metric
from lobes.modeling import example_losses
from lobes.tasks.sources import TaskSource, load_task
from lobes.training.trainer import MultiTaskTrainer, training_arguments

FRACTION = 0.3


@dataclass(frozen=True)
class Measured:
    """One way's results: importance [tasks, sites, heads], predictions, scores, seconds."""

    importance: np.ndarray
    predictions: dict[str, np.ndarray]
    scores: np.ndarray
    seconds: tuple[float, float]

    @property
    def total(self) -> float:
        return sum(self.seconds)


def plain_importance(model: MultiTaskModel, task: Task, layout: HeadLayout) -> np.ndarray:
    """Compute importance (docs/method.md#importance) as the published code does.

    Hooks keep the gradients of the contexts, and the backward pass reaches every parameter.
    """
    spec = model.spec(task.name)
    encoded = encode(model.tokenizer, task.train.texts, model.max_length)
    seen: dict[int, torch.Tensor] = {}

    def keep(site: int) -> Callable:
        def hook(module: torch.nn.Module, args: tuple) -> None:
            args[0].retain_grad()
            seen[site] = args[0]

        return hook

    handles = [
        model.get_submodule(site.projection).register_forward_pre_hook(keep(site.index))
        for site in layout.sites
    ]
    totals, tokens = np.zeros(layout.shape), 0
    for batch in blocks(np.arange(len(encoded)), 32):
        inputs = encoded.collate(batch)
        labels = torch.as_tensor(task.train.labels[batch])
        logits = model(**inputs, task=task.name).logits
        example_losses(logits, labels, spec).sum().backward()
        mask = inputs["attention_mask"][..., None]
        for site, contexts in seen.items():
            terms = (contexts * contexts.grad).unflatten(-1, (layout.sites[site].n_heads, -1))
            totals[site] += (terms.sum(-1).abs() * mask).sum((0, 1)).detach().double().numpy()
        tokens += int(mask.sum())
        model.zero_grad()
    for handle in handles:
        handle.remove()
    return totals / tokens


def plain_predictions(
    model: MultiTaskModel, task: Task, lesion: HeadSet, layout: HeadLayout
) -> np.ndarray:
    """One pass over a task's validation data with the lesion's heads multiplied by 0."""
    spec = model.spec(task.name)
    encoded = encode(model.tokenizer, task.validation.texts, model.max_length)
    handles = []
    for site, heads in lesion.by_site().items():
        mask = torch.ones(layout.sites[site].n_heads, layout.sites[site].head_dim)
        mask[list(heads)] = 0
        mask = mask.flatten()
        module = model.get_submodule(layout.sites[site].projection)
        handles.append(module.register_forward_pre_hook(lambda _, args, mask=mask: args[0] * mask))
    found = []
    with torch.no_grad():
        for batch in blocks(np.arange(len(encoded)), 64):
            inputs = encoded.collate(batch)
            logits = model(**inputs, task=task.name).logits
            found.append(predictions_of(logits.numpy(), spec))
    for handle in handles:
        handle.remove()
    return np.concatenate(found)


def plain_way(
    model: MultiTaskModel, tasks: Sequence[Task], lesions: Sequence[HeadSet], layout: HeadLayout
) -> Measured:
    model.eval()
    start = time.perf_counter()
    importance = np.stack([plain_importance(model, task, layout) for task in tasks])
    middle = time.perf_counter()
    predictions = {
        task.name: np.stack([plain_predictions(model, task, lesion, layout) for lesion in lesions])
        for task in tasks
    }
    seconds = middle - start, time.perf_counter() - middle
    scores = [
        [get_metric(task.metric)(task.validation.labels, row) for row in predictions[task.name]]
        for task in tasks
    ]
    return Measured(importance, predictions, np.array(scores).T, seconds)


def our_way(
    model: MultiTaskModel,
    tasks: Sequence[Task],
    lesions: Sequence[HeadSet],
    layout: HeadLayout,
    precision: str,
) -> Measured:
    start = time.perf_counter()
    importance = np.stack(
        [head_importance(model, task, precision=precision, layout=layout).values for task in tasks]
    )
    middle = time.perf_counter()
    found = evaluate(model, tasks, lesions, precision=precision, layout=layout)
    seconds = middle - start, time.perf_counter() - middle
    predictions = {task.name: found.predictions(task.name) for task in tasks}
    return Measured(importance, predictions, found.scores(), seconds)


def peak(dtype: torch.dtype, size: int = 2048, repeats: int = 20) -> float:
    """The best rate of a square matrix product on this machine, in operations per second."""
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def prepare(
    arguments: argparse.Namespace, names: Sequence[str] | None = None, max_words: int | None = None
) -> tuple[MultiTaskModel, list[Task]]:
    """The demo's tasks, or some of them, and its model after a short fine-tuning on these."""
    assets = fetch()
    sizes = {"train_size": arguments.train, "validation_size": arguments.validation}
    with tempfile.TemporaryDirectory() as folder:
        tables = write_demo_data(assets, Path(folder), **sizes, max_words=max_words)
        chosen = [table for table in tables if names is None or table["name"] in names]
        tasks = [load_task(TaskSource(**table)) for table in chosen]
        model = MultiTaskModel.from_pretrained(assets.model, tasks)
        settings = training_arguments(Path(folder), steps=arguments.steps, learning_rate=1e-4)
        MultiTaskTrainer(model, settings, tasks=tasks).train()
    return model.float(), tasks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=400, help="sentences for the importance")
    parser.add_argument("--validation", type=int, default=200, help="sentences to evaluate on")
    parser.add_argument("--controls", type=int, default=5, help="random lesions for each task's")
    parser.add_argument("--steps", type=int, default=60, help="fine-tuning before the measurement")
    arguments = parser.parse_args()
    model, tasks = prepare(arguments)
    layout = find_heads(model)
    generator = np.random.default_rng(0)
    top = [head_importance(model, task, layout=layout).top(FRACTION) for task in tasks]
    lesions = [HeadSet(), *top]
    lesions += [
        layout.random(heads.counts(), generator) for _ in range(arguments.controls) for heads in top
    ]
    print(
        f"{layout.total} heads, {len(tasks)} tasks x {arguments.train} training and "
        f"{arguments.validation} validation examples, {len(lesions)} lesions, "
        f"{torch.get_num_threads()} threads"
    )
    for precision in ("fp32", "bf16"):
        our_way(model, tasks, lesions[:3], layout, precision)  # the first calls of kernels are slow
    plain = plain_way(model, tasks, lesions, layout)
    print(f"{'':12}{'importance':>12}{'evaluation':>12}{'total':>9}{'ratio':>8}{'of peak':>9}")
    print(_row("plain fp32", plain, plain, None))
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        ours = our_way(model, tasks, lesions, layout, precision)
        with FlopCounterMode(display=False) as counter:
            our_way(model, tasks, lesions, layout, precision)
        share = counter.get_total_flops() / ours.total / peak(dtype)
        print(_row(f"ours {precision}", ours, plain, share))
        print(_agreement(ours, plain))


def _row(name: str, measured: Measured, plain: Measured, share: float | None) -> str:
    shown = "" if share is None else f"{share:9.0%}"
    return (
        f"{name:12}{measured.seconds[0]:11.1f}s{measured.seconds[1]:11.1f}s{measured.total:8.1f}s"
        f"{plain.total / measured.total:7.2f}x{shown}"
    )


def _agreement(ours: Measured, plain: Measured) -> str:
    ranks = [
        spearmanr(a.ravel(), b.ravel()).statistic
        for a, b in zip(ours.importance, plain.importance, strict=True)
    ]
    same = [
        (ours.predictions[task] == plain.predictions[task]).mean() for task in plain.predictions
    ]
    worst = np.abs(ours.importance / plain.importance - 1).max()
    return (
        f"{'':12}importance: rank correlation at least {min(ranks):.5f}, largest relative "
        f"difference {worst:.1e}; predictions equal: {min(same):.2%} or more; largest difference "
        f"of a score: {np.abs(ours.scores - plain.scores).max():.4f}"
    )


if __name__ == "__main__":
    main()
