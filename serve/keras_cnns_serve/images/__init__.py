"""Decode images to pixels, and draw class activation maps."""
