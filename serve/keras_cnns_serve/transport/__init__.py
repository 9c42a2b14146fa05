"""How requests reach a protocol: HTTP and gRPC."""
