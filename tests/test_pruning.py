"""Pruned models against ablation: outputs, gradients, what is saved and loaded, and refusals."""

import copy
import json
import pickle
import re
from contextlib import suppress
from itertools import combinations

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from safetensors.torch import load_file, save_file
from torch import nn

import lobes
from lobes import HeadSet, ablate, find_heads, load_pruned, prune, record_contexts
from lobes.errors import ConfigError, HeadError, ModelError
from lobes.pruning.cutting import tried_out
from lobes.pruning.plan import KEY, plans_of
from lobes.pruning.verification import largest_difference
from plain_models import WIDTH, Attention, Encoder, attend, join, split
from tiny_models import TINY, tiny_inputs, tiny_model

# Their contexts reach a norm or a convolution, or are mixed by experts.
NOT_PRUNED = {"bitnet", "convbert", "jetmoe", "squeezebert"}
if Version(transformers.__version__) < Version("5.20"):
    NOT_PRUNED |= {"diffllama"}  # whose code then could not do with fewer heads
NAMES = [name for name in TINY if name not in NOT_PRUNED]
NAMED = [(name, attention) for name in NAMES for attention in TINY[name].attentions]


def uneven(model: nn.Module) -> HeadSet:
    """About a third of a model's heads: other numbers in each site, and in each group of heads."""
    return HeadSet(
        (site.index, (2 * head + site.index) % site.n_heads)
        for site in find_heads(model).sites
        if site.prunable
        for head in range(min(site.n_heads - 1, 1 + site.index % 3))
    )


def first(output):
    """The first tensor of a model's output."""
    if isinstance(output, torch.Tensor):
        return output
    return output[0] if isinstance(output, tuple) else next(iter(output.values()))


def run(model, inputs):
    with torch.no_grad():
        return first(model(**inputs))


def ablated(model, heads, inputs):
    with ablate(model, heads):
        return run(model, inputs)


def assert_same(found, expected, tolerance=1e-5):
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * max(scale, 1.0))


