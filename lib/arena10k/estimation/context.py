"""What is known of one policy and judge mode before any estimate is judged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from arena10k.analysis import DEFAULT, Analysis
from arena10k.estimation import PolicyData, Prepared, diagnostics, planning, prepare
from arena10k.estimation.beliefs import el_score_interval
from arena10k.estimation.diagnostics import Transport, transport
from arena10k.estimation.intervals import Interval, WeightAudit, audit_weights
from arena10k.estimation.thresholds import AMPLE_ESS, NO_TAIL_SHARE, WRONG

#: Facts about a policy that its arrays do not show, by which its weights are of another distribution than its draws.
WRONG_WEIGHTS = ("temperature_mismatch", "sampler_mismatch", "logprobs_not_summed", "no_agreement", "likelier_than_p0")
#: Facts by which they may be: what rests on weights is CAUTION at best.
DOUBTFUL_WEIGHTS = ("no_length_relation",)
#: Fact: log-probs were asked for, so that a policy without any has failed ones.
LOGPROBS_ASKED = "logprobs_asked"


@dataclass(frozen=True, eq=False)
class PolicyContext:
    """What the verdicts of one policy and judge mode share.

    `mean_weight_p` tests E[w] <= 1, `match_p` that weights and draws are of one policy (NaN: not testable);
    `mean_weight` are limits of E[w]; `el` the interval of what re-weights logged rows.
    """

    prep: Prepared
    audit: WeightAudit
    mean_weight_p: float
    match_p: float
    mean_weight: tuple[float, float]
    transport: Transport
    el: Interval
    pilot: planning.Pilot
    effective_labels: float
    flags: frozenset[str]
    analysis: Analysis
    w_max: float

    @cached_property
    def wrong_weights(self) -> list[str]:
        """Why the weights are not those of the target's draws; empty where nothing says so."""
        reasons = [flag for flag in WRONG_WEIGHTS if flag in self.flags and not self.prep.is_logging]
        # E[w] = 1 is what every interval rests on; significantly more cannot come from two real policies.
        reasons += ["mean_weight_impossible"] * int(self.mean_weight_p < WRONG)
        return reasons + ["weights_do_not_match_draws"] * int(self.match_p < WRONG)

    @cached_property
    def doubtful_weights(self) -> list[str]:
        """Why the weights may not be those of the target, where nothing says that they are not."""
        return [] if self.prep.is_logging else [flag for flag in DOUBTFUL_WEIGHTS if flag in self.flags]

    @cached_property
    def unseen(self) -> bool:
        """Whether the log shows less than all of the target, beyond chance."""
        return self.audit.n > 0 and self.mean_weight[1] < 1

    @cached_property
    def has_tail(self) -> bool:
        """Whether there is a tail of weights to judge: few rows hold much of the weight."""
        lw = self.prep.raw_log_weight
        heaviest = np.exp(lw.max() - self.audit.log_mean_weight) / len(lw) if len(lw) else 0.0
        return bool(heaviest >= NO_TAIL_SHARE or self.audit.ess <= AMPLE_ESS * len(lw))

    def rests_on(self, labels: bool) -> np.ndarray:
        """Log-weights, by cluster, of the rows that a weighted estimate rests on: the labelled ones where their
        residual is in it (`labels`) or they train f, all weighted ones elsewhere; chances of labels included."""
        rows, has = self.prep.logged, self.prep.has_weight > 0
        lw = self.prep.log_weight
        if labels or self.prep.source == "logged":
            has = has & (rows.labelled > 0)
            with np.errstate(divide="ignore"):
                lw = lw + np.log(rows.label_weight)
        if rows.unique or not has.any() or not np.isfinite(top := float(lw[has].max())):
            return np.asarray(lw[has])
        total = np.bincount(np.unique(rows.cluster[has], return_inverse=True)[1], weights=np.exp(lw[has] - top))
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(total) + top)


def context(
    data: PolicyData,
    analysis: Analysis = DEFAULT,
    flags: Iterable[str] = (),
    w_max: float = float("inf"),
) -> PolicyContext:
    """Prepare one policy: calibration, weight audit, tests of weights and transport, EL interval, planning values.

    `flags` are facts about the policy that the arrays do not show: `WRONG_WEIGHTS`, `DOUBTFUL_WEIGHTS`,
    `LOGPROBS_ASKED`.
    """
    prep = prepare(data, analysis.calibration)
    lw, keep = prep.raw_log_weight, prep.has_weight > 0
    p = diagnostics.mean_weight_p_value(
        lw, None if prep.logged.unique else lambda values: prep.logged.by_cluster(values, keep)
    )
    match, flags = diagnostics.match_p_value(prep), frozenset(flags)
    contradicted = p < WRONG or match < WRONG or bool(flags & set(WRONG_WEIGHTS))
    return PolicyContext(
        prep,
        audit_weights(lw),
        p,
        match,
        diagnostics.mean_weight_limits(prep, analysis.confidence),
        transport(prep, analysis.judge_shift, analysis.confidence, not contradicted, w_max),
        el_score_interval(prep, analysis.confidence, w_max),
        planning.pilot(prep),
        diagnostics.effective_labels(prep),
        flags,
        analysis,
        w_max,
    )
