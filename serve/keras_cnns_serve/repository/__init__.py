"""The model repository: its files, and the versions that are served."""
