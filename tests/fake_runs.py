"""Made-up runs of one study with known content, for the tests of their page.

Matrices and D-scores are those of made-up single runs (`fake_results`), the estimates over the runs
are computed from them as in a real study.
"""

import dataclasses
from typing import Any

import numpy as np

from fake_results import defined, fake_results, over_fractions_of
from lobes import files
from lobes.dissociation.dscores import standardized
from lobes.dissociation.over_fractions import joined
from lobes.dissociation.over_runs import RunsEstimate, change_over_runs, estimate_over_runs
from lobes.dissociation.pairs import PairEffects, doubly_dissociated, p_of_pairs
from lobes.dissociation.statistics import holm, p_against_controls
from lobes.dissociation.verdict import (
    Evidence,
    Trend,
    Verdict,
    less_alike,
    more_specialized,
    specialized,
)
from lobes.results.base import TaskRecord

DEFINITIONS = ("column", "row", "relative")


def fake_runs(
    *,
    runs: int = 3,
    tasks: int | tuple[str, ...] = 3,
    names: tuple[str, ...] = (),
    models: tuple[str, ...] = ("all-MiniLM-L6-v2",),
    fractions: tuple[float, ...] = (0.1, 0.3),
    controls: int = 23,
    effect: float = 0.3,
    noise: float = 0.05,
    bases: tuple[float, ...] | None = None,
    beside: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    """Several runs in the schema `lobes-runs`.

    `effect` is as in `fake_results`, and differs from run to run by `noise`; resampled examples
    move the D-scores by half a percent. `beside` adds growth and similarity.
    """
    rng = np.random.default_rng(seed)
    single = [
        fake_results(
            tasks=tasks,
            fractions=fractions,
            controls=controls,
            effect=effect + noise * float(rng.normal()),
            bases=bases,
            training=False,
            seed=seed + k,
        )
        for k in range(runs)
    ]
    first = single[0]
    content = {
        "schema": "lobes-runs",
        "version": 3,
        "name": "demo",
        "created": first["created"],
        "lobes": first["lobes"],
        "level": 0.95,
        "lesioning": {"lesion": "remove", "value": "zero"},
        "resamples": 1000,
        "runs": [
            {
                "name": names[k] if names else f"run{k}",
                "model": models[k % len(models)],
                "seed": k,
                "steps": 1300,
                "created": first["created"],
                "lobes": first["lobes"],
            }
            for k in range(runs)
        ],
        "tasks": [
            {key: task[key] for key in ("name", "metric", "labels", "n_validation", "chance")}
            | {"multi_label": False}
            for task in first["tasks"]
        ],
        "base": [[task["base"] for task in each["tasks"]] for each in single],
        "base_intervals": [[task["base_interval"] for task in each["tasks"]] for each in single],
        "fractions": [
            _fraction(rng, [each["fractions"][k] for each in single], first["tasks"])
            for k in range(len(fractions))
        ],
    }
    more = {"growth": fake_growth(content), "similarity": fake_similarity(content, seed)}
    return renewed(content | (more if beside else dict.fromkeys(more)))


def fake_growth(content: dict[str, Any], rise: float = 4.0) -> dict[str, Any]:
    """D-scores before and after, as `pooled_results` takes them together.

    Examples move them by 1 %. After the training they are those of the runs, at the largest
    fraction.
    """
    largest = content["fractions"][-1]
    after = np.array(largest["dissociation"]["column"]["means"], dtype=float)
    changes = rise + np.arange(len(after)) % 3
    return {
        "fraction": largest["fraction"],
        "before": plain_all(after - changes),
        "after": plain_all(after),
        "intervals": np.column_stack([changes - 1.96, changes + 1.96]).tolist(),
        "change": plain_estimate(change_over_runs(changes, np.ones(len(after)))),
    }


def fake_similarity(content: dict[str, Any], seed: int) -> dict[str, Any]:
    """Two measures, the second undefined, with made-up trends."""
    rng, runs, n = np.random.default_rng(seed), len(content["runs"]), len(content["tasks"])
    tables = rng.random((2, n, n))
    apart, alike = ((tables + tables.swapaxes(1, 2)) / 2).tolist()
    correlations = rng.uniform(-0.8, 0.2, size=runs)
    mean = float(correlations.mean())
    span = [max(mean - 0.4, -1), mean + 0.4] if runs > 1 else [None, None]
    trend = {"correlation": mean, "interval": span, "p": 0.04, "p_holm": 0.04, "note": None}
    gone = {**dict.fromkeys(trend), "interval": [None, None], "note": "All pairs of tasks have …"}
    measures = (("gradient", correlations, trend), ("overlap", np.full(runs, np.nan), gone))
    return {
        "fraction": content["fractions"][-1]["fraction"],
        "pair_d_scores": apart,
        "measures": [
            {
                "name": name,
                "values": alike,
                "corrected": False,
                "correlations": plain_all(own),
                "trend": each,
            }
            for name, own, each in measures
        ],
    }


def plain_all(values: np.ndarray) -> list[float | None]:
    return [plain(value) for value in values]


def renewed(content: dict[str, Any]) -> dict[str, Any]:
    """The runs with the verdict that their numbers give."""
    entries = content["fractions"]
    scores = [entry["dissociation"]["column"] for entry in entries]
    tasks = [TaskRecord(**task) for task in content["tasks"]]
    means = np.array(content["base"]).mean(axis=0)
    rows = zip(tasks, means, strict=True)
    above = {task.name for task, mean in rows if task.standing(mean) == "above"}
    for entry in entries:
        for pair in entry["pairs"]:
            pair["double_dissociation"] &= {pair["first"], pair["second"]} <= above
    over = over_fractions_of(
        [entry["fraction"] for entry in entries],
        [score["mean"]["mean"] for score in scores],
        [score["standardized"] for score in scores],
        [score["control_means"] for score in scores],
    )
    evidence = [
        Evidence(
            *(defined(score["mean"][name]) for name in ("mean", "low", "high")),
            defined(score["p_controls"]),
            controls=entry["n_controls"],
            tasks=len(tasks),
            above_chance=len(above),
            exchangeable=entry["exchangeable"],
            runs=len(content["runs"]),
        )
        for entry, score in zip(entries, scores, strict=True)
    ]
    standing = [*map(defined, over["standardized"])]
    verdict = specialized(joined(evidence, standing, defined(over["p"])))
    verdicts = [files.plain(dataclasses.asdict(verdict))]
    further = []
    if content["growth"]:
        further.append(_on_growth(content["growth"], len(above)))
    if content["similarity"]:
        similarity = content["similarity"]
        further.append(_on_similarity(similarity, len(tasks), len(content["runs"])))
    verdicts += [files.plain(dataclasses.asdict(each)) for each in further]
    return {**content, "over_fractions": over, "verdicts": verdicts}


def _on_similarity(similarity: dict[str, Any], tasks: int, runs: int) -> Verdict:
    trends = [
        Trend(each["name"], *map(defined, numbers), each["trend"]["note"] or "")
        for each in similarity["measures"]
        for found in [each["trend"]]
        for numbers in [(found["correlation"], *found["interval"], found["p_holm"])]
    ]
    return less_alike(trends, tasks, runs=runs)


def _on_growth(growth: dict[str, Any], above: int) -> Verdict:
    change = (defined(growth["change"][name]) for name in ("mean", "low", "high"))
    after = float(np.mean([*map(defined, growth["after"])]))
    return more_specialized(*change, after=after, above_chance=above, runs=len(growth["after"]))


def _fraction(rng, entries, tasks) -> dict[str, Any]:
    scores = np.array([entry["scores"] for entry in entries])
    return {
        "fraction": entries[0]["fraction"],
        "n_controls": entries[0]["n_controls"],
        "n_pair_controls": entries[0]["n_pair_controls"],
        "n_random": entries[0]["n_random"],
        "exchangeable": entries[0]["exchangeable"],
        "scores": scores.tolist(),
        "dissociation": {name: _d_score(rng, entries, name) for name in DEFINITIONS},
        "pairs": _pairs(rng, entries, [task["name"] for task in tasks]),
    }


def _d_score(rng, entries, name) -> dict[str, Any]:
    parts = [entry["dissociation"][name] for entry in entries]
    values = np.array([part["values"] for part in parts])
    means = values.mean(axis=1)
    controls = np.array([part["control_means"] for part in parts]).mean(axis=0)
    random = np.array([part["random_means"] for part in parts]).mean(axis=0)
    mean = np.array([means.mean()])
    return {
        "values": values.tolist(),
        "means": means.tolist(),
        "tasks": [estimate(rng, column) for column in values.T],
        "mean": estimate(rng, means),
        "control_means": controls.tolist(),
        "standardized": plain(standardized(mean, controls[:, None])[0]),
        "p_controls": plain(p_against_controls(mean, controls[:, None])[0]),
        "random_means": random.tolist(),
        "random_p": plain(p_against_controls(mean, random[:, None])[0]),
    }


def _pairs(rng, entries, names) -> list[dict[str, Any]]:
    scores = np.array([entry["scores"] for entry in entries])
    of_pairs = [
        PairEffects(
            np.mean([pair["compared_effects"] for pair in each], axis=0),
            np.mean([np.reshape(pair["control_effects"], (-1, 2)) for pair in each], axis=0),
        )
        for each in zip(*(entry["pairs"] for entry in entries), strict=True)
    ]
    against, against_holm = p_of_pairs(of_pairs)
    places = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names))]
    effects = [
        [
            estimate(rng, scores[:, j, i] - scores[:, i, i], 0.005),
            estimate(rng, scores[:, i, j] - scores[:, j, j], 0.005),
        ]
        for i, j in places
    ]
    larger = [np.nan if None in (a["p"], b["p"]) else max(a["p"], b["p"]) for a, b in effects]
    return [
        {
            "first": names[i],
            "second": names[j],
            "effects": both,
            "p_holm": plain(p),
            "p_controls": plain(p_controls),
            "p_controls_holm": plain(p_both),
            "double_dissociation": doubly_dissociated(
                [e["mean"] for e in both], p, p_both, (True, True)
            ),
        }
        for (i, j), both, p, p_controls, p_both in zip(
            places, effects, holm(np.array(larger)), against, against_holm, strict=True
        )
    ]


