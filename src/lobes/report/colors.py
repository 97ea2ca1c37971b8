"""The colors of pages and figures: the scale of the heat maps, the tints of changes, print."""

import math
from dataclasses import dataclass

# Viridis at equal steps: readable without color vision, even in lightness, fine on dark and light.
_VIRIDIS = (
    (68, 1, 84),
    (72, 40, 120),
    (62, 73, 137),
    (49, 104, 142),
    (38, 130, 142),
    (31, 158, 137),
    (53, 183, 121),
    (110, 206, 88),
    (181, 222, 43),
    (253, 231, 37),
)
SHADES = 21
TINTS = 10  # how many steps a tint has to each side
_TINT = 0.055  # how much of the color each of them adds
# The variables of report.css on white paper: of a page that is printed, and of exported figures.
# Losses and gains are triples, because a page lays them over its ground.
PRINT = {
    "paper": "#fff",
    "card": "#fff",
    "ink": "#111",
    "quiet": "#444",
    "rule": "#ccc",
    "wash": "#f3f3f3",
    "accent": "#0b6464",
    "loss": "196 97 15",
    "gain": "59 95 192",
    "yes": "#0b6464",
    "no": "#444",
    "open": "#7a4f06",
    "dot": "#777",
}


@dataclass(frozen=True)
class Shade:
    """One step of the color scale and the text color that reads best on it, as CSS colors."""

    background: str
    text: str


def palette() -> tuple[Shade, ...]:
    """The `SHADES` steps of the heat maps' scale, from the lowest to the highest value."""
    steps = []
    for step in range(SHADES):
        place = step / (SHADES - 1) * (len(_VIRIDIS) - 1)
        lower = min(int(place), len(_VIRIDIS) - 2)
        pair = zip(_VIRIDIS[lower], _VIRIDIS[lower + 1], strict=True)
        red, green, blue = (round(a + (b - a) * (place - lower)) for a, b in pair)
        light = luminance(red, green, blue)
        text = "#fff" if 1.05 / (light + 0.05) > (light + 0.05) / 0.05 else "#000"
        steps.append(Shade(_hex(red, green, blue), text))
    return tuple(steps)


def luminance(red: int, green: int, blue: int) -> float:
    """Relative luminance of an sRGB color, 0 to 1 (WCAG 2)."""
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (red / 255, green / 255, blue / 255)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def printed(name: str) -> str:
    """A variable's color in print, as `#rgb` or `#rrggbb`."""
    value = PRINT[name]
    return value if value.startswith("#") else _hex(*map(int, value.split()))


def tint_of(change: float, widest: float) -> int:
    """The tint of a change, where one as large as `widest` gets the strongest; 0 for NaN."""
    if not math.isfinite(change):
        return 0
    return max(-TINTS, min(TINTS, round(change / widest * TINTS)))


def tinted(tint: int) -> str:
    """The color of a tint on white: a loss below 0, a gain above."""
    share = min(abs(tint), TINTS) * _TINT
    end = PRINT["loss" if tint < 0 else "gain"].split()
    return _hex(*(round(255 + (int(part) - 255) * share) for part in end))


def css() -> str:
    """The rules of the tints, and the variables in print."""
    tints = "\n".join(
        f".{kind}{step} {{ background: rgb(var(--{kind}) / {round(step * _TINT, 3)}); }}"
        for step in range(1, TINTS + 1)
        for kind in ("loss", "gain")
    )
    variables = " ".join(f"--{name}: {value};" for name, value in PRINT.items())
    return f"{tints}\n@media print {{ :root {{ {variables} }} }}\n"


def _hex(red: int, green: int, blue: int) -> str:
    return f"#{red:02x}{green:02x}{blue:02x}"
