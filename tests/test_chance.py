"""A model that hardly does its tasks is named at once."""

import logging

import pytest

from lobes.config.study import load_study, override
from lobes.experiments.training import warn_near_chance
from lobes.tasks.task import Task
from plain_results import run_study
from tiny_study import write_study
from tiny_tasks import mood_task, warmth_task


def even_task(n: int) -> Task:
    rows = [{"text": f"word {i}", "label": i % 2} for i in range(n)]
    return Task("even", train=rows, validation=rows, text="text", labels=["no", "yes"])


@pytest.mark.parametrize(
    ("score", "sentence"),
    [
        (0.10, "0.100 (chance 0.500), is below chance; are the labels in another order?"),
        (
            0.40,
            "0.400 (chance 0.500), is near chance for 82 examples: where there is little to lose,",
        ),
        (0.54, "0.540 (chance 0.500), is near chance"),
        (None, "undefined (chance 0.500), is near chance"),
        (0.90, ""),
    ],
)
def test_a_score_near_chance_or_below_it_is_said(score, sentence, caplog):
    warn_near_chance([even_task(82)], {"even": score}, "After the training")
    if sentence:
        assert f"After the training: the accuracy of even, {sentence}" in caplog.text
    else:
        assert not caplog.records


def test_correlations_have_a_chance_of_zero(caplog):
    scores = {"warmth": -0.5, "mood": 1.0}
    warn_near_chance([warmth_task(), mood_task()], scores, "Seed 3, held-out data")
    (record,) = caplog.records
    assert record.getMessage() == (
        "Seed 3, held-out data: the spearman of warmth, -0.500 (chance 0.000), is below chance; "
        "are the labels in another order?"
    )


def test_it_is_said_before_anything_is_measured(tmp_path, caplog):
    study = override(load_study(write_study(tmp_path)), "training.steps=1")
    stages = []

    def progress(stage, done, total):
        if not stages or stages[-1] != stage:
            stages.append(stage)
        if stage.startswith("importance"):
            raise KeyboardInterrupt

    with caplog.at_level(logging.WARNING, logger="lobes"), pytest.raises(KeyboardInterrupt):
        run_study(study, progress=progress)
    assert stages[-1].startswith("importance")
    assert "After the training: the accuracy of topic" in caplog.text
