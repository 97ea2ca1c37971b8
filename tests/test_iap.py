"""The lesion matrix: which heads are ablated, what they are compared with, what is remembered."""

from collections import Counter
from dataclasses import fields, replace

import numpy as np
import pytest

from lobes.discovery import find_heads
from lobes.dissociation.stopping import is_settled
from lobes.errors import ConfigError
from lobes.heads import HeadSet
from lobes.measure import iap_plan, measuring, workload
from lobes.measure.evaluation import evaluate
from lobes.measure.iap import IapSettings, lesion_matrix
from lobes.measure.importance import head_importance
from lobes.modeling import MultiTaskModel
from lobes.replay import Replay
from tiny_models import tiny_model
from tiny_tasks import mood_task, tiny_tokenizer, topic_task, warmth_task


@pytest.fixture(scope="module")
def tasks():
    return [mood_task(n_train=31, n_validation=23), topic_task(n_train=29, n_validation=19)]


@pytest.fixture(scope="module")
def model(tasks):
    return MultiTaskModel(tiny_model("bert"), tiny_tokenizer(), tasks, pooling="mean").eval()


def test_lesions_are_the_top_heads_and_scores_those_of_evaluate(model, tasks):
    matrix = lesion_matrix(model, tasks, fractions=[0.5, 0.3], controls=2, random=3)
    assert matrix.fractions == (0.3, 0.5)
    assert [lesion.kind for lesion in matrix.lesions] == (
        ["none"] + ["task"] * 4 + ["random"] * 12 + ["exchanged"] * 8
    )
    for i, task in enumerate(tasks):
        scores = head_importance(model, task)
        np.testing.assert_array_equal(matrix.importance[task.name].values, scores.values)
        for fraction in (0.3, 0.5):
            measured = evaluate(model, tasks, [HeadSet(), scores.top(fraction)]).scores()
            np.testing.assert_array_equal(matrix.base, measured[0])
            np.testing.assert_array_equal(matrix.scores(fraction)[i], measured[1])


@pytest.mark.parametrize("matched", ["site", "total"])
def test_random_lesions_match_the_lesion_they_belong_to(model, tasks, matched):
    matrix = lesion_matrix(model, tasks, fractions=[0.3, 0.5], random=5, matched=matched)
    lesions = {(one.task, one.fraction): one.heads for one in matrix.lesions if one.kind == "task"}
    random = [lesion for lesion in matrix.lesions if lesion.kind == "random"]
    assert len(random) == 20
    for lesion in random:
        heads = lesions[lesion.task, lesion.fraction]
        assert len(lesion.heads) == len(heads)
        if matched == "site":
            assert lesion.heads.counts() == heads.counts()
    assert len({lesion.heads for lesion in random}) > 5


def test_more_controls_keep_those_there_were(model, tasks):
    few, many = (
        lesion_matrix(model, tasks, fractions=[0.5], controls=n, seed=3).lesions for n in (2, 4)
    )
    assert many[: len(few)] == few


def test_every_option_changes_what_it_says(model, tasks):
    layout = find_heads(model)
    ascending = lesion_matrix(model, tasks, fractions=[0.3], controls=0, order="ascending")
    scores = ascending.importance["mood"]
    assert ascending.lesions[1].heads == scores.bottom(0.3)
    kept = lesion_matrix(model, tasks, fractions=[0.6], controls=0, keep_per_site=1)
    for lesion in kept.lesions[1:]:
        for site, count in lesion.heads.counts().items():
            assert count < layout.sites[site].n_heads
    only = lesion_matrix(model, tasks, fractions=[0.3], controls=1, lesion_tasks=["topic"])
    assert {lesion.task for lesion in only.lesions} == {"", "topic"}
    held_out = lesion_matrix(
        model, tasks, fractions=[0.3], controls=0, importance_split="validation"
    )
    np.testing.assert_array_equal(
        held_out.importance["mood"].values,
        head_importance(model, tasks[0], split="validation").values,
    )
    sample = lesion_matrix(model, tasks, fractions=[0.3], controls=0, importance_examples=7)
    assert sample.importance["mood"].settings["examples"] == 7


def test_exact_estimates_again_with_the_chosen_heads_ablated(model, tasks):
    matrix = lesion_matrix(model, tasks, fractions=[0.2, 0.4], controls=0, exact=True)
    first, second = (
        next(o.heads for o in matrix.lesions if (o.task, o.fraction) == ("mood", fraction))
        for fraction in (0.2, 0.4)
    )
    assert first == head_importance(model, tasks[0]).top(0.2)
    again = head_importance(model, tasks[0], ablated=first)
    assert second == again.select(0.4, given=first)


