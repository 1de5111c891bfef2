"""Tables, figures and files: what a model wrote stays text, and the same input gives the same output."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from urllib.parse import unquote
from xml.etree import ElementTree

import IPython.display
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from arena10k import report
from arena10k.report import Drawn, page
from arena10k.report.page import Outline, clean

HOSTILE = "<script>document.title='pwned'</script><img src=x onerror=alert(1)> </td><|im_end|>\u202e & \x1b[31m"
#: Persian, Hebrew and an emoji sequence, whose invisible joiners belong to the spelling.
JOINED = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645\n\u05e0 \U0001f469\u200d\U0001f52c"
PIXEL = base64.b64encode(b"<svg xmlns='http://www.w3.org/2000/svg' width='900' height='20'/>").decode()


# Tables


def test_hidden_characters_are_shown_and_writing_systems_are_left_alone():
    assert report.visible("a\u202eb\x00\ud800") == "a[U+202E]b[U+0000][U+D800]"
    assert report.visible(JOINED) == JOINED


def test_every_cell_and_label_of_a_table_is_escaped():
    frame = pd.DataFrame({"<b>id</b>": [HOSTILE], "response": [HOSTILE], "verdict": ["<i>REPORT</i>"]})
    html = report.text_table(frame, caption="<u>caption</u>")._repr_html_()
    assert set(re.findall(r"</?(\w+)", html)) == {"table", "caption", "thead", "tr", "th", "tbody", "td", "span"}
    assert html.count("&lt;script&gt;") == 2
    assert "\u202e" not in html
    assert "[U+202E]" in html


def test_a_refused_number_is_struck_through_and_others_are_not():
    rows = [
        {"policy": "a", "value": 0.5, "ci_low": 0.4, "ess": 12.0, "verdict": "REPORT"},
        {"policy": "b", "value": 0.844, "ci_low": None, "ess": 2.0, "verdict": "REFUSE"},
    ]
    table = report.table(rows)
    html = table._repr_html_()
    assert re.findall(r"<s>(.*?)</s>", html) == ["0.844"]
    assert re.findall(r'class="badge (\w+)">(\w+)', html) == [("report", "REPORT"), ("refuse", "REFUSE")]
    assert "~~0.844~~" in repr(table)
    assert '<td class="num">0.500</td>' in html
    assert ">12<" in html, "whole numbers beside missing values are counts"
    assert "<td>—</td>" in report.table([{"verdict": None}])._repr_html_()


def test_table_options_choose_rename_format_and_shorten():
    frame = pd.DataFrame({"a": [0.25, 0.5, 1.0], "b": ["x" * 500, "y", None], "c": [True, False, None], "d": [1, 2, 3]})
    formats = {"a": ".0%", "d": lambda n: "one" if n == 1 else "more"}
    columns = {"b": "text", "a": "share", "c": "c", "d": "d"}
    table = report.table(frame, columns=columns, formats=formats, text=["b"], max_rows=2)
    header, first, second, note = repr(table).splitlines()
    assert header.split() == ["text", "share", "c", "d"]
    assert (first.split()[-3:], second.split()[-3:]) == (["25%", "yes", "one"], ["50%", "no", "more"])
    assert "xxxxxxxxxx … (100 more characters)" in table._repr_html_()
    assert note == "1 more rows."
    with pytest.raises(KeyError):
        report.table(frame, columns=["nothing"])


@pytest.mark.parametrize("rows", [pd.DataFrame(columns=["policy", "value"]), []])
def test_an_empty_table_has_its_header_and_says_that_it_is_empty(rows):
    empty = report.table(rows, columns=["policy", "value"])
    assert repr(empty).splitlines() == ["policy  value", "No rows."]
    assert '<th scope="col">policy</th><th scope="col">value</th>' in empty._repr_html_()
    assert '<td colspan="2">No rows.</td>' in empty._repr_html_()


# Figures and sentences


def drawn(*left: float) -> Figure:
    figure = Figure(figsize=(3, 2))
    for x in left:
        axes = figure.add_axes((x, 0.1, 0.4, 0.8), title="Of one size")
        axes.plot([0, 1], [0, 1], "o-")
        axes.bar([0, 1], [1, 2], hatch="//")
    return figure


def picture(html: str) -> bytes:
    """What the address of the figure's image holds."""
    kind, data = re.search(r'<img src="data:image/([^,]+),([^"]+)"', html).groups()
    return base64.b64decode(data) if kind == "png;base64" else unquote(data).encode()


