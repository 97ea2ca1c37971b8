"""Study files: what they say, what they may not say, and what a user is told then."""

import json
import os
import re
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lobes import IAT
from lobes.config.keys import differences
from lobes.config.settings import METHODS, IapConfig, IatConfig
from lobes.config.study import SECTIONS, StudyConfig, load_study, override
from lobes.errors import ConfigError
from lobes.measure.settings import IapSettings

STUDY = """
model = "org/some-model"

[[tasks]]
name = "mood"
train = "data/train.csv"
validation = "data/validation.csv"
text = "sentence"
labels = ["bad", "good"]

[[tasks]]
name = "topic"
dataset = "org/topics"
config = "short"
text = ["first", "second"]

[training]
steps = 70

[iap]
fractions = [0.3, 0.1]
"""


@pytest.fixture
def write(tmp_path):
    def _write(text: str) -> Path:
        path = tmp_path / "my study.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return _write


def refusal(path: Path, *settings: str) -> str:
    """The sentence with which a study file is refused, without the file's own path."""
    with pytest.raises(ConfigError) as caught:
        load_study(path, settings)
    return str(caught.value).removeprefix(f"{path}: ")


def test_a_study_is_resolved_when_it_is_read(write):
    path = write(STUDY)
    study = load_study(path)
    mood, topic = study.tasks
    assert (study.name, study.output, study.model) == (
        "my study",
        "runs/my study",
        "org/some-model",
    )
    assert mood.train == str(path.parent / "data/train.csv")
    assert mood.text == ("sentence",)
    assert topic.text == ("first", "second")
    assert (topic.train, topic.validation) == (None, None)
    assert study.training.length == (70, None)
    assert study.iap.fractions == (0.1, 0.3)
    assert study.iap_seed == study.seed == 0


def test_three_epochs_where_no_length_is_given(write):
    assert load_study(write(STUDY.replace("steps = 70", ""))).training.length == (None, 3.0)


def test_a_folder_beside_the_study_is_the_model(write):
    path = write(STUDY.replace("org/some-model", "org/here"))
    (path.parent / "org" / "here").mkdir(parents=True)
    assert load_study(path).model == str(path.parent / "org" / "here")


def test_what_to_compare_and_where_to_transfer(write):
    study = load_study(
        write(
            STUDY + '[compare]\nmethods = ["probe", "multi"]\npenalties = [1.0, 0.1]\n[transfer]\n'
            'fractions = [1.0, 0.1]\n[transfer.task]\nname = "new"\ntrain = "new.csv"\ntext = "a"\n'
        ),
        ["compare.seeds=3", "transfer.task.train_size=7"],
    )
    assert study.compare.methods == ("multi", "probe")
    assert (study.compare.seeds, study.compare.penalties) == (3, (0.1, 1.0))
    assert study.transfer.fractions == (0.1, 1.0)
    assert study.transfer.task.train_size == 7
    assert os.path.isabs(study.transfer.task.train)
    plain = load_study(write(STUDY), ['compare.methods="iat"'])
    assert (plain.compare.methods, plain.transfer) == (("iat",), None)


