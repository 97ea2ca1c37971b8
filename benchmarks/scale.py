"""What many workers make of a study of lesions: their speed, and what handing out work costs.

    python -m benchmarks.scale            # simulated: workers that sleep as long as a model runs
    python -m benchmarks.scale --real     # two workers against one, on the demo's model

Simulated, everything is real but the model: processes, sockets, the groups of lesions, their files
and the run's folder. Efficiency is the time that the sleeps take, divided by the workers, by the
time from the first group to the last.
"""

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lobes.progress import Progress
from lobes.workers import Place, WorkerSettings, started

# What a group of 32 lesions gives: so many tasks, each with so many validation examples.
GROUP, TASKS, EXAMPLES = 32, 4, 1000
SCOPE = "simulated"


class SleepingWork:
    """What a simulated worker does: it sleeps, and returns what a group of lesions gives."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds  # of a whole group
        generator = np.random.default_rng(0)
        names = [f"task {number}" for number in range(TASKS)]
        self.found = {name: generator.normal(size=(GROUP, EXAMPLES)) for name in names}

    def __call__(self, what: Place, progress: Progress) -> Any:
        lesions = what.last - what.first
        time.sleep(self.seconds * lesions / GROUP)
        return SCOPE, {name: values[:lesions] for name, values in self.found.items()}


def simulated(workers: int, lesions: int, seconds: float) -> tuple[float, float]:
    """How long the study takes at best with so many workers, and how long it took."""
    from lobes.experiments.spread import carry_out_on
    from lobes.experiments.store import RunFolder
    from lobes.measure.steps import Plan, Step

    def joined(parts: Sequence[Any]) -> Any:
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def plan() -> Plan[int]:
        found = yield [
            Step(
                "evaluation",
                f"predictions-{first:05d}",
                "lesions",
                lambda progress: {},  # workers compute it
                size=min(GROUP, lesions - first),
                part=lambda first, last, progress: {},
                joined=joined,
            )
            for first in range(0, lesions, GROUP)
        ]
        return sum(len(each["task 0"]) for each in found)

    with tempfile.TemporaryDirectory() as where:
        settings = WorkerSettings(workers)
        folder = RunFolder(Path(where, "run"), {})
        with (
            folder,
            started(settings, "benchmarks.scale:SleepingWork", Path(where, "logs")) as pool,
        ):
            folder.begin({})
            pool.begin(seconds)
            pool.warm_up()
            start = time.perf_counter()
            assert carry_out_on(pool, [plan()], folder.measurements(SCOPE, pool=pool)) == [lesions]
            took = time.perf_counter() - start
    return seconds * lesions / GROUP / workers, took


@contextlib.contextmanager
def demo_run() -> Iterator[Any]:
    """The demo's study on a model with classifiers as they begin: enough to measure speed."""
    from lobes.config.study import override
    from lobes.experiments.demo import demo_study, fetch
    from lobes.experiments.loading import load_tasks, new_model

    with tempfile.TemporaryDirectory() as where:
        study = override(
            demo_study(fetch(log=None), Path(where, "run")),
            "precision=fp32",
            "iap.stop=false",
            "iap.controls=30",  # with the tasks' own and none: two groups of lesions
            "iap.importance_examples=100",
            *(f"tasks.{task}.validation_size=320" for task in ("sentiment", "domain")),
            "iap.agreement_examples=0",
            "iap.similarity_examples=0",
        )
        tasks = load_tasks(study)
        new_model(study, tasks).save_pretrained(Path(where, "model"))
        training = study.training.model_copy(update={"enabled": False})
        model = str(Path(where, "model"))
        yield study.model_copy(update={"model": model, "training": training})


def real(repetitions: int) -> None:
    """Print how long lesions take two workers, one with a thread, and one with two."""
    import os

    from lobes.config.study import StudyConfig
    from lobes.experiments.run import run_study

    def seconds(study: StudyConfig, workers: int, cores: int, output: str) -> float:
        os.environ["OMP_NUM_THREADS"] = str(cores)
        times: dict[str, list[float]] = {}

        def progress(stage: str, done: int, total: int) -> None:
            times.setdefault(stage, []).append(time.perf_counter())

        study = study.model_copy(update={"output": output})
        run_study(study, workers=WorkerSettings(workers), progress=progress)
        return times["lesions"][-1] - times["lesions"][0]

    ways = {"1 worker, 1 thread": (1, 1), "1 worker, 2 threads": (1, 2), "2 workers": (2, 2)}
    found: dict[str, list[float]] = {name: [] for name in ways}
    with demo_run() as study:
        for number in range(repetitions):
            for name, (workers, cores) in ways.items():
                output = f"{study.output}-{number}-{workers}-{cores}"
                found[name].append(seconds(study, workers, cores, output))
                print(f"{name:20} {found[name][-1]:7.1f} s", flush=True)
    best = statistics.median(found["2 workers"])
    for name in list(ways)[:2]:
        print(f"2 workers by {name}: {statistics.median(found[name]) / best:.2f} times as fast")


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 16, 64])
    parser.add_argument("--lesions", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a group of 32 lesions")
    arguments = parser.parse_args()
    if arguments.real:
        real(arguments.repetitions)
        return
    for workers in arguments.workers:
        lesions = min(arguments.lesions, 160 * workers)
        best, took = simulated(workers, lesions, arguments.seconds)
        print(
            f"{workers:3} workers, {lesions:6} lesions: at best {best:6.2f} s, took {took:6.2f} s, "
            f"efficiency {best / took:.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
