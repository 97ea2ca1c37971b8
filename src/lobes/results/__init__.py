"""The results of a study as types: what the files of a run's folder say.

`files.py` reads and writes them, `tables.py` the Parquet tables beside them. Everything that shows
results, or continues from them, works on these types.
"""

from lobes.results.files import as_bytes, checked, content_of, read
from lobes.results.over_seeds import ComparisonResults, TransferResults
from lobes.results.pooled import PooledResults
from lobes.results.run import RunResults
from lobes.results.sweep import SweepResults

__all__ = [
    "ComparisonResults",
    "PooledResults",
    "RunResults",
    "SweepResults",
    "TransferResults",
    "as_bytes",
    "checked",
    "content_of",
    "read",
]
