"""Workers that connect to their driver by a socket, and show that they know its key."""

import contextlib
import os
import queue
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Sequence
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge, wait
from typing import Any, Protocol, runtime_checkable

from lobes.errors import RunError, first_line
from lobes.workers.messages import Message

# Seconds after which it is looked whether a worker that has not connected yet is still there.
_LOOK = 0.5
# Seconds that a connection has to show that it knows the key.
_SOON = 30.0


@runtime_checkable
class Launcher(Protocol):
    """Starts the processes of workers, and knows which of them ended."""

    @property
    def host(self) -> str | None:
        """The name by which workers find this machine; None where they are on it."""

    def start(self, workers: Sequence[int], address: Any, key: bytes) -> None:
        """Start workers that will connect to `address`."""

    @property
    def awaited(self) -> str:
        """What workers that have not begun wait for."""

    def ended(self, worker: int) -> str | None:
        """Return why a worker's process has ended, in words; None while it has not."""

    def stop(self, worker: int) -> None:
        """End a worker's process."""


class ConnectedExecutor:
    """An `Executor` of workers that a launcher starts, and that connect to a socket here."""

    def __init__(self, launcher: Launcher) -> None:
        self.launcher = launcher
        self._key = secrets.token_bytes(32)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if launcher.host is None and hasattr(socket, "AF_UNIX"):
            # nobody else can look into it
            self._folder = tempfile.TemporaryDirectory(prefix="lobes-", ignore_cleanup_errors=True)
            self._address: Any = os.path.join(self._folder.name, "driver")
            self._server = socket.socket(socket.AF_UNIX)
            self._server.bind(self._address)
        else:
            self._server = socket.socket(socket.AF_INET)
            self._server.bind(("127.0.0.1" if launcher.host is None else "", 0))
            name = launcher.host or "127.0.0.1"
            self._address = [name, self._server.getsockname()[1]]
        self._server.listen(128)
        self._arrived: queue.SimpleQueue[tuple[int, Connection, Message]] = queue.SimpleQueue()
        self._bell, self._rung = socket.socketpair()
        self._connections: dict[int, Connection] = {}
        self._awaited: set[int] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def start(self, workers: Sequence[int]) -> None:
        """Start workers."""
        self._awaited.update(workers)
        self.launcher.start(workers, self._address, self._key)

    def send(self, worker: int, message: Message) -> None:
        """Say something to a worker; one that has ended is found out by `receive`."""
        with contextlib.suppress(OSError):
            self._connections[worker].send(message)

    def receive(self, timeout: float) -> list[tuple[int, Message]]:
        """Return what workers said, after `timeout` seconds at most."""
        heard: list[tuple[int, Message]] = []
        numbers = {connection: number for number, connection in self._connections.items()}
        limit = min(timeout, _LOOK) if self._awaited else timeout
        for ready in wait([*numbers, self._rung], limit):
            if ready is self._rung:
                heard += self._arrivals()
            else:
                heard.append(self._heard(numbers[ready]))  # type: ignore[index]
        for worker in sorted(self._awaited):
            why = self.launcher.ended(worker)
            if why is not None and not self._is_arriving():
                self._awaited.discard(worker)
                heard.append((worker, ("gone", why)))
        return heard

    def stop(self, worker: int) -> None:
        """End a worker at once."""
        self._awaited.discard(worker)
        connection = self._connections.pop(worker, None)
        if connection is not None:
            connection.close()
        self.launcher.stop(worker)

    @property
    def awaited(self) -> str:
        """What workers that have not begun wait for."""
        return self.launcher.awaited

    def close(self) -> None:
        """End all workers."""
        for worker in {*self._connections, *self._awaited}:
            self.stop(worker)
        for each in (self._server, self._bell, self._rung):
            each.close()
        if self._folder is not None:
            self._folder.cleanup()

    def _heard(self, worker: int) -> tuple[int, Message]:
        try:
            return worker, self._connections[worker].recv()
        except (EOFError, OSError):
            self._connections.pop(worker).close()
            why = self.launcher.ended(worker)
            for _ in range(20):  # the system closes its files before it is known to have ended
                if why is not None:
                    break
                time.sleep(0.05)
                why = self.launcher.ended(worker)
            self.launcher.stop(worker)
            return worker, ("gone", why or "its connection broke")

    def _arrivals(self) -> list[tuple[int, Message]]:
        self._rung.recv(4096)
        heard = []
        while not self._arrived.empty():
            worker, connection, message = self._arrived.get()
            if worker in self._awaited:
                self._awaited.discard(worker)
                self._connections[worker] = connection
                heard.append((worker, message))
            else:
                connection.close()
        return heard

    def _is_arriving(self) -> bool:
        return not self._arrived.empty()

    def _accept(self) -> None:
        """Take connections; each shows in a thread of its own that it knows the key."""
        while True:
            try:
                accepted, _ = self._server.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._admit, args=(accepted,), daemon=True).start()

    def _admit(self, accepted: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError, AuthenticationError, ValueError):
            accepted.settimeout(None)
            if accepted.family == socket.AF_INET:
                _stay(accepted)
            connection = Connection(accepted.detach())
            late = threading.Timer(_SOON, connection.close)
            late.start()
            try:
                deliver_challenge(connection, self._key)
                answer_challenge(connection, self._key)
            finally:
                late.cancel()
            said, worker, about = connection.recv()
            self._arrived.put((int(worker), connection, (said, about)))
            self._bell.send(b"!")


def connect(address: Any, key: bytes) -> Connection:
    """Return a worker's connection to its driver.

    Raises `RunError` where there is none at the address.
    """
    try:
        if isinstance(address, str):
            plain = socket.socket(socket.AF_UNIX)
            plain.connect(address)
        else:
            plain = socket.create_connection((address[0], int(address[1])), timeout=_SOON)
            plain.settimeout(None)
            _stay(plain)
    except OSError as error:
        where = address if isinstance(address, str) else f"{address[0]}, port {address[1]}"
        raise RunError(
            f"The worker on {socket.gethostname()} cannot connect to its driver at {where} "
            f"({first_line(error)}): give the name by which it finds the driver's machine with "
            f"--worker-option host=NAME, unless the driver has ended."
        ) from error
    connection = Connection(plain.detach())
    answer_challenge(connection, key)
    deliver_challenge(connection, key)
    return connection


def _stay(plain: socket.socket) -> None:
    """Let a connection break within two minutes where the other machine is gone without a word."""
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    seconds = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
    for name, value in seconds.items():
        if hasattr(socket, name):  # all but Windows and older macOS
            plain.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # of what was sent and is not answered
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 120_000)
