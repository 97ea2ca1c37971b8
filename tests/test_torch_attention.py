"""torch's own multi-head attention, pruned: what it gives, and in what surroundings."""

import pytest
import torch
from torch import nn

from lobes import HeadSet, ablate, find_heads, prune
from lobes.errors import ModelError
from test_pruning import assert_same

WIDTH, HEADS, KEYS = 12, 4, 7


class Model(nn.Module):
    """One attention of torch's, with everything that its forward pass may be given."""

    def __init__(self, same: bool = True, **settings) -> None:
        super().__init__()
        widths = {} if same else {"kdim": 10, "vdim": 9}
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, **widths, **settings)
        self.sizes = (WIDTH, WIDTH, WIDTH) if same else (WIDTH, 10, 9)

    def forward(self, query, key, value, **options):
        return self.attention(query, key, value, **options)


def inputs(model: Model, batch: int | None = 3, length: int = 5):
    """Random queries, keys and values, laid out as the attention wants them."""
    generator = torch.Generator().manual_seed(0)

    def noise(length, width):
        shape = (length, width) if batch is None else (batch, length, width)
        made = torch.randn(shape, generator=generator)
        return made if model.attention.batch_first or batch is None else made.transpose(0, 1)

    return [noise(n, w) for n, w in zip((length, KEYS, KEYS), model.sizes, strict=True)]


MASKS = {
    "none": {},
    "weights": {"need_weights": True},
    "by head": {"need_weights": True, "average_attn_weights": False},
    "padding": {"key_padding_mask": torch.arange(KEYS)[None] >= torch.tensor([[7], [5], [3]])},
    "bool": {"attn_mask": torch.ones(5, KEYS).triu(2).bool()},
    "float": {"attn_mask": torch.randn(5, KEYS, generator=torch.Generator().manual_seed(1))},
    "both": {
        "attn_mask": torch.ones(5, KEYS).triu(2).bool(),
        "key_padding_mask": torch.arange(KEYS)[None] >= torch.tensor([[7], [5], [3]]),
    },
}


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("mask", MASKS)
def test_it_gives_what_the_whole_one_gives_under_ablation(same, batch_first, mask):
    torch.manual_seed(0)
    model = Model(same, batch_first=batch_first, bias=mask != "float").eval()
    given, options = inputs(model), {"need_weights": False, **MASKS[mask]}
    named = dict(zip(("query", "key", "value"), given, strict=True)) | options
    heads = HeadSet([(0, 1), (0, 2)])
    smaller = prune(model, heads, example_inputs=named)
    assert smaller.attention.out_proj.in_features == WIDTH // 2
    with torch.no_grad():
        with ablate(model, heads):
            expected, _ = model(**named)
        _, weights = model(**named)
        found, narrow = smaller(**named)
    assert_same(found, expected)
    if mask == "by head":
        assert_same(narrow, weights[:, [0, 3]])
    elif options["need_weights"]:
        assert narrow.shape == weights.shape
    else:
        assert narrow is None


def test_without_a_batch():
    torch.manual_seed(0)
    model = Model().eval()
    heads = HeadSet([(0, 3)])
    smaller = prune(
        model,
        heads,
        example_inputs=dict(zip(("query", "key", "value"), inputs(model), strict=True)),
    )
    given = inputs(model, batch=None)
    with torch.no_grad(), ablate(model, heads):
        expected = model(*given)[0]
    assert_same(smaller(*given)[0], expected)


def test_no_head_left_gives_the_bias():
    torch.manual_seed(0)
    two = nn.Sequential()
    two.append(nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True))
    two.append(nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True))
    two.eval()
    x = torch.randn(2, 5, WIDTH)
    heads = HeadSet((1, head) for head in range(HEADS))
    smaller = prune(two, heads, example_inputs={"input": x})
    with torch.no_grad(), ablate(two, heads):
        expected = two(x)
    assert_same(smaller(x), expected)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("padded", [False, True])
def test_a_transformer_encoder_of_torch_is_pruned(padded):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    x = torch.randn(3, KEYS, WIDTH)
    padding = torch.arange(KEYS)[None] >= torch.tensor([[7], [5], [3]])
    given = {"src": x, **({"src_key_padding_mask": padding} if padded else {})}
    heads = HeadSet([(0, 0), (0, 2), (1, 1)])
    smaller = prune(model, heads, example_inputs=given)
    with torch.no_grad():
        with ablate(model, heads):
            expected = model(**given)
        found = smaller(**given)
    real = ~padding if padded else torch.ones_like(padding)
    assert_same(found[real], expected[real])
    before, after = (sum(p.numel() for p in m.parameters()) for m in (model, smaller))
    assert after == before - 3 * (3 * 3 * (WIDTH + 1) + 3 * WIDTH)
    assert find_heads(smaller, example_inputs=given).total == 5


def test_gradients_reach_the_rows_that_stay():
    torch.manual_seed(0)
    model = Model().eval()
    given, heads = inputs(model), HeadSet([(0, 1)])
    named = dict(zip(("query", "key", "value"), given, strict=True))
    smaller = prune(model, heads, example_inputs=named)
    with ablate(model, heads):
        model(**named)[0].square().sum().backward()
    smaller(**named)[0].square().sum().backward()
    kept = torch.tensor([row for row in range(3 * WIDTH) if row % WIDTH not in (3, 4, 5)])
    assert_same(
        smaller.attention.in_proj_weight.grad, model.attention.in_proj_weight.grad[kept], 1e-4
    )


@pytest.mark.parametrize("setting", ["add_bias_kv", "add_zero_attn"])
def test_added_keys_and_values_are_refused(setting):
    model = Model(**{setting: True}).eval()
    named = dict(zip(("query", "key", "value"), inputs(model), strict=True))
    with pytest.raises(ModelError, match="adds keys and values of its own"):
        prune(model, HeadSet([(0, 1)]), example_inputs=named)
