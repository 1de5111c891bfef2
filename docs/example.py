"""The example report in docs/example, from the sample by the whole pipeline: `.venv/bin/python docs/example.py`.

The pages are those of `make report PARAMS=params/sample.yaml`, figures in fewer characters (see `figures.compact`), and
without what is another at every run or in these files: revision, library version, run time and size. A screenshot of
the index is made where there is a Chromium.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from figures import compact
from PIL import Image, PngImagePlugin

FOLDER = Path(__file__).parent / "example"
PICTURE = Path(__file__).parent / "report.png"
#: Machine-readable results that are kept beside the pages.
RESULTS = ("estimates.json", "truth.json", "quality.json")
_FIGURE = re.compile(r'data:image/svg\+xml;base64,([^"]+)(?=" alt)')
_VARYING = re.compile(r"\s*<div><dt>(?:Revision|Version|Run time|Size)</dt><dd>[^<]*</dd></div>")


def lighter(page: str) -> str:
    """A page of a report as it stands in the example."""
    return _VARYING.sub("", _FIGURE.sub(lambda found: _inline(base64.b64decode(found[1]).decode()), page))


def _inline(svg: str) -> str:
    text = compact(svg).replace("%", "%25").replace("#", "%23").replace('"', "'")
    return f"data:image/svg+xml,{text}".strip()


def digest(index: str) -> str:
    """What the screenshot says it is a picture of."""
    return hashlib.sha256(index.encode()).hexdigest()


def _photograph(index: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit(f"{index} is new and {PICTURE.name} is not: there is no Chromium to make a screenshot with")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1200,1060"]
    subprocess.run([chromium, *options, f"--screenshot={PICTURE}", index.as_uri()], check=True, capture_output=True)
    told = PngImagePlugin.PngInfo()
    told.add_text("Source", digest(index.read_text(encoding="utf-8")))
    Image.open(PICTURE).convert("RGB").quantize(64).save(PICTURE, pnginfo=told, optimize=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, "-m", "arena10k", "report", "--params", "sample"]
        subprocess.run(command, check=True, env=os.environ | {"ARENA10K_HOME": home})
        made = Path(home) / "reports" / "sample"
        shutil.rmtree(FOLDER, ignore_errors=True)
        FOLDER.mkdir()
        for page in made.glob("*.html"):
            (FOLDER / page.name).write_text(lighter(page.read_text(encoding="utf-8")), encoding="utf-8")
        for name in RESULTS:
            shutil.copyfile(made / name, FOLDER / name)
    _photograph(FOLDER / "index.html")


if __name__ == "__main__":
    main()
