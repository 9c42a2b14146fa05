"""The commands of `keras-cnns`, one per file; cli.py registers them."""
