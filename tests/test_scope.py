"""Interventions act in the runs of their own thread and batch, also where these are run again."""

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from lobes.ablation import ablate, mean_contexts, record_contexts
from lobes.discovery import find_heads
from lobes.errors import ConfigError, HeadError, ModelError
from lobes.heads import HeadSet
from lobes.measure.importance import head_importance
from lobes.pruning import prune
from lobes.replay import Replay
from lobes.training.row_gate import RowGate
from tiny_models import VOCABULARY, tiny_inputs, tiny_model

LESION = HeadSet.parse("0:1 1:2")
BERT = tiny_model("bert")
INPUTS = tiny_inputs(BERT)


def states(model: nn.Module, inputs: dict[str, Tensor] | None = None) -> Tensor:
    with torch.no_grad():
        return model(**(inputs or tiny_inputs(model))).last_hidden_state


def in_thread(function: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


# Gradient checkpointing.

FORMS = [True, False]


def checkpointed(model: nn.Module, reentrant: bool) -> nn.Module:
    other = copy.deepcopy(model).train()
    newer = hasattr(other, "activation_checkpointing_enable")
    name = "activation" if newer else "gradient"
    enable = getattr(other, f"{name}_checkpointing_enable")
    enable(**{f"{name}_checkpointing_kwargs": {"use_reentrant": reentrant}})
    if reentrant:
        other.enable_input_require_grads()
    return other


def gradient(model: nn.Module, loss: Tensor) -> Tensor:
    loss.backward()
    found = model.get_parameter("layers.0.self_attn.q_proj.weight").grad
    model.zero_grad()
    return found


def loss_of(model: nn.Module) -> Tensor:
    return model(**tiny_inputs(model)).last_hidden_state.pow(3).sum()


LLAMA = tiny_model("llama").train()


def lesioned(model: nn.Module, where: str, **kwargs: Any) -> Tensor:
    with ablate(model, LESION, **kwargs):
        loss = loss_of(model)
        if where == "inside":
            return gradient(model, loss)
        if where == "thread":  # as backward passes on a GPU are
            return in_thread(lambda: gradient(model, loss))
    return gradient(model, loss)


@pytest.mark.filterwarnings("ignore:.*requires_grad=True. Gradients will be None")
@pytest.mark.parametrize("reentrant", FORMS)
@pytest.mark.parametrize(
    ("where", "value"),
    [("inside", "zero"), ("after", "zero"), ("after", "mean"), ("thread", "zero")],
)
def test_what_is_computed_again_is_ablated_as_it_was(reentrant, where, value):
    model = checkpointed(LLAMA, reentrant)
    kwargs = {"value": value, "data": [tiny_inputs(model)] if value == "mean" else None}
    expected = lesioned(LLAMA, "inside", **kwargs)
    found = lesioned(model, where, **kwargs)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    plain = gradient(model, loss_of(model))  # nothing is left behind
    torch.testing.assert_close(plain, gradient(LLAMA, loss_of(LLAMA)), rtol=1e-5, atol=1e-5)
    assert (plain - expected).abs().max() > 1e-2


@pytest.mark.parametrize("reentrant", FORMS)
def test_a_block_around_the_backward_pass_alone_ablates_nothing(reentrant):
    model = checkpointed(LLAMA, reentrant)
    expected = gradient(LLAMA, loss_of(LLAMA))
    loss = loss_of(model)
    with ablate(model, LESION), record_contexts(model) as record:
        found = gradient(model, loss)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert record.calls == [[], []]


@pytest.mark.parametrize("reentrant", FORMS)
def test_contexts_and_their_gradients_are_those_without_checkpointing(reentrant):
    model, found = checkpointed(LLAMA, reentrant), []
    for one in (LLAMA, model):
        with record_contexts(one, gradients=True) as record:
            gradients = record.gradients(loss_of(one))
        found.append((record.calls, gradients))
    for mine, wanted in zip(*found, strict=True):
        for one, other in zip(mine, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert model.gradient_checkpointing


@pytest.mark.parametrize("reentrant", FORMS)
def test_importance_means_discovery_and_pruning_are_those_without_checkpointing(reentrant):
    model, batches = checkpointed(LLAMA, reentrant), [tiny_inputs(LLAMA)]

    def losses(outputs: Any, batch: Any) -> Tensor:
        return outputs.last_hidden_state.pow(3).flatten(1).sum(1)

    for find in (find_heads, partial(mean_contexts, batches=batches)):
        assert str(find(model)) == str(find(LLAMA))
    scores = [head_importance(one, batches=batches, loss=losses) for one in (model, LLAMA)]
    assert (scores[0].values == scores[1].values).all()
    smaller = [prune(one.eval(), LESION).train() for one in (model, copy.deepcopy(LLAMA))]
    torch.testing.assert_close(*(gradient(one, loss_of(one)) for one in smaller))


@pytest.mark.parametrize("reentrant", FORMS)
def test_a_batch_is_gated_as_its_own_task_whenever_it_is_computed_again(reentrant):
    """Two batches of different tasks are run, and then both go backward, after the block."""
    found = []
    for model in (copy.deepcopy(LLAMA), checkpointed(LLAMA, reentrant)):
        heads = {"a": HeadSet([(0, 0)]), "b": HeadSet([(0, 5)])}
        with RowGate(model, find_heads(model), heads) as gate:
            losses = []
            for task, factor in (("a", 1.0), ("b", 2.0)):
                gate.select(task)
                losses.append(loss_of(model) * factor)
        found.append(gradient(model, losses[0] + losses[1]))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)
    assert set((found[0].abs().sum(1) == 0).tolist()) == {True, False}


class ByHand(nn.Module):
    """A model whose own code checkpoints it."""

    def __init__(self, model: nn.Module, reentrant: bool) -> None:
        super().__init__()
        self.model, self.reentrant = model, reentrant

    def forward(self, input_ids: Tensor, bias: Tensor) -> Tensor:
        def run(bias: Tensor) -> Tensor:
            return self.model(input_ids).last_hidden_state + bias

        return torch.utils.checkpoint.checkpoint(run, bias, use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", FORMS)
def test_a_lesion_that_cannot_be_carried_is_refused(reentrant):
    model, bias = ByHand(LLAMA, reentrant), torch.zeros(1, requires_grad=True)
    ids = tiny_inputs(LLAMA)["input_ids"]
    example = {"input_ids": ids, "bias": torch.zeros(1)}
    layout = find_heads(ByHand(LLAMA, False), example_inputs=example)
    if reentrant:
        with pytest.raises(ModelError, match="runs where torch computes no gradients"):
            find_heads(model, example_inputs=example)
    for block in (
        ablate(model, "0:1", layout=layout),
        record_contexts(model, layout=layout, gradients=True),
    ):
        with (
            block,
            pytest.raises(ModelError, match=r"Site 0 .* runs inside torch.utils.checkpoint"),
        ):
            model(ids, bias)
    with record_contexts(model, layout=layout) as record:
        model(ids, bias)
    assert [len(calls) for calls in record.calls] == [1, 1]


# Threads.


def test_blocks_in_threads_act_each_in_its_own():
    lesions = [HeadSet([(site, head)]) for site in (0, 1) for head in range(5)]
    expected = []
    for lesion in lesions:
        with ablate(BERT, lesion), record_contexts(BERT) as record:
            expected.append((states(BERT), record.contexts(1)))
    start = threading.Barrier(len(lesions))

    def run(number: int) -> None:
        start.wait(60)
        for _ in range(5):
            with ablate(BERT, lesions[number]), record_contexts(BERT) as record:
                found = states(BERT)
                assert [len(calls) for calls in record.calls] == [1, 1]
                assert torch.equal(found, expected[number][0])
                assert torch.equal(record.contexts(1), expected[number][1])

    with ThreadPoolExecutor(len(lesions)) as pool:
        for done in [pool.submit(run, number) for number in range(len(lesions))]:
            done.result()
    assert torch.equal(states(BERT), states(BERT))
    assert not any(module._forward_pre_hooks for module in BERT.modules())


@pytest.mark.parametrize("block", [lambda m: ablate(m, LESION), record_contexts])
def test_a_thread_without_a_block_of_its_own_is_refused(block):
    plain = states(BERT)
    with block(BERT):
        with pytest.raises(ConfigError, match="enter one here too"):
            in_thread(lambda: states(BERT))

        def own() -> Tensor:
            with ablate(BERT, ""):
                return states(BERT)

        assert torch.equal(in_thread(own), plain)
        assert torch.equal(in_thread(lambda: states(copy.deepcopy(LLAMA).eval())), states(LLAMA))
        layout = in_thread(lambda: find_heads(BERT, example_inputs=INPUTS))
        assert layout == find_heads(BERT)
    assert torch.equal(in_thread(lambda: states(BERT)), plain)


def test_a_module_of_torchs_stays_open_while_any_thread_needs_it():
    layer = nn.TransformerEncoderLayer(12, 3, 7, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval()
    inputs = torch.randn(2, 5, 12)
    layout = find_heads(model, example_inputs={"src": inputs})
    with torch.no_grad():
        with ablate(model, "0:1", layout=layout):
            expected = model(inputs)
        entered, left = threading.Event(), threading.Event()

        def outlast() -> Tensor:
            with torch.no_grad(), ablate(model, "0:1", layout=layout):
                entered.set()
                assert left.wait(60)
                return model(inputs)

        with ThreadPoolExecutor(1) as pool:
            with ablate(model, "0:2", layout=layout):
                task = pool.submit(outlast)
                assert entered.wait(60)
            left.set()
            assert torch.equal(task.result(), expected)


def test_a_replica_of_data_parallel_is_ablated_in_its_thread():
    """What DataParallel runs in a thread: copies of the modules that share their hooks."""
    projection = BERT.get_submodule(find_heads(BERT).sites[0].projection)
    replica = projection._replicate_for_data_parallel()
    replica.weight, replica.bias = projection.weight, projection.bias
    contexts = torch.randn(2, 7, 30)
    with torch.no_grad(), ablate(BERT, LESION):
        expected = projection(contexts)

        def run() -> Tensor:
            with torch.no_grad():
                return replica(contexts)

        assert torch.equal(in_thread(run), expected)


def test_outputs_are_played_back_in_the_measuring_thread_only():
    def run() -> Tensor:
        return states(BERT)

    replay = Replay(BERT, find_heads(BERT), run)
    other = tiny_inputs(BERT, seed=1)
    expected = states(BERT, other)
    with replay.recording({1}):
        run()
        assert torch.equal(in_thread(lambda: states(BERT, other)), expected)
    with replay.playing(1):
        assert torch.equal(in_thread(lambda: states(BERT, other)), expected)


def test_a_model_has_one_row_gate():
    layout = find_heads(BERT)
    with RowGate(BERT, layout, {"a": HeadSet()}) as first:
        with pytest.raises(ModelError, match="a model has one at a time"):
            RowGate(BERT, layout, {"b": HeadSet()}).__enter__()
        first.select("a")
    assert torch.equal(states(BERT), states(BERT))


# Head sets and batches.


@pytest.mark.parametrize("name", ["bert", "swin", "squeezebert", "bart"])
@pytest.mark.parametrize("number", [2, 8])
def test_as_many_head_sets_as_examples(name, number):
    """Two sets for four examples, eight for four: whatever divides what."""
    model = tiny_model(name)
    inputs = tiny_inputs(model, batch=4)
    sets = [HeadSet([(0, 1)]), HeadSet()] * (number // 2)
    message = f"{number} head sets were given for a batch of 4 examples"
    with ablate(model, sets), pytest.raises(HeadError, match=message):
        states(model, inputs)
    with ablate(model, sets[:2] * 2):
        states(model, inputs)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_a_part_of_the_model_counts_its_own_batch():
    hidden = torch.randn(3, 7, 30)
    with torch.no_grad(), ablate(BERT, [LESION] * 3):
        several = BERT.encoder.layer[0](hidden)
        with pytest.raises(HeadError, match=r"3 head sets .* have 6 rows, which cannot be"):
            BERT.encoder.layer[0](torch.cat([hidden, hidden]))
        assert BERT(input_ids=torch.randint(4, VOCABULARY, (3, 5)))
    with torch.no_grad(), ablate(BERT, LESION):
        assert torch.equal(BERT.encoder.layer[0](hidden), several)
