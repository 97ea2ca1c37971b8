"""Which weights of a training are kept."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lobes.training.arguments import training_arguments
from lobes.training.selection import BestWeights, evaluation_steps
from lobes.training.trainer import MultiTaskTrainer
from tiny_models import tiny_model
from tiny_tasks import mood_task, tiny_tokenizer, warmth_task

NAN = math.nan


@given(st.integers(1, 300), st.integers(1, 40))
def test_evaluations_are_even_and_the_end_is_one(total, evaluations):
    steps = sorted(evaluation_steps(total, evaluations))
    assert steps[-1] == total
    assert steps[0] >= 1
    assert len(steps) == min(total, evaluations)
    gaps = {b - a for a, b in zip([0, *steps], steps, strict=False)}
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize(
    ("means", "kept"),
    [
        ([0.2, 0.5, 0.3], 2),
        ([0.2, 0.5, 0.5], 2),
        ([0.7, 0.5, 0.6], 1),
        ([NAN, 0.5, 0.6], 3),
        ([0.1, NAN, NAN], 1),
        ([NAN, NAN, NAN], 1),
        ([NAN, -0.3, -0.4], 2),
    ],
)
def test_the_best_is_kept_the_earliest_of_equals(means, kept):
    keeper, model = BestWeights(3), torch.nn.Linear(2, 3)
    for step, mean in enumerate(means, 1):
        torch.nn.init.constant_(model.weight, step)
        state = SimpleNamespace(global_step=step)
        keeper.on_evaluate(None, state, None, metrics={"eval_mean": mean, "x": step}, model=model)
    assert keeper.best.step == kept
    assert keeper.best.scores["x"] == kept
    keeper.best.load(model)
    assert bool((model.weight == kept).all())


def test_what_an_earlier_part_kept_may_stay_the_best():
    model = torch.nn.Linear(2, 3)
    first = BestWeights(3)
    first.on_evaluate(
        None, SimpleNamespace(global_step=1), None, metrics={"eval_mean": 0.5}, model=model
    )
    for mean, kept in ((0.5, 1), (0.4, 1), (0.6, 2)):
        second = BestWeights(3, first.best)
        state = SimpleNamespace(global_step=2)
        second.on_evaluate(None, state, None, metrics={"eval_mean": mean}, model=model)
        assert second.best.step == kept
    assert first.best.step == 1


def test_the_weights_of_a_training_are_those_of_the_evaluation(tmp_path):
    """Against the plain way: stop at the best step, with the same schedule."""
    from lobes.modeling import MultiTaskModel

    tasks = [mood_task(), warmth_task()]

    def trainer(*callbacks):
        model = MultiTaskModel(tiny_model("bert"), tiny_tokenizer(), tasks, seed=3)
        args = training_arguments(
            tmp_path, steps=11, batch_size=7, learning_rate=1e-3, precision="fp32", seed=5
        )
        return MultiTaskTrainer(model, args, tasks=tasks, callbacks=callbacks)

    keeper = BestWeights(4)
    kept = trainer(keeper)
    kept.train()
    evaluated = [e for e in kept.state.log_history if "eval_mean" in e]
    assert [entry["step"] for entry in evaluated] == [3, 6, 9, 11]
    best = max(evaluated, key=lambda entry: entry["eval_mean"])
    assert keeper.best.step == best["step"] < 11
    keeper.best.load(kept.model)

    class Stop(BestWeights):
        def on_step_end(self, args, state, control, **_):
            control.should_training_stop = state.global_step == best["step"]

    stopped = trainer(Stop(1))
    stopped.train()
    for name, weight in stopped.model.state_dict().items():
        assert torch.equal(weight, kept.model.state_dict()[name]), name
    assert stopped.evaluate()["eval_mean"] == best["eval_mean"]
