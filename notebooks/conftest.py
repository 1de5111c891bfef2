"""Notebooks that are tested write their results into a folder of their own, not into the reports of the repository."""

from __future__ import annotations

import os
import tempfile

import pytest

_HOME = tempfile.TemporaryDirectory()
_BEFORE = os.environ.get("ARENA10K_HOME")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """The kernel of a notebook is started here and inherits it."""
    os.environ["ARENA10K_HOME"] = _HOME.name


def pytest_runtest_teardown(item):
    os.environ.pop("ARENA10K_HOME")
    if _BEFORE is not None:
        os.environ["ARENA10K_HOME"] = _BEFORE
