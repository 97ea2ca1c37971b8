"""Keep a run's folder: locked while it is in use, every file whole or absent.

    config.json           the resolved study, and fingerprints of its data
    files.json            what lobes wrote here, with the SHA-256 of each file (`manifest.py`);
                          while it measures, `files.jsonl` beside it
    run.lock              who uses the folder, while somebody does (`lock.py`)
    checkpoints/          the training so far; gone when the training is done
    model/                the trained model, and `training.json`, written last
    measurements/         one Parquet file for each measurement, with a checksum
    importance.parquet    all importance scores, one row for each head
    predictions.parquet   all predictions, one row for each lesion and example
    texts.parquet         the texts of the validation examples, unless keep_texts = false
    results.json          what the report reads
    report.html
    logs/                 what workers printed, where there were any
    lobes.log             what commands did here, and when (`cli/terminal.py`); never replaced

`lobes compare` and `lobes transfer` have folders of their own, with `comparison.json` or
`transfer.json` and the page beside it; `model-*` are models that they need for a while.

Every file is written as `files.py` does it, whole or not at all, and nothing is removed before what
needs it is written; so a run killed at any moment leaves nothing half-written, and the same command
goes on from there. Only what `files.json` lists, and numbered checkpoints, is ever replaced or
removed; a stranger's file in the way is renamed. No folder in it may be a link.
"""

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

from lobes.config.keys import differences
from lobes.errors import RunError
from lobes.experiments.lock import FolderLock
from lobes.experiments.manifest import JOURNAL, MODEL_MARKER, NAME, PAGES, Manifest
from lobes.experiments.manifest import SCHEMA as FILES
from lobes.experiments.measurements import Measurements
from lobes.experiments.same_study import what_differs
from lobes.experiments.spread import carry_out_on
from lobes.experiments.stored_study import unknown_setting
from lobes.files import (
    REPLACED,
    TEMPORARY,
    digest_of,
    disk_faults,
    read_folder,
    read_json,
    remove,
    remove_files,
    remove_folder,
    restore,
    set_aside,
    to_json,
    writing,
    writing_folder,
)
from lobes.progress import StageProgress
from lobes.workers import Pool

SCHEMA = {"schema": "lobes-run", "version": 1}
logger = logging.getLogger("lobes")

SECONDS = "checkpoints/seconds.json"
# Where a link would lead lobes out of the run's folder.
OWN_PLACES = ("run.lock", JOURNAL, "checkpoints", "logs", "measurements", "model", "model-*")


