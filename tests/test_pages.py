"""Pages and the index: self-contained, inert, readable at every size, and the same bytes from the same notebook."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from arena10k import report
from arena10k.estimation.verdicts import accepted
from arena10k.report import display, page
from arena10k.report.summary import summary
from browser import needs_chromium

HOSTILE = "<script>document.title='pwned'</script><img src=x onerror=alert(1)> </td><|im_end|>\u202e & \x1b[31m"
PIXEL = base64.b64encode(b"<svg xmlns='http://www.w3.org/2000/svg' width='900' height='20'/>").decode()


def _notebook() -> nbformat.NotebookNode:
    """An executed notebook with everything that pages have to cope with."""
    wide = pd.DataFrame([{f"a_rather_long_column_{i}": "x" * 30 for i in range(12)} | {"response": HOSTILE * 20}])
    image = f'<img src="data:image/svg+xml;base64,{PIXEL}" alt="wide" width="900">'
    figure = f'<figure><div class="plate">{image}</div></figure>'
    html = [report.text_table(wide)._repr_html_(), wide._repr_html_(), figure, HOSTILE]
    outputs = [new_output("display_data", {"text/html": h, "text/plain": "x"}) for h in html]
    outputs += [
        new_output("display_data", {"text/markdown": display.sentence_markdown("said {t}", t=HOSTILE)}),
        new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "HBox(children=…)"}),
        new_output("display_data", {"application/javascript": "alert(1)", "text/plain": "script output"}),
        new_output("display_data", {"image/svg+xml": "<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"}),
        new_output("execute_result", {"text/plain": HOSTILE}),
        new_output(
            "stream", name="stderr", text="  0%|          | 0/3\r100%|#####| 3/3 [00:01<00:00, 2.5it/s]\nmind this\n"
        ),
        new_output("stream", name="stdout", text=HOSTILE + "y" * 3000),
    ]
    error = new_output("error", ename="ArenaError", evalue=HOSTILE, traceback=["\x1b[31mTraceback\x1b[0m " + HOSTILE])
    cells = [
        new_markdown_cell("An exception", metadata={"tags": ["papermill-error-cell-tag"]}),
        new_markdown_cell("# A title with `code` & more\n\nA paragraph."),
        new_code_cell(
            'run = "sample"\nparams_file = "a"\nrun_name = ""\nwidth: float = 0.05\nlabel = "x < y"',
            metadata={"tags": ["parameters"]},
        ),
        new_code_cell('run = "local"', metadata={"tags": ["injected-parameters"]}),
        new_markdown_cell("### First\n\n" + "long" * 200 + "\n\n![far](https://x.y/z.png)"),
        new_code_cell("print(1)  # " + "z" * 300, outputs=outputs),
        new_markdown_cell("## Second"),
        new_code_cell("fails()", outputs=[error]),
    ]
    return new_notebook(cells=cells, metadata={"papermill": {"duration": 4.21, "input_path": "/secret/place.ipynb"}})


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    nbformat.write(_notebook(), folder / "06_estimates.ipynb")
    provenance = {"run": "local", "created": "2025-11-23T23:10:00+00:00", "revision": "abc123", "stage": None}
    made = report.render(folder / "06_estimates.ipynb", folder / "06_estimates.html", provenance)
    assert made.title == "A title with code & more"
    assert made.error.startswith("ArenaError: <script>")
    return made.path


@pytest.fixture(scope="module")
def text(rendered) -> str:
    return rendered.read_text(encoding="utf-8")


def test_a_page_refers_to_nothing_outside(text):
    assert not re.search(r"""(src|href|url|import|action)\s*[=(:]?\s*['"]?\s*(https?:)?//""", text)
    assert "<script" not in text
    assert "default-src 'none'" in text
    assert "/secret/place" not in text


def test_a_page_shows_parameters_contents_and_provenance(text):
    chips = re.findall(r"<dt>(\w+)</dt><dd>(.*?)</dd>", text.split("<main")[0])
    assert chips == [("run", "local"), ("params", "a"), ("width", "0.05"), ("label", "x &lt; y")]
    assert re.findall(r'<li class="level(\d)"><a href="#([\w-]+)">', text) == [("2", "first"), ("2", "second")]
    for label, value in [("Data as of", "2025-11-23T23:10:00+00:00"), ("Revision", "abc123")]:
        assert f"<dt>{label}</dt><dd>{value}</dd>" in text
    assert "<dt>Stage</dt>" not in text
    assert text.count("<h1>") == 1
    assert "<title>A title with code &amp; more · local</title>" in text


def test_clutter_is_left_out_and_errors_are_clear(text):
    for clutter in ("it/s", "HBox", "An exception", "\x1b", "injected", "#####"):
        assert clutter not in text
    assert "mind this" in text
    assert text.count('id="error"') == 1
    assert 'role="alert"' in text
    assert "This cell failed" in text


def test_the_same_notebook_gives_the_same_page(rendered, tmp_path):
    provenance = {"run": "local", "created": "2025-11-23T23:10:00+00:00", "revision": "abc123"}
    again = report.render(rendered.with_suffix(".ipynb"), tmp_path / "a.html", provenance).path
    assert again.read_bytes() == rendered.read_bytes()


def test_a_notebook_without_headings_or_outputs_is_a_page(tmp_path):
    nbformat.write(new_notebook(cells=[new_code_cell("1"), new_code_cell("")]), tmp_path / "plain.ipynb")
    made = report.render(tmp_path / "plain.ipynb", tmp_path / "plain.html")
    assert (made.title, made.error) == ("plain", None)
    assert "<h1>plain</h1>" in made.path.read_text()
    assert "<nav" not in made.path.read_text()


def test_a_notebook_run_by_papermill_renders_with_its_figure_and_error(tmp_path):
    papermill = pytest.importorskip("papermill")
    cells = [
        new_markdown_cell("# Tiny"),
        new_code_cell("n = 1", metadata={"tags": ["parameters"]}),
        new_code_cell(
            "from matplotlib.figure import Figure\nfrom arena10k import report\nf = Figure()\n"
            "f.subplots().plot([1, n])\ndisplay(report.Drawn(f, '', 'A line to {}'.format(n)))\n"
            "report.say('{n} rows', n=n)\n"
            "report.table([{'n': n}])"
        ),
        new_code_cell("raise KeyError('gone')"),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=cells, metadata=kernel), tmp_path / "in.ipynb")
    with pytest.raises(papermill.PapermillExecutionError):
        papermill.execute_notebook(tmp_path / "in.ipynb", tmp_path / "out.ipynb", {"n": 7}, progress_bar=False)
    made = report.render(tmp_path / "out.ipynb", tmp_path / "out.html", {"run": "local"})
    html = made.path.read_text()
    assert made.error == "KeyError: 'gone'"
    assert 'alt="A line to 7"' in html
    assert "<p>7 rows</p>" in html
    assert '<td class="num">7</td>' in html
    assert str(tmp_path) not in html.split('class="failure"')[0]


# --- the index


def _row(policy: str, estimator: str, value: float | None, verdict: str, **more) -> dict:
    ends = {"ci_low": None if value is None else value - 0.05, "ci_high": None if value is None else value + 0.05}
    return {"policy": policy, "estimator": estimator, "judge": "deterministic", "value": value, "verdict": verdict} | (
        ends | {"reasons": ["low_ess"] if verdict == "REFUSE" else [], "labels_needed": 180.0} | more
    )


ROWS = [
    _row("pi_bad", "snips", 0.844, "REFUSE"),
    _row("pi_bad", "ppi_pp", 0.312, "REPORT"),
    _row("pi_cot", "naive", 0.99, "REPORT"),
    _row("pi_cot", "snips", 0.61, "CAUTION"),
    _row("pi_cot", "ppi_pp", None, "REFUSE"),
    _row("pi_<b>", "snips", 0.95, "REFUSE"),
]


def test_the_headline_is_the_first_to_report_as_in_the_ranking():
    rows = [_row("a", "ppi_pp", 0.6, "CAUTION"), _row("a", "dr_oracle", 0.5, "REPORT")]
    assert [r["estimator"] for r in report.headline({"rows": rows})] == ["dr_oracle"]
    assert [r["estimator"] for r in report.headline({"rows": rows[:1]})] == ["ppi_pp"]


def test_the_headline_is_the_most_trusted_estimate_that_is_not_refused():
    best = report.headline({"rows": ROWS})
    assert [(r["policy"], r["estimator"]) for r in best] == [
        ("pi_cot", "snips"),
        ("pi_bad", "ppi_pp"),
        ("pi_<b>", "snips"),
    ]
    raw = _row("a", "direct", 0.96, "CAUTION", reasons=["no_labels", "not_on_oracle_scale"])
    assert not accepted(report.headline({"rows": [_row("a", "snips", 0.95, "REFUSE"), raw]})[0])


@pytest.fixture(scope="module")
def overview(rendered) -> Path:
    hostile = {"rows": "1,234", "<b>x</b>": report.visible(HOSTILE)}
    pages = [
        report.Listed("06_estimates", "Worth & <i>more</i>", rendered, hostile, failed=True, verdicts={"REFUSE": 3}),
        report.Listed("07", "Missing page", rendered.parent / "nowhere.html"),
        report.Listed("08.cell", "An ablation", rendered, group="Ablations"),
    ]
    estimates = {"run": "local", "n": 120, "created": "2025-11-23", "rows": ROWS}
    estimates["ranking"] = [ROWS[1] | {"rank": 1}]
    return report.index("local", pages, estimates, rendered.parent / "index.html", truth={"pi_bad": 0.3})


def test_the_index_says_what_is_known_and_links_what_is_there(overview):
    html = overview.read_text(encoding="utf-8")
    assert "3 policies evaluated from 120 prompts. pi_bad ranks first: 0.31 (95% interval 0.26 to 0.36)." in html
    assert "With caution: pi_cot. Refused: pi_&lt;b&gt;." in html
    assert re.findall(r'<h3><a href="([^"]+)">', html) == ["06_estimates.html", "06_estimates.html"]
    assert "<h3>Missing page</h3>" in html
    assert '<span class="badge other">missing</span>' in html
    assert "<s>0.950</s>" in html
    assert "<s>0.844</s>" in html
    assert "<s>0.610</s>" not in html
    assert "180 labels would answer it" in html
    assert "Worth &amp; &lt;i&gt;more&lt;/i&gt;" in html
    assert "<script" not in html
    assert "https://" not in html


def test_an_index_without_estimates_says_so(tmp_path):
    html = report.index("local", [], None, tmp_path / "index.html").read_text()
    assert "There are no estimates yet." in html
    assert "<table" not in html
    assert '<p class="note">' not in html
    assert 'class="alert"' not in html


@pytest.mark.parametrize(("alarm", "kind"), [(True, "alert"), (False, "note")])
def test_what_controls_say_is_on_the_first_page(tmp_path, alarm, kind):
    html = report.index("local", [], None, tmp_path / "index.html", controls="1 < 2 failed", alarm=alarm).read_text()
    assert f'<p class="{kind}">1 &lt; 2 failed</p>' in html


# --- looks: contrast by arithmetic, the rest in a browser


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_colours_have_the_contrast_of_wcag_aa(mode):
    blocks = re.findall(r":root \{(.*?)\}", page.style_sheet(), re.S)
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", blocks[mode]))
    pairs = [(ink, "paper") for ink in ("ink", "soft", "accent", "bad")] + [
        ("good", "good-wash"),
        ("care", "care-wash"),
    ]
    pairs += [("bad", "bad-wash"), ("ink", "card"), ("soft", "card"), ("ink", "wash"), ("soft", "wash")]
    pairs += [(f"code-{kind}", "wash") for kind in ("name", "text", "key", "note")]
    for ink, ground in pairs:
        light, dark = sorted((_luminance(colours[ink]), _luminance(colours[ground])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, ground)


@pytest.fixture
def tab(browsing):
    return browsing


@needs_chromium
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["rendered", "overview"])
def test_a_page_in_a_browser_is_inert_self_contained_and_fits(tab, request, name, width, dark):
    file = request.getfixturevalue(name)
    tab.open(file, width=width, dark=dark)
    assert tab.requests() == [file.as_uri()]
    assert tab.complaints() == []
    assert tab.evaluate("document.title").endswith(("· local", "· Arena 10K"))
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert tab.evaluate("document.scripts.length") == 0
    assert tab.evaluate("[...document.images].every(i => i.alt && i.complete && i.naturalWidth > 0)")
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) < 200) == dark


