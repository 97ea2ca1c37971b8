"""What a GPU is kept busy with: lesions of a model of BERT's size, and one of a Llama of 7B.

Random weights, made-up tokens whose lengths are distributed like those of SST-2 and MRPC, nothing
to download. Prints one line of JSON for each finding, as it goes. Shares are of the matrix product
that this device was measured to do, with the operations of a run without lesion for each lesion.

    python -m benchmarks.gpu              about 3 minutes on an H100
    python -m benchmarks.gpu --small      tiny shapes, also on a CPU
"""

import argparse
import cProfile
import json
import pstats
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn

import lobes
from lobes.measure.batch_size import tokens_in_a_batch
from lobes.modeling import PromptedModel
from lobes.tasks.prompts import Prompt

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "sad", "merry", "it", "is", ":")


def say(what: str, **figures: Any) -> None:
    shown = {k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()}
    print(json.dumps({"what": what, **shown}), flush=True)


def done() -> float:
    """The time, when the device has finished all that it was given."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = done()
    found = function()
    return done() - start, found


def tokenizer_of(vocabulary: int, pair: bool = True) -> transformers.PreTrainedTokenizerFast:
    """One token for each word: w0, w1, … and some that prompts need."""
    words = [*SPECIAL, *(f"w{i}" for i in range(vocabulary - len(SPECIAL)))]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if pair:
        inner.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        eos_token="[SEP]", unk_token="[UNK]", model_max_length=512,
    )  # fmt: skip


def task_of(name: str, sizes: tuple[int, int], typical: float, most: int, seed: int) -> lobes.Task:
    """A task of made-up texts: the numbers of words are log-normal around `typical`."""
    generator = np.random.default_rng(seed)

    def rows(number: int) -> list[dict[str, object]]:
        lengths = np.exp(generator.normal(np.log(typical), 0.45, number)).astype(int)
        return [
            {
                "text": " ".join(f"w{word}" for word in generator.integers(0, 900, n)),
                "label": ("sad", "merry")[i % 2],
            }
            for i, n in enumerate(np.clip(lengths, 2, most))
        ]

    train, validation = map(rows, sizes)
    return lobes.Task(
        name, train=train, validation=validation, text="text", label="label",
        labels=("sad", "merry"),
    )  # fmt: skip


def peak(dtype: torch.dtype, size: int) -> float:
    """The best rate of a square matrix product, in operations per second."""
    a, b = (torch.randn(size, size, device=DEVICE).to(dtype) for _ in range(2))
    a @ b
    return 2 * size**3 / min(timed(lambda: a @ b)[0] for _ in range(20))


def operations(model: nn.Module, lengths: np.ndarray, hidden: int, layers: int) -> float:
    """Those of a forward pass over texts of these lengths: linear maps, and attention."""
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    return float(2 * linear * lengths.sum() + 4 * layers * hidden * (lengths**2).sum())


class Steps:
    """Remembers nothing, and takes the time of each measurement of `lesion_matrix`."""

    def __init__(self) -> None:
        self.seconds = {"importance": 0.0, "predictions": 0.0}
        self.lesions = 0

    def __call__(self, key: str, compute: Callable[[], Any]) -> Any:
        seconds, found = timed(compute)
        kind = key.partition("-")[0]
        self.seconds[kind] += seconds
        if kind == "predictions":
            self.lesions += len(next(iter(found.values())))
        return found


def bert(small: bool) -> lobes.MultiTaskModel:
    shape = {} if not small else {
        "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
        "intermediate_size": 96,
    }  # fmt: skip
    config = transformers.BertConfig(vocab_size=1000, **shape)
    torch.manual_seed(0)
    sizes = ((3000, 872), (3000, 408)) if not small else ((40, 30), (40, 20))
    tasks = [
        task_of("short", sizes[0], 21, 64, 1),  # as SST-2
        task_of("long", sizes[1], 48, 110, 2),  # as MRPC
    ]
    model = lobes.MultiTaskModel(
        transformers.BertModel(config), tokenizer_of(1000), tasks, pooling="mean"
    )
    model.measured = tasks  # type: ignore[assignment]
    return model.to(DEVICE).eval()


def lesions_of_bert(small: bool, peak_rate: float, model: Any, tasks: Any) -> None:
    """The whole of `lesion_matrix`, and how much of the device it used."""
    controls = 100 if not small else 2
    config = model.config
    _, layout = timed(lambda: lobes.find_heads(model))
    lobes.evaluate(model, tasks, [layout.all_heads()], precision="bf16", layout=layout)  # warm-up
    lobes.head_importance(model, tasks[0], precision="bf16", max_examples=64)
    steps = Steps()
    seconds, matrix = timed(
        lambda: lobes.lesion_matrix(
            model, tasks, fractions=(0.2, 0.3, 0.4), controls=controls, random=0,
            precision="bf16", remember=steps,
        )
    )  # fmt: skip

    def work(split: str) -> float:
        lengths = [model.encode(t.name, getattr(t, split)).lengths for t in tasks]
        return operations(
            model.encoder, np.concatenate(lengths), config.hidden_size, config.num_hidden_layers
        )

    evaluated, estimated = work("validation") * steps.lesions, 2 * work("train")
    say(
        "lesion matrix", seconds=seconds, lesions=steps.lesions, of=len(matrix.lesions),
        evaluation_s=steps.seconds["predictions"], importance_s=steps.seconds["importance"],
        evaluation_share=evaluated / steps.seconds["predictions"] / peak_rate,
        importance_share=estimated / steps.seconds["importance"] / peak_rate,
        share=(evaluated + estimated) / seconds / peak_rate,
        tokens_per_batch=tokens_in_a_batch(model, None),
        tokens_with_gradients=tokens_in_a_batch(model, None, gradients=True),
    )  # fmt: skip
    if DEVICE.type == "cuda":
        say("memory", peak_gb=torch.cuda.max_memory_allocated() / 1e9)
    sets = [lobes.HeadSet(), *(lesion.heads for lesion in matrix.lesions[1:32])]
    for number in (16384, 32768, 65536, 131072) if not small else (500, 1000):
        seconds, _ = timed(
            lambda number=number: lobes.evaluate(
                model, tasks, sets, precision="bf16", layout=layout, tokens_per_batch=number
            )
        )
        share = work("validation") * len(sets) / seconds / peak_rate
        say("evaluation by tokens in a batch", tokens=number, seconds=seconds, share=share)


def agreement(model: Any, tasks: Any) -> None:
    """Numbers on this device against those on the CPU, in fp32, with several lesions in a run."""
    few = [
        t.replace(train=t.train.select(np.arange(16)), validation=t.validation.select(np.arange(9)))
        for t in tasks
    ]
    layout = lobes.find_heads(model)
    sets = [lobes.HeadSet(), *(lobes.HeadSet([(s, s % 2), (0, 0)]) for s in (0, 1, 2))]
    here = lobes.evaluate(model, few, sets), lobes.head_importance(model, few[0])
    model.cpu()
    there = lobes.evaluate(model, few, sets), lobes.head_importance(model, few[0])
    model.to(DEVICE)
    logits = max(np.abs(here[0].logits[t.name] - there[0].logits[t.name]).max() for t in few)
    ratio = np.abs(here[1].values / there[1].values - 1).max()
    say("fp32 against the CPU", logits=float(logits), importance=float(ratio), heads=layout.total)


def profiled(what: str, function: Callable[[], Any]) -> None:
    """The kernels that took longest, the waits of the host, and where the host's time went."""
    from torch.profiler import ProfilerActivity, profile

    function()
    host = cProfile.Profile()
    seconds, _ = timed(lambda: host.runcall(function))
    rows = pstats.Stats(host).stats.items()  # type: ignore[attr-defined]
    top = sorted(rows, key=lambda row: -row[1][2])[:14]
    say(
        f"host: {what}", seconds=seconds,
        own_ms={f"{f.rpartition('/')[2]}:{line}:{name}": round(1000 * row[2])
                for (f, line, name), row in top},
    )  # fmt: skip
    if DEVICE.type != "cuda":
        return
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        seconds, _ = timed(function)
    events = found.key_averages()
    kernels = [e for e in events if e.device_type == torch.autograd.DeviceType.CUDA]
    total = sum(e.self_device_time_total for e in kernels)
    say(
        f"device: {what}", busy_ms=total / 1000, wall_ms=1000 * seconds,
        kernels={e.key[:70]: [e.count, round(e.self_device_time_total / 1000, 1)]
                 for e in sorted(kernels, key=lambda e: -e.self_device_time_total)[:14]},
    )  # fmt: skip
    waits = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
    say(
        f"waits: {what}",
        **{e.key: [e.count, round(e.self_cpu_time_total / 1000, 1)]
           for e in events if e.key in waits or e.key.startswith(("cudaMemcpy", "aten::item"))},
    )  # fmt: skip


