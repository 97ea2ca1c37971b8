"""What newer versions add to made-up results, and the tables beside them.

`extend` adds similarity, agreement, growth and controls to `fake_results`; `write_tables` writes
`predictions.parquet` and `texts.parquet` as a run does.
"""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Results = dict[str, Any]
MEASURES = ("importance", "overlap", "gradient", "cka")


def extend(results: Results, seed: int = 0) -> Results:
    """The results with every newer part; the numbers are made up but belong together."""
    rng = np.random.default_rng([seed, 1])
    results["similarity"] = _similarity(results, rng) if len(results["tasks"]) > 1 else None
    results["agreement"] = [_agreement(entry, rng) for entry in results["importance"]]
    results["growth"] = _growth(results, rng) if len(results["tasks"]) > 1 else None
    sizes = {task["name"]: 500 for task in results["tasks"]}
    results["controls"] = {
        "most": 100,
        "stopped": True,
        "look": 39,
        "sample": sizes,
        "base": {task["name"]: task["base"] for task in results["tasks"]},
    }
    for entry in results["fractions"]:
        for found in (entry["dissociation"] or {}).values():
            _controls(found, rng)
        for pair in entry["pairs"]:
            pair["effect_intervals"] = [[e - 0.011, e + 0.012] for e in pair["effects"]]
            pair["relative_effects"] = [120 * effect for effect in pair["effects"]]
    return results


def _controls(found: Results, rng: np.random.Generator) -> None:
    values = np.array(found["values"])
    found["compared"] = (values + rng.normal(0, 0.7, len(values))).round(6).tolist()
    found["compared_mean"] = round(found["mean"] + float(rng.normal(0, 0.5)), 6)


def _similarity(results: Results, rng: np.random.Generator) -> Results:
    n = len(results["tasks"])
    scores = np.array(results["fractions"][-1]["scores"])
    base = np.array([task["base"] for task in results["tasks"]])
    lost = 100 * (scores - np.diag(scores)) / base
    apart = (lost + lost.T) / 2
    pairs: list[list[float | None]] = apart.round(4).tolist()
    for k in range(n):
        pairs[k][k] = None
    measures = []
    for name in MEASURES:
        values = np.eye(n)
        for i, j in itertools.combinations(range(n), 2):
            values[i, j] = values[j, i] = 0.9 - 0.03 * apart[i, j] + rng.normal(0, 0.05)
        few = f"{n} tasks make {n * (n - 1) // 2} pairs, too few for a correlation."
        trend = {
            "correlation": -0.62,
            "interval": [-0.81, -0.33],
            "p": 0.008,
            "p_holm": 0.032,
            "note": None,
        }
        if n < 4:
            trend = dict.fromkeys(trend) | {"interval": [None, None], "note": few}
        measures.append(
            {
                "name": name,
                "values": values.round(4).tolist(),
                "corrected": name == "importance",
                "n_examples": 1000 if name in MEASURES[2:] else None,
                "trend": trend,
            }
        )
    fraction = results["fractions"][-1]["fraction"]
    return {"fraction": fraction, "pair_d_scores": pairs, "measures": measures}


def _agreement(entry: Results, rng: np.random.Generator) -> Results:
    values = [
        [None if v is None else float(f"{2 * v + rng.normal(0, 0.003):.4g}") for v in row]
        for row in entry["values"]
    ]
    spearman = round(float(rng.uniform(0.6, 0.9)), 4)
    estimates = [("token", "none"), ("token", "layer"), ("sequence", "none"), ("sequence", "layer")]
    return {
        "task": entry["task"],
        "n_examples": 500,
        "spearman": spearman,
        "reliability": 0.71,
        "estimates": [
            {"aggregate": a, "normalize": n, "spearman": round(spearman - 0.05 * place, 4)}
            for place, (a, n) in enumerate(estimates)
        ],
        "overlap": [{"fraction": p, "value": round(0.5 + p, 3)} for p in (0.1, 0.2, 0.3)],
        "values": values,
    }


