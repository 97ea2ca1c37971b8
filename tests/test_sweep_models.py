"""What a sweep's models say together: rows, mean and verdict, for each claim and other axis."""

from fake_runs import fake_sweep
from lobes.dissociation.over_models import over_models
from lobes.dissociation.verdicts_over_seeds import SPECIALIZED_BY_IAT
from lobes.report import sections
from lobes.report.sections import Prose
from lobes.report.sweep import page_of
from lobes.report.sweep_models import over_the_models
from lobes.report.tables import Table, cell_of
from lobes.results import SweepResults
from pages import checked

CLAIM = "The scores are higher after IAT than after ordinary multi-task training."


def section(content):
    return over_the_models(checked(content, SweepResults))


def tables(content):
    found = section(content)
    return [] if found is None else [each for each in found.blocks if isinstance(each, Table)]


def compared(*effects, more=()):
    """A sweep of comparisons over models (and another axis) with these effects."""
    content = fake_sweep(axis="model")
    axes = [(f"org/m{k}", *other) for other in more or [()] for k in range(len(effects))]
    runs = []
    for number, (model, *other) in enumerate(axes):
        mean = effects[number % len(effects)] + 0.1 * (number // len(effects))
        verdict = {"claim": CLAIM, "answer": "open", "reasons": ["x."], "numbers": {}}
        if mean is not None:
            verdict["numbers"] = {"mean": mean, "low": mean - 0.01, "high": mean + 0.01, "p": 0.2,
                                  "smallest_effect": 0.005}  # fmt: skip
        values = {"model": model} | ({"iat.delta": other[0]} if other else {})
        runs.append({"name": f"r{number}", "values": values, "error": None, "base": {},
                     "level": 0.95, "verdicts": [verdict]})  # fmt: skip
    content["axes"] = {"model": [f"org/m{k}" for k in range(len(effects))]}
    if more:
        content["axes"]["iat.delta"] = [each for (each,) in more]
    return {**content, "command": "compare", "runs": runs, "seeds": []}


def test_seeds_are_taken_together_before_models():
    content = fake_sweep(axis="model")
    results = checked(content, SweepResults)
    verdicts = [(each.verdict, *each.further) for each in results.seeds if each.verdict]
    first, growth, _ = zip(*verdicts, strict=True)  # claim 2 is not taken together over models
    for table, found in zip(tables(content), (first, growth), strict=True):
        assert [row.cells[0] for row in table.rows] == ["one", "two", "over the models"]
        assert table.rows[-1].cells[1] == over_models(found).numbers["mean"]
        assert table.columns[1].kind == "points"
    assert any(isinstance(each, Prose) and "Yes: over 2 models" in str(each.text)
               for each in section(content).blocks)  # fmt: skip


def test_each_value_of_another_axis_has_its_own_mean():
    first, second = tables(compared(0.01, 0.02, 0.03, more=[(0.1,), (0.3,)]))
    assert "iat.delta 0.1" in first.caption
    assert "iat.delta 0.3" in second.caption
    assert len(first.rows) == 4
    assert abs(second.rows[-1].cells[1] - first.rows[-1].cells[1] - 0.1) < 1e-9
    assert first.columns[1].kind == "signed"  # scores, not percent


def test_one_model_or_another_axis_makes_no_section():
    assert section(compared(0.01)) is None
    assert section(fake_sweep()) is None


def test_models_that_could_tell_nothing_are_named():
    """Where fewer than two are left, the page says why it has no verdict over the models."""
    content = compared(0.01, 0.02)
    for run in content["runs"]:
        run["verdicts"][0]["numbers"]["usable"] = 0.0
    (said,) = section(content).blocks
    assert f"{CLAIM[:-1]}: no verdict over the models" in str(said.text)
    assert "here is none. m0: Inconclusive: x. m1: Inconclusive: x." in str(said.text)
    del content["runs"][0]["verdicts"][0]["numbers"]["usable"]
    (said,) = section(content).blocks
    assert "here is one. m1: Inconclusive: x." in str(said.text)


def test_the_answers_of_comparisons_have_their_effects():
    content = compared(0.01, 0.02)
    content["runs"][1]["verdicts"][0]["numbers"] = {}
    page = page_of(checked(content, SweepResults))
    (table,) = [each for each in sections.tables(page) if each.name == "runs"]
    assert [cell_of(row.cells[1]).value for row in table.rows] == [
        "inconclusive: +0.010 (0.000 to +0.020)",
        "inconclusive",
    ]
    for run in content["runs"]:
        run["verdicts"][0]["claim"] = SPECIALIZED_BY_IAT  # of a D-score, in percent
    page = page_of(checked(content, SweepResults))
    (table,) = [each for each in sections.tables(page) if each.name == "runs"]
    assert cell_of(table.rows[0].cells[1]).value == "inconclusive: 0.0 % (0.0 to 0.0)"


def test_an_interval_is_of_its_own_groups_level():
    """Where the level is an axis: half of an interval is so many standard errors."""
    content = compared(0.01, 0.02, 0.03, more=[(0.1,), (0.3,)])
    before = tables(content)[1].rows[-1].cells[2]
    for run in content["runs"][3:]:
        run["level"] = 0.5
    second = tables(content)[1].rows[-1].cells[2]
    found = [run.verdicts[0] for run in checked(content, SweepResults).runs[3:]]
    wanted = over_models(found, level=0.5).numbers
    assert second == (wanted["low"], wanted["high"]) != before


def test_models_that_end_alike_are_told_apart():
    content = compared(0.01, 0.02, 0.03)
    content["axes"]["model"][0] = content["runs"][0]["values"]["model"] = "other/m1"
    (table,) = tables(content)
    names = [row.cells[0] for row in table.rows]
    assert names == ["other/m1", "org/m1", "m2", "over the models"]


def test_only_intervals_of_a_yes_are_marked():
    """Whatever the interval: p over all fractions decides, too, and two tasks above chance."""
    content = fake_sweep()
    one = next(run for run in content["runs"] if run["verdicts"])
    numbers = {"mean": 5.0, "low": 2.0, "high": 8.0, "p": 0.2}
    marked = []
    for answer in ("open", "yes"):
        verdict = {**one["verdicts"][0], "answer": answer, "numbers": numbers}
        runs = [{**one, "verdicts": [verdict]} if run is one else run for run in content["runs"]]
        seeds = [{**content["seeds"][0], "verdict": verdict}, *content["seeds"][1:]]
        page = page_of(checked({**content, "runs": runs, "seeds": seeds}, SweepResults))
        found = {table.name: table for table in sections.tables(page)}
        place = content["runs"].index(one)
        rows = found["runs"].rows[place].cells, found["seeds"].rows[0].cells
        spans = [cell_of(cell) for row in rows for cell in row if cell_of(cell).value == (2.0, 8.0)]
        assert len(spans) == 2
        marked.append(["beyond" in span.marks for span in spans])
    assert marked == [[False, False], [True, True]]
