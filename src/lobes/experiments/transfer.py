"""Measure whether training on several tasks helps a new one (docs/method.md#transfer).

For each seed a model is trained on the study's tasks, with and without IAT, exactly as `lobes
compare` does it. Then the encoder of each, and the pre-trained one, gets a new classifier and is
fine-tuned on the new task: for as many steps on every share of its training data, the smaller
shares being parts of the larger, and the same for every start. The last weights are scored on the
new task's validation data; nothing is selected.

Each fine-tuning is one step, computed once and kept. The two trained models of a seed lie in
the run's folder until all of the seed's fine-tunings are done.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from lobes.config.settings import TransferConfig
from lobes.config.study import StudyConfig
from lobes.errors import ConfigError
from lobes.experiments.loading import (
    Loaded,
    check_inputs,
    load_tasks,
    measuring_device,
    with_adapters,
)
from lobes.experiments.methods import SeedRun, free, freeing, with_defaults
from lobes.experiments.over_seeds import (
    PAIR,
    SeedStudy,
    concatenated,
    described_task,
    described_tasks,
    joined,
    part_of,
    seed_study,
    training_arrays,
)
from lobes.experiments.seed_statistics import transfer_summary, transfer_verdicts
from lobes.experiments.store import RunFolder
from lobes.experiments.study_workers import begin, pool_of
from lobes.measure.steps import Arrays, Plan, Step
from lobes.modeling import MultiTaskModel
from lobes.progress import Progress, StageProgress
from lobes.results import TransferResults
from lobes.results.over_seeds import Selected, before_iat
from lobes.tasks.subsets import growing_order, subset_sizes
from lobes.tasks.task import Task
from lobes.workers import WorkerSettings

STARTS = ("pretrained", *PAIR)


def transfer_study(
    study: StudyConfig,
    *,
    fresh: bool = False,
    progress: StageProgress | None = None,
    tell: Callable[[Loaded], None] | None = None,
    workers: WorkerSettings | None = None,
) -> TransferResults:
    """Transfer to the study's new task, over its seeds, in the folder `study.output`.

    Returns the results; `transfer.html` shows them. As `compare_study` otherwise.
    """
    study = ready_to_transfer(study)
    with (
        RunFolder(study.output, study.to_dict(), command="transfer", fresh=fresh) as folder,
        pool_of(workers, folder) as pool,
    ):
        precision = begin(pool, study, folder, measuring_device())
        checkpoints = folder.path / "checkpoints"
        over_seeds, transfers = _seeds(study, folder, checkpoints, precision, progress)
        transfers[0].check()
        for each in transfers[1:]:
            each.subsets()  # which may be of one class only, by another seed
        over_seeds.tell(tell, folder, progress)
        plans = [each.plan() for each in transfers]
        return over_seeds.finish(folder, plans, partial(_results, transfers[0]), progress, pool)


def transfer_plans(
    study: StudyConfig, folder: RunFolder, checkpoints: Path
) -> tuple[str, list[Plan[dict[str, Arrays]]]]:
    """Return the scope and the plans of a transfer study as a worker makes them."""
    over_seeds, transfers = _seeds(study, folder, checkpoints, study.precision)
    return over_seeds.scope, [each.plan() for each in transfers]


def _seeds(
    study: StudyConfig,
    folder: RunFolder,
    checkpoints: Path,
    precision: str,
    progress: StageProgress | None = None,
) -> "tuple[SeedStudy, list[_Transfer]]":
    assert study.transfer is not None
    (new,) = load_tasks(study.model_copy(update={"tasks": (study.transfer.task,)}), progress)
    over_seeds = seed_study(
        study,
        load_tasks(study, progress),
        checkpoints,
        seeds=study.transfer.seeds,
        methods=PAIR[1:],
        precision=precision,
        new=(new,),
    )
    rest = folder, new, study.transfer, over_seeds.scope
    return over_seeds, [_Transfer(run, *rest) for run in over_seeds.runs]


def ready_to_transfer(study: StudyConfig) -> StudyConfig:
    """Return the study with all that its transfer needs, where it leaves something out.

    Raises `ConfigError` as `with_defaults`, and for a study without [transfer].
    """
    if study.transfer is None:
        raise ConfigError(
            "The study names no task to transfer to: add a table [transfer.task], written as one "
            "of [[tasks]]."
        )
    given = {
        "batch_size": study.transfer.batch_size or study.training.batch_size,
        "learning_rate": study.transfer.learning_rate or study.training.learning_rate,
    }
    transfer = study.transfer.model_copy(update=given)
    return with_defaults(study.model_copy(update={"transfer": transfer}))


@dataclass(frozen=True)
class _Transfer:
    """One seed's: two trainings, and a fine-tuning from every start on every fraction."""

    run: SeedRun
    folder: RunFolder
    task: Task
    settings: TransferConfig
    scope: str

    def check(self) -> None:
        """Raise what can be known to be wrong with the new task before the first training."""
        model = self.run.new_model((self.task,))
        check_inputs(model, (self.task,))
        self.run.check(model, parts=self.subsets()[:1])

    def subsets(self) -> list[Task]:
        """Return the new task with each fraction of its training data, each within the larger."""
        assert self.task.train is not None
        order = growing_order(self.task, self.run.study.seed)
        return [
            self.task.replace(train=self.task.train.select(np.sort(order[:size])))
            for size in subset_sizes(self.task, self.settings.fractions)
        ]

    def plan(self) -> Plan[dict[str, Arrays]]:
        """Return what is kept of the trainings, by method, and of the fine-tunings, by start.

        The last are under "from START": "scores", "seconds" [fractions].
        """
        seed, subsets = self.run.study.seed, self.subsets()
        # In steps of training; the two trainings share all steps before IAT's.
        sources, steps = 1.1 * self.run.steps, self.settings.steps
        whole = sources + steps * len(STARTS) * len(subsets)
        step = partial(Step, title=f"seed {seed}")
        (kept,) = yield [
            step(
                "training",
                f"sources-seed-{seed}",
                compute=freeing(lambda progress: joined(self.sources(progress))),
                share=(0.0, sources, whole),
            )
        ]
        for method in PAIR:
            self.folder.adopt(self.model_name(method))  # which a worker may have made
        found: dict[str, Arrays] = {method: part_of(kept, method) for method in PAIR}
        ways = list(product(STARTS, zip(self.settings.fractions, subsets, strict=True)))
        tuned = yield [
            step(
                "fine-tuning",
                f"{start}-{fraction:g}-seed-{seed}",
                compute=freeing(partial(self.tuned, start, subset)),
                share=(sources + number * steps, steps, whole),
            )
            for number, (start, (fraction, subset)) in enumerate(ways)
        ]
        for number, start in enumerate(STARTS):
            first = number * len(subsets)
            found[f"from {start}"] = concatenated(tuned[first : first + len(subsets)])
        for method in PAIR:  # the fine-tunings that begin with these models are kept
            self.folder.remove_models(f"{self.model_name(method)}/")
        return found

    def model_name(self, method: str) -> str:
        """Return where a trained model lies in the run's folder."""
        return f"model-{method}-seed-{self.run.study.seed}"

    def sources(self, progress: Progress | None = None) -> dict[str, Arrays]:
        """Return what is kept of both trainings; train the models unless they are there."""
        there = {method: self.folder.model_record(self.model_name(method)) for method in PAIR}
        if all(record and record["scope"] == self.scope for record in there.values()):
            return {
                method: {name: np.array(value) for name, value in record["training"].items()}
                for method, record in there.items()
                if record is not None
            }
        made = {}
        for method, trained in zip(PAIR, self.run.pair(progress), strict=True):
            made[method] = training_arrays(trained)
            record = {"scope": self.scope, "training": made[method]}
            with self.folder.writing_model(record, self.model_name(method)) as unfinished:
                trained.model.save_pretrained(unfinished)
        free()  # before a fine-tuning that needed these models begins
        return made

    def tuned(self, start: str, subset: Task, progress: Progress) -> Arrays:
        """Fine-tune one start on some of the new task's training data, and score it."""
        model = with_adapters(self.run.study, self.new_model(start))
        begin = time.perf_counter()
        trainer = self.run.trainer(
            model,
            (subset,),
            steps=self.settings.steps,
            batch_size=self.settings.batch_size,
            learning_rate=self.settings.learning_rate,
            progress=progress,
        )
        trainer.train()
        seconds = time.perf_counter() - begin
        return {"scores": self.run.scores(model, (subset,)), "seconds": np.array([seconds])}

    def new_model(self, start: str) -> MultiTaskModel:
        """Return the encoder to start from, with a new classifier for the new task."""
        if start == "pretrained":
            return self.run.new_model((self.task,))
        self.sources()
        source = MultiTaskModel.from_pretrained(
            self.folder.path / self.model_name(start),
            trust_remote_code=self.run.study.trust_remote_code,
        )
        return MultiTaskModel(
            source.encoder,
            source.tokenizer,
            (self.task,),
            pooling=source.pooling,
            dropout=self.run.study.training.dropout,
            max_length=None if source.image_processor else source.max_length,
            image_processor=source.image_processor,
            seed=self.run.study.seed,
        ).to(self.run.device)


