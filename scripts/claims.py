"""Writes the tables and figures of docs/results/claims.md from the results in docs/results/data.

    scripts/claims.py                                   the page, anew
    scripts/claims.py --collect RUN… --part unlike      results of finished runs into the data first

A run is a folder of `lobes run`, `compare`, `transfer` or `report` (several seeds, their folder
ends with `seeds` in a sweep). Its results lie in data/PART/MODEL, one of each kind; of the study
only its settings are kept, with the model's name for its folder.
"""

import argparse
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lobes.data.packaged_models import PREFIX
from lobes.dissociation.over_models import has_effect
from lobes.dissociation.verdict import LESS_ALIKE, MORE_SPECIALIZED, SPECIALIZED, WORDS, Verdict
from lobes.dissociation.verdicts_over_seeds import SPECIALIZED_BY_IAT
from lobes.errors import ConfigError, LobesError, RunError
from lobes.report import formatting as fmt
from lobes.report import phrases
from lobes.report.sweep_models import OVER_MODELS, effect_unit, forest_plot
from lobes.results import (
    ComparisonResults,
    PooledResults,
    RunResults,
    TransferResults,
    as_bytes,
    read,
)
from lobes.results.base import Results

RESULTS = Path(__file__).parent.parent / "docs" / "results"
DATA = RESULTS / "data"
PAGE = RESULTS / "claims.md"
BEGIN, END = "<!-- claims: begin -->", "<!-- claims: end -->"
KINDS = (RunResults, PooledResults, ComparisonResults, TransferResults)


def collect(folders: Sequence[Path], part: str, data: Path = DATA) -> list[Path]:
    """Copy the results of runs into the data, without the paths of their machine.

    Raises `ConfigError` for a part that is no folder's name, and for two runs of one model and
    kind, and `RunError` for a folder without results; nothing is written then.
    """
    if not re.fullmatch(r"[\w-]+", part):
        raise ConfigError(f"The part is {part!r}; expected letters, digits, _ and - alone.")
    found: dict[Path, tuple[Path, Results]] = {}
    for folder in folders:
        results = _read(folder)
        target = data / part / _model(results) / results.FILE
        if target in found:
            raise ConfigError(
                f"{found[target][0]} and {folder} hold results of one kind for one model, and the "
                f"page takes one: give the folder of several seeds that lobes report makes."
            )
        found[target] = folder, _without_paths(results)
    for target, (_, results) in found.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(as_bytes(results))
    return [*found]


def _without_paths(results: Results) -> Results:
    changed: dict[str, Any] = {}
    if "config" in type(results).model_fields:
        config = {k: v for k, v in results.config.items() if k not in ("output", "data_dir")}
        changed["config"] = config | {"model": results.model.name}  # of a folder its last part
        changed["environment"] = {k: v for k, v in results.environment.items() if k != "platform"}
    return results.model_copy(update=changed)


def write_page(data: Path = DATA, page: Path = PAGE) -> None:
    """Write the part of the page that is made of the data, and its figures beside it."""
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    body = "\n".join(lines(data, page.parent))
    page.write_text(f"{before}{BEGIN}\n{body}\n{END}{after}", encoding="utf-8")
    for figure in page.parent.glob("claim-*.svg"):
        if f"]({figure.name})" not in body:  # of data that are no longer there
            figure.unlink()


