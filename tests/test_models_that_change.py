"""A model that changed since a run began is refused, wherever the run goes on with it."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lobes.config.study import load_study, override, with_trained_model
from lobes.errors import RunError
from lobes.experiments import growth, loading
from lobes.experiments.loading import (
    base_fingerprint,
    load_tasks,
    model_fingerprint,
    new_model,
    scope_of,
)
from lobes.experiments.methods import SeedRun, with_defaults
from lobes.experiments.predict import predict_run
from lobes.experiments.store import RunFolder
from lobes.modeling import MultiTaskModel
from plain_results import compare_study, run_study, transfer_study
from tiny_models import tiny_model
from tiny_study import write_study
from tiny_tasks import mood_task, tiny_tokenizer, topic_task

SHORT = (
    "training.steps=2",
    "iap.controls=0",
    "iap.fractions=[0.5]",
    "iap.importance_examples=7",
    "iap.agreement_examples=0",
    "iap.similarity_examples=0",
    "iap.resamples=5",
)


@pytest.fixture
def study(tmp_path):
    return override(load_study(write_study(tmp_path)), *SHORT)


def change(folder: Path) -> None:
    """Add 1 to one weight of a saved model."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights[sorted(weights)[0]].view(-1)[0] += 1.0
    save_file(weights, path, metadata={"format": "pt"})


def test_a_model_trained_again_in_place_is_not_shown_with_the_old_results(study, tmp_path):
    tasks = load_tasks(study)
    saved = tmp_path / "saved"
    new_model(study, tasks).save_pretrained(saved)
    given = with_trained_model(study, str(saved))
    first = run_study(given)
    assert run_study(given) == first
    change(saved / "encoder")
    with pytest.raises(RunError, match="holds a run of another model: model changed since it"):
        run_study(given)
    with pytest.raises(RunError, match=r"The model that .* measured has changed since: put the"):
        predict_run(Path(given.output), tmp_path / "answers", split="validation")
    assert not (tmp_path / "answers").exists()
    assert run_study(given, fresh=True)["fractions"] != first["fractions"]


def test_growth_measures_the_base_model_that_the_training_began_with(study, tmp_path):
    study = override(study, "growth.checkpoints=1")
    run_study(study, stages=("train",))
    change(tmp_path / "model")
    with pytest.raises(RunError, match="of another model: base model changed since it began"):
        run_study(study)
    # and where it changes while the training runs
    tasks = load_tasks(study)
    loaded = loading.Loaded(study, tasks, loading.new_model(study, tasks), "fp32")
    with RunFolder(study.output, study.to_dict()) as folder:
        folder.begin({})
        with pytest.raises(RunError, match="has changed since this run began: put back the one"):
            growth._model(loaded, folder, 0)


def test_without_growth_the_base_model_is_not_read_again(study, tmp_path):
    run_study(study, stages=("train",))
    change(tmp_path / "model")
    assert run_study(study)["training"]["steps"] == 2


@pytest.mark.parametrize("command", [compare_study, transfer_study])
def test_trainings_that_are_compared_begin_with_one_model(study, tmp_path, command, monkeypatch):
    files = {part: str(tmp_path / f"mood.{part}.csv") for part in ("train", "validation")}
    table = {"name": "new", **files}
    content = study.to_dict() | {"transfer": {"task": {**table, "text": "sentence"}, "seeds": 2}}
    content |= {"compare": {"seeds": 2, "methods": ["single"]}, "iat": {"delta": 0.5}}
    study = type(study).from_dict(content, source="test")
    made = iter(range(100))
    original = SeedRun.new_model

    def later(self, tasks=None):
        if next(made) == 3:
            change(tmp_path / "model")
        return original(self, tasks)

    monkeypatch.setattr(SeedRun, "new_model", later)
    with pytest.raises(RunError, match="has changed since this run began"):
        command(study)
    with pytest.raises(RunError, match="of another model: base model changed since it began"):
        command(study)


def model_of(seed=0, **settings):
    encoder = tiny_model("bert")
    for name, value in settings.items():
        setattr(encoder.config, name, value)
    return MultiTaskModel(encoder, tiny_tokenizer(), [mood_task(), topic_task()], seed=seed)


def test_a_fingerprint_is_of_weights_configuration_and_inputs(tmp_path):
    model = model_of()
    print_ = model_fingerprint(model)
    model.save_pretrained(tmp_path / "here")
    assert model_fingerprint(MultiTaskModel.from_pretrained(tmp_path / "here")) == print_
    with torch.no_grad():
        model.classifiers["mood"].bias[0] += 1e-6
    others = [model, model_of(layer_norm_eps=1e-3), model_of()]
    others[2].tokenizer.add_tokens(["loud"])
    assert len({print_, *map(model_fingerprint, others)}) == 4


def test_the_base_of_new_models_is_the_same_for_every_seed(tmp_path):
    encoder = tiny_model("bert")
    weights = {n: w for n, w in encoder.state_dict().items() if not n.startswith("pooler.")}
    encoder.save_pretrained(tmp_path, state_dict=weights)
    tiny_tokenizer().save_pretrained(tmp_path)
    models = [MultiTaskModel.from_pretrained(tmp_path, [mood_task()], seed=seed) for seed in (0, 1)]
    assert models[0].new_weights == {"pooler.dense.weight", "pooler.dense.bias"}
    assert not torch.equal(*(m.encoder.pooler.dense.weight for m in models))
    assert base_fingerprint(models[0]) == base_fingerprint(models[1])
    assert model_fingerprint(models[0]) != model_fingerprint(models[1])


def test_measurements_of_another_version_have_other_names(monkeypatch):
    model, tasks = model_of(), [mood_task(), topic_task()]
    before = scope_of(model, tasks, "fp32")
    assert scope_of(model, tasks, "fp32") == before
    monkeypatch.setattr(loading, "MEASUREMENT_VERSION", loading.MEASUREMENT_VERSION + 1)
    assert scope_of(model, tasks, "fp32") != before


def test_a_run_of_an_earlier_version_does_not_know_its_model(study, tmp_path):
    assert with_defaults(study).compare.seeds > 1
    with RunFolder(tmp_path / "old", study.to_dict()) as folder:
        folder.begin({"data of mood": "1"})
    with (
        RunFolder(tmp_path / "old", study.to_dict()) as folder,
        pytest.raises(RunError, match="an earlier version of lobes began, which did not record"),
    ):
        folder.begin({"data of mood": "1", "model": "2"})
