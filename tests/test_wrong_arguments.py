"""Every public function, given what a user may try: one sentence as a `LobesError`, or the answer.

`WRONG` lists (function, arguments, words of the sentence); `RIGHT` the forms of a set of heads that
can mean one thing only. The types in the signatures, which other tests check, rest here.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch

import lobes
from lobes.discovery import find_heads
from lobes.errors import ModelError
from lobes.heads import HeadSet
from lobes.workers import WorkerSettings
from tiny_models import tiny_inputs, tiny_model
from tiny_tasks import mood_task, tiny_tokenizer, topic_task

MODEL = tiny_model("bert")  # two sites of five heads
BATCH = tiny_inputs(MODEL)
NO_EXAMPLE = {name: value[:0] for name, value in BATCH.items()}
NO_POSITION = {name: value[:, :0] for name, value in BATCH.items()}
MASK = np.zeros((2, 5), dtype=bool)
MASK[0, 1:3] = True


@pytest.fixture(autouse=True)
def unchecked_types() -> Iterator[None]:
    """As a user runs it: without the checks of types that the tests put into every function."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


def ablate(*args: Any, **kwargs: Any) -> None:
    with lobes.ablate(*args, **kwargs), torch.no_grad():
        MODEL(**BATCH)


def record_contexts(*args: Any, **kwargs: Any) -> None:
    with lobes.record_contexts(*args, **kwargs):
        pass


def losses(outputs: Any, batch: Any) -> torch.Tensor:
    return outputs.last_hidden_state.flatten(1).sum(1)


def of_batches(**kwargs: Any) -> Any:
    return lobes.head_importance(MODEL, **{"batches": [BATCH], "loss": losses} | kwargs)


