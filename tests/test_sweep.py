"""A study in every combination of some values: planned, run, failed, continued, on workers."""

import contextlib
import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fake_runs import fake_sweep
from lobes.cli import app
from lobes.config.sweep import load_sweeps
from lobes.errors import ConfigError, RunError
from lobes.experiments.reports import report_again
from lobes.experiments.run import run_study
from lobes.experiments.run_seeds import run_seeds
from lobes.experiments.several_runs import RunsSpec, RunWork, Shows
from lobes.experiments.store import held
from lobes.experiments.sweep import check_all_ran, plan_sweeps, run_sweep, states
from lobes.report import sections
from lobes.report.sweep import page_of
from lobes.results import ComparisonResults, PooledResults, RunResults, SweepResults, read
from lobes.workers import WorkerSettings
from pages import checked
from tiny_study import as_before, timeless, write_study  # noqa: F401

pytestmark = pytest.mark.usefixtures("as_before")

SMALL = {
    "steps = 23": "steps = 5",
    "fractions = [0.2, 0.5]": "fractions = [0.5]",
    "importance_examples = 41": "importance_examples = 7",
    "agreement_examples = 20": "agreement_examples = 0",
    "similarity_examples = 20": "similarity_examples = 0",
    "resamples = 50": "resamples = 11",
}
# Two seeds, with the training data of the study and with a file that is not there yet.
SWEEP = """
study = "study.toml"
output = "{folder}/swept"

[axes]
seed = [0, 1]
tasks.mood.train = ["mood.train.csv", "other.csv"]
"""
FINE = ("seed=0,tasks.mood.train=mood.train.csv", "seed=1,tasks.mood.train=mood.train.csv")
WITHOUT = ("seed=0,tasks.mood.train=other.csv", "seed=1,tasks.mood.train=other.csv")


def load_one(*arguments):
    (sweep,) = load_sweeps(*arguments)
    return sweep


def plan_one(*arguments, **options):
    (sweep,) = plan_sweeps(*arguments, **options)
    return sweep


