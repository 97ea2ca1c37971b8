"""Damaged folders of models by the hundred: each is read or refused in a sentence, in time."""

import random
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from damage import damage, outcome, within
from lobes import HeadSet, MultiTaskModel, PromptedModel, load_pruned, load_task_model, prune
from lobes.discovery import find_heads
from lobes.errors import ModelError, RunError
from lobes.experiments.manifest import PRUNED_MARKER
from lobes.experiments.open_model import find_model_heads, open_model
from lobes.files import mark_folder
from lobes.modeling.safe_loading import quiet
from lobes.tasks.prompts import Prompt
from tiny_images import image_task, tiny_processor
from tiny_models import tiny_model
from tiny_tasks import mood_task, tiny_tokenizer, topic_task

SECONDS = 60  # far more than any takes, also on a busy machine
MOOD, IMAGES = mood_task().spec, image_task().spec


def _classifier(folder: Path) -> None:
    config = tiny_model("bert").config
    config.num_labels, config.architectures = 2, ["BertForSequenceClassification"]
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)


def _encoder(name: str, folder: Path) -> None:
    model = tiny_model(name)
    model.save_pretrained(folder, max_shard_size="30KB" if name == "roberta" else "5GB")
    tiny_tokenizer().save_pretrained(folder)


def _causal(folder: Path) -> None:
    transformers.GPT2LMHeadModel(tiny_model("gpt2").config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)


def _pictures(folder: Path) -> None:
    tiny_model("vit").save_pretrained(folder)
    tiny_processor().save_pretrained(folder)


def _saved(folder: Path) -> None:
    tasks = [mood_task(), topic_task()]
    MultiTaskModel(tiny_model("bert"), tiny_tokenizer(), tasks).save_pretrained(folder)


def _pruned(folder: Path) -> None:
    prune(tiny_model("bert"), HeadSet([(0, 1), (1, 3)])).save_pretrained(folder)


def _measured(model: torch.nn.Module) -> None:
    find_heads(model)
    for parameter in model.parameters():
        assert parameter.device.type == "cpu"


# How each kind of folder is made, and what opens it.
KINDS = {
    "saved": (_saved, lambda folder: _measured(load_task_model(folder))),
    "encoder": (
        lambda folder: _encoder("bert", folder),
        lambda folder: _measured(MultiTaskModel.from_pretrained(folder, [MOOD])),
    ),
    "shards": (lambda folder: _encoder("roberta", folder), find_model_heads),
    "classifier": (_classifier, lambda folder: _measured(load_task_model(folder, [MOOD]))),
    "causal": (
        _causal,
        lambda folder: _measured(
            PromptedModel.from_pretrained(
                folder, [MOOD], {"mood": Prompt("{text} so", ["sad", "fine"])}
            )
        ),
    ),
    "pictures": (
        _pictures,
        lambda folder: _measured(MultiTaskModel.from_pretrained(folder, [IMAGES])),
    ),
    "pruned": (_pruned, lambda folder: _measured(load_pruned(folder))),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each kind, undamaged."""
    home = tmp_path_factory.mktemp("whole")
    with quiet():
        for kind, (make, _) in KINDS.items():
            make(home / kind)
    return home


def _tried(whole: Path, place: Path, kind: str, seed: int) -> str:
    """What becomes of one damaged folder."""
    folder = place / kind
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole / kind, folder)
    how = damage(folder, random.Random(f"{kind} {seed}"))
    try:
        with within(SECONDS):
            return outcome(KINDS[kind][1], folder)
    except BaseException as error:
        error.add_note(f"{kind}, seed {seed}: {how}")
        raise


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_folders_are_read_or_refused(whole: Path, tmp_path: Path, kind: str) -> None:
    assert outcome(KINDS[kind][1], whole / kind) == "read"
    found = {_tried(whole, tmp_path, kind, seed) for seed in range(7)}
    assert found <= {"read", "refused"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_folders_are_read_or_refused(whole: Path, tmp_path: Path, kind: str) -> None:
    for seed in range(7, 35):
        _tried(whole, tmp_path, kind, seed)


def test_the_hub_s_cache_is_read_however_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot, blobs = (
        tmp_path / "models--a--b" / "snapshots" / "0123",
        tmp_path / "models--a--b/blobs",
    )
    with quiet():
        _encoder("roberta", snapshot / "inner")  # in shards, where sentence-transformers put them
    blobs.mkdir()
    for path in (snapshot / "inner").iterdir():
        path.rename(blobs / path.name)
        path.symlink_to(Path("../../../blobs", path.name))
    (tmp_path / "link").symlink_to(snapshot / "inner")
    monkeypatch.chdir(snapshot / "inner")
    for name in (snapshot / "inner", tmp_path / "link", "."):
        assert find_model_heads(str(name)).sites
    (snapshot / "inner/model.safetensors.index.json").unlink()
    (snapshot / "inner/model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "out.safetensors"}}'
    )
    (snapshot / "inner/out.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="in the same folder"):
        find_model_heads(".")


def test_a_pruned_model_that_was_trained_further_is_somebody_s_own(tmp_path: Path) -> None:
    folder = tmp_path / "smaller"
    with quiet():
        tiny_model("bert").save_pretrained(folder)
        mark_folder(folder, {"schema": "lobes-pruning"}, PRUNED_MARKER)
        open_model(folder)
        tiny_model("bert", seed=1).save_pretrained(folder)
    with pytest.raises(RunError, match=r"trained it further yourself, remove pruning\.json first"):
        open_model(folder)
    (folder / PRUNED_MARKER).unlink()
    open_model(folder)
