"""Ablation equals attention probabilities of 0, in whatever batch, and leaves nothing behind."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from lobes.ablation import (
    HeadSamples,
    ablate,
    entering,
    mean_contexts,
    record_contexts,
    resampled_contexts,
)
from lobes.discovery import find_heads
from lobes.errors import ConfigError, DataError, HeadError
from lobes.heads import HeadLayout, HeadSet
from tiny_models import NAMES, TINY, VOCABULARY, tiny_inputs, tiny_model

BOTH = [(name, attention) for name in NAMES for attention in TINY[name].attentions]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny products are slower on several threads than on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """What the model computes from a batch: its last states, or CLIP's similarities."""
    with torch.no_grad():
        outputs = model(**inputs)
    if "last_hidden_state" in outputs:
        return outputs.last_hidden_state
    return outputs.logits_per_image


@pytest.mark.parametrize(("name", "attention"), BOTH)
def test_with_nothing_ablated_the_model_is_itself(name: str, attention: str):
    model = tiny_model(name, attention=attention)
    inputs = tiny_inputs(model)
    before = run(model, inputs)
    with ablate(model, HeadSet()):
        assert torch.equal(run(model, inputs), before)
    with ablate(model, [HeadSet(), HeadSet()]):
        assert torch.equal(run(model, inputs), before)
    with ablate(model, find_heads(model).all_heads()):
        assert not torch.equal(run(model, inputs), before)
    assert torch.equal(run(model, inputs), before)


class Silenced(TorchFunctionMode):
    """Sets the attention probabilities of heads to 0 in an eager model.

    The number of a softmax in the pass is the number of the site it belongs to.
    """

    def __init__(self, heads: HeadSet, first_site: int = 0) -> None:
        super().__init__()
        self.by_site, self.site = heads.by_site(), first_site

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in (F.softmax, torch.softmax, Tensor.softmax) and output.dim() == 4:
            output[:, list(self.by_site.get(self.site, ()))] = 0  # [batch, heads, queries, keys]
            self.site += 1
        return output


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5", "vit", "swin", "bart", "clip"])
def test_ablating_equals_probabilities_of_zero(name: str):
    model = tiny_model(name)
    inputs, layout = tiny_inputs(model), find_heads(model)
    before = run(model, inputs)
    every_third = HeadSet(list(layout.all_heads())[::3])
    one_of_each = HeadSet((site.index, site.index % site.n_heads) for site in layout.sites)
    for heads in (every_third, one_of_each, HeadSet([(1, 0)]), layout.all_heads()):
        with Silenced(heads) as silenced:
            expected = run(model, inputs)
        assert silenced.site == len(layout.sites)
        with ablate(model, heads):
            ablated = run(model, inputs)
        torch.testing.assert_close(ablated, expected, rtol=0, atol=1e-6)
        assert (ablated - before).abs().max() > 1e-3


def test_a_layer_that_runs_twice_is_ablated_each_time():
    model = tiny_model("albert")
    inputs, heads = tiny_inputs(model), HeadSet([(0, 1), (0, 4)])
    both_depths = HeadSet([(depth, head) for depth in (0, 1) for _, head in heads])
    with Silenced(both_depths):
        expected = run(model, inputs)
    with ablate(model, heads):
        torch.testing.assert_close(run(model, inputs), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("name", "attention"),
    [
        (n, a)
        for n, a in BOTH
        if n in ("bert", "modernbert", "gpt2", "llama", "t5", "bart", "vit", "swin")
        or n in ("bitnet", "diffllama", "squeezebert", "fsmt", "siglip_vision_model")
    ],
)
def test_a_set_for_each_example_equals_one_run_for_each_set(name, attention, dtype):
    model = tiny_model(name, attention=attention).to(dtype)
    inputs = {
        key: value.to(dtype) if value.is_floating_point() else value
        for key, value in tiny_inputs(model, batch=3).items()
    }
    every = [*find_heads(model).all_heads()]
    sets = [HeadSet(every[::2]), HeadSet(), HeadSet([every[1], every[-1]])]
    with ablate(model, sets):
        together = run(model, inputs)
    for row, heads in enumerate(sets):
        with ablate(model, heads):
            # the same shapes, so the same bits
            assert torch.equal(run(model, inputs)[row], together[row])
            alone = run(model, {key: value[row : row + 1] for key, value in inputs.items()})
        tolerance = 1e-5 if dtype == torch.float32 else 0.1
        torch.testing.assert_close(alone[0], together[row], rtol=tolerance, atol=tolerance)


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_nested_blocks_ablate_the_union(data):
    layout = find_heads(MODEL)
    heads = st.sets(st.sampled_from(list(layout.all_heads()))).map(HeadSet)
    outer, inner = data.draw(heads), data.draw(heads)
    with ablate(MODEL, outer), ablate(MODEL, inner):
        nested = run(MODEL, INPUTS)
    with ablate(MODEL, outer | inner):
        assert torch.equal(run(MODEL, INPUTS), nested)


