"""Task files of lm-evaluation-harness over local data, and a tiny Llama with a BPE tokenizer."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from lobes.tasks.harness import silent, task_manager
from tiny_tasks import FILLER, MOODS, TOPICS

WORDS = (*sum((*MOODS.values(), *TOPICS.values()), ()), *FILLER)
POSITIONS = 97

# name: (what the file says beside the data, and which splits there are)
TASKS = {
    "pick": (
        """
output_type: multiple_choice
training_split: train
validation_split: validation
fewshot_split: train
doc_to_text: "{{start}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{right}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
""",
        {"train": 23, "validation": 19},
    ),
    "mood": (
        """
output_type: multiple_choice
training_split: train
test_split: validation
doc_to_text: "{{start}} was"
doc_to_choice: [awful, "so bright"]
doc_to_target: "{{mood}}"
num_fewshot: 2
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
""",
        {"train": 17, "validation": 29},
    ),
    "which": (
        """
output_type: multiple_choice
validation_split: validation
doc_to_text: "{{mood}}"
doc_to_choice: "{{[start + ' the ', start + ' one ']}}"
doc_to_target: "{{end}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
""",
        {"validation": 31},
    ),
    "finish": (
        """
output_type: loglikelihood
test_split: validation
doc_to_text: "{{start}}"
doc_to_target: " {{end}}"
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}
""",
        {"validation": 43},
    ),
    "say": (
        """
output_type: generate_until
generation_kwargs: {until: ["with"], max_gen_toks: 3}
validation_split: validation
doc_to_text: "{{start}}"
doc_to_target: "{{end}}"
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
""",
        {"validation": 5},
    ),
    "flow": (
        """
output_type: loglikelihood_rolling
validation_split: validation
doc_to_text: ""
doc_to_target: "{{start}}"
metric_list:
  - {metric: word_perplexity}
""",
        {"validation": 5},
    ),
}
GROUP = "group: both\ntask: [pick, mood]\n"


def write_tasks(folder: Path, *, data: str | None = None) -> Path:
    """Write every task's file and data; `data` is the folder of the data as the files name it."""
    generator = np.random.default_rng(7)
    for name, (text, splits) in TASKS.items():
        for split, number in splits.items():
            rows = [json.dumps(_row(generator)) for _ in range(number)]
            (folder / f"{name}.{split}.jsonl").write_text("\n".join(rows), encoding="utf-8")
        files = {split: f"{data or folder}/{name}.{split}.jsonl" for split in splits}
        about = {"data_files": files, "cache_dir": str(folder / "cache")}
        head = f"task: {name}\ndataset_path: json\ndataset_kwargs: {json.dumps(about)}\n"
        (folder / f"{name}.yaml").write_text(head + text.lstrip(), encoding="utf-8")
    (folder / "both.yaml").write_text(GROUP, encoding="utf-8")
    return folder


def _row(generator: np.random.Generator) -> dict[str, object]:
    def some(least: int, most: int) -> str:
        return " ".join(generator.choice(WORDS, int(generator.integers(least, most + 1))))

    choices = [some(1, 3) for _ in range(int(generator.integers(2, 6)))]
    return {
        "start": some(2, 11),
        "end": some(1, 1),
        "choices": choices,
        "right": int(generator.integers(len(choices))),
        "mood": int(generator.integers(2)),
    }


def bpe_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that puts a token before every text."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=311,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([" ".join((*WORDS, *WORDS))] * 3, trainer)
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def tiny_llama(vocabulary: int) -> transformers.LlamaForCausalLM:
    """A Llama whose weights are large enough to have opinions."""
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=24,
        intermediate_size=29,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        bos_token_id=0,
        eos_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = transformers.LlamaForCausalLM(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model.eval()


def measured_by_harness(
    llama: Any, tokenizer: Any, folder: Path, task: str, **settings: Any
) -> dict[str, Any]:
    """What `lm_eval.simple_evaluate` says of a task."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    with silent():
        found: dict[str, Any] = lm_eval.simple_evaluate(
            HFLM(pretrained=llama, tokenizer=tokenizer, batch_size=3),
            tasks=[task],
            task_manager=task_manager([task], folder),
            bootstrap_iters=0,
            **settings,
        )
    return found


STUDY = """
model = "model"
output = "{output}"
precision = "fp32"
tasks = [{tasks}]

[training]
enabled = false

[iap]
fractions = [0.25]
controls = 3
importance_examples = 11
resamples = 50
"""


def write_harness_study(
    here: Path, llama: Any, tokenizer: Any, folder: Path, tasks: dict[str, str], more: str = ""
) -> Path:
    """Write a study over tasks of the harness, {name there: its other settings}, and its model.

    `more` are further keys of the table `[iap]`.
    """
    llama.save_pretrained(here / "model")
    tokenizer.save_pretrained(here / "model")
    tables = (
        f'{{ lm_eval = "{name}", include = "{folder}", {settings} }}'
        for name, settings in tasks.items()
    )
    text = STUDY.format(output=here / "run", tasks=", ".join(tables)) + more
    path = here / "study.toml"
    path.write_text(text, encoding="utf-8")
    return path
