"""Compute the steps of an experiment: each once, kept in a Parquet file, and timed."""

import hashlib
import io
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

import numpy as np

from lobes.errors import first_line
from lobes.files import fingerprint, writing
from lobes.measure.steps import Arrays, Plan, Result, Step, carry_out, missing
from lobes.progress import Progress, StageProgress

logger = logging.getLogger("lobes")

Writing = Callable[[Path], AbstractContextManager[IO[bytes]]]
Elsewhere = Callable[[Sequence[Plan[Any]], "Measurements"], list[Any]]


class Measurements:
    """What an experiment computes once: its steps' arrays, kept as Parquet files in a folder.

    `run` carries a plan out: a step whose arrays are kept is not computed again, those of any
    other step are kept as soon as they are there. So an experiment that was interrupted goes on,
    and ends with the same numbers. `pending` lists what is still to be computed.

    `scope` says what the measurements are of (a fingerprint of the model and the data): arrays of
    another scope are never returned. `writing` is how a file is written into the folder.
    `elsewhere` gives the results of plans where other processes compute their steps.
    """

    def __init__(
        self,
        folder: Path,
        scope: str,
        writing: Writing = writing,
        progress: StageProgress | None = None,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self.folder = folder
        self.scope = scope
        self.progress = progress
        self._writing = writing
        self._elsewhere = elsewhere
        # (stage, task, seconds) of each; no steps, which would keep their models alive
        self._seconds: dict[Path, tuple[str, str, float]] = {}

    def run(self, plan: Plan[Result]) -> Result:
        """Return the result of a plan, from the steps that are kept and those it computes now."""
        return self.run_all([plan])[0]

    def run_all(self, plans: Sequence[Plan[Result]]) -> list[Result]:
        """Return the results of plans that do not depend on each other."""
        if self._elsewhere is None:
            return [carry_out(plan, self.measure) for plan in plans]
        return self._elsewhere(plans, self)

    def pending(self, *plans: Plan[Any]) -> list[Step]:
        """Return the steps of these plans that are not kept and can be computed now, in any order.

        Steps that need the arrays of one of them are not among them. Nothing is computed.
        """
        return [step for plan in plans for step in missing(plan, self.load)]

    def measure(self, step: Step) -> Arrays:
        """Return a step's arrays, kept or computed now and then kept.

        Arrays that cannot be read in full, or whose checksum is wrong, are computed again, with a
        warning.
        """
        report = step.reporting(self.progress)
        arrays = self.load(step)
        if arrays is None:
            if step.share is not None:
                report(0, 1)
            arrays = self._computed(step, report)
        elif not step.is_last:
            return arrays  # not reported: the time left is estimated from what is computed now
        if step.share is not None:
            report(1, 1)
        return arrays

    def _computed(self, step: Step, report: Progress) -> Arrays:
        start = time.perf_counter()
        arrays = {name: np.asarray(array) for name, array in step.compute(report).items()}
        self.keep(step, arrays, time.perf_counter() - start)
        return arrays

    def keep(self, step: Step, arrays: Arrays, seconds: float) -> None:
        """Keep a step's arrays, which took so many seconds."""
        path = self._path(step)
        notes = {"key": step.key, "scope": self._scope(step), "seconds": seconds}
        content = _to_parquet(arrays, notes)
        with self._writing(path) as file:
            file.write(content)
        self._seconds[path] = step.stage, step.task, seconds

    @property
    def seconds_by_stage(self) -> dict[str, float]:
        """{stage: how long its steps took, in whichever session}, of what was measured so far."""
        found: dict[str, float] = {}
        for stage, _, seconds in self._seconds.values():
            found[stage] = found.get(stage, 0.0) + seconds
        return found

    def seconds_by_task(self, stage: str) -> dict[str, float]:
        """Return {task: how long its steps of one stage took}."""
        found: dict[str, float] = {}
        for other, task, seconds in self._seconds.values():
            if other == stage:
                found[task] = found.get(task, 0.0) + seconds
        return found

    def _scope(self, step: Step) -> str:
        return fingerprint(self.scope, step.scope) if step.scope else self.scope

    def _path(self, step: Step) -> Path:
        slug = "".join(c if c.isascii() and (c.isalnum() or c in "._") else "-" for c in step.key)
        digest = hashlib.sha256(f"{self._scope(step)}\0{step.key}".encode()).hexdigest()
        return self.folder / f"{slug[:60]}-{digest[:16]}.parquet"

    def load(self, step: Step) -> Arrays | None:
        """Return the arrays of a step that are kept; None where there are none, or damaged."""
        path = self._path(step)
        if not path.exists():
            return None
        try:
            arrays, notes = _from_parquet(path.read_bytes())
            if (notes["key"], notes["scope"]) != (step.key, self._scope(step)):
                raise ValueError("it belongs to another measurement")
        except Exception as error:  # pyarrow raises many kinds for a damaged file
            logger.warning("%s is damaged (%s); measured again.", path, first_line(error))
            return None
        self._seconds[path] = step.stage, step.task, notes["seconds"]
        return arrays


def stored(path: Path) -> tuple[str, Arrays] | None:
    """Return the key and the arrays of a file that `Measurements` wrote; None where damaged."""
    try:
        arrays, notes = _from_parquet(path.read_bytes())
        return str(notes["key"]), arrays
    except Exception:  # pyarrow raises many kinds for a damaged file
        return None


def _to_parquet(arrays: Arrays, notes: Mapping[str, Any]) -> bytes:
    """Arrays of any shapes as one Parquet table: a row for each, its values as a list."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name, array in arrays.items():
        if array.dtype.kind not in "fiub" or array.dtype == np.float16:
            raise TypeError(f"Cannot store {name!r}: an array of numbers, not of {array.dtype}.")
    whole = {name: array for name, array in arrays.items() if array.dtype.kind != "f"}
    broken = {name: array for name, array in arrays.items() if array.dtype.kind == "f"}

    def lists(kept: Arrays, kind: Any) -> Any:
        """A list for each array; null where it is not one of these."""
        sizes = [kept[name].size if name in kept else 0 for name in arrays]
        values = [array.ravel().astype(kind) for array in kept.values()]
        return pa.ListArray.from_arrays(
            pa.array(np.cumsum([0, *sizes]), pa.int32()),
            pa.array(np.concatenate([np.empty(0, kind), *values])),
            mask=pa.array([name not in kept for name in arrays], pa.bool_()),
        )

    columns = {
        "name": pa.array([*arrays], pa.string()),
        "dtype": pa.array([array.dtype.str for array in arrays.values()], pa.string()),
        "shape": pa.array([list(array.shape) for array in arrays.values()], pa.list_(pa.int64())),
        "integers": lists(whole, np.int64),
        "numbers": lists(broken, np.float64),
    }
    notes = {**notes, "checksum": _checksum(arrays, notes)}
    table = pa.table(columns).replace_schema_metadata({"lobes": json.dumps(notes)})
    buffer = io.BytesIO()
    # a dictionary of numbers that hardly repeat would take most of the time
    pq.write_table(table, buffer, compression="zstd", use_dictionary=False, write_statistics=False)
    return buffer.getvalue()


def _from_parquet(content: bytes) -> tuple[Arrays, dict[str, Any]]:
    """What `_to_parquet` wrote: the arrays and the notes. Raises for a damaged file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(pa.BufferReader(content))
    notes = json.loads(table.schema.metadata[b"lobes"])
    arrays = {}
    for i, name in enumerate(table["name"].to_pylist()):
        dtype = np.dtype(table["dtype"][i].as_py())
        values = table["numbers" if dtype.kind == "f" else "integers"][i].values
        flat = values.to_numpy(zero_copy_only=False).astype(dtype)
        arrays[name] = flat.reshape(table["shape"][i].as_py())
    if _checksum(arrays, notes) != notes["checksum"]:
        raise ValueError("its checksum does not fit")
    return arrays, notes


def _checksum(arrays: Arrays, notes: Mapping[str, Any]) -> str:
    about = json.dumps({key: value for key, value in notes.items() if key != "checksum"})
    return fingerprint(about, *(part for item in arrays.items() for part in item))
