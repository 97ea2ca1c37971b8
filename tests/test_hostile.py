"""Folders that somebody else made: whatever lies in them, no command runs any code of theirs."""

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import transformers
from transformers import dynamic_module_utils
from typer.testing import CliRunner

from lobes import HeadSet, MultiTaskModel, prune
from lobes.cli import app
from lobes.config.study import load_study
from lobes.modeling.safe_loading import quiet
from tiny_models import tiny_model
from tiny_study import as_before, write_study  # noqa: F401
from tiny_tasks import mood_task, tiny_tokenizer, topic_task

pytestmark = pytest.mark.usefixtures("as_before")

CODE = """
open({proof!r}, "w").close()
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
class Config(BertConfig): model_type = "own"
class Model(BertModel): config_class = Config
class Tokenizer(PreTrainedTokenizerFast): pass
def generate(*_, **__): pass
"""
LOADERS = ("AutoModel", "AutoModelForSequenceClassification", "AutoModelForCausalLM")
LOADERS += ("AutoModelForImageClassification",)


class Bomb:
    """What makes a file when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.proof),)


def _changed(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | changes))


def _code(folder: Path, proof: Path) -> None:
    (folder / "own.py").write_text(CODE.format(proof=str(proof)))
    (folder.parent / "own.py").write_text(CODE.format(proof=str(proof)))


def _model_code(folder: Path, proof: Path) -> None:
    _code(folder, proof)
    auto_map = {"AutoConfig": "own.Config", **dict.fromkeys(LOADERS, "own.Model")}
    _changed(folder / "config.json", model_type="own", auto_map=auto_map)


def _known_type_with_code(folder: Path, proof: Path) -> None:
    _code(folder, proof)
    auto_map = {"AutoConfig": "own.Config", **dict.fromkeys(LOADERS, "own.Model")}
    _changed(folder / "config.json", auto_map=auto_map, architectures=["Model"])


def _tokenizer_code(folder: Path, proof: Path) -> None:
    _code(folder, proof)
    changes = {"tokenizer_class": "Tokenizer", "auto_map": {"AutoTokenizer": ["own.Tokenizer"] * 2}}
    _changed(folder / "tokenizer_config.json", **changes)
    processor = {"auto_map": {"AutoImageProcessor": "own.Model", "AutoProcessor": "own.Model"}}
    for file in ("preprocessor_config.json", "processor_config.json"):
        _changed(folder / file, image_processor_type="Model", **processor)


def _generation_code(folder: Path, proof: Path) -> None:
    _code(folder, proof)
    (folder / "custom_generate").mkdir()
    shutil.copyfile(folder / "own.py", folder / "custom_generate" / "generate.py")


def _pickles(folder: Path, proof: Path) -> None:
    bomb = pickle.dumps(Bomb(proof))
    for file in ("model.safetensors", "classifiers.safetensors"):
        if (folder / file).exists():
            (folder / file).write_bytes(bomb)
    for file in ("pytorch_model.bin", "training_args.bin", ".metadata", "adapter_model.bin"):
        (folder / file).write_bytes(bomb)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')


def _instead(folder: Path, proof: Path) -> None:
    (folder / "model.safetensors").unlink(missing_ok=True)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(proof)))


def _indexed(folder: Path, proof: Path, file: str) -> None:
    _instead(folder, proof)
    shutil.copyfile(folder / "pytorch_model.bin", folder.parent / "other.bin")
    index = {"metadata": {}, "weight_map": {"embeddings.word_embeddings.weight": file}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _named_weights(folder: Path, proof: Path) -> None:
    _pickles(folder, proof)
    _changed(folder / "config.json", transformers_weights="adapter_model.bin")


def _kernel(folder: Path, proof: Path) -> None:
    _changed(folder / "config.json", attn_implementation="somebody/attention")


def _plan(folder: Path, proof: Path) -> None:
    """A plan that names what no module has, and more entries than fit into memory."""
    site = {"projection": "__class__", "slots": [0], "head_dim": 1, "counts": []}
    site |= {"cuts": [], "narrowings": [], "bypasses": [], "tables": [], "ignored": []}
    site |= {"stepwise": [], "settings": [{"module": "", "name": "forward", "value": 3}]}
    steps = [{"model_class": "os.system", "heads": "0:1", "sites": [site]}]
    _changed(folder / "config.json", lobes_pruning={"version": 1, "steps": steps})


def _classes(folder: Path, proof: Path) -> None:
    """Architectures that are no classes of models."""
    _changed(folder / "config.json", architectures=["pipeline", "Trainer", "os"])


PLANTS: dict[str, Callable[[Path, Path], None]] = {
    "code of the model": _model_code,
    "code beside a known type": _known_type_with_code,
    "code of the tokenizer": _tokenizer_code,
    "code for generation": _generation_code,
    "pickles": _pickles,
    "a pickle instead": _instead,
    "an index to a pickle": lambda *at: _indexed(*at, "pytorch_model.bin"),
    "an index outside": lambda *at: _indexed(*at, "../other.bin"),
    "an absolute index": lambda folder, proof: _indexed(
        folder, proof, str(folder.parent / "other.bin")
    ),
    "named weights": _named_weights,
    "a kernel": _kernel,
    "a plan": _plan,
    "other classes": _classes,
}


def lobes(*arguments: object) -> tuple[int, str]:
    """Run a command in this process: its exit code, and what it says."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study and its trained run, and folders of a pruned model and of a classifier."""
    home = tmp_path_factory.mktemp("home")
    study = write_study(home)
    tasks = [mood_task(), topic_task()]
    with quiet():
        MultiTaskModel(tiny_model("bert"), tiny_tokenizer(), tasks).save_pretrained(
            home / "run" / "model"
        )
        prune(tiny_model("bert"), HeadSet([(0, 1)])).save_pretrained(home / "pruned")
        transformers.BertForSequenceClassification(tiny_model("bert").config).save_pretrained(
            home / "classifier"
        )
        for folder in ("pruned", "classifier"):
            tiny_tokenizer().save_pretrained(home / folder)
    text = study.read_text()
    head, tasks = text.split("[[tasks]]", 1)
    task = tasks.split("[[tasks]]")[0]
    one = head.replace('"model"', '"classifier"') + "[[tasks]]" + task
    settings = "[training]\nenabled = false\n[iap]\ncontrols = 2\nimportance_examples = 7\n"
    (home / "one.toml").write_text(one + settings)
    # what the run's own folder says about trust must not count
    config = {**load_study(study).to_dict(), "trust_remote_code": True}
    for given in config["tasks"]:
        given["test"] = given["validation"]
    record = {"schema": "lobes-run", "version": 1, "config": config, "fingerprints": {}}
    (home / "run" / "config.json").write_text(json.dumps(record))
    return home


