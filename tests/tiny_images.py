"""Pictures and image tasks small enough for tests, with a signal that a tiny model can learn.

A picture is 12 to 17 pixels high and wide: a square or a cross in one of three colours on a noisy
ground. `shape` (2 classes) and `colour` (3 classes) are two tasks over such pictures, `light` is a
regression on how bright the ground is.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from lobes.tasks.task import Task
from tiny_models import tiny_model

COLOURS = {"blue": (20, 40, 235), "green": (20, 225, 30), "red": (240, 25, 20)}
SHAPES = ("cross", "square")
SIZES = {"vit": 12, "swin": 16, "clip": 12, "siglip_vision_model": 12, "dinov2": 12}


def tiny_processor(size: int = 12) -> ViTImageProcessorPil:
    """What makes pictures of `size` x `size` pixels of any, numbers from -1 to 1."""
    return ViTImageProcessorPil(size={"height": size, "width": size})


def image_model(name: str = "vit", *, seed: int = 0) -> torch.nn.Module:
    """A tiny encoder of images by its name in `tiny_models`; of CLIP the vision model."""
    return tiny_model(name, seed=seed)


def picture(shape: int, colour: int, generator: np.random.Generator) -> np.ndarray:
    """One picture [height, width, 3] of uint8."""
    height, width = generator.integers(12, 18, size=2)
    ground = generator.integers(80, 150)
    pixels = generator.integers(ground - 20, ground + 20, (height, width, 3)).astype(np.uint8)
    paint = list(COLOURS.values())[colour]
    if shape == 1:
        pixels[2:-2, 2:-2] = paint
    else:
        pixels[height // 2 - 1 : height // 2 + 2] = paint
        pixels[:, width // 2 - 1 : width // 2 + 2] = paint
    return pixels


def image_rows(number: int, generator: np.random.Generator) -> list[dict[str, object]]:
    """Pictures with the labels of every task."""
    rows: list[dict[str, object]] = []
    for _ in range(number):
        shape, colour = int(generator.integers(2)), int(generator.integers(3))
        pixels = picture(shape, colour, generator)
        light = float(pixels[0, 0].mean()) / 255 + 0.01 * colour
        rows.append({"image": pixels, "shape": shape, "colour": colour, "light": light})
    return rows


def image_task(
    name: str = "shape", n_train: int = 61, n_validation: int = 31, *, seed: int = 0
) -> Task:
    """`shape`, `colour` or `light`; tasks of one seed are over the same pictures."""
    generator = np.random.default_rng([seed, 11])
    labels = {"shape": SHAPES, "colour": tuple(COLOURS), "light": None}[name]
    return Task(
        name,
        train=image_rows(n_train, generator),
        validation=image_rows(n_validation, generator),
        image="image",
        label=name,
        labels=labels,
    )


def save_picture(pixels: np.ndarray, path: Path, **options: object) -> Path:
    """Write a picture in the format that the path's suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path
