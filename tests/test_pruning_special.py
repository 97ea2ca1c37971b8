"""The special cases of pruning: each is still needed, and does what it is for."""

import pytest
import torch
import transformers

from lobes import HeadSet, find_heads, load_pruned, prune
from lobes.errors import ModelError
from lobes.pruning import t5_and_bigbird
from test_pruning import ablated, assert_same, run, uneven
from tiny_models import tiny_inputs, tiny_model


def test_layers_of_t5_cannot_share_a_bias_once_they_keep_different_heads(monkeypatch):
    model = tiny_model("t5")
    heads = HeadSet([(0, 1), (1, 2), (1, 3)])
    monkeypatch.setattr(t5_and_bigbird, "own_tables", lambda *_: [])
    with pytest.raises(ModelError, match="cannot be pruned"):
        prune(model, heads)


def test_each_layer_of_t5_keeps_its_own_heads_columns():
    model = tiny_model("t5")
    smaller = prune(model, HeadSet([(0, 1), (1, 2), (1, 3)]))
    table = model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    own = [block.layer[0].SelfAttention.relative_attention_bias for block in smaller.encoder.block]
    assert torch.equal(own[0].weight, table[:, [0, 2, 3, 4, 5]])
    assert torch.equal(own[1].weight, table[:, [0, 1, 4, 5]])
    # the decoder's layers still share theirs
    assert not hasattr(smaller.decoder.block[1].layer[0].SelfAttention, "relative_attention_bias")


def big_bird(attention_type: str) -> torch.nn.Module:
    """A tiny BigBird."""
    config = transformers.BigBirdConfig(
        vocab_size=61, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=34, max_position_embeddings=64, attention_type=attention_type,
        block_size=4, num_random_blocks=1,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.BigBirdModel(config).eval()


def test_a_model_that_exchanges_its_attention_is_refused(monkeypatch, tmp_path):
    model = big_bird("block_sparse")
    heads = HeadSet([(0, 1), (1, 2)])
    with pytest.raises(ModelError, match=r'attention_type to "original_full"'):
        prune(model, heads)
    # without the refusal the loaded model would be wrong: it builds new modules of full size
    monkeypatch.setattr(t5_and_bigbird, "exchanges_modules", lambda _: False)
    prune(model, heads).save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="shape"):
        run(load_pruned(tmp_path), {"input_ids": torch.randint(4, 61, (2, 9))})


def test_a_big_bird_without_blocks_is_pruned(tmp_path):
    model = big_bird("original_full")
    heads, inputs = uneven(model), {"input_ids": torch.randint(4, 61, (2, 9))}
    prune(model, heads).save_pretrained(tmp_path)
    assert_same(run(load_pruned(tmp_path), inputs), ablated(model, heads, inputs))


def test_a_bias_that_comes_from_elsewhere_is_handed_on_whole():
    model = tiny_model("mpnet")
    heads, inputs = uneven(model), tiny_inputs(model)
    sizes = []
    smaller = prune(model, heads)
    for layer in smaller.encoder.layer:
        layer.attention.attn.register_forward_pre_hook(
            lambda _, args: sizes.append(args[2].shape[1]), prepend=True
        )
    run(smaller, inputs)
    assert sizes == [find_heads(model).sites[0].n_heads] * 2
