"""Counts of a store's records by all that a look at a run asks for, kept up by triggers with every change of a record:
to count hundreds of thousands takes long."""

from __future__ import annotations

#: What records are counted by, in terms of a row of SQL: '' where there is no code, quarantine reason or model.
_BY = {
    **{name: f"{{row}}.{name}" for name in ("job", "policy", "fingerprint", "context", "status", "draw")},
    **{name: f"COALESCE({{row}}.{name}, '')" for name in ("code", "quarantine", "model")},
    "minute": "CAST({row}.created / 60 AS INTEGER)",
}
_SUMS = {"n": "1", "attempts": "{row}.attempts"} | {
    name: f"COALESCE({{row}}.{name}, 0)" for name in ("prompt_tokens", "completion_tokens")
}
#: Exact within the minute once one of its records has been superseded.
_ENDS = {"oldest": "MIN", "newest": "MAX"}


def counted(records: str) -> str:
    """The query for the tallies of a table or selection, which counts them now."""
    columns = [f"{of} AS {name}" for name, of in _BY.items()] + [f"SUM({of}) AS {name}" for name, of in _SUMS.items()]
    columns += [f"{end}({{row}}.created) AS {name}" for name, end in _ENDS.items()]
    by = ", ".join(map(str, range(1, len(_BY) + 1)))
    return f"SELECT {', '.join(columns)} FROM {records} AS records GROUP BY {by}".format(row="records")


def _add(row: str, sign: str = "") -> str:
    values = [*_BY.values(), *(f"{sign}{of}" for of in _SUMS.values()), *["{row}.created"] * len(_ENDS)]
    changes = [f"{name} = {name} + excluded.{name}" for name in _SUMS]
    changes += [f"{name} = {end}({name}, excluded.{name})" for name, end in _ENDS.items()]
    put = f"INSERT INTO tallies VALUES ({', '.join(values)}) ON CONFLICT DO UPDATE SET {', '.join(changes)};"
    return put.format(row=row)


_COMES, _GOES = (
    _add("new"),
    _add("old", "-") + "DELETE FROM tallies WHERE n = 0 AND job = old.job AND policy = old.policy;",
)
_TRIGGERS = {"INSERT": _COMES, "DELETE": _GOES, "UPDATE": _GOES + _COMES}
_COLUMNS = ", ".join(f"{name} NOT NULL" for name in (*_BY, *_SUMS, *_ENDS))
#: The statements that have the table `tallies` kept, beginning with the records there are, and those that end it.
BEGIN = (
    f"CREATE TABLE tallies ({_COLUMNS}, PRIMARY KEY ({', '.join(_BY)})) WITHOUT ROWID",
    f"INSERT INTO tallies {counted('records')}",
    *(f"CREATE TRIGGER tally_{on} AFTER {on} ON records BEGIN {does} END" for on, does in _TRIGGERS.items()),
)
END = (*(f"DROP TRIGGER tally_{on}" for on in _TRIGGERS), "DROP TABLE tallies")
