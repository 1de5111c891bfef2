"""Page 07 as its reader has it: the verdict first, all figures where there is an anomaly, no empty one where there is
none."""

from __future__ import annotations

import re
import shutil

import pytest
import yaml

from arena10k import paths
from arena10k.params import config
from arena10k.pipeline import stages

STAGE = "07_pi_bad_anomaly"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The page of the committed notebook, and that of the control alone, made here: a policy whose weights are 1."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARENA10K_HOME", str(home))
        params = config.load("sample")
        executed = stages.executed_file("sample", STAGE)
        executed.parent.mkdir(parents=True)
        shutil.copy(paths.notebook(STAGE), executed)
        stages._render(params, STAGE)
        anomaly = stages.page_file("sample", STAGE).read_text()
        sample = params.model_dump(mode="json", exclude_unset=True)
        sample["policies"] = {name: sample["policies"][name] for name in ("p0", "pi_clone")}
        (home / "control.yaml").write_text(yaml.safe_dump(sample))
        stages.execute(STAGE, str(home / "control.yaml"), None)
        assert paths.result_file("sample", "anomaly.json").is_file()
        yield {"anomaly": anomaly, "clean": stages.page_file("sample", STAGE).read_text()}


def alts(page):
    return re.findall(r'<img [^>]*alt="([^"]*)"', page)


def test_the_verdict_comes_first_and_every_figure_is_there(pages):
    lead = pages["anomaly"].split("<main")[1].split("<h2 id=")[0]
    assert {"pi_bad", "SNIPS"} <= set(re.findall(r"\w+", lead))
    assert len(alts(pages["anomaly"])) == len(set(alts(pages["anomaly"]))) == 8
    assert len(pages["anomaly"]) < 5e6


def test_a_page_without_anomaly_shows_no_empty_figure(pages):
    assert len(set(alts(pages["clean"]))) == 6
    assert len(re.findall("<h2 id=", pages["clean"])) == len(re.findall("<h2 id=", pages["anomaly"])) - 3
