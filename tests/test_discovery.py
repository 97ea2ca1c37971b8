"""Discovery finds every head of many architectures, says what it owns, and leaves no trace."""

import gc
import re
import weakref
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.pytorch_utils import Conv1D

import lobes.discovery
from lobes.ablation import ablate, record_contexts
from lobes.discovery import find_heads
from lobes.errors import ModelError
from lobes.heads import HeadLayout, HeadSet
from lobes.pruning import prune
from lobes.sites import OwnedRows, Site
from plain_models import (
    Adapted,
    Attention,
    Bypassed,
    Difference,
    Encoder,
    Functional,
    Mixed,
    Normed,
    Ordered,
    Restless,
    Routed,
    SelfAndCross,
    Square,
    Summed,
    Twice,
    TwoKinds,
    Unprojected,
)
from tiny_models import NAMES, TINY, tiny_inputs, tiny_model

# every third model; the others with the slow tests
SOME = [pytest.param(name, marks=pytest.mark.slow if n % 3 else ()) for n, name in enumerate(NAMES)]
BOTH = [(name, attention) for name in NAMES for attention in TINY[name].attentions]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny products are slower on several threads than on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("name", "attention"), BOTH)
def test_every_site_is_found_with_its_heads(name: str, attention: str):
    model, tiny = tiny_model(name, attention=attention), TINY[name]
    sites = find_heads(model).sites
    assert tuple((site.n_heads, site.head_dim, site.kind) for site in sites) == tiny.sites
    assert [site.index for site in sites] == list(range(len(sites)))
    ends = (tiny.projection,) if isinstance(tiny.projection, str) else tiny.projection
    paths = [path for path, _ in model.named_modules() if path.endswith(ends)]
    assert sorted(site.projection for site in sites) == sorted(paths)
    assert all(f"{site.projection}.".startswith(f"{site.name}.") for site in sites)
    assert all(site.prunable == tiny.prunable for site in sites)
    assert all(bool(site.reason) != site.prunable for site in sites)


@pytest.mark.parametrize("name", SOME)
def test_neither_kernel_nor_precision_nor_freezing_changes_the_layout(name: str):
    layout = find_heads(tiny_model(name))
    assert find_heads(tiny_model(name).requires_grad_(False)) == layout
    for attention in TINY[name].attentions[1:]:
        assert find_heads(tiny_model(name, attention=attention)) == layout
    for dtype in (torch.bfloat16, torch.float16):
        assert find_heads(tiny_model(name).to(dtype)) == layout


@pytest.mark.parametrize("name", SOME)
def test_changing_rows_changes_the_heads_that_own_them_and_no_other(name: str):
    model = tiny_model(name)
    layout, inputs = find_heads(model), tiny_inputs(model)
    before = _contexts(model, layout, inputs)
    parameters = dict(model.named_parameters())
    for site in layout.sites:
        for rows in site.rows:
            for head in range(site.n_heads):
                own = set(rows.rows(head))
                sharing = {g for g in range(site.n_heads) if own & set(rows.rows(g))}
                with _disturbed(parameters[rows.parameter], rows, rows.rows(head)):
                    after = _contexts(model, layout, inputs)
                changed = _changed_heads(before[site.index], after[site.index])
                assert changed <= sharing
                # A key's bias moves all scores of a query alike, which the softmax undoes.
                if not re.search(r"\bk(ey)?(_proj|_lin)?\.bias$", rows.parameter):
                    assert head in changed, (rows.parameter, head)


@pytest.mark.parametrize("name", NAMES)
def test_a_head_depends_on_no_row_but_its_own(name: str):
    model = tiny_model(name)
    layout, inputs = find_heads(model), tiny_inputs(model)
    before = _contexts(model, layout, inputs)
    parameters = dict(model.named_parameters())
    for site in (site for site in layout.sites if site.gateable):
        for head in range(site.n_heads):
            with _together(
                _disturbed(parameters[rows.parameter], rows, _others(rows, head, parameters))
                for rows in site.rows
            ):
                after = _contexts(model, layout, inputs)
            assert head not in _changed_heads(before[site.index], after[site.index])


