"""Generation under ablation: each row writes what it writes alone under its own heads."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from lobes.ablation import ablate
from lobes.errors import ConfigError, HeadError
from lobes.heads import HeadSet
from tiny_models import VOCABULARY, tiny_model
from tiny_tasks import tiny_tokenizer

SETS = [HeadSet.parse(text) for text in ("0:1 1:0,2", "0:0,2 1:1", "")]
DECODER = [HeadSet.parse(text) for text in ("2:0 3:1,2", "2:1 3:0", "")]
LENGTHS = (3, 5, 2)  # of the prompts, which are padded on the left
NEW = 7
LESION = SETS[0]


@cache
def writer(name: str) -> Any:
    """A tiny model that generates text, whose heads decide what it writes."""
    kind = "AutoModelForSeq2SeqLM" if name in ("t5", "bart") else "AutoModelForCausalLM"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3 if name == "bart" else 0)
        model = getattr(transformers, kind).from_config(tiny_model(name).config).eval()
        for path, parameter in model.named_parameters():
            nn.init.normal_(
                parameter, float(name == "bart" and "norm" in path and "weight" in path), std=0.3
            )
    model.generation_config.forced_eos_token_id = None
    model.generation_config.eos_token_id = None  # each row goes on to the end
    model.generation_config.pad_token_id = 0
    return model


def prompts(name: str) -> dict[str, Tensor]:
    """Three prompts of other lengths; the encoders' are padded on the right."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.int64)
    for row, length in enumerate(LENGTHS):
        part = slice(length) if name in ("t5", "bart") else slice(max(LENGTHS) - length, None)
        ids[row, part] = torch.randint(4, VOCABULARY, (length,), generator=generator)
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


def written(model: Any, inputs: dict[str, Tensor], **settings: Any) -> Tensor:
    """The tokens that are generated, without the prompt."""
    torch.manual_seed(5)
    found = model.generate(**inputs, max_new_tokens=NEW, **settings)
    return found[:, -NEW:]


def alone(inputs: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """One of the prompts without its padding."""
    kept = inputs["attention_mask"][row].bool()
    return {name: value[row : row + 1, kept] for name, value in inputs.items()}


SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "without cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
}


@pytest.mark.parametrize("search", list(SEARCHES))
@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "bart"])
def test_each_row_writes_what_it_writes_alone_under_its_heads(name: str, search: str) -> None:
    model, inputs, settings = writer(name), prompts(name), SEARCHES[search]
    sets = [heads | DECODER[row] for row, heads in enumerate(SETS)] if name == "bart" else SETS
    each = settings.get("num_return_sequences", 1)
    with ablate(model, sets):
        together = written(model, inputs, **settings)
    for row, heads in enumerate(sets):
        with ablate(model, heads):
            own = written(model, alone(inputs, row), **settings)
        assert torch.equal(together[row * each : (row + 1) * each], own)
    assert not torch.equal(together, written(model, inputs, **settings)), "no head matters"
    assert not {"generate", "_expand_inputs_for_generation"} & set(model.__dict__)


def test_samples_of_an_example_share_its_set() -> None:
    model, inputs = writer("gpt2"), prompts("gpt2")
    settings = {"do_sample": True, "num_return_sequences": 2, "top_k": 5}
    with ablate(model, [LESION] * 3):
        several = written(model, inputs, **settings)
    with ablate(model, LESION):
        assert torch.equal(written(model, inputs, **settings), several)
    assert not torch.equal(written(model, inputs, **settings), several)


def test_an_assistant_changes_nothing_and_keeps_its_own_heads() -> None:
    model, assistant = writer("llama"), tiny_model("llama", seed=3)
    prompt = alone(prompts("llama"), 1)
    helper = transformers.LlamaForCausalLM(assistant.config).eval()
    with ablate(model, [LESION]):
        own = written(model, prompt)
        assert torch.equal(written(model, prompt, assistant_model=helper), own)
        assert torch.equal(written(model, prompt, prompt_lookup_num_tokens=2), own)
    assert not torch.equal(written(model, prompt), own)


