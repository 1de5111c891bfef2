"""Why a published number is wrong: exact attribution of the gap to five causes, and what may be believed instead."""

from arena10k.attribution.companions import (
    ceiling_audit,
    heavy_rows,
    length_strata,
    mass_identity,
    rank_first,
    rows_to_flip,
    shrinkage_paths,
)
from arena10k.attribution.detection import Detection, Inversion, detect
from arena10k.attribution.game import CAUSES, REPAIRS, Case, make_game, point_values, shapley_parts
from arena10k.attribution.investigation import Finding, Investigation, cases, investigate, investigate_table
from arena10k.attribution.words import anomaly, anomaly_json, frame, sentence, verdict_paragraph

__all__ = [
    "CAUSES",
    "REPAIRS",
    "Case",
    "Detection",
    "Finding",
    "Inversion",
    "Investigation",
    "anomaly",
    "anomaly_json",
    "cases",
    "ceiling_audit",
    "detect",
    "frame",
    "heavy_rows",
    "investigate",
    "investigate_table",
    "length_strata",
    "make_game",
    "mass_identity",
    "point_values",
    "rank_first",
    "rows_to_flip",
    "sentence",
    "shapley_parts",
    "shrinkage_paths",
    "verdict_paragraph",
]
