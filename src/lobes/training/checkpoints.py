"""Checkpoints on disk: write and read them, verify them, find the newest, remove old ones.

A checkpoint is a folder `checkpoint-STEP`. Its `digests.json` is written last: the size and the
SHA-256 of every other file. A folder without it was interrupted; one whose files differ from it is
damaged. Only a checkpoint that passes this check is resumed from.
"""

import contextlib
import json
import logging
import os
import pickle
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import TrainerState

from lobes.errors import LobesError, RunError, first_line
from lobes.files import digest_of, to_json, writing
from lobes.modeling.saved import matching_specs, read_card
from lobes.tasks.task import TaskSpec

STATE = "trainer_state.json"
LOSSES = "losses.json"
DIGESTS = "digests.json"
PARTS = ("lobes.json", LOSSES, "scheduler.pt", STATE, DIGESTS)
OPTIMIZERS = ("optimizer.pt", "optimizer.bin", "optimizer_0")  # the last two are FSDP's
# lies in a checkpoint of transformers' `enable_jit_checkpoint` while it is written
_SENTINEL = "checkpoint-is-incomplete.txt"
SCHEMA = {"schema": "lobes-checkpoint", "version": 1}

logger = logging.getLogger("lobes")


def last_checkpoint(folder: str | os.PathLike[str]) -> Path | None:
    """Return the complete checkpoint with the most steps in a run's folder; None if there is none.

    Its files are not read: `intact_checkpoint` does that.
    """
    return next((path for path in _newest_first(folder) if is_complete(path)), None)


def intact_checkpoint(folder: str | os.PathLike[str]) -> Path | None:
    """Return the newest checkpoint whose files are as they were written; None if there is none.

    A damaged one is named in a warning and passed over.
    """
    damaged = []
    path: Path | None
    for path in _newest_first(folder):
        if not (path / DIGESTS).exists():
            continue  # interrupted while it was written
        damage = damage_of(path)
        if damage is None:
            break
        damaged.append(f"The checkpoint {path} is damaged ({damage})")
    else:
        path = None
    if damaged:
        onward = "starts from the beginning" if path is None else f"goes on from {path.name}"
        logger.warning("%s; training %s.", "; ".join(damaged), onward)
    return path


def is_complete(checkpoint: Path) -> bool:
    """Return whether a checkpoint was written to the end; its content is not compared."""
    return (
        all((checkpoint / part).is_file() for part in PARTS)
        and any((checkpoint / name).exists() for name in OPTIMIZERS)
        and any(checkpoint.glob("rng_state*.pth"))
        and steps_of(checkpoint) is not None
    )


