"""Heads of models that are compiled, adapted, quantized, or wrapped for several processes.

bitsandbytes and torchao are tried where they are installed; they are no dependency.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import torch.distributed as dist
import transformers
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from lobes.ablation import ablate, mean_contexts, record_contexts
from lobes.discovery import find_heads
from lobes.errors import ModelError
from lobes.heads import HeadSet
from lobes.measure.importance import head_importance
from lobes.pruning import prune
from lobes.replay import Replay
from tiny_models import TINY, tiny_inputs, tiny_model

NAMES = ("bert", "llama")
LESION = HeadSet([(0, 1), (1, 2)])


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A group of one process."""
    store = f"file://{tmp_path / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def states(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(**inputs).last_hidden_state


def loss(outputs: Any, batch: Any) -> Tensor:
    return outputs.last_hidden_state.square().flatten(1).sum(1)


def check_equal(wrapped: nn.Module, plain: nn.Module, tolerance: float = 1e-5) -> None:
    """Ablation, contexts, means, importance and replay of a wrapped model are those of a plain."""
    inputs = tiny_inputs(plain)
    layout, expected = find_heads(wrapped), find_heads(plain)
    shapes = [(site.n_heads, site.head_dim, site.kind) for site in layout.sites]
    assert shapes == [(site.n_heads, site.head_dim, site.kind) for site in expected.sites]
    before = states(wrapped, inputs)
    torch.testing.assert_close(before, states(plain, inputs), rtol=0, atol=tolerance)
    for heads in (LESION, [LESION, HeadSet()]):
        with ablate(wrapped, heads), record_contexts(wrapped) as record:
            ablated = states(wrapped, inputs)
        with ablate(plain, heads), record_contexts(plain) as wanted:
            lesioned = states(plain, inputs)
        torch.testing.assert_close(ablated, lesioned, rtol=0, atol=tolerance)
        assert (ablated[0] - before[0]).abs().max() > 1e-2
        for mine, others in zip(record.calls, wanted.calls, strict=True):
            torch.testing.assert_close(mine, others, rtol=0, atol=tolerance)
        means = mean_contexts(wrapped, [inputs])
        with ablate(wrapped, heads, value="mean", data=means):
            assert not torch.equal(states(wrapped, inputs), ablated)
    torch.testing.assert_close(states(wrapped, inputs), before, rtol=0, atol=tolerance)
    scores = [head_importance(m, batches=[inputs], loss=loss).values for m in (wrapped, plain)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-3, abs=1e-4)
    absolute = head_importance(wrapped, batches=[inputs], loss=loss, aggregate="token").values
    assert absolute.min() > 0
    with torch.no_grad():
        replay = Replay(wrapped, layout, lambda: states(wrapped, inputs))
        found = dict(replay.runs(lambda: states(wrapped, inputs), [LESION, HeadSet([(1, 0)])]))
        with ablate(plain, LESION):
            torch.testing.assert_close(found[0], states(plain, inputs), rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("whole", [True, False])
def test_compiled_models(name: str, whole: bool, compiler: None):
    model = tiny_model(name, attention="sdpa")
    if whole:
        compiled = torch.compile(model, backend="eager")
    else:
        compiled = tiny_model(name, attention="sdpa")
        compiled.compile(backend="eager")
    states(compiled, tiny_inputs(model))  # what was compiled before has no hooks
    check_equal(compiled, model)


def test_a_model_whose_compiled_twin_runs(compiler: None):
    model = tiny_model("bert", attention="sdpa")
    inputs, compiled = tiny_inputs(model), torch.compile(model, backend="eager")
    before = states(compiled, inputs)
    with ablate(model, LESION):
        ablated = states(compiled, inputs)
        torch.testing.assert_close(ablated, states(model, inputs), rtol=0, atol=1e-5)
    assert (ablated - before).abs().max() > 1e-2
    assert torch.equal(states(compiled, inputs), before)


@pytest.mark.parametrize("name", NAMES)
def test_distributed_data_parallel(name: str, group: None):
    plain = tiny_model(name)
    wrapped = DistributedDataParallel(tiny_model(name))
    calls = []
    hook = wrapped.register_forward_hook(lambda *_: calls.append("ran"))
    assert all(site.name.startswith("module.") for site in find_heads(wrapped).sites)
    assert not calls  # other processes need not take part
    hook.remove()
    check_equal(wrapped, plain)
    with record_contexts(wrapped, gradients=True):
        assert not wrapped.require_backward_grad_sync
    assert wrapped.require_backward_grad_sync
    for _ in range(2):  # training goes on after it
        outputs = wrapped(**tiny_inputs(plain))
        sum(outputs[key].sum() for key in outputs if isinstance(outputs[key], Tensor)).backward()


def test_low_rank_adapters():
    for name, targets in (("bert", ["query", "value", "dense"]), ("llama", ["q_proj", "o_proj"])):
        for dora in (False, True):
            config = peft.LoraConfig(
                target_modules=targets, r=2, use_dora=dora, init_lora_weights=False
            )
            torch.manual_seed(0)
            adapted = peft.get_peft_model(tiny_model(name), config).eval()
            torch.manual_seed(0)
            merged = peft.get_peft_model(tiny_model(name), config).eval().merge_and_unload()
            check_equal(adapted, merged, tolerance=1e-4)
            for site in find_heads(adapted).sites:
                assert site.projection.endswith(TINY[name].projection)
                assert site.gateable
            with pytest.raises(
                ModelError, match=r"merge them first \(model = model.merge_and_unload"
            ):
                prune(adapted, LESION)
            assert prune(merged, LESION)(**tiny_inputs(merged)).last_hidden_state.isfinite().all()


def wide_bert() -> nn.Module:
    """Some kernels of quantized weights take whole blocks only."""
    config = TINY["bert"].config()
    config.hidden_size, config.num_attention_heads, config.intermediate_size = 128, 4, 128
    torch.manual_seed(0)
    return transformers.AutoModel.from_config(config).eval()


def check_quantized(model: nn.Module) -> None:
    inputs = tiny_inputs(model)
    layout = find_heads(model)
    assert [(site.n_heads, site.head_dim) for site in layout.sites] == [(4, 32)] * 2
    for site in layout.sites:
        assert not site.prunable
        assert not site.gateable
        assert "is packed or computed, so it has no rows to cut" in site.reason
    before = states(model, inputs)
    with ablate(model, LESION), record_contexts(model) as record:
        assert not torch.equal(states(model, inputs), before)
    assert (record.contexts(1)[..., 2, :] == 0).all()


@pytest.mark.filterwarnings("ignore")
def test_weights_that_torch_quantized():
    check_quantized(
        torch.ao.quantization.quantize_dynamic(wide_bert(), {nn.Linear}, dtype=torch.qint8)
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bits", [8, 4])
def test_weights_that_bitsandbytes_quantized(bits: int):
    bnb = pytest.importorskip("bitsandbytes")
    model = wide_bert()
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            ends = module.in_features, module.out_features
            if bits == 8:
                packed = bnb.nn.Linear8bitLt(*ends, has_fp16_weights=False)
            else:
                packed = bnb.nn.Linear4bit(*ends, compute_dtype=torch.float32)
            packed.load_state_dict(module.state_dict())
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, packed)
    check_quantized(model.to("cpu"))


@pytest.mark.filterwarnings("ignore")
def test_weights_that_torchao_quantized():
    quantization = pytest.importorskip("torchao.quantization")
    model = wide_bert()
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    check_quantized(model)


def test_a_model_without_weights_is_refused():
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(TINY["bert"].config())
    with pytest.raises(ModelError, match="of BertModel is on the meta device: its weights are not"):
        find_heads(model)


def test_a_sharded_model_is_refused_until_it_is_known(group: None):
    model = tiny_model("bert")
    layout = find_heads(tiny_model("bert"))
    mesh = init_device_mesh("cpu", (1,))
    query = model.encoder.layer[0].attention.self.query
    query.weight = nn.Parameter(distribute_tensor(query.weight.detach(), mesh, [Shard(0)]))
    message = r"self.query.weight of BertModel is sharded over several processes. Call find_heads"
    with pytest.raises(ModelError, match=message):
        find_heads(model)
    with pytest.raises(ModelError, match="BertModel is sharded over processes: prune it before"):
        prune(model, LESION, layout=layout)


def test_a_model_for_several_processes_is_pruned_unwrapped(group: None):
    wrapped = DistributedDataParallel(tiny_model("bert"))
    with pytest.raises(ModelError, match=r"prune the model inside \(model.module\)"):
        prune(wrapped, LESION, layout=find_heads(wrapped.module))
