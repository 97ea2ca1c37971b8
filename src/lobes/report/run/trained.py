"""The heads that IAT trained in this run, and how many of them are still important afterwards."""

from collections.abc import Mapping, Sequence

from lobes.heads import Head, HeadSet
from lobes.report import formatting as fmt
from lobes.report.sections import Section
from lobes.report.tables import Cell, Column, Row, Table
from lobes.report.trained_heads import facts, maps, owners
from lobes.report.trained_heads import section as trained_section
from lobes.results import RunResults


def section(results: RunResults) -> Section | None:
    """Which heads each task trained; None without IAT."""
    record = results.training.iat if results.training is not None else None
    if record is None:
        return None
    heads = {name: record.heads[name] for name in results.names}
    who = owners(heads)
    text = (
        f"After ordinary multi-task training, each task’s most important heads were chosen; from "
        f"then on a batch of a task changed the query, key and value projections of that task’s "
        f"heads only. {_sentence(who, record.n_heads, len(heads))}"
    )
    return trained_section(
        text,
        facts(record, record.seconds),
        _table(results, heads, who),
        maps(results.model, {"How many tasks train each head": who}, len(heads)),
        heads,
    )


def _table(
    results: RunResults, heads: Mapping[str, HeadSet], who: Mapping[Head, Sequence[str]]
) -> Table:
    found = results.largest
    columns = [Column("Task"), *(Column(t, "count") for t in ("Heads", "Its alone", "Shared"))]
    if found is not None:
        size = fmt.percent(found.fraction)
        columns.append(Column(f"Among its top {size} afterwards", "count"))
    rows = []
    for task, chosen in heads.items():
        alone = sum(len(who[head]) == 1 for head in chosen)
        cells: list[str | int | Cell] = [task, len(chosen), alone, len(chosen) - alone]
        if found is not None:
            kept = len(chosen & found.lesion_of(task))
            cells.append(Cell(kept, text=f"{kept} of {len(chosen)}"))
        rows.append(Row(tuple(cells)))
    caption = "The heads that each task trained"
    return Table("trained", caption, tuple(columns), tuple(rows), look="plain")


def _sentence(who: Mapping[Head, Sequence[str]], n_heads: int, n_tasks: int) -> str:
    several = sum(len(names) > 1 for names in who.values())
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