def lobes(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def written(folder, content=SWEEP):
    path = folder / "sweep.toml"
    path.write_text(content.replace("{folder}", str(folder)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a study and a sweep of it."""
    folder = tmp_path_factory.mktemp("world")
    study = write_study(folder)
    text = study.read_text(encoding="utf-8")
    for long, short in SMALL.items():
        assert long in text
        text = text.replace(long, short)
    study.write_text(text, encoding="utf-8")
    written(folder)
    return folder


@pytest.fixture(scope="module")
def swept(world):
    """How the sweep ended, two of whose four runs have no data, and its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        return lobes("sweep", world / "sweep.toml"), world / "swept"


def numbers(folder):
    return timeless(json.loads((folder / "results.json").read_text(encoding="utf-8")))


def alike(found, expected):
    """Compare results but for where the data lie, which changes no number."""
    for each in (found, expected):
        each.pop("sha256")
        for task in each["config"]["tasks"]:
            del task["train"]
    return found == expected


# --- what is planned -----------------------------------------------------------------------------


def names_of(folder, axes):
    content = f'study = "study.toml"\n[axes]\n{axes}'
    return [run.name for run in load_one(written(folder, content)).runs]


@pytest.fixture
def place(world, tmp_path):
    """The study in a folder of its own."""
    shutil.copytree(world, tmp_path / "place", ignore=shutil.ignore_patterns("swept"))
    return tmp_path / "place"


def test_every_combination_is_a_study_in_a_folder_of_its_own(place):
    sweep = load_one(
        written(
            place,
            'study = "study.toml"\naxes.seed = [3, 5]\n[axes.iap]\n'
            "controls = [7]\nfractions = [[0.5], [0.2, 0.5]]",
        )
    )
    assert [run.name for run in sweep.runs] == [
        "seed=3,iap.controls=7,iap.fractions=0.5",
        "seed=3,iap.controls=7,iap.fractions=0.2+0.5",
        "seed=5,iap.controls=7,iap.fractions=0.5",
        "seed=5,iap.controls=7,iap.fractions=0.2+0.5",
    ]  # fmt: skip
    assert [run.study.seed for run in sweep.runs] == [3, 3, 5, 5]
    assert sweep.runs[1].study.iap.fractions == (0.2, 0.5)
    assert sweep.runs[1].values["iap.fractions"] == [0.2, 0.5]
    assert sweep.folder.name == "run-sweep"
    assert {run.folder.parent for run in sweep.runs} == {sweep.folder}


def test_names_are_short_safe_and_told_apart(place):
    long, longer = "a" * 40, "a" * 41
    found = names_of(place, f'training.report_to = ["{long}", "{longer}", "A b", "a/b", "B"]')
    assert len({name.casefold() for name in found}) == 5
    assert all(re.fullmatch(r"training\.report_to=[\w.+-]{1,24}", name) for name in found)
    assert found[2] == "training.report_to=A-b"
    assert names_of(place, "iap.level = [0.9, 0.95]") == ["iap.level=0.9", "iap.level=0.95"]
    assert names_of(place, "keep_texts = [true, false]")[0] == "keep_texts=true"


REFUSED = {
    "no study": ("[axes]\nseed = [0]", "study is missing; expected the path of a study file"),
    "no axes": ('study = "study.toml"', r"axes is missing; expected a table \[axes\]"),
    "a study": ('model = "m"\n[axes]\nseed = [0]', "unknown key model; expected a sweep"),
    "another study": ('study = "no.toml"\n[axes]\nseed = [0]', "study: There is no study file"),
    "an empty axis": ("seed = []", r"axes.seed is \[\]; expected a list of values"),
    "no list": ("iap.controls = 3", "axes.iap.controls is 3; expected a list of values"),
    "a refused value": ("iap.controls = [3, -1]", "iap.controls=-1: iap.controls is -1; expected"),
    "an unknown setting": ("iap.control = [3]", "unknown key iap.control; did you mean"),
    "an unknown task": ("tasks.sst2.train_size = [3]", "names the task"),
    "one value twice": ("seed = [1, 1]", "two runs are the same, seed=1-.* and seed=1-"),
    "one study twice": ("training.learning_rate = [1, 1.0]", "two runs are the same"),
    "folders": ('output = ["a", "b"]', "every run has a folder of its own"),
    "an axis in another": ('iap = [""]\n"iap.seed" = [1]', "axes has iap and iap.seed"),
    "very many": (f"seed = {[*range(101)]}\niap.seed = {[*range(100)]}", "10,100 combinations"),
    "no TOML": ("seed = [", "is not valid TOML"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_sweep_is_refused_with_its_place(case, place):
    content, words = REFUSED[case]
    if "study =" not in content and "[axes]" not in content:
        content = f'study = "study.toml"\n[axes]\n{content}'
    path = written(place, content)
    with pytest.raises(ConfigError, match=words) as caught:
        load_one(path)
    assert str(caught.value).startswith(str(path))


def test_what_the_command_refuses_is_refused_before_the_first_run(place):
    path = written(place, 'study = "study.toml"\ncommand = "transfer"\n[axes]\nseed = [0, 1]')
    with pytest.raises(ConfigError, match="seed=0: The study names no task to transfer to"):
        plan_one(path)
    path = written(place, 'study = "study.toml"\ncommand = "prune"\n[axes]\nseed = [0, 1]')
    with pytest.raises(ConfigError, match='command is "prune"; expected "run", "compare"'):
        plan_one(path)


def test_a_setting_that_no_run_would_have_is_refused(place):
    with pytest.raises(ConfigError, match=r"^The setting seed=9 has no effect: seed is an axis, "):
        plan_sweeps(written(place), ["seed=9"])
    with pytest.raises(ConfigError, match=r"output has no effect, since the folder of all runs is"):
        plan_sweeps(written(place), ["output=elsewhere"])
    (free,) = load_sweeps(written(place, SWEEP.replace("output", "#")), ["output=elsewhere"])
    assert free.folder.name == "elsewhere-sweep"
    path = written(place, PARTS)
    assert plan_sweeps(path, ["seed=9"])[1].runs[0].study.seed == 9  # an axis of the first part
    with pytest.raises(ConfigError, match="seed is an axis"):
        plan_sweeps(path, ["seed=9"], part="one")
    with pytest.raises(ConfigError, match=r"compare\.seeds=2 changes nothing that `lobes ru"):
        plan_sweeps(path, ["compare.seeds=2"], part="one")
    assert plan_sweeps(path, ["compare.seeds=2"])[1].runs[0].study.compare.seeds == 2


@pytest.mark.parametrize(
    ("axes", "command"),
    [
        ("name = ['a', 'b']", "run"),
        ("compare.seeds = [1, 2]", "run"),
        ("iap.controls = [1, 2]", "compare"),
        ("iap.method = ['taylor', 'gates']", "transfer"),
        ("training.temperature = [1.0, 2.0]", "run"),
    ],
)
def test_an_axis_that_changes_nothing_is_refused(place, axes, command):
    content = f'study = "study.toml"\ncommand = "{command}"\n[axes]\n{axes}'
    if command == "transfer":
        with (place / "study.toml").open("a", encoding="utf-8") as file:
            file.write('[transfer.task]\nname = "new"\ntrain = "mood.train.csv"\n')
            file.write('text = "sentence"\n')
    with pytest.raises(ConfigError, match=rf"axes\.{axes.split()[0]} changes nothing that `lobes"):
        plan_sweeps(written(place, content))
    sampled = 'training.sampling = ["temperature", "proportional"]'
    if "temperature" in axes:
        assert plan_sweeps(written(place, f"{content}\n{sampled}"))


def test_a_sweep_of_comparisons_shows_their_held_out_scores(place):
    """By which a rate, say, is chosen."""
    axes = "training.learning_rate = [1e-9, 3e-3]\ncompare.methods = [['multi', 'probe']]\n"
    axes += "compare.seeds = [2]\ncompare.controls = [0]"
    path = written(place, f'study = "study.toml"\ncommand = "compare"\n[axes]\n{axes}')
    results, page = run_sweep(plan_one(path))
    for run in results.runs:
        compared = read(page.parent / run.name, ComparisonResults)
        assert compared.held_out.keys() == {"multi", "probe"}
        assert run.held_out == {key: each.mean() for key, each in compared.held_out.items()}
    table = next(each for each in sections.tables(page_of(results)) if each.name == "runs")
    at = [column.title for column in table.columns].index("held-out multi")
    assert [row.cells[at] for row in table.rows] == [r.held_out["multi"] for r in results.runs]


def test_an_empty_text_takes_a_setting_out(place):
    content = 'study = "study.toml"\n[axes]\niat = ["", {delta = 0.5}]'
    sweep = load_one(written(place, content))
    assert [run.study.iat is None for run in sweep.runs] == [True, False]
    assert sweep.runs[0].name == "iat=none"


def test_the_example_is_a_sweep(monkeypatch, tmp_path):
    monkeypatch.setenv("LOBES_DATA", str(tmp_path))
    sweep = load_one(Path(__file__).parents[1] / "examples" / "sweep.toml")
    assert [run.name for run in sweep.runs][1] == "seed=0,iap.value=mean"
    assert len(sweep.runs) == 6


# --- parts ----------------------------------------------------------------------------------------

PARTS = """
output = "{folder}/whole"

[axes]
iap.controls = [3, 4]

[[parts]]
name = "one"
study = "study.toml"
axes.seed = [0, 1]

[[parts]]
name = "two"
study = "study.toml"
command = "compare"
[parts.axes]
iap.controls = [5]
"""


def test_parts_are_sweeps_in_folders_of_their_own(place):
    path = written(place, PARTS)
    one, two = load_sweeps(path)
    assert [(each.name, each.part, each.command) for each in (one, two)] == [
        ("one", "one", "run"),
        ("two", "two", "compare"),
    ]
    assert [run.name for run in one.runs] == [
        f"iap.controls={controls},seed={seed}" for controls in (3, 4) for seed in (0, 1)
    ]
    assert [run.study.iap.controls for run in two.runs] == [5]  # its own axis
    assert (one.folder, two.folder) == (place / "whole/one", place / "whole/two")
    assert [each.part for each in plan_sweeps(path, part="two")] == ["two"]
    listed = json.loads(lobes("sweep", path, "--dry-run", "--json").stdout)
    assert [Path(each["run"]).parent.name for each in listed] == [*["one"] * 4, "two"]
    elsewhere = load_sweeps(path, (), tmp := place / "else")
    assert [each.folder for each in elsewhere] == [tmp / "one", tmp / "two"]


def test_axes_of_all_parts_stay_beside_a_parts_own_of_the_same_table(place):
    """TOML makes one table of `iap.controls` and `iap.fractions`; each is an axis by itself."""
    more = '[[parts]]\nname = "a"\nstudy = "study.toml"\naxes.iap.fractions = [[0.2], [0.5]]\n'
    sweep = load_sweeps(written(place, f"{PARTS}\n{more}"))[2]
    assert dict(sweep.axes) == {"iap.controls": (3, 4), "iap.fractions": ([0.2], [0.5])}
    more = more.replace("iap.fractions = [[0.2], [0.5]]", '"iap.controls" = [5]')
    sweep = load_sweeps(written(place, f"{PARTS}\n{more}"))[2]
    assert dict(sweep.axes) == {"iap.controls": (5,)}


REFUSED_PARTS = {
    "an output that is a number": ("output = 3", r"output is 3; expected a folder"),
    "no output": ('output = ""', r'output is ""; expected a folder'),
    "a setting twice": (
        '[[parts]]\nname = "a"\nstudy = "study.toml"\n'
        'axes = {"iap.controls" = [1], iap = {controls = [2]}}',
        "part 3: axes has iap.controls twice; expected each setting once",
    ),
    "no table": ("parts = 3", r"parts is 3; expected tables \[\[parts\]\]"),
    "a study for all": ('study = "study.toml"', "unknown key study; .* each part names its study"),
    "no name": ('[[parts]]\nstudy = "study.toml"', "part 3: name is missing; expected up to"),
    "a name twice": ('[[parts]]\nname = "One"', 'part 3: name is "One"; expected .* no other'),
    "a path": ('[[parts]]\nname = ".."', 'part 3: name is ".."; expected up to'),
    "an output": ('[[parts]]\nname = "a"\noutput = "b"', "part 3: unknown key output"),
    "no study": ('[[parts]]\nname = "a"', "part 3: study is missing"),
    "no list": ('[[parts]]\nname = "a"\nstudy = "study.toml"\naxes.seed = 1', "part 3: axes.seed"),
    "no setting": (
        '[[parts]]\nname = "a"\nstudy = "study.toml"\naxes.sed = [1]',
        "part 3: .*unknown key sed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED_PARTS)
def test_parts_that_are_none_are_refused_with_their_place(case, place):
    more, words = REFUSED_PARTS[case]
    content = f"{PARTS}\n{more}" if more.startswith("[[") else f"{more}\n{PARTS}"
    if more.startswith("output"):
        content = content.replace('output = "{folder}/whole"', "", 1)
    if more.startswith("parts"):
        content = more
    path = written(place, content)
    with pytest.raises(ConfigError, match=words) as caught:
        load_sweeps(path)
    assert str(caught.value).startswith(str(path))


def test_a_part_that_is_not_there_is_refused(place):
    with pytest.raises(ConfigError, match="the part is 'three'; expected one of one, two"):
        plan_sweeps(written(place, PARTS), part="three")
    with pytest.raises(ConfigError, match=r"the part is 'one'; expected none, since it has no"):
        plan_sweeps(written(place), part="one")


# --- what is run ---------------------------------------------------------------------------------


def test_a_run_that_fails_is_named_and_does_not_stop_the_others(swept):
    done, folder = swept
    assert done.exit_code == 1
    results = read(folder, SweepResults)
    assert tuple(run.name for run in results.failed) == WITHOUT
    assert all("other.csv" in run.error for run in results.failed)
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"Error: 2 of 4 runs failed ({WITHOUT[0]}: ")
    assert "4 of 4 runs done, 2 of them failed." in done.stderr
    assert WITHOUT[1] in done.stdout
    for name in FINE:
        own = read(folder / name, RunResults)
        row = next(run for run in results.runs if run.name == name)
        assert row.verdicts == own.verdicts
        assert row.base == {task.name: task.base for task in own.tasks}
        assert (folder / name / "lobes.log").read_text(encoding="utf-8").endswith(" done\n")


def test_seeds_are_pooled_for_each_combination_of_the_other_axes(swept):
    _, folder = swept
    fine, without = read(folder, SweepResults).seeds
    assert (fine.name, fine.runs) == ("tasks.mood.train=mood.train.csv,seeds", FINE)
    assert fine.values == {"tasks.mood.train": "mood.train.csv"}
    pooled = read(folder / fine.name, PooledResults)
    assert [run.seed for run in pooled.runs] == [0, 1]
    assert (fine.verdict, *fine.further) == pooled.verdicts
    assert fine.further
    assert (without.runs, without.verdict) == ((), None)
    assert without.error == "Fewer than two of these runs have results."


def test_the_page_leads_to_the_pages_of_runs(swept):
    _, folder = swept
    page = (folder / "sweep.html").read_text(encoding="utf-8")
    links = re.findall(r'<a href="([^#"]+)"', page)
    assert links == [*(f"{name}/report.html" for name in FINE),
                     "tasks.mood.train=mood.train.csv,seeds/runs.html"]  # fmt: skip
    assert all((folder / link).is_file() for link in links)
    results, written_page = report_again(folder)
    assert isinstance(results, SweepResults)
    assert written_page.read_text(encoding="utf-8") == page
    frame = results.to_frame()
    assert [*frame["run"]] == [run.name for run in results.runs]


def test_parts_are_run_in_turn_and_those_that_are_finished_kept(swept, tmp_path):
    _, folder = swept
    content = (
        f'output = "{(tmp_path / "parts").as_posix()}"\naxes.seed = [0]\n'
        '[[parts]]\nname = "a"\nstudy = "study.toml"\n'
        '[[parts]]\nname = "b"\nstudy = "study.toml"\naxes.seed = [1]\n'
    )
    path = folder.parent / "parts.toml"
    path.write_text(content, encoding="utf-8")
    shutil.copytree(folder / FINE[0], tmp_path / "parts" / "a" / "seed=0")
    done = lobes("sweep", path, "--json")
    assert done.exit_code == 0, done.stderr
    first, second = json.loads(done.stdout)
    assert [first["name"], second["name"]] == ["a", "b"]
    assert first["runs"][0]["verdicts"] == json.loads(
        (folder / FINE[0] / "results.json").read_text(encoding="utf-8")
    )["verdicts"]  # fmt: skip
    assert (tmp_path / "parts" / "b" / "sweep.html").is_file()


@pytest.fixture
def mended(swept, tmp_path):
    """A copy of the sweep's folder, and its file now that all data are there."""
    _, folder = swept
    data = folder.parent / "mood.train.csv"
    shutil.copytree(folder, tmp_path / "out")
    shutil.copy(data, data.with_name("other.csv"))
    yield folder.parent / "sweep.toml", tmp_path / "out"
    data.with_name("other.csv").unlink()


def test_the_same_command_tries_failed_runs_again_and_keeps_finished_ones(mended):
    path, folder = mended
    sweep = plan_one(path, output=folder)
    assert [each["state"] for each in states(sweep)] == ["finished", "not begun"] * 2
    before = [(folder / name / "results.json").read_bytes() for name in FINE]

    @contextlib.contextmanager
    def progress(run):
        def stop(stage, done, total):
            assert run.name in WITHOUT or stage == "reading data"
            if run.name == WITHOUT[1] and stage.startswith("importance of topic"):
                raise KeyboardInterrupt

        yield stop

    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep, shows=Shows(progress))
    listed = json.loads(lobes("sweep", path, "--output", folder, "--dry-run", "--json").stdout)
    assert [each["state"] for each in listed] == ["finished", "finished", "finished", "begun"]
    done = lobes("sweep", path, "--output", folder, "--quiet")
    assert done.exit_code == 0, done.stderr
    assert [(folder / name / "results.json").read_bytes() for name in FINE] == before
    results = read(folder, SweepResults)
    assert not results.failed
    assert results.seeds[0].verdict == results.seeds[1].verdict
    for fine, other in zip(FINE, WITHOUT, strict=True):
        assert alike(numbers(folder / fine), numbers(folder / other))


def test_a_run_that_is_to_show_more_is_not_finished(swept, tmp_path):
    """Nor is one whose command was interrupted once it knew that."""
    folder, path = tmp_path / "out", swept[1].parent / "sweep.toml"
    shutil.copytree(swept[1], folder)
    more = plan_one(path, ["iap.controls=4"], folder)
    assert [each["state"] for each in states(more)][:2] == ["begun", "not begun"]

    def stop(stage, done, total):
        if stage != "reading data":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(more.runs[0].study, progress=stop)
    config = json.loads((folder / FINE[0] / "config.json").read_text(encoding="utf-8"))
    assert config["config"]["iap"]["controls"] == 4
    assert states(more)[0]["state"] == "begun"
    run_study(more.runs[0].study)
    assert states(more)[0]["state"] == "finished"


def test_other_runs_in_the_folder_are_refused_before_the_first(swept, tmp_path):
    _, folder = swept
    path = folder.parent / "sweep.toml"
    with pytest.raises(RunError, match=r"seed=0,tasks.mood.*holds a run of another study"):
        plan_one(path, ["training.steps=7"])
    assert plan_one(path, ["training.steps=7"], fresh=True)
    (tmp_path / "sweep.html").write_text("mine", encoding="utf-8")
    with pytest.raises(RunError, match="is not as lobes wrote it"):
        plan_one(path, output=tmp_path)


def test_two_drivers_at_once_are_refused(swept):
    _, folder = swept
    sweep = plan_one(folder.parent / "sweep.toml")
    with held(folder), pytest.raises(RunError, match="is in use by another run"):
        run_sweep(sweep)


# --- workers -------------------------------------------------------------------------------------


def test_a_worker_makes_a_whole_run_with_its_log(swept, tmp_path):
    _, folder = swept
    run = plan_one(folder.parent / "sweep.toml", output=tmp_path / "out").runs[2]
    assert run.name == FINE[1]
    work = RunWork(RunsSpec("run", (run.study,), False, Path.cwd(), "sweep x.toml"))
    said = []
    work(0, lambda done, total: said.append((done, total)))
    assert alike(numbers(run.folder), numbers(folder / run.name))
    log = (run.folder / "lobes.log").read_text(encoding="utf-8")
    assert "sweep x.toml" in log.splitlines()[0]
    assert log.endswith(" done\n")
    assert said


@pytest.mark.slow
def test_workers_give_the_same_numbers(swept, tmp_path):
    _, folder = swept
    path = folder.parent / "sweep.toml"
    done = lobes("sweep", path, "--output", tmp_path / "out", "--workers", 2)
    assert done.exit_code == 1
    found, expected = read(tmp_path / "out", SweepResults), read(folder, SweepResults)
    assert (found.runs, found.seeds) == (expected.runs, expected.seeds)
    for name in FINE:
        assert alike(numbers(tmp_path / "out" / name), numbers(folder / name))
    assert {path.name for path in (tmp_path / "out" / "logs").iterdir()} == {
        "worker-0.log",
        "worker-1.log",
    }


@pytest.mark.slow
def test_seeds_on_workers_are_those_without(swept, tmp_path):
    _, folder = swept
    study = plan_one(folder.parent / "sweep.toml").runs[0].study
    study = study.model_copy(update={"output": str(tmp_path / "out")})
    pooled, _ = run_seeds(study, 2, workers=WorkerSettings(2))
    expected = read(folder / "tasks.mood.train=mood.train.csv,seeds", PooledResults)
    assert pooled.verdicts == expected.verdicts
    for seed, name in enumerate(FINE):
        assert alike(numbers(tmp_path / f"out-seed{seed}"), numbers(folder / name))


def test_failed_runs_of_the_same_name_in_two_parts_are_two():
    results = checked(fake_sweep(), SweepResults)
    failed, runs = len(results.failed), len(results.runs)
    assert failed
    with pytest.raises(RunError, match=f"^{2 * failed} of {2 * runs} runs failed "):
        check_all_ran([results, results])
