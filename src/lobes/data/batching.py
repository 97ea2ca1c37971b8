"""Batches: texts become ragged token ids once, and padded tensors only when a model reads them.

Sorting the examples by length and filling each batch up to a number of tokens, rather than of
examples, keeps padding under 5 % for ordinary text.

The tokens of many examples go to a file as they are made, and into the cache: the next run maps
them from there and need not tokenize.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from lobes.data.cache import Spool, load, save
from lobes.data.texts import Texts, blocks, digest, number_equal
from lobes.errors import ConfigError, DataError
from lobes.transfers import moved

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# How many examples one tokenizer call gets: enough for its threads, little enough for memory.
_CHUNK = 2048

# And at most so many characters, unless one text has more: a tokenizer reads a text to its end,
# wherever it is cut.
_CHARACTERS = 2**21

# From so many examples on tokens are kept in the cache.
_CACHED = 20_000

# The form of what is kept; another number makes all of it anew.
_FORMAT = 1

# A batch of its own costs a fixed time, about what this share of a full batch's tokens takes.
_BATCH_COST = 1 / 64


@runtime_checkable
class Inputs(Protocol):
    """Many examples as a model reads them: token ids (`Encoded`), or pictures."""

    def __len__(self) -> int: ...

    @property
    def lengths(self) -> Int[np.ndarray, " examples"]:
        """How many positions the model has for each example."""

    def select(self, indices: Int[np.ndarray, " selected"]) -> "Inputs":
        """Return the examples at `indices`, in that order."""

    @classmethod
    def concatenate(cls, parts: Sequence[Any]) -> "Inputs":
        """Return all examples of `parts`, in order."""

    def distinct(self) -> tuple["Inputs", Int[np.ndarray, " examples"]]:
        """Return the different examples in order of first appearance, and each example's number.

        `select` with these numbers gives all examples back.
        """

    def collate(
        self,
        indices: Int[np.ndarray, " batch"] | Sequence[int],
        device: torch.device | str | None = None,
    ) -> dict[str, Tensor]:
        """Return the examples at `indices` as tensors for the model's forward pass."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """`Inputs` of token ids, one example after the other, without padding.

    Example i is `input_ids[offsets[i] : offsets[i + 1]]`. `token_type_ids` is None for a tokenizer
    that makes none. `pad_token_id` is what `collate` pads with.
    """

    input_ids: Int[np.ndarray, " tokens"]
    offsets: Int[np.ndarray, " boundaries"]
    token_type_ids: Int[np.ndarray, " tokens"] | None = None
    pad_token_id: int = 0

    def __post_init__(self) -> None:
        for name in ("input_ids", "offsets", "token_type_ids"):
            array = getattr(self, name)
            if array is not None:
                array = array.view()
                array.setflags(write=False)
                object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int[np.ndarray, " examples"]:
        return np.diff(self.offsets)

    def select(self, indices: Int[np.ndarray, " selected"]) -> "Encoded":
        lengths = self.lengths[indices]
        offsets = _offsets(lengths)
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        places = np.repeat(self.offsets[indices], lengths) + within
        types = self.token_type_ids
        types = None if types is None else types[places]
        return Encoded(self.input_ids[places], offsets, types, self.pad_token_id)

    def distinct(self) -> tuple["Encoded", Int[np.ndarray, " examples"]]:
        arrays = [self.input_ids]
        if self.token_type_ids is not None:
            arrays.append(self.token_type_ids)
        inverse = number_equal(
            b"".join(array[start:stop].tobytes() for array in arrays)
            for start, stop in pairwise(self.offsets.tolist())
        )
        first = np.unique(inverse, return_index=True)[1]
        return (self if len(first) == len(self) else self.select(first)), inverse

    def collate(
        self,
        indices: Int[np.ndarray, " batch"] | Sequence[int],
        device: torch.device | str | None = None,
    ) -> dict[str, Int[Tensor, "batch length"]]:
        """Return the examples at `indices` as tensors, padded on the right to the longest of them.

        Returns `input_ids`, `attention_mask` (1 for a real token) and, if the tokenizer made them,
        `token_type_ids`.
        """
        chosen = np.asarray(indices, dtype=np.int64)
        starts = self.offsets[chosen]
        lengths = self.offsets[chosen + 1] - starts
        columns = np.arange(lengths.max(initial=0))
        real = columns < lengths[:, None]
        places = (starts[:, None] + columns)[real]
        arrays = {
            "input_ids": _padded(self.input_ids[places], real, self.pad_token_id),
            "attention_mask": real.astype(np.int64),
        }
        if self.token_type_ids is not None:
            arrays["token_type_ids"] = _padded(self.token_type_ids[places], real, 0)
        return {name: moved(torch.from_numpy(array), device) for name, array in arrays.items()}

    @classmethod
    def concatenate(cls, parts: Sequence["Encoded"]) -> "Encoded":
        """Return one `Encoded` of all examples of `parts`, in order.

        Raises ConfigError for no parts, or where some have token types and others have none.
        """
        if len(parts) == 1:
            return parts[0]
        types = [part.token_type_ids for part in parts]
        present = [array for array in types if array is not None]
        if not parts or (present and len(present) < len(parts)):
            raise ConfigError(
                "Cannot join encoded texts of different tokenizers: expected one or more parts, "
                "all with token types or all without."
            )
        return Encoded(
            np.concatenate([part.input_ids for part in parts]),
            _offsets(np.concatenate([part.lengths for part in parts])),
            np.concatenate(present) if present else None,
            parts[0].pad_token_id,
        )


def encode(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[tuple[str, ...]], max_length: int
) -> Encoded:
    """Tokenize every example (one text or a pair of texts), cut to `max_length` tokens.

    Of a pair the longer text is cut first. The tokens of more than 20,000 examples are kept in the
    folder `tokens` of the cache, by the texts, the tokenizer and `max_length`, where it is one of
    the library tokenizers, whose state is known. Raises ConfigError for a `max_length` that leaves
    no room for text, and DataError for an example of which the tokenizer makes no token at all.
    """
    width = _width(texts)
    room = max_length - tokenizer.num_special_tokens_to_add(pair=width == 2)
    if room < width:
        raise ConfigError(
            f"max_length = {max_length} leaves room for {max(room, 0)} tokens of text beside the "
            f"tokenizer's special tokens; at least {max_length - room + width} is needed."
        )
    key = None
    if len(texts) > _CACHED and tokenizer.is_fast:
        key = f"tokens/{_fingerprint(tokenizer, texts, max_length)}"
    encoded = None if key is None else _kept(key, tokenizer)
    if encoded is None:
        encoded = _tokenize(tokenizer, texts, max_length)
        check_no_empty(encoded, texts)
        if key is not None:
            arrays = {"input_ids": encoded.input_ids, "offsets": encoded.offsets}
            if encoded.token_type_ids is not None:
                arrays["token_type_ids"] = encoded.token_type_ids
            save(key, arrays)
            encoded = _kept(key, tokenizer) or encoded
    return encoded


def _kept(key: str, tokenizer: "PreTrainedTokenizerBase") -> Encoded | None:
    arrays = load(key)
    return None if arrays is None else Encoded(**arrays, pad_token_id=padding_id(tokenizer))


def _tokenize(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[tuple[str, ...]], max_length: int
) -> Encoded:
    ids, types = Spool(), Spool()
    lengths: list[np.ndarray] = []
    typed = False
    for chunk in _chunks(texts):
        columns = [list(column) for column in zip(*chunk, strict=True)]
        made = tokenizer(
            *columns, truncation=True, max_length=max_length, return_attention_mask=False
        )
        lengths.append(np.fromiter(map(len, made["input_ids"]), dtype=np.int64))
        ids.append(_flat(made["input_ids"]).tobytes())
        typed = "token_type_ids" in made
        if typed:
            types.append(_flat(made["token_type_ids"]).tobytes())
    return Encoded(
        ids.array(np.int32),
        _offsets(np.concatenate(lengths)),
        types.array(np.int32) if typed else None,
        padding_id(tokenizer),
    )


def _chunks(texts: Sequence[tuple[str, ...]]) -> Iterator[Sequence[tuple[str, ...]]]:
    """Examples for one call of the tokenizer each."""
    for block in blocks(texts, _CHUNK):
        ends = np.cumsum([sum(map(len, example)) for example in block])
        start = 0
        while start < len(block):
            before = ends[start - 1] if start else 0
            stop = int(np.searchsorted(ends, before + _CHARACTERS, side="right"))
            stop = max(stop, start + 1)
            yield block[start:stop]
            start = stop


def _fingerprint(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[tuple[str, ...]], max_length: int
) -> str:
    """What the tokens depend on: texts, the tokenizer's whole state, `max_length`, versions."""
    parts = {
        "format": _FORMAT,
        "versions": [version("tokenizers"), version("transformers")],
        "texts": digest(texts),
        "max_length": max_length,
        **tokenizer_state(tokenizer),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def tokenizer_state(tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """Return what a tokenizer's tokens depend on besides the texts, as plain values."""
    if tokenizer.is_fast:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        for name in ("truncation", "padding"):  # as the last call left them
            state.pop(name, None)
    else:
        state = tokenizer.get_vocab()
    return {
        "class": f"{type(tokenizer).__module__}.{type(tokenizer).__qualname__}",
        "state": state,
        "names": list(tokenizer.model_input_names),
        "side": tokenizer.truncation_side,
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "split_special": tokenizer.split_special_tokens,
    }


def token_batches(
    lengths: Int[np.ndarray, " examples"], tokens_per_batch: int, *, padding: bool = True
) -> list[Int[np.ndarray, " batch"]]:
    """Return indices of the examples in batches of similar length, shortest first.

    A batch padded to its longest example has at most `tokens_per_batch` tokens; an example longer
    than that is a batch of its own. Examples of one length keep their order. A batch also ends
    where a longer example would widen it by more tokens than another batch costs: so padding stays
    small in sets of few batches, too. Without `padding` a batch has examples of one length only.
    """
    if tokens_per_batch < 1:
        raise ConfigError(f"A batch holds at least 1 token, not {tokens_per_batch}.")
    order = np.argsort(lengths, kind="stable")
    ascending = lengths[order].tolist()
    batches: list[np.ndarray] = []
    start = 0
    for end in range(1, len(ascending)):
        # In ascending order the newest example is the longest: it sets the width of the batch.
        number, width = end - start, ascending[end]
        widening = number * (width - ascending[end - 1])
        most = tokens_per_batch * _BATCH_COST if padding else 0
        if (number + 1) * width > tokens_per_batch or widening > most:
            batches.append(order[start:end])
            start = end
    if len(order):
        batches.append(order[start:])
    return batches


def padding_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the id to pad with: the pad token, or without one (GPT-2) the end token.

    Which id it is changes nothing where the attention mask is heeded.
    """
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def _padded(
    values: Shaped[np.ndarray, " tokens"], real: Shaped[np.ndarray, "batch length"], fill: int
) -> Int[np.ndarray, "batch length"]:
    padded = np.full(real.shape, fill, dtype=np.int64)
    padded[real] = values
    return padded


def ragged(rows: Sequence[Sequence[int]], pad_token_id: int = 0) -> Encoded:
    """Return examples given as a list of token ids each, without token types, as `Encoded`."""
    lengths = np.fromiter(map(len, rows), dtype=np.int64)
    ids = np.fromiter(chain.from_iterable(rows), dtype=np.int32)
    return Encoded(ids, _offsets(lengths), pad_token_id=pad_token_id)


def _width(texts: Sequence[tuple[str, ...]]) -> int:
    """How many texts each example has, 1 or 2."""
    if isinstance(texts, Texts) and len(texts):
        widths = {texts.width}
    else:
        widths = {len(example) for example in texts}
    if len(widths) != 1 or not widths <= {1, 2}:
        raise DataError(
            f"Cannot tokenize {len(texts)} examples of {sorted(widths)} texts each: expected at "
            f"least one example, and one text in every example or two in every example."
        )
    return widths.pop()


def _flat(rows: list[list[int]]) -> Int[np.ndarray, " tokens"]:
    return np.fromiter(chain.from_iterable(rows), dtype=np.int32)


def _offsets(lengths: Int[np.ndarray, " examples"]) -> Int[np.ndarray, " boundaries"]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def check_no_empty(encoded: Encoded, texts: Sequence[tuple[str, ...]]) -> None:
    """Raise `DataError` where an example has no token at all."""
    empty = np.flatnonzero(encoded.lengths == 0)
    if len(empty):
        raise DataError(
            f"Example {empty[0]} has no tokens: the tokenizer makes nothing of "
            f"{texts[empty[0]]!r}; remove the example, or give it a text."
        )
