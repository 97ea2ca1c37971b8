"""What keeps a GPU busy, tried on a CPU: no waiting, full batches, one copy of the weights."""

import contextlib
import copy
from collections import Counter

import accelerate
import numpy as np
import pytest
import torch
import transformers
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from lobes.ablation import ablate, ablate_copies, mean_contexts
from lobes.discovery import find_heads
from lobes.errors import HeadError
from lobes.heads import HeadSet
from lobes.measure.batch_size import bytes_per_token, room_for_copies, tokens_in_a_batch
from lobes.measure.evaluation import evaluate, task_means
from lobes.measure.iap import lesion_matrix
from lobes.measure.importance import head_importance
from lobes.measure.lesioned_runs import SharedRuns
from lobes.measure.measuring import measuring
from lobes.measure.workload import Tried, prepare
from lobes.modeling import MultiTaskModel, PromptedModel
from lobes.modeling.attention_kernels import any_shape
from lobes.modeling.precision import bf16_copy
from lobes.pruning import prune
from lobes.tasks.prompts import Prompt
from tiny_models import TINY, tiny_inputs, tiny_model
from tiny_tasks import mood_task, tiny_tokenizer

LESIONS = [
    HeadSet(),
    *(HeadSet([(site, head)]) for site in (1, 0) for head in range(5)),
    HeadSet([(0, 0), (1, 1)]),
]


