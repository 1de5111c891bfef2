"""The ablation matrix of a run: its cells, what each is measured on, and what is known of the truth."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from arena10k import paths
from arena10k.ablations import fingerprint
from arena10k.ablations.sweeps import FACTORS, TREATMENTS, Settings, Truth, Variant, summary, sweep, treat
from arena10k.errors import NothingToShow, ParamsError, section
from arena10k.estimation import ESTIMATORS, PolicyData, prompt_fold
from arena10k.estimation.context import PolicyContext, context
from arena10k.estimation.evaluate import PolicyReport, report
from arena10k.estimation.prepare import CALIBRATIONS
from arena10k.estimation.verdicts import estimate_row
from arena10k.frames.records import JUDGE_MODES
from arena10k.frames.table import Table
from arena10k.params.config import Params
from arena10k.report.files import write_json
from arena10k.run import Run

NOTEBOOK = "08_ablation"
#: Labels of a target's own draws that must be left to measure the truth with.
MIN_TRUTH_LABELS = 20


@dataclass(frozen=True)
class Cell:
    """One page: a judge mode, an estimator, a calibration variant and a treatment of corrupted log-probs."""

    judge: str
    estimator: str
    calibration: str
    treatment: str

    @property
    def name(self) -> str:
        """Safe as a folder's name; the parts in the order of the fields."""
        return ".".join((self.judge, self.estimator, self.calibration, self.treatment))

    @property
    def variant(self) -> Variant:
        return Variant(self.estimator, self.calibration)


def stage_name(cell: Cell) -> str:
    """The name of a cell's run of its notebook in the pipeline."""
    return f"{NOTEBOOK}@{cell.name}"


def _chosen(given: str | Sequence[str], known: Iterable[str], key: str, what: str) -> list[str]:
    known = list(known)
    chosen = known if given == "all" else list(given)
    for name in chosen:
        if name not in known:
            raise ParamsError(f"ablations.{key}: no {what} {name!r}: {', '.join(known)}")
    return list(dict.fromkeys(chosen))


def cells(params: Params) -> list[Cell]:
    """The cells of the params' matrix, in its order; none where the params have no `ablations`.

    A combination whose factor cannot change the estimate is left out: another calibration of an estimator on the
    judge's own scale, another treatment of the log-probs of one that uses none.

    Raises
    ------
    ParamsError
        For a name that is not registered.
    """
    if params.ablations is None:
        return []
    a = params.ablations
    judges = _chosen(a.judges, JUDGE_MODES, "judges", "judge mode")
    estimators = _chosen(a.estimators, ESTIMATORS, "estimators", "estimator")
    calibrations = _chosen(a.calibrations, CALIBRATIONS, "calibrations", "calibration")
    treatments = _chosen(a.treatments, TREATMENTS, "treatments", "treatment")
    _chosen(list(a.sweep), FACTORS, "sweep", "factor")
    found = []
    for judge, name, calibration, treatment in itertools.product(judges, estimators, calibrations, treatments):
        estimator = ESTIMATORS[name]
        calibrates = calibration == calibrations[0] or not estimator.judge_scale
        treated = treatment == treatments[0] or estimator.uses_weights
        if calibrates and treated:
            found.append(Cell(judge, name, calibration, treatment))
    return found


def cell_named(params: Params, name: str) -> Cell:
    """The cell with this name, or the first of the matrix for an empty one.

    Raises
    ------
    ParamsError
        Where the matrix has no such cell.
    """
    known = {cell.name: cell for cell in cells(params)}
    if not known:
        raise ParamsError(f"run {params.run!r}: its params have no `ablations`")
    if name and name not in known:
        raise ParamsError(f"no ablation cell {name!r}: {', '.join(list(known)[:5])} ...")
    return known[name or next(iter(known))]


