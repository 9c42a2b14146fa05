"""Pages about trainings: `report.html` of one run, and several runs side by side."""

from keras_cnns.report.comparison import compare
from keras_cnns.report.run_report import write_report

__all__ = ["compare", "write_report"]