MODEL = tiny_model("bert")
INPUTS = tiny_inputs(MODEL)


# Contexts and their gradients.


@pytest.mark.parametrize(("name", "attention"), BOTH)
def test_recorded_contexts_are_those_of_the_heads_that_are_left(name: str, attention: str):
    model = tiny_model(name, attention=attention)
    layout, inputs = find_heads(model), tiny_inputs(model)
    heads = HeadSet((site.index, site.n_heads - 1) for site in layout.sites)
    with ablate(model, heads), record_contexts(model) as record:
        run(model, inputs)
    with record_contexts(model) as around, ablate(model, heads):
        run(model, inputs)
    for inner, outer in zip(record.calls, around.calls, strict=True):
        assert all(map(torch.equal, inner, outer))
    for site in layout.sites:
        contexts = record.contexts(site.index)
        assert contexts.shape[-2:] == (site.n_heads, site.head_dim)
        assert (contexts[..., -1, :] == 0).all()
        assert (contexts[..., :-1, :] != 0).any(-1).any(-1).all()


def test_gradients_need_none_of_the_weights():
    model = tiny_model("t5").requires_grad_(False)
    layout = find_heads(model)
    with record_contexts(model, gradients=True) as record:
        loss = model(**tiny_inputs(model)).last_hidden_state.square().sum()
    gradients = record.gradients(loss)
    assert len(gradients) == len(layout.sites)
    for site, calls in zip(layout.sites, gradients, strict=True):
        (gradient,) = calls
        assert gradient.shape == record.calls[site.index][0].shape
        assert (record.split(site.index, gradient) != 0).flatten(0, 1).any(-1).any(0).all()
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_heads_gradient_is_the_slope_of_the_loss_as_it_fades():
    """∂L/∂mask = Σ context · ∂L/∂context, against the difference quotient of a mask."""
    model = tiny_model("gpt2").double()
    inputs = tiny_inputs(model)

    def loss() -> Tensor:
        return model(**inputs).last_hidden_state.square().sum()

    with record_contexts(model, gradients=True) as record:
        gradients = record.gradients(loss())
    contexts, gradient = record.contexts(1), record.split(1, gradients[1][0])
    slopes = (contexts * gradient).sum((0, 1, 3)).tolist()
    projection = model.get_submodule(find_heads(model).sites[1].projection)

    def faded(head: int, step: float) -> float:
        factors = torch.ones(30, dtype=torch.float64)
        factors[6 * head : 6 * head + 6] += step
        hook = projection.register_forward_pre_hook(lambda _, args: (args[0] * factors,))
        with torch.no_grad():
            value = float(loss())
        hook.remove()
        return value

    for head, slope in enumerate(slopes):
        quotient = (faded(head, 1e-4) - faded(head, -1e-4)) / 2e-4
        assert slope == pytest.approx(quotient, rel=1e-5)


# Nothing is left behind.