def codes(params: Params) -> dict[str, str]:
    """By cell, the digest of the code in files of estimators that it reaches: its registered functions (estimator,
    calibration, treatment and factors) and the diagnostics of its page."""
    every = cells(params)
    variants = {variant: variant.code() for variant in {cell.variant for cell in every}}
    factors = [FACTORS[name] for name in section(params.ablations, "ablations").sweep] if every else []
    shared = [report, *factors]
    treatments = {name: fingerprint.code_digest(TREATMENTS[name], *shared) for name in {c.treatment for c in every}}
    return {c.name: fingerprint.digest_of(variants[c.variant], treatments[c.treatment]) for c in every}


def folder(run: str, cell: str) -> Path:
    return paths.reports_dir(run) / "ablations" / cell


def held_out(table: Table, worst: Iterable[str] = ()) -> tuple[Table, list[Truth]]:
    """What is known of each target's value, and the table without the labels that measure it.

    Where the run's oracle labels every draw that mean is the truth. Else half of the labels of the target's own draws
    (by hash of the prompt) measure it, if they are enough, and estimators never see them. `worst` names policies that
    are below all others by construction.
    """
    known = table.truth.set_index("policy")
    worst, fresh, found = set(worst), table.fresh, []
    label = fresh.label.copy()
    half = np.array([prompt_fold(f"truth {p}", 2) == 1 for p in fresh.prompt_id.astype(str)], dtype=bool)
    for policy in table.targets:
        if policy in known.index:
            row = known.loc[policy]
            source = f"labels of all {int(row.draws):,} draws"
            found.append(Truth(policy, float(row.value), float(row.se), source, policy in worst))
            continue
        aside = half & (fresh.policy == policy).to_numpy(bool) & fresh.label.notna().to_numpy(bool)
        by_prompt = fresh.label[aside].astype(float).groupby(fresh.prompt_id[aside]).mean()
        if len(by_prompt) < MIN_TRUTH_LABELS:
            told = "no labels of its own draws" if policy not in worst else "its order only: the worst by construction"
            found.append(Truth(policy, None, None, told, policy in worst))
            continue
        label[aside] = np.nan
        source = f"{len(by_prompt)} labels of its own draws that estimators do not see"
        found.append(Truth(policy, float(by_prompt.mean()), float(by_prompt.sem()), source, policy in worst))
    return replace(table, fresh=fresh.assign(label=label)), found


def cell_sentence(run: Run, cell: Cell) -> str:
    """What the cell is, in words."""
    a = section(run.params.ablations, "ablations")
    told = f"{cell.estimator} on scores of the {cell.judge} judge mode, calibration {cell.calibration}"
    treated = " ".join((TREATMENTS[cell.treatment].__doc__ or cell.treatment).split())
    told += f". Log-probs: {cell.treatment}. {treated}"
    if cell.treatment != "recorded":
        told += f" Corrupted: {a.corrupted:.0%} of the rows, the shortest responses."
    levels = [f"{name} {', '.join(f'{v}' for v in some)}" for name, some in a.sweep.items()]
    return told + (f" Swept: {'; '.join(levels)}; {a.seeds} seeds each." if levels else "")


def key_numbers(result: CellResult) -> dict[str, Any]:
    """What the index shows of a cell."""
    names = ("rmse", "coverage", "refused", "misranked")
    means = result.scores[[*names]].mean()
    return {name: round(float(means[name]), 3) for name in names if np.isfinite(means[name])}


def truth_sentence(truth: Sequence[Truth]) -> str:
    """Where the truth of the cells comes from, policy by policy."""
    if not truth:
        return "There is no target policy."
    told = []
    for t in truth:
        value = f"{t.value:.3f} (standard error {t.se:.3f})" if t.value is not None else "not known"
        told.append(f"{t.policy}: {value}, {t.source}")
    return f"The truth that estimates are compared with: {'; '.join(told)}."


@dataclass(frozen=True, eq=False)
class CellResult:
    """What a cell's page shows: rows of estimates on all of the data and the diagnostics beside them, the sweep's rows
    and scores, the truth, how many oracle labels the estimates rest on, and what the sweep took on one core."""

    cell: Cell
    rows: list[dict[str, Any]]
    reports: list[PolicyReport]
    sweep: pd.DataFrame
    scores: pd.DataFrame
    truth: list[Truth]
    labels: int
    seconds: float


