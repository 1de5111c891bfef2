"""The judges of a run against its labels and against each other: how far each is off, what it costs, what it saves, and
how it would rank the policies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from arena10k import report
from arena10k.collection.costs import spent
from arena10k.collection.jobs import JUDGE, ORACLE, compares, judging
from arena10k.estimation import compare, planning
from arena10k.estimation.context import PolicyContext
from arena10k.estimation.diagnostics import judge_auc
from arena10k.estimation.evaluation import Evaluation
from arena10k.estimation.intervals import mean_interval
from arena10k.estimation.verdicts import width_of
from arena10k.explore.answers import with_scores
from arena10k.explore.source import Given, Recorded
from arena10k.explore.view import View
from arena10k.frames.records import KEY
from arena10k.params.config import Params
from arena10k.report.findings import agreement_sentence
from arena10k.wording import level, listed

Row = dict[str, Any]
_JUDGES = {"judge": "judge", "model": "model", "mode": "mode", "rows": "labelled", "auc": "AUC"}
_JUDGES |= {"auc_within_p0": "AUC within P0", **{name: name for name in ("scores", "sent", "received", "dollars")}}
_COLUMNS = {"policy": "policy", "judge": "judge", "off": "score - label", "off_low": "low", "off_high": "high"}
_SAVED = {"labels": "labels", "r2": "r²", "width": "width", "alone": "labels alone", "direct": "labels, direct"}


class Judges(View):
    """What `run.compare_judges()` answers.

    `policies`: one row per policy and judge. `off`, `off_low`, `off_high`: mean of score minus label where both are,
    with its interval by prompts. `labels` of the policy's own draws; `r2`, the share of their variance that the
    calibrated score explains; `width` of the PPI++ interval now; how many labels their mean `alone` and the `direct`
    method (those that train f) would need for it. `rank`: what the judge makes of the ranking, from scores and labels
    without weights. `judges`: of each its AUC over all policies and within the logging policy, tokens and US dollars.
    `positions`: of judges that compare, by policy, how much more often the first of two answers wins.
    """

    def __init__(self, study: Evaluation, source: Recorded | Given, both: pd.DataFrame):
        params, confidence = source.params, study.analysis.confidence
        pairs = [job for job in (*judging(params), ORACLE) if compares(params, job)]
        counts = [] if params.table else source.reading.counts()
        by_judge = {judge: study.of_judge(judge) for _, judge in study.contexts}
        places = [(judge, place) for judge, own in by_judge.items() for place in compare.ranking(own)]
        ranks = {(place.policy, judge): place.rank for judge, place in places}
        widths = {(r["policy"], r["judge"]): width_of(r) for r in study.rows if r["estimator"] == "ppi_pp"}
        rows = []
        for (policy, judge), ctx in study.contexts.items():
            own = both[both.policy == policy]
            gaps = (own[JUDGE + judge] - own.label).groupby(own.prompt_id).mean().dropna()
            off = zip(("off", "off_low", "off_high"), mean_interval(gaps.to_numpy(float), confidence), strict=True)
            saved = _saved(ctx, widths.get((policy, judge), np.nan))
            row: Row = {"policy": policy, "judge": judge, **dict(off), **saved}
            rows.append(row | {"rank": ranks.get((policy, judge))})
        self.policies = pd.DataFrame(rows).astype(dict.fromkeys(("rank", "labels", "alone", "direct"), "Int64"))
        self.judges = pd.DataFrame([_of_judge(params, judge, both, counts) for judge in by_judge])
        self.positions = _positions([row for job in pairs for row in source.reading.rows(job)], confidence)
        agreement = "AUC against labels, and cost (over all policies, those that are easy to tell apart raise the AUC)"
        caption = f"How far each judge is off ({level(confidence)} intervals), what its scores save in labels of the "
        caption += "policy's own draws, and where it ranks the policy (equal ranks are ties)"
        bias = "How much more often the first of two answers wins than the second; both orders are asked, so that it "
        bias += f"is in no score ({level(confidence)} intervals); {params.logging_policy} against itself is 0.5"
        super().__init__(
            [agreement_sentence(self.judges, params.logging_policy)],
            report.table(self.judges, columns=_JUDGES, formats={"dollars": ",.2f"}, caption=agreement),
            _ranking_sentence(ranks, list(by_judge)),
            report.table(self.policies, columns=_COLUMNS | _SAVED | {"rank": "rank"}, caption=caption),
            *([report.table(self.positions, caption=bias)] if len(self.positions) else []),
        )


def labelled(frames: dict[str, pd.DataFrame], judges: list[str]) -> pd.DataFrame:
    """Judge scores beside oracle labels, wherever both exist: `policy`, `prompt_id`, `draw`, `label`, `judge_*`."""
    rows, columns = with_scores(frames), [JUDGE + name for name in judges]
    rows = rows[rows.status == "ok"].dropna(subset="label")
    return rows.reindex(columns=[*KEY, "label", *columns]).dropna(subset=columns, how="all").reset_index(drop=True)


def _saved(ctx: PolicyContext, width: float) -> dict[str, float | None]:
    """What labels are worth beside the scores, where there are enough to tell."""
    pilot, out = ctx.pilot, dict[str, float | None](dict.fromkeys(_SAVED))
    out["labels"] = pilot.n_labels
    if pilot.source == "target" and np.isfinite(width):
        variance = pilot.residual_var / pilot.n_labels + pilot.score_var / max(pilot.n_fresh, pilot.n_labels)
        direct = planning.direct_plan(ctx.prep, [width], confidence=ctx.analysis.confidence)
        out |= {"r2": max(0.0, 1 - pilot.residual_var / pilot.label_var), "width": width}
        out |= {"alone": round(pilot.label_var / variance), "direct": direct[0]["labels"] if direct else None}
    return out


def _of_judge(params: Params, judge: str, both: pd.DataFrame, counts: list[Row]) -> Row:
    rows = [row for row in counts if row["job"] == JUDGE + judge]
    used = [(r["job"], r["policy"], r["prompt_tokens"] or 0, r["completion_tokens"] or 0) for r in rows]
    asked, scored = params.judges.get(judge), both.dropna(subset=[JUDGE + judge])
    parts = {"auc": scored, "auc_within_p0": scored[scored.policy == params.logging_policy]}
    own: Row = {"judge": judge, "model": asked and asked.model, "mode": asked and asked.mode, "rows": len(scored)}
    own |= {k: judge_auc(p[JUDGE + judge].to_numpy(float), p.label.to_numpy(float)) for k, p in parts.items()}
    own |= {"scores": sum(r["n"] for r in rows if r["status"] == "ok"), "sent": sum(u[2] for u in used)}
    return own | {"received": sum(u[3] for u in used), "dollars": sum(spent(params, *u) for u in used)}


def _positions(pairs: list[Row], confidence: float) -> pd.DataFrame:
    """Position bias by judge (or oracle) and policy, from the records of pairs."""
    # Votes that were imported do not say which answer was shown first.
    ok = [row for row in pairs if row["status"] == "ok" and "first_leads" in row["payload"]]
    leads = [(r["job"].removeprefix(JUDGE), r["policy"], r["prompt_id"], r["payload"]["first_leads"]) for r in ok]
    frame = pd.DataFrame(leads, columns=["judge", "policy", "prompt_id", "lead"])
    by_prompt = frame.groupby(["judge", "policy", "prompt_id"], sort=False).lead.mean()
    rows = [
        (judge, policy, len(own), *mean_interval(own.to_numpy(float), confidence))
        for (judge, policy), own in by_prompt.groupby(["judge", "policy"], sort=False)
    ]
    return pd.DataFrame(rows, columns=["judge", "policy", "prompts", "first - second", "low", "high"])


def _ranking_sentence(ranks: Mapping[tuple[str, str], int], judges: list[str]) -> str:
    """Where the judges disagree about who is better."""
    by_policy = {p: [f"{ranks.get((p, judge), 'none')} by {judge}" for judge in judges] for p, _ in ranks}
    differ = [
        f"{policy} ({', '.join(own)})"
        for policy, own in by_policy.items()
        if len({ranks.get((policy, judge)) for judge in judges}) > 1
    ]
    if len(judges) < 2:
        return "There is one judge: nothing to compare it with but the labels."
    return f"The ranks of {listed(differ)} depend on the judge." if differ else "Every judge gives the same ranks."
