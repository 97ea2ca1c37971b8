"""What the models of a sweep say together: a forest plot and a table for each claim."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from lobes.dissociation.over_models import has_effect, over_models
from lobes.dissociation.verdict import MORE_SPECIALIZED, SPECIALIZED, WORDS, Verdict
from lobes.dissociation.verdicts_over_seeds import SPECIALIZED_BY_IAT
from lobes.report import formatting as fmt
from lobes.report import phrases, settings
from lobes.report.charts import Strip, strip_plot
from lobes.report.drawing import Drawing
from lobes.report.sections import Block, Figure, Prose, Section
from lobes.report.tables import Cell, Column, Kind, Row, Table
from lobes.results import SweepResults

MODEL = "model"
OVER_MODELS = "over the models"
_SEED = "seed"

# (model, its verdicts)
_Rows = list[tuple[str, tuple[Verdict, ...]]]


def over_the_models(results: SweepResults) -> Section | None:
    """Return the section; None where the models are no axis, or have no numbers to compare."""
    blocks: list[Block] = []
    untold: list[Prose] = []
    for group, rows in _groups(results).items():
        for claim in dict.fromkeys(each.claim for _, verdicts in rows for each in verdicts):
            given = [
                (model, verdict)
                for model, verdicts in rows
                for verdict in verdicts
                if verdict.claim == claim and "mean" in verdict.numbers
            ]
            found = [each for each in given if has_effect(each[1])]
            if len(found) > 1:
                name = f"models-{sum(isinstance(each, Table) for each in blocks) + 1}"
                blocks += _on_a_claim(name, group, found, _level(results, group))
            elif len(given) > 1:
                untold.append(_untold(claim, group, given, len(found)))
    if not blocks and not untold:
        return None
    if blocks:
        blocks.insert(0, Prose(_METHOD))
    return Section("models", "Over the models", (*blocks, *untold), contents="Models")


_METHOD = (
    "Each model’s effect with its interval, and the mean over the models by a random-effects "
    "meta-analysis, for models like these. A model’s weight comes from its interval. All models "
    "are measured on the same examples, which the interval of the mean does not know."
)


def _untold(claim: str, group: str, given: Sequence[tuple[str, Verdict]], usable: int) -> Prose:
    """Why there is no verdict over the models on a claim."""
    of = f" ({group})" if group else ""
    models = " ".join(
        f"{model}: {phrases.headline(each)}" for model, each in given if not has_effect(each)
    )
    return Prose(
        f"{claim.rstrip('.')}{of}: no verdict over the models, for that takes two whose studies "
        f"could tell, and here {'is none' if not usable else 'is one'}. {models}"
    )


def _groups(results: SweepResults) -> dict[str, _Rows]:
    """The models' verdicts for each combination of the other axes; seeds taken together."""
    groups: dict[str, _Rows] = {}
    if MODEL not in results.axes or (_SEED in results.axes and not results.seeds):
        return groups
    pooled = [
        (each.values, (each.verdict, *each.further))
        for each in results.seeds
        if each.verdict is not None
    ]
    own = [(run.values, run.verdicts) for run in results.runs]
    for values, verdicts in pooled if results.seeds else own:
        model = settings.plain(values[MODEL])
        groups.setdefault(_group(values), []).append((model, tuple(verdicts)))
    models = [settings.plain(model) for model in results.axes[MODEL]]
    last = Counter(map(_last, models))  # of two folders or owners that end alike, the whole name
    shown = {model: model if last[_last(model)] > 1 else _last(model) for model in models}
    return {
        group: [(shown[model], verdicts) for model, verdicts in rows]
        for group, rows in groups.items()
    }


def _group(values: Mapping[str, Any]) -> str:
    """The values of the axes but for model and seed, in words."""
    others = (axis for axis in values if axis not in (MODEL, _SEED))
    return ", ".join(f"{axis} {settings.plain(values[axis])}" for axis in others)


def _last(model: str) -> str:
    return model.rstrip("/").rpartition("/")[2]


def _level(results: SweepResults, group: str) -> float:
    """The level of the intervals of a group, which an axis may vary."""
    levels = (run.level for run in results.runs if _group(run.values) == group)
    return next((level for level in levels if level is not None), 0.95)


def effect_unit(verdict: Verdict) -> tuple[Kind, Callable[[float], str]]:
    """How the effect of a claim is written: D-scores as percent, scores with three decimals."""
    if verdict.claim in (SPECIALIZED, MORE_SPECIALIZED, SPECIALIZED_BY_IAT):
        return "points", fmt.points
    return "signed", partial(fmt.fixed, sign=True)


def forest_plot(
    found: Sequence[tuple[str, Verdict]], title: str, level: float = 0.95
) -> tuple[Verdict, Drawing | None]:
    """Return the verdict over the models, and a drawing of every model's and of their mean."""
    mean = over_models([verdict for _, verdict in found], level=level)
    kind, write = effect_unit(mean)

    def in_words(strip: Strip) -> str:
        ends = fmt.interval(strip.low, strip.high, write)
        return f"{strip.label}: {write(strip.value)}, interval {ends}."

    strips = []
    for model, each in [*found, (OVER_MODELS, mean)]:
        value, low, high = (each.numbers[key] for key in ("mean", "low", "high"))
        strips.append(Strip(model, value, low, high, (), is_mean=each is mean))
    axis = "D-score" if mean.claim == SPECIALIZED else "difference"
    unit = ", %" if kind == "points" else ""
    return mean, strip_plot(strips, title, f"{axis}{unit}", in_words)


def _on_a_claim(
    name: str, group: str, found: Sequence[tuple[str, Verdict]], level: float
) -> Iterator[Block]:
    """The figure and the table of one claim; the last row is the mean over the models."""
    claim = found[0][1].claim.rstrip(".")
    caption = f"{claim}{f' ({group})' if group else ''}: effect by model"
    mean, drawing = forest_plot(found, caption, level)
    kind, write = effect_unit(mean)
    if drawing is not None:
        yield Figure(name, drawing)
    columns = (
        Column("Model"),
        Column("Effect", kind, strong=True),
        Column("Interval", "interval", ends=kind),
        Column("p", "p"),
        Column("Answer"),
    )
    table = tuple(
        Row(
            (
                model,
                each.numbers["mean"],
                (each.numbers["low"], each.numbers["high"]),
                each.numbers.get("p"),
                Cell(WORDS[each.answer].lower(), title=phrases.headline(each)),
            )
        )
        for model, each in [*found, (OVER_MODELS, mean)]
    )
    yield Table(f"{name}-table", caption, columns, table, terminal=caption)
    spread = write(mean.numbers["spread"]).lstrip("+")
    yield Prose(
        f"{phrases.headline(mean)} Between models the true effect has a standard deviation of "
        f"{spread}."
    )
