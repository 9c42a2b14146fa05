"""The access log, other logs, metrics and traces."""
