"""Cells of an image column: every kind gives the same pixels, and what is none is refused."""

import io
import pickle
import re
import sys

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, features

from lobes.errors import ConfigError, DataError
from lobes.tasks.examples import Examples
from lobes.tasks.images import Picture, read_pictures
from lobes.tasks.sources import load_split, load_task
from lobes.tasks.task import Task, TaskSpec
from tiny_images import image_rows, image_task, picture, save_picture

GENERATOR = np.random.default_rng(7)
PIXELS = picture(1, 2, GENERATOR)


def encoded(pixels=PIXELS, kind="PNG", **options):
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def only(cell):
    (found,) = read_pictures("Task 't': train", "image", [cell])
    return found


def refusal(cell):
    """The one sentence or two with which a cell is refused, from its row on."""
    with pytest.raises(DataError) as caught:
        only(cell).load()
    sentence = str(caught.value)
    assert sentence.startswith("row 0 "), sentence
    assert sentence.endswith((".", ")")), sentence
    assert "\n" not in sentence
    assert len(sentence) < 500
    return sentence


# Every kind of cell


def cells(folder):
    path = save_picture(PIXELS, folder / "a.png")
    image = Image.fromarray(PIXELS)
    return {
        "path": str(path),
        "path object": path,
        "bytes": encoded(),
        "bytearray": bytearray(encoded()),
        "dict of bytes": {"bytes": encoded(), "path": "elsewhere.png"},
        "dict of a path": {"bytes": None, "path": str(path)},
        "PIL": image,
        "PIL, opened": Image.open(path),
        "array": PIXELS,
        "array, other order": np.asfortranarray(PIXELS),
        "bmp": encoded(kind="BMP"),
        "tiff": encoded(kind="TIFF"),
        "ppm": encoded(kind="PPM"),
        "webp": encoded(kind="WEBP", lossless=True),
    }


def test_every_kind_of_cell_gives_the_same_pixels(tmp_path):
    assert features.check("webp")
    for kind, cell in cells(tmp_path).items():
        image = only(cell).load()
        assert image.mode == "RGB", kind
        np.testing.assert_array_equal(np.asarray(image), PIXELS, kind)


def test_modes_become_rgb():
    grey = PIXELS[:, :, 0]
    tripled = np.repeat(grey[:, :, None], 3, axis=2)
    palette = Image.fromarray(PIXELS).quantize(64)
    deep = Image.fromarray(grey.astype(np.uint16) * 256 + 17)
    for cell, expected in (
        (grey, tripled),
        (encoded(grey), tripled),
        (Image.fromarray(grey), tripled),
        (encoded(deep), tripled),
        (encoded(deep, "TIFF"), tripled),
        (encoded(Image.fromarray(grey > 128)), np.where(tripled > 128, 255, 0)),
        (encoded(Image.fromarray(PIXELS).convert("RGBA")), PIXELS),
        (encoded(palette), np.asarray(palette.convert("RGB"))),
        (encoded(palette, transparency=b"\x00" * 9), np.asarray(palette.convert("RGB"))),
    ):
        np.testing.assert_array_equal(np.asarray(only(cell).load()), expected)
    assert "no range is known" in refusal(encoded(Image.fromarray(grey.astype(np.float32)), "TIFF"))


def test_a_picture_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    turned = Image.fromarray(np.rot90(PIXELS))
    found = only(encoded(turned, exif=exif)).load()
    np.testing.assert_array_equal(np.asarray(found), PIXELS)


def test_pictures_are_equal_by_their_bytes(tmp_path):
    one, other = (save_picture(PIXELS, tmp_path / name) for name in ("1.png", "2.png"))
    content = one.read_bytes()
    assert len({only(one), only(other), only(content), only({"bytes": content})}) == 1
    changed = PIXELS.copy()
    changed[0, 0] += 1
    assert only(changed) != only(PIXELS)
    assert only(PIXELS) != "text"
    again = pickle.loads(pickle.dumps(only(one)))
    assert again == only(one)
    assert again.name == str(one) in repr(again)