def _results(
    first: _Transfer, records: Sequence[Mapping[str, Arrays]], common: Mapping[str, Any]
) -> TransferResults:
    """Everything for `transfer.json`."""
    scores = {s: np.array([seed[f"from {s}"]["scores"] for seed in records]) for s in STARTS}
    training = first.run.study.training.model_dump(include={"weight_decay", "warmup", "dropout"})
    summary, task = transfer_summary(scores, common["level"]), described_task(first.task)
    sizes = tuple(subset_sizes(first.task, first.settings.fractions))
    selected: dict[str, Selected | None] = {
        m: tuple(int(seed[m]["steps"][0]) for seed in records) for m in PAIR
    }
    early = before_iat(common["seeds"], selected, common["iat"])
    return TransferResults(
        **common,
        verdicts=transfer_verdicts(task, sizes, summary, len(records), len(early)),
        sources=described_tasks(first.run),
        task=task,
        fractions=first.settings.fractions,
        sizes=sizes,
        starts=STARTS,
        scores=scores,
        seconds={
            start: np.array([seed[f"from {start}"]["seconds"].sum() for seed in records])
            for start in STARTS
        },
        selected=selected,
        held_out={m: np.array([seed[m]["held_out"] for seed in records]) for m in PAIR},
        training={
            **first.settings.model_dump(include={"steps", "batch_size", "learning_rate"}),
            **training,
            "precision": first.run.precision,
        },
        summary=summary,
    )
