"""Execute the notebooks of `examples/` and write them with their outputs: `make notebooks`.

What a kernel writes to stderr (progress, notices of libraries) and when each cell ran are left
out, so that a notebook changes only where its text, its code or its results do.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[1] / "examples"


def executed(path: Path, seconds: int = 600) -> nbformat.NotebookNode:
    """Return a notebook with the outputs of a fresh run; raises `CellExecutionError`."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=seconds, kernel_name="python3", resources={"metadata": {"path": "."}}
    )
    client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


if __name__ == "__main__":
    paths = [Path(name) for name in sys.argv[1:]] or sorted(EXAMPLES.glob("*.ipynb"))
    for path in paths:
        print(path)
        nbformat.write(executed(path), path)
