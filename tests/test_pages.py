"""Pages: self-contained, inert, the same bytes from the same notebook; and as readers have them, on screens, phones and
paper, by keyboard, without images. Those of the sample and of the incident are made of the committed notebooks."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display
from IPython.utils.capture import capture_output
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from arena10k import paths, report
from arena10k.params import config
from arena10k.pipeline import first_page, stages
from arena10k.plots.style import contrast
from browser import needs_chromium

#: Where `make browser` puts it.
AXE = Path(__file__).parent / "axe" / "node_modules" / "axe-core" / "axe.min.js"
needs_axe = pytest.mark.skipif(not AXE.is_file(), reason="no axe-core: `make browser` installs it where there is npm")
COMMITTED = paths.source_root() / "reports" / "sample"
SCREENS = [(1280, False), (1280, True), (390, False), (390, True)]
#: A4 less the browser's usual margins, in CSS pixels.
PAPER_WIDTH, PAPER_HEIGHT = 718, 1046
TAB, ENTER, RIGHT = ("Tab", 9), ("Enter", 13), ("ArrowRight", 39)
#: Bytes of a figure (the largest has 220 kB; beyond, PNG is smaller), of the rest of a page (110 kB: two thousand
#: cells) and of the run's pages together, which a slow mobile line (4 Mbit/s) brings within ten seconds.
MOST_OF_A_FIGURE, MOST_OF_TEXT, MOST = 250e3, 150e3, 5e6
PROVENANCE = {"run": "local", "created": "2025-11-23T23:10:00+00:00", "revision": "abc123", "stage": None}
HOSTILE = "<script>document.title='pwned'</script><img src=x onerror=alert(1)> </td><|im_end|>\u202e & \x1b[31m"
PIXEL = base64.b64encode(b"<svg xmlns='http://www.w3.org/2000/svg' width='900' height='20'/>").decode()


def notebook_of_everything() -> nbformat.NotebookNode:
    """An executed notebook with everything that pages have to cope with."""
    wide = pd.DataFrame([{f"a_rather_long_column_{i}": "x" * 30 for i in range(12)} | {"response": HOSTILE * 20}])
    image = f'<img src="data:image/svg+xml;base64,{PIXEL}" alt="wide" width="900">'
    figure = f'<figure><div class="plate">{image}</div></figure>'
    html = [report.text_table(wide)._repr_html_(), wide._repr_html_(), figure, HOSTILE]
    shown = [{"text/html": part, "text/plain": "x"} for part in html]
    shown += [
        {"text/markdown": f"said {HOSTILE}"},
        {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "HBox(children=…)"},
        {"application/javascript": "alert(1)", "text/plain": "script output"},
        {"image/svg+xml": "<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"},
        {"image/png": base64.b64encode(b"\x89PNG").decode() + "\n"},
        {"text/plain": " 50%|#####     | 2/4"},
    ]
    outputs = [new_output("display_data", data) for data in shown] + [
        new_output("execute_result", {"text/plain": HOSTILE}),
        new_output("stream", name="stderr", text="  0%|   | 0/3\r100%|###| 3/3 [00:01<00:00, 2.5it/s]\nmind this\n"),
        new_output("stream", name="stdout", text=HOSTILE + "y" * 3000),
    ]
    error = new_output("error", ename="ArenaError", evalue=HOSTILE, traceback=["\x1b[31mTraceback\x1b[0m " + HOSTILE])
    given = 'run = "sample"\nparams_file = "a"\nrun_name = ""\nwidth: float = 0.05\nlabel = "x < y"\nnone = None'
    cells = [
        new_markdown_cell("An exception", metadata={"tags": ["papermill-error-cell-tag"]}),
        new_markdown_cell("# A title with `code` & more\n\nA paragraph."),
        new_code_cell(given, metadata={"tags": ["parameters"]}),
        new_code_cell('run = "local"', metadata={"tags": ["injected-parameters"]}),
        new_code_cell("%no Python", metadata={"tags": ["injected-parameters"]}),
        new_markdown_cell("### First\n\n" + "long" * 200 + "\n\n![far](https://x.y/z.png)"),
        new_code_cell("print(1)  # " + "z" * 300, outputs=outputs),
        new_markdown_cell("## Second"),
        new_code_cell("fails()", outputs=[error]),
    ]
    return new_notebook(cells=cells, metadata={"papermill": {"duration": 4.21, "input_path": "/secret/place.ipynb"}})


def with_a_cell() -> config.Params:
    """The sample with an ablation matrix of one cell."""
    params = config.load("ablations")
    one = {"judges": ["deterministic"], "estimators": ["naive"]}
    one |= {"treatments": ["recorded"], "calibrations": ["isotonic"]}
    return params.model_copy(update={"ablations": params.ablations.model_copy(update=one)})


def seen_from_reports(params: config.Params) -> list[str]:
    top = paths.reports_dir(params.run).parent
    return [str(stages.page_file(params.run, name).relative_to(top)) for name in stages.of(params)]


#: The pages of each report by its index, as seen from the folder of reports.
REPORTS = {f"{p.run}/index.html": seen_from_reports(p) for p in (with_a_cell(), config.load("incident"))}
WRITTEN = [page for index, pages in REPORTS.items() for page in (index, *pages)]
#: One more page and index, of a notebook that holds what a model might write.
PAGES = [*WRITTEN, "hostile/06_estimates.html", "hostile/index.html"]
#: Those that between them have all that pages are made of.
VARIED = [page for page in WRITTEN if re.search("index|05_|06_|07_|ablations|11_", page)]


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> Path:
    """The folder of reports; every page is rendered once."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARENA10K_HOME", str(home))
        for params in (with_a_cell(), config.load("incident")):
            for name, stage in stages.of(params).items():
                executed = stages.executed_file(params.run, name)
                executed.parent.mkdir(parents=True, exist_ok=True)
                # The pipeline was given the path of the params file.
                book = paths.notebook(stage.notebook).read_text(encoding="utf-8")
                executed.write_text(
                    book.replace('params_file = \\"sample\\"', 'params_file = \\"params/sample.yaml\\"')
                )
                stages._render(params, name)
            if params.run == "sample":
                for result in ("estimates", "examples", "quality", "truth"):
                    paths.result_file("sample", f"{result}.json").symlink_to(COMMITTED / f"{result}.json")
            first_page.write_index(params)
    folder = home / "reports" / "hostile"
    folder.mkdir()
    nbformat.write(notebook_of_everything(), folder / "06_estimates.ipynb")
    made = report.render(folder / "06_estimates.ipynb", folder / "06_estimates.html", PROVENANCE)
    row = {"policy": "pi_<b>", "estimator": "snips", "judge": "d", "value": 0.95, "ci_low": 0.9, "ci_high": 1.0}
    listed = [report.Listed("06", f"Worth {HOSTILE}", made, {"<b>x</b>": report.visible(HOSTILE)}, failed=True)]
    report.index("local", listed, {"rows": [row | {"verdict": "REFUSE"}]}, folder / "index.html", alarms=[HOSTILE])
    return home / "reports"


