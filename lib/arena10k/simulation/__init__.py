"""Data with a known truth and data like a run's own."""
