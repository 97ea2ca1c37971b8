"""How far a run is that was killed or is still going on, from what its folder holds."""

import re
from pathlib import Path
from typing import Any

from lobes.errors import LobesError
from lobes.experiments.manifest import MODEL_MARKER
from lobes.experiments.measurements import stored
from lobes.experiments.store import SCHEMA, SECONDS
from lobes.experiments.stored_study import stored_study
from lobes.files import read_folder, read_json
from lobes.results import ComparisonResults, RunResults, TransferResults
from lobes.results.training import Training
from lobes.scores import HeadScores

TOP = 5  # heads that are named of each task
_NOUNS = {"run": "run", "compare": "comparison", "transfer": "transfer study"}
_FILES = {
    "run": RunResults.FILE,
    "compare": ComparisonResults.FILE,
    "transfer": TransferResults.FILE,
}


def unfinished_run(run: Path) -> dict[str, Any] | None:
    """Return the stages of a run or a study that has no results yet; None for any other folder.

    {"stages": [{"stage", "state", "seconds"}], "scores": of the trained model by task,
    "importance": {task: its most important heads}, "note": what to do next}.
    """
    record = read_json(run / "config.json")
    if not isinstance(record, dict) or record.get("schema") != SCHEMA["schema"]:
        return None
    command = record.get("command", "run")
    if command not in _FILES or (run / _FILES[command]).exists():
        return None
    kept = _measurements(run / "measurements")
    if command != "run":
        state = f"{len(kept)} measurements are kept"
        return _record(run, command, [{"stage": _NOUNS[command], "state": state}])
    study = stored_study(run)
    maps = {key: arrays for key, arrays in kept.items() if key.startswith("importance-")}
    trained = read_folder(run / "model", MODEL_MARKER)
    stages = [_training(run, trained)] if study.training.enabled else []
    names = [task.name for task in study.tasks]
    lesioned = study.iap.lesion_tasks or names
    ready = [name for name in lesioned if any(_is_of(key, name) for key in maps)]
    stages.append(_stage("importance", len(ready), len(lesioned), "tasks"))
    groups = [key for key in kept if key.startswith("predictions")]
    state = f"{len(groups)} groups of lesions are measured" if groups else "not begun"
    stages.append({"stage": "lesions", "state": state})
    scores = None
    if trained is not None:
        last = Training.model_validate(trained).scores
        scores = last[-1].scores if last else None
    return _record(run, command, stages, scores, {name: _top(maps, name) for name in ready})


def _record(
    run: Path,
    command: str,
    stages: list[dict[str, str]],
    scores: dict[str, float] | None = None,
    importance: dict[str, str] | None = None,
) -> dict[str, Any]:
    return {
        "run": str(run),
        "finished": False,
        "stages": stages,
        "scores": scores,
        "importance": importance or {},
        "note": f"The {_NOUNS[command]} in {run} is not finished: `lobes {command}` "
        f"with its study and this output continues it; a run of a sweep, `lobes sweep` with its "
        f"file.",
    }


def _training(run: Path, trained: dict[str, Any] | None) -> dict[str, Any]:
    if trained is not None:
        return {"stage": "training", "state": "done"}
    steps = [
        int(path.name.removeprefix("checkpoint-"))
        for path in (run / "checkpoints").glob("checkpoint-*")
        if re.fullmatch(r"checkpoint-\d+", path.name)
    ]
    if not steps:
        begun = (run / SECONDS).exists()
        return {"stage": "training", "state": "begun, no checkpoint yet" if begun else "not begun"}
    return {"stage": "training", "state": f"checkpoint at step {max(steps)}"}


def _stage(name: str, done: int, total: int, what: str) -> dict[str, Any]:
    state = "done" if done == total else f"{done} of {total} {what}" if done else "not begun"
    return {"stage": name, "state": state}


def _measurements(folder: Path) -> dict[str, Any]:
    """{key: arrays} of what was measured; what is damaged is left out, and measured again."""
    kept = map(stored, sorted(folder.glob("*.parquet")))
    return dict(each for each in kept if each is not None)


def _is_of(key: str, task: str) -> bool:
    return bool(re.fullmatch(rf"importance-{re.escape(task)}(-without-\d+-heads)?(-mean)?", key))


def _top(maps: dict[str, Any], task: str) -> str:
    arrays = next(arrays for key, arrays in maps.items() if _is_of(key, task))
    try:
        ranked = HeadScores(arrays["values"]).ranked()[:TOP]
    except (LobesError, KeyError):
        return ""
    return " ".join(f"{site}:{head}" for site, head in ranked)
