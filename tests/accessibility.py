"""What axe-core finds on a page that is open in the browser."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from browser import Browser

#: Where `make browser` puts it.
AXE = Path(__file__).parent / "axe" / "node_modules" / "axe-core" / "axe.min.js"

#: Rows of a table that differ in nothing but their words look the same: one of each is looked at. Tables lie on a
#: gradient, which axe cannot compute contrasts with; it runs from the colour of the page to that of lines.
_PREPARED = """
for (const table of document.querySelectorAll('table')) {
  const seen = new Set();
  for (const row of [...table.rows]) {
    const look = row.parentElement.tagName + row.innerHTML.replace(/>[^<]*/g, '>');
    if (seen.has(look)) row.remove(); else seen.add(look);
  }
}
for (const box of document.querySelectorAll('.scroll')) box.style.background = 'none';
"""
_RUN = "axe.run(document, {preload: false, resultTypes: ['violations', 'incomplete']})"
_TOLD = "f => [f.id, f.impact, f.help, f.nodes.slice(0, 3).map(n => n.html.slice(0, 200))]"


@cache
def _axe() -> str:
    return AXE.read_text(encoding="utf-8")


def load(tab: Browser) -> None:
    """Make the open page ready for `findings`; it loses table rows that look like others."""
    tab.evaluate(f"{_axe()};{_PREPARED};0")


def findings(tab: Browser, undecided: bool) -> list[Any]:
    """What axe-core holds against the page as it is shown now, of whatever impact: rule, impact, elements.

    With `undecided` also what it cannot decide, such as the contrast of words that are scrolled out of sight.
    """
    kinds = "[...r.violations, ...r.incomplete]" if undecided else "r.violations"
    return tab.evaluate(f"{_RUN}.then(r => {kinds}.map({_TOLD}))")
