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
from arena10k.ablations.factors import FACTORS, TREATMENTS, Data, treat
from arena10k.ablations.scores import Truth, summary
from arena10k.ablations.sweep import Settings, Variant, sweep
from arena10k.errors import NothingToShow, ParamsError, section
from arena10k.estimation import ESTIMATORS, prompt_fold
from arena10k.estimation.calibration import CALIBRATIONS
from arena10k.estimation.context import PolicyContext, context
from arena10k.estimation.verdicts import estimate_row
from arena10k.frames.table import Table
from arena10k.params.config import Params
from arena10k.report.files import write_json
from arena10k.run import Run

NOTEBOOK = "08_ablation"
#: Labels of a target's own draws that must be left to measure the truth with.
MIN_TRUTH_LABELS = 20


@dataclass(frozen=True)
class Cell:
    """One page: a judge, an estimator, a calibration variant and a treatment of corrupted log-probs."""

    judge: str
    estimator: str
    calibration: str
    treatment: str

    @property
    def name(self) -> str:
        """Safe as a folder's name; the parts in the order of the fields."""
        return ".".join((self.judge, self.estimator, self.calibration, self.treatment))

    @property
    def stage(self) -> str:
        """What the run of its notebook in the pipeline is called."""
        return f"{NOTEBOOK}@{self.name}"


def folder(run: str, cell: str) -> Path:
    return paths.reports_dir(run) / "ablations" / cell


def cells(params: Params) -> list[Cell]:
    """The cells of the params' matrix, in its order; none where the params have no `ablations`. Raises ParamsError for
    a name that is not registered.

    A combination whose factor cannot change the estimate is left out: another calibration of an estimator on the
    judge's own scale, another treatment of the log-probs of one that uses none.
    """
    if params.ablations is None:
        return []
    registries: dict[str, tuple[str, Iterable[str]]] = {
        "judges": ("judge", params.judge_names),
        "estimators": ("estimator", ESTIMATORS),
        "calibrations": ("calibration", CALIBRATIONS),
        "treatments": ("treatment", TREATMENTS),
        "sweep": ("factor", FACTORS),
    }
    chosen = {}
    for key, (kind, registered) in registries.items():
        given = getattr(params.ablations, key)
        chosen[key] = list(dict.fromkeys(registered if given == "all" else given))
        for name in chosen[key]:
            if name not in registered:
                raise ParamsError(f"ablations.{key}: no {kind} {name!r}: {', '.join(registered)}")
    del chosen["sweep"]
    first = {key: names[0] for key, names in chosen.items()}
    return [
        cell
        for cell in itertools.starmap(Cell, itertools.product(*chosen.values()))
        if (cell.calibration == first["calibrations"] or not ESTIMATORS[cell.estimator].judge_scale)
        and (cell.treatment == first["treatments"] or ESTIMATORS[cell.estimator].uses_weights)
    ]


def cell_named(params: Params, name: str) -> Cell:
    """The cell with this name, or the first of the matrix for an empty one. Raises ParamsError where there is none."""
    by_name = {cell.name: cell for cell in cells(params)}
    if not by_name:
        raise ParamsError(f"run {params.run!r}: its params have no `ablations`")
    if name and name not in by_name:
        raise ParamsError(f"no ablation cell {name!r}: {', '.join(list(by_name)[:5])} ...")
    return by_name[name or next(iter(by_name))]


def measured(table: Table, worst: Iterable[str] = ()) -> list[Truth]:
    """The values of policies all of whose draws are labelled; empty where the run's oracle labels a slice only."""
    return [
        Truth(r.policy, float(r.value), float(r.se), f"labels of all {r.draws:,} draws", r.policy in set(worst))
        for r in table.truth.itertuples()
    ]


def held_out(table: Table, worst: Iterable[str] = ()) -> tuple[Table, list[Truth]]:
    """What is known of each target's value, and the table without the labels that measure it.

    Where the run's oracle labels every draw that mean is the truth. Else half of the labels of the target's own draws
    (by hash of the prompt) measure it, if they are enough, and estimators never see them. `worst` names policies that
    are below all others by construction.
    """
    by_policy, fresh, truth = {t.policy: t for t in measured(table, worst)}, table.fresh, []
    label = fresh.label.copy()
    half = np.array([prompt_fold(f"truth {p}", 2) == 1 for p in fresh.prompt_id.astype(str)], dtype=bool)
    for policy in table.targets:
        if policy in by_policy:
            truth.append(by_policy[policy])
            continue
        hidden = half & (fresh.policy == policy).to_numpy(bool) & fresh.label.notna().to_numpy(bool)
        by_prompt = fresh.label[hidden].astype(float).groupby(fresh.prompt_id[hidden]).mean()
        value = se = None
        source = "its order only: the worst by construction" if policy in worst else "no labels of its own draws"
        if len(by_prompt) >= MIN_TRUTH_LABELS:
            label[hidden] = np.nan
            source = f"{len(by_prompt)} labels of its own draws that estimators do not see"
            value, se = float(by_prompt.mean()), float(by_prompt.sem())
        truth.append(Truth(policy, value, se, source, policy in worst))
    return replace(table, fresh=fresh.assign(label=label)), truth


