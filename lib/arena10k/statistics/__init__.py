"""Intervals, diagnostics and verdicts: arrays in, numbers with verdicts out."""
