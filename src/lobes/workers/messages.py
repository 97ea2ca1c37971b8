"""What a driver and its workers say to each other, and whether they can work together.

A worker says "hello" with facts about itself, is told to "begin", says "ready", and gets jobs. Of
a job it says "progress", then "done" with its value or "failed". An executor adds "gone" for a
worker that ended.
"""

import platform
import re
import socket
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

# (what is said, the rest)
Message = tuple[Any, ...]

# Distributions that change numbers, or what is said: driver and workers have the same.
_SAME = ("lobes", "torch", "transformers", "tokenizers", "numpy")


def versions() -> dict[str, str]:
    """Return the versions that driver and workers must share."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in _SAME:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def facts() -> dict[str, Any]:
    """Return what a worker says of itself first."""
    return {"versions": versions(), "host": socket.gethostname()}


def what_differs(theirs: Mapping[str, Any]) -> str:
    """Return in which versions a worker differs from this process, in words; "" for none."""
    ours = versions()
    return ", ".join(
        f"{name} {theirs.get(name)} there and {ours[name]} here"
        for name in ours
        if theirs.get(name) != ours[name]
    )


def last_words(log: Path) -> str:
    """Return the last line of a worker's log, as the end of a sentence."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - 10_000))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return f", and there is no log {log}"
    line = next((line.strip() for line in reversed(lines) if line.strip()), "")
    said = re.sub(r"^[\w.]*(Error|Exception): ", "", line).rstrip(".")
    return f", and {log} says why: {said[:300]}" if said else f", and {log} is empty"
