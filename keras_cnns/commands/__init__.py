"""The commands of `keras-cnns`, one per file; cli.py registers them."""

ENTRY_POINTS = "keras_cnns.commands"  # the group of other distributions' commands