# Not a set of heads, and what is said of it.
NO_HEADS: list[tuple[Any, str]] = [
    (None, "None is no set of heads: expected a HeadSet, a text such as"),
    (3, "3 is no set of heads"),
    ({0: 1}, "1 stands for the heads of site 0: expected a list of them"),
    ({"0": [1]}, "('0', 1) is not a head: site and head are integers from 0"),
    ((0, 1), "0 is not a head: expected a pair (site, head)"),
    ([(0, 1.0)], "(0, 1.0) is not a head"),
    ([[True, False]], "[True, False] is not a head"),
    ("0-1", "Cannot read '0-1' in the head set '0-1'"),
    ("0:7", "Head 0:7 does not exist: site 0"),
    ({5: [0]}, "Head 5:0 does not exist: the model has 2 sites"),
    (MASK.astype(float), "that it is kept; give HeadSet.from_head_mask(mask), where 1 keeps"),
    (lobes.HeadScores(np.ones((2, 5))), "and no set of heads: choose some, as in scores.top(0.3)"),
    ({(0, 1): 0.5}, "lobes.ablate takes numbers for heads as factors="),
    (torch.ones(2, 5), "An array of float32 is no set of heads"),
    (torch.ones(2, 5, dtype=torch.int64), "An array of int64 is no set of heads"),
    (MASK[:, :4], "boolean array of the shape [2, 4] is no set of heads of this model: expected"),
    (MASK[0], "boolean array of the shape [5] is no set of heads"),
]
TASK = lobes.BatchTask("sum", loss=losses, validation=[BATCH])
TAKE_HEADS: dict[str, Callable[[Any], Any]] = {
    "ablate": lambda heads: ablate(MODEL, heads),
    "prune": lambda heads: lobes.prune(MODEL, heads),
    "head_importance": lambda heads: of_batches(ablated=heads),
    "evaluate": lambda heads: lobes.evaluate(MODEL, TASK, [heads]),
    "head_lora": lambda heads: lobes.head_lora(MODEL, heads),
    "HeadSet.of": lambda heads: HeadSet.of(heads, find_heads(MODEL)),
}
NAME = "bert-base-uncased"
BATCH_TASK = lobes.BatchTask("one", loss=losses, train=[BATCH])
WRONG: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], str]] = [
    (lobes.find_heads, (NAME,), {}, "'bert-base-uncased' is no model: expected a torch.nn.Module"),
    (lobes.find_heads, (type(MODEL),), {}, "BertModel'> is no model"),
    (lobes.find_heads, (MODEL,), {"example_inputs": BATCH["input_ids"]}, "not a Tensor"),
    (lobes.TrainingLoss, (), {"class_weights": np.array([1.0, 3.0])}, "class_weights is array([1."),
    (ablate, (NAME, "0:1"), {}, "is no model"),
    (ablate, (MODEL, None), {}, "Neither heads nor factors were given: say what to ablate"),
    (ablate, (MODEL, "0:1"), {"layout": "0:1"}, "layout is what lobes.find_heads returned"),
    (ablate, (MODEL, "0:1"), {"layout": find_heads(tiny_model("gpt2"))}, "is another model's"),
    (ablate, (MODEL, "0:1"), {"value": "mean", "data": BATCH}, "put it in a list, [batch]"),
    (ablate, (MODEL, "0:1"), {"value": "mean", "data": "text"}, "not str"),
    (ablate, (MODEL, "0:1"), {"value": 0}, 'value is 0; expected "zero", "mean" or "resample".'),
    (ablate, (MODEL, ["0:1"] * 3), {}, "3 head sets were given for a batch of 2 examples"),
    (HeadSet.from_head_mask, (MASK, 5), {}, "layout is what lobes.find_heads returned, not 5"),
    (lobes.head_lora, (MODEL, "0:1"), {"target_modules": 5}, "target_modules is 5; expected ends"),
    (lobes.head_lora, (MODEL, "0:1"), {"seed": "a"}, "seed is 'a'; expected a whole number"),
    (
        lobes.prune,
        (MODEL, "0:1"),
        {"layout": find_heads(MODEL), "example_inputs": BATCH["input_ids"]},
        "not a Tensor",
    ),
    (WorkerSettings, ("2",), {}, "'2' workers cannot compute anything: expected 1 or more."),
    (WorkerSettings, (2, "Ray"), {}, "no workers on 'Ray': expected local, ray, slurm."),
    (lobes.lesion_matrix, (NAME, [BATCH_TASK]), {}, "is no model"),
    (lobes.harness_task, ("pick",), {"fewshot": -1}, "fewshot is -1; expected a number"),
    (lobes.harness_task, ("pick",), {"seed": "a"}, "seed is 'a'; expected a whole number"),
    (record_contexts, (NAME,), {}, "is no model"),
    (lobes.mean_contexts, (NAME, [BATCH]), {}, "is no model"),
    (lobes.mean_contexts, (MODEL, BATCH), {}, "put it in a list, [batch]"),
    (lobes.mean_contexts, (MODEL, BATCH["input_ids"]), {}, "A batch is a dictionary of keyword"),
    (lobes.mean_contexts, (MODEL, 3), {}, "not int"),
    (lobes.mean_contexts, (MODEL, [BATCH, NO_EXAMPLE]), {}, "A batch is empty: its input_ids has"),
    (lobes.mean_contexts, (MODEL, [NO_POSITION]), {}, "has the shape [2, 0]; expected one or more"),
    (ablate, (MODEL, "0:1"), {"value": "mean", "data": [NO_EXAMPLE]}, "A batch is empty"),
    (lobes.resampled_contexts, (MODEL, NO_EXAMPLE), {}, "A batch is empty"),
    (of_batches, (), {"batches": [NO_EXAMPLE]}, "A batch is empty"),
    (lobes.prune, (NAME, "0:1"), {}, "is no model"),
    (lobes.head_importance, (NAME,), {}, "is no model"),
    (lobes.head_importance, (MODEL, "a"), {}, "task is a lobes.Task, with examples of its own, no"),
    (lobes.head_importance, (MODEL,), {}, "Give either a task, or batches together with a loss"),
    (of_batches, (), {"batches": BATCH}, "put it in a list, [batch]"),
    (of_batches, (), {"loss": "mean"}, "loss is a function loss(outputs, batch) -> [batch]"),
    (of_batches, (), {"method": "gradient"}, "method is 'gradient'; expected \"taylor\""),
    (
        of_batches,
        (),
        {"progress": 3},
        "progress is True, a function that is called with (done, total)",
    ),
]


# The same for what takes tasks.
MOOD, TOPIC = mood_task(13, 11), topic_task(13, 11)
TASKS = [MOOD, TOPIC]
OF_TASKS = lobes.MultiTaskModel(tiny_model("bert"), tiny_tokenizer(), TASKS)
GATES = lobes.HeadGates(np.ones((1, 2, 5)), np.ones((1, 2, 5)))
SCORES = lobes.HeadScores(np.arange(10.0).reshape(2, 5))


def matrix(*args: Any, **kwargs: Any) -> Any:
    return lobes.lesion_matrix(OF_TASKS, *args, **{"fractions": 0.3, "controls": 0} | kwargs)


def trainer(*args: Any, **kwargs: Any) -> Any:
    return lobes.MultiTaskTrainer(*args, **{"tasks": TASKS} | kwargs)


def gates(**kwargs: Any) -> Any:
    return lobes.head_gates(**{"model": OF_TASKS, "task": MOOD} | kwargs)


