"""Stages: what each reads, when it is out of date, how it runs and is stopped."""
