"""Tables, figures and files: what a model wrote stays text, and the same input gives the same output."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from arena10k import report
from arena10k.report import Drawn, display, page
from arena10k.report.safe import Headings, clean

HOSTILE = "<script>document.title='pwned'</script><img src=x onerror=alert(1)> </td><|im_end|>\u202e & \x1b[31m"
#: Persian, Hebrew and an emoji sequence, whose invisible joiners belong to the spelling.
JOINED = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645\n\u05e0 \U0001f469\u200d\U0001f52c"
PIXEL = base64.b64encode(b"<svg xmlns='http://www.w3.org/2000/svg' width='900' height='20'/>").decode()


# --- values and tables


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "—"),
        (float("nan"), "—"),
        (pd.NA, "—"),
        (0, "0"),
        (0.0, "0.000"),
        (1234567, "1,234,567"),
        (np.int64(-1200), "-1,200"),
        (0.12345, "0.123"),
        (-0.5, "-0.500"),
        (1824.25, "1,824.2"),
        (4.2e-7, "4.2e-07"),
        (3e12, "3.0e+12"),
        (np.inf, "∞"),
        (True, "yes"),
    ],
)
def test_numbers_are_written_for_readers(value, written):
    assert report.format_number(value) == written


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


def test_table_options_choose_rename_format_and_shorten():
    frame = pd.DataFrame({"a": [0.25, 0.5, 1.0], "b": ["x" * 500, "y", None], "c": [1, 2, 3]})
    table = report.table(frame, columns={"b": "text", "a": "share"}, formats={"a": ".0%"}, text=["b"], max_rows=2)
    assert repr(table).splitlines()[0].split() == ["text", "share"]
    assert "xxxxxxxxxx … (100 more characters)" in table._repr_html_()
    assert "25%" in repr(table)
    assert "1 more rows." in repr(table)
    with pytest.raises(KeyError):
        report.table(frame, columns=["nothing"])


def test_an_empty_table_has_its_header_and_says_that_it_is_empty():
    empty = report.table(pd.DataFrame(columns=["policy", "value"]))
    assert repr(empty).splitlines() == ["policy  value", "No rows."]
    assert '<td colspan="2">No rows.</td>' in empty._repr_html_()


# --- figures and sentences


def _figure() -> Figure:
    figure = Figure(figsize=(3, 2))
    figure.subplots().bar([0, 1], [1, 2], hatch="//")
    return figure


def _picture(html: str) -> bytes:
    """What the address of the figure's image holds."""
    kind, data = re.search(r'<img src="data:image/([^,]+),([^"]+)"', html).groups()
    assert kind in ("svg+xml", "png;base64")
    return base64.b64decode(data) if kind.endswith("base64") else unquote(data).encode()


@pytest.mark.parametrize(("kind", "start"), [("svg", b"<svg "), ("png", b"\x89PNG")])
def test_a_figure_is_inside_the_page_with_its_text_alternative(kind, start):
    shown = Drawn(_figure(), "", 'Bars: "b" > a\nof two', kind).with_caption("A <b>caption</b>")
    for html in (shown._repr_html_(), clean(shown._repr_html_())):
        assert re.search(r'alt="([^"]+)" (?:width|height)="\d+" ', html)[1].replace("&gt;", ">") == (
            "Bars: &quot;b&quot; > a of two"
        )
        assert {'width="288"', 'height="192"'} <= set(re.findall(r'(?:width|height)="\d+"', html))
        assert "A &lt;b&gt;caption&lt;/b&gt;" in html
        picture = _picture(html)
        assert picture.startswith(start)
        assert b"Date" not in picture
    if kind == "svg":
        ElementTree.fromstring(picture)


def test_a_figure_is_the_same_where_its_layout_differs_in_the_last_digit():
    def drawn(left):
        figure = Figure()
        for x in (left, 0.55):
            axes = figure.add_axes((x, 0.1, 0.4, 0.8), title="Of one size")
            axes.plot([0, 1], [0, 1], "o-")
            axes.bar([0, 1], [1, 2], hatch="//")
        return figure

    here, there = (Drawn(drawn(left), "", "x")._repr_html_() for left in (0.1, 0.1 + 1e-13))
    assert here == there
    elements = list(ElementTree.fromstring(_picture(here)).iter())
    ids = [element.attrib["id"] for element in elements if "id" in element.attrib]
    used = re.findall(r"(?:#)(i[0-9a-f]+)", " ".join(v for e in elements for v in e.attrib.values()))
    assert sorted(ids) == sorted(set(used))
    assert list(dict.fromkeys(used)) == [f"i{n:x}" for n in range(len(ids))]
    numbers = " ".join(e.attrib.get(k, "") for e in elements for k in ("d", "x", "y", "style"))
    assert not re.search(r"\d\.\d{2}", numbers)
    scales = re.findall(r"scale\((\S+) -(\S+)\)", " ".join(e.attrib.get("transform", "") for e in elements))
    assert all(across == up for across, up in scales)


