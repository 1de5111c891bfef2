"""Which sequence log-probs cannot be measurements, told from the whole set: by structure and counts, never by a list of
bad numbers alone.

Arrays in, boolean arrays out: `values` (rows, policies) in nats, one row per logged response, NaN where missing;
`chars` (rows,) its length in characters. True where the value of that row and policy cannot be trusted.
"""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pandas as pd
from scipy import stats

#: A value further than this many MADs from what is typical is an outlier.
MADS = 8.0
#: Rows of similar length that say what is typical; fewer than `FEW` say nothing.
WINDOW, FEW = 101, 20
#: About eight tokens: a longer text that is certain to the last digit copies the prompt or is no measurement.
CERTAIN_CHARS = 32
#: A probability of .9: values between this and 0 are nearly certain.
NEARLY_CERTAIN = -0.1
#: The chance of flagging anything in a set without faults, per check; of zeros of short texts, which are few.
FALSE_ALARM, ZERO_ALARM = 1e-3, 0.05
#: Nats. Values this close to 0 lie on the floating-point grid of probabilities near 1 and repeat for that reason.
NEAR_ZERO = 1e-3
#: Nats. Values rounded to this or worse reach any round number now and then.
COARSE = 0.01
#: Nats. Two policies agree to within this by chance on one row in many thousands.
COPIED_STEP = 1e-4
#: Two policies whose values are equal on more than this share of rows are one policy under two names.
SAME = 0.5
#: Standard deviation of log length below which lengths are too alike to show a relation (all cut at one limit).
SPREAD = 0.3
#: The surprise of a text grows with its length at least to this power; a mean per token does not grow.
GROWS = 0.25
#: Nats per character: every token (four characters) has a chance of .95. Means of long texts lie below.
CERTAIN_RATE = 0.0125
#: Policies agree at least this much (rank correlation) on which texts of a length are likely; real ones by .5 to .9.
AGREES = 0.3


def typical(x: np.ndarray, size: np.ndarray) -> np.ndarray:
    """How many MADs each of `x` (rows,) lies from the median of the `WINDOW` rows nearest in `size`; 0 where all agree,
    NaN where fewer than `FEW` rows are known."""
    out = np.full(len(x), np.nan)
    usable = np.flatnonzero(np.isfinite(x) & np.isfinite(size))
    if len(usable) < FEW:
        return out
    order = usable[np.argsort(size[usable], kind="stable")]
    ordered = pd.Series(x[order])
    window = {"window": min(WINDOW, len(ordered)), "center": True, "min_periods": 1}
    off = ordered - ordered.rolling(**window).median()
    mad = 1.4826 * off.abs().rolling(**window).median()
    out[order] = np.where(mad > 0, off / mad.where(mad > 0, 1.0), 0.0)
    return out


