"""Every page of the sample's report as its readers have it: on screens, phones and paper, by keyboard, without images.

The pages are those of the committed notebooks, which nbval compares with what a run computes now. To look at others,
name their folder: `ARENA10K_REPORTS=reports .venv/bin/pytest tests/test_report_pages.py`.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

import accessibility
from arena10k import paths
from arena10k.params import config
from arena10k.pipeline import first_page, stages
from browser import needs_chromium

pytestmark = needs_chromium
needs_axe = pytest.mark.skipif(
    not accessibility.AXE.is_file(), reason="no axe-core: `make browser` installs it where there is npm"
)

#: A folder of reports that are there already.
GIVEN = os.environ.get("ARENA10K_REPORTS")
COMMITTED = paths.source_root() / "reports" / "sample"
SCREENS = [(1280, False), (1280, True), (390, False), (390, True)]
#: A4 less the browser's usual margins, in CSS pixels.
PAPER_WIDTH, PAPER_HEIGHT = 718, 1046
TAB, ENTER, RIGHT = ("Tab", 9), ("Enter", 13), ("ArrowRight", 39)
#: What the keyboard has to reach, in the order of the page.
STOPS = "[...document.querySelectorAll('a[href], summary, input, [tabindex=\"0\"]')].filter(e => e.checkVisibility())"
#: Bytes of a figure (the largest has 220 kB; beyond, PNG is smaller), of the rest of a page (110 kB: two thousand
#: cells) and of the run's pages together, which a slow mobile line (4 Mbit/s) brings within ten seconds.
MOST_OF_A_FIGURE, MOST_OF_TEXT, MOST = 250e3, 150e3, 5e6


def with_a_cell() -> config.Params:
    """The sample with an ablation matrix of one cell."""
    params = config.load("ablations")
    one = {
        "judges": ["deterministic"],
        "estimators": ["naive"],
        "treatments": ["recorded"],
        "calibrations": ["isotonic"],
    }
    return params.model_copy(update={"ablations": params.ablations.model_copy(update=one)})


def made() -> dict[str, list[str]]:
    """The pages of each report, as seen from the folder of reports, its index first."""
    if GIVEN:
        found = {index: sorted(index.parent.rglob("*.html")) for index in Path(GIVEN).resolve().glob("*/index.html")}
        top = Path(GIVEN).resolve()
    else:
        top = paths.reports_dir("x").parent
        found = {}
        for params in (with_a_cell(), config.load("incident")):
            index = paths.reports_dir(params.run) / "index.html"
            found[index] = [stages.page_file(params.run, name) for name in stages.of(params)]
    return {
        str(index.relative_to(top)): [str(p.relative_to(top)) for p in pages if p != index]
        for index, pages in found.items()
    }


REPORTS = made()
PAGES = [page for index, pages in REPORTS.items() for page in (index, *pages)]


@pytest.fixture(scope="session")
def reports(tmp_path_factory) -> Path:
    """The folder of reports."""
    if GIVEN:
        return Path(GIVEN).resolve()
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARENA10K_HOME", str(home))
        for params in (with_a_cell(), config.load("incident")):
            for name, stage in stages.of(params).items():
                executed = stages.executed_file(params.run, name)
                executed.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(paths.notebook(stage.notebook), executed)
                stages._render(params, name)
            if params.run == "sample":
                for result in ("estimates", "quality", "truth"):
                    shutil.copy(COMMITTED / f"{result}.json", paths.reports_dir("sample"))
            first_page.write_index(params)
    return home / "reports"


@pytest.fixture(scope="module", params=PAGES)
def page(reports, request) -> Path:
    return reports / request.param


@pytest.fixture(scope="module")
def tab(browsing, page):
    """The browser with the page open."""
    browsing.open(page)
    return browsing


def test_a_page_is_whole_in_itself_and_silent(tab, page):
    assert tab.requests() == [page.as_uri()]
    assert tab.complaints() == []
    assert tab.evaluate("document.title && document.images.length >= document.querySelectorAll('figure').length")
    assert tab.evaluate("[...document.images].filter(i => !(i.complete && i.naturalWidth)).map(i => i.alt)") == []


@pytest.mark.parametrize(("width", "dark"), SCREENS)
def test_a_page_fits_the_screen_in_the_reader_s_colours(tab, width, dark):
    tab.show(width, dark=dark)
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert (brightness(tab, "body", "backgroundColor") < 70) == dark
    assert (brightness(tab, "h1", "color") > 180) == dark


def brightness(tab, element: str, what: str) -> float:
    """The mean of red, green and blue of an element's computed colour, 0 to 255."""
    colour = tab.evaluate(f"getComputedStyle(document.querySelector('{element}')).{what}")
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3