class Waits(TorchDispatchMode):
    """Counts what stops the host on a GPU: reading a number, or sizes that depend on numbers."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().removeprefix("aten::")
        boolean = name.startswith("index") and any(
            one is not None and one.dtype in (torch.bool, torch.uint8)
            for one in (args[1] if isinstance(args[1], list | tuple) else [])
        )
        waits = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "_unique2")
        if boolean or name.split(".")[0] in waits:
            self.found[name] += 1
        return function(*args, **(kwargs or {}))


class Reads(TorchFunctionMode):
    """Counts what brings a tensor to the host, which on a CPU no operator does."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name in ("cpu", "numpy", "tolist", "item", "__array__", "__bool__", "__index__"):
            self.found[name] += 1
        return function(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def task():
    return mood_task(n_train=41, n_validation=31)


@pytest.fixture(scope="module")
def model(task):
    return MultiTaskModel(tiny_model("bert"), tiny_tokenizer(), [task], pooling="mean").eval()


def waits_of(run):
    with Waits() as waits, Reads() as reads:
        run()
    return waits.found, reads.found


def own_waits(model, task):
    """Those of a run of the model: transformers looks whether an attention mask has padding."""
    inputs = model.encode("mood", task.train).collate(np.arange(3))
    with torch.no_grad():
        waits, reads = waits_of(lambda: model.logits(**inputs))
    return sum(waits.values()), sum(reads.values())


@pytest.mark.parametrize("aggregate", ["token", "sequence"])
def test_importance_waits_for_nothing_within_a_batch(model, task, aggregate):
    layout = find_heads(model)
    found = []
    for tokens in (60, 400):  # many batches, and few
        number = len(prepare(model, [task], split="train", tokens_per_batch=tokens).batches)
        waits, reads = waits_of(
            lambda tokens=tokens: head_importance(
                model, task, aggregate=aggregate, tokens_per_batch=tokens, layout=layout
            )
        )
        found.append((number, sum(waits.values()), sum(reads.values())))
    (many, waits, reads), (few, waits_of_few, reads_of_few) = found
    assert many > few + 4
    own = own_waits(model, task)
    assert waits - waits_of_few == own[0] * (many - few)
    # the losses, the terms and the numbers of tokens, in one copy of each batch
    assert reads - reads_of_few == (3 + own[1]) * (many - few)


@pytest.mark.parametrize("value", ["zero", "mean", "resample"])
def test_lesions_wait_for_nothing_within_a_batch(model, task, value):
    layout, found = find_heads(model), []
    means = task_means(model, [task])
    for lesions in (LESIONS[:3], LESIONS):
        waits, reads = waits_of(
            lambda lesions=lesions: evaluate(
                model, [task], lesions, layout=layout, value=value, means=means,
                tokens_per_batch=60,
            )
        )  # fmt: skip
        found.append((sum(waits.values()), sum(reads.values())))
    batches = len(prepare(model, [task], split="validation", tokens_per_batch=60).batches)
    own = own_waits(model, task)
    # one run more for each lesion more
    more = batches * (len(LESIONS) - 3)
    assert [b - a for a, b in zip(*found, strict=True)] == [own[0] * more, own[1] * more]


def test_means_wait_for_nothing_within_a_batch(model):
    batches = [tiny_inputs(model.encoder, batch=3, length=n) for n in (2, 3, 5, 7)]
    layout = find_heads(model.encoder)
    one, other = (
        sum(
            waits_of(lambda n=n: mean_contexts(model.encoder, batches[:n], layout=layout))[
                0
            ].values()
        )
        for n in (2, 4)
    )
    assert one == other


# Several lesions in one run


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5", "swin", "albert"])
def test_copies_of_a_batch_each_with_its_lesion(name):
    model = tiny_model(name)
    layout, inputs = find_heads(model), tiny_inputs(model)
    sites = len(layout.sites)
    lesions = [HeadSet(), HeadSet([(0, 1)]), HeadSet([(sites - 1, 0), (0, 0)])]
    many = {key: torch.cat([value] * 3) for key, value in inputs.items()}
    with torch.no_grad(), ablate_copies(model, lesions, layout=layout):
        together = model(**many).last_hidden_state.unflatten(0, (3, -1))
    for lesion, found in zip(lesions, together, strict=True):
        with torch.no_grad(), ablate(model, lesion, layout=layout):
            torch.testing.assert_close(found, model(**inputs).last_hidden_state)


def test_rows_that_are_no_copies_are_refused(model):
    inputs = tiny_inputs(model.encoder, batch=3)
    with (
        pytest.raises(HeadError, match="copies of a batch cannot have lesions of their own"),
        ablate_copies(model.encoder, LESIONS[1:3], layout=find_heads(model.encoder)),
    ):
        model.encoder(**inputs)


def runs_for(model, task, room):
    work = prepare(model, [task], split="validation", tokens_per_batch=60)
    return SharedRuns(model, find_heads(model), work, True, room, Tried()), work


def prompted(task):
    config = copy.deepcopy(TINY["gpt2"].config())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inner = transformers.AutoModelForCausalLM.from_config(config).eval()
    prompts = {"mood": Prompt("{text}", ["sad", "merry"])}
    return PromptedModel(inner, tiny_tokenizer(), [task], prompts)


@pytest.mark.parametrize("kind", ["classified", "prompted"])
@pytest.mark.parametrize("most", [2, 4, 30])
def test_a_run_holds_several_lesions(kind, most, model, task):
    model = model if kind == "classified" else prompted(task)
    (alone, work), (packed, _) = (runs_for(model, task, room) for room in (0, 10**6))
    batch = work.batches[2]
    packed._room = most * len(batch) * int(work.inputs.lengths[batch].max())
    rows = []
    part = model.encoder if kind == "classified" else model.model
    handle = part.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    with torch.no_grad():
        expected = dict(alone.outputs(batch, LESIONS))
        rows.clear()
        found = dict(packed.outputs(batch, LESIONS))
    handle.remove()
    assert sorted(found) == list(range(len(LESIONS)))
    for index, values in expected.items():
        torch.testing.assert_close(found[index]["mood"], values["mood"])
    groups = -(-len(LESIONS) // most)
    assert len(rows) in (groups, groups + 1)  # one more to record what is played back
    assert max(rows) == -(-len(LESIONS) // groups) * len(batch)


def test_examples_that_depend_on_one_another_are_not_packed(task):
    model = MultiTaskModel(tiny_model("bert"), tiny_tokenizer(), [task], pooling="mean").eval()
    model.encoder.encoder.layer[0].register_forward_hook(lambda _, args, out: out - out.mean(0))
    assert runs_for(model, task, 10**6)[0]._room == 0


def test_a_gpu_gets_narrow_batches_in_many_copies_and_a_cpu_none():
    gpu = torch.device("cuda")
    assert room_for_copies(torch.device("cpu"), 2048, 64) == (0, 2048)
    assert room_for_copies(gpu, 65536, 64) == (65536, 4096)
    assert room_for_copies(gpu, 65536, 3) == (65536, 21845)
    assert room_for_copies(gpu, 65536, 0) == (65536, 65536)
    assert room_for_copies(gpu, 5, 64) == (5, 1)


def test_attention_is_kept_from_cudnn_while_a_gpu_measures():
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        for on in (True, False):
            torch.backends.cuda.enable_cudnn_sdp(on)
            with contextlib.suppress(KeyError), any_shape(torch.device("cuda")):
                assert not torch.backends.cuda.cudnn_sdp_enabled()
                raise KeyError
            assert torch.backends.cuda.cudnn_sdp_enabled() is on
            with any_shape(torch.device("cpu")):
                assert torch.backends.cuda.cudnn_sdp_enabled() is on
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


# Memory


def test_weights_that_are_in_bf16_are_not_copied(task):
    model = prompted(task).to(torch.bfloat16)
    places = {parameter.data_ptr() for parameter in model.parameters()}
    with measuring(model, "bf16") as measured:
        own = [name for name, p in measured.named_parameters() if p.data_ptr() not in places]
        assert own == ["model.lm_head.weight"]
        assert not any(p.requires_grad for p in measured.parameters())
    assert all(p.requires_grad and p.dtype == torch.bfloat16 for p in model.parameters())
    assert model.model.lm_head.weight is model.model.transformer.wte.weight
    full = bf16_copy(prompted(task))
    inputs = model.encode("mood", task.validation).collate(np.arange(5))
    with torch.no_grad():
        found, expected = (one.logits(**inputs)["mood"] for one in (bf16_copy(model), full))
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)  # its last layer was rounded


class Full:
    """Refuses batches of more than so many tokens, as a device does whose memory is full."""

    def __init__(self, most):
        self.most, self.seen = most, []

    def __call__(self, module, args, kwargs):
        self.seen.append(kwargs["input_ids"].numel())
        if self.seen[-1] > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")


def test_out_of_memory_halves_the_batches(task, caplog):
    model = MultiTaskModel(tiny_model("bert"), tiny_tokenizer(), [task], pooling="mean").eval()
    expected = evaluate(model, task, LESIONS), head_importance(model, task)
    full = Full(80)
    handle = model.encoder.register_forward_pre_hook(full, with_kwargs=True)
    with caplog.at_level("WARNING", "lobes"):
        found = evaluate(model, task, LESIONS, tokens_per_batch=320)
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "The device's memory is full: going on with 160 tokens in a batch."
    np.testing.assert_allclose(found.logits["mood"], expected[0].logits["mood"], atol=1e-5)
    full.seen.clear()
    importance = head_importance(model, task)
    assert full.seen[-1] <= 80
    np.testing.assert_allclose(importance.values, expected[1].values, rtol=1e-4)
    full.most = 0
    with pytest.raises(torch.OutOfMemoryError):
        evaluate(model, task, tokens_per_batch=2)
    handle.remove()


def test_the_memory_of_a_token_is_that_of_what_maps_read_and_write():
    model = tiny_model("bert")
    block = 4 * (30 + 30) + 2 * (30 + 34)
    assert bytes_per_token(model, gradients=True) == 4 * (2 * block + 30 + 30)
    assert bytes_per_token(model, gradients=False) == 4 * 4 * (30 + 34)
    assert tokens_in_a_batch(model, 7) == 7
    assert tokens_in_a_batch(model, None) == 2048


# A model whose parts are on several devices


def spread(model):
    """The model with the hooks of `device_map`, which move a part's inputs to its device."""
    devices = {name: "cpu" for name, _ in model.named_children()}
    return accelerate.dispatch_model(model, devices, main_device="cpu", force_hooks=True)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_model_that_is_spread_over_devices(precision, model, task):
    plain = model
    parts = MultiTaskModel(spread(tiny_model("bert")), tiny_tokenizer(), [task], pooling="mean")
    parts.eval()
    layout = find_heads(parts)
    assert layout == find_heads(plain)
    one, other = (
        evaluate(each, task, LESIONS, precision=precision).logits["mood"] for each in (parts, plain)
    )
    assert np.array_equal(one, other)
    one, other = (head_importance(each, task, precision=precision) for each in (parts, plain))
    assert np.array_equal(one.values, other.values)
    one, other = (
        lesion_matrix(each, task, fractions=[0.3], random=2, precision=precision).scores(0.3)
        for each in (parts, plain)
    )
    assert np.array_equal(one, other)


def test_pruning_a_model_that_is_spread_over_devices():
    model, lesion = tiny_model("bert"), HeadSet([(0, 1), (1, 0)])
    inputs = tiny_inputs(model)
    with torch.no_grad():
        expected = prune(model, lesion)(**inputs).last_hidden_state
        found = prune(spread(tiny_model("bert")), lesion)(**inputs).last_hidden_state
    torch.testing.assert_close(found, expected)
