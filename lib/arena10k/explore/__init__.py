"""A run to look at: its records as frames, and questions with answers that show themselves (`Run` has them all)."""

from arena10k.explore.methods import Exploring

__all__ = ["Exploring"]
