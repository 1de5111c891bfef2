"""The numbers that verdicts and warnings share."""

from __future__ import annotations

#: An interval this wide says nothing.
MAX_WIDTH = 0.5
#: Labels, or labelled weighted rows in effect: with fewer an estimate is refused; with fewer than `FEW_LABELS` it is
#: given with caution.
MIN_LABELS = 5
FEW_LABELS = 20
#: A policy of whose responses more than this share failed is CAUTION at best: they need not be like the others.
MISSING_SHARE = 0.05
#: Level of the tests that call weights wrong: a mean above 1, a disagreement with the fresh draws, the judge's failure.
WRONG = 0.01
#: Confidence at which few labels speak against a budget that is assumed.
DOUBT = 0.6
#: k-hat from which the variance of the weights is not finite, and from which no mean settles (Vehtari et al. 2024).
MAX_KHAT = 0.5
HEAVY_KHAT = 0.7
#: Where no row has more than this share of the weight and ESS / n is above `AMPLE_ESS` there is no tail to judge.
NO_TAIL_SHARE = 0.01
AMPLE_ESS = 0.5
#: What an audit of weights calls healthy; descriptions only, no verdict rests on them.
MEAN_WEIGHT_RANGE = (0.8, 1.25)
MIN_ESS_FRACTION = 0.1
#: Nats. An endpoint rounds, by what shares a batch: log-probs within this of each other are one measurement,
#: log-weights one weight without a tail, and the weights of a copy of P0 are 1 to within this.
NOISE = 1e-3
