"""The libraries that run a graph."""
