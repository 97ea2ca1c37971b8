"""The tables that commands print on stdout, one function for each kind of record."""

import itertools
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lobes.clean import clean
from lobes.heads import HeadLayout
from lobes.report.console import shown
from lobes.report.formatting import fixed, listing, plural
from lobes.report.pages import page_of
from lobes.results.base import Results
from lobes.results.training import Training
from lobes.sites import Site

if TYPE_CHECKING:
    from lobes.experiments.demo_heads import Removal


def show_results(results: Results) -> None:
    """Print the tables and findings of any kind of results."""
    console = new_console()
    for table in shown(page_of(results)):
        console.print(table, "")


def show_training(training: Training) -> None:
    """Print every task's score at the end of a training."""
    last = training.scores[-1].scores if training.scores else {}
    table = new_table("task", "score")
    for task, score in last.items():
        table.add_row(plain_text(task), f"{score:.3f}" if score == score else "–")
    new_console().print(f"Trained for {training.steps} steps in {training.seconds:.0f} s", table)


def show_planned(runs: list[dict[str, Any]]) -> None:
    """Print the runs of a sweep, and which of them are finished."""
    table = new_table("run", "state")
    for run in runs:
        table.add_row(plain_text(run["run"]), run["state"])
    done = sum(run["state"] == "finished" for run in runs)
    new_console().print(f"{len(runs)} runs, {done} of them finished", table)


def show_removal(found: "Removal") -> None:
    """Print the heads that a task alone needs, and what becomes of the tasks without them."""
    console = new_console()
    heads = new_table("head", *(f"importance to {task}, %" for task in found.shares))
    for k, (site, head) in enumerate(found.heads):
        heads.add_row(f"{site}:{head}", *(fixed(shares[k], 0) for shares in found.shares.values()))
    console.print(
        f"The {len(found.heads)} heads most specific to {plain_text(found.task)} (layer:head)",
        heads,
    )
    for task, (lost, won, number) in found.flips.items():
        console.print(
            f"Without them, of {number} answers to {plain_text(task)} {lost} turn from right to "
            f"wrong and {won} from wrong to right."
        )
    sentences = new_table("right answer", "its probability", "without the heads", "sentence")
    for text, label, before, after in found.sentences:
        sentences.add_row(plain_text(label), f"{before:.2f}", f"{after:.2f}", plain_text(text))
    console.print(f"The {len(found.sentences)} sentences that lose most", sentences)


def show_heads(layout: HeadLayout, name: str) -> None:
    """Print where a model's heads are and what can be done with them.

    Sites that differ in nothing but the numbers in their modules' names are told of together.
    """
    alike: dict[tuple[str, ...], list[int]] = {}
    for site in layout.sites:
        alike.setdefault(_described(site, layout), []).append(site.index)
    table = new_table("sites", "heads")
    for lines, indices in alike.items():
        table.add_row(_spans(indices), plain_text("\n".join(lines)))
    gateable, prunable = (
        sum(site.n_heads for site in layout.sites if can(site))
        for can in (lambda site: site.gateable, lambda site: site.prunable)
    )
    new_console().print(
        f"{plain_text(name)}: {layout.total} heads in {len(layout.sites)} sites",
        table,
        f"Of {layout.total} heads all can be ablated, {gateable} trained alone and {prunable} "
        f"pruned.",
        sep="\n",
    )


def show_evaluation(record: dict[str, Any]) -> None:
    """Print the harness's scores of a model ± their standard errors, beside those of its base."""
    lesion = f"heads {record['ablated']} ablated" if record["ablated"] else record["model"]
    names = [*(["base"] if record["base"] else []), lesion if record["base"] else "score"]
    table = new_table("task", "metric", "documents", *map(plain_text, names))
    for row in record["scores"]:
        pairs = [("base", "base_error")] if record["base"] else []
        pairs.append(("score", "error"))
        values = (_with_error(row[value], row[error]) for value, error in pairs)
        table.add_row(plain_text(row["task"]), row["metric"], f"{row['documents'] or 0:,}", *values)
    new_console().print(table)


def _with_error(value: float | None, error: float | None) -> str:
    """A score and its standard error; the score alone where there is none."""
    if value is None:
        return "–"
    return f"{value:.4f}" if error is None or error != error else f"{value:.4f} ± {error:.4f}"


def show_tasks(tasks: Sequence[dict[str, Any]]) -> None:
    """Print the known tasks."""
    table = new_table("task", "classes", "text", "metric", "hub")
    for task in tasks:
        classes = str(len(task["labels"])) if task["labels"] else "a score"
        hub = " ".join(filter(None, (task["hub"], task["config"]))) or "local files only"
        cells = (", ".join(task["text"]), ", ".join(task["metrics"]), hub)
        table.add_row(task["name"], classes, *map(plain_text, cells))
    new_console().print(table)