def test_what_is_recorded_of_a_variable_is_its_name(write, monkeypatch, tmp_path):
    text = STUDY.replace('"data/', '"${SHELF}/mood/').replace("org/some-model", "${SHELF}/model")
    path = write('output = "${SHELF}/runs"\ndata_dir = "x/${SHELF}"\n' + text)
    (tmp_path / "secret" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHELF", "secret")
    study = load_study(path)
    assert study.tasks[0].train == str(tmp_path / "secret/mood/train.csv")
    assert study.data_dir == str(path.parent / "x/secret")
    beside = study.model_copy(update={"output": f"{study.output}-compare"})
    for one, output in ((study, "${SHELF}/runs"), (beside, "${SHELF}/runs-compare")):
        assert "secret" not in str(one.to_dict())
        assert one.to_dict()["output"] == output
        assert one.to_dict()["model"] == "${SHELF}/model"
    assert StudyConfig.from_dict(study.to_dict()) == study
    assert "secret" not in str(override(study, "seed=3").to_dict())
    monkeypatch.delenv("SHELF")
    shown = StudyConfig.from_dict(study.to_dict())
    assert shown.tasks[0].train.endswith("${SHELF}/mood/train.csv")


def test_what_lies_beside_an_output_is_not_hidden(write):
    """`lobes compare` and others add to its name, which a folder of dots only does not have."""
    study = load_study(write(STUDY))
    for output, expected in (
        ("runs/x/", "runs/x-compare"),
        (".", f"{Path.cwd()}-compare"),
        ("..", f"{Path.cwd().parent}-compare"),
    ):
        assert study.model_copy(update={"output": output}).beside("-compare") == expected


def test_a_name_has_no_variables(write, monkeypatch):
    monkeypatch.setenv("SHELF", "secret")
    path = write('name = "${SHELF}"\n' + STUDY.replace('name = "my study"\n', ""))
    assert refusal(path) == (
        'name is "${SHELF}"; expected a name without variables, which are put into paths only.'
    )


def test_environment_variables_in_paths(write, monkeypatch):
    path = write(STUDY.replace('"data/', '"${LOBES_DATA}/mood/'))
    monkeypatch.setenv("LOBES_DATA", "shelf")
    assert load_study(path).tasks[0].train == os.path.abspath("shelf/mood/train.csv")
    monkeypatch.delenv("LOBES_DATA")
    assert refusal(path) == (
        'tasks.mood.train is "${LOBES_DATA}/mood/train.csv", but the environment variable '
        "LOBES_DATA is not set; set it, for example `export LOBES_DATA=FOLDER`."
    )


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("steps = 70", "stepz = 70", "unknown key training.stepz; did you mean steps?"),
        ("steps = 70", "fractions = [1]", "unknown key training.fractions; it belongs in [iap]."),
        ("steps = 70", "seed = 1", "unknown key training.seed; it belongs at the top of the file."),
        (
            "[training]",
            "[oven]",
            "unknown key oven; expected one of name, model, output, seed, precision, pooling, "
            "max_length, trust_remote_code, keep_texts, data_dir, tasks, training, iat, iap, "
            "growth, compare, transfer.",
        ),
        (
            "label",
            "lable",
            "unknown key tasks.mood.lables; did you mean labels?",
        ),
        (
            'name = "mood"',
            "",
            "tasks.1.name is missing; expected a name of up to 100 letters, digits, - and _.",
        ),
        (
            'name = "mood"',
            'name = "good mood"',
            'tasks.good mood.name is "good mood"; expected a name of up to 100 letters, digits, - '
            "and _.",
        ),
        (
            'name = "topic"',
            'name = "mood"',
            'tasks names "mood" 2 times; expected a name of its own for every task.',
        ),
        (
            'model = "org/some-model"',
            "",
            "model is missing; expected a model of the hub, a folder, or packaged:NAME.",
        ),
        (
            "[0.3, 0.1]",
            "[0.3, 1.5]",
            "iap.fractions.1 is 1.5; expected shares of all heads, each above 0 and at most 1.",
        ),
        ("[0.3, 0.1]", "[0.3, 0.3]", "iap.fractions is [0.3, 0.3]; expected each share once."),
        (
            "[0.3, 0.1]",
            "[nan]",
            "iap.fractions.0 is NaN; expected shares of all heads, each above 0 and at most 1.",
        ),
        (
            "[0.3, 0.1]",
            '[0.3]\nlesion_tasks = ["modd"]',
            'iap.lesion_tasks names "modd"; expected tasks of this study: mood, topic.',
        ),
        (
            "[0.3, 0.1]",
            '[0.3]\nmatched = "sites"',
            'iap.matched is "sites"; expected "site" or "total".',
        ),
        (
            "[0.3, 0.1]",
            "[0.3]\ncontrols = -1",
            "iap.controls is -1; expected a number of exchanges from 0 to 10,000.",
        ),
        (
            "steps = 70",
            'steps = "70"',
            'training.steps is "70"; expected a number of steps from 1 to 10,000,000.',
        ),
        (
            "steps = 70",
            "steps = 70\nepochs = 2",
            "training.steps is 70 and training.epochs is 2; expected one of the two.",
        ),
        ("steps = 70", "enabled = 1", None),
        ('"sentence"', "[]", None),
        (
            '["bad", "good"]',
            '["good", "good"]',
            'tasks.mood.labels is ["good", "good"]; expected different names.',
        ),
        (
            '["bad", "good"]',
            '["good"]',
            'tasks.mood.labels is ["good"]; expected a list of two or more different class names.',
        ),
        (
            '["bad", "good"]',
            '["bad", "good"]\nmetric = "acc"',
            'tasks.mood.metric is "acc"; expected one of accuracy, f1, f1_micro, f1_macro, '
            "greedy, matthews, spearman, pearson, or one that an installed package declares.",
        ),
        (
            'train = "data/train.csv"',
            "",
            "tasks.mood.train is missing; expected a file, or `dataset` with a data set of the "
            "hub.",
        ),
        (
            'dataset = "org/topics"',
            'train = "x.csv"',
            'tasks.topic.config is "short", but tasks.topic.dataset is missing; `config` belongs '
            "to a data set of the hub.",
        ),
        ("[training]", "iap = 3\n[training]", None),
        (
            "[training]",
            '[compare]\nmethods = ["multi", "lasso"]\n[training]',
            'compare.methods.1 is "lasso"; expected one or more of single, multi, iat, frozen, '
            "probe, sum, pcgrad, mgda, cagrad, imtl, famo, uncertainty, tuned.",
        ),
        (
            "[training]",
            '[compare]\nmethods = ["iat", "iat"]\n[training]',
            'compare.methods is ["iat", "iat"]; expected each once.',
        ),
        (
            "[training]",
            "[compare]\nheld_out = 0.7\n[training]",
            "compare.held_out is 0.7; expected a share of the training data above 0 and at most "
            "0.5.",
        ),
        (
            "[training]",
            "[compare]\npenalties = [0.1, 0.0]\n[training]",
            "compare.penalties.1 is 0.0; expected numbers from 1e-12 to 1e12, such as [0.1, 1].",
        ),
        (
            "[training]",
            "[transfer]\nsteps = 7\n[training]",
            "transfer.task is missing; expected a table [transfer.task], as one of [[tasks]].",
        ),
        (
            "[training]",
            '[transfer.task]\nname = "new"\ntext = "a"\n[training]',
            "transfer.task.train is missing; expected a file, or `dataset` with a data set of the "
            "hub.",
        ),
        (
            "[training]",
            '[transfer.task]\nname = "new"\ntrain = "x.csv"\n[training]',
            "transfer.task.text is missing; expected the name of one text column, or a list of "
            "two; for images, `image` with the name of their column.",
        ),
        (
            "[training]",
            '[transfer.task]\nname = "mood"\ndataset = "x"\ntext = "a"\n[training]',
            'transfer.task.name is "mood", which is one of [[tasks]]; expected a new task under a '
            "name of its own.",
        ),
        (
            "[training]",
            '[transfer]\nfractions = [0.1, 0.1]\n[transfer.task]\nname = "new"\ndataset = "x"\n'
            'text = "a"\n[training]',
            "transfer.fractions is [0.1, 0.1]; expected each share once.",
        ),
        (
            "[training]",
            "[transfer]\nepochs = 3\n[training]",
            "unknown key transfer.epochs; it belongs in [training].",
        ),
    ],
)
def test_what_a_study_may_not_say(write, old, new, sentence):
    assert old in STUDY
    message = refusal(write(STUDY.replace(old, new)))
    assert "\n" not in message
    assert message.endswith((".", "?"))
    assert sentence is None or message == sentence


