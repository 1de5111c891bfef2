"""What shows only in the whole set of log-probs: are they sums, of the rows they stand in, and of the policy they name?

Arrays in: `values` (rows, policies) in nats, NaN where missing; `chars` (rows,) length of the responses in characters,
NaN where not known; `base` the column of the logging policy.
"""

from __future__ import annotations

import numpy as np

from arena10k.estimation import outliers
from arena10k.estimation.context import DOUBTFUL_WEIGHTS, WRONG_WEIGHTS

#: A test is believed below this.
LEVEL = 0.001
#: Rows from which a correlation of .3 shows below `LEVEL` nearly always.
ENOUGH = 200
#: Rows that are compared at most: evenly taken, they show all that is to be seen.
AT_MOST = 20_000
#: A number on more than this share of rows, of both policies, is not made up for by the others.
ALONE = 0.95
#: Nats. A response of some length is less likely than this by itself.
FEW_TOKENS = 8.0


def set_tests(values: np.ndarray, chars: np.ndarray, base: int) -> dict[tuple[int, str], float]:
    """By policy's column and test the p-values of what does not hold of log-probs (rows, policies)."""
    step = -(-len(values) // AT_MOST) or 1
    values, chars = values[::step], chars[::step]
    same = outliers.one_policy(values)
    out: dict[tuple[int, str], float] = {}
    for k, column in enumerate(values.T):
        against = {"logprobs_not_summed": outliers.not_summed_p(column, chars)}
        if k != base and not same[k, base]:
            against["no_agreement"] = outliers.agreement_p(column, values[:, base], chars)
        if k != base:
            against["likelier_than_p0"] = outliers.likelier_p(column - values[:, base])
        out |= {(k, test): p for test, p in against.items() if p < LEVEL}
        # Absence of a relation tells something where there is enough to show one.
        p = outliers.length_p(column, chars)
        if p > LEVEL and np.isfinite(column).sum() >= ENOUGH and (k, "logprobs_not_summed") not in out:
            out[k, "no_length_relation"] = p
    return out


def weight_facts(values: np.ndarray, chars: np.ndarray, names: list[str], base: int) -> dict[str, list[str]]:
    """By policy the facts that say its weights are wrong or may be. What is wrong with the logging policy's half of
    a weight is wrong with every weight."""
    failed = [(k, test) for k, test in set_tests(values, chars, base) if test in (*WRONG_WEIGHTS, *DOUBTFUL_WEIGHTS)]
    per_policy = {name: [test for at, test in failed if at in (k, base)] for k, name in enumerate(names)}
    return {name: list(dict.fromkeys(tests)) for name, tests in per_policy.items() if tests}


def measured(values: np.ndarray, chars: np.ndarray, base: int) -> np.ndarray:
    """The values, NaN in place of what is no measurement: zeros and numbers that rows share beyond chance, where most
    values are different ones; what a policy has in common with the logging policy to the last digit; and one number
    that both have in all rows or nearly all."""
    rows, lengths = np.arange(len(values)), np.nan_to_num(chars, nan=0.0)
    suspect = outliers.zeros(values, lengths, rows < 0) | outliers.repeated(values, rows)
    # Where stand-ins are most of the values, the others tell: enough of them, and different ones.
    others = np.where(suspect, np.nan, values)
    enough = np.isfinite(others).sum(axis=0) >= max(20, (1 - ALONE) * len(values))
    wrong = suspect & (_continuous(values) | (_continuous(others) & enough))
    left = np.where(wrong, np.nan, values)
    for k in range(values.shape[1]):
        if k != base:
            wrong[:, k] |= outliers.copied_values(left[:, [base, k]], chars)[:, 1]
            both = suspect[:, k] & suspect[:, base] & (values[:, k] == values[:, base])
            if both.sum() > ALONE * np.isfinite(values[:, k]).sum() and np.ptp(values[both, k]) == 0:
                wrong[:, k] |= both
    return np.where(wrong, np.nan, values)


def _continuous(values: np.ndarray) -> np.ndarray:
    """Which policies' values are no table of a few chances (policies,): half of them are different from each other."""
    finite = [column[np.isfinite(column)] for column in values.T]
    return np.array([len(np.unique(v)) > len(v) / 2 for v in finite])


def may_be_means(values: np.ndarray, chars: np.ndarray) -> bool:
    """Whether nothing tells log-probs from means per token: lengths are not known, and no value is further from 0 than
    a token or two takes it."""
    near = np.isfinite(values).any() and bool(np.nanmin(values) > -FEW_TOKENS)
    return near and not np.isfinite(chars).any() and bool(_continuous(values).any())
