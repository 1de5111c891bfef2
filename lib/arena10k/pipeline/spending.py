"""What is left of an experiment and what it costs at most: said, and agreed to before anything is asked."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING

import click

from arena10k import paths
from arena10k.params.config import Params
from arena10k.pipeline import stages

if TYPE_CHECKING:  # a report that is up to date loads no pandas and no client
    from arena10k.collection.costs import Bill


def check_labels(params: Params) -> None:
    """Whether the oracle can label the prompts that will be asked, as long as none was. Raises ArenaError."""
    if params.recording or params.imported or params.table or params.incident or params.oracle.kind != "exact":
        return
    if stages.stamp_file(params.run, "02_responses").is_file():
        return
    from arena10k.collection import labels
    from arena10k.inputs import prompts

    there = paths.prompts_file(params.run).is_file()
    labels.check_prompts(params, prompts.read(params.run) if there else prompts.load(params)[0])


def left(params: Params, retry_errors: bool) -> Bill:
    """The bill of what is not there yet, and with `retry_errors` of what failed. Needs the prompts, and no key."""
    from arena10k.audit import status
    from arena10k.collection import costs

    measured: Counter[tuple[str, str]] = Counter()
    for row in status.open_store(params).counts() if paths.store_file(params.run).is_file() else ():
        if row["status"] == "ok" or not retry_errors:
            measured[row["job"], row["policy"]] += row["n"]
    return costs.forecast(params, measured)


def lines(params: Params, retry_errors: bool) -> list[str]:
    """The bill in words, for whoever only wants to know."""
    if params.recording:
        return [f"{params.run} is a recording: it costs nothing."]
    if not params.is_priced:
        return [f"{params.run} is taken to cost nothing: none of its providers has `prices`."]
    bill = left(params, retry_errors)
    total = f"What is left of {params.run} costs up to ${bill.dollars:,.2f}. Nothing was asked."
    return [bill.table(), total] if bill.rows else [total]


def agreed(params: Params, retry_errors: bool) -> bool:
    """Whether the user agrees to the bill, where there is one."""
    if params.recording or not params.is_priced:
        return True
    bill = left(params, retry_errors)
    if not bill.dollars:
        return True
    click.echo(bill.table(), err=True)
    with contextlib.suppress(click.Abort):  # no terminal to answer from
        return click.confirm(f"Spend up to ${bill.dollars:,.2f}?", err=True)
    return False