load = lobes.MultiTaskModel.from_pretrained
evaluate = lobes.evaluate
SCORES = lobes.HeadScores(np.ones((2, 3)))
WRONG += [
    (
        lobes.HeadScores,
        ([["a"]],),
        {},
        "array of numbers [sites, heads], not [['a']]",
    ),
    (lobes.HeadScores, (np.ones((2, 3)) * 1j,), {}, "Scores are an array of numbers"),
    (lobes.HeadScores, (np.ones((2, 3)), {}, "x"), {}, "Scores are an array of numbers"),
    (lobes.HeadScores, (np.ones((2, 3)), None), {}, "such as {'task': 'mood'}, not None"),
    (SCORES.save, (None,), {}, "The file of scores is None; expected a path."),
    (lobes.HeadScores.load, (b"x",), {}, "The file of scores is b'x'; expected a path."),
    (SCORES.plot, (), {"ax": 3}, "ax is 3; expected axes of matplotlib"),
    (SCORES.plot, (["sites"],), {}, "has no figure ['sites']: expected importance, sites"),
    (gates, (), {"seeds": 0}, "seeds is 0; expected a number of seeds from 1 to 1,000."),
    (gates, (), {"steps": 1.5}, "steps is 1.5; expected a number of steps from 1 to 10,000,000."),
    (gates, (), {"batch_size": 0}, "batch_size is 0; expected a number of examples from 1"),
    (gates, (), {"learning_rate": 0}, "learning_rate is 0; expected a number such as 2e-5, above"),
    (gates, (), {"penalty": 0}, "penalty is 0; expected a number from 1e-12 to 1e+12."),
    (gates, (), {"seed": -1}, "seed is -1; expected a whole number from 0 to 4,294,967,295."),
    (gates, (), {"max_examples": 0}, "max_examples is 0; expected a number of examples from 1"),
    (gates, (), {"progress": 3}, "progress is True, a function that is called w"),
    (gates, (), {"precision": "fp16"}, "Unknown precision 'fp16': expected"),
    (gates, (), {"split": "test"}, 'A split is "train" or "validation", not \'test\'.'),
    (gates, (), {"task": "mood"}, "task is a lobes.Task, with examples of its own, not the text"),
    (gates, (), {"model": MODEL}, "such as lobes.MultiTaskModel, not a BertModel"),
    (gates, (), {"model": NAME}, "not 'bert-base-uncased'"),
    (of_batches, (), {"method": "gates"}, 'method="gates" takes a task'),
    (GATES.roles, (0.3,), {}, "threshold is 0.3; expected a share from 0.5 and below 1."),
    (MOOD.replace, (), {"train": [{}]}, "Task 'mood': train is a list, not examples; expected"),
    (evaluate, (OF_TASKS, "mood"), {}, "tasks are a list of lobes.Task, [task], not 'mood'"),
    (evaluate, (OF_TASKS, ["mood"]), {}, "tasks are a list of lobes.Task, and 'mood' is none"),
    (evaluate, (OF_TASKS, []), {}, "No task was given"),
    (evaluate, (OF_TASKS, None), {}, "not None"),
    (evaluate, (MODEL, TASKS), {}, "such as lobes.MultiTaskModel, not a BertModel"),
    (evaluate, (NAME, TASKS), {}, "not 'bert-base-uncased'"),
    (evaluate, (OF_TASKS, MOOD, "0:1"), {}, "Cannot read '0'"),
    (evaluate, (OF_TASKS, MOOD), {"split": "test"}, 'A split is "train" or "validation"'),
    (evaluate, (OF_TASKS, MOOD), {"precision": "fp16"}, "Unknown precision 'fp16'"),
    (evaluate, (OF_TASKS, MOOD), {"tokens_per_batch": "9"}, "tokens_per_batch is '9'; expected"),
    (evaluate, (OF_TASKS, MOOD), {"progress": 3}, "of lesion_matrix with (stage, done, total)"),
    (matrix, ("mood",), {}, "not 'mood'"),
    (matrix, (TASKS,), {"fractions": 30}, "for 30 % write 0.3"),
    (matrix, (TASKS,), {"fractions": ["a"]}, "A lesion's fraction is 'a'; expected a share"),
    (matrix, (TASKS,), {"fractions": None}, "A lesion's fraction is None"),
    (matrix, (TASKS,), {"controls": "3"}, "controls is '3'; expected a number"),
    (matrix, (TASKS,), {"control": 3}, "There is no IAP setting 'control'"),
    (matrix, (TASKS, {"controls": 3}), {}, "give single settings by name"),
    (matrix, (TASKS,), {"progress": 3}, "progress is True, a function"),
    (matrix, (TASKS,), {"remember": 3}, "remember is a function"),
    (lobes.head_importance, (OF_TASKS, MOOD), {"max_examples": "3"}, "max_examples is '3'"),
    (lobes.head_importance, (OF_TASKS, MOOD), {"max_examples": 0}, "max_examples is 0; expected"),
    (lobes.head_importance, (OF_TASKS, MOOD), {"seed": -1}, "seed is -1; expected"),
    (SCORES.top, (30,), {}, "for 30 % write 0.3"),
    (SCORES.top, ("a",), {}, "fraction is 'a'; expected a share of all heads"),
    (SCORES.bottom, (None,), {}, "Give either a fraction of the heads"),
    (lobes.HeadScores, ("a",), {}, "Scores are an array of numbers [sites, heads], not 'a'"),
    (lobes.HeadSet, (5,), {}, "5 is no iterable of pairs"),
    (lobes.HeadSet, ("0:1",), {}, "HeadSet.parse text"),
    (HeadSet.parse, (None,), {}, "None is no text"),
    (load, (None, TASKS), {}, "a folder or a name on the Hugging Face hub, not a NoneType"),
    (load, (MODEL, TASKS), {}, "not a BertModel"),
    (load, ("/no/folder", TASKS), {}, "There is no folder '/no/folder'"),
    (lobes.load_pruned, (MODEL,), {}, "not a BertModel"),
    (lobes.load_task_model, (None, TASKS), {}, "not a NoneType"),
    (lobes.MultiTaskModel, (NAME, tiny_tokenizer(), TASKS), {}, "call MultiTaskModel.from_pretr"),
    (lobes.MultiTaskModel, (MODEL, None, TASKS), {}, "give the model its tokenizer"),
    (trainer, (MODEL,), {}, "trains a MultiTaskModel, not a BertModel"),
    (trainer, (OF_TASKS,), {"tasks": "mood"}, "not 'mood'"),
    (trainer, (OF_TASKS,), {"tasks": None}, "not None"),
    (trainer, (OF_TASKS,), {"iat": True}, "iat is a lobes.IAT, such as"),
    (trainer, (OF_TASKS, {"max_steps": 3}), {}, "args are TrainingArguments"),
    (trainer, (OF_TASKS,), {"sampling": "propotional"}, "Unknown sampling 'propotional'"),
    (lobes.Prompt, (3, ["a", "b"]), {}, "A prompt's template is text"),
    (lobes.Prompt, ("{text}", None), {}, "has None as its words"),
    (lobes.ag_pairs, ("abc", "xyz"), {}, "texts are a list with an entry for each article"),
    (lobes.ag_pairs, (["a"], None), {}, "topics are a list"),
]