def test_a_path_is_found_after_the_working_directory_changed(tmp_path, monkeypatch):
    save_picture(PIXELS, tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    found = only("a.png")
    monkeypatch.chdir("/")
    assert found.load().size == PIXELS.shape[1::-1]


# Every kind of data


def rows_as(kind, rows):
    stored = [{**row, "image": {"bytes": encoded(row["image"]), "path": None}} for row in rows]
    match kind:
        case "rows":
            return rows
        case "pandas":
            return pd.DataFrame(stored)
        case "pyarrow":
            return pa.Table.from_pylist(stored)
        case "datasets":
            return datasets.Dataset.from_list(stored).cast_column("image", datasets.Image())
        case "datasets, decoded":
            data = datasets.Dataset.from_list(stored).cast_column("image", datasets.Image())
            return [dict(row) for row in data]


@pytest.mark.parametrize("kind", ["rows", "pandas", "pyarrow", "datasets", "datasets, decoded"])
def test_every_kind_of_data(kind):
    rows = image_rows(7, np.random.default_rng(3))
    task = Task("shape", train=rows_as(kind, rows), image="image", label="shape")
    assert task.text == ()
    assert task.image == "image"
    assert task.labels == ("0", "1")
    assert task.train.texts == ((),) * 7
    assert task.train.labels.tolist() == [row["shape"] for row in rows]
    for found, row in zip(task.train.images, rows, strict=True):
        np.testing.assert_array_equal(np.asarray(found.load()), row["image"])
    if kind == "datasets":  # its bytes as they are, not decoded and encoded anew
        assert task.train.images[0].source == encoded(rows[0]["image"])


def test_examples_are_selected_with_their_images():
    task = image_task()
    part = task.train.select([5, 2])
    assert part.images == (task.train.images[5], task.train.images[2])
    assert part.groups().tolist() == [0, 1]
    again = Task("shape", train=part, image="image", label="shape", labels=task.labels)
    assert again.train.images == part.images
    with pytest.raises(DataError, match="has images, but the task names text columns"):
        Task(
            "shape",
            train=Examples(((),) * 2, part.labels, part.images),
            text="a",
            labels=("a", "b"),
        )
    with pytest.raises(DataError, match="has texts, but the task names image columns"):
        Task("shape", train=Examples((("a",),), part.labels[:1]), image="image", labels=("a", "b"))
    with pytest.raises(DataError, match="1 images and 2 texts"):
        Examples(((),) * 2, part.labels, part.images[:1])


def test_a_spec_with_an_image_column():
    spec = image_task().spec
    assert spec.to_dict()["image"] == "image"
    assert TaskSpec.from_dict(spec.to_dict()) == spec
    text = TaskSpec("t", ("text",), "label", ("a", "b"), "accuracy")
    assert "image" not in text.to_dict()
    assert TaskSpec.from_dict(text.to_dict()) == text
    for columns, said in (
        ({}, "has 0 text columns"),
        ({"text": "a", "image": "b"}, "expected one of the two kinds"),
        ({"image": "label"}, "both as image and as label"),
    ):
        with pytest.raises(DataError, match=said):
            Task("t", train=[{"a": "", "b": "", "label": 0}], **columns)


# Files


@pytest.fixture
def photos(tmp_path):
    """Pictures in files, and files of every format that name them relative to themselves."""
    rows = image_rows(23, np.random.default_rng(5))
    records = []
    for number, row in enumerate(rows):
        name = f"pictures/{number}.png"
        save_picture(row["image"], tmp_path / "data" / name)
        records.append({"file": name, "shape": ("cross", "square")[row["shape"]]})
    frame = pd.DataFrame(records)
    frame.to_csv(tmp_path / "data/train.csv", index=False)
    frame.to_csv(tmp_path / "data/train.tsv", index=False, sep="\t")
    frame.to_json(tmp_path / "data/train.jsonl", orient="records", lines=True)
    frame.to_parquet(tmp_path / "data/train.parquet")
    stored = [
        {"file": {"bytes": encoded(row["image"]), "path": "x.png"}, "shape": record["shape"]}
        for row, record in zip(rows, records, strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(stored), tmp_path / "data/hub.parquet")
    linked = [{**r, "file": {"bytes": None, "path": r["file"]}} for r in records]
    pq.write_table(pa.Table.from_pylist(linked), tmp_path / "data/linked.parquet")
    for number, record in enumerate(records):
        place = tmp_path / "data/folder" / record["shape"] / f"{number:02}.PNG"
        save_picture(rows[number]["image"], place)
    return tmp_path, rows


FILES = ("train.csv", "train.tsv", "train.jsonl", "train.parquet", "hub.parquet", "linked.parquet")


@pytest.mark.parametrize("file", FILES)
def test_files_with_images(photos, file):
    folder, rows = photos
    task = load_task("shape", train=f"data/{file}", folder=folder, image="file", label="shape")
    assert task.labels == ("cross", "square")
    assert len(task.train) + len(task.validation) == 23
    both = {*task.train.images, *task.validation.images}
    assert len(both) == 23
    wanted = {row["image"].tobytes(): row["shape"] for row in rows}
    for part in (task.train, task.validation):
        for found, label in zip(part.images, part.labels, strict=True):
            assert wanted[np.asarray(found.load()).tobytes()] == label
    split = load_split(
        "shape", "train", train=f"data/{file}", folder=folder, image="file", label="shape"
    )
    assert set(split.images) == both
    source = {"train": f"data/{file}", "test": f"data/{file}"}
    hidden = load_split("shape", "test", **source, folder=folder, image="file", label="none")
    assert hidden.labels is None
    assert hidden.images == split.images


def test_a_data_set_of_the_hub(monkeypatch):
    rows = image_rows(90, np.random.default_rng(4))
    stored = [
        {"picture": {"bytes": encoded(row["image"]), "path": None}, "paint": row["colour"]}
        for row in rows
    ]
    data = datasets.Dataset.from_list(stored).cast_column("picture", datasets.Image())
    data = data.cast_column("paint", datasets.ClassLabel(names=["blue", "green", "red"]))
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config, *, split: data)
    task = load_task(
        "colour",
        dataset="group/name",
        image="image",
        label="colour",
        columns={"image": "picture", "colour": "paint"},
        leave_out={"colour": "green"},
        labels=["red", "blue"],
        label_map={"red": "red", "blue": "blue"},
    )
    kept = {encoded(row["image"]): row["colour"] for row in rows if row["colour"] != 1}
    assert len(task.train) + len(task.validation) == len(kept)
    for found, label in zip(task.train.images, task.train.labels, strict=True):
        assert kept[found.source] == (2, 0)[label]


def test_a_folder_of_class_folders(photos):
    folder, rows = photos
    (folder / "data/folder/cross/.hidden.png").write_bytes(b"")
    (folder / "data/folder/cross/Thumbs.db").write_bytes(b"x")
    (folder / "data/folder/.cache").mkdir()
    deeper = save_picture(PIXELS, folder / "data/folder/square/deeper/more.jpg")
    task = load_task("shape", train="data/folder", folder=folder, image="image", train_size=15)
    assert task.labels == ("cross", "square")
    split = load_split("shape", "train", train="data/folder", folder=folder, image="image")
    assert len(split) == len(rows) + 1
    names = [picture.name for picture in split.images]
    assert str(deeper) in names
    assert [int(f"{'square'}" in name) for name in names] == split.labels.tolist()
    renamed = load_task(
        "shape",
        train="data/folder",
        folder=folder,
        image="image",
        label_map={"cross": "x", "square": "s"},
        labels=["s", "x"],
    )
    assert renamed.labels == ("s", "x")
    kept = load_task(
        "shape", train="data/train.csv", folder=folder, image="file", label="shape", columns={}
    )
    assert kept.train.images[0] in split.images


def test_folders_that_are_none(tmp_path):
    with pytest.raises(DataError, match="has no folders in it: expected one for each class"):
        load_task("t", train=tmp_path, image="image")
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match=r"cat' has no pictures in it: expected files that end"):
        load_task("t", train=tmp_path, image="image")
    save_picture(PIXELS, tmp_path / "cat/1.png")
    with pytest.raises(DataError, match="one class only"):
        load_task("t", train=tmp_path, image="image")
    with pytest.raises(ConfigError, match="is a known task, whose columns"):
        load_task("sst2", image="image")


