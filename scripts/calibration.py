"""Writes docs/statistics.md and its figures: do p-values, intervals and verdicts keep their word?

Run by hand, some minutes on one core: `make calibration`. Every study is simulated, so that its
truth is known (`lobes.dissociation.simulation`).
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import stats

from lobes.dissociation.dscores import FORMULAS
from lobes.dissociation.over_runs import dissociation_over_runs
from lobes.dissociation.simulation import FRACTION, SimulatedStudy, Simulation
from lobes.dissociation.verdict import controls_needed, is_significant

DOCS = Path(__file__).parent.parent / "docs"
LEVELS = (0.01, 0.05, 0.1, 0.25, 0.5)

NULL = {
    "3 tasks, 300 examples": Simulation(tasks=3, examples=300, controls=99),
    "3 tasks, 1,000 examples": Simulation(tasks=3, examples=1000, controls=99),
    "6 tasks, 100 examples": Simulation(tasks=6, examples=100, controls=99),
    "2 tasks, 300 examples, 19 controls": Simulation(tasks=2, examples=300, controls=19),
}
POWER_SIZES = ((100, 20), (300, 20), (1000, 20), (100, 100), (300, 100), (1000, 100))
STRENGTHS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)
# How lesions differ from each other: (deviation between lesions, and between tasks under one).
LESIONS = {"alike": (0.0, 0.0), "as above": (0.2, 0.1), "widely different": (0.05, 0.2)}
DIFFERENT = ("as above", "widely different")


def p_values(simulation: Simulation, studies: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The headline's p of each study, and all the tasks' own."""
    generator = np.random.default_rng(seed)
    means, tasks = [], []
    for _ in range(studies):
        found = simulation.run(generator).matrix.dissociation(resamples=1).column
        means.append(found.mean_p)
        tasks.append(found.p_values)
    return np.array(means), np.concatenate(tasks)


def uniformity(p: np.ndarray, controls: int) -> float:
    """p of a chi-squared test that the possible values of p all come equally often.

    The values 1/(1+R) to 1 are put in 10 bins of equal size.
    """
    ranks = np.rint(p * (controls + 1)).astype(int) - 1
    bins = 10 * ranks // (controls + 1)
    return float(stats.chisquare(np.bincount(bins, minlength=10)).pvalue)


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
    simulation: Simulation, seeds: int, between: float, studies: int, seed: int
) -> tuple[float, float]:
    """How often two 95 % intervals hold the mean over all runs: ours, and plain percentiles."""
    generator = np.random.default_rng(seed)
    others = replace(simulation, examples=1).runs(5_000, generator, between=between)
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


def pairs_called(simulation: Simulation, studies: int, seed: int) -> np.ndarray:
    """How often pairs of tasks are called double dissociations, by two rules.

    [any pair on the examples only, any pair, share of pairs on the examples only, share of pairs]:
    the rule asks in addition that the smaller effect stands out from that of random lesions.
    """
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(studies):
        pairs = simulation.run(generator).matrix.dissociation(resamples=1).pairs
        examples = [min(p.effects) > 0 and is_significant(p.p_holm) for p in pairs]
        both = [pair.is_double_dissociation for pair in pairs]
        found.append([any(examples), any(both), np.mean(examples), np.mean(both)])
    return np.mean(found, axis=0)


def answers(simulation: Simulation, studies: int, seed: int) -> tuple[dict[str, float], float]:
    """The share of each answer to "are heads specialized?", and the mean true D-score."""
    generator = np.random.default_rng(seed)
    counts, true = dict.fromkeys(("yes", "no", "open"), 0), 0.0
    for number in range(studies):
        study = simulation.run(generator)
        counts[study.matrix.dissociation(resamples=200, seed=number).specialized.answer] += 1
        true += float(study.d_scores().mean())
    return {answer: count / studies for answer, count in counts.items()}, true / studies


def power(simulation: Simulation, studies: int, seed: int) -> tuple[float, float]:
    """How often p ≤ 0.05, and the mean true D-score."""
    generator = np.random.default_rng(seed)
    beyond, true = 0, 0.0
    for _ in range(studies):
        study = simulation.run(generator)
        beyond += is_significant(study.matrix.dissociation(resamples=1).column.mean_p)
        true += float(study.d_scores().mean())
    return beyond / studies, true / studies


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


PAIR_HEADER = ("study", "strength", "any pair, before", "any pair", "pairs, before", "pairs")
ANSWER_HEADER = ("study", "strength", "D-score", "yes", "no", "inconclusive")


def pair_studies(studies: int) -> int:
    """Return how many studies are simulated where each takes long: a tenth."""
    return studies // 10


