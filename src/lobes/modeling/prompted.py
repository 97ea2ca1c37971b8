"""Prompted tasks: a causal language model as it is, asked with words and scored by likelihood.

The words w¹, w², … of a task's labels, each one or more tokens, are scored after the prompt x:

    z_l = log p(wˡ | x) = Σ_j log p(wˡ_j | x, wˡ_1, …, wˡ_{j-1})

These are the task's logits. So the largest is the most likely word, and the cross-entropy of the
logits is the loss on the label words, -log( p(wʸ | x) / Σ_l p(wˡ | x) ).

One pass scores all words of one token, since the model's answer to the prompt has all of them.
Words of more tokens are read too, all but their last token, in as few copies of the prompt as
hold them all: "very good" and "very bad" share the copy that ends in "very".
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lobes.data.batching import Encoded, check_no_empty, padding_id, ragged
from lobes.errors import ConfigError
from lobes.modeling.causal import check_causal, load_causal, logits_at
from lobes.modeling.safe_loading import opening, quiet
from lobes.modeling.task_model import (
    Readable,
    TaskModel,
    TaskOutput,
    at_least_float32,
    check_texts,
    specs_of,
)
from lobes.tasks.prompts import Prompt
from lobes.tasks.task import TaskSpec

Tokens = tuple[int, ...]

_CHUNK = 8192


@dataclass(frozen=True, slots=True)
class _Reading:
    """What is read after a prompt so that all of some words can be scored.

    Copy c of the prompt goes on with `copies[c]`; `words` gives, for each word to score, a copy
    that goes on with all of its tokens but the last.
    """

    copies: tuple[Tokens, ...]
    words: Mapping[Tokens, int]

    @staticmethod
    def of(words: Iterable[Tokens]) -> "_Reading":
        """Return the reading that needs the fewest copies of the prompts."""
        wanted = list(words)
        starts = sorted({word[:-1] for word in wanted}, key=len, reverse=True)
        copies: list[Tokens] = []
        for start in starts:
            if not any(copy[: len(start)] == start for copy in copies):
                copies.append(start)
        found = {
            word: next(c for c, copy in enumerate(copies) if copy[: len(word) - 1] == word[:-1])
            for word in wanted
        }
        return _Reading(tuple(copies), found)

    @property
    def longest(self) -> int:
        """The number of tokens of the longest copy after the prompt."""
        return max(map(len, self.copies))


class PromptedModel(TaskModel):
    """A causal language model and its tokenizer, with a prompt for each of several tasks.

    `logits` are the log-likelihoods of each label's words after the prompt, from the model as it
    is; nothing is trained. `prompts` has one `Prompt` for each task's name. Prompts and words
    take at most `max_length` tokens, by default what tokenizer and model can take, at most 512:
    of longer ones the texts are cut at their end, the longest first, so that the template stays
    whole.

    Raises `ConfigError` for prompts that do not fit the tasks or the tokenizer, and `ModelError`
    for a model that is no causal language model.
    """

    model: Any

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        tasks: Sequence[TaskSpec],
        prompts: Mapping[str, Prompt],
        *,
        max_length: int | None = None,
    ) -> None:
        super().__init__()
        self.tasks = specs_of(tasks)
        check_texts(self.tasks, "prompts are for texts")
        self.prompts = _checked_prompts(self.tasks, prompts)
        self.model = model
        self.config = model.config
        self._read_with(model, tokenizer, None, max_length)
        check_causal(model)
        self._beginning = _beginning(self.tokenizer)
        self.words = {
            spec.name: _word_tokens(self.tokenizer, spec, self.prompts[spec.name])
            for spec in self.tasks
        }
        for spec in self.tasks:
            self._check_template(spec)

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | os.PathLike[str],
        tasks: Sequence[TaskSpec],
        prompts: Mapping[str, Prompt],
        *,
        max_length: int | None = None,
        trust_remote_code: bool = False,
        dtype: torch.dtype = torch.float32,
        device_map: Any = None,
    ) -> "PromptedModel":
        """Load a causal language model and its tokenizer from a folder or the hub.

        `device_map` is that of transformers: "auto" spreads the model over all GPUs. Raises
        `ModelError` where there is none, or its checkpoint lacks weights.
        """
        model, tokenizer = load_causal(
            name_or_folder,
            trust_remote_code=trust_remote_code,
            dtype=dtype,
            device_map=device_map,
        )
        with opening(name_or_folder):
            return cls(model, tokenizer, tasks, prompts, max_length=max_length).eval()

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"],
        attention_mask: Int[Tensor, "batch length"] | None = None,
        token_type_ids: Int[Tensor, "batch length"] | None = None,
    ) -> TaskOutput:
        """Return every task's logits for prompts, {name: [batch, labels]}, padded on any side."""
        return TaskOutput(logits=self._scores(self.tasks, input_ids, attention_mask))

    def task_logits(self, task: str, **inputs: Tensor | None) -> Float[Tensor, "batch labels"]:
        """Return one task's logits without reading the other tasks' words."""
        ids = inputs["input_ids"]
        assert ids is not None
        return self._scores([self.spec(task)], ids, inputs.get("attention_mask"))[task]

    def copies(self, task: str, inputs: Mapping[str, Tensor | None]) -> int:
        """Return how many sequences the model reads for each example, one after the other."""
        return len(self._reading([self.spec(task)]).copies)

    def real(
        self, task: str, inputs: Mapping[str, Tensor | None]
    ) -> Bool[Tensor, "batch positions"]:
        """Return the mask of each prompt and of the positions where its words are read."""
        ids = inputs["input_ids"]
        assert ids is not None
        longest = self._reading([self.spec(task)]).longest
        lengths = _lengths(ids, inputs.get("attention_mask"))
        return _places(ids, longest) < lengths[:, None] + longest

    def encode(self, task: str, examples: Readable) -> Encoded:
        """Encode the prompts of a task's examples, without the words."""
        texts = examples.texts
        spec = self.spec(task)
        prompt = self.prompts[task]
        room = self._room(task)
        filled = [dict(zip(spec.text, example, strict=True)) for example in texts]
        rows: list[list[int]] = []
        for start in range(0, len(filled), _CHUNK):
            chunk = filled[start : start + _CHUNK]
            for example, ids in zip(chunk, self._ids(map(prompt.fill, chunk)), strict=True):
                fitted = ids if len(ids) <= room else self._fitted(spec, prompt, example, room)
                rows.append([*self._beginning, *fitted])
        encoded = ragged(rows, padding_id(self.tokenizer))
        check_no_empty(encoded, texts)
        return encoded

    def _room(self, task: str) -> int:
        """How many tokens a task's prompts may have, so that its words fit behind them."""
        longest = max(map(len, self.words[task]))
        return self.max_length - len(self._beginning) - longest + 1

    def _check_template(self, spec: TaskSpec) -> None:
        """Raise `ConfigError` where the template leaves no room for a text."""
        prompt, room = self.prompts[spec.name], self._room(spec.name)
        (bare,) = self._ids([prompt.fill(dict.fromkeys(spec.text, ""))])
        if len(bare) > room or room < 1:
            raise ConfigError(
                f"Task {spec.name!r}: the template takes {len(bare)} tokens without a text, but "
                f"max_length = {self.max_length} leaves {max(room, 0)}: shorten it, or give a "
                f"larger max_length."
            )

    def _fitted(
        self, spec: TaskSpec, prompt: Prompt, texts: Mapping[str, str], room: int
    ) -> list[int]:
        """The prompt's tokens, with the longest text cut until they are at most `room`."""
        cut = dict(texts)
        # Repeatedly, since a cut text may be split into other tokens than the whole one.
        while True:
            (ids,) = self._ids([prompt.fill(cut)])
            if len(ids) <= room:
                return ids
            own = dict(zip(prompt.columns, self._ids(cut[c] for c in prompt.columns), strict=True))
            longest = max(own, key=lambda column: (len(own[column]), len(cut[column])))
            cut[longest] = self._cut(cut[longest], len(own[longest]), len(ids) - room)

    def _cut(self, text: str, tokens: int, less: int) -> str:
        """The beginning of a text of so many tokens that makes about that many less."""
        if less >= tokens:
            return ""
        if not self.tokenizer.is_fast:
            return text[: len(text) * (tokens - less) // tokens]
        made = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return text[: min(made["offset_mapping"][tokens - less - 1][1], len(text) - 1)]

    def _ids(self, texts: Iterable[str]) -> list[list[int]]:
        return _plain_ids(self.tokenizer, texts)

    def _reading(self, specs: Sequence[TaskSpec]) -> _Reading:
        return _Reading.of(word for spec in specs for word in self.words[spec.name])

    def _scores(
        self,
        specs: Sequence[TaskSpec],
        input_ids: Int[Tensor, "batch length"],
        attention_mask: Int[Tensor, "batch length"] | None,
    ) -> dict[str, Float[Tensor, "batch _"]]:
        reading = self._reading(specs)
        answers = self._answers(input_ids, attention_mask, reading)

        def score(word: Tokens) -> Float[Tensor, " batch"]:
            """A word's log-likelihood, read off a copy that goes on with its tokens."""
            copy = answers[:, reading.words[word]]
            return torch.stack([copy[:, step, token] for step, token in enumerate(word)]).sum(0)

        return {
            spec.name: torch.stack([score(word) for word in self.words[spec.name]], 1)
            for spec in specs
        }

    def _answers(
        self,
        input_ids: Int[Tensor, "batch length"],
        attention_mask: Int[Tensor, "batch length"] | None,
        reading: _Reading,
    ) -> Float[Tensor, "batch copies steps vocabulary"]:
        """log p of every token after the prompt (step 0), and after each token of its copies.

        Beyond a copy's own tokens the steps mean nothing.
        """
        batch, n, longest = len(input_ids), len(reading.copies), reading.longest
        lengths = _lengths(input_ids, attention_mask)
        ids, mask = _joined(_to_the_left(input_ids, attention_mask), lengths, reading)
        places = lengths.repeat_interleave(n)[:, None] - 1 + _places(ids[:, :0], longest + 1)
        logits, kept = logits_at(self.model, places, ids, mask)
        rows = torch.arange(len(ids), device=ids.device)[:, None]
        chosen = at_least_float32(logits[rows, torch.searchsorted(kept, places)])
        return chosen.log_softmax(-1).unflatten(0, (batch, n))


def _lengths(
    ids: Int[Tensor, "batch length"], mask: Int[Tensor, "batch length"] | None
) -> Int[Tensor, " batch"]:
    if mask is None:
        return torch.full_like(ids[:, 0], ids.shape[1])
    return (mask != 0).sum(1).clamp(min=1)


def _places(ids: Int[Tensor, "batch length"], more: int) -> Int[Tensor, " positions"]:
    return torch.arange(ids.shape[1] + more, device=ids.device)


def _to_the_left(
    ids: Int[Tensor, "batch length"], mask: Int[Tensor, "batch length"] | None
) -> Int[Tensor, "batch length"]:
    """The ids with the padding of each row moved behind its real tokens."""
    if mask is None:
        return ids
    # a stable sort by "is padding" keeps the order of the real tokens
    return ids.gather(1, (mask == 0).to(torch.int8).argsort(dim=1, stable=True))


def _joined(
    ids: Int[Tensor, "batch length"], lengths: Int[Tensor, " batch"], reading: _Reading
) -> tuple[Int[Tensor, "rows longer"], Int[Tensor, "rows longer"]]:
    """Each prompt's copies, one after the other, with what they go on with; and their mask."""
    batch, n, longest = len(ids), len(reading.copies), reading.longest
    more = torch.tensor([[*copy, *[0] * (longest - len(copy))] for copy in reading.copies])
    sizes = torch.tensor([len(copy) for copy in reading.copies], device=ids.device)
    ends = lengths.repeat_interleave(n)[:, None]
    longer = nn.functional.pad(ids, (0, longest)).repeat_interleave(n, 0)
    steps = torch.arange(longest, device=ids.device)
    longer = longer.scatter(1, ends + steps, more.to(ids).reshape(n, longest).repeat(batch, 1))
    mask = _places(ids, longest) < ends + sizes.repeat(batch)[:, None]
    return longer, mask.to(ids.dtype)


def _checked_prompts(specs: Sequence[TaskSpec], prompts: Mapping[str, Prompt]) -> dict[str, Prompt]:
    names = [spec.name for spec in specs]
    for name in prompts:
        if name not in names:
            raise ConfigError(
                f"There is a prompt for {name!r}, but no such task: the tasks are "
                f"{', '.join(map(repr, names))}."
            )
    for spec in specs:
        if spec.name not in prompts:
            raise ConfigError(
                f"Task {spec.name!r} has no prompt: expected one for each task, such as "
                f"Prompt('Review: {{{spec.text[0]}}}\\nSentiment:', ['negative', 'positive'])."
            )
    return {spec.name: prompts[spec.name].check(spec) for spec in specs}


def _plain_ids(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> list[list[int]]:
    """Token ids without special tokens, uncut, and without a warning that they are many."""
    with quiet():
        return tokenizer(list(texts), add_special_tokens=False)["input_ids"]


def _beginning(tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """The special tokens that the tokenizer puts before a text."""
    whole, (bare,) = tokenizer("a")["input_ids"], _plain_ids(tokenizer, ["a"])
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return tuple(whole[:start])
    return ()


def _word_tokens(
    tokenizer: PreTrainedTokenizerBase, spec: TaskSpec, prompt: Prompt
) -> tuple[Tokens, ...]:
    """Each word's tokens as they follow the prompt; `ConfigError` where they cannot be told."""
    # With a text in it, as in use: many tokenizers join a space with the word after it.
    before = prompt.fill(dict.fromkeys(prompt.columns, "a"))
    (start, *whole) = _plain_ids(
        tokenizer, [before, *(before + prompt.separator + word for word in prompt.words)]
    )
    words = [tuple(ids[len(start) :]) for ids in whole]
    for word, ids, tokens in zip(prompt.words, whole, words, strict=True):
        if ids[: len(start)] != start or not tokens:
            raise ConfigError(
                f"Task {spec.name!r}: the tokenizer joins the end of the template "
                f"{prompt.template!r} and the word {word!r} into other tokens: end the template "
                f"without a space."
            )
        if tokenizer.unk_token_id in tokens:
            raise ConfigError(
                f"Task {spec.name!r}: the tokenizer does not know the word {word!r}: choose one "
                f"that it does."
            )
    for word, tokens in zip(prompt.words, words, strict=True):
        for other, longer in zip(prompt.words, words, strict=True):
            if word is not other and longer[: len(tokens)] == tokens:
                raise ConfigError(
                    f"Task {spec.name!r}: the tokens of the word {other!r} begin with all those of "
                    f"{word!r}, so that it can never be the likelier of the two: choose other "
                    f"words."
                )
    return tuple(words)
