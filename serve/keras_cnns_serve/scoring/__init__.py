"""Scoring: many images through the engine of one published model, without a server."""