# Each command: what it opens (the folder to plant in), and its arguments.
COMMANDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "heads of a folder": ("model", ("heads", "model")),
    "heads of a pruned model": ("pruned", ("heads", "pruned")),
    "heads of a run": ("run/model/encoder", ("heads", "run")),
    "prune": ("model", ("prune", "model", "--drop", "0:1", "--to", "smaller")),
    "prune a run": ("run/model/encoder", ("prune", "run", "--drop", "0:1", "--to", "smaller")),
    "tasks": ("model", ("tasks", "mood", "--study", "study.toml", "--model", "model")),
    "train": ("model", ("train", "study.toml", "--output", "other")),
    "iap": ("classifier", ("iap", "one.toml", "--output", "other")),
    "iap of a run": (
        "run/model/encoder",
        ("iap", "study.toml", "--model", "run/model", "--output", "other"),
    ),
    "predict": ("run/model/encoder", ("predict", "run", "--to", "answers")),
    "export": ("run/model/encoder", ("export", "run", "--task", "mood", "--to", "exported")),
}


def planted(home: Path, place: Path, folder: str, plant: Callable[[Path, Path], None]) -> Path:
    """A copy of everything, with something planted in one folder: what it would make."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(home, place)
    proof = place / "proof"
    plant(place / folder, proof)
    return proof


def check_nothing_runs(
    home: Path, place: Path, monkeypatch: pytest.MonkeyPatch, command: str, plants: Sequence[str]
) -> None:
    folder, arguments = COMMANDS[command]
    for name in plants:
        proof = planted(home, place, folder, PLANTS[name])
        monkeypatch.chdir(place)
        _, said = lobes(*arguments)
        assert not proof.exists(), name
        assert "failed in a way" not in said, name
        monkeypatch.undo()


@pytest.mark.parametrize(
    ("command", "plants"),
    [
        ("heads of a folder", [*PLANTS]),
        ("heads of a pruned model", ["code of the model", "a plan"]),
        ("prune", ["code of the model", "a pickle instead"]),
        ("iap", ["code of the model", "code of the tokenizer", "an index outside"]),
        ("train", ["code of the model", "code of the tokenizer"]),
        ("predict", ["code of the model", "code of the tokenizer", "pickles"]),
        ("export", ["code of the model", "pickles"]),
        ("tasks", ["code of the tokenizer"]),
    ],
)
def test_nothing_runs(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    plants: Sequence[str],
) -> None:
    check_nothing_runs(home, tmp_path / "place", monkeypatch, command, plants)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_at_all_runs(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    check_nothing_runs(home, tmp_path / "place", monkeypatch, command, [*PLANTS])


@pytest.mark.parametrize("command", ["heads of a folder", "predict"])
def test_the_code_runs_where_the_user_trusts_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """So the tests above would see it."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    folder, arguments = COMMANDS[command]
    proof = planted(home, tmp_path / "place", folder, PLANTS["code of the model"])
    monkeypatch.chdir(tmp_path / "place")
    _, said = lobes(*arguments)
    assert not proof.exists()
    assert "comes with Python code of its own" in said
    assert "--trust-remote-code" in said
    lobes(*arguments, "--trust-remote-code")
    assert proof.exists()
