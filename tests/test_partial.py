"""Partial data is normal: every stage after collection runs on what is there and says how much that is."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from arena10k import paths
from arena10k.audit import quality, screening, status
from arena10k.collection.jobs import DETERMINISTIC, LOGPROBS, ORACLE, SHUFFLED, UNCERTAINTY
from arena10k.inputs.policies import unit_hash
from in_process import run_cells
from sample_copy import copied

POLICIES = 6
RANDOM_JOBS = (LOGPROBS, DETERMINISTIC, UNCERTAINTY, ORACLE)
AFTER = ("05_data_quality", "06_estimates", "07_pi_bad_anomaly", "09_ablation_summary")


def kept_at_random(record):
    """Half of the log-probs, judge scores and labels, each drawn by itself."""
    drawn = unit_hash("half", record.job, record.policy, record.prompt_id, record.draw)
    return record if record.job not in RANDOM_JOBS or drawn < 0.5 else None


def without(policy):
    return lambda record: record if record.policy != policy else None


def without_job(*jobs):
    return lambda record: record if record.job not in jobs else None


PARTS = {
    "half at random": kept_at_random,
    "no pi_cot": without("pi_cot"),
    "no logging log-probs": lambda r: r if (r.job, r.policy) != (LOGPROBS, "p0") else None,
    "no judge": without_job(DETERMINISTIC, UNCERTAINTY),
    "no label": without_job(ORACLE, "truth"),
    "no log-prob": without_job(LOGPROBS, SHUFFLED),
}


@pytest.mark.parametrize("part", PARTS)
def test_counts_are_those_of_what_is_there(home, part):
    kept = []

    def keep(record):
        out = PARTS[part](record)
        if out is not None and out.status == "ok":
            kept.append((out.job, out.policy, out.prompt_id))
        return out

    run = copied(home, keep)
    counts = Counter((job, policy) for job, policy, _ in kept)
    forced = Counter(prompt for job, _, prompt in kept if job == LOGPROBS)
    everything = sum(n == POLICIES for n in forced.values())
    found = status.coverage(run.params, run.store)
    assert found["rows_with_all_logprobs"] == everything
    assert found["sentence"].startswith(f"{everything:,}/120 rows have all target log-probs ({everything / 120:.0%})")
    by_job = Counter(job for job, _, _ in kept)
    assert {job: cell["ok"] for job, cell in found["jobs"].items()} == {job: by_job[job] for job in found["jobs"]}
    gone = {(job, p) for job, policies in found["absent"].items() for p in policies}
    assert all(counts[key] == 0 for key in gone)
    result = quality.report(run.params, run.store, screening.scan(run.params, run.store), 120)
    due = {(j["job"], j["policy"]): j["ok"] for j in result["jobs"]}
    assert due == {key: counts[key] for key in due}
    table = run.table()
    logged = set(table.logged.prompt_id)
    base = {p for job, name, p in kept if (job, name) == (LOGPROBS, "p0")}
    for policy in run.params.policies:
        scored = logged & {p for job, name, p in kept if (job, name) == (LOGPROBS, policy)}
        assert table.logged[f"logp_{policy}"].notna().sum() == len(scored)
        assert table.missing[policy] == len(table.logged) - len(scored & base)
    assert table.logged.judge_uncertainty.notna().sum() == counts[UNCERTAINTY, "p0"]
    assert table.logged.label.notna().sum() == counts[ORACLE, "p0"]
    rows = run.estimates(table)["rows"]
    assert {r["policy"] for r in rows} == set(run.params.policies)
    for row in (r for r in rows if r["estimator"] in ("ips", "snips")):
        usable = len(table.logged) - table.missing[row["policy"]]
        assert row["n_used"] <= usable
        assert usable or (row["verdict"], row["value"]) == ("NOT_ASKED", None)


def test_every_stage_after_collection_runs_on_half_of_the_data_without_a_policy(home, capsys):
    run = copied(home, lambda record: kept_at_random(record) and without("pi_cot")(record))
    run.store.close()
    for stage in AFTER:
        run_cells(stage, home / "copy.yaml")
    assert status.coverage(run.params, status.open_store(run.params))["sentence"] in capsys.readouterr().out
    anomaly = json.loads(paths.result_file("copy", "anomaly.json").read_text())
    assert {p["policy"] for p in anomaly["policies"]} == set(run.params.policies)
