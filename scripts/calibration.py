"""Writes the tables of docs/statistics.md and its figures: do tests and intervals keep their word?

Run by hand, a quarter of an hour on one core: `make calibration`. Every study is simulated, so that
its truth is known (`lobes.dissociation.simulation`). Each table stands in the page after a comment
with its name, and can be written by itself: `scripts/calibration.py POWER`.
"""

import argparse
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import exchange_tables as exchange
import numpy as np

from lobes.dissociation.dscores import FORMULAS
from lobes.dissociation.over_runs import dissociation_over_runs
from lobes.dissociation.simulated_heads import exchanged, measured
from lobes.dissociation.simulation import FRACTION, HeadStudy, SimulatedStudy, Simulation
from lobes.dissociation.verdict import is_significant

DOCS = Path(__file__).parent.parent / "docs"


def coverage(simulation: Simulation, studies: int, seed: int, resamples: int = 500) -> np.ndarray:
    """How often the 95 % interval of each definition's mean holds the truth, and of each task."""
    generator = np.random.default_rng(seed)
    hits = []
    for number in range(studies):
        study = simulation.run(generator)
        found = study.matrix.dissociation(resamples=resamples, seed=number)
        row = []
        for name in FORMULAS:
            true, score = study.d_scores(name), getattr(found, name)
            low, high = score.mean_interval
            row.append(low <= true.mean() <= high)
            row.append(np.mean((score.interval[:, 0] <= true) & (true <= score.interval[:, 1])))
        hits.append(row)
    return np.mean(hits, axis=0)


def coverage_over_runs(
    simulation: Simulation,
    seeds: int,
    between: float,
    studies: int,
    seed: int,
    truth: int = 5_000,
) -> tuple[float, float]:
    """How often two 95 % intervals hold the mean over all runs: ours, and plain percentiles.

    The mean is known from `truth` runs.
    """
    generator = np.random.default_rng(seed)
    others = replace(simulation, examples=1).runs(truth, generator, between=between)
    true = float(np.mean([study.d_scores().mean() for study in others]))
    ours = plain = 0
    for number in range(studies):
        runs = simulation.runs(seeds, generator, between=between)
        mean = dissociation_over_runs(
            [run.matrix for run in runs], resamples=200, seed=number
        ).column.mean
        ours += mean.low <= true <= mean.high
        low, high = percentiles(runs, number, generator)
        plain += low <= true <= high
    return ours / studies, plain / studies


