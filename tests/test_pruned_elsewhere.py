"""Pruned models in other tools: transformers by itself, ONNX Runtime, torch's compilers."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import zoo
from lobes import HeadSet, ablate, find_heads, load_pruned, prune
from lobes.pruning.plan import KEY
from tiny_models import tiny_inputs, tiny_model

HEADS = HeadSet.parse("0:1 1:0,2")
IDS = torch.tensor([[5, 6, 7, 8, 9, 11, 13], [14, 4, 5, 9, 8, 7, 6]])
# three texts with padding; a model is exported with two of them, and runs with any number
BATCH = {"input_ids": IDS[[0, 1, 0]], "attention_mask": torch.ones(3, 7, dtype=torch.int64)}
BATCH["attention_mask"][1, 4:] = 0
EXAMPLE = {name: value[:2, :5].contiguous() for name, value in BATCH.items()}


@torch.no_grad()
def states(model: Any) -> Tensor:
    return model(input_ids=IDS)[0]


def ablated(model: nn.Module, heads: HeadSet) -> Tensor:
    with ablate(model, heads):
        return states(model)


# Heads that differ from layer to layer, in transformers alone


def _step() -> nn.Module:
    from transformers.models.step3p7.modeling_step3p7 import Step3p7TextModel

    config = zoo.tiny_config("step3p7").text_config
    return zoo.noisy(lambda: Step3p7TextModel._from_config(config, attn_implementation="eager"))


@pytest.mark.skipif("step3p7" not in CONFIG_MAPPING, reason="this transformers has no Step 3.7")
@pytest.mark.parametrize(
    ("kind", "heads", "said"),
    [
        (
            "step3p7",
            "0:0,1 1:2",
            {
                "0": {"num_attention_heads": 2, "num_key_value_heads": 1},
                "1": {"num_attention_heads": 3, "num_key_value_heads": 3},
            },
        ),
        # one number of queries for all layers
        ("gemma4_text", "0:0,1 1:0,2", {"0": {"num_key_value_heads": 1}, "1": {"head_dim": 512}}),
        ("gemma4_text", "0:0,1 1:0,1", {"1": {"head_dim": 512}}),
    ],
)
def test_layers_with_other_numbers_of_heads_load_in_transformers_alone(
    kind: str, heads: str, said: dict[str, Any], tmp_path: Path
) -> None:
    model: Any = _step() if kind == "step3p7" else zoo.build(kind)
    prune(model, heads, export="native").save_pretrained(tmp_path)
    plain = type(model).from_pretrained(tmp_path, attn_implementation="eager")
    assert not hasattr(plain.config, KEY)
    assert plain.config.to_dict()["per_layer_config"] == said
    torch.testing.assert_close(states(plain), ablated(model, HeadSet.parse(heads)))
    assert plain.num_parameters() < model.num_parameters()


# torch's compilers, and ONNX Runtime


@pytest.fixture(scope="module", params=["bert", "gpt2", "llama"])
def pruned(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    """A pruned model, and what the whole one gives for `BATCH` while the heads are ablated."""
    model: Any = tiny_model(request.param, attention="sdpa")
    model.config.use_cache = False  # a cache among the outputs is nothing that torch.export knows
    with torch.no_grad(), ablate(model, HEADS):
        expected = model(**BATCH)[0]
    return prune(model, HEADS), expected


SIZES = {name: {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC} for name in BATCH}


@pytest.mark.slow
@pytest.mark.filterwarnings(r"ignore:.torch\.jit\.:DeprecationWarning")
@torch.no_grad()
def test_pruned_models_compile_and_export(pruned: tuple[Any, Tensor]) -> None:
    model, expected = pruned
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(**BATCH)[0], expected)
    program = torch.export.export(model, (), kwargs=EXAMPLE, dynamic_shapes=SIZES)
    torch.testing.assert_close(program.module()(**BATCH)[0], expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_pruned_models_run_in_onnx_runtime(pruned: tuple[Any, Tensor], tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    model, expected = pruned
    program = torch.onnx.export(
        model, (), kwargs=EXAMPLE, dynamic_shapes=SIZES, dynamo=True, verbose=False
    )
    assert program is not None
    program.save(tmp_path / "pruned.onnx")
    session = runtime.InferenceSession(tmp_path / "pruned.onnx")
    found = session.run(None, {name: value.numpy() for name, value in BATCH.items()})
    torch.testing.assert_close(torch.from_numpy(found[0]), expected)


# Whatever runs the model first, or at the same time


@pytest.fixture
def loaded(tmp_path: Path) -> Any:
    """A pruned MPNet that has not been run; its position bias is cut on its way."""
    prune(tiny_model("mpnet"), HEADS).save_pretrained(tmp_path)
    return load_pruned(tmp_path)


def test_a_model_that_was_exported_first_computes_the_same(loaded: Any) -> None:
    expected = states(prune(tiny_model("mpnet"), HEADS))
    torch.export.export(loaded, (), kwargs={"input_ids": IDS})
    assert torch.allclose(states(loaded), expected, atol=1e-5)


def test_a_model_that_was_run_in_inference_mode_first_trains(loaded: Any) -> None:
    with torch.inference_mode():
        loaded(input_ids=IDS)
    loaded(input_ids=IDS)[0].sum().backward()


def test_threads_run_one_model_with_inputs_of_their_own() -> None:
    model = tiny_model("fsmt")  # one hook leaves the whole input for others
    smaller = prune(model, [(site.index, 0) for site in find_heads(model)])
    inputs = [tiny_inputs(model, seed=seed) for seed in range(2)]

    def run(which: int) -> Tensor:
        with torch.no_grad():
            return smaller(**inputs[which])[0]

    expected, interval = [run(0), run(1)], sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(run, [0, 1] * 10))
    finally:
        sys.setswitchinterval(interval)
    assert all(torch.allclose(found[i], expected[i % 2], atol=1e-5) for i in range(20))
