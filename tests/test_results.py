"""The boundary of results: what is read is valid, and everything else is one clear sentence."""

import copy
import importlib.util
import json
import os
import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from damage import WRONG, outcome, places
from fake_comparisons import fake_comparison, fake_transfer
from fake_results import HOSTILE, fake_results
from fake_runs import fake_runs, fake_sweep
from lobes.clean import clean
from lobes.errors import RunError
from lobes.files import to_json
from lobes.report import console
from lobes.report.exporting import figure_files, table_files
from lobes.report.page import html
from lobes.report.pages import page_of
from lobes.results import (
    ComparisonResults,
    PooledResults,
    RunResults,
    SweepResults,
    TransferResults,
    as_bytes,
    checked,
    content_of,
    read,
)
from lobes.results.files import schemas

ROOT = Path(__file__).parents[1]
SMALL = {"sites": (3, 2)}
FIRST = ("fractions", 0)
COLUMN = (*FIRST, "dissociation", "column")
KINDS = {
    "run": (RunResults, fake_results(tasks=2, extended=True, iat=True, **SMALL)),
    "run of one task": (RunResults, fake_results(tasks=1, controls=0, training=False, **SMALL)),
    "comparison": (ComparisonResults, fake_comparison(seeds=2, tasks=2, **SMALL)),
    "transfer": (TransferResults, fake_transfer(seeds=2, sizes=(5, 50), **SMALL)),
    "runs": (PooledResults, fake_runs(runs=2, tasks=2)),
    "one run": (PooledResults, fake_runs(runs=1, controls=0)),
    "sweep": (SweepResults, fake_sweep()),
}


@pytest.fixture(scope="module", params=KINDS)
def made_up(request):
    """A kind of results, and content of it with every key."""
    kind, content = KINDS[request.param]
    return kind, content_of(checked(content, kind))


def changed(content, **changes):
    return {**copy.deepcopy(content), **changes}


# --- what is read --------------------------------------------------------------------------------


def test_a_round_trip_changes_nothing(made_up, tmp_path):
    kind, content = made_up
    results = checked(content, kind)
    assert checked(results, kind) is results
    assert content_of(results) == content
    path = tmp_path / kind.FILE
    path.write_bytes(as_bytes(results))
    assert content_of(read(path, kind)) == content_of(read(tmp_path, kind)) == content
    assert as_bytes(read(path, kind)) == path.read_bytes()
    assert next(iter(content)) == "schema"


def test_nan_and_infinity_written_by_another_program_are_undefined(tmp_path):
    text = json.dumps(fake_results())
    for number in ("NaN", "Infinity", "-Infinity", "1e999"):
        path = tmp_path / "results.json"
        path.write_text(text.replace('"base": 0.846', f'"base": {number}'))
        assert content_of(read(path, RunResults))["tasks"][0]["base"] is None


def test_hostile_names_are_cleaned():
    results = checked(fake_results(tasks=HOSTILE), RunResults)
    assert results.names == (*HOSTILE[:2], "a&b<c\ufffd\ufffd[31m")
    assert set(results.largest.lesions) == set(results.names)


@settings(max_examples=25, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.text(max_size=9),
        lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x, max_size=3),
        max_leaves=7,
    )
)
def test_cleaning_twice_is_cleaning_once(value):
    once = clean(value)
    assert clean(once) == once
    json.dumps(once, ensure_ascii=False).encode("utf-8")


# --- what is refused -----------------------------------------------------------------------------


def test_a_folder_without_results_is_named(made_up, tmp_path):
    kind, _ = made_up
    name = re.escape(str(tmp_path / kind.FILE))
    with pytest.raises(RunError, match=f"There is no {name}: give the folder of a finished "):
        read(tmp_path, kind)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"schema": "lobes-results",\n "vers', "is damaged: line 2 is not JSON"),
        (b"\xff\xfe\x00", "is damaged: it is not UTF-8 text. Run the study again: it continues"),
        (b"[1]", 'is not a results file of lobes: "schema" is not "lobes-results".'),
        (b'{"sha256": "0", "schema": "lobes-results"}', "its content does not fit its digest"),
        (b"[" * 100_000, "is damaged: "),
        (b"9" * 5_000, "is damaged: "),
    ],
    ids=["cut", "binary", "a list", "another digest", "deep", "long"],
)
def test_a_file_that_is_none_of_ours(tmp_path, content, message):
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(RunError, match=re.escape(message)) as caught:
        read(path, RunResults)
    assert str(caught.value).startswith(str(path))


def test_a_whole_file_that_does_not_fit_is_of_another_version(made_up, tmp_path):
    kind, content = made_up
    plain = json.loads(as_bytes(checked(content, kind)))
    del plain["sha256"], plain["created"]
    path = tmp_path / kind.FILE
    path.write_bytes(to_json(plain, seal=True))
    with pytest.raises(
        RunError, match='by another version of lobes than this one: "created": field'
    ):
        read(path, kind)
    path.write_bytes(to_json(plain))
    with pytest.raises(RunError, match='is damaged: "created": field'):
        read(path, kind)


