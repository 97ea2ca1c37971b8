"""The answer's three supporting figures, which a page shows on its first screen."""

from dataclasses import replace

from lobes.report import formatting as fmt
from lobes.report import phrases
from lobes.report.charts import strip_plot
from lobes.report.lesion_words import words_of
from lobes.report.phrases import HEADLINE, exchanges, size_of
from lobes.report.run import dissociation, importance, lesions
from lobes.report.sections import Figure, Panel, Panels, Prose
from lobes.report.tables import end_key
from lobes.results import RunResults

MOST_SHOWN = 6  # tasks


def figures(results: RunResults) -> Panels | None:
    """Where the heads are, what lesions cost, and whether it matters whose heads they are.

    None for many tasks, and where nothing was lesioned.
    """
    if results.strongest is None or len(results.tasks) > MOST_SHOWN:
        return None
    panels = (_maps(results), _exchanged(results), _matrix(results))
    found = tuple(panel for panel in panels if panel is not None)
    return Panels(found, "glance") if found else None


def _maps(results: RunResults) -> Panel | None:
    if not results.importance or results.strongest is None:
        return None
    several = len(results.importance) > 1
    whose = "of this task’s lesion and no other" if several else "of the task’s lesion"
    word = fmt.site_word([site.name for site in results.model.sites])
    text = (
        f"Rows: {word}s; columns: heads; yellow: most important, dark: least. Outlined: heads "
        f"{whose}, "
        f"{size_of(results.strongest.fraction)}."
    )
    figure = importance.together(results, "glance-maps")
    return Panel("Which heads matter", (figure, Prose(text)))


def _exchanged(results: RunResults) -> Panel | None:
    entry = results.strongest
    if entry is None or entry.dissociation is None or not entry.exchangeable:
        return None
    score, size = entry.dissociation.column, size_of(entry.fraction)
    title = f"{HEADLINE} D-scores at {size}, in percent, against exchanged heads"
    drawing = strip_plot(dissociation.strips(results, score), title)
    if drawing is None:
        return None
    hollow = " Hollow: on the exchanges’ sample of examples." if results.controls.sample else ""
    costs = words_of(results.lesioning).costs
    text = (
        f"D-score: how much {costs} a task loses by its own lesion than by the lesions of others, "
        f"in percent of {phrases.unit_of(results.tasks)}. "
        f"Diamond: the D-score with its interval.{hollow} Gray: {exchanges(entry.n_controls)} of "
        f"the heads between the tasks."
    )
    title = "More than exchanged heads?"
    return Panel(title, (Figure("glance-strip", drawing), Prose(text)))


def _matrix(results: RunResults) -> Panel | None:
    entry = results.strongest
    if entry is None:
        return None
    place = results.fractions.index(entry)
    table = lesions.changes(results, place)
    caption = (
        f"Change of the score in {phrases.percent_of(results.tasks)}, "
        f"{fmt.percent(entry.fraction)} of the heads; framed: a task under its own "
        f"lesion{end_key(table)}."
    )
    rows = tuple(row for row in table.rows if row.kind != "base")
    shown = replace(table, name="glance-change", caption=caption, rows=rows)
    return Panel("What each lesion costs each task", (shown,))
