"""Results of the committed sample as they were frozen in tests/golden: `make golden` freezes them anew and prints what
changed. A result is a table of named rows; sentences are not in it."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

from arena10k import Run, incident
from arena10k.attribution import words
from arena10k.audit import checks, consistency, quality, screening
from arena10k.report.files import plain
from arena10k.rescoring import effect

FOLDER = Path(__file__).parent / "golden"
TOLERANCE = 1e-9
#: Changes of one result that are printed one by one; more are summed up by column.
MOST_LINES = 40
#: What tells a row from the others, in the order in which it is named.
NAMES = ("geometry", "step", "case", "population", "check", "job", "judge", "policy", "estimator", "cause")
NAMES += ("published_above", "trusted_above", "a", "b")
LEFT_OUT = {"run", "clean_run", "clean", "created", "paragraph", "sentence", "quarantined"}
Rows = dict[str, dict[str, Any]]


def _quality(run: Run) -> Any:
    flags = screening.scan(run.params, run.store)
    failed = effect.failures(run)
    return quality.report(run.params, run.store, flags, len(run.prompts)) | {
        "checks": checks.measure(run.params, run.table(), run.store),
        "findings": consistency.findings(run.params, run.store, flags, run.prompts),
        "missing": effect.randomness(failed, list(run.params.policies)),
        "effect": effect.measure(run, failed),
    }


def _simulation(run: Run) -> Any:
    estimation = run.params.estimation.model_copy(update={"replicates": 5})
    few = Run(run.params.model_copy(update={"estimation": estimation}))
    return {"rows": few.simulate(few.table())}


def _incident(_: Run) -> Any:
    run = Run("incident")
    played = [incident.play(run, geometry, replicates=50) for geometry in incident.GEOMETRIES]
    return incident.incident_json(run, played)


RESULTS = {
    "estimates": lambda run: run.estimates(run.table()),
    "quality": _quality,
    "anomaly": lambda run: words.anomaly_json(run.investigate(run.table())),
    "simulation": _simulation,
    "incident": _incident,
}


def computed(name: str) -> Rows:
    """The rows of a result as the library computes them now."""
    return rows(plain(RESULTS[name](Run("sample"))))


def frozen(name: str) -> Rows:
    path = FOLDER / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def rows(content: dict[str, Any], head: str = "") -> Rows:
    """Lists of objects within `content` as named rows; what stands outside of them is the row `head`."""
    own: dict[str, Any] = {}
    named: Rows = {}

    def add(fields: dict[str, Any], prefix: str) -> None:
        for key, value in fields.items():
            if key in LEFT_OUT or (key in NAMES and head):
                continue
            if isinstance(value, dict):
                add(value, f"{prefix}{key}.")
            elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
                for i, item in enumerate(value):
                    names = [str(item[name]) for name in NAMES if name in item] or [str(i)]
                    for name, row in rows(item, f"{head} {prefix}{key} {' '.join(names)}".strip()).items():
                        if name in named:
                            raise ValueError(f"two rows are named {name!r}: give NAMES what tells them apart")
                        named[name] = row
            else:
                own[prefix + key] = value

    add(content, "")
    return {head or "all": own} | named if own else named


def same(old: Any, new: Any) -> bool:
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(same, old, new))
    if isinstance(old, float) or isinstance(new, float):
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (old, new))
        return numbers and math.isclose(old, new, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return type(old) is type(new) and old == new


def changes(old: Rows, new: Rows) -> list[tuple[str, str, Any, Any]]:
    """Row, column, old and new value of what differs; a row or column that is not there counts as None."""
    cells = dict.fromkeys((row, column) for side in (old, new) for row in side for column in side[row])
    both = ((row, column, old.get(row, {}).get(column), new.get(row, {}).get(column)) for row, column in cells)
    return [change for change in both if not same(*change[2:])]


def told(changed: list[tuple[str, str, Any, Any]]) -> list[str]:
    """The changes in lines: each, or where they are many, how many there are of each column and the largest."""

    def text(value: Any) -> str:
        return f"{value:.9g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)

    if len(changed) <= MOST_LINES:
        return [f"{row}: {column} {text(old)} -> {text(new)}" for row, column, old, new in changed]
    columns = defaultdict(list)
    for row, column, old, new in changed:
        numbers = all(isinstance(v, int | float) for v in (old, new))
        distance = abs(new - old) if numbers else math.inf
        columns[row.split()[0], column].append((distance, f"{row} {text(old)} -> {text(new)}"))
    return [f"{table}: {column} in {len(of)} rows, such as {max(of)[1]}" for (table, column), of in columns.items()]


def write(name: str, result: Rows) -> None:
    def short(value: Any) -> Any:
        if isinstance(value, list):
            return [short(item) for item in value]
        return float(f"{value:.12g}") if isinstance(value, float) else value

    lines = [
        f"{json.dumps(row)}: {json.dumps({k: short(v) for k, v in fields.items()}, ensure_ascii=False)}"
        for row, fields in result.items()
    ]
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def main() -> None:
    for name in RESULTS:
        old, new = frozen(name), computed(name)
        changed = changes(old, new)
        print(f"{name}: {len(changed)} of {sum(map(len, new.values()))} values changed")
        print(*(f"  {line}\n" for line in told(changed) if old), sep="", end="")
        if changed:
            write(name, new)


if __name__ == "__main__":
    main()
