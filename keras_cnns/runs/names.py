"""The names of the files in a run directory."""

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
