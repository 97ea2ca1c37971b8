"""What can be known to fail is refused before a model is trained or measured."""

import pytest
from tokenizers import normalizers, processors

from lobes.config.study import load_study, override
from lobes.errors import DataError, RunError
from lobes.experiments import growth
from lobes.experiments.loading import check_inputs
from lobes.modeling import MultiTaskModel
from lobes.tasks.task import Task
from plain_results import run_study
from tiny_models import tiny_model
from tiny_study import write_study
from tiny_tasks import tiny_tokenizer


def test_a_text_without_a_token_is_refused_with_its_place():
    rows = [{"text": text, "label": i % 2} for i, text in enumerate(("soup", "salt", "#", "gull"))]
    task = Task("taste", train=rows[:2], validation=rows, text="text", labels=["no", "yes"])
    tokenizer = tiny_tokenizer()
    model = MultiTaskModel(tiny_model("gpt2"), tokenizer, [task], pooling="last")
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("#", "")
    check_inputs(model, [task])  # the tokenizer's own tokens are there in any case
    plain = processors.TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])
    tokenizer.backend_tokenizer.post_processor = plain
    with pytest.raises(DataError, match="Example 2 has no tokens: the tokenizer makes nothing of"):
        check_inputs(model, [task])


def test_the_probes_of_growth_see_every_class():
    """A random draw may miss a rare one, which would fail after the training."""
    rows = [{"text": f"word {i}", "label": int(i == 1234)} for i in range(2003)]
    task = Task("rare", train=rows, text="text", labels=["no", "yes"])
    assert growth.PROBE_EXAMPLES < 2003
    for seed in range(3):
        some = growth._fewer(task, seed).train
        assert len(some) == growth.PROBE_EXAMPLES
        assert sorted(set(some.labels.tolist())) == [0, 1]


def test_controls_of_one_class_are_refused_before_the_training(tmp_path):
    study = load_study(write_study(tmp_path))
    path = tmp_path / "mood.validation.csv"
    head, *lines = path.read_text(encoding="utf-8").splitlines()
    bad = [line for line in lines if line.endswith("bad")]
    good = [line for line in lines if line.endswith("good")][:1]
    path.write_text("\n".join([head, *bad, *good]) + "\n", encoding="utf-8")
    study = override(study, "iap.control_examples=2")
    with pytest.raises(ValueError, match=r"control_examples = 2 takes examples of one class only"):
        run_study(study)
    assert not (tmp_path / "run").exists()
    with pytest.raises(RunError, match="no trained model"):
        run_study(override(study, "iap.control_examples=50"), stages=("iap",))
