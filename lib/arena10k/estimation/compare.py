"""Differences between policies, a ranking that shows ties as ties, and what it would take to turn an order round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations, permutations
from typing import Any

import numpy as np

from arena10k.estimation import ESTIMATORS
from arena10k.estimation.context import PolicyContext
from arena10k.estimation.headline import belief_of, headline
from arena10k.estimation.intervals import ByConfidence, Sides, bounded_mean_radii, label_term, normal, student
from arena10k.estimation.prepare import Prepared, shared
from arena10k.estimation.score import Score, calibration_folds, deviations, fold_variance, judge_variance
from arena10k.estimation.verdicts import judged, own_estimate

#: What a score was made from, and the score.
PreparedScore = tuple[Prepared, Score]
#: A policy and its row of estimates.json.
Estimated = tuple[PolicyContext, Mapping[str, Any]]


@dataclass(frozen=True)
class Contrast:
    """Value of policy a minus value of policy b. The interval is at the level at which the pair is judged (Holm), so
    that `significant` is the same as an interval without 0; `p_value` is before Holm's correction."""

    a: str
    b: str
    difference: float
    se: float
    low: float
    high: float
    significant: bool
    p_value: float = float("nan")


@dataclass(frozen=True)
class Ranked:
    """A policy in the ranking. `rank` 1 + number of policies significantly better: equal ranks are ties; `worst_rank`
    number of policies not significantly worse (itself included)."""

    policy: str
    estimator: str
    verdict: str
    value: float
    ci_low: float
    ci_high: float
    rank: int
    worst_rank: int


@dataclass(frozen=True)
class Breakdown:
    """What would turn the order of two policies round, `better` above `worse` by `difference`: the judge overrating
    `better` against `worse` by `judge_error` on the outcome scale (None where both values rest on labels alone), or a
    share `unseen_mass` of the responses of `unseen_of` unlike all that was seen: those of `better` worth nothing, or of
    `worse` worth everything, whichever takes less."""

    better: str
    worse: str
    difference: float
    judge_error: float | None
    unseen_mass: float
    unseen_of: str


@dataclass(frozen=True)
class Difference:
    """A difference whose interval is known at every level: `bias` below and above, which no level changes, and t
    quantile and bounded-mean guard, or the chance in the intervals of both policies (in which case `df` is
    infinite). It is at most `most`."""

    value: float
    se: float
    down: float
    up: float
    df: float
    guard: ByConfidence | None = None
    bias: Sides = (0.0, 0.0)
    most: float = 1.0

    def radii(self, level: float) -> Sides:
        """How far below and above the value the interval goes at confidence `level`."""
        t = student(level, self.df)
        low, high = self.guard(level) if self.guard is not None else (0.0, 0.0)
        return self.bias[0] + max(t * self.down, low), self.bias[1] + max(t * self.up, high)

    def p_value(self) -> float:
        """The level at which the interval just holds 0, by bisection: radii grow with the level."""
        side, size = (0, self.value) if self.value > 0 else (1, -self.value)
        low, high = 0.0, 1.0
        if not np.isfinite(self.se) or size <= 0:
            return 1.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if self.radii(1 - middle)[side] > size else (low, middle)
        return high


def aligned(*arrays: np.ndarray) -> list[np.ndarray]:
    """Arrays by prompt code in one length, 0 where a policy has none."""
    size = max(map(len, arrays))
    return [np.pad(x, (0, size - len(x))) for x in arrays]


def paired(a: PreparedScore, b: PreparedScore) -> Difference:
    """Deviations and fold estimates are subtracted prompt by prompt and fold by fold, so that what the policies share
    (prompts, P0 labels) cancels. Prompt codes must mean the same in both. Never narrower than the mean of a bounded
    difference of labels."""
    (dev_a, groups_a), (dev_b, groups_b) = deviations(*a), deviations(*b)
    dev = np.subtract(*aligned(dev_a, dev_b))
    folds_a, folds_b = calibration_folds(*a), calibration_folds(*b)
    alike = len(folds_a) == len(folds_b)
    cal = fold_variance(folds_a - folds_b) if alike else fold_variance(folds_a) + fold_variance(folds_b)
    variance = float(dev @ dev) + cal + judge_variance(*a) + judge_variance(*b)
    return _by_chance(a[1].value - b[1].value, variance, min(groups_a, groups_b), _label_guard(a, b))


def against(a: PreparedScore, known: float) -> Difference:
    """The same for the difference to a value that is known: never narrower than the mean of the bounded labels."""
    (dev, groups), (f, mean, has) = deviations(*a), _cluster_residuals(*a)
    variance = float(dev @ dev) + fold_variance(calibration_folds(*a)) + judge_variance(*a)
    return _by_chance(a[1].value - known, variance, groups, bounded_mean_radii(mean[has], -f, 1 - f))


