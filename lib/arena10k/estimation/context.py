"""What is known of one policy and judge beside its estimates: audits and tests, each computed when asked for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from arena10k.analysis import DEFAULT, Analysis
from arena10k.estimation import diagnostics, planning
from arena10k.estimation.beliefs import el_score_interval, label_clusters, label_residual, weighted_residual
from arena10k.estimation.calibration import pava
from arena10k.estimation.data import PolicyData
from arena10k.estimation.intervals import Interval, missing_mass_interval
from arena10k.estimation.pareto import WeightAudit
from arena10k.estimation.prepare import Prepared, prepare
from arena10k.estimation.thresholds import MIN_LABELS, WRONG

#: Fact: what was drawn is of another policy than the one whose log-probs are given.
SAMPLER_MISMATCH = "sampler_mismatch"
#: Facts about a policy that its arrays do not show, by which its weights are of another distribution than its draws.
WRONG_WEIGHTS = ("temperature_mismatch", SAMPLER_MISMATCH, "logprobs_not_summed", "no_agreement", "likelier_than_p0")
#: Facts by which they may be: what rests on weights is CAUTION at best.
DOUBTFUL_WEIGHTS = ("no_length_relation", "logprobs_may_be_means", "sampler_not_settled")
#: Facts by which responses, draws and logged ones alike, are not those of the whole policy: whatever says what it is
#: worth is CAUTION at best.
DOUBTFUL_DRAWS = (SAMPLER_MISMATCH, "responses_missing")
#: Fact: log-probs were asked for, so that a policy without any has failed ones.
LOGPROBS_ASKED = "logprobs_asked"


@dataclass(frozen=True)
class Transport:
    """Does f hold under the target? Mean of Y - f(S) there, with its interval.

    `evidence`: "target_labels" (labels on the target's own draws), "weights" (labelled logged rows, re-weighted), or
    "none". `status`: "failed" (0 outside beyond chance, level `WRONG`), "passed" (the interval within the margin),
    "weak" (beyond it), "own" (f was trained on the target's labels), "none". No verdict takes "passed" for a proof.
    `n_labels` counts clusters with a label on the target's draws.
    """

    status: str
    n_labels: int
    evidence: str = "none"
    residual: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")


@dataclass(frozen=True, eq=False)
class PolicyContext:
    """What the verdicts of one policy and judge share, and the diagnostics beside them; every weight figure is of
    the raw weights. `clone`: the policy is identical to P0 by construction."""

    data: PolicyData
    prep: Prepared
    analysis: Analysis = DEFAULT
    facts: frozenset[str] = frozenset()
    policy: str = ""
    judge: str = ""
    clone: bool = False
    memo: dict[Any, Any] = field(default_factory=dict, init=False)

    @property
    def is_logging(self) -> bool:
        return self.prep.is_logging

    @property
    def audit(self) -> WeightAudit:
        return self.prep.audit

    @cached_property
    def mean_weight_p(self) -> float:
        """p-value of E[w] <= 1, NaN without weights."""
        prep = self.prep
        return diagnostics.mean_weight_p_value(prep.counted_log_weight, None if prep.logged.unique else prep.by_cluster)

    @cached_property
    def mean_weight(self) -> tuple[float, float]:
        """Confidence limits of E[w]."""
        return diagnostics.mean_weight_limits(self.prep, self.analysis.confidence)

    @cached_property
    def match_p(self) -> float:
        """p-value that weights and draws are of one policy, NaN where that cannot be tested."""
        return diagnostics.match_p_value(self.prep)

    @cached_property
    def wrong_weights(self) -> list[str]:
        """Why the weights are not those of the target's draws; empty where nothing says so."""
        if not len(self.data.logged):  # and none is asked for
            return []
        reasons = [fact for fact in WRONG_WEIGHTS if fact in self.facts and not self.is_logging]
        # E[w] = 1 is what every interval rests on; significantly more cannot come from two real policies.
        reasons += ["mean_weight_impossible"] * int(self.mean_weight_p < WRONG)
        return reasons + ["weights_do_not_match_draws"] * int(self.match_p < WRONG)

    @cached_property
    def doubtful_weights(self) -> list[str]:
        """Why the weights may not be those of the target, where nothing says that they are not."""
        return [fact for fact in DOUBTFUL_WEIGHTS if fact in self.facts and not self.is_logging]

    @cached_property
    def unseen(self) -> bool:
        """Whether the log shows less than all of the target, beyond chance."""
        return self.audit.n > 0 and self.mean_weight[1] < 1

    def rests_on(self, labelled: bool) -> np.ndarray:
        """Log-weights, by cluster, of the weighted rows, or of those that are `labelled` alone, with the chances of
        their labels."""
        rows, has, lw = self.prep.logged, self.prep.weighted, self.prep.log_weight
        with np.errstate(divide="ignore"):
            if labelled:
                has, lw = self.prep.weighted_labels, lw + np.log(rows.label_weight)
            if rows.unique or not has.any() or not np.isfinite(top := float(lw[has].max())):
                return np.asarray(lw[has])
            total = np.bincount(np.unique(rows.cluster[has], return_inverse=True)[1], weights=np.exp(lw[has] - top))
            return np.asarray(np.log(total) + top)

    @cached_property
    def transport(self) -> Transport:
        """Transport test: from the target's labels where there are enough, else from weights that are not called wrong,
        else none."""
        prep, n = self.prep, label_clusters(self.prep)
        if prep.source is None:
            return Transport("none", n)
        # Of labels not at random f carries the choice, so that its residual has to be looked at.
        own = (prep.is_logging or prep.source == "fresh") and prep.sample(prep.source).labelling.at_random
        # Not `wrong_weights`: a mean of 1 that facts contradict says as much of the logging policy.
        wrong = self.mean_weight_p < WRONG or self.match_p < WRONG or bool(self.facts & set(WRONG_WEIGHTS))
        if n >= MIN_LABELS:
            evidence, of_target = "target_labels", label_residual
        elif prep.source == "logged" and not wrong and len(prep.fresh) and prep.n_weighted and not own:
            evidence, of_target = "weights", weighted_residual
        else:
            return Transport("own" if own else "none", n)
        residual, limits = of_target(prep)
        (low, high), (strict_low, strict_high) = limits(self.analysis.confidence), limits(1 - WRONG)
        within = max(-low, high) <= self.analysis.judge_shift
        status = "failed" if strict_low > 0 or strict_high < 0 else "passed" if within else "weak"
        return Transport("own" if own else status, n, evidence, residual, low, high)

    @cached_property
    def effective_labels(self) -> float:
        """How many of the labels that trained f speak where the target's draws score; NaN where f was not trained on
        logged labels or nothing was drawn.

        1 / sum_b p_b^2 / n_b over the blocks b of the isotonic fit (scores that share one fitted value), with p_b the
        share of the target's draws and n_b the number of labels in b: the effective sample size (Kish 1965) of labels
        re-weighted to the target's scores. About all of them where the target scores as the logging policy does; a
        handful where f is extrapolated, however many there are elsewhere.
        """
        prep = self.prep
        if prep.source != "logged" or not len(prep.fresh):
            return float("nan")
        levels, code = prep.levels
        count = np.bincount(code["logged"], weights=prep.logged.labelled, minlength=len(levels))
        total = np.bincount(code["logged"], weights=prep.logged.label_or_zero, minlength=len(levels))
        seen = count > 0
        fitted = pava(levels[seen], total[seen], count[seen])
        block = np.cumsum(np.append(False, np.diff(fitted) != 0))
        # A score without a label of its own borrows from the nearest one that has some.
        nearest = np.searchsorted((levels[seen][1:] + levels[seen][:-1]) / 2, levels)
        drawn = np.bincount(block[nearest], weights=np.bincount(code["fresh"], minlength=len(levels)))
        share = drawn / len(prep.fresh)
        return float(1 / (share**2 / np.bincount(block, weights=count[seen])).sum())

    @cached_property
    def el(self) -> Interval:
        """The interval of whatever re-weights logged rows."""
        return el_score_interval(self.prep, self.analysis.confidence)

    @cached_property
    def labels_needed(self) -> int | None:
        """See `planning.labels_needed`."""
        return planning.labels_needed(self.pilot, self.analysis.width, self.analysis.confidence)

    @cached_property
    def pilot(self) -> planning.Pilot:
        return planning.pilot(self.prep)

    @property
    def n_missing_weight(self) -> int:
        """Logged rows without a log-weight, judged or not."""
        return int(np.isnan(self.data.logged.log_weight).sum())

    @property
    def missing_mass(self) -> float:
        """1 - min(1, E[w]): at least this share of the target's probability is on responses the logs do not show."""
        return 1 - min(1.0, self.audit.mean_weight)

    @property
    def missing_mass_interval(self) -> tuple[float, float]:
        """What the missing mass leaves of the value."""
        return missing_mass_interval(self.audit.mean_weight, self.permutation.value)

    @cached_property
    def permutation(self) -> diagnostics.PermutationNull:
        return diagnostics.permutation_null(self.prep.raw_log_weight, self.prep.reward[self.prep.weighted])

    @cached_property
    def typicality(self) -> float:
        """Target-typicality coverage; NaN without log-probs of the target."""
        rows = self.data.logged
        keep = ~(np.isnan(rows.log_weight) | np.isnan(rows.logp_target) | np.isnan(rows.length))
        return diagnostics.target_typicality(rows.logp_target[keep], rows.log_weight[keep], rows.length[keep])

    @property
    def noise_floor(self) -> diagnostics.NoiseFloor | None:
        """Noise of the log-probs; None but for a clone."""
        return diagnostics.clone_noise_floor(self.prep.raw_log_weight) if self.clone else None


def context(data: PolicyData, analysis: Analysis = DEFAULT, facts: Iterable[str] = (), **named: Any) -> PolicyContext:
    """Prepare one policy. `facts`: what is known of it and shows in no array, of `WRONG_WEIGHTS`, `DOUBTFUL_WEIGHTS`,
    `DOUBTFUL_DRAWS`, `LOGPROBS_ASKED`; `named` the other fields of a context."""
    return PolicyContext(data, prepare(data, analysis.calibration), analysis, frozenset(facts), **named)