def measure(run: Run, cell: Cell, table: Table | None = None) -> CellResult:
    """One cell: the estimates on all of the data, and the sweep over parts of it (finished parts are read back).

    Raises
    ------
    NothingToShow
        Where nothing was scored in the cell's judge mode.
    """
    a, e = section(run.params.ablations, "ablations"), run.params.estimation
    seen, truth = held_out(run.table() if table is None else table, a.worst)
    if not seen.is_judged(cell.judge):
        raise NothingToShow(f"run {run.name!r}: no response has a score of the {cell.judge} judge mode")
    arrays = {p: modes[cell.judge] for p, modes in run.arrays(seen).items() if p != seen.logging_policy}
    arrays = treat(arrays, cell.treatment, a.corrupted)
    settings = Settings(e.analysis, run.params.seed, run.flags)
    rows, reports = complete(arrays, cell, settings)
    levels = {name: [None if level == "all" else level for level in some] for name, some in a.sweep.items()}
    kept = folder(run.name, cell.name) / "sweep"
    frame = sweep(arrays, [cell.variant], levels, a.seeds, settings, kept)
    scores = summary(frame, truth, ["estimator", "calibration", *levels], e.confidence)
    labels = labels_used(arrays, cell, settings, rows)
    return CellResult(cell, rows, reports, frame, scores, truth, labels, frame.attrs["seconds"])


def complete(
    arrays: Mapping[str, PolicyData], cell: Cell, settings: Settings
) -> tuple[list[dict[str, Any]], list[PolicyReport]]:
    """Rows as in estimates.json, of one estimator and calibration on all of the data, and the diagnostics."""
    rows, reports = [], []
    for policy, data in arrays.items():
        ctx = _context(policy, data, cell, settings)
        rows.append({"policy": policy, "judge": cell.judge, **estimate_row(ctx, ESTIMATORS[cell.estimator])})
        reports.append(report(policy, cell.judge, data, ctx))
    return rows, reports


def labels_used(
    arrays: Mapping[str, PolicyData], cell: Cell, settings: Settings, rows: Iterable[Mapping[str, Any]]
) -> int:
    """Oracle labels that the estimates `rows` rest on: those of the logged responses, and those of the targets' own
    draws, are counted where some value or interval would be another without them."""
    if not arrays:
        return 0
    numbers, used = [[row[name] for name in _NUMBERS] for row in rows], 0
    for kind, count in (("label", max), ("fresh_label", sum)):
        labels = {policy: getattr(data, kind) for policy, data in arrays.items()}
        without = {p: replace(data, **{kind: np.full_like(labels[p], np.nan)}) for p, data in arrays.items()}
        if [_numbers(p, data, cell, settings) for p, data in without.items()] != numbers:
            used += count(int(np.isfinite(some).sum()) for some in labels.values())
    return used


_NUMBERS = ("value", "ci_low", "ci_high")


def _numbers(policy: str, data: PolicyData, cell: Cell, settings: Settings) -> list[float | None]:
    row = estimate_row(_context(policy, data, cell, settings), ESTIMATORS[cell.estimator], plan=False)
    return [row[name] for name in _NUMBERS]


def _context(policy: str, data: PolicyData, cell: Cell, settings: Settings) -> PolicyContext:
    analysis = replace(settings.analysis, calibration=cell.calibration)
    return context(data, analysis, (settings.flags or {}).get(policy, ()))


def write(run: Run, result: CellResult) -> None:
    """Write the cell's `estimates.json`, which is the same for the same data, and its `timing.json`, which is not."""
    own = folder(run.name, result.cell.name)
    content = {
        "run": run.name,
        "cell": result.cell.name,
        **asdict(result.cell),
        "corrupted": section(run.params.ablations, "ablations").corrupted,
        "labels": result.labels,
        "truth": [asdict(t) for t in result.truth],
        "rows": result.rows,
        "scores": result.scores.to_dict("records"),
    }
    write_json(own / "estimates.json", content)
    write_json(own / "timing.json", {"seconds": round(result.seconds, 2)})