def test_every_measurement_is_remembered_once_and_taken_back(model, tasks, monkeypatch):
    monkeypatch.setattr(iap_plan, "GROUP", 8)
    stored, computed = {}, []

    def remember(key, compute):
        if key not in stored:
            computed.append(key)
            stored[key] = compute()
        return stored[key]

    options = {"fractions": [0.3], "controls": 17, "random": 4, "exact": True}
    options["aggregate"] = "token"  # whose lesions are fewer than two groups
    one = lesion_matrix(model, tasks, remember=remember, **options)
    assert len(computed) == len(set(computed)) == 2 + 2
    last = computed[-1]
    assert last.startswith("predictions-00008-")
    del stored[last]
    two = lesion_matrix(model, tasks, remember=remember, **options)
    assert computed[-1] == last
    assert len(computed) == 5
    assert one.lesions == two.lesions
    for task in tasks:
        np.testing.assert_array_equal(one.predictions[task.name], two.predictions[task.name])


def test_progress_comes_to_its_end_in_every_stage(model, tasks):
    seen = {}

    def progress(stage, done, total):
        assert seen.get(stage, (0, total))[0] <= done <= total
        seen[stage] = done, total

    lesion_matrix(model, tasks, fractions=[0.3], controls=20, progress=progress)
    assert list(seen) == ["importance of mood", "importance of topic", "lesions"]
    assert all(done == total for done, total in seen.values())
    seen.clear()
    lesion_matrix(model, tasks, fractions=[0.3], controls=2, control_examples=11, progress=progress)
    assert list(seen)[2:] == ["lesions", "lesions on a sample"]
    assert all(done == total for done, total in seen.values())


def test_one_task_has_a_matrix_but_no_dissociation(model, tasks):
    matrix = lesion_matrix(model, tasks[:1], fractions=[0.3], controls=2)
    assert matrix.scores(0.3).shape == (1, 1)
    with pytest.raises(ConfigError, match=r"[Tt]wo"):
        matrix.dissociation()


def test_settings_that_cannot_be_are_refused(model, tasks):
    for option, value in {
        "matched": "layer", "order": "up", "importance_split": "test", "method": "x",
        "aggregate": "x", "normalize": "x", "controls": -1, "keep_per_site": -1,
        "importance_examples": 0, "fractions": (1.2,),
    }.items():  # fmt: skip
        with pytest.raises(ConfigError):
            replace(IapSettings(), **{option: value})
    with pytest.raises(ConfigError, match="no IAP setting 'fraction': expected fractions, "):
        lesion_matrix(model, tasks, fraction=0.3)
    with pytest.raises(ConfigError, match="'mod', which is not a task: the tasks are 'mood'"):
        lesion_matrix(model, tasks, lesion_tasks=["mod"])
    with pytest.raises(ConfigError, match="is not one head: take at least"):
        lesion_matrix(model, tasks, fractions=[0.01])
    assert len(fields(IapSettings)) == 19


# Controls that cost less


def test_controls_on_a_sample_are_compared_with_the_lesions_on_it(model, tasks):
    options = {"fractions": [0.3, 0.5], "controls": 6, "importance_examples": 30}
    whole = lesion_matrix(model, tasks, **options)
    some = lesion_matrix(model, tasks, control_examples=15, **options)
    kinds = [lesion.kind for lesion in some.reference.lesions]
    counts = f"{kinds.count('exchanged')} exchanged, {kinds.count('random')} random"
    assert f"{counts} (these two on a sample of the examples)" in str(some)
    assert {lesion.kind for lesion in some.lesions} == {"none", "task"}
    assert some.scores().tolist() == whole.scores().tolist()
    assert {name: len(places) for name, places in some.sampled.examples.items()} == {
        task.name: 15 for task in tasks
    }
    for task in tasks:
        places = some.sampled.examples[task.name]
        assert (np.diff(places) > 0).all()
        inner = some.sampled.matrix
        assert inner.lesions == whole.lesions
        assert np.array_equal(inner.predictions[task.name], whole.predictions[task.name][:, places])
    found = some.dissociation(resamples=10)
    inside = inner.dissociation(resamples=10)
    assert found.column.values.tolist() == whole.dissociation(resamples=10).column.values.tolist()
    compared = 0
    for name in ("row", "column", "relative"):
        ours, theirs = getattr(found, name), getattr(inside, name)
        # what may be divided by is decided on all examples: 15 may be too few to say so
        there = np.isfinite(theirs.values)
        compared += int(there.sum())
        assert np.allclose(ours.compared[there], theirs.values[there])
        assert np.allclose(ours.p_values[there], theirs.p_values[there])
        assert np.allclose(
            ours.control_values[:, there], theirs.control_values[:, there], equal_nan=True
        )
        assert ours.mean_p == theirs.mean_p or not there.all()
    assert compared
    larger = lesion_matrix(model, tasks, control_examples=10_000, **options)
    assert larger.sampled is None
    other = lesion_matrix(model, tasks, control_examples=15, seed=1, **options)
    assert any(
        other.sampled.examples[task.name].tolist() != some.sampled.examples[task.name].tolist()
        for task in tasks
    )


