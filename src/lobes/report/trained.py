"""The heads that IAT trained: which are whose, which are shared, how much the choice varies.

IAT (docs/method.md#iat) lets a batch of a task change the query, key and value projections of that
task's most important heads only, for the last part of the training.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lobes.heads import Head, HeadSet
from lobes.report import formatting as fmt
from lobes.report.parts import CountCell, CountMap, Fact, SiteLabel, Trained

Record = dict[str, Any]

_TINTS = 10


def site_labels(sites: Sequence[Mapping[str, Any]]) -> tuple[SiteLabel, ...]:
    """The sites' numbers with what tells their paths apart."""
    shorts = fmt.site_labels([site["name"] for site in sites])
    return tuple(
        SiteLabel(index, "" if short == str(index) else short, site["name"])
        for index, (site, short) in enumerate(zip(sites, shorts, strict=True))
    )


def settings_of(record: Record) -> Record:
    """Every setting of IAT, for the page's list of settings; empty for an empty record."""
    return dict(record.get("settings") or {})


def by_tasks(
    record: Record,
    sites: Sequence[Mapping[str, Any]],
    tasks: Sequence[str],
    lesions: Mapping[str, HeadSet],
    size: str,
) -> Trained:
    """Of one training: each task's heads, and a map of how many tasks trained each head.

    `lesions` are the heads found most important to each task after the training, `size` the
    fraction of all heads that they are; both empty where nothing was lesioned.
    """
    heads = {task: HeadSet.parse(record["heads"][task]) for task in tasks}
    who = _owners(heads)
    header = ["Heads", "Its alone", "Shared"]
    if lesions:
        header.append(f"Among its top {size} afterwards")
    rows = []
    for task, chosen in heads.items():
        alone = sum(len(who[head]) == 1 for head in chosen)
        row = [task, str(len(chosen)), str(alone), str(len(chosen) - alone)]
        if lesions:
            row.append(f"{len(chosen & lesions[task])} of {len(chosen)}")
        rows.append(tuple(row))
    return _trained(
        facts=_facts(record, fmt.duration(fmt.number(record.get("seconds")))),
        sentence=_sentence(who, int(record["n_heads"]), len(tasks)),
        header=header,
        rows=rows,
        lists=[(task, str(chosen) or "none") for task, chosen in heads.items()],
        sites=sites,
        maps=[_count_map("How many tasks train each head", sites, who, len(tasks))],
    )


def by_seeds(
    record: Record,
    sites: Sequence[Mapping[str, Any]],
    tasks: Sequence[str],
    seeds: Sequence[int],
) -> Trained:
    """Of several trainings: a map for each task of how many seeds trained each head."""
    runs = [{task: HeadSet.parse(run[task]) for task in tasks} for run in record["heads"]]
    shared = [_shared(run) for run in runs]
    rows, maps = [], []
    for task in tasks:
        who = _owners({f"seed {s}": run[task] for s, run in zip(seeds, runs, strict=True)})
        always = sum(len(owners) == len(runs) for owners in who.values())
        counts = sorted({len(run[task]) for run in runs})
        with_others = [len(run[task] & common) for run, common in zip(runs, shared, strict=True)]
        rows.append((task, _span(counts), str(always), str(len(who)), _span(sorted(with_others))))
        maps.append(_count_map(task, sites, who, len(runs)))
    seconds = [fmt.number(value) for value in record.get("seconds") or ()]
    mean = sum(seconds) / len(seconds) if seconds else float("nan")
    return _trained(
        facts=_facts(record, fmt.duration(mean)),
        sentence=_steadiness(runs, tasks),
        header=["Heads in a seed", "In every seed", "In any seed", "Shared with other tasks"],
        rows=rows,
        lists=[
            (f"{task}, seed {seed}", str(run[task]) or "none")
            for task in tasks
            for seed, run in zip(seeds, runs, strict=True)
        ],
        sites=sites,
        maps=maps,
    )


