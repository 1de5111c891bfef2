"""The judges of a run against its labels and against each other: how far each is off, what it costs, what it saves, and
how it would rank the policies."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from arena10k import report
from arena10k.collection.costs import spent
from arena10k.collection.jobs import JUDGE
from arena10k.estimation import compare, planning
from arena10k.estimation.context import PolicyContext
from arena10k.estimation.evaluation import Evaluation
from arena10k.estimation.intervals import mean_interval
from arena10k.estimation.verdicts import width_of
from arena10k.explore.view import View
from arena10k.params.config import Params
from arena10k.wording import level, listed

_SAVED = {"labels": "labels", "r2": "r²", "width": "width", "alone": "labels alone", "direct": "labels, direct"}


class Judges(View):
    """What `run.compare_judges()` answers.

    `policies`: one row per policy and judge. `off`, `off_low`, `off_high`: mean of score minus label where both are,
    with its interval by prompts. `labels` of the policy's own draws; `r2`, the share of their variance that the
    calibrated score explains; `width` of the PPI++ interval now; how many labels their mean `alone` and the `direct`
    method (those that train f) would need for it. `rank`: what the judge makes of the ranking. `costs`: tokens and US
    dollars by judge. Weights are left out: what is compared are scores and labels of each policy's own draws.
    """

    def __init__(self, params: Params, both: pd.DataFrame, study: Evaluation, counts: list[dict[str, Any]]):
        names = list(dict.fromkeys(judge for _, judge in study.contexts))
        pairs = {name: compare.contrasts(study.of_judge(name)) for name in names}
        ranks = {
            (place.policy, name): place.rank
            for name in names
            for place in compare.ranking(study.of_judge(name), pairs[name])
        }
        widths = {(r["policy"], r["judge"]): width_of(r) for r in study.rows if r["estimator"] == "ppi_pp"}
        self.policies = pd.DataFrame(
            {"policy": policy, "judge": judge}
            | _off(both[both.policy == policy], judge, study.analysis.confidence)
            | _saved(ctx, widths[policy, judge])
            | {"rank": ranks.get((policy, judge))}
            for (policy, judge), ctx in study.contexts.items()
        ).astype({"rank": "Int64", "labels": "Int64", "alone": "Int64", "direct": "Int64"})
        self.costs = pd.DataFrame([_cost(params, name, counts) for name in names])
        percent = level(study.analysis.confidence)
        columns = {"policy": "policy", "judge": "judge", "off": "score - label", "off_low": "low", "off_high": "high"}
        caption = f"How far each judge is off (score minus label, {percent} intervals), what its scores save in labels "
        caption += "of the policy's own draws, and where it ranks the policy (equal ranks are ties)"
        super().__init__(
            [_ranking_sentence(ranks, pairs)],
            report.table(self.policies, columns=columns | _SAVED | {"rank": "rank"}, caption=caption),
            report.table(self.costs, formats={"dollars": ",.2f"}, caption="What each judge has cost"),
        )


def _off(both: pd.DataFrame, judge: str, confidence: float) -> dict[str, float]:
    gaps = (both[JUDGE + judge] - both.label).groupby(both.prompt_id).mean().dropna()
    return dict(zip(("off", "off_low", "off_high"), mean_interval(gaps.to_numpy(float), confidence), strict=True))


def _saved(ctx: PolicyContext, width: float) -> dict[str, float | None]:
    """What labels are worth beside the scores, where there are enough to tell."""
    pilot = ctx.pilot
    out: dict[str, float | None] = {"labels": pilot.n_labels, **dict.fromkeys(list(_SAVED)[1:])}
    if pilot.source != "target" or not np.isfinite(width):
        return out
    variance = pilot.residual_var / pilot.n_labels + pilot.score_var / max(pilot.n_fresh, pilot.n_labels)
    direct = planning.direct_plan(ctx.prep, [width], confidence=ctx.analysis.confidence)
    out |= {"r2": max(0.0, 1 - pilot.residual_var / pilot.label_var), "width": width}
    return out | {"alone": round(pilot.label_var / variance), "direct": direct[0]["labels"] if direct else None}


def _cost(params: Params, judge: str, counts: list[dict[str, Any]]) -> dict[str, Any]:
    rows = [row for row in counts if row["job"] == JUDGE + judge]
    tokens = {name: sum(row[f"{name}_tokens"] or 0 for row in rows) for name in ("prompt", "completion")}
    prices = (spent(params, r["job"], r["policy"], r["prompt_tokens"] or 0, r["completion_tokens"] or 0) for r in rows)
    asked = params.judges.get(judge)
    model = {"model": asked.model, "mode": asked.mode} if asked else {}
    own = {"judge": judge, **model, "scores": sum(r["n"] for r in rows if r["status"] == "ok")}
    return own | {"tokens sent": tokens["prompt"], "received": tokens["completion"], "dollars": sum(prices)}


def _ranking_sentence(ranks: Mapping[tuple[str, str], int], pairs: Mapping[str, list[compare.Contrast]]) -> str:
    """Where the judges disagree about who is better: by rank, and by more than chance."""
    names = list(pairs)
    if len(names) < 2:
        return "There is one judge: nothing to compare it with but the labels."
    by_policy = {
        policy: [f"{ranks.get((policy, name), 'none')} by {name}" for name in names]
        for policy in dict.fromkeys(policy for policy, _ in ranks)
        if len({ranks.get((policy, name)) for name in names}) > 1
    }
    differ = [f"{policy} ({', '.join(own)})" for policy, own in by_policy.items()]
    apart = {name: {(c.a, c.b): c.difference > 0 for c in own if c.significant} for name, own in pairs.items()}
    against = [
        f"{one} and {other} on {a} and {b}"
        for one, other in combinations(names, 2)
        for (a, b), better in apart[one].items()
        if apart[other].get((a, b), better) != better
    ]
    text = f"The ranks of {listed(differ)} depend on the judge" if differ else "Every judge gives the same ranks"
    return f"{text}; " + (f"beyond chance they contradict each other: {listed(against)}." if against else
                          "no two of them contradict each other on a pair of policies beyond chance.")  # fmt: skip
