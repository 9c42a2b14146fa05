"""The names of run directories and of the files in them."""

from pathlib import Path

CONFIG = "config.toml"
LABELS = "labels.txt"
MODEL = "model.keras"
RESULTS = "results.json"
UNKNOWN = "unknown.json"  # written by `evaluate --unknown`
ENVIRONMENT = "environment.json"
HISTORY = "history.csv"
DIAGNOSTICS = "diagnostics.csv"
TIMES = "times.csv"
TENSORBOARD = "tensorboard"
CHECKPOINTS = "checkpoints"
REPORT = "report.html"
MISTAKES = "mistakes.csv"
AUGMENTED = "augmented.png"
CARD = "card.md"
README = "README.txt"
CORRECTIONS = "corrections.csv"
SEARCH = "tune.json"  # in the directory of a hyperparameter search
FOLDS = "folds.json"  # in a directory with a run for each fold
OUT_OF_FOLD = "out_of_fold"  # with the suffixes .npz and .csv


def named(run: Path) -> Path:
    """Return the path of a run directory in a form that ends in a name.

    `.` and `..` are resolved, because files beside the run are named after it.
    """
    return run.resolve() if run.name in ("", "..") else run