def percentiles(
    runs: Sequence[SimulatedStudy], seed: int, generator: np.random.Generator
) -> tuple[float, float]:
    """A bootstrap that draws runs, then examples: its central 95 %."""
    drawn = [run.matrix.resampled(FRACTION, 200, seed) for run in runs]
    means = np.array([FORMULAS["column"](matrix, base).mean(axis=1) for base, matrix in drawn])
    chosen = generator.integers(len(runs), size=(200, len(runs)))
    low, high = np.quantile(means[chosen, np.arange(200)[:, None]].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def pairs_called(study: HeadStudy, studies: int, seed: int) -> tuple[float, float]:
    """How often a pair of tasks is called a double dissociation: on the examples only, and rightly.

    The rule asks in addition that the smaller effect stands out from that of exchanged lesions.
    """
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(studies):
        (pair,) = study.run(generator).matrix.dissociation(resamples=1).pairs
        before = min(pair.effects) > 0 and is_significant(pair.p_holm)
        found.append([before, pair.is_double_dissociation])
    before, both = np.mean(found, axis=0)
    return float(before), float(both)


def answers(study: HeadStudy, studies: int, seed: int) -> tuple[dict[str, float], float]:
    """The share of each answer to "are heads specialized?", and the mean true D-score."""
    generator = np.random.default_rng(seed)
    counts, true = dict.fromkeys(("yes", "no", "open"), 0), 0.0
    for number in range(studies):
        one = study.run(generator)
        counts[one.matrix.dissociation(resamples=200, seed=number).specialized.answer] += 1
        true += float(one.d_scores().mean())
    return {answer: count / studies for answer, count in counts.items()}, true / studies


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def chart(
    curves: dict[str, list[tuple[float, float]]], axes: tuple[str, str], right: float, title: str
) -> str:
    """Curves in the unit square times `right`, as an SVG that suits light and dark pages."""
    shades = ("#0b6464", "#c4610f", "#3b5fc0", "#8a3ea0", "#5c646d", "#a05a2c")
    dashes = ("", "7 4", "2 4", "9 3 2 3", "4 2", "1 3")
    width, height, x0, y0, size = 660, 400, 70, 340, 300
    scale = 380 / right
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'font-family="sans-serif" font-size="13" fill="#7d858e"><title>{title}</title>'
    ]
    for k in range(6):
        y, x = y0 - k * size / 5, x0 + k * 76
        parts.append(f'<path d="M{x0} {y:.0f}h380" stroke="#7d858e" stroke-opacity=".3"/>')
        parts.append(f'<text x="{x0 - 8}" y="{y + 4:.0f}" text-anchor="end">{k / 5:g}</text>')
        label = f"{k * right / 5:.2g}"
        parts.append(f'<text x="{x}" y="{y0 + 18}" text-anchor="middle">{label}</text>')
    parts.append(f'<text x="{x0 + 190}" y="{y0 + 42}" text-anchor="middle">{axes[0]}</text>')
    parts.append(
        f'<text transform="translate(20 {y0 - 150}) rotate(-90)" text-anchor="middle">'
        f"{axes[1]}</text>"
    )
    for number, (name, points) in enumerate(curves.items()):
        line = " ".join(f"{x0 + scale * x:.1f},{y0 - size * y:.1f}" for x, y in points)
        look = f'fill="none" stroke="{shades[number]}" stroke-width="2.5"'
        parts.append(f'<polyline points="{line}" {look} stroke-dasharray="{dashes[number]}"/>')
        y = 60 + 22 * number
        parts.append(f'<path d="M470 {y}h30" {look} stroke-dasharray="{dashes[number]}"/>')
        parts.append(f'<text x="506" y="{y + 4}">{name}</text>')
    return "\n".join([*parts, "</svg>\n"])


# The lines of the null whose p-values the figure shows.
SHOWN = {
    f"{tasks} tasks, {damage}{against}": f"{tasks} tasks, {damage}, {noise}{kind}"
    for tasks, damage, noise in (
        (2, "concave", "equal noise"),
        (2, "threshold", "equal noise"),
        (6, "threshold", "unequal noise"),
    )
    for against, kind in ((", exchanged", ""), (", random", ": random"))
}
COVERED_HEADER = ("study", *(f"{name}{who}" for name in FORMULAS for who in ("", ", tasks")))
OVER_RUNS_HEADER = ("study", "ours", "percentiles")
CALLED_HEADER = ("study", "D-score", "examples only", "examples and exchange")
ANSWER_HEADER = ("study", "D-score", "yes", "no", "inconclusive")


def covered_rows(studies: int) -> Iterator[list[object]]:
    """Intervals of one run."""
    for number, (examples, special) in enumerate(((100, 0.0), (300, 0.0), (300, 0.3), (1000, 0.3))):
        simulation = Simulation(tasks=3, examples=examples, controls=0, specialization=special)
        hits = coverage(simulation, studies, seed=10 + number)
        yield [f"{examples:,} examples, strength {special:g}", *(f"{h:.3f}" for h in hits)]


