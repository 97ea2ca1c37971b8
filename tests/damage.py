"""Damage to files, as disks, copies and other people do it: one damage for each seed.

`damage(folder, generator)` changes one file of a folder, or one value in one of its JSON files,
and says what it did. `within(seconds)` turns a hang into a failure.
"""

import json
import os
import random
import shutil
import signal
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lobes.errors import LobesError

WRONG: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 3, 10**6, 10**9, 10**12, 2**63, 10**40, 1e-300, 1e308),
    *(float("nan"), float("inf"), 0.5, "", "x", "0", "9" * 400, "\ud800", "\x00", "../../..", "/"),
    *([], {}, [None], ["x", 3], [[[[]]]], {"x": {"y": []}}, [10**9], {"0": None}),
)
CONTENTS = (b"", b"{", b"null", b"[]", b"{}", b'"x"', b"\xff\xfe", b"\x00" * 997, b"[" * 100_000)
CONTENTS += (b'{"a":' * 5_000 + b"1" + b"}" * 5_000, b"9" * 5_000, b"\x80\x04\x95.")


class Hang(BaseException):
    """What took too long; no `except Exception` catches it."""


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raise `Hang` where the block takes longer."""

    def stop(*_: object) -> None:
        raise Hang(f"no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(opened: Any, *arguments: Any, **settings: Any) -> str:
    """ "read" or "refused"; any other exception is the finding, and so is no sentence."""
    try:
        opened(*arguments, **settings)
    except LobesError as error:
        sentence = str(error)
        assert "\n" not in sentence, sentence
        assert sentence.endswith((".", "?")), sentence
        assert len(sentence) < 1_500, sentence
        return "refused"
    return "read"


def damage(folder: Path, generator: random.Random, names: Collection[str] = ()) -> str:
    """Damage one file of the folder, if given one of these names, and say which and how."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [path for path in files if path.name in names] or files
    path = generator.choice(files)
    readable = [*JSON_DAMAGE] * 3 if path.suffix == ".json" else []
    kind = generator.choice([*DAMAGE, *readable])
    how = (DAMAGE | JSON_DAMAGE)[kind](path, generator)
    return f"{path.relative_to(folder)}: {kind} {how or ''}"


def _cut(path: Path, generator: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: generator.randrange(len(content) + 1)])


def _flipped(path: Path, generator: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(generator.choice([1, 3, 97])):
        # the beginning of a binary file says what the rest is
        end = generator.choice([16, len(content)])
        place = generator.randrange(min(end, len(content)) or 1)
        content[place : place + 1] = bytes([generator.randrange(256)])
    path.write_bytes(content)


def _replaced(path: Path, generator: random.Random) -> str:
    content = generator.choice(CONTENTS)
    path.write_bytes(content)
    return repr(content[:20])


def _gone(path: Path, generator: random.Random) -> None:
    path.unlink()


def _folder(path: Path, generator: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path, generator: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def _dangling(path: Path, generator: random.Random) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _recoded(path: Path, generator: random.Random) -> None:
    text = path.read_bytes().decode("latin-1")
    path.write_bytes(text.encode(generator.choice(["utf-16", "utf-8-sig", "utf-32"])))


def _exchanged(path: Path, generator: random.Random) -> str:
    """The content of another file of the folder."""
    other = generator.choice(sorted(one for one in path.parent.iterdir() if one.is_file()))
    if other != path:
        shutil.copyfile(other, path)
    return other.name


def _value(path: Path, generator: random.Random) -> str:
    """One value of a JSON file, of any depth, is another; or its key is gone."""
    content = json.loads(path.read_bytes())
    found = [*places(content)]
    if not found:
        return ""
    holder, key = generator.choice(found)
    if generator.random() < 0.1:
        del holder[key]
        how = "is gone"
    else:
        holder[key] = generator.choice(WRONG)
        how = repr(holder[key])[:40]
    path.write_text(json.dumps(content), encoding="utf-8")
    return f"{key} {how}"


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every value of JSON content, as what holds it and its key there."""
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, entry in entries:
        yield value, key
        if isinstance(entry, dict | list):
            # of a long list, such as a vocabulary, the first few
            yield from list(places(entry))[:50]


DAMAGE = {
    "cut": _cut,
    "flipped": _flipped,
    "replaced": _replaced,
    "gone": _gone,
    "a folder": _folder,
    "a pipe": _pipe,
    "a link to nothing": _dangling,
    "recoded": _recoded,
    "exchanged": _exchanged,
}
JSON_DAMAGE = {"value": _value}
