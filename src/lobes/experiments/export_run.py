"""`lobes export`: one task of a trained model, for transformers alone."""

from pathlib import Path

from lobes.errors import RunError
from lobes.experiments.open_model import trained_model
from lobes.modeling import MultiTaskModel, is_saved_model
from lobes.modeling.export_task import export_task


def export_run(run: Path, task: str, to: Path, *, trust_remote_code: bool = False) -> Path:
    """Write `task` of a run's trained model to the folder `to`, and return where it is.

    `run` is a run's folder, or one that `MultiTaskModel.save_pretrained` wrote;
    `trust_remote_code` lets Python code that the model brings run. Raises `RunError` where there
    is no trained model or a damaged one, otherwise what `export_task` raises.
    """
    for folder in (trained_model(run), run):
        if folder is not None and is_saved_model(folder):
            model = MultiTaskModel.from_pretrained(folder, trust_remote_code=trust_remote_code)
            return export_task(model, task, to)
    raise RunError(
        f"There is no trained model in {run}: give the folder of a run that was trained, or one "
        f"that MultiTaskModel.save_pretrained wrote."
    )
