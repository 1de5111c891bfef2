"""What a run is made of, and what it answers with (`Run` is the door)."""