def test_tables_and_tasks_of_the_wrong_kind(write):
    assert refusal(write('model = "m"\niap = 3\ntasks = []')) == (
        "tasks is []; expected one or more [[tasks]] tables, or a list of known tasks."
    )
    assert refusal(write(f"iap = 3\n{STUDY.replace('[iap]', '').replace('fractions', '#')}")) == (
        "iap is 3; expected a table [iap]."
    )
    filtered = 'text = "t"\nfilter = {a = 2000-01-01}'
    assert refusal(write(f'model = "m"\n[[tasks]]\nname = "a"\ntrain = "a.csv"\n{filtered}')) == (
        'tasks.a.filter.a is "2000-01-01"; expected a table of columns and values, such as '
        '{language = ["de", "en"]}.'
    )
    assert refusal(write('model = "m"\ntasks = ["mood"]')) == (
        "tasks.mood is not a known task; expected one of those that `lobes tasks` lists, or a "
        "table with `train` or `dataset`."
    )


def test_known_tasks_need_no_more_than_their_names(write, monkeypatch, tmp_path):
    monkeypatch.delenv("LOBES_DATA", raising=False)
    path = write('model = "org/m"\ntasks = ["sst2", "mnli"]')
    plain = load_study(path)
    assert [task.name for task in plain.tasks] == ["sst2", "mnli"]
    assert all(task.is_known for task in plain.tasks)
    assert plain.data_dir is None
    changed = load_study(path, ["tasks.mnli.validation=validation_mismatched", "data_dir=shelf"])
    assert changed.tasks[1].validation == "validation_mismatched"
    assert changed.data_dir == str(tmp_path / "shelf")
    tables = load_study(write('model = "org/m"\n[[tasks]]\nname = "sst2"\ntrain_size = 7'))
    assert tables.tasks[0].train_size == 7
    assert StudyConfig.from_dict(changed.to_dict()) == changed