def estimate(rng, values, moved: float = 0.5) -> dict[str, Any]:
    """The estimate over runs of these values, as `runs_results` writes it."""
    drawn = values[:, None] + moved * rng.normal(size=200)
    return plain_estimate(estimate_over_runs(np.asarray(values), drawn, 0.95))


def plain_estimate(found: RunsEstimate) -> dict[str, Any]:
    keys = ("mean", "low", "high", "p", "over_runs", "over_examples")
    return {key: plain(getattr(found, key)) for key in keys}


def plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def fake_sweep(
    *, tasks: int | tuple[str, ...] = 2, axis: str = "iat.alpha", why: str = "It failed."
) -> dict[str, Any]:
    """A sweep over two seeds and three values of another axis, of which the last one fails."""
    values: tuple[Any, ...] = (0.2, {"phase": "late"}, "")
    if axis == "model":
        values = ("org/one", "two", "")
    runs, seeds = [], []
    for k, value in enumerate(values):
        for seed in (0, 1):
            own = fake_results(tasks=tasks, seed=2 * k + seed, controls=23)
            fails = value == ""
            run = {
                "name": f"seed={seed},alpha={k}",
                "values": {"seed": seed, axis: value},
                "error": why if fails else None,
                "base": {} if fails else {task["name"]: task["base"] for task in own["tasks"]},
                "level": None if fails else 0.95,
                "verdicts": [] if fails else own["verdicts"],
            }
            runs.append(run)
        first, *further = fake_runs(tasks=tasks)["verdicts"]
        pooled = {
            "name": f"alpha={k},seeds",
            "values": {axis: value},
            "runs": [] if value == "" else [run["name"] for run in runs[-2:]],
            "error": why if value == "" else None,
            "verdict": None if value == "" else first,
            "further": [] if value == "" else further,
        }
        seeds.append(pooled)
    return {
        "schema": "lobes-sweep",
        "version": 3,
        "name": "demo",
        "created": own["created"],
        "lobes": own["lobes"],
        "verdicts": [],
        "command": "run",
        "axes": {"seed": [0, 1], axis: [*values]},
        "runs": runs,
        "seeds": seeds,
    }
