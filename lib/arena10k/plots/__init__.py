"""One function per figure: arrays and frames in, a `Drawn` out: the figure, its finding (which is its title) and its
text alternative, computed from the same data. Nothing is read or written."""

from arena10k.plots.anomaly import length_weights, permutation, profiles, shrinkage, waterfall
from arena10k.plots.estimates import differences, forest, incident_steps, then_and_now
from arena10k.plots.measurements import missing_by_length, missing_heatmap, progress, reliability, self_consistency
from arena10k.plots.performance import accuracy, coverage, heat, planning, with_levels
from arena10k.plots.style import colour
from arena10k.plots.weights import ccdf, ceiling, log_weights, overlap, reward_by_weight

__all__ = [
    "accuracy", "ccdf", "ceiling", "colour", "coverage", "differences", "forest", "heat", "incident_steps",
    "length_weights", "log_weights", "missing_by_length", "missing_heatmap", "overlap", "permutation", "planning",
    "profiles", "progress", "reliability", "reward_by_weight", "self_consistency", "shrinkage", "then_and_now",
    "waterfall", "with_levels",
]  # fmt: skip
