"""Finding heads leaves a model as it was: its parts, their state, and what it computes."""

import random
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

import zoo
from lobes.discovery import find_heads
from lobes.discovery.kept import kept
from lobes.errors import ModelError
from lobes.modeling import MultiTaskModel
from lobes.modeling.pooling import probe
from lobes.training.iat import check_gate
from tiny_models import VOCABULARY, tiny_inputs, tiny_model
from tiny_tasks import mood_task, tiny_tokenizer

LONG = 48


def big_bird(kind: str = "BigBird", **settings: Any) -> nn.Module:
    """For a text of fewer than 28 tokens it puts other attention modules in place of its own."""
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=VOCABULARY, attention_type="block_sparse", block_size=4, num_random_blocks=1,
        max_position_embeddings=64, bos_token_id=1, eos_token_id=2, sep_token_id=2, **settings,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return getattr(transformers, f"{kind}Model")(config).eval()


_BIRD = {"hidden_size": 30, "num_hidden_layers": 2, "num_attention_heads": 5}
_PEGASUS = {
    "d_model": 30, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 5,
    "decoder_attention_heads": 3, "encoder_ffn_dim": 22, "decoder_ffn_dim": 26,
    "decoder_start_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
BIRDS = {
    "big_bird": lambda: big_bird(**_BIRD, intermediate_size=34),
    "bigbird_pegasus": lambda: big_bird("BigBirdPegasus", **_PEGASUS),
}


def state_of(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that can be compared, but for its weights' values."""
    state: dict[str, Any] = {"config": str(getattr(model, "config", None))}
    for path, module in model.named_modules():
        plain = {k: v for k, v in vars(module).items() if isinstance(v, str | int | float | None)}
        state[path] = id(module), type(module), sorted(vars(module)), plain
        for name, buffer in module.named_buffers(recurse=False):
            state[f"{path}.{name}"] = id(buffer), buffer.clone()
    return state | {name: id(one) for name, one in model.named_parameters()}


def answer(model: nn.Module, inputs: dict[str, Any]) -> list[Tensor]:
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        np.random.seed(0)
        outputs = model(**inputs)
    values = outputs.values() if isinstance(outputs, dict) else outputs
    return [one for one in values if isinstance(one, Tensor)]


def longer(inputs: dict[str, Any]) -> dict[str, Any]:
    """Texts of `LONG` tokens in the place of short ones; other inputs as they are."""
    known = {"input_ids", "attention_mask", "decoder_input_ids"}
    if not inputs.keys() <= known:
        return inputs
    return {name: one.repeat(1, LONG)[:, :LONG] for name, one in inputs.items()}


def check_unchanged(model: nn.Module, inputs: dict[str, Any], **kwargs: Any) -> None:
    long = longer(inputs)
    try:
        before, state = answer(model, long), state_of(model)
    except Exception:  # a type that takes texts of one length only
        long = inputs
        before, state = answer(model, long), state_of(model)
    find_heads(model, **kwargs)
    for name, now in state_of(model).items():
        one, other = (
            (x[0], x[1].nan_to_num().tolist()) if isinstance(x, tuple) and len(x) == 2 else x
            for x in (state[name], now)
        )
        assert one == other, name
    assert state.keys() == state_of(model).keys()
    after = answer(model, long)
    assert all(map(lambda a, b: torch.equal(a.nan_to_num(), b.nan_to_num()), before, after))


@pytest.mark.parametrize(
    "name", ["bert", "gpt2", "llama", "t5", "bart", "albert", "swin", "clip", *BIRDS]
)
def test_finding_heads_leaves_the_model_as_it_was(name: str):
    model = BIRDS[name]() if name in BIRDS else tiny_model(name)
    inputs = tiny_inputs(model, batch=1, length=11)
    check_unchanged(model, inputs)


@pytest.mark.slow
@pytest.mark.skipif(
    not transformers.__version__.startswith(zoo.VERSION), reason="the zoo is of another version"
)
@pytest.mark.parametrize("kind", [k for k in zoo.TYPES[::12] if not k.startswith("timm.")])
def test_finding_heads_leaves_a_type_as_it_was(kind: str):
    if any(kind in zoo.exceptions(check) for check in ("build", "inputs", "attention", "discover")):
        pytest.skip("it cannot be built, run or looked into")
    model = zoo.build(kind)
    inputs = zoo.inputs(kind, model)
    given = {"example_inputs": inputs} if zoo.needs_example(kind) else {}
    check_unchanged(model, inputs, **given)


def test_trying_an_encoder_out_leaves_it_as_it_was():
    model = BIRDS["big_bird"]()
    state = state_of(model)
    probe(model)
    assert model.attention_type == "block_sparse"
    assert state_of(model).keys() == state.keys()


def test_trying_a_gate_out_leaves_the_model_as_it_was():
    model = MultiTaskModel(BIRDS["big_bird"](), tiny_tokenizer(), [mood_task()], pooling="mean")
    state = state_of(model)
    check_gate(model, find_heads(model))
    assert model.encoder.attention_type == "block_sparse"
    assert state_of(model).keys() == state.keys()


class Restless(nn.Module):
    """Changes whatever a forward pass can change, and then fails."""

    def __init__(self) -> None:
        super().__init__()
        self.config = transformers.BertConfig()
        self.seen: list[int] = [1]
        self.part: nn.Module = nn.Linear(3, 3)
        self.register_buffer("count", torch.zeros(2))

    def forward(self) -> None:
        self.seen.append(2)
        self.late = self.part
        self.part = nn.Linear(3, 5)
        self.count += 1
        self.register_buffer("more", torch.ones(1))
        self.config.hidden_size = 7
        np.random.rand(), random.random(), torch.rand(1)
        raise ModelError("no")


def test_everything_that_a_run_may_change_is_put_back():
    model = Restless()
    part, states = model.part, (random.getstate(), str(np.random.get_state()))
    seed = torch.get_rng_state()
    with pytest.raises(ModelError, match="no"), kept(model):
        model()
    assert model.part is part
    assert model.seen == [1]
    assert model.count.tolist() == [0, 0]
    assert set(model.state_dict()) == {"count", "part.weight", "part.bias"}
    assert not hasattr(model, "late")
    assert model.config.hidden_size == 768
    assert states == (random.getstate(), str(np.random.get_state()))
    assert torch.equal(seed, torch.get_rng_state())
