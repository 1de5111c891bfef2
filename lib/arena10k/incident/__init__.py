"""Failures injected into copies of a clean run, and what the checks say of them."""