def profile_bert(model: Any, tasks: Any) -> None:
    layout = lobes.find_heads(model)
    generator = np.random.default_rng(0)
    sets = [layout.random(layout.total // 3, generator) for _ in range(8)]
    profiled(
        "evaluation of 8 lesions",
        lambda: lobes.evaluate(model, tasks, sets, precision="bf16", layout=layout),
    )
    profiled(
        "importance",
        lambda: lobes.head_importance(model, tasks[0], precision="bf16", layout=layout),
    )


def llama(small: bool, peak_rate: float) -> None:
    """Discovery, one lesion over 1,000 prompts, and memory, of a Llama loaded in bf16."""
    shape = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
    shape |= {"num_attention_heads": 32, "vocab_size": 32000}
    if small:
        shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
        shape |= {"num_attention_heads": 4, "vocab_size": 1000}
    config = transformers.LlamaConfig(**shape)
    with DEVICE:
        seconds, model = timed(
            lambda: transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        )
    model.eval()
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    say("llama made", seconds=seconds, weights_gb=weights / 1e9)
    _start_of_peak()
    seconds, layout = timed(lambda: lobes.find_heads(model))
    say("llama discovery", seconds=seconds, heads=layout.total, peak_of_weights=_peak_of(weights))
    prompts = 1000 if not small else 20
    task = task_of("mood", (4, prompts), 90, 300, 3)
    tokenizer = tokenizer_of(shape["vocab_size"], pair=False)
    prompts_of = {"mood": Prompt("{text} it is :", ["sad", "merry"])}
    prompted = PromptedModel(model, tokenizer, [task], prompts_of)
    lengths = prompted.encode("mood", task.validation).lengths
    sets = [layout.random(layout.total // 10, np.random.default_rng(0))]
    lobes.evaluate(prompted, _first(task, 50), sets, precision="bf16")  # warm-up, and discovery
    _start_of_peak()
    seconds, _ = timed(lambda: lobes.evaluate(prompted, task, sets, precision="bf16"))
    flops = operations(model.model, lengths, shape["hidden_size"], shape["num_hidden_layers"])
    say(
        "llama, one lesion", prompts=prompts, tokens=int(lengths.sum()), seconds=seconds,
        share=flops / seconds / peak_rate, peak_of_weights=_peak_of(weights),
        tokens_per_batch=tokens_in_a_batch(prompted, None),
    )  # fmt: skip
    _start_of_peak()
    seconds, _ = timed(
        lambda: lobes.head_importance(
            prompted, task, split="validation", max_examples=100, precision="bf16"
        )
    )
    say("llama, importance of 100 prompts", seconds=seconds, peak_of_weights=_peak_of(weights))


def _first(task: lobes.Task, number: int) -> lobes.Task:
    number = min(number, len(task.validation))
    return task.replace(validation=task.validation.select(np.arange(number)))


def _start_of_peak() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak_of(weights: int) -> float:
    return torch.cuda.max_memory_allocated() / weights if DEVICE.type == "cuda" else 0.0


def spread(small: bool) -> None:
    """All commands' functions on a model half of which is on the CPU, half on the GPU."""
    import accelerate

    model: Any = bert(True)
    tasks = model.measured
    model.cpu()
    sets = [lobes.HeadSet(), lobes.HeadSet([(0, 1), (2, 0)])]

    def measured() -> Sequence[np.ndarray]:
        return [
            lobes.evaluate(model, tasks, sets).logits["short"],
            lobes.evaluate(model, tasks, sets, value="mean").logits["short"],
            lobes.evaluate(model, tasks, sets, value="resample").logits["short"],
            lobes.head_importance(model, tasks[0]).values,
            lobes.head_importance(model, tasks[0], method="ablation").values,
            lobes.head_importance(model, tasks[0], method="integrated_gradients").values,
            lobes.lesion_matrix(model, tasks, fractions=[0.3], controls=2).scores(0.3),
            lobes.evaluate(model, tasks, sets, precision="bf16").logits["short"],
        ]

    expected = measured()
    other = "cuda:0" if DEVICE.type == "cuda" else "cpu"
    devices = {"embeddings": "cpu", "encoder.layer.0": "cpu", "encoder.layer.1": other}
    devices |= {"encoder.layer.2": other, "pooler": "cpu"}
    model.encoder = accelerate.dispatch_model(
        model.encoder, devices, main_device="cpu", force_hooks=True
    )
    found = measured()
    differences = [float(np.nanmax(np.abs(a - b))) for a, b in zip(found, expected, strict=True)]
    smaller = lobes.prune(model.encoder, sets[1])
    say("spread over devices", differences=[f"{d:.1e}" for d in differences],
        devices=sorted({str(p.device) for p in model.parameters()}),
        pruned=sum(p.numel() for p in smaller.parameters()))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="tiny shapes, for a try on a CPU")
    parser.add_argument("--only", nargs="+", help="some of: bert profile agreement llama spread")
    given = parser.parse_args()
    transformers.logging.set_verbosity_error()
    name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "CPU"
    rate = peak(torch.bfloat16, 8192 if not given.small else 256)
    say(
        "device", name=name, torch=torch.__version__, transformers=transformers.__version__,
        bf16_tflops=rate / 1e12,
        fp32_tflops=peak(torch.float32, 4096 if not given.small else 256) / 1e12,
    )  # fmt: skip
    model: Any = None

    def with_bert(function: Callable[..., None], *arguments: Any) -> None:
        nonlocal model
        model = model if model is not None else bert(given.small)
        function(*arguments, model, model.measured)

    sections: dict[str, Callable[[], None]] = {
        "bert": lambda: with_bert(lesions_of_bert, given.small, rate),
        "profile": lambda: with_bert(profile_bert),
        "agreement": lambda: with_bert(agreement),
        "spread": lambda: spread(given.small),
        "llama": lambda: llama(given.small, rate),
    }
    start = time.perf_counter()
    for section, run in sections.items():
        if given.only and section not in given.only:
            continue
        try:
            run()
        except Exception:
            say(f"{section} failed", error=traceback.format_exc()[-3000:])
        say("time", after=section, seconds=time.perf_counter() - start)


if __name__ == "__main__":
    main()