def truth_sentence(truth: Sequence[Truth]) -> str:
    """Where the truth of the cells comes from, policy by policy."""
    if not truth:
        return "There is no target policy."
    values = ("not known" if t.value is None else f"{t.value:.3f} (standard error {t.se:.3f})" for t in truth)
    parts = [f"{t.policy}: {value}, {t.source}" for t, value in zip(truth, values, strict=True)]
    return f"The truth that estimates are compared with: {'; '.join(parts)}."


def cell_sentence(run: Run, cell: Cell) -> str:
    """What the cell is, in words."""
    a = section(run.params.ablations, "ablations")
    treated = " ".join((TREATMENTS[cell.treatment].__doc__ or cell.treatment).split())
    text = f"{cell.estimator} on scores of the judge {cell.judge}, calibration {cell.calibration}"
    text += f". Log-probs: {cell.treatment}. {treated}"
    if cell.treatment != "recorded":
        text += f" Corrupted: {a.corrupted:.0%} of the rows, the shortest responses."
    levels = [f"{name} {', '.join(map(str, some))}" for name, some in a.sweep.items()]
    return text + (f" Swept: {'; '.join(levels)}; {a.seeds} seeds each." if levels else "")


@dataclass(frozen=True, eq=False)
class CellResult:
    """What a cell's page shows: rows of estimates on all of the data and the diagnostics beside them, the scores of the
    sweep, the truth, how many oracle labels the estimates rest on, and what the sweep took on one core."""

    cell: Cell
    rows: list[dict[str, Any]]
    contexts: list[PolicyContext]
    scores: pd.DataFrame
    truth: list[Truth]
    labels: int
    seconds: float

    def key_numbers(self) -> dict[str, Any]:
        """What the index shows of a cell."""
        means = self.scores[["rmse", "coverage", "refused", "misranked"]].mean().dropna()
        return {str(name): round(float(value), 3) for name, value in means.items()}


def measure(run: Run, cell: Cell, table: Table | None = None) -> CellResult:
    """One cell: the estimates on all of the data, and the sweep over parts of it (finished parts are read back). Raises
    NothingToShow where nothing was scored in the cell's judge."""
    a, e = section(run.params.ablations, "ablations"), run.params.estimation
    seen, truth = held_out(run.table() if table is None else table, a.worst)
    if not seen.is_judged(cell.judge):
        raise NothingToShow(f"run {run.name!r}: no response has a score of the judge {cell.judge}")
    arrays = {p: judges[cell.judge] for p, judges in run.arrays(seen).items() if p != seen.logging_policy}
    arrays = treat(arrays, cell.treatment, a.corrupted)
    settings = Settings(e.analysis, run.params.seed, run.facts)
    rows, contexts = complete(arrays, cell, settings)
    levels = {name: [None if level == "all" else level for level in some] for name, some in a.sweep.items()}
    variant = Variant(cell.estimator, cell.calibration)
    frame = sweep(arrays, [variant], levels, a.seeds, settings, folder(run.name, cell.name) / "sweep")
    scores = summary(frame, truth, ["estimator", "calibration", *levels], e.confidence)
    labels = labels_used(arrays, cell, settings, rows)
    return CellResult(cell, rows, contexts, scores, truth, labels, frame.attrs["seconds"])


def complete(
    arrays: Data, cell: Cell, settings: Settings, plan: bool = True
) -> tuple[list[dict[str, Any]], list[PolicyContext]]:
    """Rows as in estimates.json, of one estimator and calibration on all of the data, and the diagnostics. `plan`: with
    the labels that a narrower interval needs."""
    contexts = [
        context(data, *settings.of(policy, cell.calibration), policy=policy, judge=cell.judge)
        for policy, data in arrays.items()
    ]
    estimator = ESTIMATORS[cell.estimator]
    return [{"policy": c.policy, "judge": c.judge, **estimate_row(c, estimator, plan)} for c in contexts], contexts


def labels_used(arrays: Data, cell: Cell, settings: Settings, rows: Sequence[Mapping[str, Any]]) -> int:
    """Oracle labels that the estimates `rows` rest on: those of the logged responses, and those of the targets' own
    draws, are counted where some value or interval would be another without them."""
    used, numbers = 0, ("value", "ci_low", "ci_high")
    for kind, count in (("logged", max), ("fresh", sum)):
        parts = {policy: getattr(data, kind) for policy, data in arrays.items()}
        bare = {policy: replace(part, label=np.full(len(part), np.nan)) for policy, part in parts.items()}
        blind = {policy: replace(data, **{kind: bare[policy]}) for policy, data in arrays.items()}
        without, _ = complete(blind, cell, settings, plan=False)
        if [[row[x] for x in numbers] for row in rows] != [[row[x] for x in numbers] for row in without]:
            used += count(int(part.labelled.sum()) for part in parts.values())
    return used


def write(run: Run, result: CellResult) -> None:
    """Write the cell's `estimates.json`, which is the same for the same data, and its `timing.json`, which is not."""
    own, corrupted = folder(run.name, result.cell.name), section(run.params.ablations, "ablations").corrupted
    content = {name: getattr(result, name) for name in ("labels", "truth", "rows", "scores")}
    content |= {"run": run.name, "cell": result.cell.name, "corrupted": corrupted, **asdict(result.cell)}
    write_json(own / "estimates.json", content)
    write_json(own / "timing.json", {"seconds": round(result.seconds, 2)})
