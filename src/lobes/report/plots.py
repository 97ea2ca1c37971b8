"""Values as figures for a paper, drawn by matplotlib (the extra `lobes[plot]`).

Text is set at 8 points and a panel is as wide as a column, so that a figure needs no scaling; the
colors are Okabe and Ito's and viridis, which stay apart without color vision. Figures are made
without pyplot: nothing global changes, and no window opens.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lobes.dissociation import Dissociation, LesionMatrix
from lobes.dissociation.statistics import percentile_interval
from lobes.errors import ConfigError
from lobes.limits import short
from lobes.results import RunResults
from lobes.scores import HeadScores

# Okabe and Ito's colors, black last.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#000000")
MARKERS = "osD^vPX*"
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "pdf.fonttype": 42,  # text that can be edited, and that journals take
    "ps.fonttype": 42,
    "svg.fonttype": "none",
}
WIDTH, HEIGHT = 3.4, 2.4  # inches of a panel
PER_ROW = 3  # panels


class ShownFigure(Figure):
    """A figure that a notebook shows by itself, without `%matplotlib` or pyplot."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=150)
        return file.getvalue()


@dataclass(frozen=True)
class Kind:
    """A figure of a value: how many panels it has, and what draws each."""

    panels: Sequence[str]
    draw: Callable[[Axes, str], None]
    width: float = WIDTH
    height: float = HEIGHT


def plot(value: object, kind: str | None, ax: Axes | None) -> Figure:
    """The figure of a value; `kind` is the first of its kinds by default.

    Raises `ConfigError` for a kind that it does not have, and for axes where it has panels.
    """
    kinds = _kinds(value)
    if not kinds:
        raise ConfigError(f"A {type(value).__name__} has no figure; it has a to_frame().")
    chosen = next(iter(kinds)) if kind is None else kind
    if chosen not in [*kinds]:
        raise ConfigError(
            f"A {type(value).__name__} has no figure {kind!r}: expected {', '.join(kinds)}."
        )
    found = kinds[chosen]
    if ax is not None and not isinstance(ax, Axes):
        raise ConfigError(f"ax is {short(ax)}; expected axes of matplotlib, as plt.gca() returns.")
    if ax is not None and len(found.panels) > 1:
        raise ConfigError(f"The figure {chosen!r} has {len(found.panels)} panels: leave ax out.")
    with mpl.rc_context(STYLE):
        if ax is not None:
            found.draw(ax, found.panels[0])
            figure = ax.get_figure(root=True)
            assert isinstance(figure, Figure)
            return figure
        return _drawn(found)


