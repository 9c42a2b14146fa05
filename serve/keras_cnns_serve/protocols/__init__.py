"""The protocols of clients, translated to calls of the data plane."""
