"""Made-up comparisons and transfer studies with known content, for the tests of their pages.

`lobes.experiments.seed_statistics` computes statistics and verdicts from the made-up scores, as in
a real study.
"""

import dataclasses
from typing import Any

import numpy as np

from fake_results import fake_results, iat_record
from lobes.experiments import seed_statistics
from lobes.files import plain
from lobes.report.sections import Page
from lobes.report.seeds import comparison, transfer
from lobes.results import ComparisonResults, TransferResults, checked
from lobes.results.base import TaskRecord
from lobes.results.over_seeds import (
    ComparedTask,
    DScores,
    ExchangedDScores,
    SeedsIat,
    before_iat,
)

METHODS = ("single", "multi", "iat", "frozen", "probe")
STARTS = ("pretrained", "multi", "iat")
_HEIGHT = {"single": 0.0, "multi": 0.004, "frozen": -0.13, "probe": -0.09, "pretrained": -0.05}


def fake_comparison(
    *,
    tasks: int | tuple[str, ...] = 3,
    seeds: int = 5,
    methods: tuple[str, ...] = METHODS,
    gain: float = 0.02,
    d_gain: float = 2.0,
    noise: float = 0.006,
    early: int = 0,
    sites: tuple[int, ...] = (12,) * 6,
    fractions: tuple[float, ...] = (0.1, 0.3),
    seed: int = 0,
) -> dict[str, Any]:
    """A comparison in the schema of `comparison.json`.

    IAT is better than ordinary multi-task training by `gain`, and its D-scores higher by `d_gain`
    percent, in each of which seeds differ by `noise` (and 100 · `noise`). In the first `early`
    seeds the checkpoint of IAT is from before its switch, so that both are the same.
    """
    rng = np.random.default_rng(seed)
    study = fake_results(tasks=tasks, sites=sites, training=False)
    names = [task["name"] for task in study["tasks"]]
    base = np.array([task["base"] for task in study["tasks"]])
    shape = seeds, len(names)
    shared = base + noise * rng.normal(size=shape)
    scores = {
        method: shared + _HEIGHT.get(method, 0.0) + noise * rng.normal(size=shape) / 3
        for method in methods
    }
    both = {"multi", "iat"} <= set(methods)
    if "iat" in methods:
        before = scores["multi"] if both else shared
        scores["iat"] = before + gain + noise * rng.normal(size=shape) / 3
        scores["iat"][:early] = before[:early]
    seconds = {method: 60.0 + rng.random(seeds) for method in methods}
    d_scores = _d_scores(rng, shape, fractions, d_gain, 100 * noise, early) if both else []
    content = {
        **_opening("lobes-comparison", study),
        "tasks": [
            {**task, "n_train": 9000, "n_held_out": 1000}
            for task in ({k: v for k, v in t.items() if "base" not in k} for t in study["tasks"])
        ],
        "seeds": list(range(seeds)),
        "methods": list(methods),
        "scores": {method: _lists(values) for method, values in scores.items()},
        "held_out": {method: _lists(values + 0.01) for method, values in scores.items()},
        "selected": {method: _selected(method, shape, early) for method in methods},
        "seconds": {method: _lists(values) for method, values in seconds.items()},
        "iat": _iat(names, sites, seeds) if "iat" in methods else None,
        "lesioning": {"lesion": "remove", "value": "zero"} if both else None,
        "d_scores": [{key: _lists(value) for key, value in each.items()} for each in d_scores],
        "exchanged": _exchanged(d_scores),
        **_closing(study),
    }
    return renewed(content)


def fake_transfer(
    *,
    seeds: int = 5,
    starts: tuple[str, ...] = STARTS,
    sizes: tuple[int, ...] = (2, 17, 170, 1702),
    gain: float = 0.03,
    noise: float = 0.008,
    name: str = "entailment",
    early: int = 0,
    sites: tuple[int, ...] = (12,) * 6,
    seed: int = 0,
) -> dict[str, Any]:
    """A transfer study in the schema of `transfer.json`.

    From IAT the score is higher than from ordinary training by `gain` at every size but the
    smallest, where every start is near chance. In the first `early` seeds the checkpoint of IAT is
    from before its switch, so that both are the same.
    """
    rng = np.random.default_rng(seed)
    study = fake_comparison(sites=sites, methods=("multi", "iat"))
    reached = 0.5 + 0.1 * np.log10(np.array(sizes) / min(sizes))
    scores = {
        start: reached
        + np.where(np.array(sizes) > min(sizes), _HEIGHT.get(start, gain), 0.0)
        + noise * rng.normal(size=(seeds, len(sizes)))
        for start in starts
    }
    if "iat" in starts and "multi" in starts:
        scores["iat"][:early] = scores["multi"][:early]
    content = {
        **_opening("lobes-transfer", study),
        "sources": study["tasks"],
        "task": {
            "name": name,
            "metric": "accuracy",
            "labels": ["no", "yes"],
            "n_train": max(sizes),
            "n_validation": 2003,
            "chance": 0.5,
        },
        "fractions": [float(f"{size / max(sizes):.2g}") for size in sizes],
        "sizes": list(sizes),
        "seeds": list(range(seeds)),
        "starts": list(starts),
        "scores": {start: _lists(values) for start, values in scores.items()},
        "seconds": {start: [12.5] * seeds for start in starts},
        "iat": _iat([t["name"] for t in study["tasks"]], sites, seeds) if "iat" in starts else None,
        "selected": {way: _selected(way, (seeds, 3), early) for way in ("multi", "iat")},
        "held_out": {way: study["held_out"][way] for way in ("multi", "iat")},
        **_closing(study),
    }
    return renewed(content)


