"""One function per figure: arrays and frames in, a matplotlib `Figure` out; nothing is read, shown or written.

Every figure's title is its finding: the sentence that `<figure>_finding` computes from the same data.
"""

from arena10k.plots.ablations import heat, heat_finding, with_levels
from arena10k.plots.anomaly import (
    ceiling,
    ceiling_alt,
    length_weights,
    length_weights_alt,
    shrinkage,
    shrinkage_alt,
    waterfall,
    waterfall_alt,
)
from arena10k.plots.estimates import (
    forest,
    forest_finding,
    incident_steps,
    incident_steps_alt,
    then_and_now,
    then_and_now_finding,
)
from arena10k.plots.evidence import (
    permutation,
    permutation_alt,
    permutation_finding,
    profiles,
    profiles_alt,
)
from arena10k.plots.judging import (
    reliability,
    reliability_finding,
    self_consistency,
    self_consistency_finding,
)
from arena10k.plots.planning import (
    coverage,
    coverage_alt,
    coverage_finding,
    planning,
    planning_alt,
    planning_finding,
)
from arena10k.plots.progress import (
    missing_by_length,
    missing_by_length_alt,
    missing_by_length_finding,
    missing_heatmap,
    missing_heatmap_finding,
    progress,
    progress_finding,
)
from arena10k.plots.weights import (
    ccdf,
    ccdf_finding,
    log_weights,
    log_weights_finding,
    overlap,
    overlap_finding,
    reward_by_weight,
    reward_by_weight_finding,
)

__all__ = [
    "ccdf",
    "ccdf_finding",
    "ceiling",
    "ceiling_alt",
    "coverage",
    "coverage_alt",
    "coverage_finding",
    "forest",
    "forest_finding",
    "heat",
    "heat_finding",
    "incident_steps",
    "incident_steps_alt",
    "length_weights",
    "length_weights_alt",
    "log_weights",
    "log_weights_finding",
    "missing_by_length",
    "missing_by_length_alt",
    "missing_by_length_finding",
    "missing_heatmap",
    "missing_heatmap_finding",
    "overlap",
    "overlap_finding",
    "permutation",
    "permutation_alt",
    "permutation_finding",
    "planning",
    "planning_alt",
    "planning_finding",
    "profiles",
    "profiles_alt",
    "progress",
    "progress_finding",
    "reliability",
    "reliability_finding",
    "reward_by_weight",
    "reward_by_weight_finding",
    "self_consistency",
    "self_consistency_finding",
    "shrinkage",
    "shrinkage_alt",
    "then_and_now",
    "then_and_now_finding",
    "waterfall",
    "waterfall_alt",
    "with_levels",
]
