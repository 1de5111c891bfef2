"""Data with a known truth, data like a run's own, faults of known place."""
