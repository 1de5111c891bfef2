"""What may be used of a run, the controls it must pass, and how far it is."""
