"""Shared fixtures: a home of their own for runs, and the location of the shared real data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder that takes the place of the repository for `data/` and `reports/`."""
    monkeypatch.setenv("ARENA10K_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The public sample data, which is not part of the repository."""
    folder = Path(os.environ.get("ARENA10K_SHARED") or Path(__file__).parents[2] / "shared") / "data"
    if not folder.is_dir():
        pytest.skip("shared data is not here: set ARENA10K_SHARED to the folder that holds data/")
    return folder
