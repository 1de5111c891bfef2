"""Why a published number is wrong: exact attribution of the gap to six causes, and what may be believed instead."""

from arena10k.attribution.investigation import Investigation, investigate_table
from arena10k.attribution.weights import heavy_rows, shrinkage_paths
from arena10k.attribution.words import anomaly_json, anomaly_row, flip_sentence, mass_sentence, parts_frame

__all__ = [
    "Investigation",
    "anomaly_json",
    "anomaly_row",
    "flip_sentence",
    "heavy_rows",
    "investigate_table",
    "mass_sentence",
    "parts_frame",
    "shrinkage_paths",
]
