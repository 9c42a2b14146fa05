"""The transports HTTP and gRPC, independent of the protocols."""