def test_tasks_over_the_same_texts_keep_the_same_ones(model):
    """Texts that tasks share are run once, also in a sample."""
    tasks = [mood_task(31, 23), topic_task(31, 23)]
    some = lesion_matrix(
        model, tasks, fractions=[0.5], controls=1, control_examples=9, importance_examples=20
    )
    first, second = (places.tolist() for places in some.sampled.examples.values())
    assert first == second


def test_exchanges_stop_where_39_settle_p(tasks, monkeypatch):
    """Whatever the groups in which lesions are measured, and however many were planned."""
    model = MultiTaskModel(tiny_model("gpt2"), tiny_tokenizer(), tasks, pooling="last").eval()
    options = {"fractions": [0.4], "importance_examples": 30, "random": 0}
    every = lesion_matrix(model, tasks, controls=97, stop=False, **options)
    assert every.look is None
    means = every.dissociation(resamples=1).column.control_means
    value = every.dissociation(resamples=1).column.mean
    reached = int(np.sum(means[:39] >= value - 1e-9))
    assert is_settled(reached)
    for group, controls in ((32, 97), (5, 97), (32, 211)):
        monkeypatch.setattr(iap_plan, "GROUP", group)
        found = lesion_matrix(model, tasks, controls=controls, **options)
        assert found.look == 39
        assert len(found.lesions) == 1 + (39 + 1) * len(tasks)
        assert found.control_scores().tolist() == every.control_scores()[:39].tolist()
        assert found.over_fractions(resamples=1).p == (1 + reached) / 40
        assert found.pair_effects()[0].replicates.shape == (39, 2)
    few = lesion_matrix(model, tasks, controls=78, **options)
    assert (few.look, len(few.control_scores())) == (None, 78)


def test_exchanges_go_on_where_39_do_not_settle_p(tasks, monkeypatch):
    model = MultiTaskModel(tiny_model("gpt2"), tiny_tokenizer(), tasks, pooling="last").eval()
    options = {"fractions": [0.4], "importance_examples": 30, "random": 0}
    monkeypatch.setattr(iap_plan, "is_settled", lambda reached: False)
    found = lesion_matrix(model, tasks, controls=79, **options)
    every = lesion_matrix(model, tasks, controls=79, stop=False, **options)
    assert found.lesions == every.lesions
    for task in tasks:
        assert np.array_equal(found.predictions[task.name], every.predictions[task.name])
    # pairs are compared with the first 39 of both, so that their p knows nothing of the look
    assert found.pair_effects()[0].replicates.shape == (39, 2)
    assert every.pair_effects()[0].replicates.shape == (79, 2)


def test_pairs_of_three_tasks_have_all_exchanges_of_their_own():
    first = mood_task(31, 7)
    three = [first, topic_task(31, 7), first.replace(name="again")]
    model = MultiTaskModel(tiny_model("bert"), tiny_tokenizer(), three, pooling="mean").eval()
    found = lesion_matrix(
        model, three, fractions=[0.3], importance_examples=20, random=0, controls=79, seed=2
    )
    assert {len(each.replicates) for each in found.pair_effects()} == {79}


def test_a_sample_of_no_example_is_refused(model, tasks):
    sentence = "control_examples is 0; expected a number of examples from 1 to 1,000,000,000."
    with pytest.raises(ConfigError) as error:
        lesion_matrix(model, tasks, control_examples=0)
    assert str(error.value) == sentence


# Other lesions


