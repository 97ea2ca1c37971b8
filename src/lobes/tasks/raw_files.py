"""Files of data as bytes and as text: plain or gzip, UTF-8, with damage named by its place."""

import codecs
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import TextIO

from lobes.errors import DataError
from lobes.tasks.columns import suggest

# The magic bytes of gzip and of zip archives, which Excel's files are.
_COMPRESSED = {b"\x1f\x8b": "gzip: end its name in .gz", b"PK": "a zip archive: unpack it"}


def kind_of(path: Path) -> str:
    """The suffix that tells what a file is, in small letters; that of gzip is put aside."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix == ".gz" else suffix


def stem_of(path: Path) -> str:
    """The file's name without the suffixes that tell its kind."""
    return Path(path.stem).stem if path.suffix.lower() == ".gz" else path.stem


def check_file(path: Path) -> None:
    """Raise DataError where `path` is no file that can be read, or is empty."""
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
    try:
        empty = path.stat().st_size == 0
        path.open("rb").close()
    except OSError as error:
        raise DataError(f"Cannot read {str(path)!r}: {error.strerror}.") from None
    if empty:
        raise DataError(f"The file {str(path)!r} is empty.")


def read_text(path: Path) -> str:
    """A whole file of UTF-8, without its byte-order mark; DataError for what is none."""
    with open_text(path, "") as file:
        return file.read()


@contextmanager
def open_text(path: Path, newline: str) -> Iterator[TextIO]:
    """The lines of a file in UTF-8, as Python's `newline` ends them."""
    try:
        try:
            with _open(path) as raw, TextIOWrapper(raw, "utf-8-sig", newline=newline) as file:
                yield file
        except UnicodeDecodeError:
            raise DataError(_foreign(path)) from None  # reads the file again
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"The file {str(path)!r} is not a whole gzip file, or is damaged: "
            f"{str(error).rstrip('.')}."
        ) from None


def _open(path: Path) -> gzip.GzipFile | BufferedReader:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def _foreign(path: Path) -> str:
    """The sentence for a file that is not UTF-8."""
    offset, line, byte, start = _first_foreign_byte(path)
    where = f"The file {str(path)!r} is not UTF-8"
    if start in _COMPRESSED:
        return f"{where} but {_COMPRESSED[start]}."
    wide = start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    source = "UTF-16" if wide else "WINDOWS-1252"
    return (
        f"{where}: byte 0x{byte:02x} at offset {offset}, line {line}; convert it, for example "
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
    raise DataError(f"The file {str(path)!r} changed while it was read.")
