"""Finished cells on disk: written as they come, read back by whoever goes on."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import orjson

#: A level per factor (None: all of the data), and a seed.
Point = tuple[tuple[float | None, ...], int]


class Kept:
    """The finished cells of one variant: a line each, written whole and at once. A line that is not whole, of a kill
    or a full disk, counts as not finished."""

    def __init__(self, path: Path | None):
        self.rows: dict[Point, list[list[Any]]] = {}
        self.seconds: dict[Point, float] = {}
        self._stream = None
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in path.parent.glob(f"{'.'.join(path.name.split('.')[:2])}.*.jsonl"):
            if old != path:
                old.unlink(missing_ok=True)  # of other code or other data; another run may have been quicker
        content = path.read_bytes() if path.is_file() else b""
        whole = content.rfind(b"\n") + 1
        self._take_over(content[:whole])
        # Appending: another process at the same cells, such as an open notebook, must not be written over.
        self._stream = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        if whole < len(content):
            os.ftruncate(self._stream, whole)

    def _take_over(self, lines: bytes) -> None:
        for line in lines.splitlines():
            with contextlib.suppress(ValueError, TypeError):
                levels, seed, rows, seconds = orjson.loads(line)
                self.rows[tuple(levels), seed], self.seconds[tuple(levels), seed] = rows, seconds

    def add(self, point: Point, rows: list[list[Any]], seconds: float) -> None:
        self.rows[point], self.seconds[point] = rows, seconds
        if self._stream is not None:
            os.write(self._stream, orjson.dumps([*point, rows, round(seconds, 6)]) + b"\n")

    def close(self) -> None:
        if self._stream is not None:
            os.close(self._stream)
            self._stream = None