@pytest.mark.parametrize("name", NAMES)
def test_a_prunable_site_lists_every_projection_of_its_block(name: str):
    model = tiny_model(name)
    for site in (site for site in find_heads(model).sites if site.prunable):
        linear = {
            f"{site.name}.{path}.weight"
            for path, module in model.get_submodule(site.name).named_modules()
            if isinstance(module, (nn.Linear, Conv1D))
        }
        listed = {rows.parameter for rows in site.rows}
        assert linear - {f"{site.projection}.weight"} <= listed


# The rows of known layouts, written out.


def test_rows_of_separate_and_grouped_projections():
    site = find_heads(tiny_model("llama")).sites[1]
    heads = [((4 * h, 4 * h + 4),) for h in range(6)]
    pairs = [((4 * (h // 2), 4 * (h // 2) + 4),) for h in range(6)]
    assert site.rows == (
        OwnedRows("layers.1.self_attn.q_proj.weight", 0, tuple(heads)),
        OwnedRows("layers.1.self_attn.k_proj.weight", 0, tuple(pairs)),
        OwnedRows("layers.1.self_attn.v_proj.weight", 0, tuple(pairs)),
    )


@pytest.mark.parametrize(
    ("name", "parameter", "axis", "ranges"),
    [
        (
            "gpt2",
            "attn.c_attn.weight",
            1,
            lambda h: [(30 * i + 6 * h, 30 * i + 6 * h + 6) for i in range(3)],
        ),
        (
            "gpt2",
            "attn.c_attn.bias",
            0,
            lambda h: [(30 * i + 6 * h, 30 * i + 6 * h + 6) for i in range(3)],
        ),
        (
            "modernbert",
            "attn.Wqkv.weight",
            0,
            lambda h: [(30 * i + 6 * h, 30 * i + 6 * h + 6) for i in range(3)],
        ),
        ("gpt_neox", "attention.query_key_value.weight", 0, lambda h: [(18 * h, 18 * h + 18)]),
        (
            "falcon",
            "self_attention.query_key_value.weight",
            0,
            lambda h: [(6 * h, 6 * h + 6), (30, 42)],
        ),
        (
            "phi3",
            "self_attn.qkv_proj.weight",
            0,
            lambda h: [
                (4 * h, 4 * h + 4),
                *((b + 4 * (h // 2), b + 4 * (h // 2) + 4) for b in (24, 36)),
            ],
        ),
    ],
)
def test_rows_of_fused_projections(name, parameter, axis, ranges):
    site = find_heads(tiny_model(name)).sites[1]
    rows = next(rows for rows in site.rows if rows.parameter.endswith(parameter))
    assert rows.axis == axis
    for head in range(site.n_heads):
        # ranges that touch are one
        wanted = np.concatenate([np.arange(*span) for span in ranges(head)])
        assert rows.rows(head).tolist() == wanted.tolist()


@given(
    kept=st.integers(1, 4),
    group=st.integers(1, 3),
    head_dim=st.integers(1, 7),
    layout=st.sampled_from(["separate", "stacked", "interleaved"]),
    fast=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_whatever_was_built_is_found(kept, group, head_dim, layout, fast):
    heads = kept * group
    model = Encoder(Attention(heads, head_dim, group, layout, fast))
    site = find_heads(model, example_inputs=_sentence()).sites[0]
    assert (site.n_heads, site.head_dim, site.prunable) == (heads, head_dim, True)
    owned = {r.parameter.removeprefix("blocks.0."): r for r in site.rows}

    def expected(head: int, part: int) -> set[int]:
        """Head `head`'s rows of part 0, 1, 2: queries, keys, values."""
        if layout == "interleaved":
            block = (head // group) * (group + 2) + (
                head % group if part == 0 else group + part - 1
            )
            return set(range(block * head_dim, (block + 1) * head_dim))
        block = head if part == 0 else head // group
        before = 0 if layout == "separate" else (0, heads, heads + kept)[part]
        return set(range((before + block) * head_dim, (before + block + 1) * head_dim))

    for head in range(heads):
        if layout == "separate":
            for part, name in enumerate("qkv"):
                for kind in ("weight", "bias"):
                    assert set(owned[f"{name}.{kind}"].rows(head)) == expected(head, part)
        else:
            everything = set().union(*(expected(head, part) for part in range(3)))
            for kind in ("weight", "bias"):
                assert set(owned[f"qkv.{kind}"].rows(head)) == everything


# Attention written in other ways.


def test_two_sites_in_one_flat_module():
    inputs = {"x": torch.rand(2, 7, 13), "memory": torch.rand(2, 11, 13)}
    first, second = find_heads(SelfAndCross(), example_inputs=inputs).sites
    assert (first.n_heads, first.head_dim, first.kind) == (3, 4, "self")
    assert (second.n_heads, second.head_dim, second.kind) == (2, 6, "cross")
    assert (first.name, second.name) == ("out", "cross_out")
    assert {r.parameter[:7] for r in second.rows} == {"cross_q", "cross_k", "cross_v"}


def test_a_weight_applied_as_a_function_is_found():
    site = _only_site(Encoder(Functional()))
    assert site.prunable
    assert {rows.parameter.removeprefix("blocks.0."): rows.ranges[1] for rows in site.rows} == {
        "qkv.weight": ((5, 10), (15, 20), (25, 30)),
        "q_bias": ((5, 10),),
        "v_bias": ((5, 10),),
    }


def test_with_an_adapter_the_wrapper_is_the_projection():
    site = _only_site(Encoder(Adapted()))
    assert site.projection == "blocks.0.out"
    assert site.prunable
    assert {rows.parameter.removeprefix("blocks.0.") for rows in site.rows} == {
        "q.weight",
        "q.bias",
        "k.weight",
        "k.bias",
        "v.base.weight",
        "v.base.bias",
        "v.up.weight",
    }


def test_a_projection_that_is_called_twice_owns_what_both_calls_give():
    for rows in _only_site(Encoder(Twice())).rows:
        assert rows.ranges[1] == ((5, 10), (15, 20), (25, 30))


def test_square_weights_tell_their_axis():
    axes = {rows.parameter: rows.axis for rows in _only_site(Encoder(Square())).rows}
    assert axes == {
        "blocks.0.q.weight": 1, "blocks.0.k.weight": 1, "blocks.0.v.weight": 0,
        "blocks.0.q.bias": 0, "blocks.0.k.bias": 0, "blocks.0.v.bias": 0,
    }  # fmt: skip


def test_a_block_run_several_times_is_one_site():
    layout = find_heads(Encoder(Attention(), Attention(), depth=3), example_inputs=_sentence())
    assert [site.name for site in layout.sites] == ["blocks.0", "blocks.1"]


def test_a_router_is_no_attention():
    layout = find_heads(Encoder(Routed(), Attention(), Routed()), example_inputs=_sentence())
    assert [site.name for site in layout.sites] == ["blocks.1"]


def test_classifiers_after_the_encoder_do_not_matter():
    encoder = tiny_model("bert")

    class Tasks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.config = encoder, encoder.config
            self.classifiers = nn.ModuleDict({"a": nn.Linear(30, 30), "b": nn.Linear(30, 5)})

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
            states = self.encoder(input_ids, attention_mask).last_hidden_state
            pooled = (states * attention_mask.unsqueeze(-1)).sum(1)
            return {name: layer(pooled) for name, layer in self.classifiers.items()}

    inner, outer = find_heads(encoder), find_heads(Tasks())
    assert [f"encoder.{site.projection}" for site in inner.sites] == [
        site.projection for site in outer.sites
    ]


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (Normed("values"), "its heads share rows of the value projection"),
        (Normed("contexts"), "its contexts go through blocks.0.norm (LayerNorm) before they are"),
        (TwoKinds(), "its heads attend in two different ways"),
        (Mixed(after=False), "no projection"),
    ],
)
def test_heads_that_can_be_ablated_but_not_cut_out(block, reason):
    site = _only_site(Encoder(block))
    assert (site.n_heads, site.head_dim, site.prunable) == (len(block.q.bias) // 5, 5, False)
    assert reason in site.reason


def test_a_norm_across_the_heads_queries_leaves_no_row_to_train_alone():
    site = _only_site(Encoder(Normed("queries")))
    assert not site.gateable
    assert "its heads share rows of the query or key projection" in site.gate_reason


def test_contexts_are_reached_before_a_norm_over_all_of_them():
    block = Normed("contexts")
    site = _only_site(Encoder(block))
    assert site.projection == "blocks.0.norm"
    assert {rows.parameter for rows in site.rows} == {
        f"blocks.0.{part}.{kind}" for part in "qkv" for kind in ("weight", "bias")
    }


def test_the_difference_of_two_maps_is_one_head():
    site = _only_site(Encoder(Difference()))
    assert (site.n_heads, site.head_dim, site.kind) == (3, 4, "self")
    assert site.rows[0].ranges[1] == ((2, 4), (8, 10))  # the queries of both maps


@pytest.mark.parametrize("order", ["batch first", "length first", "by example", "by position"])
@pytest.mark.parametrize("batch", [1, 2])
def test_where_the_examples_lie(order, batch):
    block = Ordered(order)
    inputs = {"x": torch.rand(batch, 7, 13)}
    (site,) = find_heads(Encoder(block), example_inputs=inputs).sites
    expected = {"batch first": 0, "length first": 1, "by example": 0, "by position": None}[order]
    assert site.batch_axis == (0 if batch == 1 and expected is None else expected)


def test_packed_weights_cannot_be_cut():
    model = Encoder(Attention())
    nn.utils.parametrizations.weight_norm(model.blocks[0].v)
    assert "the weight of blocks.0.v is packed or computed" in _only_site(model).reason


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
def test_a_site_without_heads_is_not_there(name, attention):
    model = tiny_model(name, attention=attention)
    first, *others = find_heads(model).sites
    pruned = prune(model, HeadSet((0, head) for head in range(first.n_heads)))
    left = [(site.projection, site.n_heads) for site in find_heads(pruned).sites]
    cached = [(first.projection, 1)] * (name == "llama")  # whose cache counts tokens by its keys
    assert left == [*cached, *((site.projection, site.n_heads) for site in others)]


def test_heads_without_any_weight_are_found_too():
    model = tiny_model("gpt2")
    layout = find_heads(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    lobes.discovery._known.clear()
    assert find_heads(model) == layout


# What is refused, and how it is said.


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Encoder(nn.Linear(13, 13)), "No attention was seen in Encoder"),
        (Encoder(Summed()), "The attention of blocks.0 (Summed) does not reach blocks.0.out head "
         "by head"),
        (Encoder(Bypassed()), "The attention of blocks.0 (Bypassed) does not reach blocks.0.out"),
        (Encoder(Mixed(after=True)), "The attention of blocks.0 (Mixed) has probabilities that "
         "blocks.0.mix reads before they meet values"),
        (Encoder(Attention(), Unprojected()), "The attention of blocks.1 (Unprojected)"),
        (Unprojected(), "goes to the model's output without an output projection"),
        (Encoder(Functional(out_is_module=False)), "is read by a function inside blocks.0"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused_by_name(model, message):
    with pytest.raises(ModelError, match=re.escape(message)):
        find_heads(model, example_inputs=_sentence())


def test_inputs_that_cannot_be_guessed_are_asked_for():
    with pytest.raises(ModelError, match="Encoder has no configuration to guess its inputs from"):
        find_heads(Encoder(Attention()))
    model = Encoder(Attention())
    model.config = transformers.BertConfig()
    with pytest.raises(ModelError, match="Cannot guess x of Encoder: give find_heads example_in"):
        find_heads(model)


def test_a_guess_that_fails_says_what_was_tried():
    model = tiny_model("bert")
    model.embeddings.LayerNorm.normalized_shape = (7,)
    with pytest.raises(ModelError, match=r"BertModel could not be run .* \(input_ids \[2, 13\]\)"):
        find_heads(model)


def test_an_error_on_given_inputs_is_the_models_own():
    with pytest.raises(RuntimeError, match="normalized_shape"):
        find_heads(Encoder(Attention()), example_inputs={"x": torch.rand(2, 7, 3)})


# Nothing is left behind.


class Bomb(nn.Module):
    """A block that fails when it is called."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        raise self.error


@pytest.mark.parametrize("error", [None, ValueError("no"), KeyboardInterrupt()])
def test_the_model_and_the_random_state_are_as_before(error):
    blocks = [Attention(), Attention(), Restless()] + ([Bomb(error)] if error else [])
    model = Encoder(*blocks).train()
    model.blocks[0].eval()
    model.blocks[1].q.requires_grad_(False)
    model.norm.weight.grad = torch.ones(13)
    calls: list[str] = []
    hook = model.blocks[0].register_forward_hook(lambda *_: calls.append("ran"))
    before, random = _state(model), torch.get_rng_state()
    with pytest.raises(type(error)) if error else nullcontext():
        find_heads(model, example_inputs=_sentence())
    assert calls
    hook_count = len(model.blocks[0]._forward_hooks)
    assert hook_count == 1
    hook.remove()
    after = _state(model)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert type(value) is type(after[name])
        assert (
            torch.equal(value, after[name]) if isinstance(value, Tensor) else value == after[name]
        )
    assert torch.equal(random, torch.get_rng_state())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    assert torch.is_grad_enabled()


def test_it_works_where_no_gradient_is_wanted():
    model = tiny_model("bert").requires_grad_(False)
    expected = find_heads(tiny_model("bert"))
    for mode in (torch.no_grad, torch.inference_mode):
        lobes.discovery._known.clear()
        with mode():
            assert find_heads(model) == expected
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_heads_that_are_ablated_meanwhile_are_found_too():
    model = tiny_model("bert")
    layout = find_heads(model)
    lobes.discovery._known.clear()
    with ablate(model, layout.all_heads(), layout=layout):
        assert find_heads(model) == layout


def test_a_kernel_of_its_own_is_exchanged_for_the_time_of_the_trace():
    def opaque(module, query, key, value, attention_mask, **_):
        raise AssertionError("the kernel was called")

    ALL_ATTENTION_FUNCTIONS.register("lobes_test_kernel", opaque)
    try:
        model = tiny_model("llama")
        model.config._attn_implementation_internal = "lobes_test_kernel"
        assert find_heads(model) == find_heads(tiny_model("llama"))
        assert model.config._attn_implementation == "lobes_test_kernel"
    finally:
        ALL_ATTENTION_FUNCTIONS._global_mapping.pop("lobes_test_kernel")


# What is remembered.


def test_a_layout_is_remembered_until_the_model_changes_or_goes():
    model = tiny_model("bert")
    layout = find_heads(model)
    assert find_heads(model) is layout
    model.encoder.layer = model.encoder.layer[:1]
    assert len(find_heads(model).sites) == 1
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_given_inputs_look_afresh_and_are_remembered():
    model = SelfAndCross()
    inputs = {"x": torch.rand(2, 7, 13), "memory": torch.rand(2, 11, 13)}
    layout = find_heads(model, example_inputs=inputs)
    assert find_heads(model) is layout
    assert find_heads(model, example_inputs=inputs) is not layout


def _sentence() -> dict[str, Tensor]:
    return {"x": torch.rand(2, 7, 13, generator=torch.Generator().manual_seed(0))}


def _only_site(model: nn.Module) -> Site:
    (site,) = find_heads(model, example_inputs=_sentence()).sites
    return site


def _contexts(model: nn.Module, layout: HeadLayout, inputs: dict[str, Tensor]) -> list[Tensor]:
    """The contexts of each site's first run, [positions, heads, head_dim]."""
    with torch.no_grad(), record_contexts(model, layout=layout) as record:
        model(**inputs)
    return [
        record.split(site.index, calls[0]).flatten(0, -3).clone()
        for site, calls in zip(layout.sites, record.calls, strict=True)
    ]


def _changed_heads(before: Tensor, after: Tensor) -> set[int]:
    return set(torch.nonzero((before != after).any(-1).any(0)).flatten().tolist())


@contextmanager
def _disturbed(parameter: Tensor, rows: OwnedRows, indices: np.ndarray) -> Iterator[None]:
    """Other random numbers in some rows of a parameter, for the time of the block."""
    kept = parameter.detach().clone()
    index = torch.from_numpy(indices)
    noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        parameter.index_copy_(rows.axis, index, noise.index_select(rows.axis, index))
    yield
    with torch.no_grad():
        parameter.copy_(kept)


@contextmanager
def _together(managers: Iterable[AbstractContextManager[None]]) -> Iterator[None]:
    with ExitStack() as stack:
        for manager in managers:
            stack.enter_context(manager)
        yield


def _others(rows: OwnedRows, head: int, parameters: dict[str, Tensor]) -> np.ndarray:
    return np.setdiff1d(np.arange(parameters[rows.parameter].shape[rows.axis]), rows.rows(head))


def _state(model: nn.Module) -> dict[str, object]:
    """All that tracing could change in a model: values, gradients and flags."""
    state: dict[str, object] = {}
    for name, parameter in model.named_parameters():
        state[f"{name} value"] = parameter.detach().clone()
        state[f"{name} flag"] = parameter.requires_grad
        state[f"{name} gradient"] = None if parameter.grad is None else parameter.grad.clone()
    for name, module in model.named_modules():
        state[f"{name} training"] = module.training
    return state
