"""Findings about the whole set reach verdicts: log-probs that are no sums, of other rows, or no log-probs at all."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from arena10k.audit import screening
from arena10k.cli import main
from arena10k.estimation import logprobs, outliers
from arena10k.estimation.verdicts import REFUSE, REPORT
from arena10k.run import Run

WEIGHTED = ("ips", "snips", "psis", "calibrated_ips", "dr_oracle")
KINDS = {
    "sums": lambda values, tokens, rng: values,
    "means": lambda values, tokens, rng: values / tokens[:, None],
    "probabilities": lambda values, tokens, rng: np.exp(values),
    "positive": lambda values, tokens, rng: -values,
    "rows of others": lambda values, tokens, rng: np.column_stack([values[:, 0], rng.permutation(values[:, 1])]),
    "swapped": lambda values, tokens, rng: values[:, ::-1],
}


def population(n, kind="sums", seed=0):
    """Responses of 4 to 200 tokens with the sums of their token log-probs under p0 and pi, whose weights have a mean of
    1, or what `kind` makes of them."""
    rng = np.random.default_rng(seed)
    tokens = np.clip(rng.lognormal(4, 0.8, n), 4, 200).astype(int)
    base = -tokens * np.exp(0.4 * rng.normal(size=n)) * 0.6
    z = rng.normal(size=n)
    values = np.minimum(np.column_stack([base, base + 0.6 * z - 0.18]), -1e-3)
    outcome = np.clip(0.5 + 0.15 * z + 0.1 * rng.normal(size=n), 0, 1)
    return tokens, KINDS[kind](values, tokens, rng), outcome


def write_jsonl(folder, kind, n=300):
    tokens, values, outcome = population(n, kind)
    rows = [
        {"id": f"q{i}", "question": f"Question {i}?", "answer": f"{i:03d} " * int(tokens[i]), "score": outcome[i]}
        | {"label": outcome[i] if i % 2 else None, "base": values[i, 0], "pi": values[i, 1]}
        for i in range(n)
    ]
    (folder / "logged.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "mine.yaml").write_text(
        "run: mine\nimported:\n  judge_scale: [0, 1]\n  oracle_scale: [0, 1]\n  tables:\n    - path: logged.jsonl\n"
        "      columns: {prompt_id: id, prompt: question, response: answer, judge: score, label: label,"
        " logprobs: {base: base, pi: pi}}\n"
    )


def imported(home, monkeypatch, kind):
    write_jsonl(home, kind)
    monkeypatch.chdir(home)
    told = CliRunner().invoke(main, ["import", "table", "mine.yaml"])
    assert told.exit_code == 0, told.output
    return Run(home / "mine.yaml")


def given(home, kind, **columns):
    tokens, values, outcome = population(300, kind)
    frame = pd.DataFrame({"prompt_id": [f"q{i}" for i in range(300)], "logp_p0": values[:, 0], "logp_pi": values[:, 1]})
    frame = frame.assign(judge_deterministic=outcome, label=np.where(np.arange(300) % 2, outcome, np.nan), **columns)
    if not columns:
        frame["response_chars"] = 4.0 * tokens
    frame.to_parquet(home / "a.parquet")
    (home / "given.yaml").write_text(
        "run: given\nproviders: {}\npolicies: {}\ntable: {logged: a.parquet}\nestimation: {judge: deterministic}\n"
    )
    return Run(home / "given.yaml")


def weighted(run):
    rows, wanted = run.study(run.table()).rows, ("pi", run.params.estimation.judge)
    return {r["estimator"]: r for r in rows if (r["policy"], r["judge"]) == wanted and r["estimator"] in WEIGHTED}


def test_sums_are_reported_by_both_ways_in_and_means_where_no_lengths_are_told(home, monkeypatch):
    for run in (imported(home, monkeypatch, "sums"), given(home, "sums")):
        assert run.facts == {}
        assert weighted(run)["snips"]["verdict"] == REPORT
    assert given(home, "means", category="any").facts == {}


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("means", "logprobs_not_summed"), ("rows of others", "no_agreement"), ("swapped", "likelier_than_p0")],
)
def test_what_the_whole_set_shows_refuses_all_that_rests_on_weights(home, monkeypatch, kind, reason):
    for run in (imported(home, monkeypatch, kind), given(home, kind)):
        assert reason in run.facts["pi"]
        for row in weighted(run).values():
            assert row["verdict"] in (REFUSE, "NOT_ASKED")
            assert reason in row["reasons"] or row["verdict"] == "NOT_ASKED"
        finding = run.investigate(run.table()).policies["pi"]
        assert finding.trusted is None
        assert reason in finding.estimate["reasons"]
        assert run.estimate("pi", "snips").frame.verdict.tolist() == [REFUSE]


@pytest.mark.parametrize("kind", ["probabilities", "positive"])
def test_what_is_no_log_prob_gives_no_weight_and_is_named(home, monkeypatch, kind):
    run = imported(home, monkeypatch, kind)
    flags = screening.scan(run.params, run.store, run.prompts)
    screening.quarantine(run.store, flags)
    assert {flag.code for flag in flags} <= {"positive", "constant"}
    table = run.table()
    assert not np.isfinite(table.log_weights()["pi"]).any()
    assert {row["verdict"] for row in weighted(run).values()} == {REFUSE}
    assert not np.isfinite(given(home, kind).table().log_weights()["pi"]).any()


def test_what_is_wrong_with_the_logging_policys_half_is_wrong_with_every_weight():
    tokens, values, _ = population(300)
    mixed = np.column_stack([values[:, 0] / tokens, values])
    found = logprobs.weight_facts(mixed, 4.0 * tokens, ["p0", "a", "b"], 0)
    assert all("logprobs_not_summed" in found[name] for name in ("p0", "a", "b"))


def test_sums_raise_no_alarm_also_where_long_texts_are_likely_and_lengths_alike():
    """2,000 responses, at rates of .03 to 2 nats a token, growing as length to the powers .4 to 1; cut at 30 tokens."""
    rng = np.random.default_rng(5)
    found = []
    for rate, power, most in ((0.6, 1, 900), (0.03, 1, 900), (0.3, 0.7, 900), (2, 0.4, 900), (0.6, 1, 30)):
        for _ in range(8):
            tokens = np.clip(rng.lognormal(4, 0.8, 2000), 2, most).astype(int)
            base = -rate * np.exp(0.4 * rng.normal(size=2000)) * tokens**power
            values = np.column_stack([base, np.minimum(base + 0.8 * rng.normal(size=2000) - 0.32, -1e-3)])
            found += logprobs.set_tests(values, tokens * rng.normal(4.2, 0.4, 2000), 0)
    assert found == []


def test_likelier_than_the_author_holds_for_rare_losses_and_noise():
    """The target avoids one response in a thousand: 500 rows without it look likelier, by a factor a real policy may
    have. Noise about 0 is no likelihood either."""
    rng = np.random.default_rng(2)
    assert outliers.likelier_p(np.full(500, -np.log(0.999))) > 0.5
    assert min(outliers.likelier_p(rng.normal(0, 0.5, 1000)) for _ in range(200)) > 1e-4
    assert outliers.likelier_p(rng.normal(0.5, 1, 200)) < 1e-6
