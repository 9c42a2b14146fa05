"""Write the metrics of every training to `tracking.sqlite3` in the parent of its run directory.

pip install examples/tracker
keras-cnns train --recipe digits-resnet20 --run runs/first
sqlite3 runs/tracking.sqlite3 "SELECT * FROM metrics WHERE name = 'val_accuracy'"
"""

import sqlite3
from contextlib import closing

import keras

TABLE = "metrics (run, model, epoch, name, value, PRIMARY KEY (run, epoch, name))"


class SqliteTracker(keras.callbacks.Callback):
    """Write the metrics of each epoch. If a resumed training repeats an epoch, replace its rows."""

    def __init__(self, recipe, run):
        super().__init__()
        self.database, self.run, self.name = run.parent / "tracking.sqlite3", run, recipe.model.name

    def on_epoch_end(self, epoch, logs=None):
        """Write a row for each metric of the epoch."""
        rows = [(str(self.run), self.name, epoch + 1, *each) for each in (logs or {}).items()]
        with closing(sqlite3.connect(self.database)) as database, database:
            database.execute(f"CREATE TABLE IF NOT EXISTS {TABLE}")
            database.executemany("INSERT OR REPLACE INTO metrics VALUES (?, ?, ?, ?, ?)", rows)


def make_tracker(recipe, run):
    """Return the callback for a training. The entry point in pyproject.toml names this function."""
    return SqliteTracker(recipe, run)