@pytest.fixture(scope="module")
def text(reports) -> str:
    return (reports / "hostile" / "06_estimates.html").read_text(encoding="utf-8")


def test_a_page_refers_to_nothing_outside(text):
    assert not re.search(r"""(src|href|url|import|action)\s*[=(:]?\s*['"]?\s*(https?:)?//""", text)
    assert "<script" not in text
    assert "default-src 'none'" in text
    assert "/secret/place" not in text


def test_a_page_shows_parameters_contents_and_provenance(text):
    chips = re.findall(r"<dt>(\w+)</dt><dd>(.*?)</dd>", text.split("<main")[0])
    assert chips == [("run", "local"), ("params", "a"), ("width", "0.05"), ("label", "x &lt; y"), ("none", "none")]
    assert re.findall(r'<li class="level(\d)"><a href="#([\w-]+)">', text) == [("2", "first"), ("2", "second")]
    for label, value in [("Data as of", "2025-11-23T23:10:00+00:00"), ("Revision", "abc123")]:
        assert f"<dt>{label}</dt><dd>{value}</dd>" in text
    assert "<dt>Stage</dt>" not in text
    assert text.count("<h1>") == 1
    assert "<title>A title with code &amp; more · local</title>" in text


def test_clutter_is_left_out_and_errors_are_clear(text):
    for clutter in ("it/s", "HBox", "An exception", "\x1b", "injected", "###"):
        assert clutter not in text
    assert "mind this" in text
    assert text.count('id="error"') == 1
    assert 'role="alert"' in text
    assert "<code>ArenaError: &lt;script&gt;" in text


