"""Page 07 as its reader has it: the verdict first, all figures where there is an anomaly, no empty one where there is
none."""

from __future__ import annotations

import re

import pytest
import yaml

from arena10k import paths
from arena10k.params import config
from arena10k.pipeline import stages

STAGE = "07_pi_bad_anomaly"
#: How the text alternatives of the figures begin, A to H, and that of the distribution mismatch.
ALTS = [
    "Judge score against log-weight",
    "Bars of ESS and mean weight",
    "Histograms of the value under shuffled weights",
    "Waterfall from SNIPS on judge scores to the trusted",
    "Self-normalised value of pi_bad against",
    "Intervals of pi_bad side by side",
    "Share of weight by response length",
    "Effective sample size against rows at the ceiling",
    "Length of each policy's own responses",
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The page of the recording, and that of its control alone: a policy whose weights are 1."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARENA10K_HOME", str(home))
        sample = config.load("sample").model_dump(mode="json", exclude_unset=True)
        sample["policies"] = {name: sample["policies"][name] for name in ("p0", "pi_clone")}
        (home / "control.yaml").write_text(yaml.safe_dump(sample))
        found = {}
        for params_file in ("sample", str(home / "control.yaml")):
            stages.execute(STAGE, params_file, None)
            page = stages.page_file("sample", STAGE)
            found["anomaly" if params_file == "sample" else "clean"] = page.rename(page.with_stem(f"page{len(found)}"))
        assert paths.result_file("sample", "anomaly.json").is_file()
        yield found


def alts(page) -> list[str]:
    return re.findall(r'<img [^>]*alt="([^"]*)"', page.read_text())


def test_the_verdict_comes_first_and_every_figure_is_there(pages):
    text = pages["anomaly"].read_text()
    assert text.index("pi_bad ranks first of 6 by SNIPS") < text.index("<h2 id=")
    shown = alts(pages["anomaly"])
    assert [a for a in ALTS if not any(s.startswith(a.replace("'", "&#x27;")) for s in shown)] == []
    assert pages["anomaly"].stat().st_size < 5e6


def test_a_run_without_anomaly_says_so_and_shows_no_empty_figure(pages):
    text = pages["clean"].read_text()
    assert text.index("No anomaly is shown:") < text.index("<h2 id=")
    for heading in ("Where the gap comes from", "Whether shrinking", "Which logged responses"):
        pattern = rf"<h2[^>]*>{heading}"
        assert re.search(pattern, pages["anomaly"].read_text())
        assert not re.search(pattern, text)
    for words in ("Waterfall", "Intervals of", "Self-normalised value"):
        assert not any(alt.startswith(words) for alt in alts(pages["clean"]))