def _growth(results: Results, rng: np.random.Generator) -> Results:
    entry, n = results["fractions"][-1], len(results["tasks"])
    base = [task["base"] for task in results["tasks"]]
    points = []
    for step in (0, 100, 200, 300):
        share = 0.25 + 0.75 * step / 300
        found = {}
        for name, last in entry["dissociation"].items():
            mean = share * last["mean"]
            found[name] = {
                "values": [share * value for value in last["values"]],
                "interval": [[share * v - 2, share * v + 2] for v in last["values"]],
                "mean": mean,
                "mean_interval": [mean - 1.5, mean + 1.5],
                "shared_mean": mean,
                "shared_interval": [mean - 1.5, mean + 1.5],
                "note": None,
            }
        points.append(
            {
                "step": step,
                "classifiers": "trained" if step else "probe",
                "base": [value * (0.8 + 0.2 * step / 300) for value in base],
                "scores": entry["scores"],
                "dissociation": found,
                "importance": [
                    {"task": entry["task"], "values": entry["values"]}
                    for entry in results["importance"]
                ],
                "stability": [1.0 if step == 300 else 0.5 + step / 700] * n,
            }
        )
    change = {}
    for name in entry["dissociation"]:
        first, last = (points[k]["dissociation"][name] for k in (0, -1))
        change[name] = {
            "values": [b - a for a, b in zip(first["values"], last["values"], strict=True)],
            "interval": [[0.5, 9.5]] * n,
            "mean": last["mean"] - first["mean"],
            "mean_interval": [last["mean"] - first["mean"] - 2, last["mean"] - first["mean"] + 2],
        }
    return {"fraction": entry["fraction"], "points": points, "change": change}


def write_tables(
    folder: Path,
    results: Results,
    predictions: dict[str, np.ndarray],
    labels: dict[str, np.ndarray],
    texts: dict[str, list[list[str]]] | None = None,
    controls: int = 0,
    row_group_size: int = 1000,
) -> None:
    """`predictions` of each task: [1 + lesions, examples], the base first, at the last fraction.

    So many random lesions, and the lesions of a smaller fraction, have predictions that all differ
    from the label, so that a reader that mixes them up is found out.
    """
    fraction = results["fractions"][-1]["fraction"]
    rows = []
    for task, values in predictions.items():
        kinds = [("none", None, None), *(("task", name, fraction) for name in predictions)]
        found = list(zip(kinds, values, strict=True))
        wrong = labels[task] + 1.0
        found += [(("task", name, fraction / 2), wrong) for name in predictions]
        found += [(("random", task, fraction), wrong)] * controls
        for (kind, lesioned, at), answers in found:
            n = len(answers)
            rows.append(
                pa.table(
                    {
                        "kind": pa.array([kind] * n, pa.string()).dictionary_encode(),
                        "lesioned_task": pa.array([lesioned] * n, pa.string()).dictionary_encode(),
                        "fraction": pa.array([at] * n, pa.float64()).dictionary_encode(),
                        "task": pa.array([task] * n, pa.string()).dictionary_encode(),
                        "example": pa.array(np.arange(n), pa.int32()),
                        "label": pa.array(labels[task], pa.float64()),
                        "prediction": pa.array(answers, pa.float64()),
                    }
                )
            )
    table = pa.concat_tables(rows).unify_dictionaries()
    pq.write_table(table, folder / "predictions.parquet", row_group_size=row_group_size)
    if texts is None:
        return
    kept = [(task, k, list(text)) for task, own in texts.items() for k, text in enumerate(own)]
    columns = [pa.array(list(column)) for column in zip(*kept, strict=True)]
    schema = pa.schema(
        [("task", pa.string()), ("example", pa.int32()), ("texts", pa.list_(pa.string()))]
    )
    arrays = [column.cast(field.type) for column, field in zip(columns, schema, strict=True)]
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), folder / "texts.parquet")


def fake_folder(folder: Path, results: Results, *, seed: int = 0, examples: int = 203) -> Path:
    """A run's folder with made-up predictions: each task loses most under its own lesion."""
    rng = np.random.default_rng(seed)
    names = [task["name"] for task in results["tasks"]]
    labels = {name: rng.integers(0, 2, examples).astype(float) for name in names}
    predictions, texts = {}, {}
    for k, name in enumerate(names):
        answers = np.where(rng.random(examples) < 0.85, labels[name], 1 - labels[name])
        flips = (
            rng.random((len(names), examples))
            < np.where(np.arange(len(names)) == k, 0.3, 0.05)[:, None]
        )
        predictions[name] = np.vstack([answers, np.where(flips, 1 - answers, answers)])
        texts[name] = [
            [f"{name} {n}: a film that some people like.", "And a second text."]
            for n in range(examples)
        ]
    write_tables(folder, results, predictions, labels, texts, controls=2)
    return folder
