"""Precision and recall of the quality checks on the public sample with planted faults, by kind, place and rate.

    python benchmarks/corruption.py [--data ../shared/data/arena_sample] [--rates 0.077 0.01]

The last line is one JSON object: the figures of every case, and what is set aside on the untouched sample.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Callable
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

#: Where faults strike: rows drawn anew for every policy, or the shortest responses, the same for all policies.
GEOMETRIES = ("independent", "short")

#: A kind of fault: (values (rows, policies), rows, policy k, random stream) -> what stands in the values' place.
Fault = Callable[[np.ndarray, np.ndarray, int, np.random.Generator], np.ndarray]


@dataclass(frozen=True, eq=False)
class Planted:
    """A table with faults: `cells` (rows, policies) of numbers, None or text, `hit` True where a cell was changed,
    `copies` the rows that are to stand twice."""

    cells: np.ndarray
    hit: np.ndarray
    copies: np.ndarray


def _constant(value: object) -> Fault:
    return lambda values, rows, k, rng: np.full(len(rows), value, dtype=object)


def _truncated(values: np.ndarray, rows: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    # The same part of a response for every policy: what was cut off was cut off for all.
    part = np.random.default_rng(rows.sum()).uniform(0.1, 0.7, len(rows))
    return np.asarray((values[rows, k] * part).astype(object))


def _swapped(values: np.ndarray, rows: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(values[rows, values.shape[1] - 1 - k].astype(object))


def _shifted(values: np.ndarray, rows: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(values[(rows + 1) % len(values), k].astype(object))


def _incident(values: np.ndarray, rows: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    return np.full(len(rows), 0.0 if k else -50.0, dtype=object)


#: Kind of fault: what stands in the place of the values of policy k on `rows`.
KINDS: dict[str, Fault] = {
    "-50.0": _constant(-50.0),
    "0.0": _constant(0.0),
    "-100.0": _constant(-100.0),
    "unlisted sentinel": _constant(-17.3),
    "-50.0 and 0.0": _incident,
    "NaN string": _constant("NaN"),
    "null": _constant(None),
    "positive": lambda values, rows, k, rng: (rng.exponential(5, len(rows)) + 0.01).astype(object),
    "truncated": _truncated,
    "swapped policies": _swapped,
    "shifted rows": _shifted,
    "duplicated rows": lambda values, rows, k, rng: values[rows, k].astype(object),
}


def plant(values: np.ndarray, chars: np.ndarray, kind: str, geometry: str, rate: float) -> Planted:
    """Plant one kind of fault at `rate` of the rows (the nearest whole number of rows, at least one).

    Parameters
    ----------
    values : (rows, policies) clean log-probs in nats, the logging policy first.
    chars : (rows,) length of the responses; the shortest are struck in the geometry "short".
    kind : a key of `KINDS`. Swapped: the first policy's value for the last one's and the other way
        round, and so on inwards, on the same rows. Shifted: the value of the next row.
        "-50.0 and 0.0": the first policy's value is -50.0, all others' 0.0.
    """
    rng = np.random.default_rng(0)
    n, k = values.shape
    size = max(round(rate * n), 1)
    shortest = np.argsort(chars, kind="stable")[:size]
    cells, hit = values.astype(object), np.zeros((n, k), dtype=bool)
    copies = np.empty(0, dtype=int)
    drawn = [np.sort(rng.choice(n, size, replace=False)) for _ in range(k)]
    for policy in range(k):
        partner = min(policy, k - 1 - policy) if kind == "swapped policies" else policy
        rows = np.sort(shortest) if geometry == "short" else drawn[partner]
        if kind == "duplicated rows":
            copies = rows
            break
        cells[rows, policy] = KINDS[kind](values, rows, policy, rng)
        hit[rows, policy] = [new != old for new, old in zip(cells[rows, policy], values[rows, policy], strict=True)]
    return Planted(cells, hit, copies)


def score(hit: np.ndarray, found: np.ndarray) -> dict[str, float | int | None]:
    """Planted, found, both, precision and recall (None where nothing was found or planted)."""
    planted, told, both = int(hit.sum()), int(found.sum()), int((hit & found).sum())
    return {
        "planted": planted,
        "found": told,
        "right": both,
        "precision": both / told if told else None,
        "recall": both / planted if planted else None,
    }


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
