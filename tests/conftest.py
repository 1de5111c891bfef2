"""Shared fixtures: a home of their own for runs, the browser, the shared real data; and what is tested first."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from jupyter_client.manager import KernelManager

from arena10k.pipeline import warm
from browser import browser

#: Files that take longest, of tests and of notebooks: they begin first, so that all workers are busy to the end.
LONGEST = (
    "test_local_server.py",
    "test_pipeline.py",
    "test_explore.py",
    "test_docs.py",
    "test_stopping.py",
    "test_rescore_model.py",
    "test_engine.py",
    "test_canary.py",
    "test_pages.py",
    "test_golden.py",
    "test_batch.py",
    "test_partial.py",
    "test_interchange.py",
    "test_incident.py",
    "test_populations.py",
    "test_plots.py",
    "10_simulation.ipynb",
    "test_ablations.py",
    "test_checks.py",
)


#: Kernels of notebooks are forked, as those of stages are.
POOL = warm.pool()


def pytest_configure():
    POOL.__enter__()
    started = KernelManager.format_kernel_cmd
    KernelManager.format_kernel_cmd = lambda *told, **named: warm.command(started(*told, **named))


def pytest_unconfigure():
    POOL.__exit__(None, None, None)


def pytest_collection_modifyitems(items):
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder that takes the place of the repository for `data/` and `reports/`."""
    monkeypatch.setenv("ARENA10K_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def server():
    """A stub of an endpoint, started once for the tests of a module."""
    from stub_server import Stub

    with Stub() as made:
        yield made


@pytest.fixture(scope="session")
def browsing():
    """The browser, started once: a test opens the page that it looks at."""
    with browser() as opened:
        yield opened


@pytest.fixture(scope="session")
def model_server(tmp_path_factory):
    """Base URL of the embedded model's server, started once for all modules that ask it."""
    from arena10k.local_server import running

    with running(log=tmp_path_factory.mktemp("server") / "log") as base_url:
        yield base_url


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The public sample data, which is not part of the repository."""
    folder = Path(os.environ.get("ARENA10K_SHARED") or Path(__file__).parents[2] / "shared") / "data"
    if not folder.is_dir():
        pytest.skip("shared data is not here: set ARENA10K_SHARED to the folder that holds data/")
    return folder