def renewed(study: dict[str, Any]) -> dict[str, Any]:
    """The study with the statistics and verdicts of its scores as they are now."""
    scores = {way: np.array(v, dtype=np.float64) for way, v in study["scores"].items()}
    iat = None if study["iat"] is None else SeedsIat(**study["iat"])
    seeds = study["seeds"]
    selected = {way: _tuples(steps) for way, steps in study["selected"].items()}
    early = len(before_iat(seeds, selected, iat))
    if "sizes" in study:
        summary = seed_statistics.transfer_summary(scores, study["level"])
        task, sizes = TaskRecord(**study["task"]), study["sizes"]
        verdicts = seed_statistics.transfer_verdicts(task, sizes, summary, len(seeds), early)
    else:
        d_scores = [DScores(**entry) for entry in study["d_scores"]]
        exchanged = study["exchanged"] and ExchangedDScores(**study["exchanged"])
        seconds = {way: np.array(v, dtype=np.float64) for way, v in study["seconds"].items()}
        summary = seed_statistics.comparison_summary(
            scores, seconds, d_scores, study["level"], exchanged
        )
        tasks = [ComparedTask(**task) for task in study["tasks"]]
        verdicts = seed_statistics.comparison_verdicts(tasks, summary, len(seeds), early)
    stored = [plain(dataclasses.asdict(each)) for each in verdicts]
    return {**study, "summary": summary.to_dict(), "verdicts": stored}


def comparison_page(**case: Any) -> Page:
    """The page of a made-up comparison."""
    return comparison.page_of(checked(fake_comparison(**case), ComparisonResults))


def transfer_page(**case: Any) -> Page:
    """The page of a made-up transfer study."""
    return transfer.page_of(checked(fake_transfer(**case), TransferResults))


def _tuples(steps: Any) -> Any:
    return steps and tuple(tuple(each) if isinstance(each, list) else each for each in steps)


def _opening(schema: str, study: dict[str, Any]) -> dict[str, Any]:
    return {"schema": schema, "version": 3, "verdicts": []} | {
        key: study[key] for key in ("name", "created", "lobes", "model")
    }


def _closing(study: dict[str, Any]) -> dict[str, Any]:
    return {
        "training": {"steps": 300, "batch_size": 32, "sampling": "proportional"},
        "level": 0.95,
        "config": study["config"],
        "environment": study["environment"],
        "times": {"total": 1234.5},
    }


def _exchanged(d_scores) -> dict[str, Any] | None:
    """How far the column D-scores lie above exchanges with a deviation of 2.5 around 0."""
    found = [each for each in d_scores if each["definition"] == "column"]
    if not found:
        return None
    last = max(found, key=lambda each: each["fraction"])
    standing = {way: plain(np.mean(last[way], axis=1) / 2.5) for way in ("multi", "iat")}
    return {"fraction": last["fraction"], "n_controls": 20, **standing}


def _d_scores(rng, shape, fractions, gain, noise, early) -> list[dict[str, Any]]:
    entries = []
    for fraction in fractions:
        for definition in ("column", "row", "relative"):
            multi = 40 * fraction + noise * rng.normal(size=shape)
            iat = multi + gain + noise * rng.normal(size=shape)
            iat[:early] = multi[:early]
            entries.append(
                {"fraction": fraction, "definition": definition, "multi": multi, "iat": iat}
            )
    return entries


def _selected(method, shape, early) -> list[Any] | None:
    seeds, tasks = shape
    if method == "probe":
        return None
    if method == "single":
        return [[100 + 10 * task for task in range(tasks)] for _ in range(seeds)]
    return [250 if method == "iat" and seed < early else 290 for seed in range(seeds)]


def _iat(names, sites, seeds) -> dict[str, Any]:
    records = [iat_record(names, sites, seed=seed) for seed in range(seeds)]
    return {
        **records[0],
        "seconds": [record["seconds"] for record in records],
        "heads": [record["heads"] for record in records],
    }


def _lists(values: Any) -> Any:
    return values.tolist() if isinstance(values, np.ndarray) else values