def test_a_page_on_paper_is_dark_on_white_and_nothing_is_cut_off(tab):
    tab.show(PAPER_WIDTH, PAPER_HEIGHT, dark=True, media="print")
    assert tab.evaluate("document.documentElement.scrollWidth") == PAPER_WIDTH
    assert brightness(tab, "body", "backgroundColor") == 255
    assert brightness(tab, "h1", "color") == 0
    seen = "[...document.querySelectorAll('.contents, .skip, .search, details.code')].filter(e => e.checkVisibility())"
    assert tab.evaluate(f"{seen}.length") == 0
    assert tab.evaluate("Math.max(0, ...[...document.images].map(i => i.height))") < 0.9 * PAPER_HEIGHT


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


def test_the_keyboard_reaches_everything_in_order_and_shows_where_it_is(tab, page):
    tab.open(page)
    for number in range(tab.evaluate(f"(window.stops = {STOPS}).length")):
        tab.press(*TAB)
        reached, element, seen, *ring = tab.evaluate(WHERE)
        assert reached == number, element
        assert seen, element
        assert ring == ["solid", 3], element


#: Which of the stops has the focus, whether it is in the window, and the line around it.
WHERE = """(e => {
  const box = e.getBoundingClientRect(), style = getComputedStyle(e);
  const seen = box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth;
  return [window.stops.indexOf(e), e.outerHTML.slice(0, 200), seen, style.outlineStyle, parseFloat(style.outlineWidth)];
})(document.activeElement)"""


def test_the_first_stop_skips_to_the_content(tab, page):
    tab.open(page)
    tab.press(*TAB)
    tab.press(*ENTER)
    assert tab.evaluate("document.activeElement.id") == "main"
    tab.press(*TAB)
    assert tab.evaluate("document.querySelector('main').contains(document.activeElement)")


def test_a_page_without_images_says_what_they_show(tab, page):
    tab.open(page, dark=True)
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
def test_axe_core_finds_nothing(tab, page):
    tab.open(page)
    accessibility.load(tab)
    for width, dark in SCREENS[:3]:
        tab.show(width, dark=dark)
        # A phone shows parts of wide tables only; colours do not depend on the width.
        assert accessibility.findings(tab, undecided=width > 600) == [], (width, dark)


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


def test_a_table_wider_than_a_phone_is_scrolled_by_keys(browsing, reports):
    browsing.open(reports / next(iter(REPORTS)), width=390)
    browsing.evaluate("document.querySelector('.scroll').focus()")
    browsing.press(*RIGHT)
    moved = "new Promise(done => document.activeElement.addEventListener('scroll', e => done(e.target.scrollLeft)))"
    assert browsing.evaluate(moved) > 0


@pytest.mark.skipif(GIVEN is not None, reason="the bounds are the sample's")
def test_the_pages_are_small_and_the_index_says_how_large(reports):
    sizes = {page: (reports / page).stat().st_size for page in PAGES}
    for page in PAGES:
        text = (reports / page).read_text(encoding="utf-8")
        figures = [len(found) for found in re.findall(r'src="data:[^"]*"', text)]
        assert max(figures, default=0) < MOST_OF_A_FIGURE
        assert sizes[page] - sum(figures) < MOST_OF_TEXT
    for index, pages in REPORTS.items():
        together = sum(sizes[page] for page in pages)
        assert together < MOST
        facts = re.findall(r"<dt>Size</dt><dd>(.*?)</dd>", (reports / index).read_text(encoding="utf-8"))
        assert facts == [f"{len(pages)} {'page' if len(pages) == 1 else 'pages'}, {together / 1e6:.1f} MB"]
