"""The heads that IAT trained: which are whose, which are shared, how much the choice varies.

IAT (docs/method.md#iat) lets a batch of a task change the query, key and value projections of that
task's most important heads only, for the last part of the training.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from lobes.heads import Head, HeadSet
from lobes.report import formatting as fmt
from lobes.report.maps import CountMaps, count_map, site_labels
from lobes.report.sections import Details, Fact, Facts, Prose, Section
from lobes.report.tables import Cell, Column, Row, Table
from lobes.results.base import ModelRecord
from lobes.results.over_seeds import OverSeeds
from lobes.results.training import IatRecord


def over_seeds(results: OverSeeds, tasks: Sequence[str]) -> Section | None:
    """The heads of these tasks in every seed; None without IAT."""
    record = results.iat
    if record is None:
        return None
    runs = record.heads
    who = {
        task: owners({f"seed {s}": run[task] for s, run in zip(results.seeds, runs, strict=True)})
        for task in tasks
    }
    site = fmt.site_word([each.name for each in results.model.sites])
    text = (
        f"Up to the switch, IAT is ordinary multi-task training. Then each task’s most important "
        f"heads are chosen, and a batch of a task changes the query, key and value projections of "
        f"that task’s heads only. {_steadiness(record.overlap_of_seeds, record.overlap_of_tasks)}"
        f"In a map, a row is a {site}, a column a head, and the number says in how many seeds the "
        f"head was trained for the task."
    )
    named = {
        f"{task}, seed {seed}": run[task]
        for task in tasks
        for seed, run in zip(results.seeds, runs, strict=True)
    }
    return section(
        text,
        facts(record, float(np.mean(record.seconds)) if record.seconds else math.nan),
        _seeds_table(runs, who),
        maps(results.model, who, len(runs)),
        named,
    )


def section(
    text: str, shown: Facts, table: Table, counts: CountMaps, named: Mapping[str, HeadSet]
) -> Section:
    """The section of every page with IAT; `named` are the sets of heads that it lists by name."""
    heads = tuple(Fact(name, str(chosen) or "none") for name, chosen in named.items())
    return Section(
        "trained",
        "Important attention-head training (IAT)",
        (
            Prose(text),
            shown,
            table,
            counts,
            Details("The heads by name, as site:heads", (Facts(heads, "heads"),)),
        ),
        contents="IAT",
        asks="Which heads did the training change?",
    )


def facts(record: IatRecord, seconds: float) -> Facts:
    """When and how IAT trained; `seconds` is how long the importance took that chose heads."""
    settings = record.settings
    chosen = "trained by each of them" if settings.share else "trained by none"
    others = "trained as before" if settings.train_other else "frozen, but for the classifiers"
    return Facts(
        (
            Fact("IAT begins after step", fmt.thousands(record.switch_step)),
            Fact("Steps of IAT", fmt.thousands(record.steps)),
            Fact("Heads chosen for a task", f"{fmt.percent(settings.alpha)} of {record.n_heads}"),
            Fact("Heads chosen for several tasks", chosen),
            Fact("All other parameters", others),
            Fact("Time to estimate importance", fmt.duration(seconds)),
        )
    )


def in_short(record: IatRecord | None) -> tuple[Fact, ...]:
    """What IAT is, for the facts at the head of a page; nothing without it."""
    if record is None:
        return ()
    steps = fmt.plural(record.steps, "step")
    return (Fact("IAT", f"important attention-head training, last {steps}"),)


def owners(sets: Mapping[str, HeadSet]) -> dict[Head, list[str]]:
    """{head: the names of the sets that hold it}, for every head in any of them."""
    found: dict[Head, list[str]] = {}
    for name, heads in sets.items():
        for head in heads:
            found.setdefault(head, []).append(name)
    return found


def maps(
    model: ModelRecord, titled: Mapping[str, Mapping[Head, Sequence[str]]], most: int
) -> CountMaps:
    """A map for each title: how many of `most` have each head, and who."""
    n_heads = [site.n_heads for site in model.sites]
    return CountMaps(
        site_labels([site.name for site in model.sites]),
        tuple(
            count_map(f"map-trained-{place}", title, n_heads, who, most)
            for place, (title, who) in enumerate(titled.items())
        ),
    )


def _seeds_table(
    runs: Sequence[Mapping[str, HeadSet]], who: Mapping[str, Mapping[Head, Sequence[str]]]
) -> Table:
    shared = [
        HeadSet(head for head, tasks in owners(run).items() if len(tasks) > 1) for run in runs
    ]
    rows = []
    for task, seeds in who.items():
        always = sum(len(names) == len(runs) for names in seeds.values())
        common = [len(run[task] & both) for run, both in zip(runs, shared, strict=True)]
        counts = _span([len(run[task]) for run in runs])
        rows.append(Row((task, counts, always, len(seeds), _span(common))))
    return Table(
        "trained",
        "The heads that each task trained, over the seeds",
        (
            Column("Task"),
            Column("Heads in a seed", "interval", ends="count"),
            Column("In every seed", "count"),
            Column("In any seed", "count"),
            Column("Shared with other tasks", "interval", ends="count"),
        ),
        tuple(rows),
        look="plain",
    )


def _span(counts: Sequence[int]) -> Cell:
    """`21`, `4 to 9`."""
    low, high = min(counts), max(counts)
    return Cell((low, high), text=fmt.thousands(low) if low == high else None)


def _steadiness(of_seeds: float, of_tasks: float) -> str:
    """How far two seeds choose the same heads for a task, beside how far two tasks of a seed do."""
    if math.isnan(of_seeds):
        return ""
    text = (
        f"Two seeds share {_percent(of_seeds)} of the heads that they train for a task (Jaccard "
        f"overlap, mean)"
    )
    beside = "" if math.isnan(of_tasks) else f"; two tasks of a seed share {_percent(of_tasks)}"
    return f"{text}{beside}. "


def _percent(share: float) -> str:
    return fmt.percent(round(share, 2))