class RunFolder:
    """One run's folder, held exclusively inside a `with` block.

    Entering makes the folder where there is none, takes the lock, and compares the study with the
    one that the folder holds. `begin` then writes the configuration: until it is called nothing
    is kept, so a study that cannot start leaves no folder behind.

    `command` says what is run there: a comparison's folder is no study's.

    With `fresh`, `begin` first deletes what `lobes` itself wrote there, and nothing else.
    Raises `RunError` on entry if another run holds the folder, if it holds another study or files
    that are no run's, or if it cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        config: Mapping[str, Any],
        *,
        command: str = "run",
        fresh: bool = False,
    ) -> None:
        self.path = Path(path)
        self.config = dict(config)
        self.command = command
        self.fresh = fresh
        self.manifest = Manifest(self.path)
        self.fingerprints: dict[str, str] = {}
        self._lock: FolderLock | None = None
        self._made: list[Path] = []

    def __enter__(self) -> "RunFolder":
        _check_is_run(self.path)
        _check_no_links(self.path)
        self._made = _make_folder(self.path)
        try:
            self._lock = FolderLock(self.path / "run.lock", SCHEMA)
            _check_is_run(self.path)
            self.sweep()
            self.manifest.load()
            if not self.fresh:
                self._compare()
        except BaseException:
            self.__exit__()
            raise
        return self

    def check_study(self) -> None:
        """Raise `RunError` where the folder cannot be this run's; takes no lock and makes nothing.

        It is checked again on entry.
        """
        _check_is_run(self.path)
        _check_no_links(self.path)
        if not self.fresh:
            self._compare()

    def is_finished(self, results: str, *names: str) -> bool:
        """Whether the folder holds these files as written, and the `results` of this study.

        config.json does not tell: it is that of a command which may have been interrupted.
        """
        self.manifest.load()
        found = read_json(self.path / results)
        return (
            isinstance(found, dict)
            and self.is_of_this_study(found.get("config"))
            and all(self.manifest.holds(name) for name in (results, *names))
        )

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            with contextlib.suppress(OSError):
                if self._lock.is_ours() and not (self.path / "config.json").exists():
                    (self.path / NAME).unlink(missing_ok=True)
            self._lock.release()
            self._lock = None
        _remove_empty(self._made)

    @property
    def is_of_moved_model(self) -> bool:
        """Whether the model's folder has another path than in the study that the run began with."""
        stored = self._stored()
        return stored is not None and stored["config"].get("model") != self.config["model"]

    @property
    def goes_on(self) -> bool:
        """Whether the folder holds a run that is not started again."""
        return not self.fresh and (self.path / "config.json").exists()

    def begin(self, fingerprints: Mapping[str, str]) -> None:
        """Write config.json, or check that data and model are those that the run began with.

        `fingerprints` are those of what the study reads: {"data of sst2": …, "model": …}. One that
        is left out is not checked; the attribute of that name has all that the run began with. With
        `fresh`, what an earlier run left here goes first: now, when it is known that the new one
        can start.
        """
        if self.fresh:
            self._clear()
            self.fresh = False
        self.fingerprints = dict(fingerprints)
        stored = self._stored()
        if stored is None:
            record = {
                **SCHEMA,
                "command": self.command,
                "config": self.config,
                "fingerprints": dict(fingerprints),
            }
            self.write_json("config.json", record)
            return
        known = stored["fingerprints"]
        unknown = fingerprints.keys() - known.keys()
        if unknown:
            raise RunError(
                f"{self.path} holds a run that an earlier version of lobes began, which did not "
                f"record its {' and '.join(sorted(unknown))}; choose another output, or start "
                f"again with --fresh."
            )
        changed = differences(known, {**known, **fingerprints})
        if changed:
            kinds = {"data": "on other data", "metric": "with another metric"}
            other = kinds.get(changed[0].partition(" of ")[0], "of another model")
            raise RunError(
                f"{self.path} holds a run {other}: {', '.join(changed)} changed since it "
                f"began; choose another output, or start again with --fresh."
            )
        self.fingerprints = dict(known)
        if not self.is_of_this_study(stored["config"]):  # more controls, for example
            self.write_json("config.json", {**stored, "config": self.config})

    def check(self) -> None:
        """Raise `RunError` unless the folder is still the one that was locked, and ours."""
        with disk_faults(self.path):
            ours = self._lock is not None and self._lock.is_ours()
        if not ours:
            raise RunError(
                f"{self.path} was removed, replaced or taken over by another run while this "
                f"command used it: nothing more is written there; run the same command again, or "
                f"choose another output."
            )

    def writing(self, name: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        """Return a context with a binary file that becomes `name` unless the block fails."""
        self.check()
        return writing(self.path / name, lambda whole: self._record(name, whole))

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all."""
        with self.writing(name) as file:
            file.write(content)

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write `value` as JSON; arrays become lists and NaN becomes null."""
        self.write(name, to_json(value, seal=True))

    def holds(self, name: str) -> bool:
        """Whether the file is there as it was written; warns where it is not as it was."""
        return self.manifest.holds(name)

    def remove(self, name: str) -> None:
        """Remove a file that was written here."""
        if name in self.manifest.files:
            self.check()
            (self.path / name).unlink(missing_ok=True)
            self.manifest.forget([name])

    def measurements(
        self, scope: str, progress: StageProgress | None = None, pool: Pool | None = None
    ) -> Measurements:
        """Return the measurements of this run that are made of `scope`; `pool` computes them."""
        folder = self.path / "measurements"
        return Measurements(
            folder,
            scope,
            lambda path: self.writing(f"{folder.name}/{path.name}"),
            progress,
            partial(carry_out_on, pool) if pool is not None else None,
        )

    def writing_model(
        self, record: Mapping[str, Any], name: str = "model"
    ) -> contextlib.AbstractContextManager[Path]:
        """Return a context that yields a folder, which becomes `model/`; `record` goes into it.

        Another `name` begins with "model-".
        """
        self.check()
        return writing_folder(
            self.path / name,
            record,
            MODEL_MARKER,
            lambda whole: self._record(f"{name}/{MODEL_MARKER}", whole / MODEL_MARKER),
        )

    def expect_model(self) -> None:
        """Note that a worker is about to write the trained model here, and what comes before it."""
        entry = f"model/{MODEL_MARKER}"
        if entry not in self.manifest.files:
            self.check()
            if os.path.lexists(self.path / entry):
                set_aside(self.path / entry)
            self.manifest.expect(entry)

    @property
    def expects_model(self) -> bool:
        """Whether the trained model was, or is to be, written here by lobes."""
        return f"model/{MODEL_MARKER}" in self.manifest.files

    def adopt(self, name: str) -> None:
        """Record a model, or another file, that a worker wrote here."""
        entry = f"{name}/{MODEL_MARKER}" if name.startswith("model") else name
        if self.manifest.files.get(entry) is None and (self.path / entry).is_file():
            self.check()
            self.manifest.record(entry, digest_of(self.path / entry))

    def remove_models(self, start: str) -> None:
        """Remove what `writing_model` wrote under names that begin so."""
        own = [name for name in self.manifest.files if name.startswith(start)]
        for marker in own:
            self.check()
            remove_folder((self.path / marker).parent, MODEL_MARKER)
        self.manifest.forget(own)

    def remove_checkpoints(self) -> None:
        """Remove what a training leaves on its way, and nothing else that lies there."""
        checkpoints = self.path / "checkpoints"
        for path in checkpoints.glob("checkpoint-*"):
            if re.fullmatch(r"checkpoint-\d+", path.name) and not path.is_symlink():
                self.check()
                remove(path)
        self.remove(SECONDS)
        with contextlib.suppress(OSError):
            checkpoints.rmdir()

    def model_record(self, name: str = "model") -> dict[str, Any] | None:
        """Return what `writing_model` recorded, or None while there is no whole trained model."""
        model = self.path / name
        record = read_folder(model, MODEL_MARKER)
        if record is None and (model / MODEL_MARKER).exists():
            logger.warning("%s is damaged; it is made again.", model)
        return record

    def is_of_this_study(self, config: Any) -> bool:
        """Whether results with this configuration are what the study asks for."""
        if not isinstance(config, Mapping):
            return False
        return not what_differs(config, self.config, self.command, shown=True)

    def _record(self, name: str, whole: Path) -> None:
        """Before `whole` gets its name: it is recorded, and a stranger's file makes room."""
        self.check()
        path = self.path / name
        if name not in self.manifest.files and name not in PAGES and os.path.lexists(path):
            set_aside(path)
        self.manifest.record(name, digest_of(whole))

    def _stored(self) -> dict[str, Any] | None:
        path = self.path / "config.json"
        if not path.exists():
            return None
        stored = read_json(path)
        if not isinstance(stored, dict) or not {"config", "fingerprints"} <= set(stored):
            raise RunError(
                f"{path} is damaged; choose another output, or start again with --fresh."
            )
        return stored

    def _compare(self) -> None:
        stored = self._stored()
        if stored is None:
            return
        command = stored.get("command", "run")
        if command != self.command:
            raise RunError(
                f"{self.path} holds what `lobes {command}` made; choose another output, or start "
                f"again with --fresh."
            )
        changed = what_differs(stored["config"], self.config, command)
        unknown = unknown_setting(stored["config"]) if changed else ""
        if unknown:
            raise RunError(
                f"{self.path} holds a run that another version of lobes began ({unknown}); choose "
                f"another output, or start again with --fresh."
            )
        if changed:
            raise RunError(
                f"{self.path} holds a run of another study: {', '.join(changed)} "
                f"{'differs' if len(changed) == 1 else 'differ'}; choose another output, or start "
                f"again with --fresh."
            )

    def sweep(self) -> None:
        """Remove what a killed run or worker was writing, and put back what it was replacing."""
        for folder in (self.path, self.path / "measurements", self.path / "checkpoints"):
            for path in folder.glob(f"{TEMPORARY}*"):
                remove(path)
        for path in self.path.glob(f"{REPLACED}*"):
            restore(self.path / path.name.removeprefix(REPLACED), MODEL_MARKER)

    def _clear(self) -> None:
        """Delete what `lobes` wrote here, and nothing else."""
        with disk_faults(self.path):
            self.remove_checkpoints()
            self.remove_models("model")
            # Last: it marks the folder as a run's, should this be interrupted.
            names = sorted(self.manifest.files, key="config.json".__eq__)
            for name in names:
                self.check()
                remove_files(self.path, [name])
            self.manifest.forget(names)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder that has runs in it, and make it where there is none.

    Raises `RunError` where another process holds it, or it cannot be written.
    """
    made = _make_folder(folder)
    try:
        lock = FolderLock(folder / "run.lock", SCHEMA)
        try:
            yield
        finally:
            lock.release()
    finally:
        _remove_empty(made)


class WorkerFolder(RunFolder):
    """A run's folder for a worker: it may write models there, whole; its driver records them.

    The driver holds the lock.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], command: str) -> None:
        super().__init__(path, config, command=command)
        self.fingerprints = (read_json(path / "config.json") or {}).get("fingerprints", {})

    def check(self) -> None:
        """Leave that to the driver."""

    def remove_models(self, start: str) -> None:
        """Leave that to the driver, when no other worker needs them."""

    def adopt(self, name: str) -> None:
        """Leave that to the driver."""

    def _record(self, name: str, whole: Path) -> None:
        pass


