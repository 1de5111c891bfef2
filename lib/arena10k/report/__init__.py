"""What a reader sees: tables, figures and sentences in notebooks, pages made from them, and the result files.

>>> from arena10k import report
>>> report.format_number(0.12345), report.format_number(1234), report.format_number(None)
('0.123', '1,234', '—')
"""

from arena10k.report.display import Drawn, Folded, Table, say, table, text_table
from arena10k.report.files import write_json
from arena10k.report.overview import LABELS, Listed, index, labelled
from arena10k.report.page import render
from arena10k.report.summary import asked, breakdown_sentence, controls, differences, headline, missing
from arena10k.wording import VERDICTS, format_number, format_value, visible

__all__ = [
    "LABELS", "VERDICTS", "Drawn", "Folded", "Listed", "Table", "asked", "breakdown_sentence", "controls",
    "differences", "format_number", "format_value", "headline", "index", "labelled", "missing", "render", "say",
    "table", "text_table", "visible", "write_json",
]  # fmt: skip
