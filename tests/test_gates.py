"""Gates find the heads that a task needs, can spare and is harmed by, and leave nothing behind."""

import numpy as np
import pytest
import torch

from lobes.ablation import ablate, record_contexts
from lobes.discovery import find_heads
from lobes.heads import HeadSet
from lobes.measure.batches import TaskBatches
from lobes.measure.evaluation import evaluate
from lobes.measure.gates import HeadGates, _parts, gate_slopes, gated, head_gates
from lobes.measure.iap import lesion_matrix
from lobes.measure.importance import head_importance
from planted import planted_model
from test_importance import model_for, state
from test_planted_truth import N_FEATURES, N_HEADS, N_SITES, sign_task
from test_prompted import prompted
from tiny_tasks import mood_task

CARRIERS = {"first": HeadSet([(0, 1), (1, 4)]), "second": HeadSet([(0, 5), (1, 2)])}
FEATURES = {(0, 1): 0, (1, 4): 1, (0, 5): 2, (1, 2): 3}
HARMFUL = (1, 6)
QUICK = {"seeds": 2, "steps": 20, "learning_rate": 0.3}


@pytest.fixture(scope="module")
def planted():
    """Heads that decide each task, and one that adds a feature to the first which is only noise."""
    tasks = [sign_task("first", (0, 1), seed=1), sign_task("second", (2, 3), seed=2)]
    heads = [(site, head) for site in range(N_SITES) for head in range(N_HEADS)]
    carries = {**CARRIERS, "first": [*CARRIERS["first"], HARMFUL]}
    reads = {head: FEATURES.get(head, 4) for head in heads}
    sizes = {"n_features": N_FEATURES, "n_sites": N_SITES, "n_heads": N_HEADS}
    return planted_model(tasks, reads, carries, **sizes), tasks


def test_planted_heads_are_needed_the_others_spare_and_noise_harmful(planted):
    model, tasks = planted
    plain, without = evaluate(model, tasks, [HeadSet(), HeadSet([HARMFUL])]).scores()[:, 0]
    assert without == 1.0 > plain + 0.05
    everything = find_heads(model).all_heads()
    harmful = {"first": HeadSet([HARMFUL]), "second": HeadSet()}
    for task in tasks:
        needed = CARRIERS[task.name]
        assert head_gates(model, task, **QUICK).roles() == {
            "needed": needed,
            "harmful": harmful[task.name],
            "spare": everything - needed - harmful[task.name],
            "unclear": HeadSet(),
        }


def test_lesions_are_of_the_needed_heads(planted):
    model, tasks = planted
    matrix = lesion_matrix(model, tasks, fractions=[2 / 14], controls=0, random=0, method="gates")
    for lesion in matrix.lesions[1:]:
        assert lesion.heads == CARRIERS[lesion.task]
    scores = matrix.scores(2 / 14)
    assert scores[0, 1] == 1.0
    assert scores[0, 0] < 0.6
    assert scores[1, 1] < 0.6
    assert matrix.importance["first"][HARMFUL] < 0.1


def test_importance_by_gates_ranks_heads_by_need(planted):
    model, (task, _) = planted
    scores = head_importance(model, task, method="gates", precision="bf16")
    assert scores.top(2 / 14) == CARRIERS["first"]
    assert scores.settings["method"] == "gates"
    expected = head_gates(model, task, precision="bf16").needed
    np.testing.assert_array_equal(scores.values, expected.values)
    np.testing.assert_array_equal(scores.halves, expected.halves)
    assert 0 < scores.reliability < 1


def test_shares_come_from_both_gates_of_every_seed():
    closing = np.array([[[0.9, 0.1, np.nan], [0.2, 0.6, 0.0]], [[0.7, 0.3, np.nan], [0.0, 0.2, 0]]])
    opening = np.array([[[0.8, 0.9, np.nan], [0.3, 0.6, 1.0]], [[0.9, 1.0, np.nan], [0.2, 0.8, 1]]])
    gates = HeadGates(closing, opening, {"task": "a"}, halved=True)
    np.testing.assert_allclose(gates.needed.values, [[0.75, 0.2, np.nan], [0.1, 0.4, 0]])
    np.testing.assert_allclose(gates.spare.values, [[0.15, 0.75, np.nan], [0.15, 0.3, 1]])
    np.testing.assert_allclose(gates.harmful.values, [[0.1, 0.05, np.nan], [0.75, 0.3, 0]])
    halves = [[[0.8, 0.1, np.nan], [0.2, 0.6, 0]], [[0.7, 0.3, np.nan], [0, 0.2, 0]]]
    np.testing.assert_allclose(gates.needed.halves, halves)
    roles = {"needed": "0:0", "spare": "0:1 1:2", "harmful": "1:0", "unclear": "1:1"}
    assert {role: str(heads) for role, heads in gates.roles().items()} == roles
    assert str(gates.roles(0.75)["unclear"]) == "0:0,1 1:0,1"
    assert HeadGates(closing, opening).needed.halves is None


