"""Estimators of a policy's value. Adding one is one function `Prepared -> Score` under `@register("name")`."""

from arena10k.estimation import estimators
from arena10k.estimation.data import N_FOLDS, PolicyData, Rows, policies_data, prompt_fold
from arena10k.estimation.prepare import Prepared, prepare
from arena10k.estimation.score import ESTIMATORS, Estimator, Score, Term, deviations, register

__all__ = ["ESTIMATORS", "N_FOLDS", "Estimator", "PolicyData", "Prepared", "Rows", "Score", "Term"]
__all__ += ["deviations", "estimators", "policies_data", "prepare", "prompt_fold", "register"]
