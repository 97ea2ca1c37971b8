"""Write a table as a file of any kind that tasks are read from."""

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd


def write_table(path: Path, table: pd.DataFrame | Sequence[Mapping[str, Any]]) -> Path:
    """Write rows as the kind of file that the suffix names, through gzip where it ends in .gz."""
    frame = pd.DataFrame(table)
    kind = path.name.lower().removesuffix(".gz").rsplit(".")[-1]
    if kind == "parquet":
        frame.to_parquet(path)
        return path
    rows = frame.to_dict("records") if isinstance(table, pd.DataFrame) else list(table)
    if kind == "json":
        content = json.dumps(rows, indent=2)
    elif kind == "jsonl":
        content = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    else:
        content = frame.to_csv(index=False, sep="\t" if kind == "tsv" else ",")
    data = content.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path