def parameters(model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("name", "attention"), NAMED)
def test_a_pruned_model_gives_what_the_whole_one_gives_under_ablation(name, attention):
    model = tiny_model(name, attention=attention)
    heads, inputs = uneven(model), tiny_inputs(model, batch=3, length=9, seed=5)
    before = copy.deepcopy(model.state_dict())
    smaller = prune(model, heads)
    assert_same(run(smaller, inputs), ablated(model, heads, inputs))
    assert parameters(smaller) < parameters(model)
    # the model itself is as it was
    assert {k: v.shape for k, v in before.items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not hasattr(model.config, KEY)
    needed = sum(
        len(s.bypasses) * 2 + len(s.narrowings) * 2 + len(s.ignored) + sum(
            len(b.readers) for b in s.bypasses
        )
        for s in plans_of(smaller.config)[0].sites
    )  # fmt: skip
    hooks = sum(
        len(module._forward_pre_hooks) + len(module._forward_hooks) for module in smaller.modules()
    )
    assert hooks <= needed


@pytest.mark.parametrize("name", NAMES)
def test_a_site_may_lose_all_its_heads(name):
    model = tiny_model(name)
    sites = find_heads(model).sites
    if len(sites) == 1:
        pytest.skip("its only site cannot lose all heads")
    heads = HeadSet((1, head) for head in range(sites[1].n_heads))
    inputs = tiny_inputs(model)
    assert_same(run(prune(model, heads), inputs), ablated(model, heads, inputs))


@pytest.mark.parametrize("name", NAMES)
def test_what_was_pruned_is_saved_and_loaded(name, tmp_path):
    model = tiny_model(name)
    heads, inputs = uneven(model), tiny_inputs(model)
    smaller = prune(model, heads)
    smaller.save_pretrained(tmp_path)
    loaded = load_pruned(tmp_path)
    assert type(loaded) is type(model)
    assert not loaded.training
    assert_same(run(loaded, inputs), run(smaller, inputs), 1e-6)
    loaded.save_pretrained(tmp_path / "again")
    assert_same(run(load_pruned(tmp_path / "again"), inputs), run(smaller, inputs), 1e-6)
    # nothing full-sized is in the file
    stored = load_file(tmp_path / "model.safetensors")
    assert sum(tensor.numel() for tensor in stored.values()) <= parameters(smaller)


@pytest.mark.parametrize("name", ["bert", "gpt2", "deberta-v2", "t5", "bloom", "swin", "mpnet"])
def test_the_gradients_are_those_of_ablation(name):
    model = tiny_model(name)
    heads, inputs = uneven(model), tiny_inputs(model)
    smaller = prune(model, heads)
    first(smaller(**inputs)).square().sum().backward()
    with ablate(model, heads):
        first(model(**inputs)).square().sum().backward()
    expected = dict(model.named_parameters())
    compared = 0
    for key, parameter in smaller.named_parameters():
        if key in expected and parameter.shape == expected[key].shape:
            if parameter.grad is None or expected[key].grad is None:
                continue
            assert_same(parameter.grad, expected[key].grad, 1e-4)
            compared += 1
    assert compared > 5


def test_gradients_of_the_rows_that_stay_are_theirs():
    model = tiny_model("bert")
    heads, inputs = HeadSet([(0, 1), (1, 0), (1, 4)]), tiny_inputs(model)
    smaller = prune(model, heads)
    first(smaller(**inputs)).square().sum().backward()
    with ablate(model, heads):
        first(model(**inputs)).square().sum().backward()
    whole = model.encoder.layer[1].attention
    cut = smaller.encoder.layer[1].attention
    kept = np.r_[6:24]  # heads 1 to 3 of five, each 6 wide
    assert_same(cut.self.value.weight.grad, whole.self.value.weight.grad[kept], 1e-5)
    assert_same(cut.output.dense.weight.grad, whole.output.dense.weight.grad[:, kept], 1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, when it first compiles
@pytest.mark.parametrize("name", ["bert", "t5", "llama", "mpnet"])
def test_a_pruned_model_is_a_model_like_others(name):
    model = tiny_model(name)
    heads, inputs = uneven(model), tiny_inputs(model)
    smaller = prune(model, heads)
    expected = run(smaller, inputs)
    assert_same(run(copy.deepcopy(smaller), inputs), expected, 1e-7)
    assert_same(run(pickle.loads(pickle.dumps(smaller)), inputs), expected, 1e-7)
    assert_same(run(torch.compile(smaller, backend="eager"), inputs), expected, 1e-6)
    if name != "llama":  # where a head of zeros may fill up a group
        assert find_heads(smaller).total == find_heads(model).total - len(heads)
    one = HeadSet([(1, 0)])
    twice = prune(smaller, one)
    assert_same(run(twice, inputs), ablated(smaller, one, inputs))
    assert len(plans_of(twice.config)) == 2


def test_a_model_pruned_twice_is_loaded(tmp_path):
    model = tiny_model("t5")
    twice = prune(prune(model, HeadSet([(0, 1), (3, 2)])), HeadSet([(0, 3), (2, 0)]))
    twice.save_pretrained(tmp_path)
    inputs = tiny_inputs(model)
    assert_same(run(load_pruned(tmp_path), inputs), run(twice, inputs), 1e-6)


@pytest.mark.parametrize(
    ("kept", "slots", "groups"),
    [
        # six heads in three groups of two
        ([2, 3, 4, 5], 4, 2),  # a whole group goes
        ([0, 2, 4], 3, 3),  # one of each group
        ([0, 2, 3], 3, 3),  # unequal: a group's keys and values twice
    ],
)
def test_grouped_heads_keep_as_few_keys_and_values_as_they_can(kept, slots, groups):
    model = tiny_model("llama")
    heads = HeadSet((0, head) for head in range(6) if head not in kept)
    smaller, inputs = prune(model, heads), tiny_inputs(model)
    attention = smaller.layers[0].self_attn
    assert attention.q_proj.out_features == slots * 4
    assert attention.k_proj.out_features == groups * 4
    assert_same(run(smaller, inputs), ablated(model, heads, inputs))


def test_a_grouped_site_never_grows():
    config = transformers.LlamaConfig(
        vocab_size=61, hidden_size=32, num_hidden_layers=1, num_attention_heads=8,
        num_key_value_heads=2, intermediate_size=34,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaModel(config).eval()
    heads = HeadSet([(0, 5)])
    smaller, inputs = prune(model, heads), {"input_ids": torch.randint(0, 61, (2, 7))}
    # 7 heads would need 7 pairs of keys and values, or one head of zeros beside them
    assert smaller.layers[0].self_attn.q_proj.out_features == 32
    assert parameters(smaller) == parameters(model)
    assert_same(run(smaller, inputs), ablated(model, heads, inputs))


@pytest.mark.parametrize("name", ["bert", "gpt2", "qwen3", "t5", "olmo2"])
def test_zeroed_models_load_in_plain_transformers(name, tmp_path):
    model = tiny_model(name)
    heads, inputs = uneven(model), tiny_inputs(model)
    prune(model, heads, export="zeroed").save_pretrained(tmp_path)
    plain = transformers.AutoModel.from_pretrained(tmp_path)
    assert parameters(plain) == parameters(model)
    assert_same(run(plain, inputs), ablated(model, heads, inputs))
    head = next(iter(heads))
    site = find_heads(model).sites[head[0]]
    if name != "olmo2":  # whose norm needs the queries of all heads
        rows = next(rows for rows in site.rows if rows.parameter.endswith("weight"))
        alone = set(rows.rows(head[1])) - {
            row for other in range(site.n_heads) if (head[0], other) not in heads
            for row in rows.rows(other)
        }  # fmt: skip
        weight = plain.get_parameter(rows.parameter)
        assert alone
        assert not any(weight.select(rows.axis, int(row)).any() for row in alone)


@pytest.mark.parametrize("name", ["qwen3", "phi3", "t5"])
def test_native_models_load_in_plain_transformers(name, tmp_path):
    model = tiny_model(name)
    heads = HeadSet((site.index, head) for site in find_heads(model).sites for head in (0, 1))
    small = prune(model, heads, export="native")
    small.save_pretrained(tmp_path)
    plain, inputs = transformers.AutoModel.from_pretrained(tmp_path), tiny_inputs(model)
    assert parameters(plain) < parameters(model)
    assert not hasattr(plain.config, KEY)
    assert_same(run(plain, inputs), ablated(model, heads, inputs))


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("bert", [(0, 0), (1, 0)]),  # the size of a head follows from their number
        ("qwen3", [(0, 0), (0, 1)]),  # unequal sites
        ("t5", [(0, 0), (1, 1), *((site, 0) for site in range(2, 6))]),  # one bias for both layers
    ],
)
def test_native_is_refused_where_no_configuration_says_it(name, heads):
    with pytest.raises(ModelError, match="cannot be exported as native"):
        prune(tiny_model(name), HeadSet(heads), export="native")


@pytest.mark.parametrize("name", ["gpt2", "t5", "bloom"])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_pruned_models_generate(name, cache, tmp_path):
    base = tiny_model(name)
    kind = "AutoModelForSeq2SeqLM" if name == "t5" else "AutoModelForCausalLM"
    torch.manual_seed(0)
    model = getattr(transformers, kind).from_config(base.config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    heads = uneven(model)
    prune(model, heads).save_pretrained(tmp_path)
    smaller = load_pruned(tmp_path)
    prompt = {"input_ids": tiny_inputs(base)["input_ids"]}
    settings = {"do_sample": False, "max_new_tokens": 6, "min_new_tokens": 6}
    settings |= {"cache_implementation": cache} if cache == "static" else {}
    with ablate(model, heads), torch.no_grad():
        expected = model.generate(**prompt, **settings)
    assert torch.equal(smaller.generate(**prompt, **settings), expected)


def two_heads_each(model):
    return HeadSet((site.index, head) for site in find_heads(model) for head in (0, 1))


def test_native_keeps_precisions_attention_and_what_trains():
    model = tiny_model("qwen3", attention="eager").requires_grad_(False)
    for parameter in model.parameters():  # its buffers stay in float32, as when it is loaded
        parameter.data = parameter.data.bfloat16()
    model.norm.float()
    small = prune(model, two_heads_each(model), export="native")
    tensors = dict([*small.named_parameters(), *small.named_buffers()])
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        assert tensors[name].dtype == tensor.dtype, name
        assert tensors[name].requires_grad == tensor.requires_grad, name
    assert small.config._attn_implementation == "eager"


@pytest.mark.parametrize(
    ("name", "first"), [("qwen3", (0, 2, 4)), ("qwen3", (0, 1)), ("vit", (0,)), ("t5", (0,))]
)
def test_native_of_a_model_that_was_pruned_step_by_step(name, first):
    model = tiny_model(name)
    sites = find_heads(model).sites  # qwen3 has groups of two: they get smaller, or fewer
    smaller = prune(model, [(site.index, head) for site in sites for head in first])
    second = [(site.index, head) for site in sites for head in range(len(first) - len(first) // 3)]
    small = prune(smaller, second, export="native")
    assert type(small) is type(model)
    assert not hasattr(small.config, KEY)
    assert_same(
        run(small, tiny_inputs(model)), ablated(smaller, HeadSet(second), tiny_inputs(model))
    )


def test_native_of_no_head_is_a_copy():
    model = tiny_model("bert")
    copied = prune(model, [], export="native")
    assert copied is not model
    assert_same(run(copied, tiny_inputs(model)), run(model, tiny_inputs(model)))


def test_zeros_are_refused_in_a_model_that_was_pruned():
    smaller = prune(tiny_model("bert"), "0:1,2")
    with pytest.raises(ModelError, match="was pruned before, and has not the full size"):
        prune(smaller, "1:0", export="zeroed")


@pytest.mark.parametrize("name", ["t5", "diffllama"])
def test_the_global_random_state_is_left_alone(name, monkeypatch):
    model, state = tiny_model(name), torch.get_rng_state()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("seeds GPUs"))
    with suppress(ModelError):  # its configuration may not say what is left
        prune(model, [(0, 0)], export="native")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("name", "use_cache"),  # off, as a training leaves it
    [("llama", True), ("llama", False), ("bart", True)],
)
def test_generation_without_any_head_of_the_first_layer(name, use_cache):
    kind = "AutoModelForSeq2SeqLM" if name == "bart" else "AutoModelForCausalLM"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, kind).from_config(TINY[name].config()).eval()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
    model.config.use_cache = use_cache
    layout = find_heads(model)
    site = next(site for site in layout if "encoder" not in site.projection)
    heads = HeadSet((site.index, head) for head in range(site.n_heads))
    smaller = prune(model, heads, layout=layout)
    prompt = tiny_inputs(model, length=11)["input_ids"]
    settings = {"do_sample": False, "max_new_tokens": 5, "min_new_tokens": 5, "use_cache": True}
    settings |= {"return_dict_in_generate": True, "output_logits": True}
    settings["attention_mask"] = torch.ones_like(prompt)
    settings["attention_mask"][0, :3] = 0
    with ablate(model, heads, layout=layout):
        expected = model.generate(prompt, **settings)
    found = smaller.generate(prompt, **settings)
    for one, other in zip(found.logits, expected.logits, strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_dtype_and_device_map(tmp_path):
    model = tiny_model("llama")
    prune(model, HeadSet([(0, 0), (0, 1)])).save_pretrained(tmp_path)
    loaded = load_pruned(tmp_path, dtype=torch.bfloat16, device_map="cpu")
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    assert {p.device.type for p in loaded.parameters()} == {"cpu"}
    assert run(loaded, tiny_inputs(model)).dtype == torch.bfloat16


def test_models_in_low_precision_are_pruned():
    model = tiny_model("bert").bfloat16()
    heads, inputs = uneven(model), tiny_inputs(model)
    smaller = prune(model, heads)
    assert {p.dtype for p in smaller.parameters()} == {torch.bfloat16}
    assert_same(run(smaller, inputs).float(), ablated(model, heads, inputs).float(), 0.05)


def test_a_base_model_loads_from_a_model_with_a_task_and_the_other_way_round(tmp_path):
    torch.manual_seed(0)
    config = TINY["bert"].config()
    model = transformers.BertForSequenceClassification(config).eval()
    heads, inputs = HeadSet([(0, 1), (1, 2)]), {"input_ids": torch.randint(4, 60, (2, 7))}
    prune(model, heads).save_pretrained(tmp_path)
    base = load_pruned(tmp_path, transformers.AutoModel)
    assert type(base) is transformers.BertModel
    with ablate(model, heads), torch.no_grad():
        assert_same(run(base, inputs), first(model.bert(**inputs)))
    prune(model.bert, heads).save_pretrained(tmp_path / "base")
    whole = load_pruned(tmp_path / "base", transformers.BertForSequenceClassification)
    assert whole.bert.encoder.layer[0].attention.self.query.out_features == 24


def test_frozen_parameters_stay_frozen():
    model = tiny_model("bert").requires_grad_(False)
    smaller = prune(model, HeadSet([(0, 1)]))
    assert not any(parameter.requires_grad for parameter in smaller.parameters())


@pytest.mark.parametrize("layout", ["separate", "stacked", "interleaved"])
@pytest.mark.parametrize("group", [1, 2, 3, 6])
def test_any_heads_of_any_layout(layout, group):
    torch.manual_seed(0)
    block = Attention(6, 5, group, layout)
    model = Encoder(block).eval()
    inputs = {"x": torch.randn(2, 7, WIDTH)}
    known = find_heads(model, example_inputs=inputs)
    for number in range(1, 6):
        for gone in combinations(range(6), number):
            heads = HeadSet((0, head) for head in gone)
            smaller = prune(model, heads, layout=known, example_inputs=inputs)
            assert_same(run(smaller, inputs), ablated(model, heads, inputs))
            assert parameters(smaller) <= parameters(model)


class Buffered(nn.Module):
    """A fused projection whose keys have a bias of zeros, kept beside the others (EVA, BEiT)."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 30, bias=False), nn.Linear(10, WIDTH)
        self.q_bias, self.v_bias = nn.Parameter(torch.rand(10)), nn.Parameter(torch.rand(10))
        self.register_buffer("k_bias", torch.zeros(10))

    def forward(self, x):
        bias = torch.cat([self.q_bias, self.k_bias, self.v_bias])
        projected = nn.functional.linear(x, self.qkv.weight, bias)
        q, k, v = (split(one, one.shape[-1] // 5) for one in projected.chunk(3, -1))
        return self.out(join(attend(q, k, v)))


def test_biases_are_cut_also_where_they_are_no_parameters():
    torch.manual_seed(0)
    model, inputs = Encoder(Buffered()).eval(), {"x": torch.randn(2, 7, WIDTH)}
    heads = HeadSet([(0, 0)])
    smaller = prune(model, heads, example_inputs=inputs)
    assert_same(run(smaller, inputs), ablated(model, heads, inputs))
    block = smaller.blocks[0]
    assert len(block.q_bias) == len(block.k_bias) == len(block.v_bias) == 5


def test_the_attention_may_be_the_whole_model():
    torch.manual_seed(0)
    model, inputs = Attention(4, 3).eval(), {"x": torch.randn(2, 7, WIDTH)}
    heads = HeadSet([(0, 1), (0, 3)])
    smaller = prune(model, heads, example_inputs=inputs)
    assert smaller.n_heads == 2
    assert smaller.q.out_features == 6
    assert model.q.out_features == 12
    assert_same(run(smaller, inputs), ablated(model, heads, inputs))


class Shared(nn.Module):
    """Two attentions, each with values of its own, whose queries and keys are the same."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("q", "k", "first", "second"):
            setattr(self, name, nn.Linear(WIDTH, 12))
        self.out, self.other = nn.Linear(12, WIDTH), nn.Linear(12, WIDTH)

    def forward(self, x):
        q, k, first, second = (split(p(x), 4) for p in (self.q, self.k, self.first, self.second))
        return self.out(join(attend(q, k, first))) + self.other(join(attend(q, k, second)))


def test_zeros_leave_alone_what_another_site_uses():
    torch.manual_seed(0)
    model, inputs = Encoder(Shared()).eval(), {"x": torch.randn(2, 7, WIDTH)}
    heads = HeadSet([(0, 1), (1, 2)])
    zeroed = prune(model, heads, example_inputs=inputs, export="zeroed")
    assert_same(run(zeroed, inputs), ablated(model, heads, inputs))
    assert torch.equal(zeroed.blocks[0].q.weight, model.blocks[0].q.weight)
    assert not zeroed.blocks[0].first.weight[3:6].any()
    with pytest.raises(ModelError, match="cannot be pruned"):
        prune(model, heads, example_inputs=inputs)


def test_weights_of_plain_modules_are_loaded_into_one_that_is_pruned_likewise():
    torch.manual_seed(0)
    trained, fresh = (Encoder(Attention(3, 5), Attention(3, 5)).eval() for _ in range(2))
    inputs, heads = {"x": torch.randn(2, 7, WIDTH)}, HeadSet([(0, 1), (1, 0), (1, 2)])
    smaller = prune(trained, heads, example_inputs=inputs)
    again = prune(fresh, heads, example_inputs=inputs)
    again.load_state_dict(smaller.state_dict())
    assert torch.equal(run(again, inputs), run(smaller, inputs))


@pytest.mark.parametrize("name", ["bert", "gpt2", "swin"])
def test_the_layout_of_the_whole_model_is_refused_by_name(name):
    model = tiny_model(name)
    inputs = tiny_inputs(model)
    layout = find_heads(model)
    smaller = prune(model, HeadSet([(1, 0)]))
    for block in (ablate(smaller, "1:0", layout=layout), record_contexts(smaller, layout=layout)):
        said = pytest.raises(ConfigError, match=r"before it was pruned.*at site 1.*leave layout")
        with said, block:
            smaller(**inputs)


@pytest.mark.parametrize("block", [lambda m: ablate(m, "1:0"), record_contexts])
def test_a_model_inside_a_block_is_not_pruned(block):
    model = tiny_model("bert")
    with block(model), pytest.raises(ModelError, match=r"inside a block of .*after the block"):
        prune(model, "0:1")
    with ablate(model, ""), block(tiny_model("bert")):
        pickle.dumps(prune(model, "0:1"))


def test_what_is_pruned_in_inference_mode_can_be_trained():
    model = tiny_model("bert")
    inputs = tiny_inputs(model)
    with torch.inference_mode():
        smaller = prune(model, HeadSet([(0, 1)]))
    smaller(**inputs).last_hidden_state.sum().backward()
    assert all(p.grad is not None for name, p in smaller.named_parameters() if "pooler" not in name)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, when it first compiles
@pytest.mark.parametrize(
    ("change", "say"),
    [
        (lambda m: m.train(), "training mode"),
        (lambda m: torch.compile(m), "is compiled"),
        (lambda m: m.to("meta"), "meta device"),
        (lambda m: nn.DataParallel(m), "model.module"),
    ],
)
def test_a_model_in_another_state_is_refused(change, say):
    model = tiny_model("bert")
    layout = find_heads(model)
    with pytest.raises(ModelError, match=say):
        prune(change(model), HeadSet([(0, 1)]), layout=layout)


def test_quantized_weights_are_refused():
    model = tiny_model("bert")
    layout = find_heads(model)
    dense = model.encoder.layer[0].attention.output.dense
    dense.weight = nn.Parameter(dense.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ModelError, match="quantized"):
        prune(model, HeadSet([(0, 1)]), layout=layout)


def test_heads_that_do_not_exist_and_all_heads_are_refused():
    model = tiny_model("bert")
    with pytest.raises(HeadError, match="Head 0:5 does not exist"):
        prune(model, HeadSet([(0, 5)]))
    with pytest.raises(HeadError, match="All 10 heads"):
        prune(model, find_heads(model).all_heads())


def test_no_heads_leave_the_model_as_it_is():
    model = tiny_model("bert")
    same, inputs = prune(model, HeadSet()), tiny_inputs(model)
    assert torch.equal(run(same, inputs), run(model, inputs))
    assert same is not model


class NeedsItsWidth(nn.Module):
    """Attention whose code needs as many channels out of its heads as come in."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(12, 12) for _ in range(3))
        self.out = nn.Linear(12, 12)
        self.mix = nn.Linear(12, 12)

    def forward(self, x):
        parts = [
            p(x).unflatten(-1, (-1, 4)).transpose(1, 2) for p in (self.query, self.key, self.value)
        ]
        scores = parts[0] @ parts[1].transpose(-2, -1)
        contexts = (scores.softmax(-1) @ parts[2]).transpose(1, 2).flatten(-2)
        return self.out(contexts + 0 * self.mix(x))


def test_what_cannot_be_pruned_is_refused_by_site_and_reason():
    torch.manual_seed(0)
    model = NeedsItsWidth().eval()
    inputs = {"x": torch.randn(2, 5, 12)}
    with pytest.raises(ModelError, match=r"Heads of site 0 .* cannot be pruned: its code"):
        prune(model, HeadSet([(0, 1)]), example_inputs=inputs)
    tried = tried_out(model, example_inputs=inputs)
    assert model.query.out_features == 12
    assert not tried.sites[0].prunable
    assert "its code does not do with fewer heads" in tried.sites[0].reason
    assert all(site.prunable for site in tried_out(tiny_model("llama")).sites)


class Scaled(Attention):
    """Attention that runs with any number of heads, and gives something else with each."""

    def forward(self, x):
        return super().forward(x) / self.n_heads


def test_what_runs_and_is_wrong_is_refused():
    torch.manual_seed(0)
    model, inputs = Encoder(Scaled(4, 3)).eval(), {"x": torch.randn(2, 7, WIDTH)}
    with pytest.raises(ModelError, match="its code does not do with fewer heads what it does"):
        prune(model, HeadSet([(0, 1)]), example_inputs=inputs)


class Biased(Attention):
    """Attention with a bias for each head that it is given, and hands on."""

    def forward(self, x, bias):
        parts = (split(one(x), self.n_heads) for one in (self.q, self.k, self.v))
        return self.out(join(attend(*parts, lambda scores: scores + bias))), bias


class HandingOn(nn.Module):
    """Blocks each of which gets its bias from the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Biased(4, 3) for _ in range(3))
        self.bias = nn.Parameter(torch.randn(1, 4, 1, 1))

    def forward(self, x):
        bias = self.bias * torch.arange(x.shape[1])
        for block in self.blocks:
            change, bias = block(x, bias)
            x = x + change
        return x


def test_a_bias_is_handed_on_whole():
    torch.manual_seed(0)
    model, inputs = HandingOn().eval(), {"x": torch.randn(2, 7, WIDTH)}
    heads = HeadSet([(0, 1), (0, 2), (1, 0), (2, 3)])
    smaller = prune(model, heads, example_inputs=inputs)
    assert_same(run(smaller, inputs), ablated(model, heads, inputs))


def test_differences_are_measured_by_scale():
    one = torch.tensor([[3.0, -100.0, float("inf"), float("nan")]])
    assert largest_difference([one], [one]) == 0
    assert largest_difference([one], [one + torch.tensor([0.0, 1.0, 0.0, 0.0])]) == pytest.approx(
        0.01
    )
    assert largest_difference([one], [torch.zeros(1, 4)]) == float("inf")
    assert largest_difference([one], [one[:, :3]]) == float("inf")
    assert largest_difference([one], []) == float("inf")


class TestLoading:
    """What `load_pruned` refuses."""

    @pytest.fixture
    def folder(self, tmp_path):
        prune(tiny_model("bert"), HeadSet([(0, 1), (1, 2)])).save_pretrained(tmp_path)
        return tmp_path

    @staticmethod
    def edit(folder, change):
        config = json.loads((folder / "config.json").read_text())
        change(config)
        (folder / "config.json").write_text(json.dumps(config))

    def test_a_damaged_plan(self, folder):
        self.edit(folder, lambda config: config[KEY]["steps"][0].pop("sites"))
        with pytest.raises(ModelError, match="does not say how the model was pruned"):
            load_pruned(folder)

    def test_a_plan_of_the_future(self, folder):
        self.edit(folder, lambda config: config[KEY].update(version=99))
        with pytest.raises(ModelError, match=r"newer lobes \(plan format 99, this one reads up to"):
            load_pruned(folder)

    def test_a_plan_for_another_size(self, folder):
        def change(config):
            config[KEY]["steps"][0]["sites"][0]["cuts"][0]["size"] = 48

        self.edit(folder, change)
        with pytest.raises(
            ModelError, match=r"plan does not fit BertModel: .*query.weight has the"
        ):
            load_pruned(folder)

    def test_a_plan_that_names_what_is_not_there(self, folder):
        def change(config):
            config[KEY]["steps"][0]["sites"][0]["projection"] = "layers.0.o_proj"
            config[KEY]["steps"][0]["sites"][0]["cuts"][0]["parameter"] = "layers.0.q_proj.weight"

        self.edit(folder, change)
        with pytest.raises(ModelError, match="which there is none of"):
            load_pruned(folder)

    def test_another_architecture(self, folder):
        with pytest.raises(
            ModelError, match="holds a pruned bert model, which cannot be loaded as"
        ):
            load_pruned(folder, transformers.GPT2Model)
        with pytest.raises(ModelError, match="AutoModelForSpeechSeq2Seq has none of that type"):
            load_pruned(folder, transformers.AutoModelForSpeechSeq2Seq)

    def test_a_model_that_was_not_pruned(self, tmp_path):
        tiny_model("bert").save_pretrained(tmp_path)
        with pytest.raises(ModelError, match="was not pruned"):
            load_pruned(tmp_path)

    def test_no_model(self, tmp_path):
        with pytest.raises(ModelError, match="There is no folder"):
            load_pruned(tmp_path / "nothing")
        with pytest.raises(ModelError, match="holds no model"):
            load_pruned(tmp_path)

    def test_weights_of_another_size(self, folder):
        weights = load_file(folder / "model.safetensors")
        key = "encoder.layer.0.attention.self.query.weight"
        weights[key] = torch.zeros(30, 30)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError, match="cannot be loaded"):
            load_pruned(folder)

    def test_a_head_that_transformers_4_cannot_have_pruned(self, tmp_path):
        tiny_model("bert").save_pretrained(tmp_path)
        self.edit(tmp_path, lambda config: config.update(pruned_heads={"7": [0]}))
        with pytest.raises(ModelError, match="transformers 4 pruned"):
            load_pruned(tmp_path)

    def test_plain_transformers_does_not_load_it_silently(self, folder):
        with pytest.raises(Exception, match=re.compile("mismatch|size", re.IGNORECASE)):
            transformers.AutoModel.from_pretrained(folder)


def test_public_names_are_there():
    assert lobes.prune is prune
    assert lobes.load_pruned is load_pruned