def test_the_same_notebook_gives_the_same_page_and_one_without_headings_or_outputs_is_a_page(reports, text, tmp_path):
    again = report.render(reports / "hostile" / "06_estimates.ipynb", tmp_path / "a.html", PROVENANCE)
    assert again.read_text(encoding="utf-8") == text
    nbformat.write(new_notebook(cells=[new_code_cell("1"), new_code_cell("")]), tmp_path / "plain.ipynb")
    bare = report.render(tmp_path / "plain.ipynb", tmp_path / "plain.html").read_text()
    assert "<h1>plain</h1>" in bare
    assert "<nav" not in bare


def test_pages_of_the_committed_report_are_those_of_the_committed_notebooks(reports):
    """nbval compares the notebooks with what they compute now, so the pages are what a run would give now."""
    names = [f"{name}.html" for name in stages.of(config.load("sample"))]
    assert {path.name for path in COMMITTED.glob("*.html")} == {"index.html", *names}
    for name in names:
        now, then = ((folder / name).read_text(encoding="utf-8") for folder in (reports / "sample", COMMITTED))
        assert without_pictures(now) == without_pictures(then), name
    now, then = ((folder / "index.html").read_text(encoding="utf-8") for folder in (reports / "sample", COMMITTED))
    assert now.split("The answer</h2>")[0] == then.split("The answer</h2>")[0]
    assert sorted(re.findall(r'<h3><a href="(.*?)">', then)) == sorted(names)


def without_pictures(page: str) -> str:
    """Nor the links to the pages beside it: a report with ablations has more of them."""
    page = re.sub(r'<nav class="neighbours".*?</nav>', "", page, flags=re.DOTALL)
    return re.sub(r'(?<=src=")data:image[^"]*|(?<=srcset=")data:image[^"]*', "", page)


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_colours_have_the_contrast_of_wcag_aa(mode, text):
    blocks = re.findall(r":root \{(.*?)\}", text, re.S)
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", blocks[mode]))
    pairs = [(ink, "paper") for ink in ("ink", "soft", "accent", "bad")]
    pairs += [("good", "good-wash"), ("care", "care-wash"), ("bad", "bad-wash"), ("ink", "card"), ("soft", "card")]
    pairs += [(ink, "wash") for ink in ("ink", "soft", "code-name", "code-text", "code-key", "code-note")]
    for ink, ground in pairs:
        assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)


def alts(page: str) -> list[str]:
    return re.findall(r'<img [^>]*alt="([^"]*)"', page)


def test_page_07_has_all_figures_where_there_is_an_anomaly_and_no_empty_one_where_there_is_none(reports, home):
    """That of the sample, and one of the control alone, executed here: a policy whose weights are 1."""
    stage, sample = "07_pi_bad_anomaly", config.load("sample").model_dump(mode="json", exclude_unset=True)
    sample["policies"] = {name: sample["policies"][name] for name in ("p0", "pi_clone")}
    (home / "control.yaml").write_text(yaml.safe_dump(sample))
    shell, book = InteractiveShell.instance(), nbformat.read(paths.notebook(stage), as_version=4)
    for cell in (cell for cell in book.cells if cell.cell_type == "code"):
        with capture_output() as seen:
            last = shell.run_cell(cell.source)
            last.raise_error()
            display(*[last.result] * (last.result is not None))
        cell.outputs = [new_output("display_data", output.data) for output in seen.outputs]
        if "parameters" in cell.metadata.get("tags", ()):
            shell.push({"params_file": str(home / "control.yaml"), "run_name": ""})
    nbformat.write(book, home / "control.ipynb")
    clean = report.render(home / "control.ipynb", home / "control.html").read_text(encoding="utf-8")
    anomaly = (reports / "sample" / f"{stage}.html").read_text(encoding="utf-8")
    assert paths.result_file("sample", "anomaly.json").is_file()
    assert {"pi_bad", "SNIPS"} <= set(re.findall(r"\w+", anomaly.split("<main")[1].split("<h2 id=")[0]))
    assert len(alts(anomaly)) == 2 * len(set(alts(anomaly))) == 16  # one for pages, one for phones
    assert len(set(alts(clean))) == 6
    assert len(re.findall("<h2 id=", clean)) == len(re.findall("<h2 id=", anomaly)) - 3


