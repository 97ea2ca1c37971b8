"""Pictures: what a cell of an image column may hold, and how it becomes RGB pixels.

A picture stays as it is stored, a file or encoded bytes, until a batch needs its pixels. Its file
is read once when a task is made: for a digest of the bytes, by which pictures are compared, and
so that a damaged picture is refused before the training. Every error of Pillow becomes one
sentence.
"""

import hashlib
import io
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lobes.errors import ConfigError, DataError, at, first_line
from lobes.tasks.columns import (
    NamedRows,
    TaskData,
    class_names,
    column_names,
    is_missing,
    read_columns,
)

if TYPE_CHECKING:
    from PIL.Image import Image

# Pillow knows dozens more, and for some of them (EPS) it starts other programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_KINDS = "JPEG, PNG, WebP, GIF, BMP, TIFF or PPM"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")

# The last bytes of a whole file of these formats. Files of other formats are decoded, which takes
# longer, to see whether they were cut short.
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One picture: a file's path or encoded bytes, decoded by `load` and not before.

    Two pictures are equal where their bytes are. `place` says which task, split and row it is of,
    for the messages of `load`.
    """

    source: str | bytes
    digest: bytes
    place: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Picture) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Picture({self.name})"

    @property
    def name(self) -> str:
        """The file's path, or how many bytes there are."""
        return _name(self.source)

    def load(self) -> "Image":
        """The picture in RGB, upright; `DataError` where the file is gone or damaged."""
        with at(self.place):
            content = _content(self.source)
            try:
                with _without_warnings():
                    return _upright_rgb(_open(content))
            except Exception as error:  # Pillow's plugins raise dozens of kinds
                raise _damaged(_name(self.source), error) from error


def read_pictures(place: str, column: str, values: Sequence[Any]) -> tuple[Picture, ...]:
    """Return the pictures of an image column's cells, each of which gets `place` and its row.

    A cell is a path (relative to the working directory), encoded bytes, what `datasets.Image`
    gives (a dict of "bytes" and "path", or a PIL image), a PIL image, or an array [height, width]
    or [height, width, 3] of uint8. Raises `DataError`, naming the row, for any other cell, for a
    file that cannot be read and for what is no whole picture; `ConfigError` without Pillow.
    """
    pillow()
    pictures = []
    for row, cell in enumerate(values):
        with at(f"row {row}"):
            pictures.append(_picture(f"{place} row {row}", column, cell))
    return tuple(pictures)


def rooted(data: TaskData, column: str, folder: Path) -> NamedRows:
    """The rows of a file, the paths in an image column relative to the file's folder."""
    names = column_names(data)
    columns = read_columns(data, names) if len(data) else {}
    if column in columns:
        columns[column] = [_rooted(cell, folder) for cell in columns[column]]
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    named = {name: found for name in names if (found := class_names(data, name)) is not None}
    return NamedRows(rows, named)


def class_folders(folder: Path, column: str, label: str) -> list[dict[str, Any]]:
    """The pictures in a folder that has a folder for each class, labeled with its name.

    Hidden files and files of other kinds are left out, folders in a class's folder are not.
    Raises `DataError` where there is no class, or none with a picture.
    """
    try:
        classes = [path for path in _visible(folder) if path.is_dir()]
        if not classes:
            raise DataError(
                f"The folder {str(folder)!r} has no folders in it: expected one for each class, "
                f"such as {str(folder / 'cat')!r}, with pictures in it."
            )
        rows = []
        for path in classes:
            found = [str(file) for file in _files(path) if file.suffix.lower() in SUFFIXES]
            if not found:
                raise DataError(
                    f"The folder {str(path)!r} has no pictures in it: expected files that end in "
                    f"{', '.join(SUFFIXES)}; remove the folder if it is no class."
                )
            rows += [{column: file, label: path.name} for file in found]
        return rows
    except OSError as error:
        raise DataError(f"Cannot read the folder {str(folder)!r}: {error.strerror}.") from error


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _files(folder: Path) -> Iterator[Path]:
    for path in _visible(folder):
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def _rooted(cell: Any, folder: Path) -> Any:
    if isinstance(cell, str) and cell:
        return str(folder / cell)
    if isinstance(cell, Mapping) and cell.get("bytes") is None and cell.get("path"):
        return {**cell, "path": str(folder / cell["path"])}
    return cell


def pillow() -> Any:
    """The package PIL; `ConfigError` where it is not installed."""
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError as error:
        raise ConfigError(
            "A task with images needs Pillow: pip install 'lobes[images]'."
        ) from error
    return PIL


