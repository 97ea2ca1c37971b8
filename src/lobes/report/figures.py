"""Names that pages still use for what is in `charts.py` and `colors.py`."""

from lobes.report.axes import nice_ticks
from lobes.report.charts import Strip, line_chart, strip_plot, thinned, track
from lobes.report.colors import SHADES, Shade, luminance, palette
from lobes.report.drawing import Drawing

StripPlot = Drawing
LineChart = Drawing

__all__ = [
    "SHADES",
    "LineChart",
    "Shade",
    "Strip",
    "StripPlot",
    "line_chart",
    "luminance",
    "nice_ticks",
    "palette",
    "strip_plot",
    "thinned",
    "track",
]
