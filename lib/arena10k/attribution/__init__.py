"""Why a published number is wrong: exact attribution of the gap to six causes, and what may be believed instead."""

from arena10k.attribution.companions import (
    ceiling_audit,
    heavy_rows,
    length_strata,
    mass_identity,
    rank_first,
    rows_to_flip,
    shrinkage_paths,
)
from arena10k.attribution.game import CAUSES, Case, gap_parts, make_game, point_parts
from arena10k.attribution.investigation import Finding, Investigation, cases, investigate, investigate_table
from arena10k.attribution.mismatch import Profile, mismatch, mismatch_sentence, profiles
from arena10k.attribution.ranking import (
    flip_sentence,
    inversions_frame,
    inversions_sentence,
    mass_frame,
    mass_sentence,
    rank_frame,
)
from arena10k.attribution.result import anomaly_json, anomaly_row, frame, parts_frame
from arena10k.attribution.words import lead, sentence, verdict_paragraph

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
    "gap_parts",
    "heavy_rows",
    "inversions_frame",
    "inversions_sentence",
    "investigate",
    "investigate_table",
    "lead",
    "length_strata",
    "make_game",
    "mass_frame",
    "mass_identity",
    "mass_sentence",
    "mismatch",
    "mismatch_sentence",
    "parts_frame",
    "point_parts",
    "profiles",
    "rank_first",
    "rank_frame",
    "rows_to_flip",
    "sentence",
    "shrinkage_paths",
    "verdict_paragraph",
]