def lines(data: Path, figures: Path) -> Iterator[str]:
    """Yield the tables of all claims; figures are written into a folder."""
    rows = [*_rows(data)]
    yield from _in_short(rows)
    yield from _rates(data)
    yield from _trained(rows)
    claims = {(_number(verdict.claim, each), verdict.claim) for *_, each, verdict in rows}
    for number, claim in sorted(claims):
        yield f"\n### Claim {number}: {claim.rstrip('.')}\n"
        yield "| tasks | model | effect (95 % interval) | p | runs | budget | answer |"
        yield "|---|---|---|---|---|---|---|"
        here = [row for row in rows if row[-1].claim == claim]
        for part, model, results, verdict in here:
            effect, p, answer = _cells(verdict)
            runs, budget = _runs(results), _budget(results)
            yield f"| {part} | {model} | {effect} | {p} | {runs} | {budget} | {answer} |"
        for part in dict.fromkeys(part for part, *_ in here):
            found = [
                (model, verdict)
                for own, model, _, verdict in here
                if own == part and has_effect(verdict)
            ]
            if len(found) > 1:
                yield from _over_models(part, found, figures / f"claim-{number}-{part}.svg")
        yield ""
        for part, model, _, verdict in here:
            yield f"- {part}, {model}: {phrases.headline(verdict)}"


def _in_short(rows: Sequence[tuple[str, str, Results, Verdict]]) -> Iterator[str]:
    """Yield a table of the answers alone, by claim and model, with the part that each is of."""
    if not rows:
        return
    models = sorted({model for _, model, *_ in rows})
    found = dict[tuple[str, str], dict[str, list[str]]]()
    for part, model, results, verdict in rows:
        answers = found.setdefault((_number(verdict.claim, results), verdict.claim), {})
        answers.setdefault(model, []).append(f"{WORDS[verdict.answer].lower()} ({part})")
    yield "\n### In short\n"
    yield f"| claim | {' | '.join(models)} |"
    yield f"|---|{'---|' * len(models)}"
    for (number, claim), answers in sorted(found.items()):
        cells = ("; ".join(answers.get(model, [fmt.UNDEFINED])) for model in models)
        yield f"| {number}: {claim.rstrip('.')} | {' | '.join(cells)} |"


def _rates(data: Path) -> Iterator[str]:
    """Yield a table of held-out scores by the learning rate, of what was trained at several."""
    found = dict[tuple[str, str], dict[float, float]]()
    for path in sorted(data.glob(f"*/*/{ComparisonResults.FILE}")):
        each = read(path.parent, ComparisonResults)
        rate = each.training.get("learning_rate")
        if rate is not None and 0 in each.seeds and "multi" in each.held_out:
            score = float(each.held_out["multi"][each.seeds.index(0)].mean())
            rates = found.setdefault((each.name, path.parent.name), {})
            rates[rate] = score
    found = {key: rates for key, rates in found.items() if len(rates) > 1}
    if not found:
        return
    columns = sorted({rate for rates in found.values() for rate in rates})
    yield "\n### Mean score on held-out training data, by the learning rate (seed 0)\n"
    yield f"| tasks | model | {' | '.join(f'{rate:g}' for rate in columns)} |"
    yield f"|---|---|{'---|' * len(columns)}"
    for (tasks, model), rates in found.items():
        scores = (fmt.fixed(rates.get(rate, math.nan)) for rate in columns)
        yield f"| {tasks} | {model} | {' | '.join(scores)} |"


def _trained(rows: Sequence[tuple[str, str, Results, Verdict]]) -> Iterator[str]:
    """Yield a table of the scores and D-scores of comparisons."""
    compared = {
        (part, model): each for part, model, each, _ in rows if isinstance(each, ComparisonResults)
    }
    if not compared:
        return
    yield "\n### Scores and D-scores after training\n"
    yield "| tasks | model | after | scores | D-score | SDs above exchanges |"
    yield "|---|---|---|---|---|---|"
    for (part, model), each in compared.items():
        best, exchanged = each.summary.headline(phrases.HEADLINE), each.summary.exchanged
        for method, summary in each.summary.methods.items():
            scores = ", ".join(
                f"{task.name} {fmt.fixed(score.mean)}"
                for task, score in zip(each.tasks, summary.tasks, strict=True)
            )
            d_score = distance = fmt.UNDEFINED
            if best is not None and method in ("multi", "iat"):
                mean = getattr(best, method).mean
                ends = fmt.interval(mean.low, mean.high)
                d_score = f"{fmt.points(mean.mean)} ({ends}) at {fmt.percent(best.fraction)}"
            if exchanged is not None and method in ("multi", "iat"):
                own = getattr(exchanged, method)
                distance = f"{fmt.points(own.mean)} ({fmt.interval(own.low, own.high)})"
            yield f"| {part} | {model} | {method} | {scores} | {d_score} | {distance} |"