class Fails(nn.Module):
    """Stands for a layer that raises."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def forward(self, *_: Any, **__: Any) -> Tensor:
        raise self.error


def _hooks(model: nn.Module) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


@contextmanager
def _both(model: nn.Module, layout: HeadLayout) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(ablate(model, layout.all_heads(), layout=layout))
        stack.enter_context(record_contexts(model, layout=layout, gradients=True))
        assert _hooks(model) == 2 * len(layout.sites)
        yield


@pytest.mark.parametrize(
    "error", [None, RuntimeError("no"), KeyboardInterrupt(), SystemExit(), GeneratorExit()]
)
def test_no_hook_flag_or_gradient_is_left(error):
    model = tiny_model("bert").train()
    layout = find_heads(model)
    model.encoder.layer[0].requires_grad_(False)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    if error is not None:
        model.encoder.layer[1].intermediate = Fails(error)
    inputs = tiny_inputs(model)
    with nullcontext() if error is None else pytest.raises(type(error)), _both(model, layout):
        model(**inputs)
    assert _hooks(model) == 0
    assert model.training
    if error is None:
        assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.is_grad_enabled()


# What is refused.


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        (HeadSet([(2, 0)]), r"Head 2:0 does not exist: the model has 2 sites, 0 to 1\."),
        (
            HeadSet([(1, 4), (1, 5)]),
            r"Head 1:5 does not exist: site 1 \(encoder.layer.1.attention\) has 5 heads, 0 to 4\.",
        ),
    ],
)
def test_heads_that_do_not_exist_are_refused(heads, message):
    for given_heads in (heads, [HeadSet(), heads]):
        with pytest.raises(HeadError, match=message), ablate(MODEL, given_heads):
            pass
        assert _hooks(MODEL) == 0


def test_a_number_of_sets_that_does_not_fit_the_batch_is_refused():
    message = "3 head sets were given for a batch of 2 examples: give one set for the whole batch"
    with ablate(MODEL, [HeadSet([(1, 0)])] * 3), pytest.raises(HeadError, match=message):
        run(MODEL, INPUTS)
    assert _hooks(MODEL) == 0


def test_examples_that_lie_mixed_take_one_set_for_the_batch():
    model = tiny_model("jetmoe")
    inputs = tiny_inputs(model)
    with ablate(model, HeadSet([(0, 1)])):
        run(model, inputs)
    message = r"contexts at site 0 \(layers.0.self_attention\) are not laid out example by example"
    with ablate(model, [HeadSet([(0, 1)])] * 2), pytest.raises(HeadError, match=message):
        run(model, inputs)


def test_contexts_of_a_site_that_has_not_run_are_refused():
    with record_contexts(MODEL) as record, pytest.raises(HeadError, match=r"Site 1 .* has not run"):
        record.contexts(1)


# The mean context in the place of zero.


def _texts(lengths: list[int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(4, VOCABULARY, (length,), generator=generator) for length in lengths]


def _padded(texts: list[Tensor], prefix: str = "") -> dict[str, Tensor]:
    ids = nn.utils.rnn.pad_sequence(texts, batch_first=True)
    lengths = torch.tensor([len(text) for text in texts])
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    return {f"{prefix}input_ids": ids, f"{prefix}attention_mask": mask}


def _alone(model: nn.Module, layout: HeadLayout, inputs: list[dict[str, Tensor]]) -> list[Tensor]:
    """Each site's mean context over single examples without padding, the plain way."""
    sums = [torch.zeros(site.n_heads, site.head_dim).double() for site in layout.sites]
    counts = [0] * len(sums)
    for one in inputs:
        with torch.no_grad(), record_contexts(model, layout=layout) as record:
            model(**one)
        for site, calls in enumerate(record.calls):
            for contexts in calls:
                sums[site] += record.split(site, contexts).flatten(0, -3).double().sum(0)
                counts[site] += contexts.shape[:-1].numel()
    return [total / count for total, count in zip(sums, counts, strict=True)]


