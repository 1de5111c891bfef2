"""A headless Chromium for tests of pages, driven over its debugging pipe: no port, no driver, no further package."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

EXECUTABLE = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium: `make browser` installs it where it can")
_FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--no-first-run", "--hide-scrollbars", "--disable-dev-shm-usage", "--remote-debugging-pipe",
]  # fmt: skip


class Browser:
    """One tab."""

    def __init__(self, write_to: int, read_from: int):
        self._write_to, self._read_from = write_to, read_from
        self._buffer, self._count, self.events = b"", 0, []
        target = self._call("Target.createTarget", {"url": "about:blank"}, None)["targetId"]
        self._session = self._call("Target.attachToTarget", {"targetId": target, "flatten": True}, None)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._call(method, params, self._session)

    def open(self, page: Path, width: int = 1280, height: int = 900, dark: bool = False, media: str = "") -> None:
        """Load a file, shown as `show` says; `events` starts anew."""
        self.show(width, height, dark, media)
        self.events = []
        self.call("Page.navigate", url=page.resolve().as_uri())
        self._wait_for("Page.loadEventFired")

    def show(self, width: int = 1280, height: int = 900, dark: bool = False, media: str = "") -> None:
        """Give the window a size in CSS pixels, light or dark, as `media` (print); pages jump instead of gliding."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        motion = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme, motion])

    def click(self, element: str, loads: bool = False) -> None:
        """Click with the mouse on what a selector finds first; with `loads`, wait for the page it leads to."""
        x, y = self.evaluate(
            f"(e => {{e.scrollIntoView({{block: 'nearest'}}); const r = e.getClientRects()[0]; "
            f"return [r.x + r.width / 2, r.y + r.height / 2]}})(document.querySelector({json.dumps(element)}))"
        )
        self.events = []
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        if loads:
            self._wait_for("Page.loadEventFired")

    def press(self, key: str, code: int) -> None:
        """Press and let go of a key, by its name and number."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression, or of its promise."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def requests(self) -> list[str]:
        """The addresses asked for since `open`, other than those inside the page itself."""
        urls = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith("data:")]

    def complaints(self) -> list[dict[str, Any]]:
        """What the page has said on the console since `open`, its uncaught errors and its dialogs."""
        kinds = {"Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"}
        return [e for e in self.events if e["method"] in kinds | {"Page.javascriptDialogOpening"}]

    def _call(self, method: str, params: dict[str, Any], session: str | None) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._write_to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def _wait_for(self, event: str) -> None:
        while not any(e.get("method") == event for e in self.events):
            self.events.append(self._read())

    def _read(self, patience: float = 60.0) -> dict[str, Any]:
        until = time.monotonic() + patience
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read_from], [], [], max(0.0, until - time.monotonic()))
            chunk = os.read(self._read_from, 1 << 20) if ready else b""
            if not chunk:
                raise RuntimeError("the browser does not answer")
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(line)


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Start Chromium with a profile of its own; it is gone afterwards."""
    to_child, our_write = os.pipe()
    our_read, from_child = os.pipe()
    # Chromium speaks on descriptors 3 and 4; a shell puts our pipes there.
    script = f'exec "$@" 3<&{to_child} 4>&{from_child}'
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            ["/bin/bash", "-c", script, "chromium", EXECUTABLE, *_FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(to_child, from_child), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        os.close(to_child)
        os.close(from_child)
        try:
            yield Browser(our_write, our_read)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=20)
            os.close(our_write)
            os.close(our_read)
