"""A bf16 copy computes what transformers' own bf16 model does; its answers are in fp32."""

import copy

import numpy as np
import pytest
import torch
import transformers

from lobes.measure.evaluation import evaluate
from lobes.measure.measuring import measuring
from lobes.modeling import MultiTaskModel, PromptedModel
from lobes.modeling.precision import bf16_copy
from lobes.modeling.single_task import SingleTaskModel
from lobes.tasks.prompts import Prompt
from tiny_models import TINY, tiny_inputs, tiny_model
from tiny_tasks import mood_task, tiny_tokenizer, warmth_task


@pytest.mark.parametrize("name", ["bert", "llama", "swin", "t5"])
def test_an_encoder_is_what_transformers_loads_in_bf16(name, tmp_path):
    model = tiny_model(name)
    model.save_pretrained(tmp_path)
    native = (
        type(model)
        .from_pretrained(tmp_path, dtype=torch.bfloat16, attn_implementation="eager")
        .eval()
    )
    ours = bf16_copy(model)
    types = [
        {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in of}
        for one in (ours, native)
        for of in ([*one.named_parameters(), *one.named_buffers()],)
    ]
    assert types[0] == types[1]
    inputs = {
        key: value.bfloat16() if value.is_floating_point() else value
        for key, value in tiny_inputs(model).items()
    }
    with torch.no_grad():
        found, expected = (one(**inputs).last_hidden_state for one in (ours, native))
    assert torch.equal(found, expected)


def test_rotary_frequencies_are_not_rounded():
    model = tiny_model("llama")
    before = model.rotary_emb.inv_freq.clone()
    with measuring(model, "bf16") as measured:
        assert torch.equal(measured.rotary_emb.inv_freq, before)
        assert measured.layers[0].self_attn.q_proj.weight.dtype == torch.bfloat16


def values_around_3(model, head, tasks):
    """Distinct answers of a regression whose outputs lie around 3, as those of STS-B do."""
    with torch.no_grad():
        head.bias.fill_(3.0)
    found = evaluate(model, tasks, precision="bf16").logits["warmth"][0]
    full = evaluate(model, tasks).logits["warmth"][0]
    np.testing.assert_allclose(found, full, atol=0.05)
    return len(np.unique(found))


def test_classifiers_and_regressors_of_several_tasks_stay_in_fp32():
    tasks = [mood_task(n_validation=53), warmth_task(n_validation=199)]
    model = MultiTaskModel(tiny_model("bert"), tiny_tokenizer(), tasks, pooling="mean").eval()
    with measuring(model, "bf16") as measured:
        assert {p.dtype for p in measured.classifiers.parameters()} == {torch.float32}
        assert {p.dtype for p in measured.encoder.parameters()} == {torch.bfloat16}
    assert values_around_3(model, model.classifiers["warmth"], tasks) > 150


def test_classifiers_are_in_fp32_under_autocast():
    tasks = [warmth_task(n_validation=199)]
    model = MultiTaskModel(tiny_model("bert"), tiny_tokenizer(), tasks, pooling="mean").eval()
    with torch.no_grad():
        model.classifiers["warmth"].bias.fill_(3.0)
    inputs = model.encode("warmth", tasks[0].validation).collate(np.arange(199))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model.logits(**inputs)["warmth"]
    assert len(logits.unique()) > 150


@pytest.mark.parametrize("name", ["bert", "roberta", "llama"])
def test_the_regressor_of_a_single_task_model_stays_in_fp32(name):
    task = warmth_task(n_validation=199)
    config = TINY[name].config()
    config.num_labels, config.pad_token_id = 1, 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inner = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    head = (
        inner.score if name == "llama" else getattr(inner.classifier, "out_proj", inner.classifier)
    )
    if head.bias is None:
        head.bias = torch.nn.Parameter(torch.zeros(1))
    model = SingleTaskModel(inner, tiny_tokenizer(), task)
    with measuring(model, "bf16") as measured:
        assert {p.dtype for p in measured.model.base_model.parameters()} == {torch.bfloat16}
    assert values_around_3(model, head, [task]) > 150


def test_words_are_scored_in_fp32_though_the_output_layer_is_the_embedding():
    task = mood_task(n_validation=199)
    config = copy.deepcopy(TINY["gpt2"].config())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inner = transformers.AutoModelForCausalLM.from_config(config).eval()
    assert inner.lm_head.weight is inner.transformer.wte.weight
    prompts = {"mood": Prompt("{text}", ["sad", "merry"])}
    model = PromptedModel(inner, tiny_tokenizer(), [task], prompts)
    with measuring(model, "bf16") as measured:
        assert measured.model.lm_head.weight.dtype == torch.float32
        assert measured.model.transformer.wte.weight.dtype == torch.bfloat16
    assert inner.lm_head.weight is inner.transformer.wte.weight
    half, full = (evaluate(model, [task], precision=p).logits["mood"][0] for p in ("bf16", "fp32"))
    assert np.abs(half - full).max() < 0.02  # bf16 itself steps by 0.016 there
    assert len(np.unique(half)) > 300
