"""What a terminal shows: progress on stderr, tables on stdout, nothing of other libraries."""

import contextlib
import io
import itertools
import logging
import os
import re
import sys
import time
import warnings
from types import TracebackType
from typing import TYPE_CHECKING, Any

from lobes.errors import LobesError
from lobes.report.formatting import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import rich.console
    import rich.progress
    import rich.table

    import lobes.heads

# Seconds between two lines of progress where stderr is no terminal.
EVERY = 30.0

_QUIET_LIBRARIES = {
    "DATASETS_VERBOSITY": "critical",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "critical",
}


class _Lines(logging.Handler):
    """Log records as plain lines on stderr, above a progress bar that is being shown."""

    def emit(self, record: logging.LogRecord) -> None:
        say(f"{record.levelname.capitalize()}: {record.getMessage()}")


def set_up(*, debug: bool) -> None:
    """Keep other libraries' notices off the terminal; `debug` lets them through."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without "−" gets "?", not an error
    logger = logging.getLogger("lobes")
    logger.handlers = [_Lines()]
    logger.propagate = False
    if debug:
        return
    for name, value in _QUIET_LIBRARIES.items():
        os.environ.setdefault(name, value)
    warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())


def say(text: str) -> None:
    """One line on stderr; control characters in it do nothing, and nor does a closed stderr."""
    line = str(clean(text))
    with contextlib.suppress(OSError, ValueError):
        if ProgressDisplay.shown is not None:
            ProgressDisplay.shown.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)


def tell(error: LobesError) -> None:
    """An error's sentence on stderr."""
    say(f"Error: {error}")


