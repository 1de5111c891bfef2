"""Numbers within sentences and tables: read back they are what was measured, and nobody has to know what e+01 is."""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
import pytest

from arena10k.wording import factor, format_number, format_value, listed, number, percent

SCALES = {"": 1.0, "million": 1e6, "billion": 1e9, "trillion": 1e12}


@pytest.mark.parametrize("exponent", range(-6, 15))
def test_a_number_is_said_in_plain_digits_and_is_the_number(exponent):
    for digits in (1.0, 1.2345, 5.4962, 9.9951, -3.3333):
        text = number(digits * 10.0**exponent)
        assert re.fullmatch(r"-?\d[\d,]*(\.\d*[1-9])?( \w+illion)?", text)
        plain, _, scale = text.partition(" ")
        assert float(plain.replace(",", "")) * SCALES[scale] == pytest.approx(digits * 10.0**exponent, rel=0.006)


WRITTEN = {
    number: {
        0.0: "0", 54.962281: "55", 999_960_000: "1 billion", 4.006647: "4.01", 0.00429: "0.00429", 12345.6: "12,346",
        1e-13: "under 0.000001", -1e-13: "under 0.000001", 1e300: "over 1,000 trillion",
        math.inf: "over 1,000 trillion", math.nan: "unknown",
    },
    # Nats, as what they do to a weight.
    factor: {
        4.006647: "a factor of 55", -4.006647: "a factor of 55", 3e-5: "0.003%", 0.1: "10.5%", 0.0: "0%",
        900.0: "a factor of over 1,000 trillion",
    },
    percent: {0.0: "0%", 1.0: "100%", 1e-4: "under 0.1%", 0.9996: "over 99.9%", 0.05: "5%", 0.978: "97.8%", 0.5: "50%"},
    # Beside 1.
    lambda x: number(x, apart_from=1.0): {1.28: "1.28", 1.004: "1.004", 0.99996: "0.99996", 1.0: "1"},
    format_number: {
        None: "—", math.nan: "—", pd.NA: "—", 0: "0", 1234567: "1,234,567", np.int64(-1200): "-1,200",
        0.12345: "0.123", -0.5: "-0.500", 1824.25: "1,824.2", 4.2e-7: "4.2e-07", 3e12: "3.0e+12", np.inf: "∞",
    },
    format_value: {True: "yes", 0.0: "0.000", (0.25, None): "0.250, —", (): "—", "a\x00": "a[U+0000]"},
    lambda n: listed(list("abcdefghijklm")[:n], most=4): {0: "", 1: "a", 4: "a, b, c and d", 5: "a, b, c and 2 others"},
}  # fmt: skip


@pytest.mark.parametrize(("write", "x", "text"), [(f, x, text) for f, of in WRITTEN.items() for x, text in of.items()])
def test_what_is_written_for_readers(write, x, text):
    assert write(x) == text


def test_a_mapping_is_written_as_its_names_and_values():
    assert format_value({"a": 1, "b": None}) == "a 1, b —"
