"""Files of data as text: plain or gzip, UTF-8, with damage named by its place."""

import codecs
import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from io import BufferedReader, TextIOWrapper
from pathlib import Path

from lobes.errors import DataError, at
from lobes.tasks.columns import suggest

# The magic bytes of gzip and of zip archives, which Excel's files are.
_COMPRESSED = {b"\x1f\x8b": "gzip: end its name in .gz", b"PK": "a zip archive: unpack it"}


def kind_of(path: Path) -> str:
    """The suffix that tells what a file is, in lower case; that of gzip is put aside."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix == ".gz" else suffix


def stem_of(path: Path) -> str:
    """The file's name without the suffixes that tell its kind."""
    return Path(path.stem).stem if path.suffix.lower() == ".gz" else path.stem


def at_file(path: Path) -> AbstractContextManager[None]:
    """`lobes.errors.at` for a file."""
    return at(f"The file {str(path)!r}")


def check_file(path: Path) -> None:
    """Raise DataError where `path` is no file that can be read, or is empty; nothing is opened."""
    if path.is_dir():
        raise DataError(f"{str(path)!r} is a folder: name a file in it.")
    if not path.exists():
        if not path.parent.is_dir():
            raise DataError(f"There is no file {str(path)!r}, nor the folder {str(path.parent)!r}.")
        names = [other.name for other in path.parent.iterdir() if other.is_file()]
        raise DataError(
            f"There is no file {path.name!r} in {str(path.parent)!r}." + suggest(path.name, names)
        )
    if not path.is_file():
        raise DataError(f"{str(path)!r} is a device or a pipe: expected a file.")
    if not os.access(path, os.R_OK):
        raise DataError(f"Cannot read {str(path)!r}: permission denied.")
    if path.stat().st_size == 0:
        raise DataError(f"The file {str(path)!r} is empty.")


def read_text(path: Path) -> str:
    """Return a whole file of UTF-8 without its byte-order mark. Raises as `open_text` does."""
    with open_text(path) as file:
        return file.read()


@contextmanager
def open_text(path: Path, newline: str = "") -> Iterator[TextIOWrapper]:
    """Open a file of UTF-8, plain or gzip; `newline` ends its lines as in Python's `open`.

    A DataError of the block gets the file's name before its message. Raises DataError for a file
    that cannot be read, is empty, damaged, or not UTF-8.
    """
    check_file(path)
    with at_file(path):
        try:
            try:
                with _open(path) as raw, TextIOWrapper(raw, "utf-8-sig", newline=newline) as file:
                    yield file
            except UnicodeDecodeError as error:
                # reads the file again: a decoder does not know at which byte of the file it is
                raise DataError(_foreign(path)) from error
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(
                f"is not a whole gzip file, or is damaged: {str(error).rstrip('.')}."
            ) from error
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror or error}.") from error


def _open(path: Path) -> gzip.GzipFile | BufferedReader:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def _foreign(path: Path) -> str:
    """What is to be said of a file that is not UTF-8."""
    offset, line, byte, start = _first_foreign_byte(path)
    if start in _COMPRESSED:
        return f"is not UTF-8 but {_COMPRESSED[start]}."
    wide = start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    source = "UTF-16" if wide else "WINDOWS-1252"
    return (
        f"is not UTF-8: byte 0x{byte:02x} at offset {offset}, line {line}; convert it, for example "
        f"with: iconv -f {source} -t UTF-8."
    )


def _first_foreign_byte(path: Path) -> tuple[int, int, int, bytes]:
    """Where a file stops being UTF-8: offset, line, byte; and its first two bytes."""
    offset, line, start = 0, 1, b""
    with _open(path) as file:
        for data in iter(lambda: b"".join(file.readlines(2**20)), b""):
            start = data[:2] if offset == 0 else start
            try:
                data.decode()
            except UnicodeDecodeError as error:
                line += data.count(b"\n", 0, error.start)
                return offset + error.start, line, data[error.start], start
            offset, line = offset + len(data), line + data.count(b"\n")
    raise DataError("changed while it was read.")
