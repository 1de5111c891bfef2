"""The committed recording as a run of its own that may be written to, with chosen records spoiled or left out."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import yaml

from arena10k import paths
from arena10k.collection.records import Record
from arena10k.collection.store import Store
from arena10k.run import Run

Change = Callable[[Record], Record | None]
_FIELDS = [field.name for field in dataclasses.fields(Record)]


def copied(home: Path, change: Change = lambda record: record, name: str = "copy", **params: object) -> Run:
    """A live run of params/sample.yaml with its records, each as `change` gives it (None leaves it out)."""
    shutil.copy(paths.source_root() / "params" / "sample.yaml", home / "sample.yaml")
    given = {"extends": "sample.yaml", "run": name, "recording": False} | params
    (home / f"{name}.yaml").write_text(yaml.safe_dump(given))
    paths.data_dir(name).mkdir(parents=True)
    shutil.copy(paths.prompts_file("sample"), paths.prompts_file(name))
    store = Store.open(paths.store_file(name))
    recorded = (Record(**{f: row[f] for f in _FIELDS}) for row in Run("sample").store.rows())
    store.put_all([kept for record in recorded if (kept := change(record))])
    store.close()
    return Run(home / f"{name}.yaml")


def failed(record: Record, code: str) -> Record:
    """The record as if its measurement had failed."""
    return dataclasses.replace(record, status="error", value=None, code=code, detail="planted", payload={})


def scored(record: Record, tokens: list[float]) -> Record:
    """The log-prob record with other values of its tokens."""
    return dataclasses.replace(record, value=sum(tokens), payload=record.payload | {"token_logprobs": tokens})