def _by_chance(value: float, variance: float, groups: int, guard: ByConfidence) -> Difference:
    if groups < 2 or not np.isfinite(variance + value):
        return Difference(value, float("inf"), float("inf"), float("inf"), 1.0)
    se = float(np.sqrt(variance))
    return Difference(value, se, se, se, groups - 1, guard)


def _label_guard(a: PreparedScore, b: PreparedScore) -> ByConfidence:
    """By level the radii that no difference of label means may undercut: a bounded mean of differences over the prompts
    that both policies have labelled, or, where they share few, of both policies in quadrature."""
    (f_a, *of_a), (f_b, *of_b) = _cluster_residuals(*a), _cluster_residuals(*b)
    mean_a, has_a, mean_b, has_b = aligned(*of_a, *of_b)
    both = has_a & has_b
    if 2 * both.sum() >= min(has_a.sum(), has_b.sum()):
        return bounded_mean_radii(mean_a[both] - mean_b[both], -1 - f_a + f_b, 1 - f_a + f_b)
    radii_a = bounded_mean_radii(mean_a[has_a], -f_a, 1 - f_a)
    radii_b = bounded_mean_radii(mean_b[has_b], -f_b, 1 - f_b)

    def apart(level: float) -> Sides:
        (down_a, up_a), (down_b, up_b) = radii_a(level), radii_b(level)
        return float(np.hypot(down_a, up_b)), float(np.hypot(up_a, down_b))

    return apart


def _cluster_residuals(prep: Prepared, score: Score) -> tuple[float, np.ndarray, np.ndarray]:
    """Of a score's labelled term the prediction that labels are residuals of, on average; by cluster (n_clusters,) the
    mean residual, and whether there is a label."""
    rows, term = prep.fresh, label_term(prep, score)
    if term is None:
        raise ValueError("a difference of labels takes two means over labelled draws")
    has = term.den > 0
    residual = np.divide(term.num, term.den, out=np.zeros(len(has)), where=has)
    count, total = (np.bincount(rows.cluster, weights=w, minlength=prep.n_clusters) for w in (has, residual))
    return float((rows.label[has] - residual[has]).mean()), total / np.maximum(count, 1), count > 0


def _score_behind(ctx: PolicyContext, row: Mapping[str, Any]) -> PreparedScore:
    """The score behind a row of estimates.json, with what it was made from."""
    return ctx.prep, ESTIMATORS[row["estimator"]].score(ctx.prep)


def _deviations(one: Estimated) -> np.ndarray:
    return np.zeros(1) if one[0].data.known is not None else deviations(*_score_behind(*one))[0]


@shared
def _parts(ctx: PolicyContext, estimator: str) -> tuple[Sides, Sides]:
    """How much of an estimate's radii, below and above its value, is bias, and how much is chance."""
    if ctx.data.known is not None:
        return (0.0, 0.0), (0.0, 0.0)
    value, interval, *_ = judged(ctx, ESTIMATORS[estimator])
    radii = max(0.0, value - interval.low), max(0.0, interval.high - value)
    bias = min(interval.bias[0], radii[0]), min(interval.bias[1], radii[1])
    return bias, (radii[0] - bias[0], radii[1] - bias[1])


def _left_open(a: Estimated, b: Estimated) -> Sides:
    """What the beliefs of both leave open of their difference, below and above it."""
    (bias_a, _), (bias_b, _) = _parts(a[0], a[1]["estimator"]), _parts(b[0], b[1]["estimator"])
    return bias_a[0] + bias_b[1], bias_a[1] + bias_b[0]


def _by_intervals(a: Estimated, b: Estimated) -> Difference:
    """From the intervals of both: what their beliefs leave open added up, for it may be off in opposite directions, and
    only what is chance in quadrature (MOVER, Zou & Donner 2008). What they share makes it wider than need be; a
    negative correlation of their deviations is counted."""
    dev_a, dev_b = aligned(*map(_deviations, (a, b)))
    norm = float(np.sqrt((dev_a @ dev_a) * (dev_b @ dev_b)))
    correlation = min(0.0, float(dev_a @ dev_b) / norm) if norm > 0 and np.isfinite(norm) else 0.0
    z = normal(a[0].analysis.confidence)

    def radius(first: float, second: float) -> float:
        return float(np.sqrt(first**2 + second**2 - 2 * correlation * first * second)) / z

    (_, chance_a), (_, chance_b) = _parts(a[0], a[1]["estimator"]), _parts(b[0], b[1]["estimator"])
    down, up = radius(chance_a[0], chance_b[1]), radius(chance_a[1], chance_b[0])
    value = a[1]["value"] - b[1]["value"]
    return Difference(value, max(down, up), down, up, float("inf"), bias=_left_open(a, b))