# ALBERT shares one layer, the prompted model reads a sequence for each label and groups its heads.
@pytest.mark.parametrize("name", ["bert", "albert", "prompted"])
def test_the_slope_of_a_gate_equals_finite_differences(name):
    if name == "prompted":
        model, (_, task) = prompted("llama")
    else:
        task = mood_task(n_train=5)
        model = model_for(name, task)
    model = model.double().requires_grad_(False)
    layout = find_heads(model)
    (batch,) = TaskBatches(model, task, "train", 5, 0, 5000)
    sizes = [site.n_heads for site in layout.sites]
    gates = torch.rand(sum(sizes), generator=torch.Generator().manual_seed(3)).double()

    def loss(values):
        with torch.no_grad(), gated(model, layout, values.split(sizes)):
            return batch.losses().sum().item()

    with gated(model, layout, gates.split(sizes)), record_contexts(model, gradients=True) as record:
        found = gate_slopes(batch, record)
    step = 1e-3 * torch.eye(len(gates), dtype=torch.float64)
    slopes = [(loss(gates + each) - loss(gates - each)) / 2e-3 for each in step]
    expected = gates * torch.tensor(slopes)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


def test_open_gates_change_nothing_and_closed_ones_ablate():
    task = mood_task(n_train=5)
    model = model_for("bert", task).requires_grad_(False)
    layout = find_heads(model)
    (batch,) = TaskBatches(model, task, "train", None, 0, 5000)
    gates = [torch.ones(site.n_heads) for site in layout.sites]
    with gated(model, layout, gates):
        assert torch.equal(batch.losses(), batch.losses())
        opened = batch.losses()
        gates[1][3] = 0
        closed = batch.losses()
    assert torch.equal(opened, batch.losses())
    with ablate(model, "1:3"):
        assert torch.equal(closed, batch.losses())
    assert not torch.equal(closed, opened)


def test_half_of_the_seeds_learn_from_each_half_of_the_examples():
    task = mood_task(n_train=43)
    data = TaskBatches(model_for("bert", task), task, "train", None, 0, 90)
    halves = [_parts(data, 5, half) for half in (0, 1)]
    assert max(map(len, halves[0] + halves[1])) <= 5
    both = [np.concatenate(parts) for parts in halves]
    assert abs(len(both[0]) - len(both[1])) == 1
    np.testing.assert_array_equal(np.sort(np.concatenate(both)), np.arange(43))
    np.testing.assert_array_equal(np.sort(np.concatenate(_parts(data, 5))), np.arange(43))


def test_gates_are_seeded_and_take_the_examples_asked_for():
    task = mood_task(n_train=43)
    model = model_for("gpt2", task)
    options = {"seeds": 3, "steps": 2, "max_examples": 11, "penalty": 1000.0}
    one, same, other = (head_gates(model, task, seed=seed, **options) for seed in (3, 3, 4))
    assert one.closing.shape == one.opening.shape == (3, 2, 5)
    for name in ("closing", "opening"):
        np.testing.assert_array_equal(getattr(one, name), getattr(same, name))
        assert not np.array_equal(getattr(one, name), getattr(other, name))
    assert (one.closing < one.opening).all()  # as the penalty says, where it is large
    assert one.settings["examples"] == 11
    assert one.settings["task"] == "mood"
    single = head_gates(model, task, seeds=1, steps=1).needed
    assert single.halves is None
    assert head_gates(model, task, seeds=2, steps=1, max_examples=1).needed.halves is None


def test_the_penalty_is_in_units_of_what_a_head_is_worth():
    task = mood_task(n_train=7)
    model = model_for("bert", task)
    rise = []
    for heads in (HeadSet(), find_heads(model).all_heads()):
        with ablate(model, heads), torch.no_grad():
            (batch,) = TaskBatches(model, task, "train", None, 0, 5000)
            rise.append(batch.losses().mean().item())
    found = head_gates(model, task, seeds=1, steps=1, penalty=3.0).settings["lambda"]
    assert found == pytest.approx(3.0 * abs(rise[1] - rise[0]) / 10, rel=1e-4)


def test_prompted_tasks_have_gates_too():
    model, (mood, _) = prompted("llama")
    gates = head_gates(model, mood, seeds=1, steps=2, batch_size=7, penalty=1000.0)
    assert gates.closing.shape == (1, 3, 6)
    assert ((gates.closing > 0) & (gates.closing < gates.opening)).all()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_the_model_is_left_as_it_was(precision, error):
    task = mood_task(n_train=13)
    model = model_for("bert", task).train()
    model.encoder.embeddings.requires_grad_(False)
    before, weights = state(model), [p.clone() for p in model.parameters()]
    seen = []

    def progress(done, total):
        seen.append((done, total))
        if done == 3 and error:
            raise error

    options = {"seeds": 1, "steps": 2, "precision": precision, "progress": progress}
    if error is None:
        head_gates(model, task, **options)
        assert seen == [(done, 4) for done in range(5)]
    else:
        with pytest.raises(error):
            head_gates(model, task, **options)
    assert state(model) == before
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), weights, strict=True))
