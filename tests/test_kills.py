"""Every command that writes, killed before its file operations: the same command goes on.

`kill_everywhere.py` does it, in a process of its own that has imported everything and run nothing.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kill_everywhere import COMMANDS


def kill(folder, *arguments):
    """{command: (operations, kills)}; fails for any kill that did not end as it should."""
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, here / "kill_everywhere.py", folder, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(900)  # half a minute, on a machine that does nothing else
def test_commands_are_killed_somewhere(tmp_path):
    """Where things are removed or replaced; the slow tests have the others."""
    some = ["run", "prune", "predict", "export", "ag_pair"]
    counts = kill(tmp_path, "1", *some)
    assert list(counts) == some
    for command, (operations, kills) in counts.items():
        assert kills == 1, command
        assert operations >= 4, command  # at least a file, its name, and the list of files


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_killed_here_and_there(tmp_path, command):
    """At moments spread over all its operations; `make kills` takes every one of them."""
    operations, kills = kill(tmp_path, "3", command)[command]
    assert kills == min(3, operations)