class ProgressDisplay:
    """Show how far each stage of a command is: bars on a terminal, plain lines elsewhere.

    Called as `progress(stage, done, total)`; `note` adds how it goes. On a terminal a stage that is
    over within a second leaves no line. Where stderr is no terminal (a pipe, a log), each stage
    writes one line when it begins, and one every `EVERY` seconds with the time left.
    """

    shown: "rich.progress.Progress | None" = None

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.lines = _StageLines() if not quiet and not sys.stderr.isatty() else None
        self._rows: dict[str, Any] = {}
        self._note = ""

    def __enter__(self) -> "ProgressDisplay":
        if self.quiet or self.lines is not None:
            return self
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.text import Text

        class Bars(Progress):
            """The bars, and under them how the present stage goes."""

            def get_renderables(bars) -> "Iterable[rich.console.RenderableType]":  # noqa: N805
                yield from super().get_renderables()
                if self._note:
                    yield Text(self._note, "dim", no_wrap=True, overflow="ellipsis")

        ProgressDisplay.shown = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("[dim]took"),
            TimeElapsedColumn(),
            TextColumn("[dim]left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        ProgressDisplay.shown.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._note = ""
        bars, ProgressDisplay.shown = ProgressDisplay.shown, None
        if bars is not None:
            bars.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self.lines is not None:
            self.lines(stage, done, total)
        bars = ProgressDisplay.shown
        if bars is None:
            return
        if stage not in self._rows:
            self._rows[stage] = bars.add_task(str(clean(stage)), total=total, completed=done)
            self._note = ""
        row = self._rows[stage]
        bars.update(row, completed=done, total=total)
        elapsed = bars.tasks[bars.task_ids.index(row)].elapsed
        if done >= total and (elapsed or 0.0) < 1:
            bars.update(row, visible=False)

    def note(self, stage: str, text: str) -> None:
        """Say under the bars how a stage goes, until the next one begins."""
        if self.lines is not None:
            self.lines.note = text
        if ProgressDisplay.shown is not None and stage in self._rows:
            self._note = str(clean(text))


class _StageLines:
    """One line when a stage begins, and one every `EVERY` seconds with the time left."""

    def __init__(self, clock: "Callable[[], float]" = time.monotonic) -> None:
        self.clock = clock
        self.note = ""
        self._begun: dict[str, tuple[float, int]] = {}  # when, and what was done by then
        self._last = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = self.clock()
        if stage not in self._begun:
            self._begun[stage] = now, done
            self.note = ""
            text = "done" if done >= total else "started"
        elif now - self._last >= EVERY:
            start, before = self._begun[stage]
            text = self._so_far(done - before, total - before, done / max(total, 1), now - start)
        else:
            return
        self._last = now
        say(f"{stage}: {text}")

    def _so_far(self, done: int, total: int, share: float, seconds: float) -> str:
        """`37 %, 1 min 20 s so far, about 2 min 16 s left`, and the note."""
        text = f"{100 * share:.0f} %, {_duration(seconds)} so far"
        if done > 0:
            text += f", about {_duration(seconds * (total - done) / done)} left"
        return f"{text} ({self.note})" if self.note else text


def _duration(seconds: float) -> str:
    """`45 s`, `2 min 5 s`, `3 h 12 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def show_results(results: dict[str, Any]) -> None:
    """The tables and findings of any kind of results, on stdout."""
    from lobes.report import comparison, runs, terminal, transfer

    kinds = {
        "lobes-comparison": comparison.tables,
        "lobes-transfer": transfer.tables,
        "lobes-runs": runs.tables,
    }
    tables = kinds.get(results["schema"], terminal.tables)
    console = _console()
    for table in tables(results):
        console.print(table, "")


def show_training(training: dict[str, Any]) -> None:
    """Every task's score at the end of a training, on stdout."""
    last = training["scores"][-1]["scores"] if training["scores"] else {}
    table = _table("task", "score")
    for task, score in last.items():
        table.add_row(_text(task), "–" if score is None else f"{score:.3f}")
    _console().print(f"Trained for {training['steps']} steps in {training['seconds']:.0f} s", table)


def show_heads(layout: "lobes.heads.HeadLayout", name: str) -> None:
    """Where a model's heads are and what can be done with them, on stdout.

    Sites that differ in nothing but the numbers in their modules' names are told of together.
    """
    alike: dict[tuple[str, ...], list[int]] = {}
    for site in layout.sites:
        alike.setdefault(_described(site, layout), []).append(site.index)
    table = _table("sites", "heads")
    for lines, indices in alike.items():
        table.add_row(_spans(indices), _text("\n".join(lines)))
    gateable, prunable = (
        sum(site.n_heads for site in layout.sites if can(site))
        for can in (lambda site: site.gateable, lambda site: site.prunable)
    )
    _console().print(
        f"{_text(name)}: {layout.total} heads in {len(layout.sites)} sites",
        table,
        f"Of {layout.total} heads all can be ablated, {gateable} trained alone and {prunable} "
        f"pruned.",
        sep="\n",
    )


def show_tasks(tasks: "Sequence[dict[str, Any]]") -> None:
    """The known tasks, on stdout."""
    table = _table("task", "classes", "text", "metric", "hub")
    for task in tasks:
        classes = str(len(task["labels"])) if task["labels"] else "a score"
        hub = " ".join(filter(None, (task["hub"], task["config"]))) or "local files only"
        cells = (", ".join(task["text"]), ", ".join(task["metrics"]), hub)
        table.add_row(task["name"], classes, *map(_text, cells))
    _console().print(table)


def show_task(task: dict[str, Any]) -> None:
    """One task: what it is, its sizes, and a few examples, on stdout."""
    labels = ", ".join(task["labels"]) if task["labels"] else "a score"
    if task["multi_label"]:
        labels += " (any number of them)"
    table = _table("split", "examples", "labels", "tokens")
    missing = []
    for size in task["sizes"]:
        if "missing" in size:
            missing.append(size["missing"])
            table.add_row(_text(size["split"]), "–", "–", "–")
            continue
        counts = (
            f"{name} {count:,}" if isinstance(count, int) else f"{name} {count:.3g}"
            for name, count in (size["labels"] or {}).items()
        )
        table.add_row(
            _text(size["split"]),
            f"{size['examples']:,}",
            _text(", ".join(counts) or "–"),
            _lengths(size.get("tokens"), size["examples"]),
        )
    console = _console()
    columns = task["text"] or [task["image"]]
    console.print(_text(f"{task['name']}: {', '.join(columns)} → {labels}"), table)
    for sentence in missing:
        console.print(_text(sentence))
    for example in task["examples"]:
        label = example["label"]
        if isinstance(label, list):
            label = ", ".join(label) or "no label"
        shown = f"{label:.3g}" if isinstance(label, float) else label
        shown_input = example.get("image") or " | ".join(example["text"])
        console.print(_text(f"{shown}: {shown_input}"))


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
    """What was predicted, how well where that is known, and the files, on stdout."""
    from lobes.report.formatting import fixed

    table = _table("task", "split", "examples", "metric", "score", "file")
    for entry in record["predictions"]:
        score = "hidden" if entry["score"] is None else fixed(entry["score"])
        cells = (entry["task"], entry["split"], f"{entry['examples']:,}", entry["metric"])
        table.add_row(*map(_text, cells), score, _text(entry["file"]))
    _console().print(table)


def show_pairs(record: dict[str, Any]) -> None:
    """The corpus of an AG-Pair and its pairs, on stdout."""
    table = _table("topic", "articles")
    for topic, articles in record["topics"].items():
        table.add_row(_text(topic), f"{articles:,}")
    _console().print(
        table,
        f"{record['pairs']:,} pairs: {record['same']:,} same, {record['different']:,} different.",
    )


def show_pruning(record: dict[str, Any]) -> None:
    """What a pruning took away and what came of it, on stdout."""
    from lobes.report.formatting import fixed

    table = _table("", "before", "after", "ratio")
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
    _console().print(
        f"{_text(record['model'])} without {number} heads: {sites}",
        table,
        f"{fixed(speed['ratio'], 2)} times as fast (median of {speed['rounds']} rounds with a pass "
        f"of each model, half of them between {low} and {high}).",
        f"Timed in fp32 on the CPU, threads: {speed['threads']}, inputs: {_text(shapes)}; the "
        f"milliseconds are the shortest.",
        f"The outputs differ from those under ablation by at most "
        f"{record['largest_difference']:.1e}.",
        sep="\n",
    )


def _described(site: "lobes.heads.Site", layout: "lobes.heads.HeadLayout") -> tuple[str, ...]:
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
        f"can be {_and(can)}",
        *(f"cannot be {' or '.join(verbs)}: {reason}" for reason, verbs in cannot.items()),
    ]
    if site.beside_attention:
        lines.append(f"ablating also takes away what is beside attention: {site.beside_attention}")
    if layout.sharing(site.index):
        lines.append("has parameters that other sites have too")
    return tuple(re.sub(r"(?<=\.)\d+(?=\.)", "*", line) for line in lines)


def _and(words: list[str]) -> str:
    """Words as a list in a sentence: "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _spans(indices: list[int]) -> str:
    """Numbers in ascending order, where they are many as "0–11" or "12, 14, …, 34"."""
    steps = {after - before for before, after in itertools.pairwise(indices)}
    if len(indices) > 2 and steps == {1}:
        return f"{indices[0]}–{indices[-1]}"
    if len(indices) > 4 and len(steps) == 1:
        return f"{indices[0]}, {indices[1]}, …, {indices[-1]}"
    return ", ".join(map(str, indices))


def _table(*columns: str) -> "rich.table.Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    for column in columns:
        numbers = column in ("score", "before", "after", "ratio")
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    return table


def _text(text: str) -> str:
    """A name from outside, so that rich takes no part of it for markup."""
    from rich.markup import escape

    return escape(str(clean(text)))


def _console() -> "rich.console.Console":
    """Standard output; as wide as the content where it is no terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 140, highlight=False)