def pair_rows(studies: int) -> Iterable[list[object]]:
    """Three tasks without specialization, then with, and the controls that their pairs take."""
    cases = [("alike", 1000, 0.0)]
    cases += [(name, size, 0.0) for name in DIFFERENT for size in (1000, 5000)]
    cases += [(name, 1000, strength) for name in DIFFERENT for strength in (0.3, 0.6)]
    for number, (name, examples, strength) in enumerate(cases):
        spread, chance = LESIONS[name]
        simulation = Simulation(
            tasks=3,
            examples=examples,
            controls=controls_needed(3),
            specialization=strength,
            spread=spread,
            chance=chance,
        )
        found = pairs_called(simulation, pair_studies(studies), seed=30 + number)
        study = f"{examples:,} examples, lesions {name}"
        yield [study, strength, *(f"{share:.3f}" for share in found)]


def answer_rows(studies: int) -> Iterable[list[object]]:
    """Three tasks and 20 controls: what a report would say."""
    cases = [(examples, s) for examples in (100, 300, 1000) for s in (0.0, 0.15, 0.3)]
    for number, (examples, strength) in enumerate(cases):
        simulation = Simulation(controls=20, examples=examples, specialization=strength)
        shares, true = answers(simulation, pair_studies(studies), seed=200 + number)
        shown = [f"{shares[answer]:.2f}" for answer in ("yes", "no", "open")]
        yield [f"{examples:,} examples", strength, f"{true:+.1f} %", *shown]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=2000, help="simulated studies for each row")
    parser.add_argument("--to", type=Path, default=DOCS, help="the folder of the docs")
    arguments = parser.parse_args()
    studies, to = arguments.studies, arguments.to

    uniform, curves = [], {}
    for number, (name, simulation) in enumerate(NULL.items()):
        means, tasks = p_values(simulation, studies, seed=number)
        for who, p in (("mean", means), ("each task", tasks)):
            shares = [f"{np.mean(p <= level):.3f}" for level in LEVELS]
            test = f"{uniformity(means, simulation.controls):.2f}" if who == "mean" else ""
            uniform.append([f"{name}: {who}", *shares, test])
        grid = np.linspace(0, 1, 101)
        curves[name] = [(x, float(np.mean(means <= x))) for x in grid]
    p_chart = chart(curves, ("p", "share of studies"), 1.0, "p-values without specialization")

    covered = []
    for number, (examples, special) in enumerate(((100, 0.0), (300, 0.0), (300, 0.3), (1000, 0.3))):
        simulation = Simulation(tasks=3, examples=examples, controls=0, specialization=special)
        hits = coverage(simulation, studies, seed=10 + number)
        covered.append(
            [f"{examples:,} examples, strength {special:g}", *(f"{h:.3f}" for h in hits)]
        )

    over = []
    for number, (seeds, between, examples) in enumerate(
        (
            (2, 0.2, 300),
            (3, 0.2, 300),
            (3, 0.05, 300),
            (5, 0.2, 300),
            (5, 0.05, 300),
            (10, 0.2, 300),
        )
    ):
        simulation = Simulation(tasks=3, examples=examples, controls=0, specialization=0.3)
        ours, plain = coverage_over_runs(simulation, seeds, between, studies // 2, 20 + number)
        over.append([f"{seeds} runs, deviation {between:g}", f"{ours:.3f}", f"{plain:.3f}"])

    called = [[*row] for row in pair_rows(studies)]
    said = [[*row] for row in answer_rows(studies)]

    strong, rows = {}, []
    for number, (examples, controls) in enumerate(POWER_SIZES):
        size = f"{examples:,} examples, {controls} controls"
        strong[size] = []
        for place, strength in enumerate(STRENGTHS):
            simulation = Simulation(examples=examples, controls=controls, specialization=strength)
            beyond, true = power(simulation, studies // 2, 40 + 10 * number + place)
            strong[size].append((strength, beyond))
            rows.append([f"{size}", strength, f"{true:+.1f} %", f"{beyond:.2f}"])
    power_chart = chart(
        strong, ("strength of the planted specialization", "power"), STRENGTHS[-1], "Power"
    )
    (to / "p-values.svg").write_text(p_chart, encoding="utf-8")
    (to / "power.svg").write_text(power_chart, encoding="utf-8")
    page = (Path(__file__).parent / "statistics.md").read_text(encoding="utf-8")
    shares = [f"p ≤ {level:g}" for level in LEVELS]
    names = [f"{name}{who}" for name in FORMULAS for who in ("", ", tasks")]
    for mark, text in {
        "STUDIES": f"{studies:,}",
        "HALF": f"{studies // 2:,}",
        "UNIFORM": table(["study", *shares, "uniform?"], uniform),
        "COVERED": table(["study", *names], covered),
        "OVER RUNS": table(["study", "ours", "percentiles"], over),
        "FEWER": f"{pair_studies(studies):,}",
        "PAIRS": table(PAIR_HEADER, called),
        "ANSWERS": table(ANSWER_HEADER, said),
        "POWER": table(["study", "strength", "D-score", "power"], rows),
    }.items():
        page = page.replace(f"[{mark}]", text)
    (to / "statistics.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