@needs_chromium
def test_landmarks_headings_and_anchors_of_a_page(tab, rendered):
    tab.open(rendered)
    assert tab.evaluate("document.documentElement.lang") == "en"
    assert tab.evaluate("['header','main','footer','nav'].every(t => document.querySelectorAll(t).length === 1)")
    levels = tab.evaluate("[...document.querySelectorAll('main h1, main h2, main h3')].map(h => +h.tagName[1])")
    assert levels == [2, 2]
    assert tab.evaluate("[...document.querySelectorAll('a[href^=\"#\"]')].every(a => document.querySelector(a.hash))")
    assert tab.evaluate("(a => a.length === new Set(a).size)([...document.querySelectorAll('[id]')]"
                        ".map(e => e.id))")  # fmt: skip
    assert "<script>document.title='pwned'</script>" in tab.evaluate("document.querySelector('td.text').textContent")


@needs_chromium
def test_a_long_table_is_searched_in_the_page_and_plain_without_its_script(tab, tmp_path):
    rows = pd.DataFrame({"response": ["a red apple", "a green pear", HOSTILE], "share": [0.5, 0.3, 0.2]})
    html = report.text_table(rows, searchable=True)._repr_html_()
    cell = new_code_cell("x", outputs=[new_output("display_data", {"text/html": html, "text/plain": "x"})])
    nbformat.write(new_notebook(cells=[new_markdown_cell("# Rows"), cell]), tmp_path / "rows.ipynb")
    made = report.render(tmp_path / "rows.ipynb", tmp_path / "rows.html").path
    tab.open(made)
    assert tab.requests() == [made.as_uri()]
    assert tab.complaints() == []
    search = (
        "(t => {{const f = document.querySelector('.search input'); f.value = t; f.dispatchEvent(new Event('input')); "
    )
    search += "return [...document.querySelectorAll('tbody tr')].filter(r => !r.hidden).map(r => r.rowIndex)}})('{}')"
    assert tab.evaluate(search.format("PEAR  green")) == [2]
    assert tab.evaluate("document.querySelector('.search output').value") == "1 of 3 rows"
    assert tab.evaluate(search.format("pwned")) == [3]
    assert tab.evaluate(search.format("")) == [1, 2, 3]
    assert tab.evaluate("document.title") == "Rows"
    # Any other script is refused: the page's policy names the one it carries.
    text = made.read_text().replace('"use strict";', "document.title = 'changed';")
    (tmp_path / "other.html").write_text(text)
    tab.open(tmp_path / "other.html")
    assert tab.evaluate("[document.title, document.querySelectorAll('.search').length]") == ["Rows", 0]
    assert tab.evaluate("document.querySelectorAll('tbody tr').length") == 3


def test_the_first_line_of_the_index_never_names_a_winner_by_chance():
    tied = [ROWS[1] | {"rank": 1}, ROWS[3] | {"rank": 1}]
    told = summary({"n": 5, "rows": ROWS, "ranking": tied})
    assert told.startswith("3 policies evaluated from 5 prompts. No clear winner: pi_bad and ")
    assert "No policy can be ranked; pi_cot has 0.61" in summary({"n": 5, "rows": ROWS, "ranking": []})
