"""The model server without protocols and transports: validation, batching, predictions."""
