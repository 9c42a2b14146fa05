"""HTML pages about runs: `report.html` for one run, and a comparison of several runs."""

from keras_cnns.report.comparison import compare
from keras_cnns.report.run_report import write_report

__all__ = ["compare", "write_report"]
