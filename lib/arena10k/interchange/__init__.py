"""Runs made of what others have: CJE's layout, JSON lines and Parquet."""

from arena10k.interchange.account import lines, origin
from arena10k.interchange.importer import import_cje, import_tables

__all__ = ["import_cje", "import_tables", "lines", "origin"]