def show_models(models: Sequence[dict[str, Any]]) -> None:
    """Print the packaged models."""
    table = new_table("model", "architecture", "sites × heads", "parameters", "license", "fetched")
    for model in models:
        size = f"{model['sites']} × {model['heads']}", f"{model['parameters'] / 1e6:.0f} million"
        known = model["license"], "yes" if model["folder"] else "no"
        table.add_row(model["model"], model["architecture"], *size, *known)
    new_console().print(table)


def show_task(task: dict[str, Any]) -> None:
    """Print one task: what it is, its sizes, and a few examples."""
    labels = ", ".join(task["labels"]) if task["labels"] else "a score"
    if task["multi_label"]:
        labels += " (any number of them)"
    table = new_table("split", "examples", "labels", "tokens")
    missing = []
    for size in task["sizes"]:
        if "missing" in size:
            missing.append(size["missing"])
            table.add_row(plain_text(size["split"]), "–", "–", "–")
            continue
        counts = (
            f"{name} {count:,}" if isinstance(count, int) else f"{name} {count:.3g}"
            for name, count in (size["labels"] or {}).items()
        )
        table.add_row(
            plain_text(size["split"]),
            f"{size['examples']:,}",
            plain_text(", ".join(counts) or "–"),
            _lengths(size.get("tokens"), size["examples"]),
        )
    console = new_console()
    columns = task["text"] or [task["image"]]
    console.print(plain_text(f"{task['name']}: {', '.join(columns)} → {labels}"), table)
    for sentence in missing:
        console.print(plain_text(sentence))
    for example in task["examples"]:
        label = example["label"]
        if isinstance(label, list):
            label = ", ".join(label) or "no label"
        shown = f"{label:.3g}" if isinstance(label, float) else label
        shown_input = example.get("image") or " | ".join(example["text"])
        console.print(plain_text(f"{shown}: {shown_input}"))


def _lengths(tokens: dict[str, Any] | None, examples: int) -> str:
    """How long texts are in tokens; "–" where no tokenizer was at hand."""
    if not tokens:
        return "–"
    found = (
        f"median {tokens['median']}, 95 % up to {tokens['percentile_95']}, "
        f"longest {tokens['longest']}"
    )
    if tokens["cut"]:
        found += f", {tokens['cut']:.1%} cut"
    return found + (f" (of {tokens['measured']:,})" if tokens["measured"] < examples else "")


def show_predictions(record: dict[str, Any]) -> None:
    """Print what was predicted, how well where that is known, and the files."""
    table = new_table("task", "split", "examples", "metric", "score", "file")
    for entry in record["predictions"]:
        score = "hidden" if entry["score"] is None else fixed(entry["score"])
        cells = (entry["task"], entry["split"], f"{entry['examples']:,}", entry["metric"])
        table.add_row(*map(plain_text, cells), score, plain_text(entry["file"]))
    new_console().print(table)


def show_pairs(record: dict[str, Any]) -> None:
    """Print the corpus of an AG-Pair and its pairs."""
    table = new_table("topic", "articles")
    for topic, articles in record["topics"].items():
        table.add_row(plain_text(topic), f"{articles:,}")
    new_console().print(
        table,
        f"{record['pairs']:,} pairs: {record['same']:,} same, {record['different']:,} different.",
    )


def show_pruning(record: dict[str, Any]) -> None:
    """Print what a pruning removed, and the model's size and speed before and after."""
    table = new_table("", "before", "after", "ratio")
    for name, key in (("heads", "n_heads"), ("parameters", "n_parameters")):
        before, after = record[key]
        table.add_row(name, f"{before:,}", f"{after:,}", fixed(after / before))
    speed = record["speed"]
    low, high = (fixed(ratio, 2) for ratio in speed["ratio_quartiles"])
    table.add_row("milliseconds", *(fixed(1000 * s, 1) for s in speed["seconds"]))
    dropped = record["dropped_by_site"].items()
    sites = ", ".join(f"{number} at site {site}" for site, number in dropped)
    shapes = ", ".join(f"{name} {shape}" for name, shape in speed["inputs"].items())
    number = sum(record["dropped_by_site"].values())
    new_console().print(
        f"{plain_text(record['model'])} without {plural(number, 'head')}: {sites}",
        table,
        f"{fixed(speed['ratio'], 2)} times as fast (median of {speed['rounds']} rounds with a pass "
        f"of each model, half of them between {low} and {high}).",
        f"Timed in fp32 on the CPU, threads: {speed['threads']}, inputs: {plain_text(shapes)}; the "
        f"milliseconds are the shortest.",
        f"The outputs differ from those under ablation by at most "
        f"{record['largest_difference']:.1e}.",
        sep="\n",
    )


