"""Contexts with their continuations as token ids, and batches of them.

An example is read as few sequences as hold all of its continuations but their last tokens: one
context with answers of one token is a single sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from lobes.data.texts import number_equal
from lobes.transfers import moved

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TokenPair:
    """The tokens that the model reads for a continuation, and those of the continuation itself.

    `read` ends with all of `target` but its last token. The log-likelihood is divided by `length`.
    """

    read: Tokens
    target: Tokens
    length: int


@dataclass(frozen=True, slots=True)
class _Example:
    """An example's sequences, and for each pair the sequence that begins with what it reads."""

    sequences: tuple[Tokens, ...]
    places: tuple[int, ...]
    pairs: tuple[TokenPair, ...]

    @staticmethod
    def of(pairs: Sequence[TokenPair]) -> "_Example":
        sequences: list[Tokens] = []
        for pair in sorted(pairs, key=lambda pair: -len(pair.read)):
            if not any(one[: len(pair.read)] == pair.read for one in sequences):
                sequences.append(pair.read)
        places = (
            next(i for i, one in enumerate(sequences) if one[: len(pair.read)] == pair.read)
            for pair in pairs
        )
        return _Example(tuple(sequences), tuple(places), tuple(pairs))


@dataclass(frozen=True, slots=True, eq=False)
class EncodedContinuations:
    """`Inputs` of contexts and continuations; the sequences of a batch are padded on the right."""

    examples: tuple[_Example, ...]

    @classmethod
    def of(cls, examples: Sequence[Sequence[TokenPair]]) -> "EncodedContinuations":
        """Return the inputs of examples, each given by its continuations."""
        return cls(tuple(map(_Example.of, examples)))

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def lengths(self) -> Int[np.ndarray, " examples"]:
        """How many positions the model has for each example: its longest sequence."""
        return np.array([len(each.sequences[0]) for each in self.examples], dtype=np.int64)

    @property
    def sequences(self) -> Int[np.ndarray, " examples"]:
        """How many sequences the model reads for each example."""
        return np.array([len(each.sequences) for each in self.examples], dtype=np.int64)

    def select(self, indices: Int[np.ndarray, " selected"]) -> "EncodedContinuations":
        return EncodedContinuations(tuple(self.examples[i] for i in indices.tolist()))

    @classmethod
    def concatenate(cls, parts: Sequence["EncodedContinuations"]) -> "EncodedContinuations":
        return cls(tuple(example for part in parts for example in part.examples))

    def distinct(self) -> tuple["EncodedContinuations", Int[np.ndarray, " examples"]]:
        inverse = number_equal(repr(example.pairs).encode() for example in self.examples)
        return self.select(np.unique(inverse, return_index=True)[1]), inverse

    def collate(
        self,
        indices: Int[np.ndarray, " batch"] | Sequence[int],
        device: torch.device | str | None = None,
    ) -> dict[str, Tensor]:
        """Return the examples at `indices` as tensors, one row for each example.

        `input_ids` [batch, sequences, length], each sequence of `sizes` [batch, sequences] tokens,
        0 where an example has fewer. For each continuation, with -1 where an example has fewer:
        `targets` [batch, continuations, steps], `sequence` and `ends` [batch, continuations], the
        sequence that it is read off and how many of its tokens come before the last target;
        `divisors`, what its log-likelihood is divided by.
        """
        chosen = [self.examples[int(i)] for i in indices]
        n, most = len(chosen), max(len(each.pairs) for each in chosen)
        sequences = max(len(each.sequences) for each in chosen)
        longest = max(len(each.sequences[0]) for each in chosen)
        steps = max(len(pair.target) for each in chosen for pair in each.pairs)
        arrays: dict[str, np.ndarray] = {
            "input_ids": np.zeros((n, sequences, longest), dtype=np.int64),
            "sizes": np.zeros((n, sequences), dtype=np.int64),
            "targets": np.full((n, most, steps), -1, dtype=np.int64),
            "sequence": np.zeros((n, most), dtype=np.int64),
            "ends": np.ones((n, most), dtype=np.int64),
            "divisors": np.ones((n, most), dtype=np.float32),
        }
        for row, example in enumerate(chosen):
            for place, sequence in enumerate(example.sequences):
                arrays["input_ids"][row, place, : len(sequence)] = sequence
                arrays["sizes"][row, place] = len(sequence)
            for place, pair in enumerate(example.pairs):
                arrays["targets"][row, place, : len(pair.target)] = pair.target
                arrays["ends"][row, place] = len(pair.read)
                arrays["divisors"][row, place] = pair.length
            arrays["sequence"][row, : len(example.places)] = example.places
        return {name: moved(torch.from_numpy(array), device) for name, array in arrays.items()}
