"""Fixed-point arithmetic against exact rational arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tflite_export.graph import fixed_point

ACCUMULATORS = st.integers(-(2**31) + 1, 2**31 - 1)
REALS = st.floats(2.0**-20, 0.999, exclude_min=True)


@given(real=st.floats(1e-9, 1e6))
def test_multiplier_is_within_half_a_unit_of_its_31_bits(real):
    fraction, exponent = fixed_point.quantize_multiplier(real)
    assert 2**30 <= fraction <= 2**31 - 1
    stored = Fraction(int(fraction)) * Fraction(2) ** (int(exponent) - 31)
    assert abs(stored - Fraction(real)) <= Fraction(2) ** (int(exponent) - 32)


@pytest.mark.parametrize(
    ("value", "nearest"),
    [(0.5, 1), (-0.5, -1), (1.5, 2), (2.5, 3), (-2.5, -3), (2.4999, 2), (0, 0)],
)
def test_a_half_rounds_away_from_zero(value, nearest):
    assert int(fixed_point.round_half_away(np.array(value))) == nearest


@given(value=ACCUMULATORS, fraction=st.integers(-(2**31), 2**31 - 1))
def test_high_products_round_a_half_up(value, fraction):
    found = int(fixed_point.doubling_high_multiply(np.array(value), fraction))
    assert found == (Fraction(value * fraction, 2**31) + Fraction(1, 2)).__floor__()


@given(value=ACCUMULATORS, real=st.floats(1.0, 2.0**20))
def test_multipliers_above_one_wrap_around_where_int32_ends(value, real):
    fraction, exponent = fixed_point.quantize_multiplier(real)
    found = int(fixed_point.multiply(np.array(value), real))
    shifted = (value << int(exponent)) % 2**32
    shifted -= 2**32 * (shifted >= 2**31)
    exact = Fraction(shifted * int(fraction), 2**31)
    assert found == (exact + Fraction(1, 2)).__floor__()
    if abs(value) << int(exponent) < 2**31:
        assert abs(found - value * real) <= 0.5 + abs(value * real) * 2.0**-31


def product(value: int, real: float) -> Fraction:
    """Exact, with the multiplier as kernels hold it."""
    fraction, exponent = fixed_point.quantize_multiplier(real)
    return Fraction(value) * int(fraction) * Fraction(2) ** (int(exponent) - 31)


@given(value=st.integers(-(2**47), 2**47 - 1), real=st.floats(2.0**-31, 2.0**-17))
def test_real_products_are_rounded_once_by_c_s_round(value, real):
    found = int(fixed_point.multiply_real(np.array(value), real))
    exact = Fraction(value * real)
    magnitude = (abs(exact) + Fraction(1, 2)).__floor__()
    assert found == (magnitude if exact >= 0 else -magnitude)


def test_tiny_multipliers_are_zero():
    assert int(fixed_point.multiply(np.array(2**31 - 1), 2.0**-33)) == 0


def test_multipliers_that_round_up_to_a_power_of_two_are_normalized():
    fraction, exponent = fixed_point.quantize_multiplier(1.0 - 2.0**-40)
    assert (int(fraction), int(exponent)) == (2**30, 1)


def test_a_power_of_two_is_exact():
    assert [int(part) for part in fixed_point.quantize_multiplier(0.5)] == [2**30, 0]


@given(value=ACCUMULATORS, real=REALS)
def test_rounding_twice_is_never_further_than_one_from_the_exact_product(value, real):
    found = int(fixed_point.multiply(np.array(value), real))
    exact = product(value, real)
    assert abs(found - exact) < Fraction(101, 100)


@given(value=st.integers(-(2**47), 2**47 - 1), real=st.floats(2.0**-30, 2.0**-16))
def test_wide_products_lose_only_the_fraction_bits(value, real):
    found = int(fixed_point.multiply_wide(np.array(value), real))
    assert abs(found - value * real) <= 0.5 + abs(value * real) * 2.0**-14


@given(value=st.integers(-(2**40), 2**40), shift=st.integers(0, 30))
def test_right_shift_rounds_a_half_away_from_zero(value, shift):
    found = int(fixed_point.rounding_right_shift(np.array(value), shift))
    magnitude = (Fraction(abs(value), 2**shift) + Fraction(1, 2)).__floor__()
    assert found == (magnitude if value >= 0 else -magnitude)


@given(numerator=st.integers(-(2**40), 2**40), denominator=st.integers(1, 2**20))
def test_division_truncates_towards_zero(numerator, denominator):
    found = int(fixed_point.truncated_divide(np.array(numerator), denominator))
    assert found == int(Fraction(numerator, denominator))