@pytest.mark.parametrize("name", ["bert", "llama", "albert", "squeezebert"])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_means_depend_on_neither_batches_nor_padding(name: str, size: int):
    model = tiny_model(name)
    texts = _texts([5, 11, 2, 7, 3])
    means = mean_contexts(model, [_padded(texts[i : i + size]) for i in range(0, 5, size)])
    expected = _alone(model, find_heads(model), [{"input_ids": text[None]} for text in texts])
    for found, wanted in zip(means.values, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    depths = 2 if name == "albert" else 1
    assert set(means.positions) == {28 * depths}


@pytest.mark.parametrize("name", ["bart", "t5"])
@pytest.mark.parametrize("said_by", ["mask", "labels"])
def test_a_decoder_has_padding_of_its_own(name: str, said_by: str):
    """Encoder and decoder texts are as long as each other, so that shapes tell nothing."""
    model = tiny_model(name)
    layout = find_heads(model)
    sources, targets = _texts([9, 4, 6]), _texts([3, 9, 5])
    batch = _padded(sources) | _padded(targets, "decoder_")
    if said_by == "labels":
        mask = batch.pop("decoder_attention_mask")
        model.forward = _without_labels(model.forward)  # models without a head take none
        batch["labels"] = batch["decoder_input_ids"].masked_fill(mask == 0, -100)
    means = mean_contexts(model, [batch], layout=layout)
    pairs = zip(sources, targets, strict=True)
    expected = _alone(
        model, layout, [{"input_ids": a[None], "decoder_input_ids": b[None]} for a, b in pairs]
    )
    for found, wanted in zip(means.values, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert means.positions == (19, 19, 17, 17, 17, 17)


def _without_labels(forward: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, labels=None, **kwargs: forward(*args, **kwargs)


@pytest.mark.parametrize(
    "name", ["bert", "gpt2", "bart", "swin", "squeezebert", "fsmt", "siglip_vision_model"]
)
def test_the_mean_stands_in_the_place_of_the_context(name: str):
    model = tiny_model(name)
    inputs, layout = tiny_inputs(model), find_heads(model)
    means = mean_contexts(model, [inputs])
    sets = [HeadSet([(0, 1), (1, 2)]), HeadSet([(1, 0)])]
    with ablate(model, sets, value="mean", data=means), record_contexts(model) as record:
        together = run(model, inputs)
    for site, _ in {(site, 0) for heads in sets for site, _ in heads}:
        contexts = record.contexts(site).unflatten(0, (2, -1))
        for row, heads in enumerate(sets):
            for head in range(layout.sites[site].n_heads):
                here = contexts[row, ..., head, :]
                mean = means.values[site][head].float().expand_as(here)
                assert torch.equal(here, mean) == ((site, head) in heads)
    for row, heads in enumerate(sets):
        with ablate(model, heads, value="mean", data=[inputs]):
            torch.testing.assert_close(run(model, inputs)[row], together[row], rtol=0, atol=1e-6)
    before = run(model, inputs)
    with ablate(model, HeadSet(), value="mean", data=means):
        assert torch.equal(run(model, inputs), before)
    assert _hooks(model) == 0


def test_a_batch_of_equal_positions_is_its_own_mean():
    """Where every context is the mean already, ablating to it changes nothing."""
    model = tiny_model("bert")
    with torch.no_grad():
        for part in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
            model.embeddings.get_submodule(part).weight.fill_(0.1)
    inputs, before = tiny_inputs(model), run(model, tiny_inputs(model))
    with ablate(model, find_heads(model).all_heads(), value="mean", data=[inputs]):
        torch.testing.assert_close(run(model, inputs), before, rtol=0, atol=1e-5)


def test_means_leave_the_model_as_it_was():
    model = tiny_model("bert").train()
    model.encoder.layer[0].eval()
    modes = [module.training for module in model.modules()]
    mean_contexts(model, [tiny_inputs(model)])
    assert [module.training for module in model.modules()] == modes
    assert _hooks(model) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"value": "mean"}, r"give data=batches of keyword inputs, or data=lobes.mean_contexts\("),
        ({"value": "noise"}, r"value is 'noise'; expected \"zero\", \"mean\" or \"resample\""),
        ({"data": [INPUTS]}, 'data are for value="mean"'),
        ({"value": "resample"}, "give data=the batch of keyword inputs that runs inside the block"),
        ({"value": "resample", "data": [INPUTS]}, "give data=the batch of keyword inputs"),
        ({"value": "resample", "data": INPUTS, "seed": -1}, "seed is -1; expected"),
        ({"value": "mean", "data": HeadSamples(())}, "give data=batches of keyword inputs"),
        ({"value": "resample", "data": HeadSamples(())}, "are those of another model"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message), ablate(MODEL, HeadSet([(0, 1)]), **settings):
        pass


def test_means_of_another_model_or_of_nothing_are_refused():
    other = mean_contexts(tiny_model("llama"), [tiny_inputs(tiny_model("llama"))])
    with (
        pytest.raises(ConfigError, match="The mean contexts are those of another model"),
        ablate(MODEL, HeadSet([(0, 1)]), value="mean", data=other),
    ):
        pass
    with pytest.raises(DataError, match="There is not one batch to take the mean contexts of"):
        mean_contexts(MODEL, [])


# The context of another example in the place of zero.


@pytest.mark.parametrize(
    "name", ["bert", "gpt2", "bart", "albert", "swin", "squeezebert", "fsmt", "siglip_vision_model"]
)
def test_the_context_of_another_example_stands_in_the_place(name: str):
    model = tiny_model(name)
    inputs, layout = tiny_inputs(model), find_heads(model)
    with record_contexts(model) as plain:
        before = run(model, inputs)
    sets = [HeadSet([(0, 1), (1, 2)]), HeadSet([(0, 0)])]
    sets = [HeadSet(head for head in heads if head in layout) for heads in sets]
    samples = resampled_contexts(model, inputs)
    with ablate(model, sets, value="resample", data=samples), record_contexts(model) as record:
        together = run(model, inputs)
    for site in {site for heads in sets for site, _ in heads}:
        for now, own in zip(record.calls[site], plain.calls[site], strict=True):
            contexts = record.split(site, now).unflatten(0, (2, -1))
            others = record.split(site, own).unflatten(0, (2, -1)).flip(0)  # two examples
            for row, heads in enumerate(sets):
                for head in range(layout.sites[site].n_heads):
                    pair = contexts[row, ..., head, :], others[row, ..., head, :]
                    assert torch.equal(*pair) == ((site, head) in heads)
    assert not torch.allclose(together, before)
    for row, heads in enumerate(sets):
        with ablate(model, heads, value="resample", data=inputs):
            torch.testing.assert_close(run(model, inputs)[row], together[row], rtol=0, atol=1e-6)
    assert _hooks(model) == 0


def test_what_is_resampled_is_the_plain_model_whatever_the_lesion():
    """Ablating every head of all sites, nothing of an example reaches itself by way of another."""
    model = tiny_model("bert")
    batch = _padded(_texts([7, 7]))
    samples = resampled_contexts(model, batch)
    with record_contexts(model) as plain:
        run(model, batch)
    every = find_heads(model).all_heads()
    with ablate(model, every, value="resample", data=samples), record_contexts(model) as record:
        run(model, batch)
    for site, (now,) in enumerate(record.calls):
        assert torch.equal(now, plain.calls[site][0].flip(0))


def test_the_mean_stands_where_either_of_two_examples_is_padded_or_there_is_one():
    model, texts = tiny_model("gpt2"), _texts([5, 3])
    batch = _padded(texts)
    (context, *_), means = resampled_contexts(model, batch).calls, mean_contexts(model, [batch])
    mean = means.values[0].flatten().float()
    (padded,) = context
    assert torch.equal(padded[:, 3:], mean.expand_as(padded[:, 3:]))
    assert not torch.isclose(padded[:, :3], mean).all(-1).any()
    ((alone,), *_) = resampled_contexts(model, _padded(texts[:1]), means=means).calls
    assert torch.equal(alone, mean.expand_as(alone))


def test_the_seed_decides_who_takes_whose_contexts():
    model, batch = tiny_model("bert"), _padded(_texts([7] * 5))
    plain = resampled_contexts(model, _padded(_texts([7] * 5)), seed=1).calls[0][0]
    again, other = (resampled_contexts(model, batch, seed=seed).calls[0][0] for seed in (1, 2))
    assert torch.equal(again, plain)
    assert not torch.equal(other, plain)
    with record_contexts(model) as record:
        run(model, batch)
    own = record.calls[0][0]
    taken = [[torch.equal(row, one) for one in own] for row in plain]
    assert [sum(row) for row in taken] == [1] * 5
    assert not any(taken[i][i] for i in range(5))


def test_a_batch_that_was_not_resampled_is_refused():
    model, batch = tiny_model("bert"), _padded(_texts([5, 3]))
    head = HeadSet([(0, 1)])
    with (
        ablate(model, head, value="resample", data=batch),
        pytest.raises(HeadError, match=r"have the shape \[2, 4, .* resampled \[2, 5, "),
    ):
        run(model, _padded(_texts([4, 3])))
    albert, inputs = tiny_model("albert"), tiny_inputs(tiny_model("albert"))
    with ablate(albert, head, value="resample", data=inputs):
        assert torch.equal(run(albert, inputs), run(albert, inputs))  # begins anew with each run
    with pytest.raises(DataError, match="The batch has no tensor"):
        resampled_contexts(model, {"return_dict": True})


# --- called without `with` ---------------------------------------------------------------------


@pytest.fixture
def never_warned() -> None:
    entering._warn.cache_clear()


@pytest.mark.usefixtures("never_warned")
@pytest.mark.parametrize("number", [1, 2])
def test_a_block_that_nobody_enters_warns_once(number: int, caplog: pytest.LogCaptureFixture):
    model = tiny_model("bert")
    for _ in range(number):
        ablate(model, "0:1")
        record_contexts(model)
    assert [record.getMessage() for record in caplog.records if record.name == "lobes"] == [
        f"lobes.{name}(…) does nothing by itself: write `with lobes.{name}(…):`, and run the model "
        "inside the block."
        for name in ("ablate", "record_contexts")
    ]


@pytest.mark.usefixtures("never_warned")
def test_a_block_that_was_entered_or_could_not_be_made_does_not_warn(
    caplog: pytest.LogCaptureFixture,
):
    model = tiny_model("bert")
    inputs = tiny_inputs(model)
    with pytest.raises(ConfigError, match="Neither heads nor factors were given"), ablate(model):
        pass
    with pytest.raises(HeadError), ablate(model, "0:97"):
        pass
    with ablate(model, "0:1") as entered:
        expected = run(model, inputs)
    assert entered is None

    @ablate(model, "0:1")
    def ablated() -> Tensor:
        return run(model, inputs)

    assert torch.equal(ablated(), expected)
    assert torch.equal(ablated(), expected)
    assert not torch.equal(run(model, inputs), expected)
    del ablated
    assert not caplog.records


def test_a_block_can_be_entered_again_also_inside_itself():
    model = tiny_model("bert")
    inputs = tiny_inputs(model)
    plain = run(model, inputs)
    with ablate(model, "0:1"):
        expected = run(model, inputs)
    block = ablate(model, "0:1")
    for _ in range(2):
        with block:
            assert torch.equal(run(model, inputs), expected)
            with block:
                assert torch.equal(run(model, inputs), expected)
            assert torch.equal(run(model, inputs), expected)
        assert torch.equal(run(model, inputs), plain)


@pytest.mark.usefixtures("never_warned")
def test_a_notebook_that_shows_a_block_shows_how_to_enter_it():
    block = ablate(tiny_model("bert"), "0:1")
    assert "`with lobes.ablate(…):`" in repr(block)
    with block:
        pass