def test_without_a_prompt_there_is_one_example() -> None:
    model = writer("gpt2")
    model.generation_config.bos_token_id = 7
    settings = {"num_return_sequences": 2, "num_beams": 2, "max_new_tokens": 3}
    with ablate(model, SETS[:2]), pytest.raises(HeadError, match=r"2 head sets .* of 1 examples"):
        model.generate(**settings)
    with ablate(model, [LESION]):
        own = model.generate(**settings)
    with ablate(model, LESION):
        assert torch.equal(model.generate(**settings), own)


class Guided(transformers.GPT2LMHeadModel):
    """Runs each batch twice at once, one copy after the other, as MusicGen does."""

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> Any:
        prepared = super().prepare_inputs_for_generation(*args, **kwargs)
        prepared["input_ids"] = prepared["input_ids"].repeat(2, 1)
        return prepared

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        if not self.training:
            output.logits = output.logits.chunk(2)[0]
        return output


class InParts(transformers.GPT2LMHeadModel):
    """Generates again for the last of its examples, as Whisper does."""

    def generate(self, inputs: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        super().generate(inputs, **kwargs)
        return super().generate(inputs[1:].repeat(2, 1), **kwargs)


@pytest.mark.parametrize("kind", [Guided, InParts])
def test_rows_in_another_order_are_refused(kind: Any) -> None:
    model = kind(writer("gpt2").config).eval()
    ids = torch.randint(4, VOCABULARY, (2, 3))
    settings = {"max_new_tokens": 3, "use_cache": False, "pad_token_id": 0}
    with ablate(model, SETS[:2]), pytest.raises(HeadError, match="does not run in their order"):
        model.generate(ids, **settings)
    with ablate(model, LESION):
        model.generate(ids, **settings)


def test_pipelines_write_what_generate_writes() -> None:
    model, tokenizer = writer("gpt2"), tiny_tokenizer()
    tokenizer.padding_side = "left"
    texts = ["good film", "a bad and dull story", "the ball"]
    pipe = transformers.pipeline("text-generation", model=model, tokenizer=tokenizer)
    settings = {"max_new_tokens": NEW, "return_tensors": True, "do_sample": False}

    def wrote(texts: list[str], **more: Any) -> list[list[int]]:
        return [found[0]["generated_token_ids"][-NEW:] for found in pipe(texts, **settings, **more)]

    with ablate(model, SETS):
        together = wrote(texts, batch_size=3)
        with pytest.raises(HeadError, match="3 head sets were given for a batch of 1 examples"):
            wrote(texts)
        with pytest.raises(HeadError, match="3 head sets were given for a batch of 2 examples"):
            wrote([*texts, *texts[:2]], batch_size=3)
    for text, heads, found in zip(texts, SETS, together, strict=True):
        with ablate(model, heads):
            assert wrote([text]) == [found]
    assert wrote(texts) != together


def test_a_thread_that_streams_enters_its_own_block() -> None:
    """Text that a thread generates for another is refused outside of the block, and never wrong."""
    model, prompt = writer("gpt2"), alone(prompts("gpt2"), 1)
    streamer = transformers.TextIteratorStreamer(tiny_tokenizer(), timeout=60)

    def inside() -> Tensor:
        with ablate(model, LESION):
            return written(model, prompt, streamer=streamer)

    with ThreadPoolExecutor(1) as pool:
        with ablate(model, LESION):
            own = written(model, prompt)
            refused = pool.submit(written, model, prompt, streamer=streamer)
            with pytest.raises(ConfigError, match="acts in the thread that entered it only"):
                refused.result()
        found = pool.submit(inside)
        assert "".join(streamer)
        assert torch.equal(found.result(), own)
