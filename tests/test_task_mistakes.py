"""What a new user may write in Task(…), a prompt and a study's tasks: one sentence each."""

from collections.abc import Iterator
from pathlib import Path

import datasets
import jaxtyping
import pandas as pd
import pytest

from lobes.config.study import load_study
from lobes.errors import ConfigError, LobesError
from lobes.tasks.prompts import Prompt
from lobes.tasks.sources import load_split, load_task
from lobes.tasks.task import Task

ROWS = [{"sentence": f"day {i}", "label": ("neg", "pos")[i % 2]} for i in range(4)]
GOOD = {"name": "x", "train": ROWS, "text": "sentence"}


@pytest.fixture(autouse=True)
def unchecked_types() -> Iterator[None]:
    """As a user runs it: without the checks of types that the tests put into every function."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


SPLITS = datasets.DatasetDict({"test": datasets.Dataset.from_list(ROWS)})

TASKS = [
    ({"trian": ROWS}, "Task has no argument 'trian'. Did you mean 'train'?"),
    ({"texts": "sentence"}, "Task has no argument 'texts'. Did you mean 'text'?"),
    ({"xyz": "label"}, "Task has no argument 'xyz'. It has name, train, validation, text,"),
    ({"text": "sentense"}, "no column 'sentense'; .* Did you mean 'sentence'?"),
    ({"label": "labels"}, "no column 'labels'; .* Did you mean 'label'?"),
    (
        {"label": None},
        "Task 'x' has label=None: expected the name of a column",
    ),
    ({"text": 0}, "Task 'x' has text=0: expected the name of a column"),
    ({"text": [0]}, r"Task 'x' has text=\[0\]: expected the name of a column"),
    ({"text": None}, "has 0 text columns: expected one, or two"),
    ({"text": ()}, "has 0 text columns: expected one, or two"),
    ({"text": (), "image": 3}, "Task 'x' has image=3: expected the name of a column"),
    ({"name": None}, "None cannot be a task's name: use letters"),
    ({"name": "my task"}, "'my task' cannot be a task's name"),
    ({"labels": "positive"}, "Task 'x' has 'positive' as labels: expected a list of names"),
    ({"labels": 2}, "Task 'x' has 2 as labels: expected a list of names"),
    ({"labels": {"neg", "pos"}}, "Task 'x' has a set, which has no order, as labels"),
    ({"labels": {"pos": 1, "neg": 0}}, r"a dictionary as labels: .* labels=\('neg', 'pos'\)"),
    ({"labels": {1: "pos", 0: "neg"}}, r"a dictionary as labels: .* labels=\('neg', 'pos'\)"),
    ({"labels": ["neg", " "]}, "Task 'x' has the label name ' ': names are text"),
    ({"labels": [0, 1]}, "Task 'x' has the label name 0: names are text"),
    ({"metric": "acuracy"}, "'acuracy' is not a metric: .* Did you mean 'accuracy'?"),
    ({"metric": len}, "<built-in function len> is not a metric"),
    ({"metric": ["f1"]}, r"\['f1'\] is not a metric"),
    (
        {"train": "data.csv"},
        "is a str: .* Files are read by lobes",
    ),
    (
        {"train": Path("x.csv")},
        "is a pathlib.*: .* Files are read by lobes",
    ),
    (
        {"train": SPLITS},
        r"is a datasets.*DatasetDict: .* one of its splits, such as data\['test'\].",
    ),
    ({"train": {"sentence": ["a"], "label": [1]}}, r"rows with pandas.DataFrame\(data\)."),
    ({"train": iter([("a", 0)])}, "row 0 is a tuple: expected a dict with the columns"),
    (
        {"train": [("a", 0)]},
        "row 0 is a tuple: expected a dict with the columns",
    ),
    ({"train": 3}, "is a int: expected a datasets.Dataset"),
    ({"train": None}, "has neither data nor labels: give one of train"),
]


@pytest.mark.parametrize(("given", "message"), TASKS)
def test_a_mistake_in_a_task_is_one_sentence(given, message):
    with pytest.raises(LobesError, match=message) as error:
        Task(**GOOD | given)
    assert "\n" not in str(error.value)


def test_arguments_by_place_are_named():
    with pytest.raises(ConfigError, match=r"Task cannot be called like this .*name first, and all"):
        Task("x", ROWS)
    with pytest.raises(ConfigError, match="missing a required argument: 'name'"):
        Task(train=ROWS)
    for load in (load_task, load_split):
        with pytest.raises(ConfigError, match="has no argument 'dateset'"):
            load("x", dateset="a/b")


def test_columns_and_labels_may_be_any_sequence():
    frame = pd.DataFrame(ROWS)
    task = Task("x", train=frame, text=frame.columns[:1].tolist(), labels=frame.label[:2])
    assert task.labels == ("neg", "pos")


STUDY = """
model = "bert-base-uncased"
[[tasks]]
name = "x"
train = "x.csv"
text = "sentence"
"""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('metric = "acuracy"', 'tasks.x.metric is "acuracy"; did you mean "accuracy"?'),
        ('metric = "bleu"', 'tasks.x.metric is "bleu"; expected one of accuracy, '),
        ('labells = ["a", "b"]', "unknown key tasks.x.labells; did you mean labels?"),
        ('delimeter = ";"', "unknown key tasks.x.delimeter; did you mean delimiter?"),
        ('quoting = "all"', 'tasks.x.quoting is "all"; expected "minimal" or "none".'),
        ("fold_labels = 1", "tasks.x.fold_labels is 1; expected true or false."),
        ('words = {pos = "good"}', "tasks.x.words"),
        ("learning_rate = 1", r"unknown key tasks.x.learning_rate; it belongs in \[training\]."),
    ],
)
def test_a_mistake_in_a_study_is_one_sentence(tmp_path, line, message):
    path = tmp_path / "study.toml"
    path.write_text(STUDY + line)
    with pytest.raises(ConfigError, match=message) as error:
        load_study(path)
    assert "\n" not in str(error.value)


def test_a_dictionary_gives_each_label_its_word():
    spec = Task(**GOOD).spec
    for words in ({"neg": "bad", "pos": "good"}, {"pos": "good", "neg": "bad"}, ["bad", "good"]):
        assert Prompt("{sentence} is", words).check(spec).words == ("bad", "good")
    flipped = Prompt("{sentence} is", {"neg": "pos", "pos": "neg"})
    assert flipped.check(spec).words == ("pos", "neg")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            {"neg": "bad", "posi": "good"},
            "a word for 'posi', which is none of the labels",
        ),
        ({"neg": "bad", "pos": "good", "no": "so"}, "3 words .* for 2 labels"),
        ({"neg": "bad"}, "has the words 'bad': expected one for each label"),
        ({"neg": "bad", "pos": "bad"}, "the word 'bad' for two labels"),
        ({"neg": "bad", "pos": None}, "has the word None: expected text"),
        ({"bad", "good"}, "has a set of words, which has no order"),
        (
            ["pos", "neg"],
            "are the labels in another order: give them in the order 'neg',",
        ),
    ],
)
def test_words_that_no_label_has_are_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        Prompt("{sentence} is", words).check(Task(**GOOD).spec)


def test_a_study_may_lead_from_labels_to_words(tmp_path):
    path = tmp_path / "study.toml"
    prompted = 'prompt = "{sentence}"\nwords = {pos = "good", neg = "bad"}\n'
    path.write_text(STUDY + prompted + "[training]\nenabled = false\n")
    study = load_study(path)
    assert study.tasks[0].words == {"pos": "good", "neg": "bad"}
    assert type(study).from_dict(study.to_dict()) == study
