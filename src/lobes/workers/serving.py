"""A worker: it connects to its driver, computes the jobs that it is given, and ends with it."""

import contextlib
import importlib
import json
import logging
import os
import queue
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from lobes.errors import LobesError, first_line
from lobes.files import full_disk, says_full
from lobes.progress import Progress
from lobes.workers.connected import connect
from lobes.workers.messages import Message, facts

# Seconds between two reports on one job.
_EVERY = 0.5

Compute = Callable[[Any, Progress], Any]
logger = logging.getLogger("lobes")


def found(entry: str) -> Callable[[Any], Compute]:
    """Return what `entry`, "module:name", names: a function that makes a `Compute` of a spec."""
    module, name = entry.split(":")
    return getattr(importlib.import_module(module), name)


def hello(entry: str) -> dict[str, Any]:
    """Return what a worker says of itself: `messages.facts`, and what its entry adds."""
    more = getattr(found(entry), "facts", dict)
    return {**facts(), **more()}


def attempted(compute: Callable[[], Any], done: str) -> Message:
    """Return (done, value), or what failed as ("failed", the error's class, its message).

    Memory that is not there ends a worker, so that its job can go to another.
    """
    try:
        return done, compute()
    except Exception as error:
        traceback.print_exc()  # into the worker's log
        if isinstance(error, LobesError):
            return "failed", type(error).__name__, str(error)
        if says_full(error):
            place = getattr(error, "filename", None) or tempfile.gettempdir()
            return "failed", "RunError", full_disk(place)
        if _is_out_of_memory(error):
            return "gone", f"it ran out of memory ({first_line(error)})"
        return "failed", "", f"{type(error).__name__}: {first_line(error)}"


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(
        words in text for words in ("out of memory", "can't allocate memory", "cannot allocate")
    )


class Reporter:
    """A `Progress` that tells of one job, not more often than is worth it."""

    def __init__(self, tell: Callable[[int, int], None]) -> None:
        self.tell = tell
        self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last >= _EVERY:
            self._last = now
            self.tell(done, total)


def serve(address: Any, key: bytes, number: int, entry: str) -> None:
    """Work for the driver at `address` until it ends."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    with contextlib.suppress(ValueError):  # of a thread that is not the first
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, which ends this
    connection = connect(address, key)
    inbox: queue.Queue[Message] = queue.Queue()
    threading.Thread(target=_listen, args=(connection, inbox), daemon=True).start()
    connection.send(("hello", number, hello(entry)))  # the number for the first message only
    report = partial(Reporter, lambda done, total: connection.send(("progress", done, total)))
    made: dict[str, Compute] = {}
    said: Message = ("hello",)
    while said[0] != "gone":
        told, what = inbox.get()
        if told == "begin":  # again where a study is trained, then measured
            said = attempted(lambda: made.update(compute=found(entry)(what)), "ready")  # noqa: B023
        else:
            said = attempted(partial(made["compute"], what, report()), "done")
        connection.send(said)


def _listen(connection: Connection, inbox: "queue.Queue[Message]") -> None:
    """Take messages; without a driver there is nothing left to do."""
    try:
        while True:
            inbox.put(connection.recv())
    except (EOFError, OSError):
        os._exit(0)


def main() -> None:
    """Serve the driver that the first line of standard input names."""
    told = json.loads(sys.stdin.readline())
    serve(told["address"], bytes.fromhex(told["key"]), told["number"], told["entry"])


if __name__ == "__main__":
    main()