def test_one_task_and_one_fraction_need_no_list():
    whole, one = evaluate(OF_TASKS, [MOOD]), evaluate(OF_TASKS, MOOD)
    assert one.scores() == whole.scores()
    assert matrix(TASKS, fractions=0.3).fractions == (0.3,)


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(lobes.LobesError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize(("function", "args", "kwargs", "words"), WRONG)
def test_a_wrong_argument_is_one_sentence(function, args, kwargs, words):
    assert words in refusal(lambda: function(*args, **kwargs))


@pytest.mark.parametrize("function", TAKE_HEADS)
@pytest.mark.parametrize(("heads", "words"), NO_HEADS)
def test_what_is_no_set_of_heads_is_one_sentence(function, heads, words):
    if heads is None and function in ("head_importance", "ablate"):
        pytest.skip("there None means that it is not given")
    assert words in refusal(lambda: TAKE_HEADS[function](heads))


RIGHT: list[Any] = [
    "0:1,2",
    {0: [1, 2]},
    {0: np.array([1, 2]), 1: []},
    [(0, 1), (0, 2)],
    [[0, 1], [0, 2]],
    {(0, 1), (0, 2)},
    iter([(0, 2), (0, 1)]),
    MASK,
    torch.from_numpy(MASK),
]


@pytest.mark.parametrize("heads", RIGHT)
def test_every_form_that_can_mean_one_thing_is_read(heads):
    assert HeadSet.of(heads, find_heads(MODEL)) == HeadSet([(0, 1), (0, 2)])


def test_a_list_of_any_forms_is_a_set_for_each_example():
    first, second = HeadSet([(0, 1), (0, 2)]), HeadSet([(1, 3)])
    with torch.no_grad():
        with lobes.ablate(MODEL, [first, second]):
            expected = MODEL(**BATCH).last_hidden_state
        for sets in (["0:1,2", "1:3"], [{0: [1, 2]}, [(1, 3)]], (MASK, {(1, 3)})):
            with lobes.ablate(MODEL, sets):
                assert torch.equal(MODEL(**BATCH).last_hidden_state, expected)


@pytest.mark.parametrize("wrong", ["bert", MODEL])
def test_a_pruned_model_is_loaded_as_a_class(wrong: Any, tmp_path: Path) -> None:
    lobes.prune(MODEL, "0:1").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"is loaded as .*; a {type(wrong).__name__} is none"):
        lobes.load_pruned(tmp_path, wrong)
