"""Sweeps: estimators measured over and over on parts of the data, on one machine or on a cluster."""

from arena10k.ablations.sweeps.engine import Settings, Variant, sweep
from arena10k.ablations.sweeps.factors import FACTORS, TREATMENTS, factor, treat, treatment
from arena10k.ablations.sweeps.scores import MARGIN, MEASURES, Truth, order_sentence, score, summary

__all__ = [
    "FACTORS",
    "MARGIN",
    "MEASURES",
    "TREATMENTS",
    "Settings",
    "Truth",
    "Variant",
    "factor",
    "order_sentence",
    "score",
    "summary",
    "sweep",
    "treat",
    "treatment",
]
