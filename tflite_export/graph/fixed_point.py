"""Fixed-point arithmetic of the integer kernels, vectorised and exact in int64.

A real multiplier is held as an int32 fraction in [2^30, 2^31) and a power of two.
Scales are float32 in the file; their products are taken in float64 unless a kernel says otherwise.
"""

from __future__ import annotations

import numpy as np

_FRACTION_BITS = 31


def quantize_multiplier(real: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Fractions and exponents: real = fraction * 2^(exponent - 31), both int64."""
    fraction, exponent = np.frexp(np.asarray(real, np.float64))
    integers = round_half_away(fraction * 2.0**_FRACTION_BITS)
    overflow = integers == 2**_FRACTION_BITS
    integers = np.where(overflow, integers // 2, integers)
    exponent = exponent.astype(np.int64) + overflow
    # Kernels treat a multiplier below 2^-31 as zero.
    tiny = exponent < -_FRACTION_BITS
    return np.where(tiny, 0, integers), np.where(tiny, 0, exponent)


def round_half_away(values: np.ndarray) -> np.ndarray:
    """Nearest int64; a half goes away from zero, as in C's `round`."""
    return (np.sign(values) * np.floor(np.abs(values) + 0.5)).astype(np.int64)


def doubling_high_multiply(values: np.ndarray, fraction: np.ndarray | int) -> np.ndarray:
    """round(values * fraction / 2^31), a half goes up; int32 operands."""
    return (values.astype(np.int64) * fraction + 2**30) >> _FRACTION_BITS


def truncated_divide(numerator: np.ndarray, denominator: np.ndarray | int) -> np.ndarray:
    """Integer division that truncates towards zero, as in C."""
    magnitude = np.abs(numerator) // denominator
    return np.where(numerator < 0, -magnitude, magnitude)


def rounding_right_shift(values: np.ndarray, shift: np.ndarray | int) -> np.ndarray:
    """round(values / 2^shift), a half goes away from zero."""
    half = (np.int64(1) << np.asarray(shift, np.int64)) >> 1
    magnitude = (np.abs(values) + half) >> shift
    return np.where(values < 0, -magnitude, magnitude)


def wrapped(values: np.ndarray) -> np.ndarray:
    """What int32 registers hold of integers that do not fit: they wrap around."""
    return ((values + 2**31) & (2**32 - 1)) - 2**31


def multiply(values: np.ndarray, real: np.ndarray | float) -> np.ndarray:
    """values * real as int8 kernels round it: twice, after the fraction and after the shift.

    Multipliers above one shift to the left first, where large values wrap around.

    Args:
        values: integers of at most 32 bits.
        real: positive multiplier(s), broadcast against `values`.
    """
    fraction, exponent = quantize_multiplier(real)
    widened = wrapped(values.astype(np.int64) << np.clip(exponent, 0, 31))
    product = doubling_high_multiply(widened, fraction)
    return rounding_right_shift(product, np.maximum(-exponent, 0))


def multiply_real(values: np.ndarray, real: np.ndarray | float) -> np.ndarray:
    """values * real in float64, rounded once, a half goes away from zero; as int32."""
    return wrapped(round_half_away(values.astype(np.float64) * real))


def multiply_wide(values: np.ndarray, real: np.ndarray | float) -> np.ndarray:
    """values * real for 48-bit accumulators: a 15-bit fraction, rounded once, a half goes up."""
    fraction, exponent = quantize_multiplier(real)
    reduced = np.where(fraction < 0x7FFF0000, (fraction + 2**15) >> 16, 0x7FFF)
    shift = np.maximum(15 - exponent, 1)
    return wrapped((values.astype(np.int64) * reduced + (np.int64(1) << (shift - 1))) >> shift)