def damage_of(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint's files, in a few words; None for an intact one."""
    recorded = _recorded(checkpoint)
    if recorded is None:
        return f"{DIGESTS} is not what lobes writes"
    for name, entry in recorded.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        try:
            if [path.stat().st_size, digest_of(path)] != entry:
                return f"{name} is not as it was written"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    if not is_complete(checkpoint):
        return "it holds no optimizer, schedule or random state to go on from"
    return None


def check_intact(checkpoint: Path) -> None:
    """Raise `RunError` for a checkpoint that was not written to the end, or was damaged."""
    if not is_complete(checkpoint):
        raise RunError(
            f"{str(checkpoint)!r} is not a complete checkpoint: expected a folder that "
            f"holds {', '.join((*PARTS, OPTIMIZERS[0]))}."
        )
    damage = damage_of(checkpoint)
    if damage is not None:
        raise RunError(
            f"The checkpoint {str(checkpoint)!r} is damaged ({damage}): continue from another "
            f"one, or train from the beginning."
        )


def complete(checkpoint: Path) -> None:
    """Record the size and the SHA-256 of every file: the checkpoint is whole from now on."""
    files = {
        path.relative_to(checkpoint).as_posix(): [path.stat().st_size, digest_of(path)]
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path.name not in (DIGESTS, _SENTINEL)
    }
    with writing(checkpoint / DIGESTS) as file:
        file.write(to_json({**SCHEMA, "files": files}))


def rotate(newest: Path, limit: int | None, best: str | os.PathLike[str] | None = None) -> None:
    """Remove the oldest complete checkpoints beside `newest`, until `limit` are left.

    `newest` and `best` stay. A limit of None or below 1 keeps all. Folders that `complete` never
    saw stay too: somebody else may have written them.
    """
    if limit is None or limit < 1:
        return
    kept = {newest, newest.parent / Path(best).name} if best else {newest}
    others = [path for path in _newest_first(newest.parent) if path not in kept]
    found = sorted(
        ((path / DIGESTS).stat().st_mtime_ns, path) for path in others if (path / DIGESTS).is_file()
    )
    for _, path in found[: max(0, len(found) + len(kept) - limit)]:
        discard(path)


def steps_of(checkpoint: Path) -> int | None:
    """Return how many optimizer steps a checkpoint has behind it; None if it does not say."""
    try:
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        return int(state["global_step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def discard(checkpoint: Path) -> None:
    """Remove a checkpoint; what is left of it if that is interrupted counts as incomplete."""
    (checkpoint / DIGESTS).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)


def checkpoint_of(
    wanted: str | os.PathLike[str] | bool | None,
    folder: str | os.PathLike[str],
    tasks: Sequence[TaskSpec],
) -> Path | None:
    """Return the checkpoint that is wanted, or for True the newest intact one in `folder`.

    Raises `RunError` for one that is damaged, `ModelError` for one of other tasks.
    """
    if wanted is None or wanted is False:
        return None
    found = intact_checkpoint(folder) if wanted is True else Path(wanted)
    if found is None:
        return None
    if wanted is not True:
        check_intact(found)
    matching_specs(found, read_card(found).tasks, tasks)
    return found


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write what `read_record` reads: "losses", "pending" and "iat" of a training so far."""
    (folder / LOSSES).write_text(json.dumps(record), encoding="utf-8")


def read_record(checkpoint: Path | None) -> dict[str, Any]:
    """Return the record of a checkpoint, or that of a training that begins.

    Raises `RunError` where it cannot be read, nor the Trainer's own state.
    """
    if checkpoint is None:
        return {"losses": [], "pending": {}, "iat": None}
    with reading(checkpoint):
        record = json.loads((checkpoint / LOSSES).read_text(encoding="utf-8"))
        TrainerState.load_from_json(os.fspath(checkpoint / STATE))
        return {
            "losses": record["losses"],
            "pending": record["pending"],
            "iat": record.get("iat"),
        }


@contextlib.contextmanager
def writing_checkpoint(checkpoint: Path) -> Iterator[None]:
    """Remove a checkpoint that cannot be written, and say in one sentence why and what to do."""
    try:
        yield
    except LobesError:
        raise
    except (OSError, RuntimeError, SafetensorError) as error:
        discard(checkpoint)
        raise RunError(
            f"The checkpoint {str(checkpoint)!r} could not be written ({error}): make room or "
            f"choose another folder, then run the same command again to continue."
        ) from error


@contextlib.contextmanager
def reading(checkpoint: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what libraries say of a checkpoint that they cannot read into one sentence.

    PyTorch's own message advises to load pickles, which would run code from the checkpoint.
    """
    try:
        yield
    except LobesError:
        raise
    except Exception as error:
        held = f"{type(error).__name__}: {first_line(error)}"
        if isinstance(error, pickle.UnpicklingError):
            held = "it holds Python objects other than tensors, which lobes never loads"
        raise RunError(
            f"The checkpoint {os.fspath(checkpoint)!r} does not fit this training ({held}): remove "
            f"it to go on from an earlier one, or from the beginning."
        ) from error


def _newest_first(folder: str | os.PathLike[str]) -> list[Path]:
    """The folders `checkpoint-STEP`, the one with the most steps first; links are left out."""
    if not Path(folder).is_dir():
        return []
    found = [
        (int(match[1]), path)
        for path in Path(folder).iterdir()
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name))
        and path.is_dir()
        and not path.is_symlink()
    ]
    return [path for _, path in sorted(found, reverse=True)]


def _recorded(checkpoint: Path) -> dict[str, Any] | None:
    """{file: [size, SHA-256]} of `complete`; None where that is missing or damaged."""
    try:
        record = json.loads((checkpoint / DIGESTS).read_bytes())
        files = record["files"]
        return files if record["schema"] == SCHEMA["schema"] and files.items() else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
