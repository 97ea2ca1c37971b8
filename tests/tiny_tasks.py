"""A tokenizer and tasks small enough for tests, with a signal that a tiny model can learn.

A sentence is a handful of filler words with one mood word and one topic word among them. `mood`
(2 classes) and `topic` (3 classes) are two tasks over the same sentences, `warmth` is a regression
on the same words, `marks` are any number of 3 labels (good, sea, sky) of one sentence,
`same-topic` asks whether two sentences have the same topic.
"""

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lobes.tasks.task import Task

SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")
MOODS = {"bad": ("awful", "dull", "sad"), "good": ("bright", "fine", "merry")}
TOPICS = {
    "food": ("bread", "soup", "salt"),
    "sea": ("boat", "wave", "gull"),
    "sky": ("cloud", "star", "wind"),
}
MARKS = ("good", "sea", "sky")
FILLER = ("a", "the", "of", "and", "was", "with", "that", "then", "by", "so", "it", "one")
WORDS = (*SPECIAL, *sum((*MOODS.values(), *TOPICS.values()), ()), *FILLER)
VOCABULARY = len(WORDS)


def tiny_tokenizer(*, pad_token: str | None = "[PAD]") -> PreTrainedTokenizerFast:
    """A word-level tokenizer: `[CLS] first [SEP] second [SEP]`, ids below `VOCABULARY` (31)."""
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=pad_token,
        cls_token="[CLS]",
        sep_token="[SEP]",
        eos_token="[SEP]",
        unk_token="[UNK]",
        model_max_length=37,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def _rows(number: int, generator: np.random.Generator) -> list[dict[str, object]]:
    """Sentences of 3 to 13 words with the labels of every task over single sentences."""
    rows: list[dict[str, object]] = []
    for _ in range(number):
        mood, topic = generator.integers(2), generator.integers(3)
        words = list(generator.choice(FILLER, size=generator.integers(1, 12)))
        words += [
            generator.choice(list(MOODS.values())[mood]),
            generator.choice(list(TOPICS.values())[topic]),
        ]
        generator.shuffle(words)
        said = (list(MOODS)[mood], list(TOPICS)[topic])
        rows.append(
            {
                "text": " ".join(words),
                "mood": int(mood),
                "topic": int(topic),
                "warmth": 2.0 * mood - 1.0 + 0.25 * topic,
                "marks": [mark for mark in MARKS if mark in said],
            }
        )
    return rows


def _pairs(number: int, generator: np.random.Generator) -> list[dict[str, object]]:
    first, second = _rows(number, generator), _rows(number, generator)
    return [
        {"text": a["text"], "other": b["text"], "same": int(a["topic"] == b["topic"])}
        for a, b in zip(first, second, strict=True)
    ]


def mood_task(n_train: int = 101, n_validation: int = 53, *, seed: int = 0) -> Task:
    """Two classes from one word of the sentence."""
    generator = np.random.default_rng([seed, 1])
    return Task(
        "mood",
        train=_rows(n_train, generator),
        validation=_rows(n_validation, generator),
        text="text",
        label="mood",
        labels=tuple(MOODS),
    )


def topic_task(n_train: int = 97, n_validation: int = 47, *, seed: int = 0) -> Task:
    """Three classes from one word of the sentence."""
    generator = np.random.default_rng([seed, 2])
    return Task(
        "topic",
        train=_rows(n_train, generator),
        validation=_rows(n_validation, generator),
        text="text",
        label="topic",
        labels=tuple(TOPICS),
    )


def warmth_task(n_train: int = 89, n_validation: int = 43, *, seed: int = 0) -> Task:
    """A regression on the same words."""
    generator = np.random.default_rng([seed, 3])
    return Task(
        "warmth",
        train=_rows(n_train, generator),
        validation=_rows(n_validation, generator),
        text="text",
        label="warmth",
    )


def marks_task(n_train: int = 103, n_validation: int = 59, *, seed: int = 0) -> Task:
    """Any number of three labels: is the mood good, is the topic the sea, is it the sky?"""
    generator = np.random.default_rng([seed, 5])
    return Task(
        "marks",
        train=_rows(n_train, generator),
        validation=_rows(n_validation, generator),
        text="text",
        label="marks",
        labels=MARKS,
    )


def pair_task(n_train: int = 83, n_validation: int = 41, *, seed: int = 0) -> Task:
    """Two sentences: have they the same topic?"""
    generator = np.random.default_rng([seed, 4])
    return Task(
        "same-topic",
        train=_pairs(n_train, generator),
        validation=_pairs(n_validation, generator),
        text=("text", "other"),
        label="same",
        labels=("different", "same"),
    )
