"""From an executed notebook to one self-contained page: no request, no script but the search of a long table, readable
on a phone and on paper."""

from __future__ import annotations

import ast
import base64
import hashlib
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arena10k import __version__
from arena10k.report.files import write_text
from arena10k.report.safe import Headings, clean
from arena10k.report.tables import SEARCHABLE
from arena10k.wording import format_value, visible

if TYPE_CHECKING:
    from nbformat import NotebookNode

TEMPLATES = Path(__file__).resolve().parents[1] / "templates"

#: Names for the keys of `provenance`; any other key is shown as it is.
_LABELS = {"run": "Run", "stage": "Stage", "created": "Data as of", "revision": "Revision", "version": "Version"}
#: Names for the notebooks' parameters; any other is shown as it is.
_CHIPS = {"params_file": "params", "run_name": "run", "snapshot_name": "snapshot", "cell": "ablation"}
_PROGRESS = re.compile(r"\d+%\||\d+it \[|\d+(\.\d+)?\s?(it/s|s/it)|\?it/s")
_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_WIDGET = "application/vnd.jupyter.widget-view+json"


@dataclass(frozen=True)
class Page:
    """What `render` wrote: the file, its title, the error if any."""

    path: Path
    title: str
    error: str | None


def render(
    notebook_path: str | os.PathLike[str],
    html_path: str | os.PathLike[str],
    provenance: Mapping[str, Any] | None = None,
    home: str = "index.html",
) -> Page:
    """Write the page of an executed notebook.

    Parameters
    ----------
    provenance : shown in the footer: `run`, `stage`, `created`, `revision` or whatever else the caller knows; empty
        values are left out. `run` also names the page's way back to the run's index.
    home : where the index is, seen from the page.

    Raises
    ------
    OSError, nbformat.reader.NotJSONError
        For a notebook that cannot be read.
    """
    import nbformat

    notebook = nbformat.read(notebook_path, as_version=4)
    parameters = _parameters(notebook)
    error = _first_error(notebook)
    _tidy(notebook)
    headings, regions = Headings(), Counter[str]()
    exporter = _exporter()
    # Not among the resources, which nbconvert copies.
    exporter.environment.globals["headings"] = headings
    exporter.register_filter("as_page_markdown", partial(_markdown, headings=headings, regions=regions))
    exporter.register_filter("as_safe_html", partial(clean, regions=regions))
    exporter.register_filter("as_image", partial(_image, regions=regions))
    resources = {
        "fallback_title": Path(notebook_path).stem,
        "style": style_sheet(),
        "icon": icon(),
        "search": search(),
        "parameters": parameters,
        "provenance": footer_facts(provenance or {}),
        "run": (provenance or {}).get("run"),
        "home": home,
        "error": error,
    }
    html, _ = exporter.from_notebook_node(notebook, {"page": resources})
    return Page(write_text(html_path, html), headings.title or Path(notebook_path).stem, error)


def _exporter() -> Any:
    from nbconvert.exporters.templateexporter import TemplateExporter
    from traitlets.config import Config

    config = Config()
    config.NbConvertBase.display_data_priority = [
        "text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/plain"
    ]  # fmt: skip
    exporter = TemplateExporter(
        config=config,
        template_name="arena10k",
        extra_template_basedirs=[str(TEMPLATES)],
        extra_template_paths=[str(TEMPLATES)],
        file_extension=".html",
        filters={"as_code": _code, "as_visible": visible},
    )
    exporter.environment.autoescape = True
    return exporter


def _tidy(notebook: NotebookNode) -> None:
    """Take out what is no part of the report: progress bars, widgets, papermill's own error notes, empty cells."""
    cells = []
    for cell in notebook.cells:
        tags = set(cell.metadata.get("tags", ()))
        if "papermill-error-cell-tag" in tags or not cell.source.strip():
            continue
        cell.metadata["is_parameters"] = bool(tags & {"parameters", "injected-parameters"})
        if cell.cell_type == "code":
            cell.outputs = [out for output in cell.outputs if (out := _tidy_output(output)) is not None]
        cells.append(cell)
    notebook.cells = cells


