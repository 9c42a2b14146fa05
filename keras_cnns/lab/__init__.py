"""Experiments that test claims of papers, each with measurements and a verdict."""