@pytest.mark.parametrize(("kind", "start"), [("svg", b"<svg "), ("png", b"\x89PNG")])
def test_a_figure_is_inside_the_page_with_its_text_alternative(kind, start):
    shown = Drawn(drawn(0.1), "", 'Bars: "b" > a\nof two', kind).with_caption("A <b>caption</b>")
    for html in (shown._repr_html_(), clean(shown._repr_html_())):
        assert re.search(r' alt="([^"]+)" ', html)[1].replace("&gt;", ">") == "Bars: &quot;b&quot; > a of two"
        assert {'width="288"', 'height="192"'} <= set(re.findall(r'(?:width|height)="\d+"', html))
        assert "A &lt;b&gt;caption&lt;/b&gt;" in html
        assert picture(html).startswith(start)
        assert b"Date" not in picture(html)


def test_a_figure_is_the_same_where_its_layout_differs_in_the_last_digit():
    here, there = (Drawn(drawn(left, 0.55), "", "x")._repr_html_() for left in (0.1, 0.1 + 1e-13))
    assert here == there
    elements = list(ElementTree.fromstring(picture(here)).iter())
    ids = [element.attrib["id"] for element in elements if "id" in element.attrib]
    used = re.findall(r"(?:#)(i[0-9a-f]+)", " ".join(v for e in elements for v in e.attrib.values()))
    assert sorted(ids) == sorted(set(used))
    assert list(dict.fromkeys(used)) == [f"i{n:x}" for n in range(len(ids))]
    numbers = " ".join(e.attrib.get(k, "") for e in elements for k in ("d", "x", "y", "style"))
    assert not re.search(r"\d\.\d{2}", numbers)
    scales = re.findall(r"scale\((\S+) -(\S+)\)", " ".join(e.attrib.get("transform", "") for e in elements))
    assert all(across == up for across, up in scales)


@pytest.mark.parametrize(
    ("alt", "kind", "named"), [("", "svg", "alt"), ("  \n", "svg", "alt"), (None, "svg", "alt"), ("x", "jpeg", "jpeg")]
)
def test_a_figure_without_words_or_of_an_unknown_kind_is_an_error(alt, kind, named):
    with pytest.raises(ValueError, match=named):
        Drawn(Figure(), "", alt, kind)


@pytest.fixture
def said(monkeypatch):
    """What a page shows of a sentence."""
    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda data, raw: shown.append(data["text/markdown"]))

    def say(sentence, **values):
        report.say(sentence, **values)
        return page.environment().filters["as_markdown"](shown.pop(), Outline("title"))

    return say


