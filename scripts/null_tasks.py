"""Is p uniform where two tasks are one task's two halves? Prints a table.

Nothing can be specialized where the tasks differ in name only. Each study cuts the sentences of
one real task (which of four domains a sentence is from) into random parts, calls each part a task,
trains a small transformer on them from a random start, finds each task's important heads and tests
whether they belong to tasks. By hand, an hour or two: `make null-tasks`. A line for each
study goes to the file that --log names, and what is there already is not computed again.
"""

import argparse
import json
import multiprocessing
import tempfile
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from transformers import AutoTokenizer, BertConfig, BertModel

import lobes
from lobes.experiments.demo import fetch, write_demo_data
from lobes.limits import AGGREGATE
from lobes.measure.settings import IapSettings
from lobes.tasks.sources import TaskSource, load_task
from lobes.training.arguments import training_arguments

STUDIES = {2: 60, 3: 40}  # by number of tasks
LEVELS = (0.05, 0.1, 0.25, 0.5)
FRACTIONS = (0.15, 0.3)
CONTROLS, RANDOM, STEPS, TRAIN, VALIDATION = 39, 19, 60, 700, 120
# So few that two parts' most important heads differ, as those of two tasks do, here by noise alone.
IMPORTANCE = 16


def study(tasks: int, seed: int, aggregate: str, whole: lobes.Task, tokenizer) -> dict[str, object]:
    """The p-values of one study on so many random parts of the task."""
    generator = np.random.default_rng([tasks, seed])
    parts = []
    splits = {"train": (whole.train, TRAIN), "validation": (whole.validation, VALIDATION)}
    places = {
        name: np.array_split(generator.permutation(len(data)), tasks)
        for name, (data, _) in splits.items()
    }
    for number in range(tasks):
        some = {
            name: data.select(np.sort(places[name][number][:most]))
            for name, (data, most) in splits.items()
        }
        parts.append(whole.replace(name=f"part{number}", **some))
    torch.manual_seed(1000 * tasks + seed)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=12,
        intermediate_size=192,
        max_position_embeddings=64,
    )
    model = lobes.MultiTaskModel(BertModel(config), tokenizer, parts, pooling="mean", max_length=24)
    with tempfile.TemporaryDirectory() as folder:
        args = training_arguments(folder, steps=STEPS, batch_size=32, learning_rate=1e-3, seed=seed)
        lobes.MultiTaskTrainer(model, args, tasks=parts).train()
    matrix = lobes.lesion_matrix(
        model.eval(),
        parts,
        fractions=FRACTIONS,
        controls=CONTROLS,
        random=RANDOM,
        importance_examples=IMPORTANCE,
        aggregate=aggregate,
        seed=seed,
    )
    each = {fraction: matrix.dissociation(fraction, resamples=1) for fraction in FRACTIONS}
    largest = each[FRACTIONS[-1]]
    return {
        "tasks": tasks,
        "seed": seed,
        "aggregate": aggregate,
        "base": float(matrix.base.mean()),
        "d": largest.column.mean,
        "exchangeable": largest.exchangeable,
        "over fractions": matrix.over_fractions(resamples=1).p,
        **{f"exchange {f:g}": found.column.mean_p for f, found in each.items()},
        **{f"random {f:g}": found.column.random_p for f, found in each.items()},
    }


def called(arguments: tuple) -> dict[str, object]:
    """The study of these arguments, for a pool of processes."""
    return study(*arguments)


def page(found: list[dict]) -> str:
    """What these studies say, as Markdown."""
    lines = [
        "# Where nothing can be specialized: one task's parts as tasks",
        "",
        "The domain of the demo's sentences (one of four), cut into random parts of at most "
        f"{TRAIN:,} training and {VALIDATION} validation sentences; each part is called a task. "
        "For each study a BERT of 4 sites of 12 heads is trained on the parts from a random start "
        f"({STEPS} steps), its important heads are found on {IMPORTANCE} examples of each part "
        f'(`aggregate = "{found[0]["aggregate"]}"`), '
        f"and {CONTROLS} exchanges and {RANDOM} random lesions are measured at the fractions "
        f"{', '.join(f'{f:g}' for f in FRACTIONS)}. `make null-tasks` counts again.",
        "",
        "p is calibrated where p ≤ x in a share x of the studies. The last column is the p of a "
        "Kolmogorov-Smirnov test that p is uniform.",
        "",
        f"| tasks | studies | test | {' | '.join(f'p ≤ {x:g}' for x in LEVELS)} | uniform |",
        "|---:|---:|---|" + "---:|" * (len(LEVELS) + 1),
    ]
    names = [name for name in found[0] if name.split()[0] in ("over", "exchange", "random")]
    for tasks in sorted({each["tasks"] for each in found}):
        some = [each for each in found if each["tasks"] == tasks]
        for name in names:
            p = np.array([each[name] for each in some])
            shares = " | ".join(f"{np.mean(p <= x + 1e-12):.3f}" for x in LEVELS)
            title = "exchange over fractions" if name == "over fractions" else name
            # p is a multiple of 1 / (1 + R): spread over the step that it ends
            step = 1 / (1 + (RANDOM if name.startswith("random") else CONTROLS))
            spread = p - np.random.default_rng(0).random(len(p)) * step
            uniform = stats.kstest(spread, "uniform").pvalue
            lines.append(f"| {tasks} | {len(p)} | {title} | {shares} | {uniform:.2f} |")
    base = np.mean([each["base"] for each in found])
    heads = np.mean([each["exchangeable"] for each in found])
    lines += [
        "",
        f"The mean accuracy is {base:.2f} (chance 0.25); {heads:.1f} heads can be exchanged on "
        f"average at the fraction {FRACTIONS[-1]:g}.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--log", type=Path, default=Path(".cache/null-tasks.jsonl"))
    parser.add_argument("--aggregate", choices=AGGREGATE.names, default=IapSettings.aggregate)
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--studies", type=int, help="so many with two tasks and with three")
    chosen = parser.parse_args()
    assets = fetch()
    with tempfile.TemporaryDirectory() as folder:
        sizes = {"train_size": 3 * TRAIN, "validation_size": 3 * VALIDATION, "max_words": 16}
        tables = write_demo_data(assets, Path(folder), **sizes)
        whole = next(load_task(TaskSource(**each)) for each in tables if each["name"] == "domain")
    tokenizer = AutoTokenizer.from_pretrained(assets.model)
    lines = chosen.log.read_text("utf-8").splitlines() if chosen.log.exists() else []
    before = [json.loads(line) for line in lines]
    found = [each for each in before if each["aggregate"] == chosen.aggregate]
    done = {(each["tasks"], each["seed"]) for each in found}
    missing = [
        (tasks, seed)
        for tasks, number in STUDIES.items()
        for seed in range(chosen.studies or number)
        if (tasks, seed) not in done
    ]
    arguments = [(*each, chosen.aggregate, whole, tokenizer) for each in missing]
    with multiprocessing.get_context("spawn").Pool(chosen.jobs, torch.set_num_threads, (1,)) as all:
        for result in all.imap_unordered(called, arguments):
            found.append(result)
            with chosen.log.open("a", encoding="utf-8") as log:
                log.write(json.dumps(result) + "\n")
            print(result, flush=True)
    print(page(found))


if __name__ == "__main__":
    main()