def test_the_environment_names_the_folder_of_known_tasks_only(write, monkeypatch, tmp_path):
    monkeypatch.setenv("LOBES_DATA", str(tmp_path / "shelf"))
    assert load_study(write('model = "org/m"\ntasks = ["sst2"]')).data_dir == str(
        tmp_path / "shelf"
    )
    assert load_study(write(STUDY)).data_dir is None
    named = load_study(write('model = "org/m"\ndata_dir = "here"\ntasks = ["sst2"]'))
    assert named.data_dir == str(tmp_path / "here")


@pytest.mark.parametrize(
    ("tasks", "sentence"),
    [
        ('tasks = ["sst-2"]', 'tasks.sst-2 is not a known task; did you mean "sst2"?'),
        (
            '[[tasks]]\nname = "sst2"\nlabels = ["a", "b"]',
            'tasks.sst2.labels is there, but "sst2" is a known task, whose data are known; name '
            "`train` or `dataset` for data of your own.",
        ),
        (
            '[[tasks]]\nname = "sst2"\nwords = ["a", "b"]',
            "tasks.sst2.words is there, but tasks.sst2.prompt is missing; a prompted task needs "
            "both.",
        ),
        (
            '[[tasks]]\nname = "sst2"\nprompt = "{sentence}"\nwords = ["a", "b"]',
            "tasks.sst2 has a prompt, but training.enabled is true; expected false, since "
            "prompted tasks are not trained.",
        ),
        (
            '[[tasks]]\nname = "sst2"\n[[tasks]]\nname = "x"\ntrain = "x.csv"\ntext = "a"\n'
            'prompt = "{a}"\nwords = ["a", "b"]',
            "tasks.x has a prompt, but tasks.sst2 has none; expected prompts for all tasks of a "
            "study, or for none.",
        ),
        (
            '[[tasks]]\nname = "x"\ntrain = "x.csv"\ntext = "a"\nfilter = "b"',
            'tasks.x.filter is "b"; expected a table of columns and values, such as {language = '
            '["de", "en"]}.',
        ),
    ],
)
def test_what_a_known_or_a_prompted_task_may_not_say(write, tasks, sentence):
    assert refusal(write(f'model = "org/m"\n{tasks}')) == sentence


def test_a_table_of_data_of_ones_own_in_full(write):
    study = load_study(
        write(
            'model = "org/m"\n[[tasks]]\nname = "x"\ntrain = "x.csv"\ntext = "a"\n'
            'test = "t.csv"\nstratified = true\ncolumns = {a = "Text A"}\n'
            'label_map = {"1" = "yes", "2" = "no"}\nfilter = {language = ["de", "en"]}\n'
            'leave_out = {year = 1999, label = ""}'
        )
    )
    (task,) = study.tasks
    assert os.path.isabs(task.test)
    assert task.filter == {"language": ("de", "en")}
    assert task.leave_out == {"year": 1999, "label": ""}
    assert StudyConfig.from_dict(json.loads(json.dumps(study.to_dict()))) == study


def test_a_task_to_transfer_to_is_never_prompted(write):
    study = STUDY + '[transfer.task]\nname = "rte"\nprompt = "{a}"\nwords = ["a", "b"]\n'
    assert refusal(write(study)) == (
        "transfer.task.prompt is there, but a task that is transferred to is trained; leave "
        "`prompt` and `words` out."
    )


@pytest.mark.parametrize("model", ["./nowhere", "~/nowhere", "a/b/c", "two words"])
def test_a_folder_that_is_not_there(write, model):
    message = refusal(write(STUDY.replace("org/some-model", model)))
    assert message.startswith(f'model is "{model}", and there is no folder ')
    assert message.endswith("expected a folder with a model, or the name of a model on the hub.")


