"""The lecture's claims as experiments, each with measurements and a verdict."""
