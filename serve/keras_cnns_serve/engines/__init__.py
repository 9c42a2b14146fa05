"""The libraries that run graphs."""