def _tidy_output(output: NotebookNode) -> NotebookNode | None:
    if output.output_type == "stream":
        output.text = _without_progress(output.text)
        return output if output.text.strip() else None
    if output.output_type == "error":
        output.traceback = [_ANSI.sub("", line) for line in output.traceback]
        return output
    if _WIDGET in output.data or (len(output.data) == 1 and _PROGRESS.search(output.data.get("text/plain", ""))):
        return None
    # nbconvert's templates treat a cell's last value apart; here it is an output like any other.
    output.output_type = "display_data"
    return output


def _without_progress(text: str) -> str:
    """Lines of tqdm left out; of a line that was overwritten in place, its last state."""
    lines = (line.rstrip("\r").rsplit("\r", 1)[-1] for line in _ANSI.sub("", text).split("\n"))
    return "\n".join(line for line in lines if not _PROGRESS.search(line)).strip("\n")


def _parameters(notebook: NotebookNode) -> list[tuple[str, str]]:
    """Name and value of each parameter in effect: the notebook's defaults, overridden by what papermill injected; an
    empty text sets nothing."""
    found: dict[str, str] = {}
    for tag in ("parameters", "injected-parameters"):
        for cell in notebook.cells:
            if cell.cell_type == "code" and tag in cell.metadata.get("tags", ()):
                found |= _assignments(cell.source)
    return [(_CHIPS.get(name, name), value) for name, value in found.items() if value]


def _assignments(source: str) -> dict[str, str]:
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return {}
    found = {}
    for node in body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            # A text as what it says, a number as it was written: 0.05 is a setting, not a measurement.
            text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
            value = ast.literal_eval(node.value) if text else ast.unparse(node.value)
            found[ast.unparse(target)] = "none" if value == "None" else visible(value)
    return found


def _first_error(notebook: NotebookNode) -> str | None:
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.output_type == "error":
                return visible(_ANSI.sub("", f"{output.ename}: {output.evalue}"))
    return None


def footer_facts(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Labels and values of what a page says of where it comes from; without what is not known."""
    facts: dict[str, Any] = {"run": None, "version": f"arena10k {__version__}"} | dict(given)
    return [(_LABELS.get(k, k), format_value(v)) for k, v in facts.items() if v not in (None, "")]


def _markdown(source: str, headings: Headings, regions: Counter[str] | None = None) -> str:
    from markupsafe import Markup
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    html = MarkdownWithMath(renderer=IPythonRenderer(escape=False, exclude_anchor_links=True)).render(source)
    return Markup(clean(html, headings, regions))


def _code(source: str) -> str:
    from markupsafe import Markup
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    return Markup(highlight(source, PythonLexer(), HtmlFormatter(nowrap=True)))


def _image(data: str, mime: str, alt: str = "", regions: Counter[str] | None = None) -> str:
    """An image output of any other origin than `Drawn`."""
    from markupsafe import Markup

    text = base64.b64encode(data.encode()).decode() if mime == "image/svg+xml" else "".join(data.split())
    html = f'<div class="plate"><img src="data:{mime};base64,{text}" alt="{escape(alt)}"></div>'
    return Markup(clean(f"<figure>{html}</figure>", regions=regions))


@cache
def style_sheet() -> str:
    """The style sheet that every page carries inside."""
    return (TEMPLATES / "style.css").read_text(encoding="utf-8")


@cache
def search() -> dict[str, str]:
    """The only script a page may run: `code`, the `hash` that allows it and nothing else, and the `marker` of tables
    that want it. Without it they are plain tables."""
    code = (TEMPLATES / "search.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode("ascii")
    return {"code": code, "hash": f"sha256-{digest}", "marker": f'<table class="{SEARCHABLE}">'}


@cache
def icon() -> str:
    """The page icon as a data address, so that no browser asks a server for one."""
    return "data:image/svg+xml;base64," + base64.b64encode((TEMPLATES / "icon.svg").read_bytes()).decode("ascii")
