"""The model repository: what is published, and which versions of it are served."""
