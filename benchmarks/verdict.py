"""From a trained model to a p-value of its D-score: the plain way against ours, in one run.

Plain: importance and lesions as in `benchmarks/lesions.py`, in fp32; all exchanges, each in one
pass over all validation examples for each task. Ours: `lesion_matrix` with its defaults, which
stops where 39 exchanges settle p. Both on the demo's model and sentences, and two of its tasks.
Beside the seconds of the processor stand the powers of both, simulated for the D-score measured.

A plain pass takes as long under one lesion as under another: some are measured, and the rest is
reckoned from them.

    python -m benchmarks.verdict [--quick]
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from benchmarks.lesions import plain_importance, plain_predictions, prepare
from lobes import HeadSet, LesionMatrix, MultiTaskModel, Task, evaluate, find_heads, lesion_matrix
from lobes.dissociation.power import power_of
from lobes.dissociation.simulation import HeadStudy
from lobes.dissociation.stopping import look_of
from lobes.heads import HeadLayout
from lobes.measure.settings import IapSettings
from lobes.modeling.precision import resolve_precision

TASKS = ("sentiment", "domain")


@dataclass(frozen=True)
class Ours:
    """One precision's study: its matrix, the seconds of each stage, and the lesions it ran."""

    matrix: LesionMatrix
    importance: float
    lesions: float
    runs: int

    @property
    def total(self) -> float:
        return self.importance + self.lesions


def seconds_of(compute: Callable[[], object]) -> float:
    """How long this takes the processor."""
    start = time.process_time()
    compute()
    return time.process_time() - start


def plain_pass(model: MultiTaskModel, tasks: Sequence[Task], lesions: Sequence[HeadSet]) -> float:
    """Seconds of one plain pass over all tasks' examples: the mean under some lesions."""
    layout = find_heads(model)
    every = [(task, lesion) for lesion in lesions for task in tasks]
    found = [
        seconds_of(lambda task=task, lesion=lesion: plain_predictions(model, task, lesion, layout))
        for task, lesion in every
    ]
    return float(np.sum(found)) / len(lesions)


def some_of(task: Task, number: int) -> Task:
    """A task with its first training examples only."""
    return task.replace(train=task.train.select(np.arange(min(number, len(task.train)))))


def our_study(
    model: MultiTaskModel, tasks: Sequence[Task], settings: IapSettings, precision: str
) -> Ours:
    spent = {"importance": 0.0, "predictions": 0.0}
    runs = 0

    def remember(key: str, compute: Callable) -> dict[str, np.ndarray]:
        nonlocal runs
        start = time.process_time()
        found = compute()
        spent[key.split("-")[0]] += time.process_time() - start
        runs += 0 if key.startswith("importance") else len(next(iter(found.values())))
        return found

    matrix = lesion_matrix(model, tasks, settings, precision=precision, remember=remember)
    return Ours(matrix, spent["importance"], spent["predictions"], runs)


def factors(
    model: MultiTaskModel, tasks: Sequence[Task], layout: HeadLayout, lesions: Sequence[HeadSet]
) -> tuple[float, float, float]:
    """Seconds of ours in fp32 for a lesion of one task by itself, of all, and of a plain pass."""
    single = np.mean(
        [
            seconds_of(lambda task=task: evaluate(model, [task], lesions, layout=layout))
            for task in tasks
        ]
    )
    both = seconds_of(lambda: evaluate(model, tasks, lesions, layout=layout))
    plain = plain_pass(model, tasks, lesions[:3])
    return float(single) / len(lesions), both / len(lesions), plain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=1200, help="sentences for the importance")
    parser.add_argument("--validation", type=int, default=320, help="sentences to evaluate on")
    parser.add_argument("--controls", type=int, default=99, help="exchanges at most")
    parser.add_argument("--fraction", type=float, default=0.3, help="of the heads in a lesion")
    parser.add_argument("--control-examples", type=int, help="exchanges on so many; default: all")
    parser.add_argument("--steps", type=int, default=100, help="training before the measurement")
    parser.add_argument("--measured", type=int, default=200, help="examples of plain importance")
    parser.add_argument("--studies", type=int, default=1000, help="simulated for each power")
    parser.add_argument("--quick", action="store_true", help="so small that it takes seconds")
    arguments = parser.parse_args()
    if arguments.quick:
        small = {"train": 40, "validation": 40, "steps": 2, "measured": 20, "studies": 20}
        vars(arguments).update(small)
    model, tasks = prepare(arguments, names=TASKS, max_words=16)
    layout = find_heads(model)
    settings = IapSettings(
        fractions=(arguments.fraction,),
        controls=arguments.controls,
        control_examples=arguments.control_examples,
        random=0,
    )
    ours = our_study(model, tasks, settings, "fp32")
    _report(model, tasks, layout, settings, ours, arguments)
    native = resolve_precision("auto", model.device)
    if native == "bf16":
        faster = our_study(model, tasks, settings, "bf16")
        print(f"bf16 takes {faster.total:.1f} s: {ours.total / faster.total:.2f} times less")
    else:
        print("bf16 is not native on this machine, and was not measured.")


