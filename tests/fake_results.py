"""Made-up results of a study, of any size, with known content: what the report is tested with.

The D-scores are computed from the made-up matrices by their definitions
(docs/method.md#d-scores), so that the numbers of a report belong together.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from fake_extended import extend
from lobes.dissociation.dscores import standardized
from lobes.dissociation.over_fractions import joined, most
from lobes.dissociation.pairs import (
    PairEffects,
    doubly_dissociated,
    effects_of_two,
    p_of_pairs,
    pairs_of,
)
from lobes.dissociation.statistics import p_against_controls, p_over_fractions
from lobes.dissociation.verdict import Evidence, specialized, undecided
from lobes.experiments.results import further_verdicts
from lobes.files import plain
from lobes.results.beside_lesions import Growth, Similarity
from lobes.results.run import MeasuredTask

HOSTILE = (
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "a&b<c\u202e\x1b[31m",
)

_DEMO = ("sentiment", "domain", "domain-pair", "entailment", "paraphrase", "acceptability")
_CHANCE = (0.52, 0.44, 0.5, 0.35, 0.63, 0.0)
_BASE = (0.846, 0.912, 0.781, 0.803, 0.867, 0.552)


def fake_results(
    *,
    tasks: int | tuple[str, ...] = 3,
    sites: tuple[int, ...] = (12,) * 6,
    fractions: tuple[float, ...] = (0.1, 0.2, 0.3),
    controls: int = 10,
    effect: float = 0.3,
    bases: tuple[float, ...] | None = None,
    site_names: tuple[str, ...] | None = None,
    training: bool = True,
    iat: bool = False,
    extended: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Results in the schema of `results.json`.

    `sites` are the numbers of heads. `effect` is the share of its score above chance that a task
    loses by its own lesion at the largest fraction, beyond what any lesion costs: 0 plants no
    dissociation. With `iat` the training had an IAT phase, which trained every task's 30 % of heads
    that some map of importance ranks first. With `extended` they hold what newer versions add:
    similarity, agreement, growth, controls on a sample (`extend` in `fake_extended.py`).
    """
    rng = np.random.default_rng(seed)
    names = tasks if isinstance(tasks, tuple) else tuple(_name(k) for k in range(tasks))
    chance = np.array([_CHANCE[k % len(_CHANCE)] for k in range(len(names))])
    base = np.array(bases or [_BASE[k % len(_BASE)] for k in range(len(names))])
    importance = [_importance(rng, sites) for _ in names]
    widths = range(max(sites))
    results = {
        "schema": "lobes-results",
        "version": 3,
        "name": "demo",
        "created": "2026-03-01T12:34:56+00:00",
        "lobes": "0.1.0",
        "model": {
            "name": "all-MiniLM-L6-v2",
            "pooling": "mean",
            "n_parameters": 22713216,
            "sites": [
                {
                    "index": s,
                    "name": site_names[s] if site_names else f"encoder.layer.{s}.attention.self",
                    "n_heads": n,
                    "head_dim": 32,
                    "kind": "self",
                }
                for s, n in enumerate(sites)
            ],
        },
        "tasks": [
            {
                "name": name,
                "metric": "matthews" if c == 0 else "accuracy",
                "labels": ["no", "yes"] if c else None,
                "n_train": 10000,
                "n_validation": 2003,
                "chance": float(c),
                "base": float(b),
                "base_interval": [float(b) - 0.016, float(b) + 0.017],
            }
            for name, c, b in zip(names, chance, base, strict=True)
        ],
        "controls": {
            "most": controls,
            "stopped": False,
            "look": None,
            "sample": None,
            "base": None,
        },
        "agreement": None,
        "similarity": None,
        "growth": None,
        "level": 0.95,
        "resamples": 1000,
        "training": _training(rng, names, base, sites, iat) if training else None,
        "importance": [
            {
                "task": name,
                "method": "taylor",
                "aggregate": "token",
                "normalize": "none",
                "n_examples": 2000,
                "n_available": 4000,
                "reliability": 0.93,
                "n_tokens": 51234,
                "seconds": 12.5,
                "values": [
                    [float(f"{row[h]:.6g}") if h < len(row) else None for h in widths]
                    for row in values
                ],
            }
            for name, values in zip(names, importance, strict=True)
        ],
        "fractions": [
            _fraction(rng, p, p / max(fractions), names, importance, base, chance, controls, effect)
            for p in fractions
        ],
        "iap": {
            "fractions": list(fractions),
            "controls": controls,
            "matched": "site",
            "order": "descending",
            "exact": False,
            "keep_per_site": 0,
            "importance_split": "train",
            "lesion": "remove",
            "value": "zero",
            "resamples": 1000,
            "level": 0.95,
            "seed": 0,
        },
        "environment": {
            "python": "3.11.9",
            "torch": "2.13.0",
            "transformers": "5.23.0",
            "numpy": "2.2.0",
            "platform": "Linux-x86_64",
            "cpu": "a processor with AMX",
            "threads": 2,
            "precision": "bf16",
        },
        "times": {"training": 151.0, "importance": 31.5, "evaluation": 66.0, "total": 248.5},
        "config": {
            "name": "demo",
            "model": {"name": "all-MiniLM-L6-v2", "pooling": "auto"},
            "train": {"steps": 300, "learning_rate": 2e-05, "sampling": "proportional"},
            "tasks": [{"name": name, "text": ["sentence"]} for name in names],
        },
    }
    return renewed(extend(results, seed) if extended else results)


