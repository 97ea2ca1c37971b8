"""Studies that train adapters in place of the encoder's own weights."""

from pathlib import Path

import peft
import pytest
import torch
import transformers

from lobes import load_task_model
from lobes.config.study import load_study, override
from lobes.experiments.loading import load_tasks
from lobes.experiments.methods import SeedRun, with_defaults
from lobes.experiments.run import run_study
from lobes.modeling.saved_adapters import is_adapted
from lobes.results.training import Training
from tiny_study import write_study

FEW = ("training.lora_rank=2", "training.steps=8", "training.learning_rate=0.01")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("lora"))


def test_a_run_keeps_the_adapters_beside_the_merged_model(path: Path) -> None:
    study = override(load_study(path), *FEW, "iat.delta=0.5")
    training = run_study(study, stages=("train",))
    assert isinstance(training, Training)
    assert training.iat is not None
    run = path.parent / "run"
    base = transformers.AutoModel.from_pretrained(path.parent / "model")
    adapted = peft.PeftModel.from_pretrained(base, run / "model" / "adapters")
    merged = adapted.merge_and_unload().state_dict()
    saved = load_task_model(run / "model").encoder.state_dict()
    plain = transformers.AutoModel.from_pretrained(path.parent / "model").state_dict()
    changed = {name for name, value in plain.items() if not torch.equal(value, saved[name])}
    assert changed
    assert all(".attention." in name and name.endswith("weight") for name in changed)
    for name, value in merged.items():
        torch.testing.assert_close(saved[name], value)


def test_every_method_but_frozen_classifiers_trains_adapters(path: Path, tmp_path: Path) -> None:
    few = ("compare.seeds=1", "compare.evaluations=2", "iat.delta=0.5")
    study = with_defaults(override(load_study(path), *FEW, *few))
    run = SeedRun(study, 0, load_tasks(study), tmp_path / "checkpoints", "fp32")
    before = run.new_model().encoder.state_dict()
    multi, iat = run.pair()
    frozen = run.train("frozen")
    for trained in (multi, iat, frozen):
        assert not is_adapted(trained.model.encoder)
        after = trained.model.encoder.state_dict()
        changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
        assert all(".attention." in name and name.endswith("weight") for name in changed)
        assert bool(changed) == (trained is not frozen and trained.step > 0)