@pytest.fixture(scope="module")
def two_kinds(tasks):
    """A task of classes, and a regression, whose predictions differ under every lesion."""
    tasks = [tasks[0], warmth_task(n_train=31, n_validation=23)]
    model = MultiTaskModel(tiny_model("bert"), tiny_tokenizer(), tasks, pooling="mean").eval()
    return model, tasks


@pytest.mark.parametrize(
    ("value", "lesion"), [("mean", "remove"), ("resample", "keep"), ("zero", "keep")]
)
def test_other_lesions_are_those_of_evaluate_and_never_mixed(two_kinds, value, lesion):
    model, tasks = two_kinds
    stored = {}

    def remember(key, compute):
        if key not in stored:
            stored[key] = compute()
        return stored[key]

    options = {"fractions": [0.5], "controls": 2, "importance_examples": 20, "seed": 3}
    plain = lesion_matrix(model, tasks, remember=remember, **options)
    known = set(stored)
    found = lesion_matrix(model, tasks, remember=remember, value=value, lesion=lesion, **options)
    assert found.lesions == plain.lesions
    assert found.keep == (lesion == "keep")
    sets = [each.heads for each in found.lesions]
    if lesion == "keep":
        every = find_heads(model).all_heads()
        sets = [heads and every - heads for heads in sets]
    measured = evaluate(model, tasks, sets, value=value, seed=3)
    for task in tasks:
        np.testing.assert_allclose(
            found.predictions[task.name], measured.predictions(task.name), atol=1e-5
        )
    assert not np.allclose(found.predictions["warmth"][1:], plain.predictions["warmth"][1:])
    ending = "-".join(name for name in (value, lesion) if name not in ("zero", "remove"))
    new = set(stored) - known
    assert new
    assert all(key.endswith(f"-{ending}") for key in new)


def test_to_keep_every_head_is_refused(two_kinds):
    model, tasks = two_kinds
    with pytest.raises(ConfigError, match=r'A fraction of 1 is every head, and lesion = "keep"'):
        lesion_matrix(model, tasks, fractions=[0.5, 1.0], lesion="keep")
    with pytest.raises(ConfigError, match='lesion is \'hold\'; expected "remove" or "keep"'):
        lesion_matrix(model, tasks, lesion="hold")


def test_a_sample_has_the_partners_and_means_of_all_examples(two_kinds):
    model, tasks = two_kinds
    options = {"fractions": [0.5], "controls": 2, "importance_examples": 20}
    for value in ("mean", "resample"):
        whole = lesion_matrix(model, tasks, value=value, **options)
        some = lesion_matrix(model, tasks, value=value, control_examples=11, **options)
        places = some.sampled.examples["warmth"]
        for one, other in zip(some.sampled.matrix.lesions, whole.lesions, strict=True):
            assert one == other
        np.testing.assert_allclose(
            some.sampled.matrix.predictions["warmth"],
            whole.predictions["warmth"][:, places],
            atol=1e-5,
        )


@pytest.mark.parametrize("value", ["zero", "resample"])
def test_what_all_lesions_have_in_common_is_prepared_once(two_kinds, value, monkeypatch):
    """In bf16, on a sample, with more than one group of lesions: as many trials as models."""
    model, tasks = two_kinds
    counts = Counter[str]()

    def counted(place, name):
        whole = getattr(place, name)

        def count(*args, **kwargs):
            task = next((f" {each}" for each in args if isinstance(each, str)), "")
            counts[name + task] += 1
            return whole(*args, **kwargs)

        monkeypatch.setattr(place, name, count)

    monkeypatch.setattr(iap_plan, "GROUP", 7)
    counted(Replay, "holds")
    counted(workload, "_changes_with_padding")
    counted(measuring, "bf16_copy")
    counted(MultiTaskModel, "encode")
    found = lesion_matrix(
        model,
        tasks,
        fractions=(0.3, 0.5),
        controls=19,
        control_examples=7,
        value=value,
        precision="bf16",
    )
    assert len({lesion.heads for lesion in found.sampled.matrix.lesions}) > 14
    first, second = (task.name for task in tasks)
    own = value != "zero"
    assert counts == {
        "holds": 1 + own,
        "bf16_copy": 1,
        # for importance, for the means where there are any, and for the lesions
        f"_changes_with_padding {first}": 2 + own,
        f"_changes_with_padding {second}": 1 + 2 * own,
        f"encode {first}": 2 + own,
        f"encode {second}": 2 + own,
    }
