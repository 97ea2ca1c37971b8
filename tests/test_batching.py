"""Batches: padding and order may change, the tokens of an example never."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lobes.data.batching import Encoded, encode, padding_id, token_batches
from lobes.errors import ConfigError, DataError
from tiny_tasks import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
SENTENCES = (("the boat was fine",), ("a sad star",), ("soup",), ("a sad star",))
PAIRS = (("the boat", "was dull and sad"), ("a", "b"))

words = st.lists(st.sampled_from(["a", "boat", "was", "sad", "unheard"]), min_size=1, max_size=17)
texts = st.lists(words.map(lambda w: (" ".join(w),)), min_size=1, max_size=23)
all_lengths = st.lists(st.integers(1, 61), max_size=97).map(lambda v: np.array(v, dtype=np.int64))


def rows(encoded: Encoded) -> list[list[int]]:
    bounds = encoded.offsets
    return [encoded.input_ids[a:b].tolist() for a, b in pairwise(bounds)]


def test_encoding_gives_what_the_tokenizer_gives():
    for examples in (SENTENCES, PAIRS):
        encoded = encode(TOKENIZER, examples, max_length=37)
        plain = [TOKENIZER(*example) for example in examples]
        assert rows(encoded) == [made["input_ids"] for made in plain]
        assert encoded.lengths.tolist() == [len(made["input_ids"]) for made in plain]
        types = [t for made in plain for t in made["token_type_ids"]]
        assert encoded.token_type_ids.tolist() == types
    assert sum(types) > 0


def test_encoding_in_chunks_changes_nothing(monkeypatch):
    whole = encode(TOKENIZER, SENTENCES, max_length=37)
    monkeypatch.setattr("lobes.data.batching._CHUNK", 3)
    assert rows(encode(TOKENIZER, SENTENCES, max_length=37)) == rows(whole)


def test_texts_are_cut_to_the_maximal_length():
    encoded = encode(TOKENIZER, SENTENCES, max_length=5)
    assert encoded.lengths.tolist() == [5, 5, 3, 5]
    assert rows(encoded)[0] == TOKENIZER("the boat was")["input_ids"]
    pair = encode(TOKENIZER, PAIRS, max_length=5)
    assert rows(pair)[0] == TOKENIZER("the", "was")["input_ids"]


def test_a_maximal_length_without_room_for_text_is_refused():
    with pytest.raises(ConfigError) as error:
        encode(TOKENIZER, PAIRS, max_length=4)
    assert str(error.value) == (
        "max_length = 4 leaves room for 1 tokens of text beside the tokenizer's special tokens; "
        "at least 5 is needed."
    )


def test_an_example_without_tokens_is_refused():
    bare = tiny_tokenizer()
    bare.backend_tokenizer.post_processor = None
    with pytest.raises(DataError) as error:
        encode(bare, (("a",), ("  ",)), max_length=7)
    assert str(error.value) == (
        "Example 1 has no tokens: the tokenizer makes nothing of ('  ',); remove the example, or "
        "give it a text."
    )


def test_examples_of_different_widths_are_refused():
    with pytest.raises(DataError) as error:
        encode(TOKENIZER, (("a",), ("a", "b")), max_length=7)
    assert str(error.value) == (
        "Cannot tokenize 2 examples of [1, 2] texts each: expected at least one example, and one "
        "text in every example or two in every example."
    )
    with pytest.raises(DataError, match=r"^Cannot tokenize 0 examples"):
        encode(TOKENIZER, (), max_length=7)


@settings(deadline=None, max_examples=50)
@given(texts)
def test_collating_and_dropping_the_padding_gives_the_tokens_back(examples):
    encoded = encode(TOKENIZER, examples, max_length=37)
    indices = np.arange(len(examples))[::-1].copy()
    batch = encoded.collate(indices)
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids"}
    assert batch["input_ids"].shape == (len(examples), encoded.lengths.max())
    for row, index in enumerate(indices):
        mask = batch["attention_mask"][row].bool()
        assert batch["input_ids"][row, mask].tolist() == rows(encoded)[index]
        assert (batch["input_ids"][row, ~mask] == TOKENIZER.pad_token_id).all()
        assert (mask.int().diff() <= 0).all()


def test_collated_tensors_are_what_the_tokenizer_pads_to():
    encoded = encode(TOKENIZER, PAIRS, max_length=37)
    expected = TOKENIZER(*map(list, zip(*PAIRS, strict=True)), padding=True, return_tensors="pt")
    batch = encoded.collate([0, 1], "cpu")
    for name, tensor in batch.items():
        assert tensor.dtype == torch.int64
        assert torch.equal(tensor, expected[name])


def test_a_tokenizer_without_pad_token_works():
    tokenizer = tiny_tokenizer(pad_token=None)
    assert tokenizer.pad_token_id is None
    assert padding_id(tokenizer) == tokenizer.eos_token_id
    encoded = encode(tokenizer, SENTENCES, max_length=37)
    assert rows(encoded) == rows(encode(TOKENIZER, SENTENCES, max_length=37))
    batch = encoded.collate([0, 2])
    assert batch["input_ids"][1, 3:].tolist() == [tokenizer.eos_token_id] * 3


@given(all_lengths, st.integers(1, 211))
def test_token_batches_hold_every_example_once_within_the_budget(lengths, budget):
    batches = token_batches(lengths, budget)
    joined = np.concatenate(batches) if batches else np.array([], dtype=np.int64)
    assert np.array_equal(joined, np.argsort(lengths, kind="stable"))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= budget


@given(all_lengths, st.integers(1, 211))
def test_token_batches_end_only_where_they_are_full_or_a_longer_example_is_dear(lengths, budget):
    for batch, following in pairwise(token_batches(lengths, budget)):
        width = lengths[following[0]]
        widening = len(batch) * (width - lengths[batch[-1]])
        assert (len(batch) + 1) * width > budget or widening > budget / 64


@pytest.mark.parametrize("number", [1009, 3001, 20011])
def test_padding_stays_under_five_percent_for_ordinary_text(number):
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.lognormal(3.0, 0.6, size=number), 3, 256).astype(np.int64)
    batches = token_batches(lengths, 2048)
    assert len(batches) < 2 * lengths.sum() / 2048 + 32
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    assert 1 - lengths.sum() / padded < 0.05


def test_batches_of_nothing_are_refused():
    with pytest.raises(ConfigError, match=r"^A batch holds at least 1 token, not 0\.$"):
        token_batches(np.array([3, 2]), 0)


@settings(deadline=None, max_examples=50)
@given(texts)
def test_distinct_inputs_and_their_inverse_give_the_whole_back(examples):
    encoded = encode(TOKENIZER, examples, max_length=37)
    unique, inverse = encoded.distinct()
    assert rows(unique.select(inverse)) == rows(encoded)
    assert np.array_equal(unique.select(inverse).token_type_ids, encoded.token_type_ids)
    assert len({tuple(row) for row in rows(unique)}) == len(unique)


def test_equal_tokens_with_other_types_are_different_inputs():
    ids, offsets = np.array([1, 2, 1, 2, 1, 2]), np.array([0, 2, 4, 6])
    unique, inverse = Encoded(ids, offsets, np.array([0, 0, 0, 1, 0, 0])).distinct()
    assert (len(unique), inverse.tolist()) == (2, [0, 1, 0])
    unique, inverse = Encoded(ids, offsets).distinct()
    assert (len(unique), inverse.tolist()) == (1, [0, 0, 0])


def test_concatenated_parts_keep_their_order():
    first = encode(TOKENIZER, SENTENCES, max_length=37)
    second = encode(TOKENIZER, PAIRS, max_length=37)
    joined = Encoded.concatenate([first, second])
    assert rows(joined) == rows(first) + rows(second)
    assert len(joined.token_type_ids) == len(joined.input_ids)


@pytest.mark.parametrize("parts", [0, 2])
def test_parts_of_different_tokenizers_are_refused(parts):
    with_types = encode(TOKENIZER, SENTENCES, max_length=37)
    without = Encoded(with_types.input_ids, with_types.offsets)
    with pytest.raises(ConfigError) as error:
        Encoded.concatenate([with_types, without][:parts])
    assert str(error.value) == (
        "Cannot join encoded texts of different tokenizers: expected one or more parts, all with "
        "token types or all without."
    )


def test_encoded_arrays_are_read_only_and_the_given_ones_untouched():
    ids = np.array([1, 2, 3])
    encoded = Encoded(ids, np.array([0, 1, 3]))
    with pytest.raises(ValueError, match="read-only"):
        encoded.input_ids[0] = 5
    ids[0] = 7
