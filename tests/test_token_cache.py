"""Tokens of many examples are made once, for the same texts and tokenizer; and within memory."""

import time

import numpy as np
import pytest
from tokenizers import normalizers

from lobes.data import batching
from lobes.data.batching import Encoded, encode
from lobes.data.texts import texts_of
from lobes.errors import DataError
from tiny_tasks import tiny_tokenizer

SENTENCES = tuple((f"the boat was {word} {'and sad ' * i}",) for i, word in enumerate("abcdefg"))
PAIRS = tuple((first, "A star") for (first,) in SENTENCES)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A cache of its own, which keeps the tokens of more than three examples."""
    monkeypatch.setenv("LOBES_CACHE", str(tmp_path))
    monkeypatch.setattr(batching, "_CACHED", 3)
    return tmp_path / "tokens"


@pytest.fixture
def tokenized(monkeypatch):
    """How many examples were tokenized, and not taken from the cache."""
    numbers = []
    real = batching._tokenize

    def counted(tokenizer, texts, max_length):
        numbers.append(len(texts))
        return real(tokenizer, texts, max_length)

    monkeypatch.setattr(batching, "_tokenize", counted)
    return numbers


def same(first: Encoded, second: Encoded) -> bool:
    return all(
        np.array_equal(getattr(first, name), getattr(second, name))
        for name in ("input_ids", "offsets", "token_type_ids")
    )


def test_the_second_time_nothing_is_tokenized(folder, tokenized):
    plain = batching._tokenize(tiny_tokenizer(), SENTENCES, 31)
    tokenized.clear()
    first = encode(tiny_tokenizer(), SENTENCES, 31)
    used = tiny_tokenizer()
    used(["a", "b"], truncation=True, max_length=5, padding=True)  # leaves its mark in the state
    again = encode(used, texts_of(SENTENCES, 1), 31)
    assert tokenized == [7]
    assert len(list(folder.iterdir())) == 1
    for encoded in (first, again):
        assert same(encoded, plain)
        assert encoded.input_ids.dtype == np.int32
        assert not encoded.input_ids.flags.owndata
        assert not encoded.input_ids.flags.writeable
    changed = encode(used, (*SENTENCES[:-1], ("the boat was h",)), 31)
    assert tokenized == [7, 7]
    assert not same(changed, first)


def test_few_examples_leave_nothing_behind(folder, tokenized):
    for _ in range(2):
        encode(tiny_tokenizer(), SENTENCES[:3], 31)
    assert tokenized == [3, 3]
    assert not folder.exists()


def lower_case(tokenizer):
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()


def one_more_word(tokenizer):
    tokenizer.add_tokens(["unheard"])


def cut_on_the_left(tokenizer):
    tokenizer.truncation_side = "left"


def without_types(tokenizer):
    tokenizer.model_input_names = ["input_ids", "attention_mask"]


@pytest.mark.parametrize("change", [lower_case, one_more_word, cut_on_the_left, without_types])
def test_another_tokenizer_makes_other_tokens(folder, tokenized, change):
    encode(tiny_tokenizer(), PAIRS, 9)
    other = tiny_tokenizer()
    change(other)
    made = encode(other, PAIRS, 9)
    assert tokenized == [7, 7]
    assert len(list(folder.iterdir())) == 2
    assert same(made, batching._tokenize(other, PAIRS, 9))


def test_another_maximal_length_or_version_makes_other_tokens(folder, tokenized, monkeypatch):
    encode(tiny_tokenizer(), SENTENCES, 9)
    assert encode(tiny_tokenizer(), SENTENCES, 8).lengths.max() == 8
    monkeypatch.setattr(batching, "version", lambda name: f"{name} of tomorrow")
    encode(tiny_tokenizer(), SENTENCES, 8)
    assert tokenized == [7, 7, 7]
    assert len(list(folder.iterdir())) == 3


def test_a_damaged_entry_is_made_anew(folder, tokenized):
    plain = batching._tokenize(tiny_tokenizer(), SENTENCES, 31)
    tokenized.clear()
    encode(tiny_tokenizer(), SENTENCES, 31)
    (entry,) = folder.iterdir()
    (entry / "input_ids").write_bytes(b"\0" * (entry / "input_ids").stat().st_size)
    assert same(encode(tiny_tokenizer(), SENTENCES, 31), plain)
    assert same(encode(tiny_tokenizer(), SENTENCES, 31), plain)
    assert tokenized == [7, 7]


def test_a_folder_that_cannot_be_written_changes_no_token(folder, caplog):
    folder.write_text("in the way")
    made = encode(tiny_tokenizer(), SENTENCES, 31)
    assert same(made, batching._tokenize(tiny_tokenizer(), SENTENCES, 31))
    assert len(caplog.messages) == 1


def test_refused_texts_are_not_kept(folder):
    bare = tiny_tokenizer()
    bare.backend_tokenizer.post_processor = None
    with pytest.raises(DataError, match=r"^Example 4 has no tokens"):
        encode(bare, (*SENTENCES[:4], (" ",)), 31)
    assert not folder.exists()


def test_tokens_of_pairs_are_told_apart_by_their_types():
    """The same ids with another division are another input."""
    made = encode(tiny_tokenizer(), PAIRS, 31)
    types = made.token_type_ids.copy()
    start = made.offsets[3]
    types[start + 1] = 1
    ids = np.concatenate([made.input_ids, made.input_ids])
    offsets = np.concatenate([made.offsets, made.offsets[1:] + made.offsets[-1]])
    both = Encoded(ids, offsets, np.concatenate([made.token_type_ids, types]))
    unique, inverse = both.distinct()
    assert inverse.tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 7, 4, 5, 6]
    assert same(unique.select(inverse), both)


def test_a_call_of_the_tokenizer_gets_few_characters(monkeypatch):
    monkeypatch.setattr(batching, "_CHARACTERS", 50)
    chunks = list(batching._chunks(PAIRS))
    assert [text for chunk in chunks for text in chunk] == list(PAIRS)
    sizes = [sum(len(a) + len(b) for a, b in chunk) for chunk in chunks]
    assert [len(chunk) for chunk in chunks] == [2, *[1] * 5]
    assert sizes[0] <= 50
    assert same(encode(tiny_tokenizer(), PAIRS, 31), encode(tiny_tokenizer(), PAIRS[:], 31))


def test_long_texts_are_cut_in_bounded_time():
    long = ("the boat was sad and " * 20_000,)  # 100,000 words
    clock = time.perf_counter()
    made = encode(tiny_tokenizer(), (long, ("a star",), long), 31)
    assert time.perf_counter() - clock < 20
    assert made.lengths.tolist() == [31, 4, 31]
    assert np.array_equal(made.input_ids[:31], made.input_ids[35:])
