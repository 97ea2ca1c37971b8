"""Checkpoints on disk: which are complete, which is the newest, and how one is taken away.

A checkpoint is a folder `checkpoint-STEP`. Its `trainer_state.json` is written last, so one that
was interrupted has none that can be read.
"""

import json
import os
import re
import shutil
from pathlib import Path

STATE = "trainer_state.json"
LOSSES = "losses.json"
PARTS = ("lobes.json", LOSSES, "scheduler.pt", STATE)
OPTIMIZERS = ("optimizer.pt", "optimizer.bin", "optimizer_0")  # the last two are FSDP's


def last_checkpoint(folder: str | os.PathLike[str]) -> Path | None:
    """The complete checkpoint with the most steps in a run's folder; None where there is none."""
    if not Path(folder).is_dir():
        return None
    found = [
        (int(match[1]), path)
        for path in Path(folder).iterdir()
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name)) and is_complete(path)
    ]
    return max(found)[1] if found else None


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to the end."""
    return (
        all((checkpoint / part).is_file() for part in PARTS)
        and any((checkpoint / name).exists() for name in OPTIMIZERS)
        and any(checkpoint.glob("rng_state*.pth"))
        and steps_of(checkpoint) is not None
    )


def steps_of(checkpoint: Path) -> int | None:
    """How many optimizer steps a checkpoint has behind it; None where it does not say."""
    try:
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        return int(state["global_step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def discard(checkpoint: Path) -> None:
    """Remove a checkpoint; what is left of it if that is interrupted counts as incomplete."""
    (checkpoint / STATE).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)