def _picture(place: str, column: str, cell: Any) -> Picture:
    if isinstance(cell, Picture):
        return replace(cell, place=place)
    source = _source(column, cell)
    content = _content(source)
    _check(source, content)
    return Picture(source, hashlib.blake2b(content, digest_size=16).digest(), place)


def _source(column: str, cell: Any) -> str | bytes:
    """Where a cell's picture is stored: the path of a file, or the encoded bytes themselves."""
    if isinstance(cell, Mapping) and cell.keys() & {"bytes", "path"}:
        content, path = cell.get("bytes"), cell.get("path")
        cell = path if content is None else content
    if isinstance(cell, bytes | bytearray | memoryview):
        return bytes(cell)
    if isinstance(cell, str | os.PathLike) and os.fspath(cell):
        path = os.fspath(cell)
        if "://" in str(path):
            raise DataError(
                f"has the address {path!r} in the image column {column!r}: expected a "
                f"file on this machine; download it first."
            )
        return os.path.abspath(path)
    if isinstance(cell, np.ndarray):
        return _encoded(_image_of_array(column, cell))
    loaded = sys.modules.get("PIL.Image")
    if loaded is not None and isinstance(cell, loaded.Image):
        try:
            return _encoded(_upright_rgb(cell))
        except Exception as error:  # what a lazily decoded file raises, of any kind
            raise _damaged("a PIL image", error) from error
    if is_missing(cell) or isinstance(cell, str | Mapping):
        raise DataError(
            f"has no picture in the image column {column!r} ({cell!r}); correct or remove the row."
        )
    raise DataError(
        f"has a {type(cell).__name__} in the image column {column!r}: expected a path, "
        f"encoded bytes, a PIL image, or an array of uint8; name another column, or turn it into "
        f"one of these."
    )


def _image_of_array(column: str, array: np.ndarray) -> "Image":
    gray, color = array.ndim == 2, array.ndim == 3 and array.shape[2] == 3
    if array.dtype != np.uint8 or not (gray or color) or not array.size:
        raise DataError(
            f"has an array {list(array.shape)} of {array.dtype} in the image column "
            f"{column!r}: expected [height, width] or [height, width, 3] of uint8."
        )
    return pillow().Image.fromarray(np.ascontiguousarray(array)).convert("RGB")


def _encoded(image: "Image") -> bytes:
    """The picture as a PNG, without loss."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _content(source: str | bytes) -> bytes:
    """The encoded picture; `DataError` where its file cannot be read, or has no byte."""
    if isinstance(source, str):
        path = Path(source)
        try:
            content = path.read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a null byte in the path
            reason = "it is a folder" if path.is_dir() else getattr(error, "strerror", str(error))
            if isinstance(error, FileNotFoundError):
                reason = "there is no such file"
            raise DataError(
                f"names the picture {source!r}, which cannot be read: {reason}; correct "
                f"or remove the row."
            ) from error
    else:
        content = source
    if not content:
        raise DataError(f"has an empty picture, {_name(source)}; replace or remove it.")
    return content


def _check(source: str | bytes, content: bytes) -> None:
    """Refuse what is no whole picture, decoding only where the file's end leaves it open."""
    try:
        with _without_warnings():
            image = _open(content)
            end = _ENDS.get(str(image.format))
            if end is None or end not in content[-64:]:
                _upright_rgb(image)
    except Exception as error:  # as in `Picture.load`
        raise _damaged(_name(source), error) from error


def _open(content: bytes) -> "Image":
    return pillow().Image.open(io.BytesIO(content), formats=_FORMATS)


class _without_warnings(warnings.catch_warnings):  # noqa: N801 - used as a function
    """Pillow's warnings kept off the terminal, but for one: too many pixels are an error."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", pillow().Image.DecompressionBombWarning)


def _upright_rgb(image: "Image") -> "Image":
    """The picture turned as its EXIF data say, in RGB; of an animation the first frame."""
    image = pillow().ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, of which no range is known")
    if image.mode.startswith("I"):  # 16 bits for each pixel, which Pillow would clip at 255
        values = (np.asarray(image) >> 8).clip(0, 255)
        return pillow().Image.fromarray(values.astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def _damaged(name: str, error: Exception) -> DataError:
    package = pillow()
    many = (package.Image.DecompressionBombError, package.Image.DecompressionBombWarning)
    if isinstance(error, package.UnidentifiedImageError):
        reason = f"it is no {_KINDS} file"
    elif isinstance(error, many):
        reason = f"it has more than {package.Image.MAX_IMAGE_PIXELS:,} pixels"
    else:
        reason = first_line(error)
    return DataError(f"has a picture that cannot be used, {name}: {reason}; replace it.")


def _name(source: str | bytes) -> str:
    return source if isinstance(source, str) else f"{len(source)} bytes"
