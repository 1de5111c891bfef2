"""Why a published number is wrong: exact attribution of the gap to six causes, and what may be believed instead."""

from arena10k.attribution.game import CAUSES, Case
from arena10k.attribution.investigation import Finding, Investigation, cases, investigate, investigate_table
from arena10k.attribution.mismatch import Profile, mismatch, mismatch_sentence, profiles
from arena10k.attribution.tables import (
    anomaly_json,
    anomaly_row,
    frame,
    inversions_frame,
    mass_frame,
    parts_frame,
    rank_frame,
)
from arena10k.attribution.weights import ceiling_audit, heavy_rows, length_strata, shrinkage_paths
from arena10k.attribution.words import flip_sentence, inversions_sentence, lead, mass_sentence

__all__ = [
    "CAUSES",
    "Case",
    "Finding",
    "Investigation",
    "Profile",
    "anomaly_json",
    "anomaly_row",
    "cases",
    "ceiling_audit",
    "flip_sentence",
    "frame",
    "heavy_rows",
    "inversions_frame",
    "inversions_sentence",
    "investigate",
    "investigate_table",
    "lead",
    "length_strata",
    "mass_frame",
    "mass_sentence",
    "mismatch",
    "mismatch_sentence",
    "parts_frame",
    "profiles",
    "rank_frame",
    "shrinkage_paths",
]