def over_runs_rows(studies: int) -> Iterator[list[object]]:
    """Intervals over runs."""
    cases = ((2, 0.2), (3, 0.2), (3, 0.05), (5, 0.2), (5, 0.05), (10, 0.2))
    for number, (seeds, between) in enumerate(cases):
        simulation = Simulation(tasks=3, examples=300, controls=0, specialization=0.3)
        ours, plain = coverage_over_runs(simulation, seeds, between, studies // 2, 20 + number)
        yield [f"{seeds} runs, deviation {between:g}", f"{ours:.3f}", f"{plain:.3f}"]


def called_rows(studies: int) -> Iterator[list[object]]:
    """What the exchange adds to the test on examples."""
    cases = [(examples, 0.0, 4.0) for examples in (300, 1000, 5000)]
    cases += [(1000, 0.3, 0.5), (1000, 0.5, 0.5)]
    for number, (examples, special, noise) in enumerate(cases):
        study = HeadStudy(
            examples=examples,
            replicates=19,
            damage="linear",
            specialization=special,
            noise=noise,
            chance=1.0,
        )
        found = pairs_called(study, fewer(studies), seed=30 + number)
        (bulk,) = measured(study, 200, number, exchanged)
        true = f"{bulk.true.mean():+.1f} %"
        yield [f"{examples:,} examples", true, *(f"{share:.3f}" for share in found)]


def answer_rows(studies: int) -> Iterator[list[object]]:
    """What a report would say."""
    cases = [(examples, special) for examples in (100, 300, 1000) for special in (0.0, 0.2, 0.4)]
    for number, (examples, special) in enumerate(cases):
        study = HeadStudy(2, examples, replicates=39, damage="threshold", specialization=special)
        shares, true = answers(study, fewer(studies), seed=200 + number)
        shown = [f"{shares[answer]:.2f}" for answer in ("yes", "no", "open")]
        yield [f"{examples:,} examples", f"{true:+.1f} %", *shown]


def fewer(studies: int) -> int:
    """Return how many studies are simulated where each takes long."""
    return studies // 10


def tables(studies: int, names: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the tables of the page by their marks, and the figures by their files."""
    p: dict[str, np.ndarray] = {}
    power: dict[str, list[tuple[float, float]]] = {}
    found = {
        "UNIFORM": (exchange.NULL_HEADER, partial(exchange.null_rows, curves=p)),
        "CONFOUNDED": (exchange.CONFOUNDED_HEADER, exchange.confounded_rows),
        "OVER FRACTIONS": (exchange.OVER_HEADER, exchange.over_rows),
        "JOINT": (exchange.JOINT_HEADER, lambda studies: exchange.joint_rows(studies // 2)),
        "PAIRS": (exchange.PAIR_HEADER, lambda studies: exchange.pair_rows(studies // 2)),
        "POWER": (exchange.POWER_HEADER, partial(exchange.power_rows, curves=power)),
        "SIZES": (exchange.SIZE_HEADER, lambda studies: exchange.size_rows(studies // 4)),
        "STOP": (exchange.STOP_HEADER, exchange.stop_rows),
        "CALLED": (CALLED_HEADER, called_rows),
        "ANSWERS": (ANSWER_HEADER, answer_rows),
        "COVERED": (COVERED_HEADER, covered_rows),
        "OVER RUNS": (OVER_RUNS_HEADER, over_runs_rows),
    }
    texts = {}
    for name in names or found:
        header, rows = found[name]
        texts[name] = table(header, rows(studies))
    grid = np.linspace(0, 1, 101)
    figures = {}
    if p:
        curves = {
            name: [(x, float(np.mean(p[key] <= x + 1e-9))) for x in grid]
            for name, key in SHOWN.items()
        }
        figures["p-values.svg"] = chart(
            curves, ("p", "share of studies"), 1.0, "p-values without specialization"
        )
    if power:
        figures["power.svg"] = chart(
            {name: points for name, points in power.items() if not name.startswith("linear")},
            ("true D-score in %", "power"),
            10.0,
            "Power",
        )
    return texts, figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=2000, help="simulated studies for each line")
    parser.add_argument("--to", type=Path, default=DOCS, help="the folder of the docs")
    parser.add_argument("tables", nargs="*", help="the tables to write anew; by default all")
    arguments = parser.parse_args()
    texts, figures = tables(arguments.studies, arguments.tables)
    for name, figure in figures.items():
        (arguments.to / name).write_text(figure, encoding="utf-8")
    page = arguments.to / "statistics.md"
    found = page.read_text(encoding="utf-8")
    for name, text in texts.items():
        found, times = re.subn(rf"(<!-- {name} -->\n\n)(?:\|.*\n)*", rf"\g<1>{text}\n", found)
        assert times == 1, f"{page} has no place for the table {name}"
    page.write_text(found, encoding="utf-8")


if __name__ == "__main__":
    main()