def _report(
    model: MultiTaskModel,
    tasks: Sequence[Task],
    layout: HeadLayout,
    settings: IapSettings,
    ours: Ours,
    arguments: argparse.Namespace,
) -> None:
    matrix, some = ours.matrix, [some_of(task, arguments.measured) for task in tasks]
    lesions = [lesion.heads for lesion in matrix.reference.lesions[1:9]]
    single, both, plain = factors(model, tasks, layout, lesions)
    share = len(tasks[0].train) / len(some[0].train)
    importance = share * sum(
        seconds_of(lambda t=t: plain_importance(model, t, layout)) for t in some
    )
    n = len(tasks)
    passes = 1 + n * (1 + settings.controls)
    whole = importance + passes * plain
    fewer, shared = passes / ours.runs, n * single / both
    measured = len(matrix.control_scores())
    print(
        f"{layout.total} heads, {n} tasks on the same {arguments.validation} validation examples, "
        f"importance from {arguments.train}, lesions of {arguments.fraction:.0%} of the heads, "
        f"{settings.controls} exchanges at most, {torch.get_num_threads()} threads\n"
        f"{'':14}{'importance':>12}{'lesions':>10}{'total':>10}\n"
        f"{'plain fp32':14}{importance:11.1f}s{passes * plain:9.1f}s{whole:9.1f}s  "
        f"(from {3 * n} of {n * passes} passes, and 1 in {share:g} examples of importance)\n"
        f"{'ours fp32':14}{ours.importance:11.1f}s{ours.lesions:9.1f}s{ours.total:9.1f}s  "
        f"{whole / ours.total:.2f}x\n"
        f"What makes the lesions {passes * plain / ours.lesions:.2f} times cheaper:\n"
        f"  {fewer:5.2f}x  stopped after {measured} exchanges: {ours.runs} lesions, not {passes}\n"
        f"  {shared:5.2f}x  one run for the inputs that tasks share\n"
        f"  {passes * plain / ours.lesions / fewer / shared:5.2f}x  sorted batches, and layers "
        f"that lesions share{_sampled(settings)}\n"
        f"Importance is {importance / ours.importance:.2f} times cheaper."
    )
    _print_powers(tasks, layout, settings, matrix, arguments.studies)


def _sampled(settings: IapSettings) -> str:
    number = settings.control_examples
    return "" if number is None else f"; exchanges on {number} examples"


def _print_powers(
    tasks: Sequence[Task],
    layout: HeadLayout,
    settings: IapSettings,
    matrix: LesionMatrix,
    studies: int,
) -> None:
    over = matrix.over_fractions(resamples=200)
    d_score = over.evidence.mean
    print(f"D = {d_score:+.1f} %, p = {over.p:.3f}")
    examples = len(tasks[0].validation)
    study = HeadStudy(
        len(tasks), examples, layout.total, tuple(settings.fractions), settings.controls
    )
    fewer = replace(study, examples=min(examples, settings.control_examples or examples))
    sizes = sorted({5.0, round(max(d_score, 1.0), 1)})
    looks = {"plain": (study, None), "ours": (fewer, look_of(settings.controls))}
    found = {
        name: power_of(planned, sizes, look=look, studies=studies)
        for name, (planned, look) in looks.items()
    }
    for place, size in enumerate(sizes):
        both = (
            f"{name} {of[place].least:.3f} to {of[place].most:.3f}" for name, of in found.items()
        )
        print(f"power for a true D of {size:g} %, by what lesions do: {', '.join(both)}")


if __name__ == "__main__":
    main()
