"""The model repository that the replicas serve."""

from tests.serve.conftest import repository

__all__ = ["repository"]
