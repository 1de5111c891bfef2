"""Precision and recall of the quality checks on the public sample with planted faults, by kind, place and rate.

    python benchmarks/corruption.py [--data ../shared/data/arena_sample] [--rates 0.077 0.01]

The last line is one JSON object: the figures of every case, and what is set aside on the untouched sample.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from arena10k import paths
from arena10k.audit import screening
from arena10k.collection.jobs import DETERMINISTIC, LOGPROBS, ORACLE, RESPONSES, UNCERTAINTY, contexts
from arena10k.collection.records import Record
from arena10k.collection.store import Store
from arena10k.inputs.policies import policies
from arena10k.params.config import Params
from arena10k.simulation.corruption import GEOMETRIES, KINDS, Planted, plant, score


@dataclass(frozen=True, eq=False)
class Sample:
    """The logged rows of a folder in the layout of CJE, and their log-probs (rows, policies), P0 first."""

    rows: list[dict]
    policies: list[str]
    values: np.ndarray
    chars: np.ndarray
    fresh: dict[str, list[dict]]


def read(folder: Path) -> Sample:
    rows = _lines(folder / "logged_data.jsonl")
    targets = list(rows[0]["target_policy_logprobs"])
    values = [[r["base_policy_logprob"], *(r["target_policy_logprobs"][t] for t in targets)] for r in rows]
    fresh = {t: _lines(folder / "fresh_draws" / f"{t}_responses.jsonl") for t in targets}
    return Sample(rows, ["base", *targets], np.array(values), np.array([len(r["response"]) for r in rows]), fresh)


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def params_of(names: list[str], run: str) -> Params:
    """Params of a run that others made: nothing is ever asked."""
    return Params.model_validate(
        {
            "run": run,
            "logging_policy": names[0],
            "providers": {"others": {"base_url": "http://127.0.0.1:9/v1"}},
            # Equal definitions would make every policy a clone.
            "policies": {name: {"provider": "others", "model": name} for name in names},
            "judge": {"form": "chat", "provider": "others", "model": "judge", "case": "{prompt}{response}"},
            "oracle": {"kind": "model", "grader": {"provider": "others", "model": "oracle", "case": "{response}"}},
            "estimation": {"judge": "deterministic"},
        }
    )


def build(sample: Sample, planted: Planted, run: str, scores: bool = False) -> tuple[Params, Store, pd.DataFrame]:
    """A store of the sample with planted faults; finite numbers are ok records as they came, all else is an error."""
    params = params_of(sample.policies, run)
    current = contexts(params)
    prints = {name: policy.fingerprint for name, policy in policies(params).items()}
    ids = [r["metadata"]["prompt_id"] for r in sample.rows]
    source = [*range(len(ids)), *planted.copies]
    names = [*ids, *(f"{ids[i]}_copy" for i in planted.copies)]
    prompts = pd.DataFrame({"prompt_id": names, "prompt": [sample.rows[i]["prompt"] for i in source]})
    prompts = prompts.assign(category=None, language=None)

    def record(job: str, policy: str, prompt_id: str, value: object) -> Record:
        common = (job, prompt_id, f"{job}-{policy}", policy, 0, prints[policy], current[job, policy])
        if value is None:
            return Record(*common, "error", code="missing")
        if isinstance(value, str) and job != RESPONSES:
            return Record(*common, "error", code="not_finite", detail=value)
        return Record(*common, "ok", value, payload={"variance": 0.0} if job == UNCERTAINTY else {})

    records = []
    for i, prompt_id in zip(source, names, strict=True):
        row = sample.rows[i]
        records.append(record(RESPONSES, sample.policies[0], prompt_id, row["response"]))
        records += [
            record(LOGPROBS, p, prompt_id, cell) for p, cell in zip(sample.policies, planted.cells[i], strict=True)
        ]
        if scores:
            records += _scores(record, sample.policies[0], prompt_id, row)
    for policy, draws in sample.fresh.items() if scores else ():
        for row in draws:
            records.append(record(RESPONSES, policy, row["prompt_id"], row["response"]))
            records += _scores(record, policy, row["prompt_id"], row)
    store = Store.open(paths.store_file(run)).using(current.values())
    store.put_all(records)
    return params, store, prompts


def _scores(record, policy: str, prompt_id: str, row: dict) -> list[Record]:
    label = row.get("oracle_label")
    return [record(DETERMINISTIC, policy, prompt_id, row["judge_score"])] + (
        [] if label is None else [record(ORACLE, policy, prompt_id, label)]
    )


def untouched(sample: Sample) -> Planted:
    """The sample with nothing planted."""
    none = np.zeros(sample.values.shape, dtype=bool)
    return Planted(sample.values.astype(object), none, np.empty(0, dtype=int))


def detect(sample: Sample, planted: Planted, run: str) -> tuple[np.ndarray, Counter, np.ndarray]:
    """Cells (rows, policies) that are set aside, how many by code, and the copies (rows) that are."""
    params, store, prompts = build(sample, planted, run)
    place = {r["metadata"]["prompt_id"]: i for i, r in enumerate(sample.rows)}
    column = {name: k for k, name in enumerate(sample.policies)}
    found, codes = np.zeros(sample.values.shape, dtype=bool), Counter()
    copies = np.zeros(len(sample.rows), dtype=bool)
    bad = [(f.prompt_id, f.policy, f.job, f.code) for f in screening.scan(params, store, prompts)]
    bad += [(r["prompt_id"], r["policy"], r["job"], r["code"]) for r in store.rows() if r["status"] == "error"]
    store.close()
    for prompt_id, policy, job, code in bad:
        codes[code] += 1
        own = place.get(prompt_id)
        if job == LOGPROBS and own is not None:
            found[own, column[policy]] = True
        elif job == RESPONSES:
            copies[place[prompt_id.removesuffix("_copy")]] = True
    return found, codes, copies


def case(sample: Sample, kind: str, geometry: str, rate: float, run: str) -> dict:
    """Precision and recall of one case; `recall_over_20` among responses of more than 20 characters."""
    planted = plant(sample.values, sample.chars, kind, geometry, rate)
    found, codes, copies = detect(sample, planted, run)
    hit = planted.hit
    if len(planted.copies):
        hit, found = np.isin(np.arange(len(copies)), planted.copies)[:, None], copies[:, None]
    long = sample.chars > 20
    over = score(hit[long], found[long])["recall"]
    return (
        {"kind": kind, "geometry": geometry, "rate": rate} | score(hit, found) | {"recall_over_20": over}
        | {"codes": dict(codes)}
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = paths.source_root().parent / "shared" / "data" / "arena_sample"
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.077, 0.01])
    args = parser.parse_args()
    sample = read(args.data)
    with tempfile.TemporaryDirectory() as home:
        import os

        os.environ["ARENA10K_HOME"] = home
        _, codes, _ = detect(sample, untouched(sample), "clean")
        cases = [
            case(sample, kind, geometry, rate, f"case{i}")
            for i, (rate, geometry, kind) in enumerate((r, g, k) for r in args.rates for g in GEOMETRIES for k in KINDS)
        ]
    table = pd.DataFrame(cases)
    print(table.drop(columns="codes").to_string(index=False, float_format="{:.3f}".format))
    print(json.dumps({"clean": dict(codes), "cases": cases}))


if __name__ == "__main__":
    main()
