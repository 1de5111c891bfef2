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

RANDOM_JOBS = (LOGPROBS, DETERMINISTIC, UNCERTAINTY, ORACLE)
AFTER = ("05_data_quality", "06_estimates", "07_pi_bad_anomaly", "09_ablation_summary")


def is_drawn(record):
    """Half of the log-probs, judge scores and labels, each drawn by itself."""
    return unit_hash("half", record.job, record.policy, record.prompt_id, record.draw) < 0.5


PARTS = {
    "half at random": lambda r: r.job not in RANDOM_JOBS or is_drawn(r),
    "no judge, no pi_cot": lambda r: r.job not in (DETERMINISTIC, UNCERTAINTY) and r.policy != "pi_cot",
    "no label, no logging log-probs": lambda r: (
        r.job not in (ORACLE, "truth") and (r.job, r.policy) != (LOGPROBS, "p0")
    ),
    "no log-prob": lambda r: r.job not in (LOGPROBS, SHUFFLED),
}


@pytest.mark.parametrize("part", PARTS)
def test_counts_are_those_of_what_is_there(home, part):
    there = []

    def keep(record):
        if PARTS[part](record):
            there.extend([(record.job, record.policy, record.prompt_id)] * (record.status == "ok"))
            return record
        return None

    run = copied(home, keep)
    counts, by_job = Counter((job, policy) for job, policy, _ in there), Counter(job for job, _, _ in there)
    forced = Counter(prompt for job, _, prompt in there if job == LOGPROBS)
    everything = sum(n == len(run.params.policies) for n in forced.values())
    found = status.coverage(run.params, run.store)
    assert found["rows_with_all_logprobs"] == everything
    assert found["sentence"].startswith(f"{everything:,}/120 rows have all target log-probs ({everything / 120:.0%})")
    assert {job: cell["ok"] for job, cell in found["jobs"].items()} == {job: by_job[job] for job in found["jobs"]}
    assert all(counts[job, policy] == 0 for job, policies in found["absent"].items() for policy in policies)
    result = quality.report(run.params, run.store, screening.scan(run.params, run.store), 120)
    due = {(j["job"], j["policy"]): j["ok"] for j in result["jobs"]}
    assert due == {key: counts[key] for key in due}
    table = run.table()
    logged = set(table.logged.prompt_id)
    scored = {p: {prompt for job, name, prompt in there if (job, name) == (LOGPROBS, p)} for p in run.params.policies}
    for policy, prompts in scored.items():
        assert table.logged[f"logp_{policy}"].notna().sum() == len(logged & prompts)
        assert table.missing[policy] == len(table.logged) - len(logged & prompts & scored["p0"])
    assert table.logged.judge_uncertainty.notna().sum() == counts[UNCERTAINTY, "p0"]
    assert table.logged.label.notna().sum() == counts[ORACLE, "p0"]
    rows = run.study(table, estimators=["ips", "snips"]).rows
    assert {row["policy"] for row in rows} == set(run.params.policies)
    for row in rows:
        usable = len(table.logged) - table.missing[row["policy"]]
        assert row["n_used"] <= usable
        assert usable or (row["verdict"], row["value"]) == ("NOT_ASKED", None)


def test_every_stage_after_collection_runs_on_half_of_the_data_without_a_policy(home, capsys):
    part = PARTS["half at random"]
    run = copied(home, lambda record: record if part(record) and record.policy != "pi_cot" else None)
    run.store.close()
    for stage in AFTER:
        run_cells(stage, home / "copy.yaml")
    assert status.coverage(run.params, status.open_store(run.params))["sentence"] in capsys.readouterr().out
    anomaly = json.loads(paths.result_file("copy", "anomaly.json").read_text())
    assert {p["policy"] for p in anomaly["policies"]} == set(run.params.policies)