def test_files_that_are_no_study(write, tmp_path):
    missing, folder = tmp_path / "missing.toml", tmp_path
    assert refusal(missing) == (
        f"There is no study file {missing}; expected a TOML file, such as `lobes init` writes."
    )
    assert refusal(folder) == f"{folder} is a folder; expected a study, a TOML file."
    table = tmp_path / "mood.csv"
    table.write_text("text,label\na fine day,good\n", encoding="utf-8")
    assert refusal(table).endswith("`lobes init` writes a study for your data.")
    broken = write("model = ?")
    assert refusal(broken) == f"{broken} is not valid TOML: Invalid value (at line 1, column 9)."
    broken.write_bytes("model = 'é'".encode("latin-1"))
    assert refusal(broken) == f"{broken} is not encoded in UTF-8; expected a TOML file."


def test_a_byte_order_mark_is_no_fault(write):
    assert load_study(write("\ufeff" + STUDY)).name == "my study"


def test_settings_on_top_of_the_file(write):
    path = write(STUDY)
    study = load_study(
        path,
        [
            "iap.controls=20",
            "tasks.mood.train_size=500",
            "tasks.1.metric=f1",
            "precision=bf16",
            'tasks.mood.text=["one", "two"]',
            "training.steps=",
            "training.epochs = 2.5",
        ],
    )
    mood, topic = study.tasks
    assert (study.iap.controls, study.precision) == (20, "bf16")
    assert (mood.train_size, mood.text, topic.metric) == (500, ("one", "two"), "f1")
    assert study.training.length == (None, 2.5)
    assert override(study, "iap.controls=3", "seed=5") == study.model_copy(
        update={"seed": 5, "iap": study.iap.model_copy(update={"controls": 3})}
    )


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        (
            "iap.controls",
            'Cannot read the setting "iap.controls": expected KEY=VALUE, for example '
            "iap.controls=20.",
        ),
        ("=3", None),
        ("iap.controls=[1", None),
        ("iap.controls=1\nseed=2", None),
        ("iap.contrals=1", "unknown key iap.contrals; did you mean controls?"),
        ("contrals=1", "unknown key contrals; did you mean iap.controls?"),
        ("learning_rat=1", "unknown key learning_rat; did you mean training.learning_rate?"),
        (
            "tasks.moot.label=x",
            'The setting "tasks.moot.label=x" names the task "moot"; expected one of mood, topic.',
        ),
        ("seed.x=1", None),
        ("name.x.y=1", 'The setting "name.x.y=1" names no key of a study.'),
        ("tasks=1", "tasks is 1; expected one or more [[tasks]] tables, or a list of known tasks."),
        (
            "iap.controls=many",
            'iap.controls is "many"; expected a number of exchanges from 0 to 10,000.',
        ),
    ],
)
def test_settings_that_cannot_be(write, setting, sentence):
    message = refusal(
        write(STUDY + "\n" if setting != "seed.x=1" else "seed = 1\n" + STUDY), setting
    )
    assert "\n" not in message
    assert sentence is None or message == sentence


words = st.from_regex(r"[a-z]{1,7}", fullmatch=True)
shares = st.floats(0.01, 1.0)
tasks = st.fixed_dictionaries(
    {
        "name": words,
        "dataset": words,
        "text": st.lists(words, min_size=1, max_size=2, unique=True),
    },
    optional={
        "label": st.text(min_size=1),
        "labels": st.lists(st.text(min_size=1), min_size=2, max_size=5, unique=True),
        "metric": st.sampled_from(["accuracy", "spearman"]),
        "train_size": st.integers(1, 10**9),
    },
)
studies = st.fixed_dictionaries(
    {
        "name": words,
        "model": words,
        "tasks": st.lists(tasks, min_size=1, max_size=3, unique_by=lambda task: task["name"]),
    },
    optional={
        "seed": st.integers(0, 2**31),
        "output": words,
        "training": st.fixed_dictionaries(
            {}, optional={"epochs": st.floats(0.1, 100), "learning_rate": st.floats(1e-9, 1)}
        ),
        "iap": st.fixed_dictionaries(
            {},
            optional={
                "fractions": st.lists(shares, min_size=1, max_size=5, unique=True),
                "exact": st.booleans(),
                "level": st.floats(0.5, 0.999),
            },
        ),
        "compare": st.fixed_dictionaries(
            {},
            optional={
                "seeds": st.integers(1, 9),
                "methods": st.lists(st.sampled_from(METHODS), min_size=1, unique=True),
                "penalties": st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=4, unique=True),
            },
        ),
        "transfer": st.fixed_dictionaries(
            {"task": tasks.map(lambda task: {**task, "name": "the-new-one"})},
            optional={"fractions": st.lists(shares, min_size=1, max_size=4, unique=True)},
        ),
    },
)


