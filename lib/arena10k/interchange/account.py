"""What an import took and what it did not (`data/<run>/import.json`), in words."""

from __future__ import annotations

from typing import Any

from arena10k.collection.jobs import DETERMINISTIC, ORACLE, RESPONSES
from arena10k.params import imported
from arena10k.params.config import Params

#: Faults that are shown on the command line.
MOST_SHOWN = 5


def lines(account: dict[str, Any]) -> list[str]:
    """The account for the command line."""
    run, files = account["run"], account["files"]
    if not account.get("new", True):
        return [f"{run}: the same files are imported already: nothing to do"]
    responses = sum(sum(outcomes.values()) for outcomes in account["records"].get(RESPONSES, {}).values())
    out = [
        f"{run}: imported {_counted(responses, 'response')} to {_counted(account['prompts'], 'prompt')}, of "
        f"{_counted(len(account['policies']), 'policy')} ({', '.join(account['policies'].values())})"
    ]
    for file in files:
        taken = f"{file['taken']:,} of {file['rows']:,} rows taken" if file["rows"] else "is empty"
        values = f", {file['values_left_out']:,} of their values left out" if file["values_left_out"] else ""
        other = [f", {rows:,} {what}" for what, rows in file.get("beside", {}).items() if rows]
        out.append(f"  {file['file']}: {taken}{values}{''.join(other)}")
    if no_text := sum(outcomes.get("missing", 0) for outcomes in account["records"].get(RESPONSES, {}).values()):
        out.append(f"  {no_text:,} of the responses are without their text: their scores and labels are taken")
    if account["form"] == "files" and not account["records"].get(ORACLE):
        scores = "  no labels: if the scores compare with known answers, --set exact=true says so"
        none = "  no scores and no labels: name their columns with --column judge=COLUMN, --column label=COLUMN, or "
        none += "describe the file that has them in a params file"
        out.append(scores if account["records"].get(DETERMINISTIC) else none)
    logging_policy = account["params"]["logging_policy"]
    if logging_policy not in account["records"].get(RESPONSES, {}):
        out.append(f"  no row is of the logging policy {logging_policy!r}: --logging-policy NAME says another")
    apart = "their values are of different prompts"
    out += [f"  no prompt of {policy} is one of {logging_policy}: {apart}" for policy in account.get("apart", ())]
    if account["form"] == "files":
        for policy in account["policies"].values():
            own = [file["file"] for file in files if policy in file["policies"]]
            if len(own) > 1:
                out.append(f"  {policy} is that of {', '.join(own)}: several answers to a prompt are draws of it")
    if again := sum(file.get("again", 0) for file in files):
        of = f"{responses + again:,} responses of these files"
        out.append(f"  {again:,} of the {of} are in a file before too: counted once")
    out += [f"  policy {name!r} is called {plain} here" for name, plain in account["policies"].items() if name != plain]
    listed = {
        "taken for the logging policy again, the control of the log-probs": account["params"]["imported"].get("clones"),
        "not there": account["not_there"],
        "not read": account["not_read"],
    }
    for what, names in listed.items():
        if names:
            more = f" and {len(names) - 6:,} more" if len(names) > 6 else ""
            out.append(f"  {what}: {', '.join(names[:6])}{more}")
    if total := account["malformed_count"]:
        first = account["malformed"][:MOST_SHOWN]
        out.append(f"{total:,} malformed rows or values (data/{run}/import.json lists them):")
        out += [f"  {fault['file']}: {fault_words(fault)}" for fault in first]
        out += [f"  and {total - len(first):,} more"] if total > len(first) else []
    return out


def _counted(count: int, what: str) -> str:
    """`1 policy`, `2 policies`."""
    return f"{count:,} {what if count == 1 else f'{what}s'.replace('ys', 'ies')}"


def fault_words(fault: dict[str, Any]) -> str:
    """One fault in words, without its file."""
    field = f"{fault['field']}: " if fault["field"] else ""
    left_out = "value" if fault["row_taken"] else "row"
    do = f" ({fault['do']})" if fault.get("do") else ""
    return f"{fault.get('unit', 'line')} {fault['line']}: {field}{fault['fault']}: the {left_out} is left out{do}"


def origin(params: Params) -> list[str]:
    """Where a run's prompts and records come from, a line each."""
    account = imported.account(params.run) if params.imported else None
    if account is None:
        return [f"The prompts are those of {params.prompts.path or 'the built-in set'}; nothing was imported."]
    return lines(account)
