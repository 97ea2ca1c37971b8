"""Names that pages still use for what is in `charts.py`."""

from lobes.report.charts import Start, learning_curves
from lobes.report.drawing import Drawing

LearningCurves = Drawing

__all__ = ["LearningCurves", "Start", "learning_curves"]
