"""What is installed, what the machine can do, and what is missing."""

import importlib.metadata
import os
import platform
import re
import shutil
import time
from pathlib import Path
from typing import Any

from lobes import __version__
from lobes.data.cache import cache_folder
from lobes.tasks.sources import DATA_VARIABLE

LIBRARIES = ("torch", "transformers", "numpy", "scipy", "pandas", "pyarrow", "datasets")
# What each extra of the package is for.
EXTRAS = {
    "conflict": "trainings that weigh conflicting tasks (TorchJD)",
    "excel": "data in Excel files",
    "figures": "figures of reports as PNG and PDF files",
    "images": "tasks of images",
    "lm-eval": "tasks of lm-evaluation-harness",
    "lora": "adapters on chosen heads (peft)",
    "packaged": "packaged models in ONNX or GGUF",
    "plot": "figures in Python with matplotlib",
    "ray": "workers on Ray",
    "slurm": "workers on Slurm",
}
FREE_BYTES = 2_000_000_000  # a run with a model of 100 million parameters, its checkpoints too


def examined() -> dict[str, Any]:
    """Return versions, devices, precision, speed, folders and extras, and what is missing.

    `missing` is a list of sentences, each with what to do; it is empty where all is well.
    """
    found: dict[str, Any] = {
        "lobes": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "devices": _devices(),
        "folders": _folders(),
        "extras": {name: _extra(name) for name in EXTRAS},
    }
    return {**found, "missing": _missing(found)}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> list[dict[str, Any]]:
    """The CPU, then every GPU: memory, the precision of "auto", and its rate."""
    import torch

    from lobes.experiments.results import describe_environment
    from lobes.modeling.precision import resolve_precision

    about = describe_environment("")
    devices = [{"device": "cpu", "name": about["cpu"], "threads": torch.get_num_threads()}]
    devices[0]["memory"] = _memory()
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(number)
        device = {"device": f"cuda:{number}", "name": properties.name}
        devices.append({**device, "memory": properties.total_memory})
    return [
        {
            **each,
            "precision": resolve_precision("auto", each["device"]),
            "gflops": _rate(each["device"]),
        }
        for each in devices
    ]


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _rate(device: str, size: int = 1024, seconds: float = 0.2) -> float:
    """The rate of fp32 matrix products, in billions of operations a second: the best of some."""
    import torch

    def wait() -> None:
        if device != "cpu":
            torch.cuda.synchronize(device)

    a, b = (torch.ones(size, size, device=device) for _ in range(2))
    best, end = 0.0, time.perf_counter() + seconds
    while not best or time.perf_counter() < end:
        wait()
        start = time.perf_counter()
        torch.mm(a, b)
        wait()
        best = max(best, 2e-9 * size**3 / (time.perf_counter() - start))
    return round(best, 1)


def _folders() -> dict[str, dict[str, Any]]:
    """The folders that lobes and the libraries under it read and write."""
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    data = os.environ.get(DATA_VARIABLE)
    folders = {"cache of lobes": cache_folder(), "cache of the Hugging Face hub": Path(home)}
    if data:
        folders[f"data of known tasks ({DATA_VARIABLE})"] = Path(data)
    return {name: _folder(path) for name, path in {**folders, "here": Path.cwd()}.items()}


def _folder(path: Path) -> dict[str, Any]:
    nearest = next(each for each in (path, *path.absolute().parents) if os.path.exists(each))
    return {
        "path": str(path),
        "exists": os.path.isdir(path),
        "writable": os.access(nearest, os.W_OK),
        "free": shutil.disk_usage(nearest).free,
    }


def _extra(name: str) -> dict[str, Any]:
    """What an extra is for, and which of its packages are installed."""
    try:
        required = importlib.metadata.requires("lobes") or []
    except importlib.metadata.PackageNotFoundError:  # not installed, but run from its sources
        required = []
    packages = [
        re.split(r"[^\w.-]", each, maxsplit=1)[0]
        for each in required
        if re.search(rf"extra == ['\"]{name}['\"]", each)
    ]
    versions = {package: _version(package) for package in packages}
    return {"for": EXTRAS[name], "packages": versions, "installed": None not in versions.values()}


def _missing(found: dict[str, Any]) -> list[str]:
    told = [f"{name} is not installed: pip install lobes" for name, version in
            found["libraries"].items() if version is None]  # fmt: skip
    told += [
        f'{extra["for"][:1].upper()}{extra["for"][1:]} need more: pip install "lobes[{name}]"'
        for name, extra in found["extras"].items()
        if not extra["installed"]
    ]
    for name, folder in found["folders"].items():
        if not folder["writable"] and not name.startswith("data"):
            told.append(f"The folder {folder['path']} ({name}) cannot be written.")
        elif name.startswith("data") and not folder["exists"]:
            told.append(f"There is no folder {folder['path']} ({name}).")
        elif folder["free"] < FREE_BYTES:
            free = folder["free"] / 1e9
            told.append(f"Only {free:.1f} GB are free in {folder['path']} ({name}).")
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        told.append("HF_HUB_OFFLINE=1: models and data sets come from the cache only.")
    return told