def test_equal_images_are_never_on_both_sides(tmp_path):
    rows = image_rows(9, np.random.default_rng(6))
    for number in range(36):
        place = tmp_path / ("cross", "square")[number % 2] / f"{number}.png"
        save_picture(rows[number % 9]["image"], place)
    task = load_task("t", train=tmp_path, image="image")
    assert len(task.validation) == 4
    assert not {*task.train.images} & {*task.validation.images}


# Refusals


def test_no_pillow(monkeypatch):
    for name in [name for name in sys.modules if name == "PIL" or name.startswith("PIL.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "PIL", None)
    sentence = r"A task with images needs Pillow: pip install 'lobes\[images\]'"
    with pytest.raises(ConfigError, match=sentence):
        read_pictures("Task 't': train", "image", [b"x"])


def broken_cells(folder):
    """What is no picture, and words of the sentence that says so."""
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("a cat")
    (folder / "script.svg").write_text("<svg></svg>")
    jpeg, png = encoded(np.tile(PIXELS, (9, 9, 1)), "JPEG"), encoded()
    return {
        "missing.png": (str(folder / "missing.png"), "there is no such file"),
        "a folder": (str(folder), "it is a folder"),
        "no bytes": (str(folder / "empty.png"), "has an empty picture"),
        "empty bytes": (b"", "has an empty picture, 0 bytes"),
        "text": (str(folder / "text.png"), "is no JPEG, PNG, WebP"),
        "svg": (str(folder / "script.svg"), "is no JPEG, PNG, WebP"),
        "null byte": ("a\0b", "cannot be read"),
        "address": ("https://example.org/a.png", "has the address"),
        "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is no JPEG"),
        "cut jpeg": (jpeg[: len(jpeg) // 2], "truncated"),
        "cut png": (png[: len(png) // 2], "that cannot be used, "),
        "cut webp": (encoded(kind="WEBP")[:-30], "that cannot be used"),
        "None": (None, "has no picture in the image column 'image' (None)"),
        "nan": (float("nan"), "has no picture"),
        "empty text": ("", "has no picture"),
        "nothing in a dict": ({"bytes": None, "path": None}, "has no picture"),
        "other dict": ({"pixels": 1}, "has no picture"),
        "number": (5, "has a int in the image column"),
        "list": ([[1, 2]], "has a list in the image column"),
        "float array": (PIXELS / 255, "has an array"),
        "four channels": (np.zeros((5, 5, 4), np.uint8), "[5, 5, 4] of uint8"),
        "empty array": (np.zeros((0, 5), np.uint8), "[0, 5] of uint8"),
    }


def test_broken_cells_are_refused_when_the_task_is_made(tmp_path):
    for kind, (cell, words) in broken_cells(tmp_path).items():
        with pytest.raises(DataError) as caught:
            only(cell)
        assert words in str(caught.value), (kind, str(caught.value))
        assert words in refusal(cell)


def test_too_many_pixels(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert "it has more than 100 pixels" in refusal(encoded())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", PIXELS.shape[0] * PIXELS.shape[1] - 1)
    assert "pixels; replace it" in refusal(encoded())


def test_a_picture_that_breaks_only_when_decoded():
    png = bytearray(encoded(np.tile(PIXELS, (5, 5, 1))))
    middle = len(png) // 2
    png[middle : middle + 40] = bytes(40)
    found = only(bytes(png))  # its header and its end are whole
    with pytest.raises(DataError, match=r"Task 't': train row 0 has a picture that cannot be used"):
        found.load()


def test_a_file_that_goes_away(tmp_path):
    found = only(save_picture(PIXELS, tmp_path / "a.png"))
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"row 0 names the picture .*a.png', which cannot be read"):
        found.load()


def test_the_row_is_named(tmp_path):
    rows = image_rows(3, np.random.default_rng(0))
    rows[2]["image"] = b"broken"
    with pytest.raises(DataError, match=r"Task 'pets': validation row 2 has a picture that"):
        Task("pets", validation=rows, image="image", label="shape")


def test_fuzz():
    """Damaged files of every format: a picture or one sentence, and never a warning."""
    generator = np.random.default_rng(11)
    large = np.tile(PIXELS, (3, 3, 1))
    kinds = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
    sources = [encoded(large, kind) for kind in kinds]
    sources.append(encoded(Image.fromarray(large).quantize(16), transparency=b"\x00\x10"))
    exif = Image.Exif()
    exif[0x0112] = 6
    sources.append(encoded(large, "JPEG", exif=exif, progressive=True))
    sentences = []
    for number in range(450):
        content = bytearray(sources[number % len(sources)])
        match number % 4:
            case 0:
                content = content[: generator.integers(len(content))]
            case 1:
                for place in generator.integers(len(content), size=generator.integers(1, 9)):
                    content[place] = generator.integers(256)
            case 2:  # the header, where most is decided
                for place in generator.integers(min(64, len(content)), size=3):
                    content[place] = generator.integers(256)
            case 3:
                start = generator.integers(len(content))
                content[start : start + generator.integers(1, 200)] = generator.bytes(30)
        try:
            assert only(bytes(content)).load().mode == "RGB"
        except DataError as error:
            sentences.append(str(error))
    assert 150 < len(sentences) < 440
    for sentence in sentences:
        assert re.fullmatch(r"(Task 't': train )?row 0 has [^\n]{20,400}\.", sentence)


def test_a_picture_is_shown_by_its_file():
    assert repr(only(encoded())) == f"Picture({len(encoded())} bytes)"
    assert isinstance(only(encoded()), Picture)
