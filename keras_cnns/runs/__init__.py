"""The run directory: what a training leaves behind, and what reads it."""
