"""Encoded images to pixels, and class activation maps."""
