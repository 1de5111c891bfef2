"""What bad rows do to estimates, rows measured again under audit, estimates kept under a name and what changed."""