def _over_models(part: str, found: Sequence[tuple[str, Verdict]], figure: Path) -> Iterator[str]:
    title = f"{found[0][1].claim.rstrip('.')} ({part})"
    mean, drawing = forest_plot(found, title)
    effect, p, answer = _cells(mean)
    yield f"| {part} | **{OVER_MODELS}** | {effect} | {p} | | | {answer} |"
    if drawing is not None:
        figure.write_text(drawing.document(figure.stem), encoding="utf-8")
        yield f"\n![{title}]({figure.name})"


def _rows(data: Path) -> Iterator[tuple[str, str, Results, Verdict]]:
    """(tasks, model, results, verdict) of all data."""
    for folder in sorted({path.parent for path in data.glob("*/*/*.json")}):
        for kind in KINDS:
            if (folder / kind.FILE).is_file():
                results = read(folder, kind)
                for verdict in results.verdicts:
                    yield folder.parent.name, folder.name, results, verdict


def _read(folder: Path) -> Results:
    for kind in KINDS:
        if (folder / kind.FILE).is_file():
            return read(folder, kind)
    raise RunError(f"{folder} holds no results of a run.")


def _number(claim: str, results: Results) -> str:
    """The number of a claim in docs/method.md#claims."""
    known = {SPECIALIZED: "1", MORE_SPECIALIZED: "1b", LESS_ALIKE: "2", SPECIALIZED_BY_IAT: "3"}
    return known.get(claim) or ("5" if isinstance(results, TransferResults) else "4")


def _model(results: Results) -> str:
    name = results.runs[0].model if isinstance(results, PooledResults) else results.model.name
    return name.rstrip("/").rpartition("/")[2].removeprefix(PREFIX)


def _cells(verdict: Verdict) -> tuple[str, str, str]:
    numbers, (_, write) = verdict.numbers, effect_unit(verdict)
    key = next((key for key in ("mean", "correlation") if key in numbers), None)
    if key is None:
        effect = fmt.UNDEFINED
    else:
        effect = write(numbers[key])
        if "low" in numbers and "high" in numbers:
            effect += f" ({fmt.interval(numbers['low'], numbers['high'], write)})"
    p = fmt.p_value(numbers.get("p", float("nan")))
    return effect, p, WORDS[verdict.answer].lower()


def _runs(results: Results) -> str:
    if isinstance(results, RunResults):
        return "1"
    return str(len(results.runs if isinstance(results, PooledResults) else results.seeds))


def _budget(results: Results) -> str:
    if isinstance(results, PooledResults):
        steps = results.runs[0].steps
    elif isinstance(results, RunResults):
        steps = None if results.training is None else results.training.steps
    else:
        steps = results.training.get("steps")
    if steps is None:
        return "not trained"
    if isinstance(results, TransferResults):  # its own steps are those on the new task
        before = results.config["training"]["steps"]
        return f"{fmt.thousands(before)} steps, then {fmt.thousands(steps)}"
    return f"{fmt.thousands(steps)} steps"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--collect", nargs="+", type=Path, default=[], metavar="RUN")
    parser.add_argument("--part", help="the folder of the collected results, such as unlike")
    given = parser.parse_args()
    if bool(given.collect) != (given.part is not None):
        parser.error("--collect and --part go together")
    try:
        for path in collect(given.collect, given.part) if given.collect else ():
            print(path)
        write_page()
    except LobesError as error:
        raise SystemExit(f"Error: {error}") from error


if __name__ == "__main__":
    main()
