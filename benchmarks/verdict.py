"""From a trained model to a p-value of its D-score: the plain way against ours, in one run.

Plain: importance and lesions as in `benchmarks/lesions.py`, in fp32; all exchanges, each in one
pass over all validation examples for each task. Ours: `lesion_matrix` with its defaults, which
stops where 39 exchanges settle p. Both on the demo's model and sentences, and two of its tasks.
Beside the seconds of the processor stand the powers of both, simulated for the D-score measured.

A plain pass takes as long under one lesion as under another: some are measured, in turn with ours,
and the rest is reckoned from their median.

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
PASSES = 3  # plain lesions measured after each group of ours


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


class Plain:
    """Seconds of the plain way: of lesions over all tasks' examples, and of tasks' importance."""

    def __init__(
        self, model: MultiTaskModel, tasks: Sequence[Task], fraction: float, measured: int
    ) -> None:
        self.model, self.tasks, self.layout = model, tasks, find_heads(model)
        self.size, self.generator = int(fraction * self.layout.total), np.random.default_rng(0)
        self.share = max(1.0, len(tasks[0].train) / measured)
        few = np.arange(int(len(tasks[0].train) / self.share))
        self.few = [task.replace(train=task.train.select(few)) for task in tasks]
        self.lesions: list[float] = []
        self.importance: list[float] = []

    def measure(self, key: str) -> None:
        """Measure some of what a step of ours was about, while the machine is as it was for it."""
        if key.startswith("importance"):
            task = next(task for task in self.few if key.startswith(f"importance-{task.name}"))
            seconds = seconds_of(lambda: plain_importance(self.model, task, self.layout))
            self.importance.append(self.share * seconds)
            return
        for _ in range(PASSES):
            lesion = self.layout.random(self.size, self.generator)
            self.lesions.append(
                seconds_of(
                    lambda lesion=lesion: [
                        plain_predictions(self.model, task, lesion, self.layout)
                        for task in self.tasks
                    ]
                )
            )


def our_study(
    model: MultiTaskModel,
    tasks: Sequence[Task],
    settings: IapSettings,
    precision: str,
    plain: Plain | None = None,
) -> Ours:
    """Measure ours; after each of its steps some of the same in the plain way."""
    spent = {"importance": 0.0, "predictions": 0.0}
    runs = 0

    def remember(key: str, compute: Callable) -> dict[str, np.ndarray]:
        nonlocal runs
        start = time.process_time()
        found = compute()
        spent[key.split("-")[0]] += time.process_time() - start
        runs += 0 if key.startswith("importance") else len(next(iter(found.values())))
        if plain is not None:
            plain.measure(key)
        return found

    matrix = lesion_matrix(model, tasks, settings, precision=precision, remember=remember)
    return Ours(matrix, spent["importance"], spent["predictions"], runs)


def shared_inputs(
    model: MultiTaskModel, tasks: Sequence[Task], layout: HeadLayout, lesions: Sequence[HeadSet]
) -> float:
    """How many times longer ours takes task by task than for all tasks in one run."""
    single, both = 0.0, 0.0
    for _ in range(2):
        single += seconds_of(lambda: [evaluate(model, [t], lesions, layout=layout) for t in tasks])
        both += seconds_of(lambda: evaluate(model, tasks, lesions, layout=layout))
    return single / both


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
    plain = Plain(model, tasks, arguments.fraction, arguments.measured)
    ours = our_study(model, tasks, settings, "fp32", plain)
    _report(plain, settings, ours)
    _print_powers(tasks, layout, settings, ours.matrix, arguments.studies)
    if resolve_precision("auto", model.device) == "bf16":
        faster = our_study(model, tasks, settings, "bf16")
        print(f"bf16 takes {faster.total:.1f} s: {ours.total / faster.total:.2f} times less")
    else:
        print("bf16 is not native on this machine, and was not measured.")


def _report(plain: Plain, settings: IapSettings, ours: Ours) -> None:
    tasks, layout, n = plain.tasks, plain.layout, len(plain.tasks)
    lesions = [lesion.heads for lesion in ours.matrix.reference.lesions[1:5]]
    shared = shared_inputs(plain.model, tasks, layout, lesions)
    passes = 1 + n * (1 + settings.controls)
    fewer, each = passes / ours.runs, float(np.median(plain.lesions))
    importance, cost = float(np.sum(plain.importance)), passes * each
    exchanges = len(ours.matrix.control_scores())
    spread = f"{min(plain.lesions):.2f} to {max(plain.lesions):.2f} s"
    print(
        f"{layout.total} heads, {n} tasks on the same {len(tasks[0].validation)} validation "
        f"examples, importance from {len(tasks[0].train)}, lesions of {plain.size} heads, "
        f"{settings.controls} exchanges at most, {torch.get_num_threads()} threads\n"
        f"{'':14}{'importance':>12}{'lesions':>10}{'total':>10}\n"
        f"{'plain fp32':14}{importance:11.1f}s{cost:9.1f}s{importance + cost:9.1f}s  "
        f"(from {len(plain.lesions)} of {passes} lesions, {spread} each, and 1 in {plain.share:g} "
        f"examples of importance)\n"
        f"{'ours fp32':14}{ours.importance:11.1f}s{ours.lesions:9.1f}s{ours.total:9.1f}s  "
        f"{(importance + cost) / ours.total:.2f}x\n"
        f"What makes the lesions {cost / ours.lesions:.2f} times cheaper:\n"
        f"  {fewer:5.2f}x  stopped after {exchanges} exchanges: {ours.runs} lesions, not {passes}\n"
        f"  {shared:5.2f}x  one run for the inputs that tasks share\n"
        f"  {cost / ours.lesions / fewer / shared:5.2f}x  sorted batches, and layers that lesions "
        f"share{_sampled(settings)}\n"
        f"Importance is {importance / ours.importance:.2f} times cheaper."
    )


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
