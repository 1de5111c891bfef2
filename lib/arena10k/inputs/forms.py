"""What a file is by its first bytes, against what its name says."""

from __future__ import annotations

import re

LINES, CSV, ZIP, PARQUET = ("jsonl", "ndjson"), {"csv": ",", "tsv": "\t"}, ("zip", "eval"), "parquet"
ENDINGS = (*LINES, "json", *CSV, PARQUET, *ZIP)
_EXCEL = (rb"PK.{28}(\[Content_Types|_rels/|docProps/|xl/)|\xd0\xcf\x11\xe0", "an Excel workbook", (),
          "save its sheet as CSV, in UTF-8")  # fmt: skip
#: By how it begins what a file is, the endings that such a file may have, and what to do where it has another.
_LOOKS = [
    (rb"PAR1(?![\w ,;|])", "Parquet", (PARQUET,), "rename it to end in .parquet"),
    _EXCEL,
    (rb"PK(\x03\x04|\x05\x06|\x07\x08)", "a zip file", ZIP, "rename it to end in .eval or .zip, or unpack it"),
    (rb"\s*<[!?A-Za-z]", "HTML or XML", (), "it may have come in the place of the file: download that"),
    (rb"\s*\[\s*[{\]]", "a JSON array", ("json",), "rename it to end in .json"),
    (rb'\s*\{\s*["}]', "JSON", (*LINES, "json"), "rename it to end in .jsonl, or in .json if it is one object"),
    (rb'"?[A-Za-z_][\w .-]*"?([,;\t|]"?[A-Za-z_][\w .-]*"?)+\r?\n', "CSV", tuple(CSV),
     "rename it to end in .csv (.tsv with tabs)"),
]  # fmt: skip


def fault(ending: str, start: bytes) -> str:
    """Why a file that begins so cannot be read as its name's ending says, and what to do; empty where it may be."""
    own = next((look for look in _LOOKS if re.match(look[0], start, re.DOTALL)), None)
    own = _EXCEL if ending in ("xlsx", "xls") else own
    if own and ending not in own[2]:
        return f"looks like {own[1]}, and its name ends in {f'.{ending}' if ending else 'nothing'}: {own[3]}"
    if ending not in ENDINGS:
        return f"ends in none of {', '.join(ENDINGS)} (or these and .gz): rename it"
    if not own and ending in (PARQUET, *ZIP):
        return f"{f'does not begin as .{ending} files do' if start else 'is empty'}: get it again"
    return ""
