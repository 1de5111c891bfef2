"""From an executed notebook to one self-contained page: no request, no script but the search of a long table, readable
on a phone and on paper."""

from __future__ import annotations

import ast
import base64
import hashlib
import os
import re
from collections.abc import Mapping
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from arena10k import __version__
from arena10k.report.files import write_text
from arena10k.report.safe import Outline, clean
from arena10k.report.tables import SEARCHABLE, badge
from arena10k.wording import format_value, visible

if TYPE_CHECKING:
    import jinja2
    from nbformat import NotebookNode

TEMPLATES = Path(__file__).resolve().parents[1] / "templates"
#: Names for the keys of `provenance`, and for the notebooks' parameters; any other is shown as it is.
_LABELS = {"run": "Run", "stage": "Stage", "created": "Data as of", "revision": "Revision", "version": "Version"}
_CHIPS = {"params_file": "params", "run_name": "run", "snapshot_name": "snapshot", "cell": "ablation"}
_PROGRESS = re.compile(r"\d+%\||\d+it \[|\d+(\.\d+)?\s?(it/s|s/it)|\?it/s")
_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


def render(
    notebook_path: str | os.PathLike[str],
    html_path: str | os.PathLike[str],
    provenance: Mapping[str, Any] | None = None,
    home: str = "index.html",
) -> Path:
    """Write the page of an executed notebook. OSError or nbformat.reader.NotJSONError where it cannot be read.

    `provenance` is shown in the footer: `run` (which also names the way back to the run's index, `home` as seen from
    the page), `stage`, `created`, `revision` or whatever else the caller knows; empty values are left out.
    """
    import nbformat

    cells = nbformat.read(notebook_path, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    errors = [f"{output.ename}: {output.evalue}" for output in outputs if output.output_type == "error"]
    html = (
        environment()
        .get_template("page.html.j2")
        .render(
            cells=cells,
            outline=Outline(),
            fallback_title=Path(notebook_path).stem,
            parameters=_parameters(cells),
            provenance=footer_facts(provenance or {}),
            run=(provenance or {}).get("run"),
            home=home,
            error=visible(_ANSI.sub("", errors[0])) if errors else None,
        )
    )
    return write_text(html_path, html)


def _parameters(cells: list[NotebookNode]) -> list[tuple[str, str]]:
    """Name and value of each parameter in effect: the notebook's defaults, overridden by what papermill injected; an
    empty text sets nothing."""
    values: dict[str, str] = {}
    for cell in cells:
        if not {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", ())):
            continue
        try:
            body = ast.parse(cell.source).body
        except SyntaxError:
            continue
        for node in body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
                # A text as what it says, a number as it was written: 0.05 is a setting, not a measurement.
                text = getattr(node.value, "value", None)
                value = text if isinstance(text, str) else ast.unparse(node.value)
                values[ast.unparse(target)] = "none" if value == "None" else visible(value)
    return [(_CHIPS.get(name, name), value) for name, value in values.items() if value]


def footer_facts(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Labels and values of what a page says of where it comes from; without what is not known."""
    facts: dict[str, Any] = {"run": None, "version": f"arena10k {__version__}"} | dict(given)
    return [(_LABELS.get(k, k), format_value(v)) for k, v in facts.items() if v not in (None, "")]


@cache
def environment() -> jinja2.Environment:
    """What fills the templates, with what every page carries inside: the style sheet; the icon, so that no browser asks
    a server for one; and the only script that a page may run, by its hash, if it has a table with the marker."""
    import jinja2

    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("style.css", "search.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    made = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True)
    made.globals["style"] = style
    made.globals["icon"] = _address("image/svg+xml", (TEMPLATES / "icon.svg").read_bytes())
    made.globals["search"] = {
        "script": script,
        "hash": f"sha256-{digest}",
        "marker": f'<table class="{SEARCHABLE}">',
    }
    made.filters["visible"] = visible
    made.filters["badge"] = lambda verdict: Markup(badge(verdict))
    made.filters["as_code"] = _code
    made.filters["as_image"] = _image
    made.filters["as_log"] = _log
    made.filters["as_text"] = lambda text: visible(_ANSI.sub("", text))
    made.filters["as_markdown"] = _markdown
    made.filters["as_safe_html"] = lambda html, outline: Markup(clean(html, outline))
    return made


def _log(text: str) -> str:
    """Printed text without progress bars; of a line that was overwritten in place, its last state."""
    lines = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in _ANSI.sub("", text).split("\n")]
    return visible("\n".join(line for line in lines if not _PROGRESS.search(line)).strip("\n"))


def _markdown(source: str, outline: Outline) -> Markup:
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    renderer = IPythonRenderer(escape=False, exclude_anchor_links=True)
    return Markup(clean(MarkdownWithMath(renderer=renderer).render(source), outline, headings=True))


def _code(source: str) -> Markup:
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    return Markup(highlight(source, PythonLexer(), HtmlFormatter(nowrap=True)))


def _image(data: str, mime: str, alt: str, outline: Outline) -> Markup:
    """An image output of any other origin than `Drawn`."""
    address = _address(mime, data.encode() if mime == "image/svg+xml" else base64.b64decode(data))
    image = f'<div class="plate"><img src="{address}" alt="{escape(alt)}"></div>'
    return Markup(clean(f"<figure>{image}</figure>", outline))


def _address(mime: str, data: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"
