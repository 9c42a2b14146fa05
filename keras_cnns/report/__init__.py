"""HTML pages about runs: `report.html` of one, and the comparison of several."""

from keras_cnns.report.comparison import compare
from keras_cnns.report.run_report import write_report

__all__ = ["compare", "write_report"]