def test_a_page_in_place_of_results_is_not_called_damaged(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("<!doctype html>", encoding="utf-8")
    with pytest.raises(RunError, match="is not a results file of lobes: give the folder of a fin"):
        read(path, RunResults)


def test_a_folder_in_place_of_a_file(tmp_path):
    (tmp_path / "results.json").mkdir()
    with pytest.raises(RunError, match=r"results\.json: it is no file|There is no"):
        read(tmp_path, RunResults)


def test_other_kinds_and_versions_are_refused(made_up):
    kind, content = made_up
    other = next(each for each in (RunResults, PooledResults) if each is not kind)
    wrong = changed(content, schema=other.schema_name())
    with pytest.raises(RunError, match=f'^X is not {kind.NOUN} of lobes: "schema" is not'):
        checked(wrong, kind, "X")
    with pytest.raises(RunError) as caught:
        checked(changed(content, version=1), kind, "X")
    assert str(caught.value) == (
        "X has version 1, and this lobes reads version 3: run the study again, it keeps "
        "what was measured and writes the new version."
    )
    with pytest.raises(RunError) as caught:
        checked(changed(content, version=4), kind, "X")
    assert str(caught.value) == (
        "X has version 4, newer than the 3 that this lobes reads: update lobes (pip install -U "
        "lobes)."
    )
    for version in ("2", None, 0, -1, True, 2.5):
        with pytest.raises(RunError, match=r"^X is damaged: its version is "):
            checked(changed(content, version=version), kind, "X")


@pytest.mark.parametrize(
    ("name", "path", "value", "message"),
    [
        ("run", ("tasks",), None, '"tasks": input should be a valid tuple'),
        ("run", ("tasks", 1, "metric"), "accuracie", "\"tasks.1.metric\": 'accuracie' is not a m"),
        ("run", ("tasks", 0, "name"), "domain", "two tasks have the same name"),
        ("run", ("fractions", 2, "scores"), [[1, 2]], "scores has the shape [1, 2], expected [2, "),
        ("run", ("fractions", 2, "lesions", "domain"), "7:1", "the heads of domain are not all he"),
        ("run", ("fractions", 0, "lesions", "domain"), "x", '"fractions.0.lesions.domain": c'),
        ("run", ("importance", 0, "task"), "other", "there is no task other"),
        ("run", ("verdicts",), [], "there is no verdict on the claim"),
        ("run", ("verdicts", 0, "reasons"), [], '"verdicts.0": a verdict has no reason'),
        ("run", ("verdicts", 0, "answer"), "maybe", "\"verdicts.0.answer\": input should be 'yes'"),
        ("run", ("verdicts", 1, "claim"), "x", "nothing was measured for the claim 'x'"),
        ("run", ("importance", 0, "values"), [[1, 2, None]] * 2, "not one number for each head"),
        ("run", ("fractions", 0, "scores"), [[1e300, 0], [0, 0]], "expected numbers up to 1e+100"),
        ("run", (*FIRST, "n_controls"), 10**6, "n_controls is 1,000,000, where there are 10 "),
        ("run", (*FIRST, "n_random"), 0, "n_random is 0, where there are "),
        ("run", (*FIRST, "n_heads"), 10**6, "n_heads is 1,000,000, but lesions have up to 0"),
        (
            "run",
            (*FIRST, "exchangeable"),
            10**6,
            "exchangeable is 1,000,000, but the lesions have ",
        ),
        ("run", (*FIRST, "n_pair_controls"), 10**6, "n_pair_controls is 1,000,000, where there "),
        ("run", (*COLUMN, "control_means"), [0.5], "control_values has the shape [10, "),
        ("run", (*COLUMN, "mean_p"), 1.5, 'column.mean_p": expected numbers from 0 to 1'),
        ("run", (*COLUMN, "mean_p"), 0.12, "mean_p is 0.12, which is none of the p-values that 10"),
        ("run", (*COLUMN, "p_values"), [0.5, -1], 'p_values": expected numbers from 0 to 1'),
        ("run", (*FIRST, "pairs", 0, "p_holm"), 2, 'p_holm": expected numbers from 0 to 1'),
        ("run", ("over_fractions", "p"), 0.04, "over_fractions.p is 0.04, which is none of the p"),
        ("run", ("controls", "most"), 3, "n_controls is 10, but at most 3 were asked for"),
        ("run", ("agreement", 0, "spearman"), 1.5, 'spearman": expected numbers from -1 to 1'),
        ("run", ("iap", "lesion"), "both", "iap.lesion is 'both'; expected"),
        ("run", ("iap", "value"), None, "iap.value is None; expected"),
        ("run", ("level",), 2, '"level": input should be less than or equal to 1'),
        ("run", ("more",), 2, '"more": extra inputs are not permitted'),
        ("comparison", ("scores", "iat"), [[0.5]], "scores has the shape [1, 1], expected [2, 2]"),
        ("comparison", ("summary", "methods"), {}, "there are no scores of single"),
        ("comparison", ("model", "sites", 0, "n_heads"), 10**12, "less than or equal to 10000"),
        ("comparison", ("selected",), {}, "there are no chosen steps of single"),
        (
            "comparison",
            ("verdicts",),
            [],
            "there is no verdict on the claim 'The scores are higher",
        ),
        ("comparison", ("selected", "multi"), [1], "there are 1 values, expected 2"),
        ("comparison", ("lesioning",), None, "lesioning is there without D-scores, or these"),
        (
            "comparison",
            ("summary", "differences", 0, "mean", "p"),
            2,
            'mean.p": expected numbers from 0 to 1',
        ),
        ("transfer", ("verdicts",), [], "there is no verdict on the claim 'A new task is learned"),
        ("transfer", ("summary", "starts", "iat"), [], "there are 0 values, expected 2"),
        ("runs", ("fractions",), [], '"fractions": tuple should have at least 1 item'),
        ("runs", ("fractions", 0, "dissociation", "row", "tasks"), [], "there are 0 estimates"),
        ("runs", ("lesioning", "value"), "one", "\"lesioning.value\": input should be 'zero', 'm"),
        ("runs", (*FIRST, "n_controls"), 10**6, "n_controls is 1,000,000, where there are 23 "),
        ("runs", (*FIRST, "n_random"), 10**6, "n_random is 1,000,000, where there are "),
        ("runs", (*COLUMN, "p_controls"), 0.99, "p_controls is 0.99, which is none of the p"),
        ("runs", (*COLUMN, "mean", "p"), 3, 'mean.p": expected numbers from 0 to 1'),
        ("runs", ("base",), [[0.5]], "base has the shape [1, 1], expected [2, 2]"),
    ],
)
def test_damage_is_named_by_its_place(name, path, value, message):
    kind, content = KINDS[name]
    content = place = copy.deepcopy(content)
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(RunError) as caught:
        checked(content, kind, "X")
    said = str(caught.value)
    assert said.startswith("X is damaged: ")
    assert message in said
    assert said.endswith("Run the study again: it continues where it was and writes a new one.")


def test_every_missing_part_is_named(made_up):
    kind, content = made_up
    for name, field in kind.model_fields.items():
        if field.is_required():
            part = {key: value for key, value in content.items() if key != name}
            with pytest.raises(RunError, match=f'damaged: "{name}": field required. Run the study'):
                checked(part, kind, "X")


def show(content, kind):
    """Read the results and show all of them, on a page, in a terminal and in files."""
    page = page_of(checked(content, kind, "X"))
    html(page)
    console.shown(page)
    assert list(table_files(page))
    assert list(figure_files(page, png=False))


def test_a_comparison_without_the_chosen_steps_of_iat_is_shown():
    kind, content = KINDS["comparison"]
    content = copy.deepcopy(content)
    content["selected"]["iat"] = None
    show(content, kind)


@pytest.mark.parametrize("name", ["run", "comparison", "transfer", "runs"])
@pytest.mark.parametrize("values", [40, pytest.param(120, marks=pytest.mark.slow)])
def test_a_wrong_value_is_shown_or_refused_in_one_sentence(name, values):
    kind, content = KINDS[name]
    content = copy.deepcopy(content)
    generator, where, found = random.Random(values), list(places(content)), set()
    for _ in range(values):
        holder, key = generator.choice(where)
        right, holder[key] = holder[key], generator.choice(WRONG)
        found.add(outcome(show, content, kind))
        holder[key] = right
    assert found == {"read", "refused"}
    assert outcome(show, content, kind) == "read"


# --- what other programs read --------------------------------------------------------------------


@pytest.fixture(scope="module")
def script():
    """scripts/results_schema.py as a module."""
    spec = importlib.util.spec_from_file_location("s", ROOT / "scripts" / "results_schema.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_say_what_the_types_are(script):
    for name, text in (("results.md", script.page()), ("results.schema.json", script.schema())):
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == text


def test_every_field_has_a_meaning():
    for schema in schemas().values():
        for part in (schema, *schema.get("$defs", {}).values()):
            if part.get("title") == "Verdict":
                continue
            missing = [n for n, f in part["properties"].items() if not f.get("description")]
            assert not missing, part["title"]


@pytest.mark.parametrize("kind", [RunResults, PooledResults])
def test_a_pipe_in_the_place_of_results_is_refused_at_once(kind, tmp_path):
    os.mkfifo(tmp_path / kind.FILE)
    with pytest.raises(RunError, match="it is no file"):
        read(tmp_path, kind)
