"""Sentences and frames computed from results, for pages."""
