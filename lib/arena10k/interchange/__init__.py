"""Runs made of what others have: tables with named columns, logs of the tools people use, CJE's layout."""

from arena10k.interchange.account import lines, origin
from arena10k.interchange.importer import import_cje, import_tables

__all__ = ["import_cje", "import_tables", "lines", "origin"]