@given(studies)
@settings(deadline=None, max_examples=60)
def test_json_and_back_changes_nothing(data):
    study = StudyConfig.from_dict(data)
    again = StudyConfig.from_dict(json.loads(json.dumps(study.to_dict())))
    assert again == study
    assert differences(study.to_dict(), again.to_dict()) == []
    assert override(study) == study


def test_a_table_is_the_librarys_settings_with_its_defaults():
    study = StudyConfig.from_dict(
        {"name": "a", "model": "b/c", "tasks": ["sst2", "rte"], "iat": {}}
    )
    assert isinstance(study.iat, IAT)
    assert study.iat.settings(0) == IAT()
    assert study.iat.settings(7) == IAT(seed=7)
    assert isinstance(study.iap, IapSettings)
    assert study.iap.settings(0) == IapSettings()
    own = override(study, "iap.seed=5", "iap.controls=3", "seed=11")
    assert own.iap.settings(own.seed) == IapSettings(seed=5, controls=3)
    for table, kind in ((IatConfig, IAT), (IapConfig, IapSettings)):
        for field in fields(kind):
            assert field.name in table.model_fields


def test_differences_name_the_keys():
    first = {"seed": 0, "iap": {"controls": 1, "exact": False}, "tasks": [{"name": "a"}]}
    second = {"seed": 0, "iap": {"controls": 2, "exact": False}, "tasks": [{"name": "b"}], "x": 1}
    assert differences(first, second) == ["iap.controls", "tasks", "x"]
    assert differences(first, first) == []


@pytest.mark.parametrize("name", ["sst2-qnli", "unlike-tasks", "like-tasks"])
def test_the_examples_are_studies(name, tmp_path, monkeypatch):
    monkeypatch.setenv("LOBES_DATA", str(tmp_path))
    study = load_study(Path(__file__).parents[1] / "examples" / f"{name}.toml")
    assert study.name == name
    assert all(task.train.startswith(str(tmp_path)) for task in study.tasks)


def test_the_page_on_studies_names_every_key():
    page = (Path(__file__).parent.parent / "docs" / "study.md").read_text(encoding="utf-8")
    tasks = (Path(__file__).parent.parent / "docs" / "tasks.md").read_text(encoding="utf-8")
    for table, section in SECTIONS.items():
        for key in section.model_fields:
            if table in ("tasks", "transfer.task"):
                assert f"`{key}`" in tasks or f"\n{key} = " in tasks, key
            elif table in ("compare", "transfer"):
                assert f"`{table}.{key}`" in page, key
            elif key not in SECTIONS:
                assert f"`{key}`" in page, key


def test_the_page_on_studies_states_the_defaults():
    page = (Path(__file__).parent.parent / "docs" / "study.md").read_text(encoding="utf-8")
    table, checked = "", 0
    for line in page.splitlines():
        if line.startswith("#"):
            found = re.search(r"`\[(\w+)\]`", line)
            table = found[1] if found else ""
        row = re.fullmatch(r"\| (`[^|]*`) \| ([^|]*) \| .*", line)
        if row is None:
            continue
        keys, text = (
            re.findall(r"`([\w.]+)`", row[1]),
            row[2].replace("`", "").replace(",000", "000"),
        )
        try:
            stated = json.loads(text) if text.startswith("[") else json.loads(f"[{text}]")
        except ValueError:
            continue  # in words
        values = [stated] if text.startswith("[") else stated * (len(keys) // len(stated))
        for key, value in zip(keys, values, strict=True):
            *tables, name = key.split(".")
            default = SECTIONS[tables[0] if tables else table].model_fields[name].default
            assert (list(default) if isinstance(default, tuple) else default) == value, key
            checked += 1
    assert checked >= 40