def contrast(ctx_a: PolicyContext, ctx_b: PolicyContext) -> Difference | None:
    """The difference of two policies: of their headlines, or of the estimates that labels alone give both where that
    is known more exactly; None where one of them has no headline. A value that is known is the second."""
    head_a, head_b = headline(ctx_a), headline(ctx_b)
    if head_a is None or head_b is None:
        return None
    differences = [_by_intervals((ctx_a, head_a), (ctx_b, head_b))]
    own_a, own_b, known = own_estimate(ctx_a), own_estimate(ctx_b), ctx_b.data.known
    if known is not None:
        if own_a is not None:
            labels = against(_score_behind(ctx_a, own_a), known)
            labels = replace(labels, bias=_left_open((ctx_a, own_a), (ctx_b, head_b)))
            # The intervals of few labels grow with the level by more than a normal one does.
            differences = [labels, *differences[: own_a["estimator"] != head_a["estimator"]]]
        differences = [replace(d, most=max(known, 1 - known)) for d in differences]
    elif own_a is not None and own_b is not None:
        bias = _left_open((ctx_a, own_a), (ctx_b, own_b))
        differences.append(replace(paired(_score_behind(ctx_a, own_a), _score_behind(ctx_b, own_b)), bias=bias))
    return min(differences, key=lambda d: sum(d.radii(ctx_a.analysis.confidence)))


def contrasts(contexts: Mapping[str, PolicyContext]) -> list[Contrast]:
    """Every pair of policies with a headline; family-wise error at most 1 - confidence (Holm 1979)."""
    policies = sorted(contexts, key=lambda policy: contexts[policy].data.known is not None)
    differences = {(a, b): contrast(contexts[a], contexts[b]) for a, b in combinations(policies, 2)}
    pairs = {pair: (d, d.p_value()) for pair, d in differences.items() if d is not None}
    found, rejecting, level = {}, True, 0.0
    alpha = 1 - min((ctx.analysis.confidence for ctx in contexts.values()), default=1.0)
    for place, (pair, (d, p)) in enumerate(sorted(pairs.items(), key=lambda item: item[1][1])):
        if rejecting:
            level = alpha / (len(pairs) - place)
            rejecting = p < level
        down, up = d.radii(1 - level)
        low, high = max(d.value - down, -d.most), min(d.value + up, d.most)
        found[pair] = Contrast(*pair, d.value, d.se, low, high, low > 0 or high < 0, p)
    return [found[pair] for pair in pairs]


def ranking(contexts: Mapping[str, PolicyContext], pairs: list[Contrast] | None = None) -> list[Ranked]:
    """Policies with a headline, best first. `pairs` are their `contrasts`, where they are there already."""
    rows = {policy: row for policy, ctx in contexts.items() if (row := headline(ctx))}
    apart = [c for c in (contrasts(contexts) if pairs is None else pairs) if c.significant]
    won, lost = (Counter(c.a if (c.difference > 0) == wins else c.b for c in apart) for wins in (True, False))
    shown = ("estimator", "verdict", "value", "ci_low", "ci_high")
    ranked = [
        Ranked(p, rank=1 + lost[p], worst_rank=len(rows) - won[p], **{k: r[k] for k in shown}) for p, r in rows.items()
    ]
    return sorted(ranked, key=lambda r: (r.rank, -r.value))


def breakdowns(contexts: Mapping[str, PolicyContext]) -> list[Breakdown]:
    """For every pair of policies with a headline, the better first: what would turn their order round."""
    rows = {policy: row for policy, ctx in contexts.items() if (row := headline(ctx))}
    pairs = []
    known = {policy for policy in rows if contexts[policy].data.known is not None}
    for a, b in permutations(rows, 2):
        d, judged = rows[a]["value"] - rows[b]["value"], [belief_of(rows[p]) != "labels" for p in (a, b)]
        if d > 0 or (d == 0 and a < b):
            rooms = [(p, room) for p, room in ((a, rows[a]["value"]), (b, 1 - rows[b]["value"])) if p not in known]
            of, room = max(rooms, key=lambda end: end[1])
            mass = min(1.0, d / room) if room > 0 else 1.0
            pairs.append(Breakdown(a, b, d, d if any(judged) else None, mass, of))
    return pairs
