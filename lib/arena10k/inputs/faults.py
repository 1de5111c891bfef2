"""What is wrong with a row, or with a value of one, and how it is told."""

from __future__ import annotations

from typing import Any


class Fault(Exception):
    """What is wrong with a row (`field` empty) or with one of its fields, and what to write instead. Raised where the
    row cannot be taken; in the place of a value, with the code of its record, where the row can be taken without it."""

    def __init__(self, field: str, what: str, code: str = "malformed", do: str = ""):
        super().__init__(f"{field}: {what}" if field else what)
        self.field, self.what, self.code, self.do = field, what, code, do


def shown(value: Any) -> str:
    """A value of a file in a message: short, whatever it is."""
    if isinstance(value, str):
        return repr(value[:60])
    if isinstance(value, dict | list | tuple | bytes):
        return {dict: "an object", bytes: "bytes"}.get(type(value), "a list")
    return "a huge number" if isinstance(value, int) and value.bit_length() >= 200 else repr(value)[:60]


def text(field: str, value: Any) -> str:
    """A text that can be stored."""
    if value is None:
        raise Fault(field, "is missing")
    if not isinstance(value, str):
        raise Fault(field, f"{shown(value)} is not a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        what = f"is not Unicode text at character {error.start + 1}"
        raise Fault(field, what, do="save the file as UTF-8") from error
    return value


def text_or_none(field: str, value: Any) -> str | None:
    return None if value is None else text(field, value)
