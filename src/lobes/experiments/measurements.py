"""Results of costly computations, each kept as one Parquet file with a checksum."""

import hashlib
import io
import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

import numpy as np

from lobes.files import fingerprint, first_line, writing

logger = logging.getLogger("lobes")

Arrays = dict[str, np.ndarray]
Writing = Callable[[Path], AbstractContextManager[IO[bytes]]]


class NotMeasured(Exception):
    """There is no stored result."""


class Measurements:
    """Results of costly computations, kept as Parquet files in a folder.

    `scope` says what the measurements are of (a fingerprint of the model and the data): results
    of another scope are never returned. `writing` is how a file is written there.
    """

    def __init__(self, folder: Path, scope: str, writing: Writing = writing) -> None:
        self.folder = folder
        self.scope = scope
        self._writing = writing
        self._seconds: dict[str, float] = {}

    def remember(self, key: str, compute: Callable[[], Arrays]) -> Arrays:
        """The stored result for `key`, or that of `compute()`, which is then stored.

        A stored result that cannot be read in full, or whose checksum is wrong, is measured
        again, with a warning.
        """
        path = self.folder / self._file_name(key)
        stored = self._load(path, key)
        if stored is not None:
            return stored
        start = time.perf_counter()
        arrays = {name: np.asarray(array) for name, array in compute().items()}
        self._seconds[key] = time.perf_counter() - start
        notes = {"key": key, "scope": self.scope, "seconds": self._seconds[key]}
        content = _to_parquet(arrays, notes)
        with self._writing(path) as file:
            file.write(content)
        return arrays

    def recall(self, key: str, compute: object = None) -> Arrays:
        """The stored result for `key`, where `remember` would compute none: else `NotMeasured`."""
        stored = self._load(self.folder / self._file_name(key), key)
        if stored is None:
            raise NotMeasured(key)
        return stored

    @property
    def seconds(self) -> Mapping[str, float]:
        """{key: how long its result took to measure, in whichever session}."""
        return dict(self._seconds)

    def _file_name(self, key: str) -> str:
        slug = "".join(c if c.isascii() and (c.isalnum() or c in "._") else "-" for c in key)
        digest = hashlib.sha256(f"{self.scope}\0{key}".encode()).hexdigest()
        return f"{slug[:60]}-{digest[:16]}.parquet"

    def _load(self, path: Path, key: str) -> Arrays | None:
        if not path.exists():
            return None
        try:
            arrays, notes = _from_parquet(path.read_bytes())
            if (notes["key"], notes["scope"]) != (key, self.scope):
                raise ValueError("it belongs to another measurement")
        except Exception as error:  # pyarrow raises many kinds for a damaged file
            logger.warning("%s is damaged (%s); measured again.", path, first_line(error))
            return None
        self._seconds[key] = notes["seconds"]
        return arrays


def _to_parquet(arrays: Arrays, notes: Mapping[str, Any]) -> bytes:
    """Arrays of any shapes as one Parquet table: a row for each, its values as a list."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = []
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub" or array.dtype == np.float16:
            raise TypeError(f"Cannot store {name!r}: an array of numbers, not of {array.dtype}.")
        flat = array.ravel().tolist()
        whole = array.dtype.kind != "f"
        rows.append(
            {
                "name": name,
                "dtype": array.dtype.str,
                "shape": list(array.shape),
                "integers": [int(value) for value in flat] if whole else None,
                "numbers": None if whole else flat,
            }
        )
    schema = pa.schema(
        [
            ("name", pa.string()),
            ("dtype", pa.string()),
            ("shape", pa.list_(pa.int64())),
            ("integers", pa.list_(pa.int64())),
            ("numbers", pa.list_(pa.float64())),
        ]
    )
    notes = {**notes, "checksum": _checksum(arrays, notes)}
    table = pa.Table.from_pylist(rows, schema).replace_schema_metadata({"lobes": json.dumps(notes)})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
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
