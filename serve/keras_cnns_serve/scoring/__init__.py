"""Scoring: label many images with one published model, without a server."""