def renewed(results: dict[str, Any]) -> dict[str, Any]:
    """The results with the verdicts that their numbers give."""
    entries = results["fractions"]
    tasks = [MeasuredTask(**task) for task in results["tasks"]]
    above = {task.name for task in tasks if task.standing(task.base) == "above"}
    for entry in entries:
        for pair in entry["pairs"]:
            pair["double_dissociation"] &= {pair["first"], pair["second"]} <= above
    over = None
    if len(tasks) < 2:
        verdict = undecided("a dissociation needs at least two tasks, here is one.")
    elif not entries or not all(entry["dissociation"] for entry in entries):
        verdict = undecided("no lesions of every task were measured.")
    else:
        columns = [entry["dissociation"]["column"] for entry in entries]
        over = over_fractions_of(
            [entry["fraction"] for entry in entries],
            [column["compared_mean"] for column in columns],
            [column["mean_standardized"] for column in columns],
            [column["control_means"] for column in columns],
        )
        evidence = [
            Evidence(
                *map(defined, (column["mean"], *column["mean_interval"], column["mean_p"])),
                controls=entry["n_controls"],
                tasks=len(tasks),
                above_chance=len(above),
                exchangeable=entry["exchangeable"],
            )
            for entry, column in zip(entries, columns, strict=True)
        ]
        standing = [*map(defined, over["standardized"])]
        verdict = specialized(joined(evidence, standing, defined(over["p"])))
    growth, similarity = results["growth"], results["similarity"]
    further = further_verdicts(
        Growth.model_validate(growth) if growth else None,
        Similarity.model_validate(similarity) if similarity else None,
        [task.name in above for task in tasks],
    )
    verdicts = [plain(dataclasses.asdict(v)) for v in (verdict, *further)]
    return {**results, "over_fractions": over, "verdicts": verdicts}


def defined(number: float | None) -> float:
    """NaN for null."""
    return math.nan if number is None else number


def over_fractions_of(fractions, compared, standing, controls) -> dict[str, Any]:
    """The test over all fractions, from their D-scores and those of the exchanges."""
    replicates = np.array(controls, dtype=float).reshape(len(fractions), -1).T
    return {
        "standardized": standing,
        "p": plain(p_over_fractions(np.array([*map(defined, compared)]), replicates)),
        "strongest": fractions[most([*map(defined, standing)])],
    }


