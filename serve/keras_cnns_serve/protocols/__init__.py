"""What clients speak, translated to the data plane."""
