"""The run directory: the files that a training writes, and the functions that read them."""