def _described(site: Site, layout: HeadLayout) -> tuple[str, ...]:
    """A site in a few lines, with * for the numbers in names."""
    groups = f" in {len(site.groups)} groups" if site.attention == "grouped-query" else ""
    kind = "heads of unknown kind" if site.attention == "unknown" else site.attention
    whole = "" if site.batch_axis is not None else " (the same in all examples of a batch)"
    can, cannot = [f"ablated{whole}"], dict[str, list[str]]()
    for verb, possible, reason in (
        ("trained alone", site.gateable, site.gate_reason),
        ("pruned", site.prunable, site.reason),
    ):
        if possible:
            can.append(verb)
        else:
            cannot.setdefault(reason, []).append(verb)
    lines = [
        site.name,
        f"{site.kind}-attention, {kind}: {site.n_heads} heads of size {site.head_dim}{groups}",
        f"can be {listing(can)}",
        *(f"cannot be {' or '.join(verbs)}: {reason}" for reason, verbs in cannot.items()),
    ]
    if site.beside_attention:
        lines.append(f"ablating also takes away what is beside attention: {site.beside_attention}")
    if layout.sharing(site.index):
        lines.append("has parameters that other sites have too")
    return tuple(re.sub(r"(?<=\.)\d+(?=\.)", "*", line) for line in lines)


def _spans(indices: list[int]) -> str:
    """Numbers in ascending order, where they are many as "0–11" or "12, 14, …, 34"."""
    steps = {after - before for before, after in itertools.pairwise(indices)}
    if len(indices) > 2 and steps == {1}:
        return f"{indices[0]}–{indices[-1]}"
    if len(indices) > 4 and len(steps) == 1:
        return f"{indices[0]}, {indices[1]}, …, {indices[-1]}"
    return ", ".join(map(str, indices))


def new_table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for column in columns:
        numbers = column in ("score", "before", "after", "ratio")
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    return table


def plain_text(text: str) -> str:
    """A name from outside, so that rich takes no part of it for markup."""
    return escape(str(clean(text)))


def new_console() -> Console:
    """Standard output; as wide as the content where it is no terminal."""
    return Console(width=None if sys.stdout.isatty() else 140, highlight=False)


def show_new_study(record: dict[str, Any]) -> None:
    """Print the tasks of a new study, and what in the data they were made of."""
    table = new_table("task", "training data", "other splits", "text", "label", "metric", "seen")
    for task in record["tasks"]:
        texts = task.get("text", "")
        cells = (
            *(task["name"], task.get("train", "known task")),
            ", ".join(task[split] for split in ("validation", "test") if split in task),
            ", ".join(texts) if isinstance(texts, list) else texts,
            *(task.get("label", "label" if texts else ""), task.get("measured_by", "")),
            task["why"],
        )
        table.add_row(*map(plain_text, cells))
    console = new_console()
    console.print(table)
    columns = {each["train"]: each["columns"] for each in record["tasks"] if "columns" in each}
    for train, names in columns.items():
        console.print(plain_text(f"Columns of {train}: {', '.join(names)}"))


def show_examined(record: dict[str, Any]) -> None:
    """Print what is installed, what the machine can do, and what is missing."""
    console = new_console()
    versions = {"lobes": record["lobes"], "python": record["python"], **record["libraries"]}
    table = new_table("library", "version")
    for name, version in versions.items():
        table.add_row(name, version or "missing")
    devices = new_table("device", "name", "memory", "precision “auto”", "fp32 product, GFLOP/s")
    for each in record["devices"]:
        memory = f"{each['memory'] / 1e9:.1f} GB" if each["memory"] else "?"
        devices.add_row(
            each["device"],
            plain_text(each["name"]),
            memory,
            each["precision"],
            f"{each['gflops']:,.0f}",
        )
    folders = new_table("folder", "where", "free")
    for name, folder in record["folders"].items():
        where = folder["path"] + ("" if folder["exists"] else " (not there yet)")
        folders.add_row(name, plain_text(where), f"{folder['free'] / 1e9:.0f} GB")
    extras = new_table("extra", "for", "")
    for name, extra in record["extras"].items():
        extras.add_row(
            f"lobes\\[{name}]", extra["for"], "installed" if extra["installed"] else "missing"
        )
    console.print(table, devices, folders, extras, sep="\n")
    console.print(
        *(plain_text(each) for each in record["missing"] or ["Nothing is missing."]), sep="\n"
    )


def show_unfinished(record: dict[str, Any]) -> None:
    """Print how far a run is, and what it has measured by now."""
    console, stages = new_console(), new_table("stage", "state")
    for stage in record["stages"]:
        stages.add_row(stage["stage"], stage["state"])
    console.print(stages)
    if record["scores"]:
        scores = new_table("task", "score after the training")
        for task, score in record["scores"].items():
            scores.add_row(plain_text(task), f"{score:.3f}")
        console.print(scores)
    if record["importance"]:
        heads = new_table("task", "most important heads")
        for task, names in record["importance"].items():
            heads.add_row(plain_text(task), names)
        console.print(heads)
