"""How far a computation is: on one line, or to a callback."""

import numpy as np

import lobes
from lobes.progress import ProgressLine
from tiny_models import tiny_model
from tiny_tasks import mood_task, tiny_tokenizer, topic_task


def test_a_line_says_what_is_left_and_ends_with_its_stage(capsys):
    times = iter([0.0, 10.0, 10.1, 30.0, 31.0])
    line = ProgressLine("pruning", lambda: next(times))
    line.rewrites = True
    for done in (0, 1, 2, 4):
        line("lesions", done, 4)
    line(3, 3)
    parts = [part.strip() for part in capsys.readouterr().err.replace("\n", "\r").split("\r")]
    told = ["lesions: 25 %, 30 s left", "lesions: done in 30 s", "pruning: done in 0 s"]
    assert [part for part in parts if part] == told


def test_every_computation_shows_its_progress(capsys):
    tasks = [mood_task(31, 17), topic_task(29, 13)]
    model = lobes.MultiTaskModel(tiny_model("bert"), tiny_tokenizer(), tasks)
    matrix = lobes.lesion_matrix(
        model, tasks, fractions=[0.3], controls=2, random=1, importance_examples=7, progress=True
    )
    told = capsys.readouterr().err
    assert "importance of mood: done in" in told
    assert "lesions: done in" in told
    scores = lobes.head_importance(model, tasks[0], max_examples=7, progress=True)
    lobes.evaluate(model, tasks, progress=True)
    told = capsys.readouterr().err
    assert "importance: done in" in told
    assert "evaluation: done in" in told
    seen = []
    heads = scores.top(k=3)
    lobes.prune(tiny_model("bert"), heads, progress=lambda *where: seen.append(where))
    sites = len(heads.by_site())
    assert seen == [(done, sites) for done in range(1, sites + 1)]
    assert np.isfinite(matrix.base).all()
