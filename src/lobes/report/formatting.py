"""Numbers and names as a reader sees them: one place for digits, minus signs and abbreviations.

Numbers come in as they stand in `results.json`, where null means undefined; they leave as short
text, `–` for what is undefined.
"""

import math
import re
from collections.abc import Callable, Sequence

from lobes.dissociation.verdict import is_significant

UNDEFINED = "–"
GAP = "\u00a0"  # between a number and its unit: no line may break there
_MINUS = "−"


def number(value: object) -> float:
    """A number of `results.json` as a float; null and everything not finite become nan."""
    if type(value) is float:  # nearly always: a study of many tasks has millions of them
        return value if math.isfinite(value) else math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return math.nan
    return float(value)


def fixed(value: float, digits: int = 3, *, sign: bool = False) -> str:
    """`0.812`, `−0.031`; with `sign` also `+0.812`. What rounds to zero carries no sign."""
    if not math.isfinite(value):
        return UNDEFINED
    text = f"{abs(value):.{digits}f}"
    if not text.strip("0."):
        return text
    return (_MINUS if value < 0 else "+" if sign else "") + text


def points(value: float) -> str:
    """A D-score or a change in percent, signed, with one decimal: `+12.4`."""
    return fixed(value, 1, sign=True)


def interval(low: float, high: float, show: Callable[[float], str] = points) -> str:
    """`+9.8 to +15.1`; `show` writes each end."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return UNDEFINED
    return f"{show(low)} to {show(high)}"


def p_value(value: float) -> str:
    """Three decimals; four just above 0.05, so that no rounding hides which side it is on."""
    if not math.isfinite(value):
        return UNDEFINED
    if value < 0.001:
        return "< 0.001"
    if value < 0.0505 and not is_significant(value):
        return f"{max(value, 0.0501):.4f}"
    return f"{value:.3f}"


def p_equals(value: float) -> str:
    """`p = 0.048`, `p < 0.001`, for running text."""
    text = p_value(value)
    return f"p {text if text.startswith('<') else '= ' + text}".replace(" ", GAP)


def significant(value: float) -> str:
    """Three significant digits, for importance scores, whose size nobody knows beforehand."""
    return f"{value:.3g}".replace("-", _MINUS) if math.isfinite(value) else UNDEFINED


def percent(fraction: float) -> str:
    """A fraction of the heads: `30 %`, `12.5 %`."""
    return f"{100 * fraction:.4g}{GAP}%" if math.isfinite(fraction) else UNDEFINED


def thousands(value: object) -> str:
    """An integer with thin gaps: `22 713 216`."""
    figure = number(value)
    return f"{round(figure):,}".replace(",", "\u202f") if math.isfinite(figure) else UNDEFINED


def duration(seconds: float) -> str:
    """`4.2 s`, `3 min 05 s`, `1 h 12 min`."""
    if not math.isfinite(seconds):
        return UNDEFINED
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def plural(count: int, one: str, many: str = "") -> str:
    """`1 task`, `3 tasks`."""
    return f"{thousands(count)} {one if count == 1 else many or one + 's'}"


def listing(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def shorten(name: str, width: int) -> str:
    """Cut a long name in its middle: both ends tell names apart."""
    if len(name) <= width:
        return name
    tail = (width - 1) // 2
    return f"{name[: width - 1 - tail]}…{name[len(name) - tail :]}"


def site_word(names: Sequence[str]) -> str:
    """`layer` for the sites of a model with one attention block a layer, `site` for any other."""
    only_numbers = site_labels(names) == tuple(map(str, range(len(names))))
    return "layer" if only_numbers else "site"


def site_labels(names: Sequence[str], width: int = 24) -> tuple[str, ...]:
    """Short labels for the sites' module paths: the parts in which the paths differ.

    `encoder.layer.0.attention`, `encoder.layer.1.attention` … become `0`, `1` …; what is left of
    "attention" is written "attn".
    """
    parts = [name.split(".") for name in names]
    if len(names) < 2:
        return tuple(shorten(name, width) for name in names)
    if len({len(part) for part in parts}) == 1:
        keep = [i for i, column in enumerate(zip(*parts, strict=True)) if len(set(column)) > 1]
        kept = [[part[i] for i in keep] for part in parts]
    else:
        shared = 0
        while len({tuple(part[: shared + 1]) for part in parts}) == 1:
            shared += 1
        kept = [part[shared:] for part in parts]
    labels = (re.sub("(?i)(att)ention", r"\1n", ".".join(part)) for part in kept)
    return tuple(shorten(label, width) for label in labels)
