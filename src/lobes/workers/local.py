"""Workers on this machine: a process each, with its share of the cores or GPUs."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lobes.workers.messages import last_words


class LocalLauncher:
    """Starts worker processes of this machine; what they print goes into `logs`.

    `gpus` are the devices that each worker sees, None for those of this process.
    """

    host = None

    def __init__(
        self, entry: str, number: int, logs: Path, gpus: list[list[str]] | None = None
    ) -> None:
        self.entry = entry
        self.logs = logs
        self.gpus = gpus
        self.threads = max(1, cores() // number)
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, workers: Sequence[int], address: Any, key: bytes) -> None:
        """Start processes."""
        for worker in workers:
            self._start(worker, {"address": address, "key": key.hex(), "entry": self.entry})

    def _start(self, worker: int, told: dict[str, Any]) -> None:
        environment = {
            **os.environ,
            # so that it runs the code that this process runs
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "OMP_NUM_THREADS": str(self.threads),
            "MKL_NUM_THREADS": str(self.threads),
        }
        if self.gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpus[worker])
        self.logs.mkdir(parents=True, exist_ok=True)
        with open(self.logs / f"worker-{worker}.log", "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "lobes.workers.serving"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the driver
            )
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps({**told, "number": worker}).encode() + b"\n")
            process.stdin.close()
        except BrokenPipeError:
            pass  # it has ended, as `ended` will find
        self._processes[worker] = process

    def ended(self, worker: int) -> str | None:
        """Return how a process ended."""
        process = self._processes.get(worker)
        code = None if process is None else process.poll()
        if code is None:
            return None
        log = self.logs / f"worker-{worker}.log"
        if code < 0:
            name = signal.Signals(-code).name
            memory = ", as where memory runs out" if -code == signal.SIGKILL else ""
            return f"it was ended by the signal {name}{memory}"
        return f"it exited with code {code}{last_words(log)}"

    @property
    def awaited(self) -> str:
        """What workers that have not begun wait for."""
        return f"see {self.logs}"

    def stop(self, worker: int) -> None:
        """Kill a process: it holds nothing that is not computed again."""
        process = self._processes.pop(worker, None)
        if process is not None:
            process.kill()
            process.wait()


def cores() -> int:
    """Return how many cores this process may use, or as many threads as OMP_NUM_THREADS says."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdigit() and int(told) > 0:
        return int(told)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def shares(devices: list[str], number: int, each: int) -> list[list[str]] | None:
    """Return which GPUs each of `number` workers sees, `each` of them; None without GPUs.

    Where there are fewer than that, workers share them in turn.
    """
    if not devices:
        return None
    return [[devices[(w * each + i) % len(devices)] for i in range(each)] for w in range(number)]
