"""Compare the speed of two models on the same inputs."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lobes.discovery import guess_inputs
from lobes.errors import ConfigError
from lobes.progress import Progress

BATCH, LENGTH = 8, 128
_ROUNDS, _WARM_UP = (7, 100), 2
_TEXT = ("input_ids", "attention_mask", "token_type_ids", "decoder_input_ids")


@dataclass(frozen=True)
class Speed:
    """Seconds for one forward pass of each of two models, round by round: `seconds` [rounds, 2].

    `shapes` are those of the inputs.
    """

    seconds: np.ndarray
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def ratios(self) -> tuple[float, float, float]:
        """How many times as fast the second is: first quartile, median, third, of the rounds."""
        low, middle, high = np.quantile(self.seconds[:, 0] / self.seconds[:, 1], (0.25, 0.5, 0.75))
        return float(low), float(middle), float(high)

    @property
    def fastest(self) -> tuple[float, float]:
        """The shortest time of each, the least disturbed by what else runs on the machine."""
        before, after = self.seconds.min(axis=0)
        return float(before), float(after)

    def to_dict(self) -> dict[str, Any]:
        """Return what was measured, and on what, as JSON takes it."""
        return {
            "seconds": self.fastest,
            "ratio": self.ratios[1],
            "ratio_quartiles": self.ratios[::2],
            "rounds": len(self.seconds),
            "inputs": {name: list(shape) for name, shape in self.shapes.items()},
            "threads": torch.get_num_threads(),
        }


@torch.no_grad()
def compare_speed(
    before: nn.Module,
    after: nn.Module,
    inputs: Mapping[str, Tensor],
    progress: Progress | None = None,
    *,
    seconds: float = 4.0,
) -> Speed:
    """Time both models in turn, in one process, the order changing from round to round.

    What else runs on the machine then slows both about alike; the first rounds do not count. It
    takes about so many `seconds`, and 7 to 100 rounds.
    """
    models, rounds = (before, after), []
    start = time.perf_counter()
    for number in range(-_WARM_UP, _ROUNDS[1]):
        row = [0.0, 0.0]
        for which in (0, 1) if number % 2 else (1, 0):
            begin = time.perf_counter()
            models[which](**inputs)
            row[which] = time.perf_counter() - begin
        if number >= 0:
            rounds.append(row)
        if progress:
            progress(min(number + 1 + _WARM_UP, _ROUNDS[0]), _ROUNDS[0])
        if len(rounds) >= _ROUNDS[0] and time.perf_counter() - start > seconds:
            break
    shapes = {name: tuple(value.shape) for name, value in inputs.items()}
    return Speed(np.array(rounds), shapes)


def timing_inputs(model: nn.Module, length: int | None = None) -> dict[str, Tensor]:
    """Return what `model` is timed on: guessed inputs, 8 at a time, texts of `length` tokens.

    Texts have 128 tokens where no length is given, or as few as the guess where the model takes no
    more. Raises `ConfigError` for a length that it does not take, or where it reads no text.
    """
    guessed = guess_inputs(model)
    if length is not None and "input_ids" not in guessed:
        raise ConfigError(
            f"{type(model).__name__} reads no text, which --length would be of: leave it out."
        )
    inputs = {name: _repeated(name, value, length or LENGTH) for name, value in guessed.items()}
    if _runs(model, inputs):
        return inputs
    if length is not None:
        raise ConfigError(
            f"{type(model).__name__} cannot read texts of {length} tokens: give a smaller --length."
        )
    return guessed


def _repeated(name: str, value: Any, length: int) -> Tensor:
    """An input for a whole batch, a text repeated until it is long enough."""
    if name in _TEXT and value.dim() == 2:
        value = value.repeat(1, -(-length // value.shape[1]))[:, :length]
    times = -(-BATCH // value.shape[0])
    return value.repeat(times, *[1] * (value.dim() - 1))[:BATCH].contiguous()


@torch.no_grad()
def _runs(model: nn.Module, inputs: Mapping[str, Tensor]) -> bool:
    try:
        model(**inputs)
    except Exception:  # of any kind: too few positions, a picture's tokens repeated, …
        return False
    return True