def _name(index: int) -> str:
    return _DEMO[index] if index < len(_DEMO) else f"{_DEMO[index % len(_DEMO)]}-{index}"


def _importance(rng: np.random.Generator, sites: tuple[int, ...]) -> list[np.ndarray]:
    return [
        rng.gamma(1.3, 0.004, size=n) * (0.6 + 0.8 * s / len(sites)) for s, n in enumerate(sites)
    ]


def _top(values: list[np.ndarray], number: int) -> str:
    heads = sorted((-v, s, h) for s, row in enumerate(values) for h, v in enumerate(row))
    by_site: dict[int, list[int]] = {}
    for _, site, head in heads[:number]:
        by_site.setdefault(site, []).append(head)
    return " ".join(f"{s}:{','.join(map(str, sorted(by_site[s])))}" for s in sorted(by_site))


def _fraction(rng, p, weight, names, importance, base, chance, controls, effect) -> dict[str, Any]:
    n = len(names)
    above = base - chance
    damage = weight * (0.06 + 0.02 * rng.random((n, n)) + effect * np.eye(n))
    scores = base - np.abs(above) * damage
    noise = weight * (0.05 + 0.03 * rng.random((controls, n, n)))
    control_scores = base - np.abs(above) * noise
    random_scores = control_scores[: controls // 2] - 0.01
    number = int(p * sum(len(row) for row in importance[0]) + 1e-9)
    return {
        "fraction": p,
        "n_heads": number,
        "lesions": {k: _top(v, number) for k, v in zip(names, importance, strict=True)},
        "n_controls": controls,
        "n_pair_controls": controls if n > 1 else 0,
        "exchangeable": number if n > 1 else 0,
        "n_random": len(random_scores),
        "matched": "site",
        "scores": scores.round(6).tolist(),
        "score_intervals": np.stack([scores - 0.019, scores + 0.018], axis=-1).round(6).tolist(),
        "control_scores": control_scores.round(6).tolist(),
        "random_scores": random_scores.round(6).tolist(),
        "dissociation": _dissociation(scores, control_scores, random_scores, base)
        if n > 1
        else None,
        "pairs": _pairs(names, scores, control_scores),
    }


def d_scores(matrix: np.ndarray, base: np.ndarray) -> dict[str, np.ndarray]:
    """The three definitions, [tasks] each, in percent."""
    n = len(base)
    own = np.diag(matrix)
    share = matrix / base
    return {
        "row": 100 * ((matrix.sum(1) - own) / (n - 1) - own) / base,
        "column": 100 * ((matrix.sum(0) - own) / (n - 1) - own) / base,
        "relative": 100 * ((share.sum(1) - np.diag(share)) / (n - 1) - np.diag(share)),
    }


def _dissociation(scores, control_scores, random_scores, base) -> dict[str, Any]:
    observed = d_scores(scores, base)
    result = {}
    for name, values in observed.items():
        control, random = (
            np.array([d_scores(matrix, base)[name] for matrix in each]).reshape(-1, len(base))
            for each in (control_scores, random_scores)
        )
        randoms, observed_mean = random.mean(1), values.mean(keepdims=True)
        means = control.mean(1)
        p = (1 + (control >= values).sum(0)) / (1 + len(control)) if len(control) else None
        mean_p = (1 + (means >= values.mean()).sum()) / (1 + len(control)) if len(control) else None
        result[name] = {
            "values": values.round(6).tolist(),
            "mean": round(float(values.mean()), 6),
            "interval": [[round(v - 2.1, 6), round(v + 2.3, 6)] for v in values.tolist()],
            "mean_interval": [float(values.mean() - 1.3), float(values.mean() + 1.4)],
            "control_values": control.round(6).tolist(),
            "control_means": means.round(6).tolist(),
            "p_values": [None] * len(base) if p is None else p.tolist(),
            "mean_p": None if mean_p is None else float(mean_p),
            "standardized": plain(standardized(values, control)),
            "mean_standardized": plain(standardized(values.mean(keepdims=True), means[:, None])[0]),
            "compared": values.round(6).tolist(),
            "compared_mean": float(values.mean()),
            "random_values": random.round(6).tolist(),
            "random_means": randoms.round(6).tolist(),
            "random_p": plain(p_against_controls(observed_mean, randoms[:, None])[0]),
            "random_standardized": plain(standardized(observed_mean, randoms[:, None])[0]),
            "note": None,
        }
    return result


def _pairs(names, scores, control_scores) -> list[dict[str, Any]]:
    pairs = []
    exchanged = [
        PairEffects(
            *(effects_of_two(each[..., [[i], [j]], [i, j]]) for each in (scores, control_scores))
        )
        for i, j in pairs_of(names)
    ]
    against, against_holm = p_of_pairs(exchanged)
    for i in range(len(names)):
        for j in range(i + 1, len(names)):
            effects = [
                round(float(scores[j, i] - scores[i, i]), 6),
                round(float(scores[i, j] - scores[j, j]), 6),
            ]
            p_values = [0.0004 if effect > 0.01 else 0.31 for effect in effects]
            own = exchanged[len(pairs)]
            p_holm = min(1.0, max(p_values) * len(names))
            p, p_controls_holm = (float(each[len(pairs)]) for each in (against, against_holm))
            pairs.append(
                {
                    "first": names[i],
                    "second": names[j],
                    "effects": effects,
                    "effect_intervals": [[None, None]] * 2,
                    "relative_effects": [None, None],
                    "p_values": p_values,
                    "p_holm": p_holm,
                    "p_controls": None if math.isnan(p) else p,
                    "p_controls_holm": None if math.isnan(p) else p_controls_holm,
                    "compared_effects": own.observed.round(6).tolist(),
                    "control_effects": own.replicates.round(6).tolist(),
                    "double_dissociation": doubly_dissociated(
                        effects, p_holm, p_controls_holm, (True, True)
                    ),
                }
            )
    return pairs


def _training(rng, names, base, sites, iat) -> dict[str, Any]:
    losses = [
        {
            "step": step,
            "task": names[step % len(names)],
            "loss": float(0.25 + 0.6 * np.exp(-step / 90) + 0.05 * rng.random()),
        }
        for step in range(1, 301)
    ]
    scores = [
        {
            "step": step,
            "scores": {
                name: float(b * (1 - 0.4 * np.exp(-step / 80)))
                for name, b in zip(names, base, strict=True)
            },
        }
        for step in range(50, 301, 50)
    ]
    return {
        "steps": 300,
        "seconds": 151.0,
        "seed": 0,
        "precision": "bf16",
        "sampling": "proportional",
        "iat": _iat(names, sites) if iat else None,
        "losses": losses,
        "scores": scores,
    }


def _iat(names, sites) -> dict[str, Any]:
    """What one training keeps beside that: when heads were chosen, and by which importance."""
    rng, widths = np.random.default_rng(2), range(max(sites))
    chosen = {
        name: [
            [float(f"{row[h]:.6g}") if h < len(row) else None for h in widths]
            for row in _importance(rng, sites)
        ]
        for name in names
    }
    return {**iat_record(names, sites), "chosen_at": [270], "importance": chosen}


def iat_record(names, sites, *, seed: int = 1) -> dict[str, Any]:
    """What a training with an IAT phase records; each task's 30 % of heads, seeded."""
    rng = np.random.default_rng(seed)
    number = int(0.3 * sum(sites) + 1e-9)
    return {
        "switch_step": 270,
        "steps": 30,
        "seconds": 4.5,
        "settings": {
            "alpha": 0.3,
            "delta": 0.1,
            "share": True,
            "train_other": True,
            "strict": True,
            "refresh": None,
            "importance_examples": 10000,
            "method": "taylor",
            "aggregate": "token",
            "normalize": "none",
            "seed": 0,
        },
        "n_heads": sum(sites),
        "heads": {name: _top(_importance(rng, sites), number) for name in names},
    }