def test_the_pages_are_small_and_the_index_says_how_large(reports):
    sizes = {name: (reports / name).stat().st_size for name in WRITTEN}
    for name in WRITTEN:
        figures = [len(found) for found in re.findall(r'src="data:[^"]*"', (reports / name).read_text("utf-8"))]
        assert max(figures, default=0) < MOST_OF_A_FIGURE
        assert sizes[name] - sum(figures) < MOST_OF_TEXT
    for index, pages in REPORTS.items():
        together = sum(sizes[name] for name in pages)
        assert together < MOST
        facts = re.findall(r"<dt>Size</dt><dd>(.*?)</dd>", (reports / index).read_text(encoding="utf-8"))
        assert facts == [f"{len(pages)} {'page' if len(pages) == 1 else 'pages'}, {together / 1e6:.1f} MB"]


# In a browser


@pytest.fixture(scope="module", params=PAGES)
def file(reports, request) -> Path:
    return reports / request.param


@pytest.fixture(scope="module")
def tab(browsing, file):
    """The browser with the page open."""
    browsing.open(file)
    return browsing


#: What a page of any other notebook cannot promise.
of_a_run = pytest.mark.parametrize("file", VARIED, indirect=True, scope="module")


@needs_chromium
def test_a_page_is_whole_in_itself_and_silent(tab, file):
    assert tab.requests() == [file.as_uri()]
    assert tab.complaints() == []
    assert tab.evaluate("document.title && document.images.length >= document.querySelectorAll('figure').length")
    assert tab.evaluate("document.documentElement.lang") == "en"
    assert tab.evaluate("['header','main','footer','h1'].every(t => document.querySelectorAll(t).length === 1)")
    assert tab.evaluate("(a => a.length === new Set(a).size)([...document.querySelectorAll('[id]')].map(e => e.id))")
    assert "pwned" not in tab.evaluate("document.title")
    broken = tab.evaluate("[...document.images].filter(i => !(i.complete && i.naturalWidth)).map(i => i.alt)")
    assert set(broken) <= {"Figure without a description"}


@needs_chromium
def test_a_page_fits_the_screen_in_the_reader_s_colours(tab):
    for width, dark in SCREENS:
        tab.show(width, dark=dark)
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        assert (brightness(tab, "body", "backgroundColor") < 70) == dark
        assert (brightness(tab, "h1", "color") > 180) == dark


def brightness(tab, element: str, what: str) -> float:
    """The mean of red, green and blue of an element's computed colour, 0 to 255."""
    colour = tab.evaluate(f"getComputedStyle(document.querySelector('{element}')).{what}")
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3


@needs_chromium
@of_a_run
def test_a_page_on_paper_is_dark_on_white_and_nothing_is_cut_off(tab):
    tab.show(PAPER_WIDTH, PAPER_HEIGHT, dark=True, media="print")
    assert tab.evaluate("document.documentElement.scrollWidth") == PAPER_WIDTH
    assert brightness(tab, "body", "backgroundColor") == 255
    assert brightness(tab, "h1", "color") == 0
    unseen = ".contents, .skip, .search, pre.code, .switch, .neighbours"
    seen = f"[...document.querySelectorAll('{unseen}')].filter(e => e.checkVisibility())"
    assert tab.evaluate(f"{seen}.length") == 0
    assert (
        tab.evaluate("Math.max(0, ...[...document.images].filter(i => i.checkVisibility()).map(i => i.height))")
        < 0.9 * PAPER_HEIGHT
    )