def _drawn(found: Kind) -> Figure:
    columns = min(PER_ROW, len(found.panels))
    rows = -(-len(found.panels) // columns)
    figure = ShownFigure(figsize=(columns * found.width, rows * found.height), layout="constrained")
    axes = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for one, panel in zip(axes, found.panels, strict=False):
        found.draw(one, panel)
    for one in axes[len(found.panels) :]:
        one.set_axis_off()
    return figure


def _kinds(value: object) -> dict[str, Kind]:
    """The figures of a value by name, the default first."""
    match value:
        case HeadScores():
            name = str(value.settings.get("task", "importance"))
            return _of_importance({name: value})
        case LesionMatrix():
            width = max(WIDTH, 0.09 * (len(value.tasks) + 1) ** 2)
            lesions = Kind([""], lambda ax, _: _effects(ax, value), width)
            found = {"lesions": lesions} if value.fractions else {}
            return found | _of_importance(value.importance)
        case RunResults():
            return _of_importance({each.task: HeadScores(each.values) for each in value.importance})
        case Dissociation():
            return {"d_scores": Kind([""], lambda ax, _: _d_scores(ax, value))}
    return {}


def _of_importance(maps: Mapping[str, HeadScores]) -> dict[str, Kind]:
    """A map for each task, and the importance of each site."""
    if not maps:
        return {}
    shape = next(iter(maps.values())).values.shape
    height = min(6.0, max(1.4, 0.17 * shape[0] + 0.7))
    return {
        "importance": Kind(
            [*maps], lambda ax, task: _map(ax, maps[task], task), min(WIDTH, 2.8), height
        ),
        "sites": Kind([""], lambda ax, _: _by_site(ax, maps)),
    }


def _map(ax: Axes, scores: HeadScores, title: str) -> None:
    """One task's importance: a row for each site, a column for each head, percent of the most."""
    share = 100 * scores.values / (np.nanmax(np.abs(scores.values)) or 1.0)
    low = min(0.0, float(np.nanmin(share)))
    image = ax.imshow(share, cmap="viridis", vmin=low, vmax=100, aspect="auto")
    ax.set(title=_plain(title), xlabel="head", ylabel="site")
    for axis, number in ((ax.xaxis, share.shape[1]), (ax.yaxis, share.shape[0])):
        axis.set_ticks(range(0, number, 1 + number // 13))
    figure = ax.get_figure()
    assert figure is not None
    figure.colorbar(image, ax=ax, label="% of the largest", pad=0.02)


def _by_site(ax: Axes, maps: Mapping[str, HeadScores]) -> None:
    """Each site's share of the importance of all heads, by absolute value."""
    for place, (task, scores) in enumerate(maps.items()):
        sums = np.nansum(np.abs(scores.values), axis=1)
        shares = 100 * sums / (sums.sum() or 1.0)
        ax.plot(range(len(shares)), shares, label=_plain(task), **_look(place), markersize=4)
    ax.set(xlabel="site", ylabel="% of all importance", ylim=(0, None))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(ax)


def _effects(ax: Axes, matrix: LesionMatrix, resamples: int = 1000, level: float = 0.95) -> None:
    """What every task's score changes by under the lesion of each task, with intervals.

    Random lesions stand beside them as the mean and the range of their replicates.
    """
    fraction = matrix.fraction_of(None)
    base, scores = matrix.base, matrix.scores(fraction)
    some_base, some_scores = matrix.resampled(fraction, resamples, 0)
    changes, n = scores - base, len(matrix.tasks)
    spread = percentile_interval(
        (some_scores - some_base[:, None]).reshape(resamples, n * n), level
    ).reshape(n, n, 2)
    width = 0.8 / (n + 1)
    for i, task in enumerate(matrix.tasks):
        errors = np.abs(spread[i].T - changes[i])
        x = np.arange(n) + (i - n / 2) * width
        color = COLORS[i % len(COLORS)]
        ax.bar(
            x,
            changes[i],
            width,
            yerr=errors,
            color=color,
            label=f"heads of {_plain(task)}",
            **_BARS,
        )
    random = matrix.random_scores(fraction) - matrix.reference.base
    if random.size:
        means = random.mean(axis=(0, 1))
        ends = np.stack([means - random.min(axis=(0, 1)), random.max(axis=(0, 1)) - means])
        x = np.arange(n) + (n - n / 2) * width
        ax.bar(x, means, width, yerr=ends, color="#BBBBBB", label="random heads", **_BARS)
    ax.axhline(0, color="black", linewidth=0.6)
    ax.set_xticks(np.arange(n), [_plain(task) for task in matrix.tasks])
    done = "kept" if matrix.keep else "ablated"
    ax.set(ylabel="change of the score", title=f"{100 * fraction:g} % of the heads {done}")
    _legend(ax)


def _d_scores(ax: Axes, found: Dissociation) -> None:
    """Each task's D-score with its interval, beside what exchanged heads give."""
    score, names = found.column, [*map(_plain, found.tasks), "mean"]
    values = np.append(score.values, score.mean)
    ends = np.vstack([score.interval, score.mean_interval])
    exchanged = np.column_stack([score.control_values, score.control_means])
    for place, points in enumerate(exchanged.T):
        spots = place + np.linspace(-0.18, 0.18, len(points))
        ax.scatter(spots, np.sort(points), s=4, color="#BBBBBB", label="_exchanges", zorder=1)
    errors = np.abs(ends.T - values)
    ax.errorbar(
        range(len(names)), values, yerr=errors, fmt="o", color=COLORS[0], capsize=2, markersize=4
    )
    ax.axhline(0, color="black", linewidth=0.6)
    ax.set_xticks(range(len(names)), names)
    p = "" if np.isnan(score.mean_p) else f", p = {score.mean_p:.2g}"
    title = f"{100 * found.fraction:g} % of the heads{p}\ngray: heads exchanged"
    ax.set(ylabel="D-score, %", title=title)


def _legend(ax: Axes) -> None:
    """A legend under the axes, where it covers nothing, as many columns as fit the panel."""
    handles, labels = ax.get_legend_handles_labels()
    longest = 0.4 + 0.065 * max(map(len, labels))  # inches
    columns = max(1, min(len(labels), int(WIDTH / longest)))
    ax.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=columns)


def _plain(name: str) -> str:
    """A name that matplotlib shows as it is, and does not set as a formula."""
    return name.replace("$", r"\$")


_BARS: dict[str, Any] = {"error_kw": {"elinewidth": 0.8, "capsize": 2}}


def _look(place: int) -> dict[str, Any]:
    return {"color": COLORS[place % len(COLORS)], "marker": MARKERS[place % len(MARKERS)]}
