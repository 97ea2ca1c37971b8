"""Every command that writes, killed before its file operations one by one, and run again.

    python tests/kill_everywhere.py FOLDER [KILLS] [COMMAND …]

A file operation is what Python reports of itself (`sys.addaudithook`): a file opened for writing,
a rename, a removal, a folder made, rights changed, by whichever library. A child process goes away
with `os._exit` just before the n-th, so that nothing is flushed, closed or tidied up. The same
command in another child must then end with the same numbers and the same files as one that was
never killed. KILLS bounds how many operations are tried, evenly over the command; all without
it. Prints {command: [operations, kills]} as JSON; exit code 1 for any difference.

The children are forked from a process that has imported everything and run nothing.
"""

import hashlib
import json
import os
import pickle
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from lobes.config.study import load_study, override, with_trained_model
from lobes.experiments.ag_pair import make_pairs
from lobes.experiments.heads_to_prune import Choice
from lobes.experiments.open_model import export_run
from lobes.experiments.predict import predict_run
from lobes.experiments.prune import prune_model
from lobes.experiments.reports import write_exhibits
from lobes.modeling import MultiTaskModel
from plain_results import compare_study, report_again, report_runs, run_study, transfer_study
from tiny_study import QUICK, write_study

SMALL = (
    *QUICK,
    "tasks.mood.train_size=29",
    "tasks.topic.train_size=31",
    "tasks.mood.validation_size=11",
    "tasks.topic.validation_size=13",
)
GROWTH = (*SMALL, "growth.checkpoints=2")
COMPARED = (*SMALL, "compare.seeds=1", "compare.evaluations=2", "compare.held_out=0.3")
COMPARED += ("iat.delta=0.5",)
NEW_TASK = """
[transfer]
seeds = 1
fractions = [1.0]
steps = 2
[transfer.task]
name = "new"
train = "mood.train.csv"
validation = "mood.validation.csv"
text = "sentence"
labels = ["bad", "good"]
train_size = 17
validation_size = 7
"""
TIMES = {"seconds", "created", "times", "total", "output", "speed", "importance_seconds"}
END = 12  # how far from the last operation: there things are removed

Command = Callable[[Path, Path], Any]


def study(inputs: Path, folder: Path, settings: Iterable[str], **more: Any) -> Any:
    return override(load_study(inputs / "study.toml"), *settings, f"output={folder / 'run'}")


def run(inputs: Path, folder: Path) -> Any:
    return run_study(study(inputs, folder, GROWTH))


def train(inputs: Path, folder: Path) -> Any:
    return run_study(study(inputs, folder, SMALL), stages=("train",))


def iap(inputs: Path, folder: Path) -> Any:
    trained = str(inputs / "finished" / "run" / "model")
    return run_study(with_trained_model(study(inputs, folder, SMALL), trained))


def fresh(inputs: Path, folder: Path) -> Any:
    """Another study in the place of a finished one: if killed, `--fresh` is given again."""
    return run_study(study(inputs, folder, (*SMALL, "seed=3")), fresh=True)


def compare(inputs: Path, folder: Path) -> Any:
    return compare_study(study(inputs, folder, COMPARED))


def transfer(inputs: Path, folder: Path) -> Any:
    path = inputs / "transfer.toml"
    return transfer_study(override(load_study(path), *COMPARED, f"output={folder / 'run'}"))


def predict(inputs: Path, folder: Path) -> Any:
    predict_run(inputs / "finished" / "run", folder / "out", split="validation")


def export(inputs: Path, folder: Path) -> Any:
    if not (folder / "out").exists():  # else it is refused, and must be whole
        export_run(inputs / "finished" / "run", "topic", folder / "out")


def prune(inputs: Path, folder: Path) -> Any:
    """A pruned model in the place of another one, which must be there until the new one is."""
    model = str(inputs / "finished" / "run" / "model")
    record = prune_model(Choice(drop="0:1"), folder / "out", model=model, fresh=True)
    del record["speed"]


def report(inputs: Path, folder: Path) -> Any:
    report_again(folder / "run")
    write_exhibits(folder / "run", folder / "exhibits", png=False)
    runs = [folder / "run", inputs / "other" / "run"]
    content, _ = report_runs(runs, folder / "runs")
    return content


def ag_pair(inputs: Path, folder: Path) -> Any:
    if not (folder / "pairs.csv").exists():
        make_pairs(inputs / "topic.train.jsonl", folder / "pairs.csv", text=["sentence"])


COMMANDS: dict[str, Command] = {
    each.__name__: each
    for each in (
        *(run, train, iap, fresh, compare, transfer),
        *(predict, export, prune, report, ag_pair),
    )
}


def before(name: str, inputs: Path, folder: Path) -> None:
    """What is there when a command begins: made by the test, and not watched."""
    folder.mkdir(parents=True, exist_ok=True)
    if name in ("fresh", "report") and not (folder / "run").exists():
        shutil.copytree(inputs / "finished" / "run", folder / "run")
    if name == "prune":
        out, old = folder / "out", folder / ".lobes-old-out"
        if not out.exists() and not old.exists():
            shutil.copytree(inputs / "pruned", out)
        # wherever it was killed: the old model or the new one is there, and can be loaded
        MultiTaskModel.from_pretrained(out if out.exists() else old)