@needs_chromium
def test_terms_explain_themselves_within_the_screen_and_one_switch_shows_all_code(browsing, reports):
    """On hover, focus and tap; each term once on a page, and every page leads to the next."""
    page = reports / "sample" / "06_estimates.html"
    visible = "(window.terms = [...document.querySelectorAll('.term')].filter(e => e.checkVisibility()))"
    for width in (1280, 390):
        browsing.open(page, width=width)
        terms = browsing.evaluate(f"{visible}.map(e => e.firstChild.data.toLowerCase())")
        assert len(terms) == len(set(terms)) > 5
        for number in range(len(terms)):
            browsing.evaluate(f"window.terms[{number}].focus()")
            box = f"window.terms[{number}].querySelector('[role=tooltip]').getBoundingClientRect()"
            left, right, height = browsing.evaluate(f"(b => [b.left, b.right, b.height])({box})")
            assert 0 <= left < right <= width, terms[number]
            assert height > 20
            assert browsing.evaluate("document.documentElement.scrollWidth") == width
    seen = "[...document.querySelectorAll('pre.code')].filter(e => e.checkVisibility()).length"
    assert browsing.evaluate(seen) == 0
    browsing.click("#code")
    assert browsing.evaluate(seen) == browsing.evaluate("document.querySelectorAll('pre.code').length") > 10
    browsing.click("a[rel=next]", loads=True)
    assert browsing.evaluate("location.pathname").endswith("/07_pi_bad_anomaly.html")


@needs_chromium
def test_links_within_a_page_lead_to_what_they_name(tab):
    tab.show()
    assert tab.evaluate("[...document.querySelectorAll('a[href^=\"#\"]')].filter(a => !document.querySelector(a.hash))"
                        ".map(a => a.hash)") == []  # fmt: skip
    for anchor in tab.evaluate("[...document.querySelectorAll('.contents a')].map(a => a.getAttribute('href'))"):
        tab.evaluate("scrollTo(0, 0)")
        tab.click(f".contents a[href='{anchor}']")
        hash_, top, height = tab.evaluate(
            "[location.hash, document.querySelector(location.hash).getBoundingClientRect().top, innerHeight]"
        )
        assert hash_ == anchor
        assert -1 <= top < height


@needs_chromium
def test_the_keyboard_skips_to_the_content_and_reaches_everything_in_order_and_shows_where_it_is(tab, file):
    tab.open(file)
    for number in range(tab.evaluate(f"(window.stops = {STOPS}).length")):
        tab.press(*TAB)
        reached, element, seen, *ring = tab.evaluate(WHERE)
        assert reached == number, element
        assert seen, element
        assert ring == ["solid", 3], element
    tab.evaluate("window.stops[0].focus()")
    tab.press(*ENTER)
    assert tab.evaluate("document.activeElement.id") == "main"
    tab.press(*TAB)
    assert tab.evaluate("document.querySelector('main').contains(document.activeElement)")


#: What the keyboard has to reach, in the order of the page.
STOPS = "[...document.querySelectorAll('a[href], summary, input, [tabindex=\"0\"]')].filter(e => e.checkVisibility())"
#: Which of the stops has the focus, whether it is in the window, and the line around it.
WHERE = """(e => {
  const box = e.getBoundingClientRect(), style = getComputedStyle(e);
  const seen = box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth;
  return [window.stops.indexOf(e), e.outerHTML.slice(0, 200), seen, style.outlineStyle, parseFloat(style.outlineWidth)];
})(document.activeElement)"""


@needs_chromium
@of_a_run
def test_a_page_without_images_says_what_they_show(tab, file):
    tab.open(file, dark=True)
    tab.evaluate("[...document.images].forEach(i => i.src = 'data:image/png;base64,')")
    for width in (1280, 390):
        tab.show(width, dark=True)
        for words, room, needed, ink in tab.evaluate(WORDS_IN_PLACE):
            assert words.count(".") >= 2, words
            assert needed < room, words
            assert ink == "rgb(27, 33, 38)"
    assert tab.evaluate("document.querySelector('.lead, main .output').textContent.trim().length") > 20


#: Of every image its alternative text, the height of its frame and what the text needs of it, and the text's colour.
WORDS_IN_PLACE = """[...document.images].map(image => {
  const words = document.createElement('div'), style = getComputedStyle(image);
  words.textContent = image.alt;
  // The browser's sign for an image that is not there takes the place of a few letters.
  words.style.cssText = `position: absolute; width: ${image.width - 24}px; font: ${style.font}`;
  document.body.append(words);
  const needed = words.offsetHeight;
  words.remove();
  return [image.alt, image.height, needed, style.color];
})"""


