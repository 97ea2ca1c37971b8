"""The kernels of attention where gradients are taken on a CPU."""

from collections import Counter

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from lobes.measure.importance import head_importance
from lobes.measure.similarity import gradient_similarity
from lobes.modeling import MultiTaskModel
from lobes.modeling.attention_kernels import LONGEST, fast_gradients
from lobes.training.arguments import training_arguments
from lobes.training.trainer import MultiTaskTrainer
from tiny_models import tiny_model
from tiny_tasks import mood_task, tiny_tokenizer

CPU = torch.device("cpu")
FUSED = "ScaledDotProductFlashAttentionForCpuBackward0"


class Kernels(TorchDispatchMode):
    """Counts the runs of the fused kernel, forward and backward."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name()
        if "flash_attention" in name:
            self.found["backward" if "backward" in name else "forward"] += 1
        return function(*args, **(kwargs or {}))


def inputs(length, dtype=torch.bfloat16, gradient=True):
    generator = torch.Generator().manual_seed(0)
    made = (torch.randn(3, 2, length, 8, generator=generator) for _ in range(3))
    return [each.to(dtype).requires_grad_(gradient) for each in made]


def kernel(*given, **kwargs):
    function = scaled_dot_product_attention(*given, **kwargs).grad_fn
    return None if function is None else type(function).__name__


def test_only_short_attention_in_bf16_whose_gradient_is_taken_leaves_the_fused_kernel():
    assert kernel(*inputs(5)) == FUSED
    with fast_gradients(CPU):
        assert kernel(*inputs(5)) != FUSED
        assert kernel(*inputs(5, torch.float32)) == FUSED
        assert kernel(*inputs(LONGEST)) == FUSED
        with torch.no_grad(), Kernels() as kernels:
            scaled_dot_product_attention(*inputs(5))
        assert kernels.found["forward"] == 1
        assert kernel(*inputs(5)[:2], inputs(5, gradient=False)[2]) != FUSED
    assert kernel(*inputs(5)) == FUSED


@pytest.mark.parametrize("causal", [False, True])
def test_plain_products_compute_the_same(causal):
    exact = inputs(9, torch.float32)
    scaled_dot_product_attention(*exact, is_causal=causal).square().sum().backward()
    found = inputs(9)
    with fast_gradients(CPU):
        scaled_dot_product_attention(*found, is_causal=causal).square().sum().backward()
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one.grad.float(), other.grad, atol=0.06, rtol=0.06)


@pytest.mark.parametrize("on", [True, False])
def test_switches_are_as_before_afterwards_also_after_an_error(on):
    def switches():
        cuda = torch.backends.cuda
        return cuda.flash_sdp_enabled(), cuda.fp16_bf16_reduction_math_sdp_allowed()

    before = switches()
    try:
        torch.backends.cuda.enable_flash_sdp(on)
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(not on)
        with fast_gradients(CPU):
            scaled_dot_product_attention(*inputs(5))
            assert switches() == (on, not on)
            with pytest.raises(RuntimeError):
                scaled_dot_product_attention(*inputs(5), attn_mask=torch.zeros(7, 7))
            assert switches() == (on, not on)
    finally:
        torch.backends.cuda.enable_flash_sdp(before[0])
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(before[1])


@pytest.fixture
def world():
    task = mood_task()
    return MultiTaskModel(
        tiny_model("llama", attention="sdpa"), tiny_tokenizer(), [task], pooling="mean"
    ), task


def test_importance_and_gradients_of_short_texts_never_run_the_fused_kernel_backward(world):
    model, task = world
    with Kernels() as kernels:
        head_importance(model, task, precision="bf16")
    assert not kernels.found["backward"]
    with Kernels() as kernels:
        head_importance(model, task, precision="fp32")
    assert kernels.found["backward"]
    with Kernels() as kernels:
        gradient_similarity(model.to(torch.bfloat16), [task])
    assert not kernels.found["backward"]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_in_bf16_never_runs_it_backward(world, tmp_path, checkpointing):
    model, task = world
    args = training_arguments(tmp_path, steps=2, precision="bf16")
    args.gradient_checkpointing = checkpointing
    trainer = MultiTaskTrainer(model, args, tasks=[task])
    with Kernels() as kernels:
        trainer.train()
    assert not kernels.found["backward"]
    assert all(bool(weight.isfinite().all()) for weight in model.parameters())