def rates(values: np.ndarray, tokens: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Rows (rows,) whose nats per token lie more than `MADS` MADs from the median of their `group`, both tails."""
    rate = pd.Series(values / np.where(tokens > 0, tokens, np.nan), dtype=float)
    off = (rate - rate.groupby(group).transform("median")).abs()
    mad = 1.4826 * off.groupby(group).transform("median")
    return np.asarray((off > MADS * mad.where(mad > 0, np.inf)).to_numpy())


def zeros(values: np.ndarray, chars: np.ndarray, copied: np.ndarray) -> np.ndarray:
    """Values of 0.0, or above it by what is taken for rounding, that are no certain answers.

    A text over `CERTAIN_CHARS` that does not repeat the prompt (`copied`, (rows,)) cannot be certain to the last digit,
    unless values are rounded to `COARSE` or worse. Certain answers come with nearly certain ones: where a policy has
    more zeros than values in (`NEARLY_CERTAIN`, 0) by a one-sided sign test, none of its zeros can be told from a
    failure; nor can a zero of another policy on the same row.
    """
    zero, step = values >= 0, steps(values)
    possible = ((chars <= CERTAIN_CHARS) | copied)[:, None] | (step >= COARSE)
    out = zero & ~possible
    nearly = (values > np.minimum(NEARLY_CERTAIN, -3 * step)) & (values < 0)
    exact, near = ((hit & possible).sum(axis=0) for hit in (zero, nearly))
    out |= zero & (exact > 0) & (stats.binom.sf(exact - 1, exact + near, 0.5) < ZERO_ALARM)
    return np.asarray(out | (zero & out.any(axis=1)[:, None]))


def steps(values: np.ndarray) -> np.ndarray:
    """The grid (nats) of each policy's values (policies,); 0 where fewer than `FEW` different values are there."""
    distinct = [np.unique(v[np.isfinite(v)]) for v in values.T]
    return np.array([grid(v) if len(v) >= FEW else 0.0 for v in distinct])


def grid(distinct: np.ndarray) -> float:
    """The coarsest step (nats), a power of ten or of two, that nearly all distinct values are multiples of; 1e-9 where
    there is none."""
    few = distinct[: len(distinct) // 16 + 1]
    for step in sorted([*(10.0**-d for d in range(9)), *(2.0**-d for d in range(1, 17))], reverse=True):
        # Of fine values nearly all are off: for what the first few of them miss the rest cannot make up.
        if _off(few, step).sum() <= 0.05 * len(distinct) + 1 and np.mean(~_off(distinct, step)) >= 0.95:
            return step
    return 1e-9


def _off(values: np.ndarray, step: float) -> np.ndarray:
    return np.abs(values - np.round(values / step) * step) >= 1e-9


def sentinels(values: np.ndarray, listed: tuple[float, ...]) -> np.ndarray:
    """Values that other software writes in place of a missing one (`listed`), except among coarse values, where they
    are numbers like others until they repeat."""
    return np.isin(values, listed) & (steps(values) < COARSE)


def repeated(values: np.ndarray, text: np.ndarray) -> np.ndarray:
    """Values that unrelated rows share beyond chance: what a program writes where it measured nothing.

    `text` (rows,) codes of the response texts: rows with the same text count once. Per policy, a value of `k` texts
    is held against a Poisson count whose mean is the density of the other values near it times the grid they lie on;
    Bonferroni over the distinct values. Two equal values are let pass, values near 0 left to `zeros`.
    """
    out, alone = np.zeros(values.shape, dtype=bool), len(np.unique(text)) == len(text)
    for k, column in enumerate(values.T):
        rows = np.flatnonzero(np.isfinite(column) & (np.abs(column) > NEAR_ZERO))
        own = column[rows]
        if not alone:
            own = pd.DataFrame({"value": own, "text": text[rows]}).drop_duplicates().value.to_numpy()
        distinct, times = np.unique(own, return_counts=True)
        place = np.flatnonzero(times > 2)
        if len(own) < FEW or not len(place):
            continue
        # Values per nat among the ten neighbours on either side, itself left out. They count once each where values are
        # all different, so that a second repeated value does not hide the first.
        near = np.minimum(times, np.median(times))
        low, high = np.maximum(place - 10, 0), np.minimum(place + 10, len(distinct) - 1)
        cumulative, span = np.append(0.0, np.cumsum(near)), np.maximum(distinct[high] - distinct[low], 1e-12)
        expected = (cumulative[high + 1] - cumulative[low] - near[place]) / span * grid(distinct)
        chance = stats.poisson.sf(times[place] - 1, expected) * len(distinct)
        out[:, k] = np.isin(column, distinct[place[chance < FALSE_ALARM]])
    return out


def whole(values: np.ndarray) -> np.ndarray:
    """Whole numbers of nats among values of which none is even a multiple of an eighth, as coarse ones are seven times
    as often."""
    out = np.zeros(values.shape, dtype=bool)
    for k, column in enumerate(values.T):
        distinct = np.unique(column[np.isfinite(column)])
        eighths = distinct * 8 == np.round(distinct * 8)
        coarse = eighths & (distinct != np.round(distinct))
        if (~eighths).sum() >= 100 and not coarse.any():
            out[:, k] = (column == np.round(column)) & (column != 0)
    return out


def floor(values: np.ndarray, length: np.ndarray, per_token: float) -> np.ndarray:
    """Values below `per_token` nats for every byte of the response (`length`, (rows,)) and its end: a token has at
    least one byte."""
    return values < per_token * (length[:, None] + 1)


def one_policy(values: np.ndarray) -> np.ndarray:
    """Which policies are one under two names (policies, policies): equal values on over `SAME` of the rows."""
    same = np.eye(values.shape[1], dtype=bool)
    for a, b in combinations(range(len(same)), 2):
        both = np.isfinite(values[:, a]) & np.isfinite(values[:, b])
        same[a, b] = same[b, a] = both.any() and np.mean(values[both, a] == values[both, b]) > SAME
    return same


def root(values: np.ndarray) -> np.ndarray:
    """Square root of the surprise: the spread of a sum of nats grows with its root, that of the root does not."""
    return np.asarray(np.sqrt(np.maximum(-values, 0.0)))


def _odd(values: np.ndarray, chars: np.ndarray) -> np.ndarray:
    """How many MADs each value is from what its policy gives to texts of that length."""
    return np.column_stack([np.abs(typical(root(v), chars)) for v in values.T])


def impossible_weights(values: np.ndarray, chars: np.ndarray, base: int) -> np.ndarray:
    """Weights that P0's own responses cannot have: E_P0[w] = 1, so that by Markov's inequality the largest of n exceeds
    n / a with probability a at most; a is `FALSE_ALARM`.

    Of the two log-probs the one that is less typical of the response's length is blamed; both, where that cannot be
    told: to keep both would keep the weight.
    """
    odd, log_weight = _odd(values, chars), values - values[:, [base]]
    hit = log_weight > np.log(np.maximum(np.isfinite(log_weight).sum(axis=0), 1) / FALSE_ALARM)
    # Comparisons with NaN are false.
    out = hit & ~(odd < odd[:, [base]])
    out[:, base] |= (hit & ~(odd > odd[:, [base]])).any(axis=1)
    return np.asarray(out)


def copied_values(values: np.ndarray, chars: np.ndarray) -> np.ndarray:
    """Values that equal another policy's of the same text to the last digit, where the two policies otherwise differ:
    the one less typical of the response's length is blamed; both, where they differ by less than a MAD. Coarse values
    and values near 0 are equal by chance and let pass."""
    out, odd, same = np.zeros(values.shape, dtype=bool), _odd(values, chars), one_policy(values)
    step = steps(values)
    fine = (step > 0) & (step < COPIED_STEP)
    for a, b in permutations(np.flatnonzero(fine), 2):
        if not same[a, b]:
            equal = (values[:, a] == values[:, b]) & (np.abs(values[:, a]) > NEAR_ZERO)
            out[:, a] |= equal & ~(odd[:, a] < odd[:, b] - 1)
    return out


def lengths(values: np.ndarray, chars: np.ndarray) -> np.ndarray:
    """Values more than `MADS` MADs from what their policy gives to texts of that length."""
    return np.asarray(_odd(values, chars) > MADS)


def contradicted(values: np.ndarray, chars: np.ndarray) -> np.ndarray:
    """Values as far from what *another* policy's value of the same text lets expect: a text that is odd is odd to all
    policies, so that a value out of line with both is not about the text."""
    out, same = np.zeros(values.shape, dtype=bool), one_policy(values)
    for a, b in combinations(range(len(same)), 2):
        if not same[a, b]:
            off = np.abs(typical(root(values[:, a]) - root(values[:, b]), chars)) > MADS
            out[:, [a, b]] |= off[:, None]
    return out


def _related(values: np.ndarray, chars: np.ndarray) -> np.ndarray | None:
    """The rows of which values and lengths are known; None where they are fewer than `FEW` or lengths too alike."""
    usable = np.isfinite(values) & (chars > 0)
    return None if usable.sum() < FEW or np.log(chars[usable]).std() < SPREAD else usable


def length_p(values: np.ndarray, chars: np.ndarray) -> float:
    """One-sided p-value (values, chars (rows,)) for longer texts being *no* less likely (Spearman); NaN where fewer
    than `FEW` rows are known or lengths are too alike to tell. Log-probs of the rows they stand in fall with length."""
    usable = _related(values, chars)
    if usable is None or np.ptp(values[usable]) == 0:
        return float("nan")
    return float(stats.spearmanr(chars[usable], values[usable], alternative="less").pvalue)


def not_summed_p(values: np.ndarray, chars: np.ndarray) -> float:
    """One-sided p-value for the surprise -values growing with length at least as length ** `GROWS`; small: it does not,
    as the mean of a text's tokens does not. NaN as for `length_p`.

    Slope of log surprise on log length, with a standard error for unequal variances. Sums can be as flat (a policy to
    which every answer is as odd), but not where texts are as good as certain: 1 above `CERTAIN_RATE`.
    """
    usable = _related(np.where(values < 0, values, np.nan), chars)
    if usable is None:
        return float("nan")
    if np.median(-values[usable] / chars[usable]) >= CERTAIN_RATE:
        return 1.0
    x, y = np.log(chars[usable]), np.log(-values[usable])
    x = x - x.mean()
    slope = x @ y / (x @ x)
    residual = (y - y.mean() - slope * x) / (1 - 1 / len(x) - x**2 / (x @ x))
    error = float(np.sqrt((x * residual) @ (x * residual)) / (x @ x))
    return float(stats.t.cdf((slope - GROWS) / error, len(x) - 2)) if error > 0 else float(slope >= GROWS)


def agreement_p(first: np.ndarray, second: np.ndarray, chars: np.ndarray) -> float:
    """One-sided p-value for two policies agreeing on which texts of a length are likely, by a rank correlation of
    `AGREES` at least; NaN where fewer than `FEW` rows are known. Small: the values are not of the same texts."""
    a, b = typical(root(first), chars), typical(root(second), chars)
    usable = np.isfinite(a) & np.isfinite(b)
    if usable.sum() < FEW or np.ptp(a[usable]) == 0 or np.ptp(b[usable]) == 0:
        return float("nan")
    rho = float(np.clip(stats.spearmanr(a[usable], b[usable]).statistic, -1 + 1e-15, 1 - 1e-15))
    # Fisher's z; 1.06 / (n - 3) is its variance for ranks (Fieller, Hartley & Pearson 1957).
    return float(stats.norm.cdf((np.arctanh(rho) - np.arctanh(AGREES)) * np.sqrt((usable.sum() - 3) / 1.06)))


def likelier_p(log_weight: np.ndarray) -> float:
    """p-value for P0 having written the responses, against the target. Small: their columns are swapped, or P0 did not
    write the responses. NaN where fewer than `FEW` rows are known or all are 0.

    The larger of two: the inverse likelihood ratio, valid by Markov's inequality (the product of weights has a mean of
    at most 1 under P0), and a z-test of the mean log-weight, which noise of log-probs does not move (E_P0[log w] is
    minus a Kullback-Leibler divergence).
    """
    usable = log_weight[np.isfinite(log_weight)]
    if len(usable) < FEW or not usable.any():
        return float("nan")
    ratio = float(np.exp(-max(0.0, usable.sum())))
    mean, error = usable.mean(), usable.std(ddof=1) / np.sqrt(len(usable))
    return max(ratio, float(stats.norm.sf(mean / error)) if error > 0 else float(mean <= 0))


def repeats(values: np.ndarray, prompt: np.ndarray, text: np.ndarray, base: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (rows,) that stand twice, and responses that stand under several prompts (which is theirs cannot be told):
    equal in text (`prompt`, `text` are codes) and in every log-prob.

    One prompt asked twice gives the same text with the probability of that text: rows stand twice where that is under
    `FALSE_ALARM` for the pair or for all pairs together (Poisson). The first of them stays.
    """
    twice, replayed = (np.zeros(len(values), dtype=bool) for _ in range(2))
    usable = np.flatnonzero(np.isfinite(values[:, base]))
    keys = pd.DataFrame(values[usable]).assign(text=text[usable])
    response = list(keys)
    keys = keys.assign(prompt=prompt[usable], row=usable)
    chance = pd.Series(np.exp(np.minimum(values[usable, base], 0.0)))
    again, equal = keys.duplicated("prompt"), keys.duplicated([*response, "prompt"])
    surprising = stats.poisson.sf(equal.sum() - 1, float(chance[again].sum())) < FALSE_ALARM
    twice[usable[equal & (surprising | (chance * max(again.sum(), 1) < FALSE_ALARM))]] = True
    unlikely = keys[chance < FALSE_ALARM / max(len(values), 1)]
    for _, group in unlikely[unlikely.duplicated(response, keep=False)].groupby(response, dropna=False):
        replayed[group.row] = group.prompt.nunique() > 1
    return twice, replayed & ~twice
