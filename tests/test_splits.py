"""Parts of a task's training data: what is held out, and ever larger parts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as given_settings
from hypothesis import strategies as st

from lobes.errors import DataError
from lobes.tasks.examples import Examples
from lobes.tasks.sources import load_task
from lobes.tasks.subsets import growing_order, hold_out, subset_sizes
from lobes.tasks.task import Task
from tiny_tasks import topic_task, warmth_task


def task_of(texts, labels, classes=("a", "b", "c")):
    train = Examples(tuple((text,) for text in texts), np.array(labels))
    return Task("some", train=train, text="text", labels=classes)


def counts(examples, classes=3):
    return np.bincount(examples.labels, minlength=classes)


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 2)), min_size=30, max_size=80),
    st.floats(0.05, 0.5),
    st.integers(0, 5),
)
@given_settings(deadline=None, max_examples=60)
def test_what_is_held_out(rows, share, seed):
    """Every example on one side, equal texts on the same, classes in their shares."""
    rows += [(100 + 3 * i + label, label) for i in range(4) for label in range(3)]
    task = task_of([f"text {text}" for text, _ in rows], [label for _, label in rows])
    parted = hold_out(task, share, seed)
    rest, held_out = parted.train, parted.validation
    assert set(rest.texts).isdisjoint(held_out.texts)
    both = sorted([*zip(rest.texts, rest.labels, strict=True)])
    both += zip(held_out.texts, held_out.labels, strict=True)
    assert sorted(both) == sorted(zip(task.train.texts, task.train.labels, strict=True))
    again = hold_out(task, share, seed)
    assert again.validation.texts == held_out.texts
    assert parted.spec == task.spec


def test_the_classes_keep_their_shares():
    task = task_of(map(str, range(200)), [0] * 140 + [1] * 50 + [2] * 10)
    parted = hold_out(task, 0.1, 0)
    np.testing.assert_array_equal(counts(parted.validation), [14, 5, 1])
    np.testing.assert_array_equal(counts(parted.train), [126, 45, 9])
    others = [hold_out(task, 0.1, seed).validation.texts for seed in range(5)]
    assert len(set(others)) == 5


def test_a_class_with_one_example_is_learned_from():
    task = task_of(map(str, range(9)), [0] * 4 + [1] * 4 + [2])
    parted = hold_out(task, 0.2, 0)
    np.testing.assert_array_equal(counts(parted.validation), [1, 1, 0])


def test_targets_have_no_classes():
    parted = hold_out(warmth_task(), 0.1, 0)
    assert (len(parted.train), len(parted.validation)) == (80, 9)
    assert parted.labels is None


@pytest.mark.parametrize(
    ("texts", "labels"),
    [
        ("abc", [0, 0, 1]),  # one class could be held out
        ("aabb", [0, 0, 1, 1]),  # two examples of each class, of one text
        ("ab", [0, 1]),
    ],
)
def test_too_few_to_hold_out(texts, labels):
    with pytest.raises(DataError) as caught:
        hold_out(task_of(texts, labels, ("x", "y")), 0.1, 0)
    assert str(caught.value) == (
        f"Task 'some': {len(texts)} training examples are too few to hold out 10 % of them for "
        f"choosing a checkpoint: 2 or more different texts of 2 or more classes are needed."
    )


def test_too_few_targets():
    task = Task(
        "some", train=[{"text": "a", "label": 0.5}, {"text": "b", "label": 0.7}], text="text"
    )
    with pytest.raises(DataError, match="four or more with different targets are needed"):
        hold_out(task, 0.1, 0)


@given(
    st.lists(st.integers(0, 3), min_size=8, max_size=120),
    st.lists(st.floats(0.001, 1.0), min_size=1, max_size=4),
    st.integers(0, 5),
)
@given_settings(deadline=None, max_examples=60)
def test_every_beginning_has_the_classes_in_their_shares(labels, fractions, seed):
    labels += [0, 1]
    task = task_of(map(str, range(len(labels))), labels, ("a", "b", "c", "d"))
    order = growing_order(task, seed)
    assert sorted(order) == list(range(len(labels)))
    all_counts = counts(task.train, 4)
    for size in subset_sizes(task, fractions):
        found = counts(task.train.select(order[:size]), 4)
        assert all(found[all_counts > 0] >= 1)
        assert np.abs(found - size * all_counts / len(labels)).max() <= 4


def test_sizes_and_seeds():
    task = topic_task()  # 97 examples of 3 classes
    assert subset_sizes(task, [0.001, 0.05, 0.5, 1.0]) == [3, 5, 49, 97]
    assert len({tuple(growing_order(task, seed)[:7]) for seed in range(5)}) == 5
    assert list(growing_order(task, 3)) == list(growing_order(task, 3))


def pairs_and_their_turns(number):
    """Pairs (a, b), and the same the other way round, with other labels."""
    pairs = [(f"text {i}", f"other {i}") for i in range(number)]
    return pairs + [(b, a) for a, b in pairs], [0, 1] * number


def test_a_pair_the_other_way_round_stays_on_its_side(tmp_path):
    """(a, b) is half the answer to (b, a), so both are held out, or none."""
    texts, labels = pairs_and_their_turns(53)
    train = Examples(tuple(texts), np.array(labels))
    task = Task("some", train=train, text=("a", "b"), labels=("no", "yes"))
    for parted in [hold_out(task, 0.3, 0), _loaded(tmp_path, texts, labels)]:
        sides = [
            {frozenset(pair) for pair in part.texts} for part in (parted.train, parted.validation)
        ]
        assert sides[1]
        assert sides[0].isdisjoint(sides[1])
        assert len(parted.train) + len(parted.validation) == len(texts)


def _loaded(tmp_path, texts, labels):
    rows = "".join(f"{a},{b},{label}\n" for (a, b), label in zip(texts, labels, strict=True))
    (tmp_path / "train.csv").write_text("a,b,label\n" + rows)
    return load_task("some", train=tmp_path / "train.csv", text=("a", "b"))