# What a command ends with


def timeless(value: Any) -> Any:
    """Without what may differ between two runs of one study."""
    if isinstance(value, dict):
        return {key: timeless(each) for key, each in value.items() if key not in TIMES}
    return [timeless(each) for each in value] if isinstance(value, list | tuple) else value


def ended(folder: Path, result: Any) -> Any:
    """The result, the files that are there, and the contents of those that hold no times."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    same = (".safetensors", ".tsv", ".csv", ".svg", ".tex")
    contents = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.suffix in same
        else None
        for path in files
    }
    return json.loads(json.dumps([timeless(result), contents]))


# Kills

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
EVENTS = {
    *("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.truncate"),
    *("os.link", "os.symlink", "shutil.rmtree"),
}


def watch(folder: Path, kill_at: int | None, counted: list[str]) -> None:
    """Count this process's file operations in a folder, and end it before one of them."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(path, str | bytes | os.PathLike) or not flags & WRITING:
                return
        elif event not in EVENTS:
            return
        path = os.fsdecode(arguments[0]) if not isinstance(arguments[0], int) else ""
        if os.path.isabs(path) and not path.startswith(str(folder)):
            return
        counted.append(f"{event} {path.removeprefix(str(folder))}")
        if len(counted) == kill_at:
            os._exit(137)

    sys.addaudithook(hook)


def child(work: Callable[[], Any]) -> tuple[int, Any]:
    """The exit code of a forked process, and what it returned (or the error it raised)."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            found = work()
            code = 0
        except BaseException:
            found = traceback.format_exc()
        with os.fdopen(theirs, "wb") as pipe:
            pickle.dump(found, pipe)
        os._exit(code)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        sent = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code, pickle.loads(sent) if sent else None


def killed_everywhere(
    name: str, inputs: Path, work: Path, kills: int | None
) -> tuple[int, int, list[str]]:
    """How many operations a command has, how many were tried, and what went wrong."""
    command = COMMANDS[name]

    def once(folder: Path, kill_at: int | None = None) -> tuple[int, Any]:
        def whole() -> Any:
            before(name, inputs, folder)
            counted: list[str] = []
            watch(folder, kill_at, counted)
            return ended(folder, command(inputs, folder)), counted

        return child(whole)

    place = work / name
    code, found = once(place)
    assert code == 0, found
    expected, operations = found
    shutil.rmtree(place)
    wrong = []
    tried = _chosen(len(operations), kills)
    for number in tried:
        code, found = once(place, number)
        where = f"{name}, killed before operation {number} ({operations[number - 1]})"
        if code != 137:
            wrong.append(f"{where}: was not reached, but ended with {code}: {found}")
        code, found = once(place)
        if code:
            wrong.append(f"{where}: {found}")
        elif found[0] != expected:
            wrong.append(f"{where}: {_difference(expected, found[0])}")
        shutil.rmtree(place)
    return len(operations), len(tried), wrong


def _chosen(total: int, kills: int | None) -> list[int]:
    """The numbers of the operations to try: all, or so many evenly, beginning near the end."""
    if kills is None or total <= kills:
        return list(range(1, total + 1))
    return sorted(max(1, total - END - place * total // kills) for place in range(kills))


def _difference(expected: Any, found: Any, where: str = "") -> str:
    """The first place where two results differ."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted({*expected, *found}):
            if expected.get(key, "nothing") != found.get(key, "nothing"):
                one, other = expected.get(key, "nothing"), found.get(key, "nothing")
                return _difference(one, other, f"{where}/{key}")
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for place, (one, other) in enumerate(zip(expected, found, strict=True)):
            if one != other:
                return _difference(one, other, f"{where}/{place}")
    return f"{where} is {found!r}, not {expected!r}"


def prepare(inputs: Path) -> None:
    """A study's files, two finished runs and a pruned model, for the commands that need them."""
    inputs.mkdir(parents=True)
    path = write_study(inputs)
    (inputs / "transfer.toml").write_text(path.read_text() + NEW_TASK)
    run(inputs, inputs / "finished")
    run_study(study(inputs, inputs / "other", (*SMALL, "seed=2")))
    model = str(inputs / "finished" / "run" / "model")
    prune_model(Choice(drop="1:0,3"), inputs / "pruned", model=model)


def main(folder: Path, kills: int | None = None, *names: str) -> int:
    torch.set_num_threads(1)
    if not (folder / "inputs").exists():
        code, found = child(lambda: prepare(folder / "inputs"))
        assert code == 0, found
    counts, wrong = {}, []
    for name in names or COMMANDS:
        operations, tried, faults = killed_everywhere(name, folder / "inputs", folder, kills)
        counts[name] = [operations, tried]
        print(f"{name}: {operations} operations, {tried} kills", *faults, sep="\n", file=sys.stderr)
        wrong += faults
    print(json.dumps(counts))
    return bool(wrong)


if __name__ == "__main__":
    given = sys.argv[2:]
    number = int(given.pop(0)) if given and given[0].isdigit() else None
    sys.exit(main(Path(sys.argv[1]).resolve(), number, *given))