def _trained(
    *,
    facts: Sequence[Fact],
    sentence: str,
    header: Sequence[str],
    rows: Sequence[tuple[str, ...]],
    lists: Sequence[tuple[str, str]],
    sites: Sequence[Mapping[str, Any]],
    maps: Sequence[CountMap],
) -> Trained:
    labels = site_labels(sites)
    return Trained(
        facts=tuple(facts),
        sentence=sentence,
        header=tuple(header),
        rows=tuple(rows),
        lists=tuple(lists),
        columns=max(site["n_heads"] for site in sites),
        label_width=max(len(label.short) for label in labels),
        sites=labels,
        maps=tuple(maps),
    )


def _owners(sets: Mapping[str, HeadSet]) -> dict[Head, list[str]]:
    """{head: the names of the sets that hold it}, for every head in any of them."""
    owners: dict[Head, list[str]] = {}
    for name, heads in sets.items():
        for head in heads:
            owners.setdefault(head, []).append(name)
    return owners


def _shared(sets: Mapping[str, HeadSet]) -> HeadSet:
    return HeadSet(head for head, owners in _owners(sets).items() if len(owners) > 1)


def _count_map(
    title: str, sites: Sequence[Mapping[str, Any]], who: Mapping[Head, Sequence[str]], most: int
) -> CountMap:
    """How many of `most` sets hold each head, and which."""
    width = max(site["n_heads"] for site in sites)

    def cell(site: int, head: int) -> CountCell | None:
        if head >= sites[site]["n_heads"]:
            return None
        owners = who.get((site, head), ())
        return CountCell(
            text=str(len(owners)),
            tint=round(_TINTS * len(owners) / most),
            who=fmt.listing(owners) or "none",
        )

    return CountMap(
        title, tuple(tuple(cell(s, h) for h in range(width)) for s in range(len(sites)))
    )


def _sentence(who: Mapping[Head, Sequence[str]], n_heads: int, n_tasks: int) -> str:
    several = sum(len(owners) > 1 for owners in who.values())
    rest = n_heads - len(who)
    text = f"{len(who)} of {n_heads} heads are trained by at least one task"
    if n_tasks > 1:
        text += f", {several or 'none'} of them by more than one"
    if not rest:
        return text + "."
    return (
        f"{text}; the query, key and value projections of the other {rest} stay as ordinary "
        f"training left them."
    )


def _steadiness(runs: Sequence[Mapping[str, HeadSet]], tasks: Sequence[str]) -> str:
    """How far two seeds choose the same heads for a task, beside how far two tasks of a seed do."""
    if len(runs) < 2:
        return ""
    across = [
        _overlap(first[task], second[task])
        for task in tasks
        for k, first in enumerate(runs)
        for second in runs[k + 1 :]
    ]
    text = (
        f"Two seeds share {_mean_percent(across)} of the heads that they train for a task "
        f"(Jaccard overlap, mean)"
    )
    within = [
        _overlap(run[task], run[other])
        for run in runs
        for k, task in enumerate(tasks)
        for other in tasks[k + 1 :]
    ]
    if not within:
        return text + "."
    return f"{text}; two tasks of a seed share {_mean_percent(within)}."


def _mean_percent(shares: Sequence[float]) -> str:
    return fmt.percent(round(sum(shares) / len(shares), 2))


def _overlap(first: HeadSet, second: HeadSet) -> float:
    return len(first & second) / (len(first | second) or 1)


def _span(counts: Sequence[int]) -> str:
    """`21`, `4 to 9`, of ascending counts."""
    return str(counts[0]) if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"


def _facts(record: Record, seconds: str) -> tuple[Fact, ...]:
    settings = settings_of(record)
    facts = [
        Fact("IAT begins after step", fmt.thousands(record.get("switch_step"))),
        Fact("Steps of IAT", fmt.thousands(record.get("steps"))),
    ]
    if "alpha" in settings:
        share = fmt.percent(fmt.number(settings["alpha"]))
        facts.append(Fact("Heads chosen for a task", f"{share} of {record['n_heads']}"))
    if "share" in settings:
        how = "trained by each of them" if settings["share"] else "trained by none"
        facts.append(Fact("Heads chosen for several tasks", how))
    if "train_other" in settings:
        how = "trained as before" if settings["train_other"] else "frozen, but for the classifiers"
        facts.append(Fact("All other parameters", how))
    return (*facts, Fact("Time to estimate importance", seconds))