@pytest.mark.parametrize("alt", ["", "  \n", None])
def test_a_figure_without_words_is_an_error(alt):
    with pytest.raises(ValueError, match="alt"):
        Drawn(_figure(), "", alt)


def test_an_unknown_figure_kind_is_an_error():
    with pytest.raises(ValueError, match="jpeg"):
        Drawn(_figure(), "", "x", "jpeg")


def _rendered(sentence: str, **values) -> str:
    return str(page._markdown(display.sentence_markdown(sentence, **values), Headings("title")))


@pytest.mark.parametrize(
    "text",
    [
        HOSTILE,
        "*a* **b** _c_ `d` ~~e~~ $f$",
        "# head",
        "- item",
        "1. item",
        "[a](http://b.c)",
        "| a |",
        "http://a.b",
        "\\*a",
        "a_b",
    ],
)
def test_a_value_in_a_sentence_is_plain_text(text):
    html = _rendered("{text} is what **{policy}** said", text=text, policy="pi_more_shots")
    assert html.strip().startswith("<p>")
    assert "<strong>pi_more_shots</strong> said" in html
    assert set(re.findall(r"<(\w+)", html)) == {"p", "strong"}
    words = re.sub(r"<[^>]+>", "", html).strip()
    assert words == " ".join(f"{_escaped(text)} is what pi_more_shots said".split())


def _escaped(text: str) -> str:
    return report.visible(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def test_a_sentence_without_values_keeps_its_markdown_and_braces_but_no_html():
    assert "<strong>a</strong> {b} &lt;script&gt;" in _rendered("**a** {b} <script>")


def test_numbers_in_a_sentence_are_written_as_in_tables():
    assert "0.844 of 1,824 and —" in _rendered("{a} of {b} and {c}", a=0.8441, b=1824, c=None)


# --- files


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
        "3": "ü ?",
    }
    report.write_json(path, dict(reversed(value.items())))
    assert path.read_bytes() == first
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize("value", [object(), {(1, 2): 3}, {True: 1}, 1j])
def test_a_value_without_a_json_form_is_an_error_and_leaves_the_old_file(tmp_path, value):
    path = report.write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(TypeError):
        report.write_json(path, {"new": value})
    assert json.loads(path.read_text()) == {"old": 1}


# --- HTML made safe


@pytest.mark.parametrize(
    "html",
    [
        "<script>alert(1)</script>",
        "<SCRIPT src=//x.y/z.js>",
        "<svg onload=alert(1)>",
        "<iframe src=https://x.y></iframe>",
        "<style>body{display:none}</style>",
        "<!-- <b> --><!doctype x><?php ?><![CDATA[x]]>",
        "<scr<script>ipt>alert(1)</script>",
        "<script>unclosed",
        "<plaintext>",
    ],
)
def test_unknown_markup_becomes_text(html):
    assert set(re.findall(r"<(\w+)", clean(f"<p>{html}"))) <= {"p", "b"}
    assert not re.search(r"<[!?]", clean(html))


def test_attributes_are_chosen_and_addresses_checked():
    assert clean('<a href="javascript:alert(1)" onclick="x">a</a>') == "<a>a</a>"
    assert clean('<a href=" data:text/html,x">a</a>') == "<a>a</a>"
    assert clean('<a href="//x.y">a</a>') == "<a>a</a>"
    assert clean('<a href="05_data_quality.html#x">a</a>') == '<a href="05_data_quality.html#x">a</a>'
    assert clean('<img src="https://x.y/z.png" alt="a">') == "[image left out: a]"
    assert 'alt="Figure without a description"' in clean(f'<img src="data:image/png;base64,{PIXEL}">')
    assert clean('<p style="x" id="main" class="c">a</p>') == '<p class="c">a</p>'


def test_broken_nesting_is_mended():
    assert clean("<p><b>a</p></div>b<i>c") == "<p><b>a</b></p>b<i>c</i>"
    assert clean("<table><tr><td>a").count("</table></div>") == 1


def test_headings_have_one_title_no_gaps_and_unique_ids():
    headings = Headings()
    html = clean("<h2>Title &amp; more</h2><h1>A b</h1><h4>A b</h4><h2></h2>", headings)
    assert headings.title == "Title & more"
    assert html == '<h2 id="a-b">A b</h2><h3 id="a-b-2">A b</h3><h2 id="section"></h2>'


def test_a_table_without_rows_still_has_its_header():
    html = report.table([], columns=["rank", "policy"])._repr_html_()
    assert '<th scope="col">rank</th><th scope="col">policy</th>' in html