def _check_is_run(path: Path) -> None:
    """Refuse a folder with files in it that no run of `lobes` began."""
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file; expected a folder for the run, or none yet.")
    if not path.exists() or not any(path.iterdir()):
        return
    lock = path / "run.lock"
    known = (read_json(p) for p in (path / "config.json", lock, path / NAME))
    schemas = SCHEMA["schema"], FILES["schema"]
    if any(isinstance(k, dict) and k.get("schema") in schemas for k in known):
        return
    names = {p.name for p in path.iterdir()}
    if names <= {lock.name} and not (lock.is_file() and lock.stat().st_size):
        return  # killed between making the lock and writing into it, or removed by now
    raise RunError(
        f"{path} holds files but no run of lobes; choose another output, or an empty folder."
    )


def _check_no_links(path: Path) -> None:
    for place in (each for pattern in OWN_PLACES for each in path.glob(pattern)):
        if place.is_symlink():
            raise RunError(
                f"{place} is a link, and lobes writes only inside the run's own folder: put what "
                f"it names in its place, or choose another output."
            )


def _make_folder(path: Path) -> list[Path]:
    """Make the folder; what did not exist before, innermost first."""
    missing = []
    folder = Path(os.path.abspath(path))
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    with disk_faults(path):
        path.mkdir(parents=True, exist_ok=True)
    return missing


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove what `_make_folder` made; a folder stays where something was written into it."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
