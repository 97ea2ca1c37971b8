"""Pictures as a model reads them: an image processor of transformers, and batches of pixels.

Only Pillow and NumPy are needed: the processors' own torchvision versions give slightly other
pixels, so that results would depend on what is installed.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lobes.errors import DataError, ModelError
from lobes.modeling.pretrained import checked
from lobes.modeling.safe_loading import NEEDS_TRUST
from lobes.tasks.images import Picture, pillow
from lobes.transfers import moved

Pixels = Float[Tensor, "batch channels height width"]


class ImageProcessor:
    """An image processor of transformers (or one of these) that makes `pixel_values` of one size.

    Raises `ModelError` for one that makes anything else.
    """

    def __init__(self, processor: Any) -> None:
        self.processor: Any = (
            processor.processor if isinstance(processor, ImageProcessor) else processor
        )
        one, other = (self._noise(size) for size in ((48, 64), (64, 48)))
        if one.shape != other.shape:
            raise ModelError(
                f"The image processor {self.name} makes pictures of several sizes, "
                f"{list(one.shape[1:])} and {list(other.shape[1:])}: set its size to a height and "
                f"a width, or do_center_crop to true."
            )

    @property
    def name(self) -> str:
        """The class of the processor."""
        return type(self.processor).__name__

    def __call__(self, pictures: Sequence[Picture]) -> Pixels:
        """The pictures as the encoder reads them; `DataError` for one that cannot be processed."""
        images = [picture.load() for picture in pictures]
        try:
            return self._pixels(images)
        except Exception:  # of any kind, for one of the pictures
            for picture, image in zip(pictures, images, strict=True):
                self._try(picture, image)
            raise

    def sample(self) -> Pixels:
        """Return one picture of random noise."""
        return self._noise((48, 48))

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the processor's settings as transformers does."""
        self.processor.save_pretrained(folder)

    def _noise(self, size: tuple[int, int]) -> Pixels:
        values = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        return self._pixels([pillow().Image.fromarray(values)])

    def _pixels(self, images: list[Any]) -> Pixels:
        made = self.processor(images, return_tensors="pt")
        pixels = made.get("pixel_values")
        if set(made) != {"pixel_values"} or not isinstance(pixels, Tensor) or pixels.dim() != 4:
            raise ModelError(
                f"The image processor {self.name} makes {', '.join(sorted(made))}: expected only "
                f"pixel_values [batch, channels, height, width]; take a model with another one."
            )
        return pixels.float()

    def _try(self, picture: Picture, image: Any) -> None:
        try:
            self._pixels([image])
        except Exception as error:
            raise DataError(
                f"{picture.place} has a picture of {image.width} x {image.height} pixels that "
                f"{self.name} cannot process, {picture.name} ({error}); replace it."
            ) from error


@dataclass(frozen=True, slots=True, eq=False)
class EncodedImages:
    """`Inputs` of pictures, which become pixels when they are collated.

    `length` is the number of positions that the model has for each.
    """

    pictures: tuple[Picture, ...]
    processor: ImageProcessor
    length: int

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def lengths(self) -> Int[np.ndarray, " examples"]:
        return np.full(len(self), self.length, dtype=np.int64)

    def select(self, indices: Int[np.ndarray, " selected"]) -> "EncodedImages":
        chosen = tuple(self.pictures[i] for i in indices.tolist())
        return EncodedImages(chosen, self.processor, self.length)

    @classmethod
    def concatenate(cls, parts: Sequence["EncodedImages"]) -> "EncodedImages":
        pictures = tuple(picture for part in parts for picture in part.pictures)
        return cls(pictures, parts[0].processor, parts[0].length)

    def distinct(self) -> tuple["EncodedImages", Int[np.ndarray, " examples"]]:
        place: dict[Picture, int] = {}
        inverse = [place.setdefault(picture, len(place)) for picture in self.pictures]
        return EncodedImages(tuple(place), self.processor, self.length), np.array(inverse)

    def collate(
        self,
        indices: Int[np.ndarray, " batch"] | Sequence[int],
        device: torch.device | str | None = None,
    ) -> dict[str, Pixels]:
        """Decode the pictures at `indices` and return them as `pixel_values`."""
        pixels = self.processor([self.pictures[int(i)] for i in indices])
        return {"pixel_values": moved(pixels, device)}


def load_image_processor(
    name_or_folder: str | os.PathLike[str],
    *,
    trust_remote_code: bool = False,
    subfolder: str = "",
) -> ImageProcessor:
    """Load a model's image processor; `ModelError` where there is none that Pillow is enough for.

    Raises `ConfigError` without Pillow.
    """
    pillow()
    # transformers before 5.11 gives out this class under its public name with torchvision only
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    with checked(name_or_folder, trust_remote_code, subfolder) as (name, given):
        try:
            return ImageProcessor(AutoImageProcessor.from_pretrained(name, backend="pil", **given))
        except ModelError:
            raise
        except Exception as error:  # dozens of processor classes, no common error
            if NEEDS_TRUST in str(error):
                raise
            raise _no_processor(name, error) from error


def _no_processor(name: str, error: Exception) -> ModelError:
    if isinstance(error, ImportError) and "torchvision" in str(error).lower():
        return ModelError(
            f"The image processor of {name!r} needs torchvision: pip install torchvision, or take "
            f"a model whose processor does without."
        )
    return ModelError(
        f"The model {name!r} comes with no image processor that can be loaded: save it beside the "
        f"model (image_processor.save_pretrained), as a preprocessor_config.json."
    )