@needs_axe
@needs_chromium
@of_a_run
def test_axe_core_finds_nothing(tab, file):
    tab.open(file)
    tab.evaluate(f"{AXE.read_text(encoding='utf-8')};{PREPARED};0")
    for width, dark in (SCREENS[0], SCREENS[3]):
        tab.show(width, dark=dark)
        # What axe cannot decide, such as the contrast of words out of sight, counts too where a page is all in sight:
        # a phone shows parts of wide tables only; colours do not depend on the width.
        kinds = "[...r.violations, ...r.incomplete]" if width > 600 else "r.violations"
        violations = f"{kinds}.map(f => [f.id, f.impact, f.help, f.nodes.slice(0, 3).map(n => n.html.slice(0, 200))])"
        run = "axe.run(document, {preload: false, resultTypes: ['violations', 'incomplete']})"
        assert tab.evaluate(f"{run}.then(r => {violations})") == [], (width, dark)


#: Rows of a table that differ in nothing but their words look the same: one of each is looked at. Tables lie on a
#: gradient, which axe cannot compute contrasts with; it runs from the colour of the page to that of lines.
PREPARED = """
for (const table of document.querySelectorAll('table')) {
  const seen = new Set();
  for (const row of [...table.rows]) {
    const look = row.parentElement.tagName + row.innerHTML.replace(/>[^<]*/g, '>');
    if (seen.has(look)) row.remove(); else seen.add(look);
  }
}
for (const box of document.querySelectorAll('.scroll')) box.style.background = 'none';
"""


@needs_chromium
@pytest.mark.parametrize("index", REPORTS)
def test_the_index_leads_to_every_page_and_every_page_back(browsing, reports, index):
    browsing.open(reports / index)
    links = browsing.evaluate("[...document.querySelectorAll('main a')].map(a => a.getAttribute('href'))")
    home, folder = (reports / index).as_uri(), (reports / index).parent
    assert sorted(str((folder / link).relative_to(reports)) for link in links) == sorted(REPORTS[index])
    for link in links:
        browsing.click(f"main a[href='{link}']", loads=True)
        assert browsing.evaluate("location.href") == (folder / link).as_uri()
        assert browsing.evaluate("document.querySelectorAll('main, h1').length") == 2
        browsing.click(".eyebrow a", loads=True)
        assert browsing.evaluate("location.href") == home


@needs_chromium
def test_a_table_wider_than_a_phone_is_scrolled_by_keys(browsing, reports):
    browsing.open(reports / "sample" / "07_pi_bad_anomaly.html", width=390)
    browsing.evaluate("document.querySelector('.scroll').focus()")
    browsing.press(*RIGHT)
    moved = "new Promise(done => document.activeElement.addEventListener('scroll', e => done(e.target.scrollLeft)))"
    assert browsing.evaluate(moved) > 0


@needs_chromium
def test_a_long_table_is_searched_in_the_page_and_plain_without_its_script(browsing, tmp_path):
    rows = pd.DataFrame({"response": ["a red apple", "a green pear", HOSTILE], "share": [0.5, 0.3, 0.2]})
    html = report.text_table(rows, searchable=True)._repr_html_()
    cell = new_code_cell("x", outputs=[new_output("display_data", {"text/html": html, "text/plain": "x"})])
    nbformat.write(new_notebook(cells=[new_markdown_cell("# Rows"), cell]), tmp_path / "rows.ipynb")
    made = report.render(tmp_path / "rows.ipynb", tmp_path / "rows.html")
    browsing.open(made)
    assert browsing.requests() == [made.as_uri()]
    assert browsing.complaints() == []
    search = (
        "(t => {{const f = document.querySelector('.search input'); f.value = t; f.dispatchEvent(new Event('input')); "
    )
    search += "return [...document.querySelectorAll('tbody tr')].filter(r => !r.hidden).map(r => r.rowIndex)}})('{}')"
    assert browsing.evaluate(search.format("PEAR  green")) == [2]
    assert browsing.evaluate("document.querySelector('.search output').value") == "1 of 3 rows"
    assert browsing.evaluate(search.format("pwned")) == [3]
    assert browsing.evaluate(search.format("")) == [1, 2, 3]
    assert browsing.evaluate("document.title") == "Rows"
    # Any other script is refused: the page's policy names the one it carries.
    text = made.read_text().replace('"use strict";', "document.title = 'changed';")
    (tmp_path / "other.html").write_text(text)
    browsing.open(tmp_path / "other.html")
    assert browsing.evaluate("[document.title, document.querySelectorAll('.search').length]") == ["Rows", 0]
    assert browsing.evaluate("document.querySelectorAll('tbody tr').length") == 3
