"""Pooling against its plain definition, and what "auto" finds out about an encoder."""

import pytest
import torch
from torch import nn

from lobes.errors import ConfigError, ModelError
from lobes.modeling.pooling import (
    check_pooling,
    choose_pooling,
    evaluation_mode,
    has_trained_pooler,
    pool,
    probe,
    run_encoder,
)
from tiny_models import tiny_inputs, tiny_model

LENGTHS = (3, 7, 1)


def states_and_mask(*, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """3 examples of up to 7 tokens with 5 channels, padded on one side with huge values."""
    generator = torch.Generator().manual_seed(2)
    states = torch.full((3, 7, 5), 1e9)
    mask = torch.zeros(3, 7, dtype=torch.int64)
    for example, length in enumerate(LENGTHS):
        places = slice(7 - length, 7) if left else slice(0, length)
        states[example, places] = torch.randn(length, 5, generator=generator)
        mask[example, places] = 1
    return states, mask


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("pooling", ["first", "last", "mean"])
def test_pooling_equals_its_definition_and_ignores_padding(pooling: str, left: bool) -> None:
    states, mask = states_and_mask(left=left)
    states = states.masked_fill((mask == 0)[:, :, None], 7.0)
    plain = []
    for example in range(3):
        real = [states[example, place] for place in range(7) if mask[example, place]]
        plain.append({"first": real[0], "last": real[-1], "mean": sum(real) / len(real)}[pooling])
    torch.testing.assert_close(pool(states, mask, pooling), torch.stack(plain))


def test_mean_pooling_of_bf16_states_is_summed_in_float32() -> None:
    states = torch.full((1, 1009, 1), 1.0).bfloat16()
    mask = torch.ones(1, 1009, dtype=torch.int64)
    assert pool(states, mask, "mean").item() == 1.0


@pytest.mark.parametrize(
    ("name", "pooling"),
    [
        ("bert", "first"),
        ("distilbert", "first"),
        ("modernbert", "first"),
        ("gpt2", "last"),
        ("llama", "last"),
        ("opt", "last"),
        ("bart", "last"),
        ("t5", "last"),
    ],
)
def test_auto_tells_decoders_from_encoders(name: str, pooling: str) -> None:
    assert choose_pooling(tiny_model(name), trained_pooler=False) == pooling


def test_auto_takes_a_trained_pooler_only() -> None:
    encoder = tiny_model("bert")
    assert has_trained_pooler(encoder)
    assert choose_pooling(encoder, trained_pooler=True) == "pooler"
    nn.init.zeros_(encoder.pooler.dense.bias)
    assert not has_trained_pooler(encoder)
    assert not has_trained_pooler(tiny_model("distilbert"))


def test_unknown_pooling_is_refused() -> None:
    with pytest.raises(ConfigError, match='Unknown pooling \'max\': expected "auto", "pooler"'):
        check_pooling("max")


def test_a_model_without_token_ids_is_refused() -> None:
    with pytest.raises(ModelError, match="ViTModel does not turn token ids into states"):
        probe(tiny_model("vit"))


def test_probing_leaves_modes_and_the_random_state_as_they_were() -> None:
    encoder = tiny_model("bert").train()
    encoder.embeddings.eval()
    modes = [part.training for part in encoder.modules()]
    state = torch.get_rng_state()
    probe(encoder)
    assert [part.training for part in encoder.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


def test_evaluation_mode_ends_with_an_exception_too() -> None:
    module = nn.Sequential(nn.Dropout(), nn.Dropout().eval())

    def fail() -> None:
        with evaluation_mode(module):
            assert not any(part.training for part in module.modules())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [part.training for part in module.modules()] == [True, True, False]


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_an_encoder_decoder_reads_the_text_again_shifted_by_one(name: str) -> None:
    encoder = tiny_model(name)
    ids = tiny_inputs(encoder)["input_ids"]
    mask = torch.ones_like(ids)
    start = encoder.config.decoder_start_token_id
    shifted = torch.cat([torch.full((len(ids), 1), start), ids[:, :-1]], dim=1)
    plain = encoder(input_ids=ids, attention_mask=mask, decoder_input_ids=shifted)
    ours = run_encoder(encoder, {"input_ids": ids, "attention_mask": mask})
    torch.testing.assert_close(ours.last_hidden_state, plain.last_hidden_state)


def test_inputs_that_an_encoder_does_not_take_are_left_out() -> None:
    encoder = tiny_model("distilbert")
    ids = tiny_inputs(encoder)["input_ids"]
    with_types = run_encoder(encoder, {"input_ids": ids, "token_type_ids": torch.ones_like(ids)})
    assert torch.equal(with_types.last_hidden_state, encoder(input_ids=ids).last_hidden_state)
