"""A run at first sight."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from arena10k import report
from arena10k.collection import generate
from arena10k.errors import ArenaError
from arena10k.explore.view import View
from arena10k.inputs.policies import Policy


class Overview(View):
    """What a run has, which policies it is about, and what can be asked; a run without data says so."""

    def __init__(self, told: str, coverage: Callable[[], str], policies: Mapping[str, Policy]):
        try:
            found = coverage()
        except ArenaError as error:
            found = str(error)
        first, *more = told.splitlines()
        table = [report.table(generate.definitions(policies))] if policies else []
        super().__init__([first, found], *table, *(line.strip() for line in more))