@pytest.mark.parametrize(
    "text", [HOSTILE, "*a* **b** _c_ `d` ~~e~~ $f$", "# head", "- item", "1. item", "[a](http://b.c)", "| a |",
             "http://a.b", "\\*a", "a_b"],
)  # fmt: skip
def test_a_value_in_a_sentence_is_plain_text(text, said):
    html = str(said("{text} is what **{policy}** said", text=text, policy="pi_more_shots"))
    assert html.strip().startswith("<p>")
    assert "<strong>pi_more_shots</strong> said" in html
    assert set(re.findall(r"<(\w+)", html)) == {"p", "strong"}
    words = report.visible(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert re.sub(r"<[^>]+>", "", html).strip() == " ".join(f"{words} is what pi_more_shots said".split())


def test_a_sentence_keeps_its_markdown_but_no_html_and_numbers_are_written_as_in_tables(said):
    assert "<strong>a</strong> {b} &lt;script&gt;" in said("**a** {b} <script>")
    assert "0.844 of 1,824 and —" in said("{a} of {b} and {c}", a=0.8441, b=1824, c=None)


# Files


@dataclass
class Point:
    x: float
    n: np.int64


def test_json_is_strict_stable_and_replaced_in_one_step(tmp_path):
    path = tmp_path / "new" / "a.json"
    value = {
        "b": [np.float64("nan"), np.inf, -np.inf, np.float32(0.5), None, pd.NA, pd.NaT],
        "a": Point(1.5, np.int64(3)),
        "array": np.array([[1, 2], [3, 4]]),
        "true": np.bool_(True),
        "when": pd.Timestamp("2025-01-02"),
        "rows": pd.DataFrame({"v": [np.nan, 1.0]}),
        "set": {2, 1},
        3: "ü \ud800",
    }
    report.write_json(path, value)
    first = path.read_bytes()
    assert json.loads(first, parse_constant=pytest.fail) == {
        "b": [None, None, None, 0.5, None, None, None],
        "a": {"x": 1.5, "n": 3},
        "array": [[1, 2], [3, 4]],
        "true": True,
        "when": "2025-01-02T00:00:00",
        "rows": [{"v": None}, {"v": 1.0}],
        "set": [1, 2],
        "3": "ü ?",
    }
    report.write_json(path, dict(reversed(value.items())))
    assert path.read_bytes() == first
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize("value", [object(), {(1, 2): 3}, {True: 1}, {np.bool_(True): 1}, 1j])
def test_a_value_without_a_json_form_is_an_error_and_leaves_the_old_file(tmp_path, value):
    path = report.write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(TypeError):
        report.write_json(path, {"new": value})
    assert json.loads(path.read_text()) == {"old": 1}


# HTML made safe


@pytest.mark.parametrize(
    "html",
    [
        "<script>alert(1)</script>",
        "<SCRIPT src=//x.y/z.js>",
        "<svg onload=alert(1)>",
        "<svg/>",
        "<iframe src=https://x.y></iframe>",
        "<style>body{display:none}</style>",
        "<!-- <b> --><!doctype x><?php ?><![CDATA[x]]><!-- unclosed",
        "<scr<script>ipt>alert(1)</script>",
        "<script>unclosed",
        "<plaintext>",
    ],
)
def test_unknown_markup_becomes_text(html):
    assert set(re.findall(r"<(\w+)", clean(f"<p>{html}"))) <= {"p", "b"}
    assert not re.search(r"<[!?]", clean(html))


@pytest.mark.parametrize(
    ("html", "cleaned"),
    [
        ('<a href="javascript:alert(1)" onclick="x">a</a>', "<a>a</a>"),
        ('<a href=" data:text/html,x">a</a>', "<a>a</a>"),
        ('<a href="java&#9;script:alert(1)">a</a>', "<a>a</a>"),
        ('<a href="//x.y">a</a>', "<a>a</a>"),
        ('<a href="05_data_quality.html#x">a</a>', '<a href="05_data_quality.html#x">a</a>'),
        ('<img src="https://x.y/z.png" alt="a">', "[image left out: a]"),
        ('<p style="x" id="main" class="c">a</p>', '<p class="c">a</p>'),
        ("<p><b>a</p></div>b<i>c", "<p><b>a</b></p>b<i>c</i>"),
        ("<p/>a<br/>", "<p></p>a<br>"),
        ("<h2>a</h2>", "<p><strong>a</strong></p>"),
    ],
)
def test_attributes_are_chosen_addresses_checked_and_broken_nesting_mended(html, cleaned):
    assert clean(html) == cleaned


def test_an_image_has_words_and_a_table_is_closed():
    assert 'alt="Figure without a description"' in clean(f'<img src="data:image/png;base64,{PIXEL}">')
    assert clean("<table><tr><td>a").count("</table></div>") == 1


def test_headings_have_one_title_no_gaps_and_unique_ids():
    outline = Outline()
    html = clean("<h2>Title &amp; more</h2><h1>A b</h1><h4>A b</h4><h2></h2>", outline, headings=True)
    assert outline.title == "Title & more"
    assert html == '<h2 id="a-b">A b</h2><h3 id="a-b-2">A b</h3><h2 id="section"></h2>'
