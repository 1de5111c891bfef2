"""Numbers within sentences: read back they are what was measured, and nobody has to know what e+01 is."""

from __future__ import annotations

import math
import re

import pytest

from arena10k.wording import factor, number

SCALES = {"million": 1e6, "billion": 1e9, "trillion": 1e12}


def read(text):
    digits, *word = text.split(" ")
    return float(digits.replace(",", "")) * (SCALES[word[0]] if word else 1)


@pytest.mark.parametrize("exponent", range(-6, 15))
@pytest.mark.parametrize("digits", [1.0, 1.2345, 5.4962, 9.9951, -3.3333])
def test_a_number_is_said_in_plain_digits_and_is_the_number(digits, exponent):
    x = digits * 10.0**exponent
    told = number(x)
    assert re.fullmatch(r"-?\d[\d,]*(\.\d*[1-9])?( \w+illion)?", told)
    assert read(told) == pytest.approx(x, rel=0.006)


@pytest.mark.parametrize(
    ("x", "told"),
    [
        (0.0, "0"),
        (54.962281, "55"),
        (999_960_000, "1 billion"),
        (4.006647, "4.01"),
        (0.00429, "0.00429"),
        (12345.6, "12,346"),
        (1e-13, "under 0.000001"),
        (-1e-13, "under 0.000001"),
        (1e300, "over 1,000 trillion"),
        (math.inf, "over 1,000 trillion"),
        (math.nan, "unknown"),
    ],
)
def test_what_is_too_small_or_too_large_to_say_is_said_so(x, told):
    assert number(x) == told


@pytest.mark.parametrize(
    ("nats", "told"),
    [
        (4.006647, "a factor of 55"),
        (-4.006647, "a factor of 55"),
        (3e-5, "0.003%"),
        (0.1, "10.5%"),
        (0.0, "0%"),
        (900.0, "a factor of over 1,000 trillion"),
    ],
)
def test_nats_are_said_as_what_they_do_to_a_weight(nats, told):
    assert factor(nats) == told


@pytest.mark.parametrize(("x", "told"), [(1.28, "1.28"), (1.004, "1.004"), (0.99996, "0.99996"), (1.0, "1")])
def test_a_number_near_another_is_told_apart_from_it(x, told):
    assert number(x, apart_from=1.0) == told
