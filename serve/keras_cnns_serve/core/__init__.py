"""The model server without protocols or transports: requests, batches and answers."""
