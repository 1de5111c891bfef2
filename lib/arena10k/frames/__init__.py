"""The records of a run as tidy frames."""
