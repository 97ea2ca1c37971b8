"""Damaged folders of runs by the hundred, through the commands that read one."""

import json
import random
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from damage import damage, within
from lobes.cli import app
from lobes.files import remove
from tiny_study import as_before, write_study  # noqa: F401

pytestmark = pytest.mark.usefixtures("as_before")

SECONDS = 120
READ = ("results.json", "predictions.parquet", "texts.parquet", "config.json", "files.json")
COMMANDS = {
    "report": ("report", "{run}", "--html", "{to}/page.html"),
    "report a file": ("report", "{run}/results.json", "--html", "{to}/page.html"),
    "figures": ("report", "{run}", "--html", "{to}/page.html", "--no-png", "--figures", "{to}"),
    "predict": ("predict", "{run}", "--split", "validation", "--to", "{to}/answers"),
    "export": ("export", "{run}", "--task", "mood", "--to", "{to}/exported"),
    "heads": ("heads", "{run}"),
    "prune": ("prune", "--from-run", "{run}", "--fraction", "0.3", "--to", "{to}/smaller"),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, small in every way, with a pooling that can be exported."""
    home = tmp_path_factory.mktemp("home")
    few = ("training.steps=2", "iap.controls=1", "iap.fractions=[0.2]", "iap.resamples=3")
    few += ("iap.agreement_examples=0", "iap.similarity_examples=0", 'pooling="pooler"')
    settings = [part for setting in few for part in ("--set", setting)]
    done = CliRunner().invoke(app, ["run", str(write_study(home)), *settings, "--quiet"])
    assert done.exit_code == 0, done.output
    return home / "run"


def _tried(run: Path, place: Path, command: str, seed: int) -> int:
    """The exit code of a command on a damaged copy of the run."""
    generator = random.Random(f"{command} {seed}")
    folder, to = place / "run", place / "to"
    for path in (folder, to):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(run, folder)
    how = damage(folder, generator, generator.choice([(), READ]))
    if generator.random() < 0.5:  # as an older version left it, without digests
        remove(folder / "files.json")
        _unsealed(folder)
    arguments = [part.format(run=folder, to=to) for part in COMMANDS[command]]
    with within(SECONDS):
        done = CliRunner().invoke(app, arguments)
    where = f"{command}, seed {seed}: {how}"
    assert done.exit_code in (0, 1), where
    assert "failed in a way" not in done.output, f"{where}: {done.output}"
    if done.exit_code:
        said = done.stderr.strip().splitlines()[-1]
        assert said.endswith((".", "?")), f"{where}: {said}"
    return done.exit_code


def _unsealed(folder: Path) -> None:
    for path in filter(Path.is_file, folder.glob("*.json")):
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(content, dict):
            content.pop("sha256", None)
            path.write_text(json.dumps(content))


@pytest.mark.parametrize("command", ["report", "predict", "export", "heads"])
def test_damaged_runs_give_an_answer_or_a_sentence(run: Path, tmp_path: Path, command: str) -> None:
    for seed in range(4):
        _tried(run, tmp_path, command, seed)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_many_damaged_runs_do(run: Path, tmp_path: Path, command: str) -> None:
    codes = {_tried(run, tmp_path, command, seed) for seed in range(4, 20)}
    assert codes == {0, 1}
