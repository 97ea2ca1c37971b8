"""Texts kept as bytes are what a tuple of tuples of strings is."""

import hashlib
import logging
import mmap
import pickle
import resource

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lobes.data import cache, texts
from lobes.data.cache import Spool
from lobes.data.texts import (
    Texts,
    TextsWriter,
    blocks,
    digest,
    number_equal,
    number_texts,
    texts_of,
)

# Languages, directions, combining characters, emoji of several parts, and what is no character.
STRANGE = (
    "هذا \u200fنص\u200e عربي",
    "这是一个句子。",
    "นี่คือประโยค",
    "e\u0301 = é, \u1100\u1161",
    "👩🏽‍🔬 🇸🇪 \ufe0f",
    "a\x00b\u2028c\x85\r\n",
    "half: \ud83d",
    "",
)

strings = st.one_of(st.sampled_from(STRANGE), st.text(max_size=5))
rows = st.integers(1, 2).flatmap(
    lambda width: st.lists(st.tuples(*[strings] * width), min_size=1, max_size=23)
)


@pytest.fixture(params=["in memory", "in a file"])
def small(request, tmp_path, monkeypatch):
    """Blocks of three examples; texts stay in memory, or are in a file from the first byte on."""
    monkeypatch.setenv("LOBES_CACHE", str(tmp_path))
    monkeypatch.setattr(blocks, "__defaults__", (3,))
    if request.param == "in a file":
        monkeypatch.setattr(cache, "_IN_MEMORY", 0)
        monkeypatch.setattr(cache, "_CHUNK", 5)


every = settings(deadline=None, max_examples=60, suppress_health_check=["function_scoped_fixture"])


@every
@given(rows, st.data())
@example([(text,) for text in STRANGE], None)
def test_texts_are_like_the_tuple(small, given, data):
    plain, made = tuple(given), texts_of(given, len(given[0]))
    assert isinstance(made, Texts)
    assert made == plain
    assert plain == made
    assert made == texts_of(given, len(given[0]))
    assert tuple(made) == plain
    assert [made[i] for i in range(-len(plain), len(plain))] == [*plain, *plain]
    assert made[2:] == plain[2:]
    assert made[::-2] == plain[::-2]
    assert digest(made) == digest(plain)
    assert pickle.loads(pickle.dumps(made)) == plain
    assert made != (*plain[:-1], ("other",) * len(plain[0]))
    assert made != (*plain, plain[0])
    if data is None:
        return
    places = np.array(data.draw(st.lists(st.integers(0, len(plain) - 1))), dtype=np.int64)
    chosen = made.select(places)
    assert chosen == tuple(plain[i] for i in places)
    again = chosen.select(np.arange(len(places))[::-1])
    assert again == tuple(plain[i] for i in places[::-1])
    assert chosen[1:3] == tuple(plain[i] for i in places)[1:3]


def test_texts_far_apart_are_read_one_by_one(small):
    plain = tuple((f"{i} " * 999,) for i in range(41))
    made = texts_of(plain, 1).select(np.array([37, 0, 0, 11]))
    assert made == tuple(plain[i] for i in (37, 0, 0, 11))


def test_an_index_beyond_the_end_is_refused():
    made = texts_of([("a",), ("b",)], 1)
    for wrong in (2, -3):
        with pytest.raises(IndexError):
            made[wrong]
    with pytest.raises(IndexError):
        made.select(np.array([2]))


def test_digests_tell_apart_where_texts_end():
    alike = [
        (("ab", "c"),),
        (("a", "bc"),),
        (("abc",),),
        (("ab",), ("c",)),
        (("a",), ("bc",)),
        (("abc",), ("",)),
        (("", "abc"),),
        (("é",),),
        (("e\u0301",),),
    ]
    assert len({digest(texts) for texts in alike}) == len(alike)


@given(st.lists(st.sampled_from([("a", "b"), ("ab", ""), ("", "ab"), ("ä", "b"), ("a", "c")])))
def test_equal_texts_have_one_number(texts):
    seen: dict[tuple[str, ...], int] = {}
    plain = [seen.setdefault(tuple(sorted(text)), len(seen)) for text in texts]
    assert number_texts(texts).tolist() == plain


def test_digests_that_end_in_zeros_are_told_apart(monkeypatch):
    """NumPy strings drop zeros at their end; equal they are only if all bytes are."""

    class Plain:
        def __init__(self, value, digest_size):
            self.value = value.ljust(digest_size, b"\0")

        def digest(self):
            return self.value

    monkeypatch.setattr(hashlib, "blake2b", Plain)
    values = [b"a", b"a\0b", b"", b"a", b"\0a", b"b"]
    assert number_equal(values).tolist() == [0, 1, 2, 0, 3, 4]


def test_large_texts_are_in_a_file_without_a_name(tmp_path, monkeypatch):
    monkeypatch.setenv("LOBES_CACHE", str(tmp_path / "new"))
    monkeypatch.setattr(cache, "_IN_MEMORY", 100)
    writer = TextsWriter(1)
    for _ in range(5):
        writer.append([["x" * 29]])
    made = writer.finish()
    assert isinstance(made._columns[0]._data.base.obj, mmap.mmap)
    assert list((tmp_path / "new").iterdir()) == []
    assert made == (("x" * 29,),) * 5


@pytest.mark.parametrize("limit", [0, 150_000])
def test_on_a_full_disk_texts_stay_in_memory(tmp_path, monkeypatch, caplog, limit):
    """The system refuses to make a file larger than `limit`, as it does on a full disk."""
    monkeypatch.setenv("LOBES_CACHE", str(tmp_path))
    monkeypatch.setattr(cache, "_IN_MEMORY", 50_000)
    monkeypatch.setattr(cache, "_CHUNK", 10_000)
    plain = tuple((f"{i:09} " * 1000,) for i in range(37))
    # one that writes into a file, as the command line's may, meets the same limit
    monkeypatch.setattr(logging.getLogger("lobes"), "handlers", [])
    monkeypatch.setattr(logging.getLogger("lobes"), "propagate", True)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    try:
        with caplog.at_level(logging.WARNING, "lobes"):
            writer = TextsWriter(1)
            for text in plain:
                writer.append([text])
            made = writer.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert made == plain
    assert caplog.messages == [
        f"File too large: data that are too large for memory cannot be kept in {tmp_path}, and "
        f"stay in memory."
    ]


def test_a_folder_that_cannot_be_made_keeps_texts_in_memory(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LOBES_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(cache, "_IN_MEMORY", 3)
    spool = Spool()
    for _ in range(3):
        spool.append(b"abcdefgh")
    assert spool.array().tobytes() == b"abcdefgh" * 3
    assert len(caplog.messages) == 1


def test_blocks_are_slices():
    assert list(blocks((1, 2, 3, 4, 5), 2)) == [(1, 2), (3, 4), (5,)]
    assert texts.BLOCK == 2048
